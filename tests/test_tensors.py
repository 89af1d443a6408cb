"""Tensors out of checkpoints beside which anything may stand, without making any of it."""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from aga_model.conversion import ConversionError, recognise
from aga_model.conversion.state import read_state
from aga_model.files import Unread, read_tensors

MADE = []


class Config(dict):
    """As EasyDict: a dictionary whose entries are attributes as well."""

    def __init__(self, values=()):
        MADE.append("config")
        super().__init__(values)
        self.__dict__.update(values)

    def __setstate__(self, state):
        MADE.append("state")


class Numbers(list):
    def append(self, value):
        MADE.append("number")


class Runs:
    """Would do something when it is read."""

    def __reduce__(self):
        return MADE.append, ("run",)


@pytest.fixture(autouse=True)
def _nothing_made():
    MADE.clear()
    yield
    assert not MADE, "a class of the file was used"


def written(path, content):
    torch.save(content, path)
    MADE.clear()
    return path


def beside():
    """What people's trainings leave beside weights, and more."""
    numbers = Numbers([1, 2])
    numbers.name = "numbers"
    return {
        "epoch": np.int64(4),
        "best": np.float64(0.7),
        "curve": np.arange(3),
        "config": Config({"lr": 1e-3, "model": Config({"embed_dim": np.int32(512)})}),
        "args": argparse.Namespace(root=pathlib.Path("/data"), when=datetime.datetime(2024, 1, 1)),
        "numbers": numbers,
        "keys": {pathlib.PurePosixPath("a"): 1},
        "groups": collections.defaultdict(list, {"a": [1]}),
        "runs": Runs(),
        "complex": 1 + 2j,
    }


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool]


