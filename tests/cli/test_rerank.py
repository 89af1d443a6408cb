"""`aga evaluate --rerank` and `aga search --rerank` against the model's own scores of every pair, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaForPreTraining, AgaProcessor
from aga_model.cli.main import app
from aga_model.data import load_benchmark, train_tokenizer
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import rank_matrix, ranking_metrics
from aga_model.files import read_image

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
K = 4


def save_model(folder, tokenizer, losses):
    config = AgaConfig(
        vision_config={"image_size": [32, 16], "patch_size": 8, **TOWER},
        text_config={"vocab_size": len(tokenizer), **TOWER},
        cross_modal_config={"num_hidden_layers": 1, "cross_attention_residual": True},
        projection_dim=32,
        objective_config={"loss_weights": losses},
    )
    torch.manual_seed(0)
    model = AgaForPreTraining(config)
    if model.itm_head is not None:
        with torch.no_grad():
            model.itm_head.weight.normal_()
    model.save_pretrained(folder)
    AgaProcessor.for_config(config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rendered data, a model with an ITM head, one without, and the first one's evaluation with and without it."""
    folder = tmp_path_factory.mktemp("rerank")
    render_dataset(folder / "data", 16, 0, val_identities=4, test_identities=6, height=64, width=32, processes=1)
    tokenizer = train_tokenizer(load_benchmark("cuhk-pedes", folder / "data")["train"]["caption"], vocab_size=600)
    save_model(folder / "model", tokenizer, {"itc": 1.0, "itm": 1.0})
    save_model(folder / "dual", tokenizer, {"itc": 1.0, "mlm": 1.0})
    return folder


def run(*arguments, code=0):
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def evaluate(folder, *options, model="model", code=0):
    common = ["--data-root", folder / "data", "--batch-size", 16, "--device", "cpu", "--bootstrap", 50]
    return run("evaluate", "--model", folder / model, *common, *options, code=code)


@pytest.fixture(scope="module")
def reranked(place):
    output = evaluate(place, "--rerank", K, "--out", place / "out").output
    return output, json.loads((place / "out" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def every_pair(place):
    """Cosines, and log-odds plus cosine over temperature, of all captions and images of the test split."""
    model = AgaForImageTextRetrieval.from_pretrained(place / "model").eval()
    processor = AgaProcessor.from_pretrained(place / "model")
    rows = load_benchmark("cuhk-pedes", place / "data")["test"]
    images = {}
    for row in rows:
        images.setdefault(row["image_id"], (row["image"]["path"], row["person_id"]))
    pixels = processor(images=[read_image(path) for path, _ in images.values()], return_tensors="pt")["pixel_values"]
    cosines, log_odds = [], []
    with torch.no_grad():
        for caption in rows["caption"]:
            text = processor(text=[caption] * len(pixels), return_tensors="pt")
            output = model(pixel_values=pixels, **text)
            cosines.append((output.text_embeds * output.image_embeds).sum(dim=1))
            log_odds.append(output.logits[:, 1] - output.logits[:, 0])
    ids = np.array(rows["person_id"]), np.array([person for _, person in images.values()])
    cosine = torch.stack(cosines)
    combined = torch.stack(log_odds) + cosine * model.aga.logit_scale.detach().exp()
    return cosine.numpy(), combined.numpy(), ids, list(images)


def test_both_figures_are_the_models_own(reranked, every_pair):
    _, report = reranked
    cosine, log_odds, ids, _ = every_pair
    whole = np.empty(cosine.shape)
    for row, similarity, scores in zip(whole, cosine, log_odds):
        order = np.argsort(-similarity)
        row[order] = -100.0 - np.arange(len(order))
        row[order[:K]] = scores[order[:K]]
    for key, matrix in (("text_to_image", cosine), ("text_to_image_reranked", whole)):
        wanted = ranking_metrics(rank_matrix(matrix, *ids))
        for name, value in wanted.items():
            assert report[key]["metrics"][name] == pytest.approx(value, abs=1e-9), (key, name)
    assert report["text_to_image"]["metrics"]["mAP"] != report["text_to_image_reranked"]["metrics"]["mAP"]


def test_report_and_table_name_both(reranked):
    output, report = reranked
    part = report["text_to_image_reranked"]
    assert (part["candidates"], part["similarity_weight"], part["memory_mib"]) == (K, 1.0, 1024)
    for name, difference in part["difference_to_dual_encoder"].items():
        wanted = part["metrics"][name] - report["text_to_image"]["metrics"][name]
        assert difference["value"] == pytest.approx(wanted)
    first, second = output.split("re-ranked by ITM", 1)
    assert "text-to-image, 6 persons" in first and f"first {K} images of each caption" in first
    assert "dual encoder" in second and "dual encoder" not in first
    for key, text in (("text_to_image", first), ("text_to_image_reranked", second)):
        assert f"{report[key]['metrics']['mAP']:.2f}" in text


def test_records_hold_the_reranked_candidates(place, reranked, every_pair):
    _, log_odds, _, image_ids = every_pair
    records, before = (
        [json.loads(line) for line in (place / "out" / name).read_text().splitlines()]
        for name in ("reranked_queries.jsonl", "queries.jsonl")
    )
    for scores, record, old in zip(log_odds, records, before):
        images = [entry["image_id"] for entry in record["top"]]
        assert sorted(images) == sorted(entry["image_id"] for entry in old["top"][:K])
        wanted = [scores[image_ids.index(image)] for image in images]
        np.testing.assert_allclose([entry["score"] for entry in record["top"]], wanted, atol=2e-2)
    with Image.open(place / "out" / "reranked_failures.png") as picture:
        assert picture.size[0] > 300


def test_without_the_option_nothing_changes(place, reranked, tmp_path):
    output = evaluate(place, "--out", tmp_path).output
    report = json.loads((tmp_path / "metrics.json").read_text())
    with_option = {key: value for key, value in reranked[1].items() if key != "text_to_image_reranked"}
    assert report == with_option and "re-ranked" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failures.png", "metrics.json", "queries.jsonl"]
    assert (tmp_path / "queries.jsonl").read_bytes() == (place / "out" / "queries.jsonl").read_bytes()


def test_more_candidates_than_images_no_intervals_and_little_memory(place, every_pair, tmp_path):
    options = ["--rerank", 1000, "--bootstrap", 0, "--direction", "both", "--rerank-memory", 1]
    output = evaluate(place, *options, "--out", tmp_path).output
    part = json.loads((tmp_path / "metrics.json").read_text())["text_to_image_reranked"]
    _, log_odds, ids, image_ids = every_pair
    assert part["candidates"] == len(image_ids) and "difference_to_dual_encoder" not in part
    wanted = ranking_metrics(rank_matrix(log_odds, *ids))
    assert part["metrics"]["rank10"] == pytest.approx(wanted["rank10"], abs=4)  # half precision may exchange images
    assert "image-to-text" in output and "dual encoder" in output and "interval" not in output


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rerank", 4, "--model", "dual"], "does not name 'itm'"),
        (["--rerank", 4, "--direction", "image-to-text"], "--direction image-to-text does not measure"),
    ],
)
def test_bad_input_is_named(place, monkeypatch, options, named):
    monkeypatch.chdir(place)
    assert named in evaluate(place, *options, code=2).stderr


