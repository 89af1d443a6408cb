"""What keeps a file from being published, file by file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from aga_model.training import Release, ReleaseError, read_release
from aga_model.training.release.contents import (
    _code_files,
    _require_loadable,
    _require_nothing_private,
    _require_own_files,
    _weight_files,
)

TOKEN = "hf_" + "aB3" * 11 + "x"  # 34 characters behind the underscore, as the Hub gives them
TEXTS = ["config.json", "modeling_aga.py", "tokenizer.json", "vocab.json", "merges.txt", "README.md", "LICENSE"]


def _check(folder, name, *secrets):
    _require_nothing_private(Release(folder, (name,), (folder / name).read_text(errors="replace")), secrets)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("line", "secrets"), [(f"x = '{TOKEN}'", ()), ("x = 'between others'", ("between",))])
def test_secrets_are_found_within_the_lines_of_every_kind_of_file(tmp_path, name, line, secrets):
    (tmp_path / name).write_text(f"first\n{line}\n")
    with pytest.raises(ReleaseError, match="line 2 holds a Hugging Face token"):
        _check(tmp_path, name, *secrets)
    (tmp_path / name).write_text("first\nx = 'nothing'\n")
    _check(tmp_path, name, *secrets)


@pytest.mark.parametrize("metadata", [{"note": TOKEN}, {"from": "/home/somebody/data"}, {TOKEN: "1"}])
def test_the_metadata_of_weights_is_searched(tmp_path, metadata):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(ReleaseError, match=r"of the metadata (holds a Hugging Face token|names a path)"):
        _check(tmp_path, "model.safetensors")
    save_file({f"{TOKEN}.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ReleaseError, match="holds a Hugging Face token"):
        _check(tmp_path, "model.safetensors")


@pytest.mark.parametrize("written", ["\\/home\\/somebody\\/data", "\\u002fhome\\u002fsomebody"])
def test_a_path_that_json_has_escaped_is_found(tmp_path, written):
    (tmp_path / "config.json").write_text(f'{{"data": "{written}"}}')
    with pytest.raises(ReleaseError, match="line 1 names a path of a machine"):
        _check(tmp_path, "config.json")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "below/it.safetensors", "notes.txt", "gone.safetensors"])
def test_an_index_names_weights_beside_it_alone(tmp_path, shard):
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    for path in (tmp_path / "secret.safetensors", folder / "below" / "it.safetensors", folder / "notes.txt"):
        path.touch()
    (folder / "good.safetensors").touch()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "good.safetensors", "b": shard}}))
    with pytest.raises(ReleaseError, match="which is no safetensors file beside it"):
        _weight_files(folder)
    index.write_text(json.dumps({"weight_map": {"a": "good.safetensors"}}))
    assert _weight_files(folder) == ["model.safetensors.index.json", "good.safetensors"]


def test_modules_are_followed_to_what_they_import(tmp_path):
    """From the module that the configuration names over one to the next, and round in a circle."""
    classes = {"AutoConfig": "Config", "AutoModel": "A", "AutoModelForPreTraining": "B"}
    names = {key: f"first.{name}" for key, name in (classes | {"AgaForImageTextRetrieval": "C"}).items()}
    (tmp_path / "processor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "first.P"}}))
    code = "\n".join(f"class {name}: pass" for name in ("Config", "A", "B", "C", "P"))
    (tmp_path / "first.py").write_text(f"from .second import x\nimport torch\n{code}")
    (tmp_path / "second.py").write_text("def late():\n    from .third import y\n")
    (tmp_path / "third.py").write_text("from .first import A\n")
    (tmp_path / "fourth.py").write_text("")
    assert _code_files(tmp_path, {"auto_map": names}) == ["first.py", "second.py", "third.py"]


def test_a_link_is_no_file_of_a_release(tmp_path):
    (tmp_path / "elsewhere").write_text("somebody's")
    (tmp_path / "NOTICE").write_text("mine")
    (tmp_path / "LICENSE").symlink_to(tmp_path / "elsewhere")
    _require_own_files(Release(tmp_path, ("NOTICE",), ""))
    with pytest.raises(ReleaseError, match="LICENSE is a symbolic link"):
        _require_own_files(Release(tmp_path, ("LICENSE", "NOTICE"), ""))


def test_an_error_that_quotes_a_setting_hides_the_secret_in_it(tmp_path):
    for secret, known in ((TOKEN, ()), ("of no known kind", ("of no known kind",))):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": secret}))
        with pytest.raises(ReleaseError, match=r"model_type is '\*\*\*'") as caught:
            read_release(tmp_path, known)
        assert secret not in str(caught.value)


@pytest.fixture
def loadable(make_model, processor, tmp_path):
    """A model with its processor, and its configuration; the check passes."""
    make_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    _require_loadable(tmp_path, values)
    return tmp_path, values


@pytest.mark.parametrize(
    ("fault", "named"),
    [("one NaN", "is not finite"), ("missing", "1 weights are missing"), ("one more", "no place for 1 weights")],
)
def test_weights_are_all_there_finite_and_no_others(loadable, fault, named):
    folder, values = loadable
    weights = load_file(folder / "model.safetensors")
    name = "aga.text_projection.weight"
    if fault == "one NaN":
        weights[name][0, 0] = float("nan")
    elif fault == "missing":
        del weights[name]
    else:
        weights["aga.another.weight"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReleaseError, match=named):
        _require_loadable(folder, values)


def test_a_processor_of_lying_persons_is_refused(loadable):
    folder, values = loadable
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    assert settings["image_processor"]["size"] == {"height": 32, "width": 16}
    settings["image_processor"]["size"] = {"height": 16, "width": 32}
    path.write_text(json.dumps(settings))
    with pytest.raises(ReleaseError, match="makes images of 16x32 pixels, the model takes 32x16"):
        _require_loadable(folder, values)
