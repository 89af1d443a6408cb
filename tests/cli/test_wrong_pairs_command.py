"""`aga wrong-pairs`: captions that were exchanged are named, listed and drawn; bad input."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli.datasets import wrong_pairs as command
from aga_model.cli.main import app
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import SplitEmbeddings, wrong_pairs

BASE = Path(__file__).parents[2] / "checkpoints" / "aga-small-rendered"


def run(*arguments):
    return CliRunner().invoke(app, ["wrong-pairs", "--model", str(BASE), *map(str, arguments)])


@pytest.fixture
def split():
    """Six images of three persons on a circle, of different lengths, and a caption 10 degrees from each."""
    angles = torch.deg2rad(torch.arange(6) * 25.0)
    images = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1, 7)[:, None]
    angles = angles + torch.deg2rad(torch.tensor(10.0))
    texts = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    persons, image_ids = np.array([4, 4, 5, 5, 6, 6]), np.arange(6) + 70
    paths, captions = [f"{number}.png" for number in range(6)], [f"caption {number}" for number in range(6)]
    return SplitEmbeddings(images, texts, persons, persons, image_ids, image_ids, paths, captions)


def test_the_image_in_question_is_framed_red_and_stands_before_better_ones(split, monkeypatch):
    drawn = []

    def draw(caption, hits, path, correct):
        drawn.append((caption, [hit.row.source for hit in hits], [hit.score for hit in hits], correct))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(command, "save_result_picture", draw)
    split.query_image_ids = np.array([70, 75, 72, 73, 74, 75])  # the second caption is said to describe the last image
    command._draw([1, 3], split, torch.device("cpu"))
    (caption, paths, scores, correct), (_, own, _, _) = drawn
    assert caption == "caption 1" and paths == ["5.png", "1.png", "2.png", "0.png", "3.png"]
    degrees = np.array([125 - 35, 35 - 25, 50 - 35, 35 - 0, 75 - 35])
    assert scores == pytest.approx(np.cos(np.deg2rad(degrees)), abs=1e-5)
    assert correct == [False, True, True, True, True]
    assert own == ["3.png", "4.png", "2.png", "5.png"]  # the own image is not drawn twice


def _embedded(monkeypatch, split):
    """Makes the command find this split."""
    encoder = SimpleNamespace(processor=None, model=None, device="cpu")
    monkeypatch.setattr(command, "open_split", lambda *arguments: (None, encoder))
    evaluator = SimpleNamespace(embed=lambda model: split)
    monkeypatch.setattr("aga_model.evaluation.RetrievalEvaluator", lambda *arguments: evaluator)


@pytest.mark.parametrize(("share", "warned"), [(0.95, True), (0.5, False)])
def test_a_model_that_cannot_tell_pairs_is_named_and_the_seed_counts(split, monkeypatch, share, warned):
    asked = []

    def find(embedded, seed, device):
        asked.append((embedded, seed, device))
        return wrong_pairs.WrongPairs(np.array([0.1, 0.9, 0.2, 0.1, 0.7, 0.3]), share, 0.5)

    encoder = SimpleNamespace(processor=None, model=None, device="cpu")
    monkeypatch.setattr(command, "open_split", lambda *arguments: (None, encoder))
    monkeypatch.setattr(
        "aga_model.evaluation.RetrievalEvaluator", lambda *arguments: SimpleNamespace(embed=lambda model: split)
    )
    monkeypatch.setattr("aga_model.evaluation.find_wrong_pairs", find)
    result = CliRunner().invoke(app, ["wrong-pairs", "--model", "m", "--data-root", "d", "--seed", "7"])
    assert result.exit_code == 0, result.output
    assert asked == [(split, 7, "cpu")]
    assert ("can hardly tell" in result.stderr) == warned
    lines = result.stdout.splitlines()
    assert lines[1:] == ["  1.png: caption 1", "  4.png: caption 4"]  # the worst first
    assert f"about {share:.1%} of 6 captions" in lines[0] and "2 are more likely wrong" in lines[0]


def test_a_picture_of_earlier_pairs_is_removed(split, monkeypatch, tmp_path):
    _embedded(monkeypatch, split)
    monkeypatch.setattr(
        "aga_model.evaluation.find_wrong_pairs", lambda *arguments: wrong_pairs.WrongPairs(np.full(6, 0.1), 0.0, 0.1)
    )
    (tmp_path / "wrong_pairs.png").write_text("of another model")
    result = CliRunner().invoke(app, ["wrong-pairs", "--model", "m", "--data-root", "d", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["wrong_pairs.json"]
    assert json.loads((tmp_path / "wrong_pairs.json").read_text())["left_out"] == []


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A rendered set in which one image of each of twenty persons has the captions of another one; and their names."""
    folder = tmp_path_factory.mktemp("exchanged")
    render_dataset(folder, 40, 3, val_identities=2, test_identities=2, height=128, width=64, processes=1)
    annotation = folder / "reid_raw.json"
    records = json.loads(annotation.read_text())
    by_person = {record["id"]: record for record in records if record["split"] == "train"}
    chosen = list(by_person.values())[:20]
    captions = [record["captions"] for record in chosen]
    for record, others in zip(chosen, captions[1:] + captions[:1]):
        record["captions"] = others
    annotation.write_text(json.dumps(records))
    return folder, {record["file_path"] for record in chosen}


def test_exchanged_captions_are_found_listed_and_drawn(data, tmp_path):
    folder, exchanged = data
    result = run("--data-root", folder, "--out", tmp_path / "found")
    assert result.exit_code == 0, result.output
    assert "captions are another person's" in result.stdout
    report = json.loads((tmp_path / "found" / "wrong_pairs.json").read_text())
    images = [pair["image"].split("imgs/")[1] for pair in report["left_out"]]
    named = [image in exchanged for image in images]
    assert len(exchanged & set(images)) >= 15 and sum(named) > 0.8 * len(named)
    assert report["left_out"][0]["caption"] in result.stdout
    picture = Image.open(tmp_path / "found" / "wrong_pairs.png")
    assert picture.width > 500 and picture.height > 300 * min(8, len(named))


def test_bad_input_is_named(data, tmp_path):
    result = run("--data-root", data[0], "--split", "dev")
    assert result.exit_code == 2 and "has the splits train, val, test" in result.stderr
    result = run("--data-root", tmp_path / "nowhere")
    assert result.exit_code == 2 and "nowhere" in result.stderr
