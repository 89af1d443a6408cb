"""ONNX files compute what the model computes, the page about them works as it stands, and a wrong file is refused."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import aga_model.conversion
from aga_model import AgaConfig, AgaModel, AgaProcessor
from aga_model.cli.main import app
from aga_model.search import PersonEncoder

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from aga_model.conversion import onnx_export

pytestmark = pytest.mark.timeout(1800)  # exporting traces a whole model, however busy the machine is

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
SENTENCES = ["a woman in a red coat", "a man", "a young man wearing a navy blue jacket and white sneakers " * 12]


def _photographs(count):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (70 + 9 * n, 40, 3), dtype=np.uint8)) for n in range(count)]


def _code_blocks(needle):
    """The Python of the page that holds `needle`."""
    return next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if needle in block)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in which the page's export command has been run."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "checkpoints").symlink_to(REPOSITORY / "checkpoints")
    _photographs(1)[0].save(folder / "someone.jpg")
    (command,) = re.findall(r"^aga (export .*)$", PAGE, re.MULTILINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.output
    assert re.search(r"largest difference from PyTorch \d\.\de-0[678], tolerance 1e-05", result.output)
    return folder


def test_the_pages_program_gives_the_models_embeddings(desk, monkeypatch):
    """Without this package: onnxruntime, tokenizers, NumPy and PIL beside PersonEncoder."""
    monkeypatch.chdir(desk)
    page: dict = {}
    exec(_code_blocks("import onnxruntime"), page)
    encoder, images = PersonEncoder.from_pretrained("checkpoints/aga-small-rendered", device="cpu"), _photographs(3)
    with pytest.warns(UserWarning, match="tokens long"):
        texts = encoder.encode_texts(SENTENCES)
    np.testing.assert_allclose(page["encode_texts"](SENTENCES), texts, atol=1e-5)
    np.testing.assert_allclose(page["encode_texts"](SENTENCES[:1]), texts[:1], atol=1e-5)
    np.testing.assert_allclose(page["encode_images"](images), encoder.encode_images(images), atol=1e-5)
    assert page["scores"].shape == (2, 1)
    assert page["info"]["model_hash"] == encoder.model_hash


def test_int8_is_close_and_smaller(desk):
    encoder = PersonEncoder.from_pretrained(REPOSITORY / "checkpoints" / "aga-small-rendered", device="cpu")
    inputs = encoder.processor(text=SENTENCES[:2], return_tensors="np")
    session = onnx_export.open_session(desk / "onnx" / "text.int8.onnx")
    (found,) = session.run(None, {"input_ids": inputs["input_ids"]})
    cosines = (found * encoder.encode_texts(SENTENCES[:2])).sum(axis=1)
    assert cosines.min() > 0.99 and cosines.max() < 1 - 1e-6  # rounded, but not to something else
    for name in ("vision", "text"):
        sizes = [(desk / "onnx" / f"{name}{kind}.onnx").stat().st_size for kind in ("", ".int8")]
        assert sizes[1] < 0.6 * sizes[0]


def test_bert_family(tmp_path, make_sections, tokenizer):
    """Towers of other widths than the joint space, and sentences of different lengths in one batch."""
    torch.manual_seed(0)
    config = AgaConfig(**make_sections("bert"))
    model, processor = AgaModel(config).eval(), AgaProcessor.for_config(config, tokenizer)
    for parameter in model.parameters():  # so that a token more or less shows
        torch.nn.init.normal_(parameter, std=0.3)
    report = onnx_export.export_onnx(model, processor, tmp_path, "0" * 64, int8=True)
    assert report.text.largest_difference < 1e-5 and report.text.int8_cosine > 0.95
    info = json.loads((tmp_path / "export.json").read_text())
    assert info["text"]["inputs"] == ["input_ids", "attention_mask"] and info["text"]["max_tokens"] == 40
    encoder = PersonEncoder(model, processor, "tiny", device="cpu")
    inputs = processor(text=SENTENCES[:2], return_tensors="np")
    assert inputs["attention_mask"].min() == 0
    (texts,) = onnx_export.open_session(tmp_path / "text.onnx").run(None, dict(inputs))
    np.testing.assert_allclose(texts, encoder.encode_texts(SENTENCES[:2]), atol=1e-5)
    pixels = encoder.preprocess(_photographs(2)).numpy()
    (images,) = onnx_export.open_session(tmp_path / "vision.onnx").run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(images, encoder.encode_images(_photographs(2)), atol=1e-5)


def test_overlapping_patches_that_leave_pixels_over(tmp_path, make_sections, tokenizer):
    sections = make_sections("clip")
    sections["vision_config"] |= {"image_size": [45, 26], "stride": 6}
    torch.manual_seed(0)
    config = AgaConfig(**sections)
    model, processor = AgaModel(config).eval(), AgaProcessor.for_config(config, tokenizer)
    onnx_export.export_onnx(model, processor, tmp_path / "onnx", "0" * 64)
    encoder = PersonEncoder(model, processor, "tiny", device="cpu")
    pixels = encoder.preprocess(_photographs(3)).numpy()
    (found,) = onnx_export.open_session(tmp_path / "onnx" / "vision.onnx").run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(found, encoder.encode_images(_photographs(3)), atol=1e-5)


def _other_weights():
    folder = REPOSITORY / "checkpoints" / "aga-small-rendered"
    torch.manual_seed(0)
    return AgaModel(AgaConfig.from_pretrained(folder)).eval(), AgaProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("copied", "message"),
    [
        ("vision.onnx", r"vision\.onnx: embeddings differ by .* more than 1e-05"),
        ("text.onnx", r"vision\.onnx does not take pixel_values \(1, 3, 96, 48\)"),
    ],
)
def test_a_graph_that_computes_something_else_is_refused(desk, tmp_path, monkeypatch, copied, message):
    model, processor = _other_weights()
    monkeypatch.setattr(
        onnx_export, "_export", lambda encoder, output, example, path: shutil.copy(desk / "onnx" / copied, path)
    )
    with pytest.raises(onnx_export.ExportError, match=message):
        onnx_export.export_onnx(model, processor, tmp_path / "onnx", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_embeddings_that_are_no_numbers_are_refused(desk, tmp_path, monkeypatch):
    """Whichever of the batches they are in."""
    model, processor = _other_weights()
    monkeypatch.setattr(onnx_export, "_export", lambda encoder, output, example, path: None)
    wrong = iter([0, 0, np.nan])

    def embed(path, batches):
        wanted = onnx_export.ImageEncoder(model).eval()
        return [wanted(**batch).detach().numpy() + next(wrong) for batch in batches]

    monkeypatch.setattr(onnx_export, "_embed", embed)
    with pytest.raises(onnx_export.ExportError, match="differ by nan"):
        onnx_export.export_onnx(model, processor, tmp_path / "onnx", "0" * 64)


@pytest.mark.parametrize("difference", [4e-6, 4e-4])
@pytest.mark.parametrize("cosine", [0.97, 0.6])
def test_the_worst_row_of_the_worst_batch_decides(tmp_path, monkeypatch, difference, cosine):
    """Of batches of 1, 3 and 2 rows one of three is further from PyTorch's, and another one in int8."""
    monkeypatch.setattr(onnx_export, "_export", lambda encoder, output, example, path: path.write_bytes(b"12345"))
    monkeypatch.setattr(onnx_export, "_quantise", lambda source, target: target.write_bytes(b"12"))
    batches = [{"input": torch.eye(3)[:rows]} for rows in (1, 3, 2)]

    def embed(path, given):
        found = [batch["input"].numpy().copy() for batch in given]
        if path.name == "x.onnx":
            found[1][1, 2] -= difference
        else:
            found[1][2] *= cosine
        return found

    monkeypatch.setattr(onnx_export, "_embed", embed)
    paths = [tmp_path / "x.onnx", tmp_path / "x.int8.onnx"]
    if difference > 1e-5 or cosine < 0.95:
        named = r"x\.onnx: embeddings differ by 4.0e-04" if difference > 1e-5 else r"x\.int8\.onnx: .* cosine 0.600"
        with pytest.raises(onnx_export.ExportError, match=named):
            onnx_export._export_encoder(torch.nn.Identity(), "embeds", batches, paths)
    else:
        report = onnx_export._export_encoder(torch.nn.Identity(), "embeds", batches, paths)
        assert report.files == {"x.onnx": 5, "x.int8.onnx": 2}
        assert (report.largest_difference, report.int8_cosine) == pytest.approx((difference, cosine))


