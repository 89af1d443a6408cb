"""`aga wrong-pairs`: captions that were exchanged are named, listed and drawn; bad input."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.data.rendered import render_dataset

BASE = Path(__file__).parents[2] / "checkpoints" / "aga-small-rendered"


def run(*arguments):
    return CliRunner().invoke(app, ["wrong-pairs", "--model", str(BASE), *map(str, arguments)])


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
