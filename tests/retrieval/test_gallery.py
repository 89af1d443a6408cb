"""A gallery's own part: its place, its model, its checks, damage, and the row, the filter and the file facts."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from store_worker import DIM, MODEL, unit

from aga_model.gallery import Filter, Gallery, GalleryError, GalleryRow, GallerySettings, Hit
from aga_model.gallery.exact import BestRows, measure_recall
from aga_model.gallery.rows import read_text, store_text
from aga_model.gallery.store import Manifest, ScoredRow, last_of_each
from aga_model.gallery.stores import EmptyStore
from aga_model.ingest import ImageFacts, TimeSource, facts_reader
from aga_model.ingest.facts import exif_time

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
        ({"box": (5, 5, 10, 5)}, "box"),
        ({"box": (5, 5, 4, 10)}, "box"),
        ({"height": 0}, "must be positive, got 20x0"),
        ({"detection_score": float("inf")}, "detection_score .* not finite"),
        ({"offset": float("nan")}, "offset .* not finite"),
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
import aga_model.search.encoder
from aga_model.gallery import Gallery, GalleryError
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
    assert Filter(sources=["a.jpg", "b/../a.jpg"]).sources == (str(tmp_path / "a.jpg"),)
    assert Filter(sources="a.jpg").texts() == {"source": (str(tmp_path / "a.jpg"),)}
    assert Filter(person_ids=[7, "7", "x"]).person_ids == ("7", "x")
    every = Filter(["c"], 1, 2.5, ["p"], ["/s"], ["/q"], ["t"], ["i"], 3, 4)
    assert every.texts() == {
        "id": ("i",), "camera": ("c",), "person_id": ("p",), "source": ("/s",), "path": ("/q",), "track": ("t",)
    }  # fmt: skip
    assert (every.times(), every.ages()) == ((1.0, 2.5), (3.0, 4.0)) and Filter(**every.to_dict()) == every
    assert Filter(since=0).times() == (0.0, None) and not Filter(since=0).is_empty
    with pytest.raises(ValueError, match="must be after"):
        Filter(since=0, until=-1)
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
    assert facts_reader(camera_from=r"_c(\d*)", person_from="(x)?")("/a_c.jpg") == ImageFacts()  # nothing, not ""
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


# --- what a store is told, and what is not asked of it ---


@pytest.fixture
def clock(monkeypatch):
    """The gallery's clock, which is set by hand."""
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def kept_for(gallery, seconds, **settings):
    gallery.change_settings(GallerySettings(keep_seconds=seconds, **settings))
    return gallery


def test_what_is_kept_no_longer_is_never_given_and_goes_with_the_next_write(tmp_path, clock):
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, "m")
    rows = [replace(row, time=time) for row, time in zip(photographs(4), (900.0, None, 950.0, 2000.0))]
    gallery.add(unit(4), rows)
    kept_for(gallery, 150.0, hide_faces=True)

    def given(where=None):
        found = {hit.row.source_hash for hit in gallery.search(unit(1), 10, where)[0]}
        assert found == {row.source_hash for row in gallery.rows(where)}
        assert len(found) == gallery.count(where) == sum(len(ids) for ids, _ in gallery.embeddings(where))
        return sorted(int(each, 16) for each in found)

    assert given() == [0, 1, 2, 3] and gallery.expired == 0
    clock[0] = 1051.0
    assert given() == [1, 2, 3] and given(Filter(since=0.0)) == [2, 3]
    assert given(Filter(fresh_since=960.0)) == [1, 3]  # of these two the time is 1000, when they were added
    assert given(Filter(fresh_since=0.0)) == [1, 2, 3]  # asking for more than is kept gives no more
    assert not gallery.holds(rows[0]) and gallery.holds(rows[1])
    assert all(hit.hide_faces for hit in gallery.search(unit(1), 3)[0])
    other = Gallery.open(tmp_path / "g")
    told = []
    other.before_removal = lambda where, number, action: told.append((action, number, where.ages(), other.expired))
    other.add(unit(1, seed=5), [replace(photographs(9)[8], time=1050.0)])
    assert told == [("purge", 1, (None, 901.0), 0)] and other.expired == 1
    kept_for(gallery, None)
    assert given() == [1, 2, 3, 8]
    clock[0] = 5000.0
    kept_for(gallery, 3990.0)  # from 1010 on: those that were taken or added before are erased at once
    assert given() == [8] and gallery.expired == 3


def test_whoever_keeps_the_log_is_told_before_anything_is_removed_and_may_stop_it(tmp_path):
    gallery = make(tmp_path / "g", 5)
    told = []

    def tell(where, number, action):
        told.append((where.texts(), number, action, gallery.count()))
        if number == 2:
            raise OSError("no space left")

    gallery.before_removal = tell
    assert gallery.delete(Filter(sources=["/people/image-0001.jpg"])) == 1
    with pytest.raises(OSError, match="no space left"):
        gallery.delete(Filter(sources=["/people/image-0002.jpg", "/people/image-0003.jpg"]))
    assert gallery.delete(Filter(sources=["/nowhere.jpg"])) == 0 and gallery.count() == 4
    assert [(number, action, held) for _, number, action, held in told] == [
        (1, "delete", 5), (2, "delete", 4), (0, "delete", 4)
    ]  # fmt: skip
    assert told[0][0] == {"source": ("/people/image-0001.jpg",)}


