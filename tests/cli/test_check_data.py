"""`aga check-data`: exit status, what is printed, and the JSON report."""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli.datasets.check_data import _figure, _table
from aga_model.cli.main import app
from aga_model.data import SplitSize
from aga_model.data.rendered import render_dataset


def run(*arguments):
    return CliRunner().invoke(app, ["check-data", *map(str, arguments)])


@pytest.fixture
def data(tmp_path):
    render_dataset(tmp_path / "data", 8, 0, val_identities=1, test_identities=2, height=48, width=32, processes=1)
    return tmp_path / "data"


def edit(data, change):
    annotation = data / "reid_raw.json"
    records = json.loads(annotation.read_text())
    change(records)
    annotation.write_text(json.dumps(records))
    return records


def test_a_rendered_set_passes_with_a_remark(data, tmp_path):
    result = run(data, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "remark rendered" in result.stdout and "nothing is wrong" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    counts = json.loads((data / "attributes.json").read_text())["splits"]
    assert report["ok"] is True and report["splits"] == counts and report["dataset"] == "cuhk-pedes"
    assert report["images_decoded"] == sum(size["images"] for size in counts.values())


def test_problems_are_listed_and_end_with_one(data, tmp_path):
    records = edit(data, lambda records: records[3].update(captions=[""]))
    (data / "imgs" / records[5]["file_path"]).unlink()
    (data / "imgs" / records[6]["file_path"]).write_bytes(b"\xff\xd8\xff")
    result = run(data, "--dataset", "cuhk-pedes", "--json", tmp_path / "report.json")
    assert result.exit_code == 1, result.output
    for kind, number in (("empty-caption", 3), ("missing-image", 5), ("unreadable-image", 6)):
        assert re.search(rf"error {kind}: .*: 1\n", result.stdout)
        assert f"reid_raw.json: record {number} ({records[number]['file_path']})" in result.stdout
    problems = {problem["kind"]: problem for problem in json.loads((tmp_path / "report.json").read_text())["problems"]}
    assert set(problems) == {"empty-caption", "missing-image", "unreadable-image", "rendered"}
    place = problems["missing-image"]["places"][0]
    assert (place["record"], place["image"]) == (5, records[5]["file_path"])
    assert place["file"] == str(data / "reid_raw.json")


def test_five_places_are_listed_and_more_are_told_of(data):
    records = edit(data, lambda records: [record.update(captions=[""]) for record in records[:7]])
    shown = run(data, "--dataset", "cuhk-pedes").stdout
    for number in range(7):
        assert (f"record {number} ({records[number]['file_path']})" in shown) is (number < 5)
    assert shown.count("and more") == 1 and ": 7\n" in shown


def test_a_set_that_cannot_be_read_ends_with_two(data, tmp_path):
    (data / "reid_raw.json").write_text("[{")
    for arguments, named in (
        ([data], "not valid JSON"),
        ([tmp_path], "no annotation file"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([data, "--dataset", "market"], "unknown dataset 'market'; known: cuhk-pedes"),
        ([data, "--dataset", "rstp-reid"], "reid_raw.json is the annotation of cuhk-pedes"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and named in result.stderr, result.output
        assert result.stderr.count("\n") == 1


def test_file_names_cannot_write_to_the_terminal(tmp_path):
    Image.new("RGB", (10, 20)).save(tmp_path / "a.jpg")
    names = ["a.jpg", "\x1b[31mred\n.jpg"]
    lines = [json.dumps({"file_name": name, "person_id": 1, "caption": "A man."}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    result = run(tmp_path)
    assert result.exit_code == 1 and "\x1b[31m" not in result.output and "line 2" in result.output


@pytest.mark.parametrize(
    ("found", "published", "shown"),
    [
        (3074, 3074, "3,074 as published"),
        (3075, 3074, "3,075, published 3,074"),
        (3073, 3074, "3,073, published 3,074"),
        (0, 3074, "0, published 3,074"),
        (3074, None, "3,074"),
    ],
)
def test_a_figure_beside_the_published_one(found, published, shown):
    assert _figure(found, published) == shown


def test_a_split_that_is_missing_or_not_published_has_a_row():
    table = _table(
        {"train": SplitSize(3, 9, 18), "extra": SplitSize(1, 2, 4)},
        {"train": SplitSize(3, 9, 18), "val": SplitSize(1, 3, None)},
    )
    rows = list(zip(*(column.cells for column in table.columns)))
    assert rows == [
        ("train", "3 as published", "9 as published", "18 as published"),
        ("val", "0, published 1", "0, published 3", "0"),
        ("extra", "1", "2", "4"),
    ]
