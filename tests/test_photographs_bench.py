"""The bench on photographs: its chance level, its judgements, and its report."""

import json
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from aga_model.evaluation.metrics import retrieval_metrics
from benchmarks.search import photographs


@pytest.mark.parametrize(("relevant", "images"), [(1, 1), (1, 5), (2, 5), (5, 5)])
def test_chance_is_the_mean_over_all_orders(relevant, images):
    ids = [1] * relevant + [0] * (images - relevant)
    orders = {tuple(ids[i] for i in order) for order in permutations(range(images))}
    scores = -np.arange(images, dtype=float)[None]
    found = [retrieval_metrics(scores, [1], list(order))["mAP"] for order in orders]
    assert photographs.chance_average_precision(relevant, images) == pytest.approx(np.mean(found))


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        Image.new("RGB", (32, 64), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "queries.yaml").write_text(
        "suffix: .png\nqueries:\n"
        "- {text: a person in red, relevant: [a], unclear: [c]}\n"
        "- {text: blue, relevant: [b]}\n"
    )
    return tmp_path


def test_unclear_images_count_neither_way(folder):
    first, second = photographs.read_queries(folder / "queries.yaml", folder)
    assert first == ("a person in red", {folder / "a.png": True, folder / "b.png": False})
    assert second == ("blue", {folder / "a.png": False, folder / "b.png": True, folder / "c.png": False})


def test_an_image_that_is_not_there_is_named(folder):
    (folder / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"query 'a person in red': no image .*c\.png"):
        photographs.read_queries(folder / "queries.yaml", folder)


def test_report(folder, make_model, processor, tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--images", folder, "--queries", folder / "queries.yaml"]
    photographs.main([*map(str, options), "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "photographs.json").read_text())
    assert [(query["relevant"], query["images"]) for query in report["queries"]] == [(1, 2), (1, 3)]
    assert report["queries"][0]["chance"] == 75.0
    mean = np.mean([query["average_precision"] for query in report["queries"]])
    assert report["mean_average_precision"] == pytest.approx(mean, abs=0.01)
    assert Image.open(tmp_path / "out" / "01.png").size[0] > 100
    assert "a person in red" in capsys.readouterr().out