def test_embeddings_that_are_none_are_refused(tmp_path):
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, "m")
    bad = unit(3)
    for row, message in ((bad[1] * np.nan, "row 1 has length nan"), (bad[1] * 1.01, "row 1 has length 1.01"),
                         (bad[1] * 0, "row 1 has length 0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            gallery.add(np.stack([bad[0], row, bad[2]]), photographs(3))
    with pytest.raises(ValueError, match="3 embeddings but 2 rows"):
        gallery.add(bad, photographs(2))
    with pytest.raises(ValueError, match="2 crops but 3 rows"):
        gallery.add(bad, photographs(3), [None, None])
    assert not gallery.is_made and not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("milvus://ada:p@ss@db:19530/people", "milvus://db:19530/people"),
        ("milvus://db:19530/people", "milvus://db:19530/people"),
        ("galleries/a@b", "galleries/a@b"),
    ],
)
def test_a_gallery_is_named_without_its_password(location, shown):
    gallery = Gallery(location, Manifest("m", MODEL, DIM), EmptyStore(Manifest("m", MODEL, DIM)))
    assert str(gallery) == shown
    assert (gallery.folder, gallery.crops) == (
        (None, None) if "://" in location else (Path(location), Path(location).absolute() / "crops")
    )


def test_an_image_is_held_as_itself_and_not_by_its_source(tmp_path):
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, "m")
    crops = [replace(photographs(1)[0], frame=frame, box=(0, 0, 5, 5)) for frame in range(2)]
    gallery.add(unit(2), crops)
    gallery.delete(Filter(ids=[crops[0].id]))
    assert (gallery.holds(crops[0]), gallery.holds(crops[1])) == (False, True)


def test_only_the_process_that_comes_first_makes_the_gallery(tmp_path):
    """The other one adds to what the first has made, and does not make it again."""
    rows, turns = photographs(2), [True, False]
    galleries = [
        Gallery.create(tmp_path / "g", MODEL, DIM, "m", first=lambda: nullcontext(turns.pop(0))) for _ in range(2)
    ]
    for gallery, row, embedding in zip(galleries, rows, unit(2)):
        gallery.add(embedding[None], [row])
    assert {row.id for row in Gallery.open(tmp_path / "g").rows()} == {row.id for row in rows} and turns == []


@pytest.mark.parametrize(
    "changes",
    [
        {"box": (0, 0.5, 5, 5)},
        {"box": (-1, 0, 5, 5)},
        {"box": None},
        {"source_hash": "no hash"},
        {"source_hash": "ab"},
    ],
)
def test_a_crop_without_a_name_is_refused_and_nothing_is_added(tmp_path, changes):
    row = replace(photographs(1)[0], path="", frame=3, box=(0, 0, 5, 5))
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, "m")
    with pytest.raises(ValueError, match="cannot be saved: its row needs a box of whole pixels"):
        gallery.add(unit(2), [row, replace(row, frame=4, **changes)], [Image.new("RGB", (5, 5))] * 2)
    assert not gallery.is_made
    gallery.add(unit(1), [replace(row, **changes)], [None])  # which is not to be saved
    assert gallery.count() == 1


# --- settings and manifests ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_seconds": 0}, "must be a positive number, got 0"),
        ({"keep_seconds": -1.0}, "must be a positive number"),
        ({"keep_seconds": float("inf")}, "must be a positive number"),
        ({"keep_seconds": float("nan")}, "must be a positive number"),
        ({"keep_seconds": True}, "must be a positive number"),
        ({"keep_seconds": "60"}, "must be a positive number"),
        ({"audit": "audit.jsonl"}, "must be the absolute path"),
        ({"audit": 5}, "must be the absolute path"),
        ({"purpose_required": 1}, "must be true or false"),
        ({"hide_faces": "no"}, "must be true or false"),
        ({"blur": True}, "has the setting blur, which this version does not know"),
        ([], "settings are"),
    ],
)
def test_settings_that_say_nothing_are_refused(values, message):
    with pytest.raises(GalleryError, match=message):
        GallerySettings.from_dict(values, "gallery.json")