def test_int8_that_is_too_coarse_is_refused(desk, tmp_path, monkeypatch):
    model = AgaModel.from_pretrained(REPOSITORY / "checkpoints" / "aga-small-rendered").eval()
    _, processor = _other_weights()
    monkeypatch.setattr(
        onnx_export, "_export", lambda encoder, output, example, path: shutil.copy(desk / "onnx" / path.name, path)
    )
    monkeypatch.setattr(onnx_export, "INT8_COSINE", 0.99999)
    with pytest.raises(onnx_export.ExportError, match=r"vision\.int8\.onnx: .* export it without --int8"):
        onnx_export.export_onnx(model, processor, tmp_path / "onnx", "0" * 64, int8=True)
    assert not list(tmp_path.iterdir())


def _fails(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_errors_are_one_line(tmp_path, monkeypatch):
    model = REPOSITORY / "checkpoints" / "aga-small-rendered"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    assert "is not empty" in _fails(model, "--out", tmp_path / "full")
    assert "holds no config.json" in _fails(tmp_path, "--out", tmp_path / "new")

    class Another(torch.nn.Module):
        model = torch.nn.Identity()

    monkeypatch.setattr(PersonEncoder, "from_pretrained", lambda *arguments, **options: Another())
    assert "is a Identity, no model of this package" in _fails(model, "--out", tmp_path / "new")
    monkeypatch.delitem(sys.modules, "aga_model.conversion.onnx_export")
    for name in ("TOLERANCE", "export_onnx"):
        monkeypatch.delitem(vars(aga_model.conversion), name, raising=False)  # what the room has kept of it
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'aga-model[export]'" in _fails(model, "--out", tmp_path / "new")
