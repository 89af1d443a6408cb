"""`aga render`: the options arrive where they belong, and nobody's pictures are replaced unasked."""

import json
from collections import Counter

import pytest
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli.datasets.render import _parse_range
from aga_model.cli.main import app


def render(*arguments, code=0):
    result = CliRunner().invoke(app, ["render", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_a_set_is_drawn_as_it_was_asked_for(tmp_path):
    out = tmp_path / "set"
    options = ("--height", 48, "--width", 32, "--images-per-identity", 3, "--captions-per-image", 1, "--processes", 1)
    splits = ("--val-identities", 1, "--test-identities", 2)
    shown = render(out, "--identities", 6, "--seed", 5, *splits, *options).stdout
    assert "18 images" in shown and "val: 1 identities, 3 images, 3 captions" in shown
    records = json.loads((out / "reid_raw.json").read_text())
    people = {
        split: Counter(one["id"] for one in records if one["split"] == split) for split in ("train", "val", "test")
    }
    assert {split: sorted(counts.values()) for split, counts in people.items()} == {
        "train": [3, 3, 3], "val": [3], "test": [3, 3],
    }  # fmt: skip
    assert {len(one["captions"]) for one in records} == {1}
    assert {Image.open(out / "imgs" / one["file_path"]).size for one in records} == {(32, 48)}

    before = (out / "reid_raw.json").read_bytes()
    assert "nothing to do" in render(out, "--identities", 6, "--seed", 5, *splits, *options).stdout
    render(out, "--identities", 6, "--seed", 6, *splits, *options, code=2)
    assert (out / "reid_raw.json").read_bytes() == before
    render(out, "--identities", 6, "--seed", 6, *splits, *options, "--overwrite")
    assert (out / "reid_raw.json").read_bytes() != before


@pytest.mark.parametrize(("text", "wanted"), [("2-4", (2, 4)), ("3", (3, 3)), ("1-1", (1, 1))])
def test_a_range_or_one_number(text, wanted):
    assert _parse_range(text) == wanted
