"""A run whose training is done can be measured again, and ended where it was killed behind its last checkpoint."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from aga_model.training.run import main

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FAMILIES = {
    "clip": {},
    "bert": {"cross_modal_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}},
    # Its MLM head has a matrix of its own, which the file holds.
    "bert, not tied": {"tie_word_embeddings": False},
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def finished(family, tiny_run_file, tmp_path):
    """A finished run of a family, and its run file."""
    settings = yaml.safe_load(tiny_run_file.read_text())
    name = family.split(",")[0]
    objective = {"loss_weights": {"itc": 1.0, "mlm": 1.0}, "momentum": 0.9}
    settings["model_config"] |= {"family": name, "objective_config": objective, **FAMILIES[family]}
    if name == "bert":
        settings["model_config"]["cross_modal_config"] = FAMILIES["bert"]["cross_modal_config"]
    settings |= {"max_steps": 4, "save_total_limit": 5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    command = [str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run")]
    assert main(command) == 0
    return tmp_path / "run", command


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_it_gives_the_same_figures_and_the_same_model(family, finished, monkeypatch):
    """docs/training.md: without model/ and metrics.json the same command measures a finished run again."""
    folder, command = finished
    metrics, weights = _metrics(folder), load_file(folder / "model" / "model.safetensors")
    assert ("mlm_head.decoder.weight" in weights) is (family != "bert")
    shutil.rmtree(folder / "model")
    (folder / "metrics.json").unlink()
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **kwargs: pytest.fail("it trains again"))
    assert main(command) == 0
    assert _metrics(folder) == metrics
    again = load_file(folder / "model" / "model.safetensors")
    assert again.keys() == weights.keys() and all(torch.equal(again[key], weights[key]) for key in weights)


def test_a_checkpoint_of_another_model_is_refused(family, finished, capsys):
    folder, command = finished
    (folder / "metrics.json").unlink()
    checkpoint = folder / f"checkpoint-{_best_step(folder)}" / "model.safetensors"
    weights = load_file(checkpoint)
    del weights["aga.visual_projection.weight"]
    save_file(weights, checkpoint)
    assert main(command) == 1
    assert "aga.visual_projection.weight" in capsys.readouterr().err
    assert not (folder / "metrics.json").exists()


def _best_step(folder):
    return json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["best_global_step"]
