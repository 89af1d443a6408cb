"""`aga evaluate` on a short run: the run's own figures in another process, files, comparison and bad input."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoProcessor
from typer.testing import CliRunner

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.cli.main import app
from aga_model.data.rendered import render_dataset
from aga_model.training.run import main

REPOSITORY = Path(__file__).parents[2]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
RUN = {
    "model_config": {
        "projection_dim": 32,
        "vision_config": {"image_size": [32, 16], "patch_size": 8, **TOWER},
        "text_config": TOWER,
        "cross_modal_config": {"num_hidden_layers": 1},
    },
    "vocab_size": 700,
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 16,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rendered data, a run, another model with random weights, and that one's evaluation in both directions."""
    folder = tmp_path_factory.mktemp("evaluate")
    render_dataset(folder / "data", 24, 0, val_identities=4, test_identities=12, height=64, width=32, processes=1)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "data_root": str(folder / "data")}))
    assert main([str(path), "--output_dir", str(folder / "run0")]) == 0
    torch.manual_seed(1)
    AgaForPreTraining(AgaConfig.from_pretrained(folder / "run0" / "model")).save_pretrained(folder / "other")
    AutoProcessor.from_pretrained(folder / "run0" / "model").save_pretrained(folder / "other")
    result = evaluate(folder, "--model", str(folder / "other"), "--out", str(folder / "second"))
    assert result.exit_code == 0, result.output
    return folder


def arguments(folder, *options):
    common = ["evaluate", "--data-root", str(folder / "data"), "--batch-size", "16", "--device", "cpu"]
    return [*common, "--direction", "both", "--bootstrap", "50", *options]


def evaluate(folder, *options):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, arguments(folder, *options))


@pytest.fixture(scope="module")
def first(python, place):
    """The first run's model evaluated in another process and compared with the second's."""
    options = ["--model", str(place / "run0" / "model"), "--out", str(place / "first")]
    command = arguments(place, *options, "--compare", str(place / "second"))
    code = f"from aga_model.cli.main import app; app({command!r})"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    run = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout, json.loads((place / "first" / "metrics.json").read_text())


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_equals_the_final_evaluation_of_the_run(place, first):
    trained = json.loads((place / "run0" / "metrics.json").read_text())
    measured = first[1]["text_to_image"]["metrics"]
    assert set(measured) == {"rank1", "rank5", "rank10", "mAP", "mINP", "chance_rank1"}
    for name, value in measured.items():
        assert value == pytest.approx(trained[name], abs=1e-9), name
    counts = first[1]["dataset"]
    assert [counts[name] for name in ("identities", "images", "captions")] == [
        trained["n_identities"], trained["n_gallery"], trained["n_queries"]
    ]  # fmt: skip


