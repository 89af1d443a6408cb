"""Shared by the tests of runs: rendered data and the settings of a training of seconds."""

import pytest
import yaml

from aga_model.data.rendered import render_dataset

TINY_RUN = {
    "model_config": {
        "projection_dim": 16,
        "vision_config": {"image_size": [32, 16], "patch_size": 8, "hidden_size": 16, "intermediate_size": 32,
                          "num_hidden_layers": 1, "num_attention_heads": 2},
        "text_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "cross_modal_config": {"num_hidden_layers": 1},
        "objective_config": {"loss_weights": {"itc": 1.0, "mlm": 1.0}},
    },
    "vocab_size": 600,
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": "1e-3",
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "logging_steps": 2,
    "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Rendered data of 15 persons, more of validation than of test; a test that changes them takes a copy."""
    folder = tmp_path_factory.mktemp("data")
    render_dataset(folder, 15, 0, val_identities=4, test_identities=3, height=64, width=32, processes=1)
    return folder


@pytest.fixture(scope="module")
def tiny_run_file(tmp_path_factory, data):
    """A run file of six steps with two checkpoints kept, and its data."""
    path = tmp_path_factory.mktemp("tiny") / "run.yaml"
    path.write_text(yaml.safe_dump({**TINY_RUN, "data_root": str(data)}))
    return path
