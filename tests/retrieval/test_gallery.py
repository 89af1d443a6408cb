"""A gallery's own part: its place, its model, its checks, damage, and the row, the filter and the file facts."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from store_worker import DIM, MODEL, unit

from aga_model.retrieval import Filter, Gallery, GalleryError, GalleryRow, Hit
from aga_model.retrieval.facts import ImageFacts, TimeSource, exif_time, facts_reader
from aga_model.retrieval.store import BestRows, read_text, store_text

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

PACKAGE = Path(__file__).parents[2]


def photographs(count):
    paths = [f"/people/image-{number:04}.jpg" for number in range(count)]
    return [GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL) for number, path in enumerate(paths)]


def make(path, count=50):
    gallery = Gallery.create(path, MODEL, DIM, "some/model")
    gallery.add(unit(count), photographs(count))
    return gallery


def test_hits_of_a_reopened_gallery_are_brute_force(tmp_path):
    made = make(tmp_path / "g")
    opened = Gallery.open(tmp_path / "g")
    assert (opened.model_name, opened.model_hash, opened.dim, opened.count()) == ("some/model", MODEL, DIM, 50)
    assert made.folder == opened.folder == tmp_path / "g" and str(opened) == str(tmp_path / "g")
    queries = unit(5, seed=1)
    scores = queries.astype(float) @ unit(50).astype(float).T
    for gallery in (made, opened):
        for query, hits in enumerate(gallery.search(queries, 7)):
            order = np.argsort(-scores[query])[:7]
            assert [hit.row for hit in hits] == [photographs(50)[index] for index in order]
            assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
            np.testing.assert_allclose([hit.score for hit in hits], scores[query, order], atol=1e-9)
    only = Filter(paths=["/people/image-0003.jpg"])
    assert [hit.path for hit in opened.search(queries[:1], 7, only)[0]] == [Path("/people/image-0003.jpg")]


def test_nothing_is_written_before_the_first_addition(tmp_path):
    gallery = Gallery.create(tmp_path / "new" / "g", MODEL, DIM, "m")
    assert gallery.search(unit(2), 3) == [[], []] and gallery.count() == 0 and list(gallery.rows()) == []
    assert gallery.delete(Filter(cameras=["c"])) == 0 and list(gallery.embeddings()) == []
    assert gallery.vector_index().rows == 0
    gallery.compact()
    with pytest.raises(GalleryError, match="is empty"):
        gallery.build_index()
    assert not (tmp_path / "new").exists() and not Gallery.exists(tmp_path / "new" / "g")
    make(tmp_path / "old")
    gallery = Gallery.create(tmp_path / "old", "b" * 64, 4, "other", overwrite=True)
    assert Gallery.open(tmp_path / "old").count() == 50
    gallery.add(unit(2, dim=4), [replace(row, model_hash="b" * 64) for row in photographs(2)])
    assert (Gallery.open(tmp_path / "old").count(), Gallery.open(tmp_path / "old").model_name) == (2, "other")


def test_bad_queries(tmp_path):
    gallery = make(tmp_path / "g", 3)
    assert gallery.search(unit(0), 3) == []
    with pytest.raises(ValueError, match="top_k"):
        gallery.search(unit(1), 0)
    with pytest.raises(ValueError, match=r"\(n, 16\)"):
        gallery.search(unit(1)[:, :4], 1)
    with pytest.raises(ValueError, match="unit length"):
        gallery.search(unit(1) * 2, 1)
    with pytest.raises(ValueError, match="unit length"):
        gallery.search(unit(1) * np.nan, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_hash": "b" * 64}, "was made with model m"),
        ({"model_hash": ""}, "needs model_hash"),
        ({"source": "", "path": ""}, "needs source"),
        ({"source_hash": ""}, "needs source_hash"),
        ({"source": "people/a.jpg"}, "source .* absolute"),
        ({"path": "a.jpg"}, "path .* absolute"),
        ({"width": 0}, "must be positive, got 0x40"),
        ({"frame": -1}, "frame"),
        ({"box": (5, 5, 5, 10)}, "box"),
        ({"box": (1, 2, 3)}, "box"),
        ({"time": float("nan")}, "time .* not finite"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_added(tmp_path, changes, message):
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, "m")
    first, second = photographs(2)
    with pytest.raises(ValueError, match=message):
        gallery.add(unit(2), [first, replace(second, **changes)])
    with pytest.raises(ValueError, match="2 embeddings but 1 rows"):
        gallery.add(unit(2), [first])
    with pytest.raises(ValueError, match="unit length"):
        gallery.add(unit(1) * 0.5, [first])
    assert gallery.count() == 0 and not (tmp_path / "g").exists()


def test_deleting_needs_a_condition(tmp_path):
    gallery = make(tmp_path / "g")
    with pytest.raises(ValueError, match="would delete every image"):
        gallery.delete(Filter())
    assert gallery.delete(Filter(paths=[])) == 0
    assert gallery.delete(Filter(paths="/people/image-0001.jpg")) == 1  # one path is no list of letters
    assert Gallery.open(tmp_path / "g").count() == 49


def damage_manifest(path, **changes):
    file = path / "gallery.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def each_data_file(path, action):
    for file in path.rglob("data/*.lance"):
        action(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "gallery.json").unlink(), r"gallery\.json is missing"),
        (lambda path: (path / "gallery.json").write_text("{"), r"gallery\.json is damaged"),
        (lambda path: (path / "gallery.json").write_bytes(b"\xff\xfe{}"), r"gallery\.json is damaged"),
        (lambda path: (path / "gallery.json").write_text("[]"), r"gallery\.json is damaged"),
        (lambda path: damage_manifest(path, dim=None), r"gallery\.json is damaged \(dim is None\)"),
        (lambda path: damage_manifest(path, table="../x"), r"gallery\.json is damaged \(table"),
        (lambda path: damage_manifest(path, format_version=1), "format version 1.*index the images again"),
        (lambda path: damage_manifest(path, format_version=4), "update aga-model"),
        (lambda path: damage_manifest(path, dim=9), r"images-1\.lance does not hold what .*gallery\.json says"),
        (lambda path: damage_manifest(path, table="images-2"), r"images-2\.lance is missing"),
        (lambda path: [file.unlink() for file in path.rglob("*.manifest")], r"images-1\.lance is damaged"),
        (lambda path: [file.write_bytes(b"x" * 99) for file in path.rglob("*.manifest")], r"images-1\.lance is dam"),
        (lambda path: each_data_file(path, Path.unlink), r"images-1\.lance is damaged.*data/"),
        (lambda path: each_data_file(path, lambda file: file.write_bytes(b"")), r"images-1\.lance is damaged"),
        (lambda path: each_data_file(path, lambda file: os.truncate(file, 900)), r"images-1\.lance is damaged"),
    ],
)
def test_damage_is_named_with_what_to_do(tmp_path, damage, message):
    make(tmp_path / "g")
    damage(tmp_path / "g")
    with pytest.raises(GalleryError, match=message) as caught:
        Gallery.open(tmp_path / "g").search(unit(1), 3)
    assert "aga index" in str(caught.value) or "update" in str(caught.value)
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, "m", overwrite=True)
    gallery.add(unit(2), photographs(2))
    assert len(Gallery.open(tmp_path / "g").search(unit(1), 3)[0]) == 2


def test_a_gallery_of_format_1_is_refused_and_can_be_overwritten(tmp_path):
    old = {"format_version": 1, "model_name": "m", "model_hash": MODEL, "dim": 4, "count": 0, "generation": 1}
    (tmp_path / "gallery.json").write_text(json.dumps(old))
    (tmp_path / "rows-1.jsonl").write_text('{"path": "/secret.jpg"}\n')
    (tmp_path / "embeddings-1.safetensors").write_bytes(b"0")
    with pytest.raises(GalleryError, match=r"gallery\.json has format version 1.*index the images again"):
        Gallery.open(tmp_path)
    Gallery.create(tmp_path, MODEL, DIM, "m", overwrite=True).add(unit(1), photographs(1))
    assert Gallery.open(tmp_path).count() == 1
    assert not list(tmp_path.glob("rows-*")) and not list(tmp_path.glob("embeddings-*"))


def test_create_is_careful_about_its_place(tmp_path):
    make(tmp_path / "g")
    assert Gallery.exists(tmp_path / "g") and not Gallery.exists(tmp_path)
    with pytest.raises(GalleryError, match="holds a gallery already"):
        Gallery.create(tmp_path / "g", MODEL, DIM, "m")
    (tmp_path / "file").touch()
    with pytest.raises(GalleryError, match="is a file"):
        Gallery.create(tmp_path / "file", MODEL, DIM, "m")
    with pytest.raises(GalleryError, match="is a file"):
        Gallery.open(tmp_path / "file")
    with pytest.raises(GalleryError, match="holds no gallery"):
        Gallery.open(tmp_path / "nowhere")
    with pytest.raises(GalleryError, match="cannot be made"):
        Gallery.create(tmp_path / "file" / "g", MODEL, DIM, "m")
    with pytest.raises(GalleryError, match="not at s3://bucket"):
        Gallery.create("s3://bucket/g", MODEL, DIM, "m")
    for overwrite in (False, True):
        with pytest.raises(GalleryError, match="holds other files"):
            Gallery.create(tmp_path, MODEL, DIM, "m", overwrite=overwrite)


WITHOUT_STORES = """
import sys
sys.modules["lancedb"] = sys.modules["pymilvus"] = None
import aga_model.retrieval.encoder
from aga_model.retrieval import Gallery, GalleryError
for location, extra in (("g", "search"), ("milvus://host/g", "milvus")):
    try:
        Gallery.open(location)
    except GalleryError as error:
        assert f"pip install 'aga-model[{extra}]'" in str(error), error
    else:
        raise AssertionError
