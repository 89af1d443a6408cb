"""Shared fixtures: tiny models and captions."""

import os
import stat
import sys
import tempfile
from pathlib import Path

import forked_python
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

# Two test processes on two cores: one thread each is faster than four that fight.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Seconds for each gallery; the tests of the text encoder ask for it.
os.environ.setdefault("AGA_TEXT_ENCODER", "0")

# A busy machine fails no test; every run draws the same examples.
settings.register_profile("aga", deadline=None, derandomize=True, database=None)
settings.load_profile("aga")


CAPTIONS = [
    "A young man wearing a navy blue jacket, black trousers and white sneakers.",
    "The woman has long brown hair and carries a red handbag over her shoulder.",
    "A girl in a yellow dress with a striped scarf walks away from the camera.",
    "He wears a green hoodie, grey shorts and a pair of orange running shoes.",
] * 4


def tiny_sections(vocab_size: int, **objective) -> dict:
    """Sections of an AgaConfig of about 60,000 parameters on 32x16 images."""
    return {
        "projection_dim": 32,
        "vision_config": {
            "image_size": [32, 16],
            "patch_size": 8,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "text_config": {
            "vocab_size": vocab_size,
            "max_position_embeddings": 40,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        },
        "cross_modal_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "cross_attention_residual": True},
        "objective_config": objective,
    }


def bert_sections(tokenizer, **objective) -> dict:
    """Sections of an AgaConfig of the BERT family of the same size; the vision tower is wider than the text tower."""
    from aga_model.data import text_settings

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        "family": "bert",
        "projection_dim": 24,
        "vision_config": {**tower, "hidden_size": 48, "image_size": [32, 16], "patch_size": 8},
        "text_config": {
            **tower,
            **text_settings(tokenizer),
            "caption_length": 40,
        },
        "cross_modal_config": {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        "objective_config": objective,
    }


@pytest.fixture(autouse=True)
def _environment():
    """Each test leaves the environment as it found it, also where a library writes into it, as Gradio does."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def python():
    """The path of a Python that has imported everything; see forked_python.py. `sys.executable` where it cannot be."""
    if not hasattr(os, "pidfd_open"):
        yield sys.executable
        return
    with tempfile.TemporaryDirectory(prefix="aga-") as folder, forked_python.started(folder) as path:
        yield path


@pytest.fixture
def device(tmp_path_factory):
    """
    The path of a device. Where this process may replace the machine's own, as root may, it is a new one of the kind:
    code that is wrong must not take /dev/null away.
    """

    def make(name: str) -> Path:
        path = Path("/dev", name)
        if not os.access("/dev", os.W_OK):
            return path
        own = tmp_path_factory.mktemp("devices") / name
        try:
            os.mknod(own, 0o666 | stat.S_IFCHR, path.stat().st_rdev)
            own.open("wb").close()
        except PermissionError:
            pytest.skip("the devices of the machine could be replaced, and no others can be made")
        return own

    return make


@pytest.fixture(scope="session")
def tokenizer():
    from aga_model.data import train_tokenizer

    return train_tokenizer(CAPTIONS, vocab_size=700)


@pytest.fixture(scope="session")
def make_sections(tokenizer):
    """Sections of a tiny AgaConfig of either family with objective settings."""

    def make(family: str, **objective) -> dict:
        if family == "bert":
            return bert_sections(tokenizer, **objective)
        return tiny_sections(len(tokenizer), **objective)

    return make


@pytest.fixture
def make_model(tokenizer):
    """Builds a tiny AgaForPreTraining with a seed and objective settings."""
    from aga_model import AgaConfig, AgaForPreTraining

    def make(seed: int = 0, **objective):
        torch.manual_seed(seed)
        return AgaForPreTraining(AgaConfig(**tiny_sections(len(tokenizer), **objective)))

    return make


@pytest.fixture
def processor(tokenizer):
    from aga_model import AgaConfig, AgaProcessor

    return AgaProcessor.for_config(AgaConfig(**tiny_sections(len(tokenizer))), tokenizer)


@pytest.fixture
def batch(processor):
    """Four pairs of three persons."""
    torch.manual_seed(1)
    inputs = processor(text=CAPTIONS[:4], return_tensors="pt")
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "pixel_values": torch.randn(4, 3, 32, 16),
        "person_ids": torch.tensor([0, 1, 1, 2]),
    }


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Seven noise images, two of them in a folder below, a hidden one, and two files that are no images."""
    folder = tmp_path / "people"
    (folder / "camera 2").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in (
        "a.jpg",
        "b.png",
        "c.webp",
        "d.bmp",
        "[red]e.jpg",
        "camera 2/f.jpg",
        "camera 2/照片.png",
        ".hidden.jpg",
    ):
        pixels = generator.integers(0, 256, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("a man in a red coat")
    (folder / "text.jpg").write_text("no image, whatever the name says")
    return folder
