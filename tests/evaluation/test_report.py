"""The page of a run: which examples it shows, as what, and which figures it keeps."""

import base64
import io
import json

import pytest
from datasets import Dataset
from PIL import Image

from aga_model.evaluation import report, write_report
from aga_model.evaluation.report import draw_curves


@pytest.fixture
def rows(tmp_path):
    """Nine captions of nine images, each of a grey level of its own."""
    images = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (4, 8), (20 * number,) * 3).save(path)
        images.append({"path": str(path), "bytes": None})
    return Dataset.from_dict({"image": images, "caption": [f"caption {number}" for number in range(9)]})


@pytest.fixture
def captions_as_tokens(monkeypatch):
    monkeypatch.setattr(report, "enrichment_examples", lambda model, processor, captions, paths: list(captions))


def level(uri: str) -> tuple[int, int, int]:
    """The colour of an image that a page carries."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).getpixel((0, 0))


def test_examples_are_spread_over_the_split_beside_their_images(rows, captions_as_tokens):
    examples = report._examples(None, None, rows, 3, None)
    assert [(example.tokens, level(example.image)) for example in examples] == [
        ("caption 0", (0, 0, 0)),
        ("caption 4", (80, 80, 80)),
        ("caption 8", (160, 160, 160)),
    ]


def test_examples_are_shown_as_they_are_to_be_shown(rows, captions_as_tokens):
    examples = report._examples(None, None, rows, 2, lambda image: Image.new("RGB", image.size, (1, 2, 3)))
    assert [level(example.image) for example in examples] == [(1, 2, 3)] * 2


def test_each_curve_has_its_own_values(monkeypatch):
    drawn = []
    monkeypatch.setattr(report.plt, "close", drawn.append)
    history = [
        {"step": 5, "loss": 3.0, "itc_loss": 2.0},
        {"step": 10, "loss": 2.5, "eval_rank1": 20.0, "eval_rank10": 60.0, "eval_mAP": 30.0},
        {"step": 20, "eval_rank1": 25.0, "eval_rank10": 65.0, "eval_mAP": 35.0},
    ]
    draw_curves(history)
    lines = {line.get_label(): line.get_xydata().tolist() for axes in drawn[0].axes for line in axes.get_lines()}
    assert lines == {
        "loss": [[5, 3], [10, 2.5]],
        "itc loss": [[5, 2]],
        "Rank-1": [[10, 20], [20, 25]],
        "Rank-10": [[10, 60], [20, 65]],
        "mAP": [[10, 30], [20, 35]],
    }


def test_the_shares_are_added_to_the_runs_metrics(rows, captions_as_tokens, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "TEMPLATE", tmp_path / "template.j2")
    report.TEMPLATE.write_text("{{ metrics.rank1 }} {{ gallery_count }} {{ shares.random }} {{ rendered }}")
    monkeypatch.setattr(report, "masked_attribute_share", lambda *_: {"attention": 61.237, "random": 30.0})
    monkeypatch.setattr(report, "draw_curves", lambda history: Image.new("RGB", (1, 1)))
    run = {"run.json": {"rendered_data": True}, "metrics.json": {"rank1": 12.5, "mAP": 8.0}}
    run["trainer_state.json"] = {"log_history": []}
    for name, content in run.items():
        (tmp_path / name).write_text(json.dumps(content))
    page = write_report(tmp_path, None, None, rows, frozenset(), [], 17, "")
    assert page.read_text() == "12.5 17 30.0 True"
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "rank1": 12.5,
        "mAP": 8.0,
        "masked_attribute_share": {"attention": 61.24, "random": 30.0},
    }
