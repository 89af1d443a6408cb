"""Noise by an index: RDE's nine published files, files of others, and rows that are held out for validation."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_noise import CAPTION, _rows

from aga_model.data import add_indexed_noise, make_noise_index, read_noise_index
from aga_model.data.noise_index import NoiseIndex

# Rows, moved rows and SHA-256 of the files that RDE published (commit b3fd396), computed from the files.
PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "noise_index.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_makes_the_published_files(name, tmp_path):
    wanted, rate = PUBLISHED[name], float(name.removesuffix(".npy").rpartition("_")[2])
    made = make_noise_index(wanted["rows"], rate)
    assert made.sha256 == wanted["sha256_of_int64_bytes"] and made.values.dtype == np.int64
    assert (made.values != np.arange(len(made.values))).sum() == wanted["moved"]
    np.save(tmp_path / name, made.values)
    read = read_noise_index(tmp_path / name)
    assert (read.name, read.sha256, read.rate) == (name, made.sha256, 0.0)


@pytest.fixture
def people():
    """60 captions of 30 images of 15 persons."""
    rows = _rows([f"{CAPTION} Number {row}." for row in range(60)], [row // 4 for row in range(60)])
    numbers = [row // 2 for row in range(60)]
    return rows.remove_columns("image_id").add_column("image_id", numbers).cast(rows.features)


def test_each_row_gets_the_caption_that_the_index_says(people):
    index = NoiseIndex("file.npy", np.random.default_rng(0).permutation(60))
    noisy, record = add_indexed_noise(people, None, index)
    before = people["caption"][:]
    assert noisy["caption"][:] == [before[source] for source in index.values]
    assert noisy.remove_columns("caption").to_dict() == people.remove_columns("caption").to_dict()
    assert record.permuted == {row: source for row, source in enumerate(index.values) if row != source}
    assert record.index == {"name": "file.npy", "rows": 60, "sha256": index.sha256}
    again = type(record).from_json(json.loads(json.dumps(record.to_json())))
    assert again == record and record.summary()["index"] == record.index


def test_who_is_held_out_does_not_change_the_captions_of_the_others(people):
    index = make_noise_index(60, 0.5)
    whole, _ = add_indexed_noise(people, None, index)
    out = [row for row in range(60) if people["person_id"][row] in (0, 3, 14)]
    left = [row for row in range(60) if row not in out]
    noisy, record = add_indexed_noise(people.select(left), people.select(out), index)
    assert noisy["caption"][:] == [whole["caption"][row] for row in left]
    assert {left[row] for row in record.permuted} == {row for row in left if index.values[row] != row}
    for row, source in record.permuted.items():
        wanted = int(index.values[left[row]])
        assert source == (left.index(wanted) if wanted in left else None)
    assert None in record.permuted.values()


def test_wrong_words_go_with_their_captions(people):
    index = make_noise_index(60, 0.5)
    out = [row for row in range(60) if people["person_id"][row] == 7]
    left = [row for row in range(60) if row not in out]
    noisy, record = add_indexed_noise(people.select(left), people.select(out), index, 0.3, seed=4)
    captions = noisy["caption"][:]
    assert record.errors and all(captions[e.row][e.start : e.end] == e.wrong for e in record.errors)
    clean, _ = add_indexed_noise(people.select(left), people.select(out), index)
    touched = {row for row, caption in enumerate(clean["caption"][:]) if caption != captions[row]}
    assert touched == {error.row for error in record.errors}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), r"float64 \(3,\)"),
        (np.zeros((3, 1), np.int64), r"int64 \(3, 1\)"),
        (np.zeros(0, np.int64), r"int64 \(0,\)"),
        (np.array([0, 3, 1]), "row 1 gets the caption of row 3, but there are 3 rows"),
        (np.array([0, 1, -1]), "row 2 gets the caption of row -1"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, values, message):
    np.save(tmp_path / "index.npy", values)
    with pytest.raises(ValueError, match=rf"index\.npy: .*{message}"):
        read_noise_index(tmp_path / "index.npy")


def test_files_of_other_kinds_are_refused(tmp_path, people):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: no such file"):
        read_noise_index(tmp_path / "gone.npy")
    (tmp_path / "text.npy").write_text("0 1 2")
    np.savez(tmp_path / "many.npz", np.arange(3))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("text.npy", "many.npz", "objects.npy"):
        with pytest.raises(ValueError, match=name):
            read_noise_index(tmp_path / name)
    with pytest.raises(ValueError, match="is of 59 captions, but the training split has 60"):
        add_indexed_noise(people, None, make_noise_index(59, 0.2))
    with pytest.raises(ValueError, match=r"must be at least 0 and below 1, got 1\.5"):
        make_noise_index(60, 1.5)