def test_the_report_says_what_was_measured(place, first):
    output, report = first
    assert report["dataset"]["name"] == "cuhk-pedes" and report["dataset"]["split"] == "test"
    assert report["image_size"] == [32, 16] and report["max_text_tokens"] == 77
    tokenizer = AutoProcessor.from_pretrained(place / "run0" / "model").tokenizer
    captions = [record["caption"] for record in lines(place / "first" / "queries.jsonl")]
    assert report["captions_cut"] == sum(len(tokenizer(caption)["input_ids"]) > 77 for caption in captions)
    weights = place / "run0" / "model" / "model.safetensors"
    assert report["model"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert report["seed"] == 0 and {"torch", "transformers", "aga_model"} <= report["versions"].keys()
    for direction in ("text_to_image", "image_to_text"):
        for name, (low, high) in report[direction]["intervals"].items():
            assert low <= report[direction]["metrics"][name] <= high
    assert "Rank-1" in output and "mINP" in output and "image-to-text" in output and "95% interval" in output


@pytest.mark.parametrize("name", ["queries.jsonl", "image_queries.jsonl"])
def test_query_records_give_the_metrics(place, first, name):
    records = lines(place / "first" / name)
    direction = "text_to_image" if name == "queries.jsonl" else "image_to_text"
    assert len(records) == first[1][direction]["queries"]
    metrics = first[1][direction]["metrics"]
    ranks = np.array([record["first_rank"] for record in records])
    assert metrics["rank5"] == pytest.approx(100 * np.mean(ranks <= 5))
    assert metrics["mAP"] == pytest.approx(np.mean([record["AP"] for record in records]))
    for record in records:
        scores = [entry["score"] for entry in record["top"]]
        right = [entry["person_id"] == record["person_id"] for entry in record["top"]]
        assert len(scores) == 10 and scores == sorted(scores, reverse=True)
        assert (right.index(True) + 1 if any(right) else 11) == min(record["first_rank"], 11)


def test_captions_and_images_are_those_of_the_annotation(place, first):
    annotation = json.loads((place / "data" / "reid_raw.json").read_text())
    for record in lines(place / "first" / "queries.jsonl"):
        assert record["caption"] in annotation[record["image_id"]]["captions"]
        assert record["person_id"] == annotation[record["image_id"]]["id"]
        for entry in record["top"]:
            assert annotation[entry["image_id"]]["id"] == entry["person_id"]
            assert annotation[entry["image_id"]]["split"] == "test"


def test_the_comparison_is_with_the_other_model(place, first):
    other = json.loads((place / "second" / "metrics.json").read_text())
    for direction in ("text_to_image", "image_to_text"):
        for name, difference in first[1][direction]["difference"].items():
            wanted = first[1][direction]["metrics"][name] - other[direction]["metrics"][name]
            assert difference["value"] == pytest.approx(wanted)
            assert difference["interval"]["low"] <= difference["value"] <= difference["interval"]["high"]
            assert 0 < difference["p_value"] <= 1
    assert first[1]["compared_with"]["sha256"] == other["model"]["sha256"] != first[1]["model"]["sha256"]
    assert "difference" in first[0]


def test_failures_are_drawn(place, first):
    with Image.open(place / "first" / "failures.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 500_000
    assert (pixels == (200, 40, 40)).all(axis=1).any(), "no frame of a wrong image"


def test_without_out_and_intervals_nothing_is_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = evaluate(place, "--model", str(place / "run0" / "model"), "--bootstrap", "0", "--split", "val")
    assert result.exit_code == 0, result.output
    assert "Rank-10" in result.output and "interval" not in result.output and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--split", "query"], "has the splits train, val, test"),
        (["--dataset", "cuhk"], "cuhk-pedes"),
        (["--model", "nowhere/at/all"], "does not exist"),
        (["--compare", "nowhere"], "aga evaluate --out"),
        (["--compare", "second", "--bootstrap", "0"], "--compare needs --bootstrap"),
        (["--compare", "second", "--split", "val"], "this evaluation"),
        (["--out", "run0"], "training run"),
        (["--compare", "second", "--out", "second"], "same folder"),
    ],
)
def test_bad_input_is_named(place, monkeypatch, options, named):
    monkeypatch.chdir(place)
    before = (place / "run0" / "metrics.json").read_bytes()
    result = evaluate(place, "--model", str(place / "run0" / "model"), *options)
    assert result.exit_code == 2 and named in result.output
    assert (place / "run0" / "metrics.json").read_bytes() == before


def test_records_of_other_queries_are_refused(place, tmp_path):
    for name in ("queries.jsonl", "image_queries.jsonl"):
        records = lines(place / "second" / name)
        records[3]["image_id"] += 1
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    model = ["--model", str(place / "run0" / "model")]
    result = evaluate(place, *model, "--compare", str(tmp_path))
    assert result.exit_code == 2 and "query 4 has image_id" in result.output
    (tmp_path / "queries.jsonl").write_text('{"image_id": 1}\n')
    result = evaluate(place, *model, "--compare", str(tmp_path))
    assert result.exit_code == 2 and "line 1" in result.output
