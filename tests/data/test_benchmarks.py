"""The CUHK-PEDES loader on miniature sets in its on-disk layout."""

import json

import pytest
from PIL import Image

from aga_model.data.benchmarks import is_rendered, load_benchmark, load_cuhk_pedes

RECORDS = [
    {
        "split": "train",
        "id": 1,
        "file_path": "CUHK01/a.png",
        "captions": ["A man.", "He walks."],
        "processed_tokens": [],
    },
    {"split": "train", "id": 2, "file_path": "cam_a/b.png", "captions": ["A woman."], "processed_tokens": []},
    {"split": "val", "id": 3, "file_path": "c.png", "captions": ["A boy."], "processed_tokens": []},
    {"split": "test", "id": 4, "file_path": "test_query/d.png", "captions": ["A girl."], "processed_tokens": []},
]


def write_set(folder, records):
    for record in records:
        path = folder / "imgs" / record.get("file_path", "x.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 12)).save(path)
    (folder / "reid_raw.json").write_text(json.dumps(records))


@pytest.mark.parametrize("level", ["", "CUHK-PEDES"])
def test_one_row_per_caption(tmp_path, level):
    write_set(tmp_path / level, RECORDS)
    splits = load_benchmark("cuhk-pedes", tmp_path)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "val": 1, "test": 1}
    train = splits["train"]
    assert train["caption"] == ["A man.", "He walks.", "A woman."]
    assert train["person_id"] == [1, 1, 2] and train["image_id"] == [0, 0, 1]
    assert train["camera_id"] == ["CUHK01", "CUHK01", "cam_a"]
    assert splits["val"]["camera_id"] == [None]
    assert train["image"][2]["path"] == str(tmp_path / level / "imgs" / "cam_a" / "b.png")
    assert not is_rendered(tmp_path)


def _without(key):
    return {name: value for name, value in RECORDS[1].items() if name != key}


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (_without("captions"), "'captions' is missing"),
        (_without("id"), "'id' is missing"),
        ({**RECORDS[1], "captions": []}, r"record 1 \(cam_a/b.png\): has no caption"),
        ({**RECORDS[1], "captions": ["ok", "  "]}, "caption 1 is empty"),
        ({**RECORDS[1], "split": "query"}, "split is 'query'"),
        ({**RECORDS[1], "id": "7"}, "id is '7'"),
        ("not a record", "record 1: expected an object"),
    ],
)
def test_a_broken_record_is_named(tmp_path, broken, named):
    write_set(tmp_path, RECORDS)
    (tmp_path / "reid_raw.json").write_text(json.dumps([RECORDS[0], broken]))
    with pytest.raises(ValueError, match=named):
        load_cuhk_pedes(tmp_path)


def test_missing_images_are_counted_and_named(tmp_path):
    write_set(tmp_path, RECORDS)
    (tmp_path / "imgs" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images named in .*first: c\.png"):
        load_cuhk_pedes(tmp_path)


def test_missing_annotation_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="aga render"):
        load_cuhk_pedes(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_annotation_that_is_no_list_of_records(tmp_path, content):
    (tmp_path / "reid_raw.json").write_text(content)
    with pytest.raises(ValueError, match=r"reid_raw\.json"):
        load_cuhk_pedes(tmp_path)


def test_unknown_dataset():
    with pytest.raises(ValueError, match="known: cuhk-pedes"):
        load_benchmark("market", "x")
