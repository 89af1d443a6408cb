"""What commands tell besides their result: on which stream, in how many lines, and how they end."""

import pytest
import typer
from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.cli.messages import extra_of, fail, note

LOCATION, SHOWN = "milvus://anna:secret@host:19530/people", "milvus://anna:***@host:19530/people"


@pytest.mark.parametrize(
    ("module", "extra"),
    [("pyarrow.parquet", "search"), ("lancedb", "search"), ("cv2", "search"), ("gradio.routes", "demo"),
     ("pymilvus.orm", "milvus"), ("onnxruntime", "export"), ("yaml", "train"), ("numpy", None), ("", None),
     (None, None)],
)  # fmt: skip
def test_a_module_is_named_with_its_extra(module, extra, capsys):
    error = ModuleNotFoundError("No module named it", name=module)
    assert extra_of(error) == extra
    with pytest.raises(typer.Exit):
        fail(error)
    wanted = "No module named it" if extra is None else f"this needs {module}: pip install 'aga-model[{extra}]'"
    assert capsys.readouterr().err == f"error: {wanted}\n"


def test_advice_is_given_once(capsys):
    with pytest.raises(typer.Exit):
        fail(ModuleNotFoundError("the demo needs Gradio: pip install 'aga-model[demo]'", name="gradio"))
    assert capsys.readouterr().err == "error: the demo needs Gradio: pip install 'aga-model[demo]'\n"


def test_errors_and_notes_are_one_line_beside_the_result(capsys):
    text = f"no such\nfile \x1b[31mStra\udcdfe {LOCATION}"
    wanted = f"no such\ufffdfile \ufffd[31mStra\ufffde {SHOWN}\n"
    note(text)
    assert capsys.readouterr() == ("", f"note: {wanted}")
    with pytest.raises(typer.Exit) as ended:
        fail(text)
    assert capsys.readouterr() == ("", f"error: {wanted}") and ended.value.exit_code == 2


@pytest.mark.parametrize("module", ["lancedb", "aga_model.nothing"])
def test_a_command_without_a_library_ends_with_two_and_a_fault_with_its_traceback(module, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("aga_model.cli.datasets.render.render_dataset", missing)
    result = CliRunner().invoke(app, ["render", str(tmp_path / "out"), "--identities", "4", "--seed", "0"])
    if module == "lancedb":
        assert result.exit_code == 2 and "pip install 'aga-model[search]'" in result.stderr
    else:
        assert isinstance(result.exception, ModuleNotFoundError) and "error:" not in result.output