@pytest.fixture
def gallery(place, image_folder, tmp_path):
    run("index", image_folder, "--model", place / "model", "--out", tmp_path / "gallery")
    return tmp_path / "gallery"


QUERY = "a man in a red coat"


def search(gallery, *options):
    return json.loads(run("search", gallery, QUERY, "--json", *options).stdout)


def test_search_puts_the_first_hits_in_the_models_order(place, gallery):
    plain, found = search(gallery), search(gallery, "--rerank", K)
    model = AgaForImageTextRetrieval.from_pretrained(place / "model").eval()
    processor = AgaProcessor.from_pretrained(place / "model")
    scores = {}
    for hit in plain["hits"][:K]:
        pixels = processor(images=[read_image(hit["path"])], return_tensors="pt")["pixel_values"]
        scores[hit["path"]] = model.score(pixels, **processor(text=[QUERY], return_tensors="pt")).item()
    paths = [hit["path"] for hit in found["hits"]]
    scale = model.aga.logit_scale.exp().item()
    whole = {hit["path"]: scores[hit["path"]] + scale * hit["score"] for hit in plain["hits"][:K]}
    assert paths[:K] == sorted(whole, key=lambda path: -whole[path])
    assert paths[K:] == [hit["path"] for hit in plain["hits"][K:]]
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4, 5, 6, 7] and found["rerank"] == K
    for hit in found["hits"][:K]:
        assert hit["itm_score"] == pytest.approx(scores[hit["path"]], abs=2e-2)
    assert all(hit["itm_score"] is None for hit in found["hits"][K:])
    cosines = {hit["path"]: hit["score"] for hit in plain["hits"]}
    assert {hit["path"]: hit["score"] for hit in found["hits"]} == cosines
    assert "itm_score" not in plain["hits"][0] and "rerank" not in plain


def test_fewer_results_than_candidates(gallery, tmp_path):
    whole = search(gallery, "--rerank", 20)
    found = search(gallery, "--rerank", 20, "--top-k", 2, "--save", tmp_path / "result.png")
    assert found["hits"] == whole["hits"][:2]
    assert "re-ranking of 20, but the gallery holds 7 images" in found["notes"][0]
    assert Image.open(tmp_path / "result.png").size[0] > 300


def test_the_table_shows_both_scores(gallery):
    found = search(gallery, "--rerank", 7)
    table = run("search", gallery, QUERY, "--rerank", 7).stdout
    assert "ITM log-odds" in table and "cosine" in table
    for hit in found["hits"]:
        assert f"{hit['itm_score']:.3f}" in table and f"{hit['score']:.4f}" in table


def test_an_image_that_is_gone_stays_behind_with_a_note(gallery, image_folder):
    first = search(gallery, "--rerank", K)["hits"][0]["path"]
    (image_folder / first).unlink()
    found = search(gallery, "--rerank", K, "--top-k", 7)
    assert found["hits"][K - 1]["path"] == first and found["hits"][K - 1]["itm_score"] is None
    assert len(found["notes"]) == 1 and f"cannot be read: {Path(first).name}: no such file" in found["notes"][0]
    for path in image_folder.rglob("*"):
        if path.is_file():
            path.unlink()
    notes = search(gallery, "--rerank", 7, "--top-k", 7)["notes"]
    assert len(notes) == 6 and notes[5] == "and 2 more images that cannot be read"


def test_a_model_without_itm_cannot_rerank(place, image_folder, tmp_path):
    run("index", image_folder, "--model", place / "dual", "--out", tmp_path / "gallery")
    result = run("search", tmp_path / "gallery", QUERY, "--rerank", 5, code=2)
    assert "does not name 'itm'" in result.stderr and result.stdout == ""
