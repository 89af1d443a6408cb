"""A gallery's folder: filters by age, what is held in memory, and what is left when rows are written again."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from store_worker import DIM, MODEL, unit

from aga_model.gallery import Filter, GalleryError, GalleryRow, GallerySettings
from aga_model.gallery.store import Manifest

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

from aga_model.gallery.lance import beside
from aga_model.gallery.lance import held as in_memory
from aga_model.gallery.lance.rows import row_in
from aga_model.gallery.lance.store import LanceStore

MANIFEST = Manifest("some/model", MODEL, DIM)
NAMES = ("hall", "o'brien's", "''", "\\' OR true --", "x\x1ay", None)


def photograph(number, **facts):
    path = f"/people/{number:04}.jpg"
    return replace(GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL), **facts)


ROWS = [
    photograph(
        number,
        camera=NAMES[number % 6],
        time=(None, 0.0, 10.0 * number, 500.0 - number)[number % 4],
        added=20.0 * (number % 11),
        person_id=number % 3 or None,
    )
    for number in range(48)
]


def age(row):
    """The moment from which an image is kept: when it was taken, at the latest when it was added."""
    return row.added if row.time is None else min(row.time, row.added)


FILTERS = [
    (Filter(fresh_since=100.0), lambda row: age(row) >= 100),
    (Filter(stale_before=100.0), lambda row: age(row) < 100),
    (Filter(fresh_since=0.0), lambda row: age(row) >= 0),
    (Filter(fresh_since=40.0, stale_before=160.0), lambda row: 40 <= age(row) < 160),
    (Filter(fresh_since=100.0, cameras=["hall"]), lambda row: age(row) >= 100 and row.camera == "hall"),
    (Filter(stale_before=100.0, since=5.0), lambda row: age(row) < 100 and row.time is not None and row.time >= 5),
    (Filter(since=0.0), lambda row: row.time is not None),
    (Filter(since=100.0, until=460.0), lambda row: row.time is not None and 100 <= row.time < 460),
    (Filter(until=0.5), lambda row: row.time == 0),
    (Filter(cameras=["hall"], person_ids=[1]), lambda row: row.camera == "hall" and row.person_id == "1"),
    *((Filter(cameras=[name]), lambda row, name=name: row.camera == name) for name in NAMES[:-1]),
    (Filter(cameras=[]), lambda row: False),
    (Filter(ids=[ROWS[3].id, ROWS[7].id]), lambda row: row in (ROWS[3], ROWS[7])),
    (Filter(sources=[ROWS[3].source], since=0.0), lambda row: row == ROWS[3]),
    (Filter(paths=[ROWS[2].path, ROWS[3].path]), lambda row: row in (ROWS[2], ROWS[3])),
]
WAYS = ("few", "held", "read", "indexed")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """How rows are searched: all in memory, embeddings in memory, read from the files, or by the index."""
    monkeypatch.setattr(LanceStore, "exact_rows", 48 if request.param == "few" else 10)
    monkeypatch.setattr(LanceStore, "held_bytes", 2**20 if request.param == "held" else 0)
    if request.param == "indexed":
        monkeypatch.setattr("aga_model.gallery.lance.table.most_candidates", lambda top_k: 0)
    return request.param


def prepare(store, way):
    """With an index, if it is searched by."""
    if way == "indexed":
        with store._writing():
            store._create_index(store._table)  # without measuring the recall, which takes longer than the tests
        assert store.vector_index().kind == "IVF_RQ"


def held(store):
    return type(store._held).__name__


@pytest.fixture
def store(tmp_path):
    store = LanceStore.create(tmp_path / "gallery", MANIFEST)
    store.add(unit(48), ROWS)
    return store


def brute_force(rows, embeddings, query, top_k):
    scores = [float(np.dot(each.astype(float), query.astype(float))) for each in embeddings]
    order = sorted(range(len(rows)), key=lambda index: (-round(scores[index], 9), rows[index].id))[:top_k]
    return [rows[index] for index in order], [scores[index] for index in order]


def assert_best(found, rows, embeddings, query, top_k):
    wanted, scores = brute_force(rows, embeddings, query, top_k)
    assert [scored.row for scored in found] == wanted
    assert [scored.score for scored in found] == pytest.approx(scores, abs=1e-9)


def test_every_way_to_search_reads_a_filter_alike(store, way):
    prepare(store, way)
    (query,) = unit(1, seed=1)
    for where, passes in FILTERS:
        left = [number for number, row in enumerate(ROWS) if passes(row)]
        rows = [ROWS[number] for number in left]
        assert store.count(where) == len(left), where
        assert {row.id for row in store.rows(where)} == {row.id for row in rows}, where
        for top_k in (3, 48):
            assert_best(store.search(query[None], top_k, where)[0], rows, unit(48)[left], query, top_k)
    store.search(query[None], 3)
    assert (
        held(store) == {"few": "HeldTable", "held": "HeldVectors", "read": "NoneType", "indexed": "IndexedTable"}[way]
    )


def test_equal_scores_are_ranked_by_id_in_every_way(store, way):
    store.add(np.repeat(unit(1, seed=7), 12, axis=0), [replace(row, camera="same") for row in ROWS[20:32]])
    prepare(store, way)
    wanted = sorted(row.id for row in ROWS[20:32])
    for top_k in (1, 5, 12):
        for where in (None, Filter(cameras=["same"])):
            found = store.search(unit(1, seed=7), top_k, where)[0]
            assert [scored.row.id for scored in found] == wanted[:top_k]


def test_a_deletion_takes_no_row_that_says_nothing_of_the_condition(store):
    for where, passes in ((FILTERS[1]), (Filter(cameras=["hall"]), lambda row: row.camera == "hall"),
                          (Filter(until=300.0), lambda row: row.time is not None and row.time < 300)):  # fmt: skip
        before = {row.id: row for row in store.rows()}
        gone = {row_id for row_id, row in before.items() if passes(row)}
        assert store.delete(where) == len(gone) > 0
        assert {row.id for row in store.rows()} == before.keys() - gone


@pytest.mark.parametrize("held", [True, False])
def test_many_queries_are_compared_in_parts(store, monkeypatch, held):
    """With 7 queries 5 rows at a time."""
    monkeypatch.setattr(LanceStore, "exact_rows", 0 if held else 48)
    monkeypatch.setattr(in_memory, "_PRODUCTS", 5 * 7 + 3)
    queries = unit(7, seed=3)
    for where, passes in ((None, lambda row: True), FILTERS[0], FILTERS[7]):
        left = [number for number, row in enumerate(ROWS) if passes(row)]
        for query, found in zip(queries, store.search(queries, 6, where)):
            assert_best(found, [ROWS[number] for number in left], unit(48)[left], query, 6)


def test_as_much_is_held_in_memory_as_is_laid_down(store, monkeypatch):
    """Of a row 16 numbers of 4 bytes, and 128 for what a search filters by."""
    monkeypatch.setattr(LanceStore, "exact_rows", 10)
    for held_bytes, kind in ((48 * (16 * 4 + 128), "HeldVectors"), (48 * (16 * 4 + 128) - 1, "NoneType")):
        monkeypatch.setattr(LanceStore, "held_bytes", held_bytes)
        store._held = None
        assert_best(store.search(unit(1, seed=1), 5)[0], ROWS, unit(48), unit(1, seed=1)[0], 5)
        assert held(store) == kind


def test_a_row_keeps_the_moment_at_which_it_came_first(store, monkeypatch):
    new, dated = photograph(100), photograph(101, added=5.0)
    for moment in (300.0, 400.0):
        monkeypatch.setattr("time.time", lambda moment=moment: moment)
        store.add(unit(3), [new, dated, replace(ROWS[2], camera=str(moment), added=None)])
        added = {row.source: row.added for row in store.rows()}
        assert (added[new.source], added[dated.source], added[ROWS[2].source]) == (300.0, 5.0, ROWS[2].added)


def test_of_a_changed_file_all_old_rows_go_and_no_others(store):
    crops = [photograph(200, frame=frame, box=(0, 0, 5, 5)) for frame in range(3)]
    store.add(unit(4), [*crops, photograph(201, source_hash=crops[0].source_hash, frame=9)])
    changed = replace(crops[0], source_hash="e" * 64, frame=1)
    store.add(unit(1), [changed])
    sources = {row.source: [] for row in store.rows()}
    for row in store.rows():
        sources[row.source].append((row.source_hash, row.frame))
    assert sources[changed.source] == [("e" * 64, 1)] and len(sources[photograph(201).source]) == 1
    assert store.count() == 50


@pytest.mark.parametrize("action", ["delete", "compact"])
def test_an_index_outlasts_that_the_rows_are_written_again(store, monkeypatch, action):
    monkeypatch.setattr(LanceStore, "exact_rows", 10)
    store.add(unit(400, seed=2), [photograph(1000 + number) for number in range(400)])
    assert store.build_index().kind == "IVF_RQ"
    if action == "delete":
        store.delete(Filter(sources=[ROWS[0].source]))
    else:
        store.compact()
    index = store.vector_index()
    assert (index.kind, index.rows) == ("IVF_RQ", store.count()) and index.rows == 448 - (action == "delete")
    monkeypatch.setattr(LanceStore, "exact_rows", 448)
    store.compact()
    assert store.vector_index().kind == "FLAT"


def test_what_a_deletion_was_to_remove_is_found_by_nobody_until_it_is_removed(store, monkeypatch, way):
    """Written down before the first step: who opens the gallery next finishes it."""
    prepare(store, way)
    with monkeypatch.context() as patched:
        patched.setattr(LanceStore, "_sweep_crops", lambda self, kept: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(GalleryError, match="the deletion is not finished"):
            store.delete(Filter(cameras=["hall"]))
        left = {row.id for row in ROWS if row.camera != "hall"}
        for reader in (store, LanceStore.open(store.folder)):
            assert "is not finished" in reader.unfinished
            assert {row.id for row in reader.rows()} == left and reader.count() == len(left)
            assert {scored.row.id for scored in reader.search(unit(1), 48)[0]} == left
            assert {row_id for ids, _ in reader.embeddings() for row_id in ids} == left
    opened = LanceStore.open(store.folder)
    assert opened.unfinished == "" and not (store.folder / ".erasing").exists()
    assert {row.id for row in opened.rows()} == left == {row.id for row in store.rows()}


def crop(number, video="a", **facts):
    row = GalleryRow(f"/{video}.avi", 64 * video, "", 8, 8, MODEL, frame=number, box=(0, 0, 8, 8))
    return replace(row, **facts)


def picture(number):
    return Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8))


def shade(path):
    return int(np.asarray(Image.open(path)).mean().round())


def test_crops_go_with_their_rows_and_no_others(tmp_path):
    store = LanceStore.create(tmp_path / "gallery", MANIFEST)
    store.add(unit(6), [crop(number) for number in range(6)], [picture(number) for number in range(6)])
    store.add(unit(2), [crop(number, "b") for number in range(2)], [picture(10), None])
    assert {row.frame: shade(row.path) for row in store.rows() if row.path and row.source == "/a.avi"} == {
        number: 20 * number for number in range(6)
    }
    store.add(unit(1), [crop(2, path="/elsewhere.jpg")])  # whose image is another now
    store.add(unit(1), [crop(3)], [picture(9)])
    changed = crop(0, "b", source_hash="c" * 64)
    store.add(unit(1), [changed])
    shown = {(row.source, row.frame): row.path and row.path[0] == "/" and os.path.exists(row.path) and shade(row.path)
             for row in store.rows()}  # fmt: skip
    assert shown == {("/a.avi", 0): 0, ("/a.avi", 1): 20, ("/a.avi", 2): False, ("/a.avi", 3): 180,
                     ("/a.avi", 4): 80, ("/a.avi", 5): 100, ("/b.avi", 0): ""}  # fmt: skip
    assert sorted(path.name for path in store.folder.rglob("*.jpg")) == [
        f"{number:08}_0_0_8_8.jpg" for number in (0, 1, 3, 4, 5)
    ]


def test_an_addition_that_fails_leaves_the_crops_that_were_there_and_no_others(tmp_path, monkeypatch):
    store = LanceStore.create(tmp_path / "gallery", MANIFEST)
    store.add(unit(1), [crop(0)], [picture(0)])
    written = []
    write = beside.write_crop

    def full(image, path):
        if len(written) == 2:
            raise OSError(28, "no space left")
        written.append(path)
        write(image, path)

    monkeypatch.setattr(beside, "write_crop", full)
    with pytest.raises(GalleryError, match="no space left"):
        store.add(unit(3), [crop(number) for number in range(3)], [picture(number) for number in range(3)])
    assert [path.name for path in store.folder.rglob("*.jpg")] == ["00000000_0_0_8_8.jpg"]
    assert [row.frame for row in store.rows()] == [0]


def test_a_crop_of_the_gallerys_own_folder_is_found_where_the_gallery_lies_now(tmp_path):
    """Also one that another program saved there; and nothing that leads out of the folder."""
    folder = tmp_path / "gallery"
    store = LanceStore.create(folder, MANIFEST)
    own = folder / "crops" / "mine" / "a.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    out = f"{folder}/crops/../../letter.txt"
    store.add(unit(2), [crop(0, path=str(own)), crop(1, path=out)])
    moved = Path(os.rename(folder, tmp_path / "moved") or tmp_path / "moved")
    store = LanceStore.open(moved)
    assert {row.frame: row.path for row in store.rows()} == {0: str(moved / "crops" / "mine" / "a.jpg"), 1: out}
    stored = {"path": "../letter.txt", "source": "/a.avi", "box": [0, 0, 8, 8], "added": 1.0}
    values = {name: None for name in GalleryRow.__dataclass_fields__} | stored
    assert row_in(values, moved).path == ""


def test_the_list_of_unreadable_files_tells_of_nobody_who_is_deleted(store):
    """By camera: the person is known from the rows. What lies in the same folder may be of the same person."""
    listed = ["/people/broken.jpg", "/other/ANNA-7.jpg", "/other/bert.jpg", "/third/x.jpg"]
    store.add(unit(1), [photograph(300, camera="door", person_id="anna-7")])
    (store.folder / "skipped.json").write_text(json.dumps([{"path": path, "reason": "r"} for path in listed]))
    store.delete(Filter(cameras=["door"]))
    left = json.loads((store.folder / "skipped.json").read_text())
    assert left == [{"path": path, "reason": "r"} for path in listed[2:]]
    store.delete(Filter(person_ids=["BERT"], sources=["/third/y.jpg"]))
    assert json.loads((store.folder / "skipped.json").read_text()) == []


def test_another_gallery_in_the_same_place_is_noticed_and_settings_stay(store):
    settings = GallerySettings(keep_seconds=60.0, audit="/log", purpose_required=True, hide_faces=True)
    store.change_settings(settings)
    other = LanceStore.open(store.folder)
    made = LanceStore.create(store.folder, MANIFEST)
    assert made.settings == settings and made.count() == 0
    for action in (lambda: other.add(unit(1), [ROWS[0]]), other.count, lambda: other.search(unit(1), 1)):
        with pytest.raises(GalleryError, match="was overwritten by another process"):
            action()
    assert made.count() == 0


def test_who_has_searched_finds_what_others_write_and_nothing_that_they_remove(store, way):
    prepare(store, way)
    reader, (query,) = LanceStore.open(store.folder), unit(1, seed=1)
    rows, embeddings = list(ROWS), unit(48)
    assert_best(reader.search(query[None], 5)[0], rows, embeddings, query, 5)
    first = brute_force(rows, embeddings, query, 1)[0][0]
    place = rows.index(first)
    assert store.delete(Filter(sources=[first.source])) == 1
    rows, embeddings = rows[:place] + rows[place + 1 :], np.delete(embeddings, place, axis=0)
    assert_best(reader.search(query[None], 5)[0], rows, embeddings, query, 5)
    new = photograph(500, added=1.0)
    store.add(query[None], [new])
    assert reader.search(query[None], 1)[0][0].row == new
    store.delete(Filter(ids=[new.id]))
    assert_best(reader.search(query[None], 48)[0], rows, embeddings, query, 48)
