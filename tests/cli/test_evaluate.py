"""`aga evaluate` on a short run: the run's own figures in another process, files, comparison and bad input."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoProcessor
from typer.testing import CliRunner

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.cli.main import app
from aga_model.cli.models import evaluate as command
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import (
    Difference,
    Interval,
    SplitEmbeddings,
    bootstrap_intervals,
    caption_records,
    compare_queries,
    image_records,
    rank_matrix,
    record_values,
)
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


# --- parts, on figures worked out by hand -----------------------------------------------------------------------


@pytest.fixture
def split():
    """Five captions and four images of two persons, three images of one of them."""
    return SplitEmbeddings(
        torch.empty(4, 0),
        torch.empty(5, 0),
        gallery_person_ids=np.array([7, 7, 7, 9]),
        query_person_ids=np.array([7, 9, 7, 9, 9]),
        gallery_image_ids=np.array([101, 102, 103, 104]),
        query_image_ids=np.array([102, 104, 101, 104, 104]),
        gallery_paths=["a.png", "b.png", "c.png", "d.png"],
        captions=["red", "green", "blue", "grey", "teal"],
    )


@pytest.mark.parametrize("direction", command.Direction.BOTH.single)
def test_intervals_and_comparison_are_of_the_asked_samples_and_seed(direction):
    rng = np.random.default_rng(0)
    of_image, of_caption = (
        np.repeat(np.arange(15), [1, 2, 3] * 5),
        np.concatenate([np.arange(15), rng.integers(15, size=35)]),
    )
    image_ids, described = np.arange(30), np.searchsorted(of_image, of_caption)
    split = SplitEmbeddings(
        torch.empty(30, 0),
        torch.empty(50, 0),
        of_image,
        of_caption,
        image_ids,
        described,
        ["a.png"] * 30,
        ["red"] * 50,
    )
    to_images = direction is command.Direction.TEXT_TO_IMAGE
    records, ids, others = (
        (caption_records, of_caption, of_image) if to_images else (image_records, of_image, of_caption)
    )
    first, second = (rank_matrix(rng.normal(size=(len(ids), len(others))), ids, others, top_k=3) for _ in range(2))
    other = records(split, second)
    found = command._measure(split, direction, first, other, Path("other"), 60, 5)
    values, before = record_values(records(split, first)), record_values(other)
    assert found.intervals == bootstrap_intervals(values, ids, 60, seed=5)
    assert found.differences == compare_queries(before, values, ids, 60, seed=5)
    for otherwise in ({"samples": 60}, {"samples": 1000, "seed": 5}):
        assert found.intervals != bootstrap_intervals(values, ids, **otherwise)
    assert found.others == {name: pytest.approx(row.mean()) for name, row in before.items()}
    assert found.metrics["chance_rank1"] == pytest.approx(100 * (ids[:, None] == others).mean())
    assert found.metrics["mAP"] == pytest.approx(100 * first.average_precision.mean())


def measured(first_ranks, precisions, person_ids):
    ranking = SimpleNamespace(first_rank=np.array(first_ranks), average_precision=np.array(precisions))
    return SimpleNamespace(ranking=ranking, person_ids=np.array(person_ids))


def test_failures_are_each_persons_worst_from_the_worst_on():
    found = measured([3, 9, 1, 9, 4, 2, 1], [0.3, 0.10, 1.0, 0.05, 0.2, 0.4, 0.6], [1, 1, 1, 2, 2, 3, 4])
    assert command._worst_queries(found) == [3, 1, 5]  # person 4 was found
    assert command._worst_queries(measured(range(2, 14), [0.1] * 12, range(12))) == [11, 10, 9, 8, 7, 6, 5, 4]


def test_failures_are_framed_by_person(split, monkeypatch):
    drawn = []

    def draw(sentence, hits, path, correct):
        drawn.append((sentence, [(hit.rank, hit.row.source) for hit in hits], correct))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(command, "save_result_picture", draw)
    similarity = np.array([[2.0, 1, 0, 3], [3, 2, 0, 1], [4, 3, 2, 1], [1, 2, 3, 4], [1, 2, 3, 4]])
    ranking = rank_matrix(similarity, split.query_person_ids, split.gallery_person_ids, top_k=3)
    found = command._measure(split, command.Direction.TEXT_TO_IMAGE, ranking, None, None, 0, 0)
    command._failures(found, split)
    assert drawn == [
        ("green [person 9: first at rank 3 of 4]", [(1, "a.png"), (2, "b.png"), (3, "d.png")], [False, False, True]),
        # Both images of the person are right, not only the one that is described.
        ("red [person 7: first at rank 2 of 4]", [(1, "d.png"), (2, "a.png"), (3, "b.png")], [False, True, True]),
    ]


def test_as_many_images_are_reranked_as_asked_for_with_the_asked_settings(split, monkeypatch):
    """Three of four, although ten are kept of the first ranking."""
    split.image_embeds, split.text_embeds = torch.eye(4), torch.eye(4)[[1, 3, 0, 3, 3]]
    encoder = SimpleNamespace(processor=None, model=None, device="cpu")
    asked = []

    def load(encoder, memory_mib, batch_size, similarity_weight=1.0):
        asked.append((memory_mib, batch_size, similarity_weight))
        return SimpleNamespace(memory_mib=memory_mib, similarity_weight=similarity_weight)

    def rerank(reranker, ranking):
        asked.append(ranking.top_indices.shape)
        return ranking

    evaluator = SimpleNamespace(embed=lambda model: split, rerank=rerank)
    monkeypatch.setattr(command, "open_split", lambda *arguments: (None, encoder))
    monkeypatch.setattr("aga_model.evaluation.RetrievalEvaluator", lambda *arguments: evaluator)
    monkeypatch.setattr(command.Reranker, "from_encoder", load)
    monkeypatch.setattr(command, "_describe", lambda *arguments: {})
    options = ["--rerank", "3", "--rerank-memory", "7", "--rerank-similarity", "0.25", "--batch-size", "16"]
    result = CliRunner().invoke(app, ["evaluate", "--model", "m", "--data-root", "d", *options])
    assert result.exit_code == 0, result.output
    assert asked == [(7, 16, 0.25), (5, 3)]


def test_files_of_an_earlier_evaluation_are_removed(split, tmp_path, capsys):
    """Otherwise `--compare` with both directions would take the figures of one model for those of another."""
    for name in ("image_queries.jsonl", "failures.png", "reranked_queries.jsonl", "reranked_failures.png"):
        (tmp_path / name).write_text("of another model")
    similarity = (split.query_person_ids[:, None] == split.gallery_person_ids).astype(float)
    ranking = rank_matrix(similarity, split.query_person_ids, split.gallery_person_ids, top_k=3)
    found = command._measure(split, command.Direction.TEXT_TO_IMAGE, ranking, None, None, 0, 0)
    command._write(tmp_path, {}, {command.Direction.TEXT_TO_IMAGE: found}, None, split)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "queries.jsonl"]
    assert "no failures to draw" in capsys.readouterr().err


def test_the_table_gives_the_gain_over_the_other_model(split, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    metrics = {"rank1": 60.0, "rank5": 70.0, "rank10": 80.0, "mAP": 50.0, "mINP": 40.0, "chance_rank1": 1.0}
    others = {"rank1": 48.75, "rank5": 73.5, "rank10": 80.0, "mAP": 50.0, "mINP": 40.0}
    difference = Difference(11.25, Interval(3.5, 19.25), 0.0123, 9, 2)
    found = SimpleNamespace(
        metrics=metrics, intervals={}, others=others, differences=dict.fromkeys(others, difference)
    )
    command._print_table("text-to-image", found, split)
    rows = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines() if "Rank-" in line}
    assert [rows["Rank-1"][column] for column in (3, 5, 7)] == ["60.00", "48.75", "+11.25"]
    assert " ".join(rows["Rank-1"][9:]) == "+3.50 to +19.25 │ 0.0123 │"
    assert [rows["Rank-5"][column] for column in (3, 5, 7)] == ["70.00", "73.50", "-3.50"]


def test_captions_that_just_fit_are_not_counted_as_cut(split):
    lengths = {"red": 5, "green": 6, "blue": 7, "grey": 6, "teal": 9}
    processor = SimpleNamespace(
        tokenizer=lambda captions, verbose: {"input_ids": [[0] * lengths[caption] for caption in captions]},
        image_processor=SimpleNamespace(size={"height": 384, "width": 128}),
    )
    encoder = SimpleNamespace(processor=processor, name="m", model_hash="0", max_text_tokens=6, device="cpu")
    report = command._describe(encoder, split, "cuhk-pedes", "test", 128, 50, 3)
    assert report["captions_cut"] == 2
    assert report["dataset"] == {
        "name": "cuhk-pedes", "split": "test", "identities": 2, "images": 4, "captions": 5
    }  # fmt: skip
    assert report["image_size"] == [384, 128] and report["seed"] == 3 and report["bootstrap"]["samples"] == 50


def test_the_folder_to_compare_with_is_not_written_to(tmp_path):
    (tmp_path / "second").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "second")
    for out in (tmp_path / "link", tmp_path / "second" / ".." / "second"):
        with pytest.raises(ValueError, match="are the same folder"):
            command._check_out(out, tmp_path / "second")
    command._check_out(tmp_path / "third", tmp_path / "second")
    (tmp_path / "second" / "run.json").touch()
    with pytest.raises(ValueError, match="folder of a training run"):
        command._check_out(tmp_path / "second", None)


# --- a run and its evaluation -----------------------------------------------------------------------------------


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
    asked = arguments(place, *options, "--compare", str(place / "second"))
    code = f"from aga_model.cli.main import app; app({asked!r})"
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