"""


def test_without_the_stores_all_else_imports_and_the_error_says_what_to_install(tmp_path):
    command = [sys.executable, "-c", WITHOUT_STORES]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


# --- rows and filters ---


def test_the_id_is_of_the_content():
    row = GalleryRow("/a.jpg", "1" * 64, "/a.jpg", 20, 40, MODEL)
    same = replace(row, source="/b.jpg", path="", camera="c", time=1, model_hash="b" * 64)
    assert row.id == same.id and len(row.id) == 32
    others = [replace(row, source_hash="2" * 64), replace(row, frame=0), replace(row, frame=1)]
    others += [replace(row, box=(0, 0, 1, 1)), replace(row, frame=1, box=(0, 0, 1, 1))]
    assert len({each.id for each in [row, *others]}) == 6
    assert replace(row, box=(0, 0, 1, 1)).id == replace(row, box=(0.0, 0.0, np.float32(1), 1)).id
    assert replace(row, person_id=7).person_id == "7" and replace(row, person_id="").person_id is None


def test_hit_path_is_the_source_of_a_crop_that_was_not_saved():
    row = GalleryRow("/video.mp4", "1" * 64, "", 20, 40, MODEL, frame=3, box=(0, 0, 1, 1))
    assert Hit(1, 0.5, row).path == Path("/video.mp4")
    assert Hit(1, 0.5, replace(row, path="/crop.jpg")).path == Path("/crop.jpg")


def test_filter_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Filter(paths=["a.jpg", tmp_path / "a.jpg"]).paths == (str(tmp_path / "a.jpg"),)
    assert Filter(person_ids=[7, "7", "x"]).person_ids == ("7", "x")
    assert Filter(since=datetime(2026, 1, 1, tzinfo=UTC)).times() == (1767225600.0, None)
    assert Filter(until=datetime(2026, 1, 1)).times()[1] == datetime(2026, 1, 1).timestamp()  # local
    assert Filter().is_empty and not Filter(cameras=[]).is_empty
    for bad in ({"since": 2, "until": 2}, {"since": float("nan")}, {"cameras": [""]}, {"until": float("inf")}):
        with pytest.raises(ValueError):
            Filter(**bad)


def test_stored_texts_come_back():
    for text in ("plain", "照片", "\udcff", "\x1a", "\x1aff", "a\x1a1a\udc80\x1a", ""):
        stored = store_text(text)
        stored.encode()
        assert read_text(stored) == text
    assert store_text("plain") == "plain"
    texts = ["\x1aff", "\udcff", "\x1a1aff"]
    assert len({store_text(text) for text in texts}) == 3


def test_best_rows_do_not_depend_on_how_they_come():
    """A matrix product rounds by the row's place: `embeddings @ query` gives equal rows unequal scores."""
    embeddings = np.concatenate([np.tile(unit(1, seed=3, dim=100), (400, 1)), unit(100, dim=100)])
    ids = [f"{number:04}" for number in range(500)]
    query = unit(2, seed=5, dim=100)
    results = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        order = rng.permutation(500)
        best = BestRows(query, 420)
        for part in np.array_split(order, rng.integers(1, 30)):
            best.update([ids[index] for index in part], embeddings[part])
        results.append(best.found())
    assert all(result == results[0] for result in results)
    scores = {row_id: score for row_id, score in results[0][0]}
    assert len({scores[row_id] for row_id in ids[:400] if row_id in scores}) == 1


