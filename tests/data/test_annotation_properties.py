"""Whatever an annotation file holds: rows, or an error that names the file and the record."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from miniatures import CUHK, LAYOUTS, OWN_TABLE, write_image, write_miniature

from aga_model.data import check_dataset, load_benchmark
from aga_model.data.benchmarks import FEATURES

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.sampled_from(["train", "val", "test", "", " ", "\ud800", "../..", "/", "a\x00b", "."])
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
quietly = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Dataset -> its annotation file, with all images in place."""
    found = {}
    for name in LAYOUTS:
        found[name] = write_miniature(name, tmp_path_factory.mktemp(name))
    table = tmp_path_factory.mktemp("table") / "metadata.csv"
    for line in ("a/1.jpg", "b.jpg", "c.jpg"):
        write_image(table.parent / line)
    table.write_text(OWN_TABLE, encoding="utf-8")
    return found | {"own table": table}


def _check(name: str, annotation: Path, record: int | None = None) -> None:
    """Load it: rows of the right kind, or an error that names the file and, if it is about one, the record."""
    root = annotation.parent
    try:
        splits = load_benchmark(name, root)
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError), repr(error)
        assert str(annotation) in str(error), error
        if record is not None:
            unit = "record" if annotation.suffix == ".json" else "line"
            assert re.search(rf"{unit} {record}\b", str(error)) or "images named in" in str(error), error
    else:
        assert splits
        for split, rows in splits.items():
            assert rows.features == FEATURES and len(rows) and set(rows["split"]) == {split}
            assert all(caption.strip() for caption in rows["caption"])
    try:
        check_dataset(root, name)  # `aga check-data` says the same in its way
    except ValueError as error:
        assert type(error) is ValueError and str(annotation) in str(error)


def _write(annotation: Path, records: list) -> None:
    if annotation.suffix == ".json":
        annotation.write_text(json.dumps(records), encoding="utf-8")
    else:
        annotation.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@quietly
@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_any_value_of_any_key(folders, name, data):
    """One key of one record is given another value, is taken away, or comes in addition."""
    annotation, records = folders[name], json.loads(json.dumps(LAYOUTS[name][3]))
    number = data.draw(st.integers(0, len(records) - 1))
    key = data.draw(st.sampled_from([*records[number], "another", "split", "camera_id", "caption", "captions"]))
    if data.draw(st.booleans()):
        records[number].pop(key, None)
    else:
        records[number][key] = data.draw(ANYTHING)
    _write(annotation, records)
    _check(name, annotation, number if annotation.suffix == ".json" else number + 1)


@quietly
@given(st.sampled_from(sorted(LAYOUTS)), st.lists(ANYTHING, max_size=3), st.integers(0, 9))
@example("cuhk-pedes", [[]], 0)
@example("cuhk-pedes", [{"captions": [["a"]], "id": 1, "file_path": "x.png", "split": "train"}], 0)
@example("own", [None, {}], 1)
def test_any_records_among_the_others(folders, name, strange, place):
    annotation, records = folders[name], list(LAYOUTS[name][3])
    records[place:place] = strange
    _write(annotation, records)
    _check(name, annotation)


@quietly
@given(st.sampled_from(["cuhk-pedes", "own", "own table"]), st.data())
def test_any_damage_to_the_file(folders, name, data):
    """Bytes are cut off, changed or put in."""
    annotation = folders[name]
    if name == "own table":
        content = OWN_TABLE.encode()
    else:
        _write(annotation, LAYOUTS[name][3])
        content = annotation.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 8)) | st.just(len(content)))
    annotation.write_bytes(content[:start] + data.draw(st.binary(max_size=6)) + content[end:])
    _check("own" if name == "own table" else name, annotation)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "[" * 100_000, "\ufeff[]", '[{"id": 1e999}]', "NaN"])
def test_files_that_hold_no_records(folders, content):
    annotation = folders["cuhk-pedes"]
    annotation.write_text(content, encoding="utf-8")
    _check("cuhk-pedes", annotation)
    _write(annotation, CUHK)
    assert set(load_benchmark("cuhk-pedes", annotation.parent)) == {"train", "val", "test"}