def test_settings_that_are_right_come_back():
    settings = GallerySettings(0.5, "/log", True, True)
    assert GallerySettings.from_dict(asdict(settings), "gallery.json") == settings
    assert GallerySettings.from_dict({}, "gallery.json") == GallerySettings(None, None, False, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, "has format version 4: update aga-model"),
        ({"format_version": 1}, "has format version 1, which this version no longer reads"),
        ({"format_version": "3"}, "no format_version"),
        ({"dim": "16"}, "dim is '16'"),
        ({"model_hash": None}, "model_hash is None"),
    ],
)
def test_a_manifest_of_another_format_is_refused(changes, message):
    manifest = Manifest("m", MODEL, DIM)
    assert Manifest.from_json(json.dumps(manifest.to_dict()), "gallery.json") == manifest
    assert Manifest.from_json(json.dumps(manifest.to_dict() | {"format_version": 2}), "gallery.json") == manifest
    with pytest.raises(GalleryError, match=message):
        Manifest.from_json(json.dumps(manifest.to_dict() | changes), "gallery.json")


# --- the best of a stream of rows ---


@pytest.mark.parametrize("share", [1.0, 0.6, 0.1, 0.0])
@pytest.mark.parametrize("top_k", [1, 9, 400])
def test_the_best_of_the_allowed_rows_are_brute_force(share, top_k):
    """Every fifth row is one and the same; parts are of many sizes, with few or many of their rows allowed."""
    rng = np.random.default_rng(0)
    embeddings = unit(300, dim=24)
    embeddings[::5] = embeddings[0]
    ids = [f"{number:04}" for number in rng.permutation(300)]
    allowed, queries = rng.random(300) < share, np.concatenate([embeddings[:1], unit(2, seed=9, dim=24)])
    best = BestRows(queries, top_k)
    for part in np.array_split(rng.permutation(300), [3, 10, 11, 150]):
        best.update([ids[index] for index in part], embeddings[part], None if share == 1.0 else allowed[part])
    scores = queries.astype(float) @ embeddings.T.astype(float)
    for each, found in zip(scores, best.found()):
        left = [index for index in range(300) if share == 1.0 or allowed[index]]
        order = sorted(left, key=lambda index: (-round(each[index], 9), ids[index]))[:top_k]
        assert [row_id for row_id, _ in found] == [ids[index] for index in order]
        assert [score for _, score in found] == pytest.approx([each[index] for index in order], abs=1e-9)


def test_of_rows_that_are_added_one_by_one_the_last_remain():
    first, second, third = photographs(3)
    again, changed = replace(first, camera="new"), replace(second, source_hash="f" * 64)
    moved = replace(first, source="/elsewhere.jpg")
    assert last_of_each([first, second, third]) == [0, 1, 2]
    assert last_of_each([first, second, again]) == [1, 2]
    assert last_of_each([second, third, changed]) == [1, 2] and last_of_each([changed, third, second]) == [1, 2]
    assert last_of_each([first, moved]) == [1] and last_of_each([]) == []


# --- how well an index finds ---


class PoorStore:
    """300 rows, of which a search finds every second of the best, or all where `poor` is not true of the filter."""

    manifest = Manifest("m", MODEL, DIM)

    def __init__(self, poor):
        self.rows = [
            replace(row, time=float(number), camera="a" if number % 40 < 24 else "b" if number % 40 < 36 else "c")
            for number, row in enumerate(photographs(300))
        ]
        self.matrix, self.poor, self.asked = unit(300), poor, []

    def passing(self, where):
        where = where or Filter()
        since, cameras = where.times()[0], where.cameras
        return [
            number
            for number, row in enumerate(self.rows)
            if (since is None or row.time >= since) and (cameras is None or row.camera in cameras)
        ]

    def count(self, where=None):
        return len(self.passing(where))

    def embeddings(self, where=None):
        for part in np.array_split(self.passing(where), 7):
            yield [self.rows[number].id for number in part], self.matrix[part]

    def search(self, queries, top_k, where=None):
        self.asked.append((len(queries), top_k))
        passing = self.passing(where)
        scores = queries @ self.matrix[passing].T
        order = [np.argsort(-each)[:top_k] for each in scores]
        if top_k > 1 and self.poor(where):
            order = [ranked[::2] for ranked in order]
        return [[ScoredRow(0.0, self.rows[passing[place]]) for place in ranked] for ranked in order]


def test_the_recall_is_the_share_of_the_exact_best_that_is_found():
    recall, queries, filtered = measure_recall(PoorStore(lambda where: False))
    assert (recall, queries) == (1.0, 64) and [each.recall for each in filtered] == [1.0] * 5
    store = PoorStore(lambda where: where is not None)
    recall, _, filtered = measure_recall(store)
    assert recall == 1.0 and set(store.asked) == {(64, 10), (64, 1)}
    # Queries are every fourth row: 64 times 4 of 300. Filters begin at the rows in their middle, at the last tenth and
    # at the last fiftieth of them, and name the most frequent camera and the least frequent one.
    times = np.arange(0, 64 * 4, 4)
    shares = sorted([*((300 - times[[32, 57, 62]]) / 300), 188 / 300, 28 / 300], reverse=True)
    assert [each.share for each in filtered] == pytest.approx(shares)
    assert [each.recall for each in filtered] == [0.5] * 5
    store = PoorStore(lambda where: True)
    store.rows, store.matrix = store.rows[:5], store.matrix[:5]
    assert measure_recall(store)[:2] == (3 / 5, 5)