# --- what is known of a file ---


def test_facts_from_the_path():
    facts_of = facts_reader(camera_from=r"_c(\d+)", person_from=r"/(\d{4})_")
    assert facts_of("/market/0002_c1s1_000451.jpg") == ImageFacts("1", "0002", None)
    assert facts_of("/market/other.jpg") == ImageFacts()
    assert facts_reader(camera="door")("/a.jpg").camera == "door"
    for options, message in (
        ({"camera_from": "("}, "--camera-from '\\(' is no regular expression"),
        ({"camera_from": "c1"}, "must have one group"),
        ({"person_from": "(a)(b)"}, "must have one group"),
        ({"camera": "a", "camera_from": "(a)"}, "--camera or --camera-from"),
    ):
        with pytest.raises(ValueError, match=message):
            facts_reader(**options)


def test_times_of_files(tmp_path):
    path = tmp_path / "a.jpg"
    image, exif = Image.new("RGB", (20, 40)), Image.Exif()
    image.save(path)
    assert exif_time(path) is None and exif_time(tmp_path / "missing.jpg") is None
    tags = exif.get_ifd(0x8769)
    tags[0x9003] = "2026:03:01 18:30:00"
    image.save(path, exif=exif)
    assert exif_time(path) == datetime(2026, 3, 1, 18, 30).timestamp()
    tags[0x9011] = "+02:00"
    image.save(path, exif=exif)
    assert exif_time(path) == datetime(2026, 3, 1, 16, 30, tzinfo=UTC).timestamp()
    tags[0x9003] = "yesterday"
    image.save(path, exif=exif)
    assert exif_time(path) is None
    os.utime(path, (5.5, 5.5))
    assert facts_reader(time_from=TimeSource.MTIME)(str(path)).time == 5.5
    assert facts_reader(time_from=TimeSource.MTIME)("/nowhere.jpg").time is None
    assert facts_reader(time_from=TimeSource.EXIF)(str(path)).time is None
