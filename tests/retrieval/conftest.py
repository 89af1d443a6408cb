"""A tiny model with random weights and a folder of small images."""

import time
from pathlib import Path

import pytest
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.processing_aga import MASK_TOKEN, clip_tokenizer

TEXT_TOKENS = 32


def save_tiny_model(folder: Path, seed: int) -> Path:
    """A saved pre-training model of 16 dimensions whose tokenizer spells every word in bytes."""
    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(letter + "</w>" for letter in letters), MASK_TOKEN, "<|startoftext|>", "<|endoftext|>"]
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AgaConfig(
        vision_config={"image_size": [32, 16], "patch_size": 8, **tower},
        text_config={"vocab_size": len(entries), "max_position_embeddings": TEXT_TOKENS, **tower},
        projection_dim=16,
    )
    torch.manual_seed(seed)
    AgaForPreTraining(config).save_pretrained(folder)
    tokenizer = clip_tokenizer({entry: index for index, entry in enumerate(entries)}, [])
    AgaProcessor.for_config(config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def tokyo(monkeypatch):
    """A machine whose clock is nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)
