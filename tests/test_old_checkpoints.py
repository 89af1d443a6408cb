"""Checkpoints of every released version load in today's code and give what they gave then."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_package import MODEL_ROOM

from aga_model import AgaForImageTextRetrieval, AgaForPreTraining, losses, modeling_aga
from aga_model.training import momentum
from aga_model.training.momentum import MomentumModel

SCRIPT = Path(__file__).parent / "fixtures" / "make_checkpoint.py"
CHECKPOINTS = sorted((SCRIPT.parent / "checkpoints").glob("*/*/"))


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(SCRIPT))


def test_there_is_a_fixture_of_both_families():
    assert {"0.1.0/bert", "0.1.0/clip"} <= {str(Path(*path.parts[-2:])) for path in CHECKPOINTS}


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_checkpoint_gives_what_it_gave(maker, folder):
    expected = json.loads((folder / "expected.json").read_text())
    found = maker["outputs"](folder)
    assert found.keys() == expected.keys() and found["input_ids"] == expected.pop("input_ids")
    for name, values in expected.items():
        wanted = torch.tensor(values)
        assert wanted.std() > 1e-2, f"{name} cannot tell a good checkpoint from a bad one"
        torch.testing.assert_close(torch.tensor(found[name]), wanted, atol=1e-5, rtol=1e-5, msg=name)


def test_the_fixture_of_a_version_is_made_once(maker, tmp_path):
    with pytest.raises(FileExistsError, match="never changed"):
        maker["make"](tmp_path)


# As `outputs` of fixtures/make_checkpoint.py, where there is no package: FOLDER, and the file to write.
REMOTE = """
import json, sys
import torch
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import importlib.util
assert importlib.util.find_spec("aga_model") is None
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

folder, trusted = sys.argv[1], {"trust_remote_code": True}
inputs = torch.load(sys.argv[2])
trained = AutoModelForPreTraining.from_pretrained(folder, **trusted).eval()
encoder = AutoModel.from_pretrained(folder, **trusted).eval()
matcher_class = get_class_from_dynamic_module("modeling_aga.AgaForImageTextRetrieval", folder)
matcher = matcher_class.from_pretrained(folder, **trusted).eval()
with torch.no_grad():
    patches = trained.aga.fusion_image_states(trained.aga.get_image_features(inputs["pixel_values"]))
    positions = torch.full((2, 1), 2)
    words = trained.mlm_logits(inputs["input_ids"], patches, positions, inputs["attention_mask"])
    found = {
        "image_embeds": encoder.get_image_features(inputs["pixel_values"]).pooler_output,
        "text_embeds": encoder.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output,
        "itm_logits": matcher(**inputs).logits,
        "mlm_logits": words[:, 0, :8],
    }
encoder.save_pretrained(sys.argv[3])  # the dual encoder's folder names the other classes, too
print(json.dumps({name: values.tolist() for name, values in found.items()}))
"""


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_an_old_configuration_beside_the_code_of_today(maker, folder, tmp_path):
    """It names classes where they were, and no heads; it loads as remote code all the same."""
    mixed, again = tmp_path / "mixed", tmp_path / "again"
    shutil.copytree(folder, mixed)
    named = json.loads((mixed / "config.json").read_text())
    assert named["auto_map"]["AutoModelForPreTraining"] == "modeling_aga.AgaForPreTraining"
    assert "has_itm_head" not in named
    for name in MODEL_ROOM:
        shutil.copy(Path(modeling_aga.__file__).with_name(f"{name}.py"), mixed)
    processor = maker["AutoProcessor"].from_pretrained(folder)
    inputs = processor(text=maker["CAPTIONS"], images=maker["images"](), return_tensors="pt")
    torch.save(dict(inputs), tmp_path / "inputs.pt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    arguments = map(str, (mixed, tmp_path / "inputs.pt", again))
    run = subprocess.run(
        [sys.executable, "-c", REMOTE, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    expected = json.loads((folder / "expected.json").read_text())
    for name, values in json.loads(run.stdout.splitlines()[-1]).items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(expected[name]), atol=1e-5, rtol=1e-5, msg=name)
    saved = json.loads((again / "config.json").read_text())
    assert saved["has_itm_head"] and saved["has_mlm_head"]
    for place in saved["auto_map"].values():
        assert (again / f"{place.split('.')[0]}.py").is_file()


@pytest.mark.parametrize("model_class", [AgaForPreTraining, AgaForImageTextRetrieval])
def test_classes_are_still_found_where_they_were(model_class):
    for name in (model_class.__name__, f"{model_class.__name__}Output"):
        with pytest.warns(DeprecationWarning, match=rf"{name} has moved to aga_model\.\w+_aga"):
            found = getattr(modeling_aga, name)
        assert found.__name__ == name and found.__module__ == model_class.__module__
    with pytest.raises(AttributeError, match="modeling_aga' has no attribute 'AgaForAnything'"):
        _ = modeling_aga.AgaForAnything


def test_the_momentum_model_has_its_old_name(make_model, batch):
    with pytest.warns(DeprecationWarning, match="MomentumEmbeddings"):
        assert losses.TeacherEmbeddings is losses.MomentumEmbeddings
    with pytest.raises(AttributeError, match="losses' has no attribute 'StudentEmbeddings'"):
        _ = losses.StudentEmbeddings
    model = make_model(momentum=0.9)
    momentum_model = MomentumModel(model)
    found = []
    for name in ("momentum_model", "teacher"):
        torch.manual_seed(0)
        if name == "teacher":
            with pytest.warns(DeprecationWarning, match="now called momentum_model"):
                found.append(model.train()(**batch, teacher=momentum_model).loss)
        else:
            found.append(model.train()(**batch, momentum_model=momentum_model).loss)
    assert torch.equal(*found)
    with pytest.warns(DeprecationWarning, match="MomentumTeacher is now called MomentumModel"):
        assert momentum.MomentumTeacher is MomentumModel
    with pytest.raises(AttributeError, match="momentum' has no attribute 'Student'"):
        _ = momentum.Student