def test_tensors_are_read_as_they_are_whatever_stands_beside_them(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    tensors = {str(dtype): (torch.arange(6).reshape(2, 3) % 3).to(dtype) for dtype in DTYPES}
    tensors |= {"part": base[3:15].reshape(3, 4).t(), "scalar": torch.tensor(2.5), "none": torch.empty(0, 3)}
    tensors |= {"parameter": torch.nn.Parameter(base), "same": base, "unsigned": torch.tensor([7], dtype=torch.uint16)}
    state = collections.OrderedDict(tensors)
    state._metadata = {"": {"version": 1}}  # as nn.Module.state_dict gives it
    path = written(tmp_path / "x.pth", {"model": state, "optimizer": {"step": 3, "lr": 0.1}, **beside()})
    found, unread = read_tensors(path)
    assert {"argparse.Namespace", "test_tensors.Config", "test_tensors.Numbers"} <= set(unread)
    assert list(found["model"]) == list(tensors)
    for name, tensor in tensors.items():
        assert found["model"][name].dtype == tensor.dtype and torch.equal(found["model"][name], tensor), name
    assert found["optimizer"] == {"step": 3, "lr": 0.1} and dict(found["config"]["model"]).keys() == {"embed_dim"}
    assert all(isinstance(found[name], Unread) for name in ("epoch", "best", "curve", "config", "args", "runs"))


def test_a_state_is_read_beside_what_people_leave_there(tmp_path, caplog):
    state = {"module.module.visual.weight": torch.ones(2), "module.logit_scale": torch.tensor(1.0)}
    path = written(tmp_path / "x.pth", {"model": state, **beside()})
    assert {name: value.tolist() for name, value in read_state(path).items()} == {
        "visual.weight": [1.0, 1.0],
        "logit_scale": 1.0,
    }
    [record] = caplog.records
    assert f"{path}: nothing was made of its objects of" in record.message and "test_tensors.Config" in record.message


def test_tensors_of_other_kinds_are_named(tmp_path):
    path = written(tmp_path / "x.pth", {"a": torch.ones(2, dtype=torch.complex64), "config": Config()})
    with pytest.raises(ConversionError, match=r"a kind that is not read: torch\.ComplexFloatStorage"):
        read_state(path)


def test_a_configuration_may_hold_the_state(tmp_path):
    path = written(tmp_path / "x.pth", Config({"state_dict": Config({"a": torch.ones(1)})}))
    assert list(read_state(path)) == ["a"]


def test_what_stands_among_the_weights_is_named(tmp_path):
    path = written(tmp_path / "x.pth", {"model": {"a": torch.ones(1), "config": Config()}})
    with pytest.raises(ConversionError, match=r"x\.pth: cannot be read .*config is an object of test_tensors\.Config"):
        read_state(path)
    path = written(tmp_path / "y.pth", {"module.a": torch.ones(1), "a": torch.ones(1)})
    with pytest.raises(ConversionError, match=r"differ in `module\.` alone"):
        read_state(path)


def test_no_module_is_imported(tmp_path):
    module = types.ModuleType("of_a_stranger")
    module.Thing = type("Thing", (), {"__module__": "of_a_stranger"})
    sys.modules["of_a_stranger"] = module
    try:
        path = written(tmp_path / "x.pth", {"a": torch.ones(1), "thing": module.Thing()})
    finally:
        del sys.modules["of_a_stranger"]
    assert read_tensors(path)[0]["thing"].of == "of_a_stranger.Thing" and "of_a_stranger" not in sys.modules


def archive(path, content, **files):
    with zipfile.ZipFile(path, "w") as file:
        for name, value in {"data.pkl": content, **files}.items():
            file.writestr(f"x/{name}", value)
    return path


class Storage:
    def __init__(self, count):
        self.count = count


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", torch.FloatStorage, "0", "cpu", thing.count) if isinstance(thing, Storage) else None


class Beyond:
    """A tensor that is larger than what is stored of it."""

    def __init__(self, size):
        self.size = size

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Storage(2), 0, self.size, (1,), False, collections.OrderedDict())


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    content = io.BytesIO()
    Pickler(content).dump({"a": Beyond((2,))})
    path = archive(tmp_path / "whole.pth", content.getvalue(), **{"data/0": np.ones(2, np.float32).tobytes()})
    assert read_tensors(path)[0]["a"].tolist() == [1.0, 1.0]
    content = io.BytesIO()
    Pickler(content).dump({"a": Beyond((3,))})
    cases = {
        "beyond": (content.getvalue(), {"data/0": np.ones(2, np.float32).tobytes()}, "beyond its storage"),
        "order": (pickle.dumps({}), {"byteorder": "big"}, "another byte order"),
    }
    for name, (pickled, files, message) in cases.items():
        path = archive(tmp_path / f"{name}.pth", pickled, **files)
        with pytest.raises(ValueError, match=message):
            read_tensors(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("text", "words")
    with pytest.raises(ValueError, match=r"data\.pkl is missing"):
        read_tensors(tmp_path / "other.zip")
    for name in ("beyond.pth", "other.zip"):
        with pytest.raises(ConversionError, match=f"{name}: cannot be read"):
            read_state(tmp_path / name)


KEYS = {
    "irra": ["base_model.visual.conv1.weight", "cross_attn.in_proj_weight"],
    "rde": ["base_model.visual.conv1.weight", "visul_emb_layer.linear.weight"],
    "tbps-clip": ["visual.conv1.weight", "encode_text.token_embedding.weight"],
    "clip": ["visual.conv1.weight", "token_embedding.weight"],
    "albef": ["visual_encoder.cls_token", "text_encoder.bert.embeddings.LayerNorm.bias", "vision_proj.weight"],
    "rasa": ["visual_encoder.cls_token", "text_encoder.bert.embeddings.LayerNorm.bias", "prd_head.weight"],
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_file_is_recognised_by_its_weights(tmp_path, kind, caplog):
    content = {"model": {f"module.{key}": torch.ones(1) for key in KEYS[kind]}, "config": Config({"lr": 0.1})}
    path = written(tmp_path / "best.pth", content)
    found = recognise(path)
    assert not caplog.records, "what was not read is told when the file is converted"
    assert found.kind == kind and KEYS[kind][0] in found.why


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_a_folder_is_recognised_by_its_configuration(tmp_path, kind):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    assert recognise(tmp_path).kind == kind


def test_what_is_not_recognised_is_named(tmp_path):
    for keys, message in (
        (["backbone.weight", "neck.weight"], r"names of its weights, such as backbone\.weight, neck\.weight"),
        (["vision_model.embeddings.class_embedding"], "give the folder that they lie in"),
    ):
        path = written(tmp_path / "x.pth", {key: torch.ones(1) for key in keys})
        with pytest.raises(ConversionError, match=message):
            recognise(path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ConversionError, match=r"model_type is 'siglip'; .* clip and bert"):
        recognise(tmp_path)
    with pytest.raises(ConversionError, match="neither a checkpoint file nor a folder"):
        recognise(tmp_path / "nowhere")
