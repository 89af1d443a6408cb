"""Shape of the package: who may import whom, and the model room as remote code on a machine without the package."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "aga_model"
MODEL_ROOM = {
    "configuration_aga",
    "configuration_checks",
    "configuration_objective",
    "configuration_sections",
    "distributed",
    "embedding_losses",
    "enrichment",
    "families",
    "family_record",
    "fusion",
    "head_losses",
    "losses",
    "masking",
    "matching",
    "modeling_aga",
    "modeling_fusion",
    "packing",
    "pair_batch",
    "pair_model",
    "pretraining_aga",
    "processing_aga",
    "retrieval_aga",
    "towers",
}
MAY_IMPORT = {
    "files": set(),
    "data": {"files"},
    "gallery": {"files"},
    "ingest": {"files", "gallery"},
    "search": {"files", "data", "gallery"},
    "service": {"files", "gallery", "search"},
    "evaluation": {"files", "data", "search"},
    "training": {"files", "data", "evaluation"},
    "conversion": {"files", "search"},
    "cli": {"files", "data", "gallery", "ingest", "search", "service", "evaluation", "training", "conversion"},
}
MOST_FILES = 12  # of a room or of a room within a room
MOST_LINES = 500  # of a file
MOST_OF_A_CLASS = 300
MOST_OF_A_FUNCTION = 60  # without its signature and docstring
# Files that their reader wants whole, and why.
LONG_FILES = {
    "gallery/audit.py": "one format, written and verified: who is to believe it reads both together",
    "data/rendered/street/captions.py": "one vocabulary and the sentences that it fills, as the reader compares them",
    "data/rendered/drawing.py": "one figure, drawn from head to foot with the same measures",
}


def _imports(path):
    """(level, module, names) of every import statement of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []


@pytest.mark.parametrize("name", sorted(MODEL_ROOM))
def test_model_room_is_flat_and_self_contained(name):
    path = PACKAGE / f"{name}.py"
    for level, module, _ in _imports(path):
        if level:
            assert level == 1 and module in MODEL_ROOM, f"{name}: from {'.' * level}{module}"
        else:
            allowed = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
            assert module.split(".")[0] in allowed, f"{name}: {module}"
    assert "from __future__" not in path.read_text(encoding="utf-8")


def _rooms_imported(path):
    """The modules of other rooms that a file imports, below `aga_model`."""
    here = path.relative_to(PACKAGE).parent.parts
    for level, module, names in _imports(path):
        if level:
            target = [*here[: len(here) - level + 1], *filter(None, module.split("."))]
        elif module.split(".")[0] == "aga_model":
            target = module.split(".")[1:]
        else:
            continue
        for name in names or [""]:
            whole = target if target else [name]
            if whole and whole[0] != here[0] and (PACKAGE / whole[0]).is_dir():
                yield whole


def test_rooms_import_in_one_direction():
    for room, allowed in MAY_IMPORT.items():
        imported = set()
        for path in (PACKAGE / room).rglob("*.py"):
            for target in _rooms_imported(path):
                assert target[0] in allowed, f"{path}: imports {target[0]}"
                imported.add(target[0])
        assert imported == allowed, f"{room}: the table allows what is not imported"


def test_rooms_talk_through_their_init():
    for room in MAY_IMPORT:
        for path in (PACKAGE / room).rglob("*.py"):
            for target in _rooms_imported(path):
                # The demo needs its own extra, so its room has no lazy names: it is imported when it is started.
                assert len(target) == 1 or target == ["service", "demo"], f"{path}: imports {'.'.join(target)}"


def test_nothing_has_grown_too_large():
    too_large = []
    for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}:  # remote code must lie flat
        if (count := len(list(folder.glob("*.py")))) > MOST_FILES:
            too_large.append(f"{folder.name}: {count} files")
    for path in PACKAGE.rglob("*.py"):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MOST_LINES and name not in LONG_FILES:
            too_large.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (lines := node.end_lineno - node.lineno + 1) > MOST_OF_A_CLASS:
                too_large.append(f"{name}: class {node.name} has {lines} lines")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                if (lines := node.end_lineno - body[0].lineno + 1) > MOST_OF_A_FUNCTION:
                    too_large.append(f"{name}: function {node.name} has {lines} lines")
    assert not too_large, "\n".join(too_large)
    for name in LONG_FILES:
        assert (PACKAGE / name).read_text(encoding="utf-8").count("\n") > MOST_LINES, f"{name} needs no exception"


def test_model_room_does_not_pull_in_the_rooms_around_it():
    code = "import sys, aga_model; aga_model.AgaModel; print([m for m in sys.modules if m.startswith('aga_model.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.split(".")[1] for name in ast.literal_eval(found.splitlines()[-1])}
    assert loaded <= MODEL_ROOM | {"version", "moved", "registration"}


ISOLATED = """
import importlib.util, json, sys
import numpy as np, torch
sys.path = [p for p in sys.path if p not in ("", {package!r})]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
assert importlib.util.find_spec("aga_model") is None, "the package must not be importable here"
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor
from transformers.dynamic_module_utils import get_class_in_module
data = np.load(sys.argv[1])
for folder, output, saved in zip(*[iter(sys.argv[2:])] * 3):
    full = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    # As AutoModel does with a repository of the Hub, whose files lie in one place: it executes this one a second time.
    place = type(full).__module__.rpartition(".")[0].replace(".", "/")
    assert get_class_in_module("AgaModel", f"{{place}}/modeling_aga.py") is not type(full.aga)
    begun = type(full)(full.config).aga.visual_projection.weight.std().item()
    assert 0.8 < begun * full.config.vision_config.hidden_size**0.5 < 1.2, begun
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert processor(text=["a man in red"], return_tensors="pt")["input_ids"].shape[0] == 1
    with torch.no_grad():
        text = model.get_text_features(torch.tensor(data["input_ids"])).pooler_output
        image = model.get_image_features(torch.tensor(data["pixel_values"])).pooler_output
    np.savez(output, text=text, image=image)
    full.save_pretrained(saved)
    processor.save_pretrained(saved)
    classes = [type(model), type(full), type(processor)]
    assert all(folder.rpartition("/")[2] in each.__module__.split(".") for each in classes)  # code of that folder
    print(json.dumps([each.__name__ for each in classes]))
"""


def test_saved_folder_works_without_the_package(make_model, processor, batch, tmp_path):
    """Loads offline as remote code, embeds the same, and what it saves loads again."""
    model = make_model(loss_weights={"itc": 1.0, "mlm": 1.0, "id": 1.0}, num_identities=3).eval()
    first, second = tmp_path / "first", tmp_path / "second"
    model.save_pretrained(first)
    processor.save_pretrained(first)
    np.savez(tmp_path / "in.npz", **{key: value.numpy() for key, value in batch.items()})
    with torch.no_grad():
        wanted = {
            "text": model.aga.get_text_features(batch["input_ids"]).pooler_output.numpy(),
            "image": model.aga.get_image_features(batch["pixel_values"]).pooler_output.numpy(),
        }
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    code = ISOLATED.format(package=str(PACKAGE.parent))
    arguments = [first, tmp_path / "a.npz", second, second, tmp_path / "b.npz", tmp_path / "third"]
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in.npz"), *map(str, arguments)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    classes = ["AgaModel", "AgaForPreTraining", "AgaProcessor"]
    assert [json.loads(line) for line in run.stdout.splitlines()[-2:]] == [classes, classes]
    for output in ("a.npz", "b.npz"):
        got = np.load(tmp_path / output)
        for name, value in wanted.items():
            np.testing.assert_allclose(got[name], value, atol=1e-6)
