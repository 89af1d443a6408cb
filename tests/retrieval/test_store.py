"""What every store must do, for a LanceDB folder and a Milvus server, against brute force and a dict."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_worker import DIM, MODEL, numbered, unit
from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.gallery import Filter, Gallery, GalleryError, GalleryRow, GallerySettings
from aga_model.gallery.store import Manifest

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

WORKER = Path(__file__).with_name("store_worker.py")
MILVUS_WORKER = Path(__file__).with_name("milvus_worker.py")
NAME = "some/model"
BACKENDS = ("lance", "milvus")
START_SECONDS = 240  # for the Milvus server; it takes five

pytestmark = pytest.mark.timeout(300)  # other processes and a server, which may wait for ever


@pytest.fixture(scope="module")
def milvus_process(request, tmp_path_factory):
    """Address of a real Milvus server, started for these tests, which no other machine can reach."""
    pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")
    pytest.importorskip("milvus", reason="the package milvus, which holds a server, is not installed")
    folder = tmp_path_factory.mktemp("milvus")
    binaries = request.config.cache.mkdir("milvus-server")  # unpacking them takes longer than the tests
    command = [sys.executable, MILVUS_WORKER, folder, folder / "port"]
    with FileLock(binaries / ".lock"):
        (folder / "bin").symlink_to(binaries, target_is_directory=True)
        server = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        last = time.monotonic() + START_SECONDS
        while not (folder / "port").exists() and server.poll() is None:
            if time.monotonic() > last:
                server.kill()
                pytest.fail(f"the Milvus server was not ready after {START_SECONDS} seconds")
            time.sleep(0.1)
    if server.poll() is not None:
        pytest.skip(f"the Milvus server does not start here, or not for this machine alone: {server.stderr.read()}")
    port, process = (folder / "port").read_text().split()
    yield f"milvus://127.0.0.1:{port}", int(process)
    try:
        server.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        server.kill()
        os.kill(int(process), signal.SIGKILL)
        raise


@pytest.fixture(scope="module")
def milvus_server(milvus_process):
    return milvus_process[0]


@pytest.fixture(scope="module")
def milvus_collection(milvus_server):
    """One collection for most tests, since making one takes seconds."""
    from aga_model.gallery.milvus.store import MilvusStore

    location = f"{milvus_server}/people"
    return location, MilvusStore.create(location, Manifest(NAME, MODEL, DIM))


@pytest.fixture(params=BACKENDS)
def place(request, tmp_path):
    """Location of an empty gallery, and its store."""
    if request.param == "lance":
        from aga_model.gallery.lance.store import LanceStore

        location = str(tmp_path / "gallery")
        return location, LanceStore.create(location, Manifest(NAME, MODEL, DIM))
    location, store = request.getfixturevalue("milvus_collection")
    store.delete(Filter(sources=[row.source for row in store.rows()]))
    assert store.count() == 0
    return location, store


@pytest.fixture
def store(place):
    return place[1]


@pytest.fixture(params=BACKENDS)
def own_store(request, tmp_path):
    """A store that no other test uses."""
    manifest = Manifest(NAME, MODEL, DIM)
    if request.param == "lance":
        from aga_model.gallery.lance.store import LanceStore

        return LanceStore.create(tmp_path / "gallery", manifest)
    server = request.getfixturevalue("milvus_server")
    from aga_model.gallery.milvus.store import MilvusStore

    return MilvusStore.create(f"{server}/own", manifest)


def photograph(number, **facts):
    path = f"/people/image-{number:04}.jpg"
    return replace(GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL), **facts)


def photographs(count):
    return [
        photograph(
            number,
            camera=(None, "door", 'hall\'s "east" side')[number % 3],
            person_id=None if number % 4 == 0 else number % 7,
            time=None if number % 5 == 0 else 1_700_000_000.5 + 60 * number,
            track=None if number % 2 else f"t{number % 6}",
        )
        for number in range(count)
    ]


def contents(store):
    """id -> row and embedding, as the store gives them."""
    embeddings = {row_id: row for ids, rows in store.embeddings() for row_id, row in zip(ids, rows)}
    rows = list(store.rows())
    assert len(rows) == len(embeddings) == store.count()
    return {row.id: (row, embeddings[row.id].tobytes()) for row in rows}


def expected(rows, embeddings):
    return {row.id: (row, embedding.tobytes()) for row, embedding in zip(rows, embeddings)}


def brute_force(rows, embeddings, query, top_k):
    """(score, row) of the best, computed one row at a time."""
    scored = [(float(np.dot(each.astype(float), query.astype(float))), row) for row, each in zip(rows, embeddings)]
    return sorted(scored, key=lambda item: (-round(item[0], 9), item[1].id))[:top_k]


def assert_same_hits(found, wanted):
    assert [scored.row for scored in found] == [row for _, row in wanted]
    np.testing.assert_allclose([scored.score for scored in found], [score for score, _ in wanted], atol=1e-9)


ODD_TEXTS = [
    "it's",
    'say "x"',
    "back\\slash",
    "ends\\",
    "line\nbreak\t",
    "照片",
    "%_--;",
    "\x1a1a",
    "a''b",
    "\udcff\x1a",
]


def test_rows_come_back_as_they_were(store):
    full = photograph(
        1,
        path="",
        frame=7,
        box=(1, 2.25, 30, 40),
        camera="c",
        time=1.5,
        offset=0.25,
        person_id="p",
        track="t",
        detection_score=0.875,
    )
    odd = [
        replace(
            photograph(10 + number), source=f"/a/{text}", path=f"/b/{text}", camera=text, person_id=text, track=text
        )
        for number, text in enumerate(ODD_TEXTS, start=10)
    ]
    rows = [full, photograph(2), *odd]
    store.add(unit(len(rows)), rows)
    assert contents(store) == expected(rows, unit(len(rows)))
    for row in odd:
        assert [scored.row for scored in store.search(unit(1), 20, Filter(sources=[row.source]))[0]] == [row]
        others = Filter(paths=[row.path], cameras=[row.camera], person_ids=[row.person_id], tracks=[row.track])
        assert store.count(others) == 1


@pytest.mark.parametrize("top_k", [1, 7, 60, 5000])
def test_search_is_brute_force(store, top_k):
    rows, embeddings = photographs(60), unit(60)
    store.add(embeddings, rows)
    queries = unit(3, seed=1)
    for query, found in zip(queries, store.search(queries, top_k)):
        assert_same_hits(found, brute_force(rows, embeddings, query, top_k))


FILTERS = [
    (Filter(cameras=["door"]), lambda row: row.camera == "door"),
    (Filter(cameras=["door", 'hall\'s "east" side', "none"]), lambda row: row.camera is not None),
    (Filter(person_ids=[3, "5"]), lambda row: row.person_id in ("3", "5")),
    (Filter(tracks=["t0"]), lambda row: row.track == "t0"),
    (Filter(since=1_700_001_200.5), lambda row: row.time is not None and row.time >= 1_700_001_200.5),
    (Filter(until=1_700_001_260.5), lambda row: row.time is not None and row.time < 1_700_001_260.5),
    (
        Filter(cameras=["door"], since=1_700_000_600, until=1_700_002_000, person_ids=[1, 2, 3]),
        lambda row: (
            row.camera == "door"
            and row.time is not None
            and 1_700_000_600 <= row.time < 1_700_002_000
            and row.person_id in ("1", "2", "3")
        ),
    ),
    (Filter(sources=["/people/image-0007.jpg", "/people/none.jpg"]), lambda row: row.source.endswith("0007.jpg")),
    (Filter(paths=[]), lambda row: False),
    (Filter(cameras=["nowhere"]), lambda row: False),
    (Filter(), lambda row: True),
]


@pytest.mark.parametrize(("exact_rows", "held_bytes"), [(60, 0), (10, 2**20), (10, 0)], ids=["few", "held", "many"])
def test_filters_are_brute_force(store, monkeypatch, exact_rows, held_bytes):
    monkeypatch.setattr(type(store), "exact_rows", exact_rows)
    monkeypatch.setattr(type(store), "held_bytes", held_bytes, raising=False)
    rows, embeddings = photographs(60), unit(60)
    store.add(embeddings, rows)
    query = unit(1, seed=1)
    for where, test in FILTERS:
        left = [index for index, row in enumerate(rows) if test(row)]
        assert [index for index, row in enumerate(rows) if where.accepts(row)] == left, where
        assert store.count(where) == len(left), where
        wanted = brute_force([rows[index] for index in left], embeddings[left], query[0], 60)
        assert_same_hits(store.search(query, 60, where)[0], wanted)
    where, test = FILTERS[6]
    assert {row.id for row in store.rows(where)} == {row.id for row in rows if test(row)}
    for where, test in FILTERS[:2]:
        assert store.delete(where) == sum(map(test, rows))
        rows = [row for row in rows if not test(row)]
        assert {row.id for row in store.rows()} == {row.id for row in rows}
    assert store.delete(Filter(cameras=["nowhere"])) == 0


@pytest.mark.parametrize("way", ["few", "held", "indexed"])
def test_what_others_write_is_found_at_once_by_one_that_has_searched(folder, monkeypatch, way):
    """A store that keeps rows in memory keeps none that has gone."""
    search_by(way, monkeypatch)
    if way == "indexed":
        reopened(folder).build_index()
    first, second, query = reopened(folder), reopened(folder), unit(50)[17:18]
    row_id = photograph(17).id
    for _ in range(2):
        assert first.search(query, 1)[0][0].row.id == row_id and first.search(query, 1)[0][0].score > 0.999
        assert second.delete(Filter(paths=[photograph(17).path])) == 1
        assert all(found.row.id != row_id for found in first.search(query, 50)[0])
        assert second.search(query, 50) == first.search(query, 50)
        second.add(query, [photograph(17)])
    first.delete(Filter(paths=[photograph(17).path]))
    assert first._held is None


def test_an_empty_store(store):
    assert store.search(unit(2), 3) == [[], []]
    assert store.count() == 0 and list(store.rows()) == [] and list(store.embeddings()) == []
    assert store.delete(Filter(cameras=["door"])) == 0


def test_the_same_content_is_one_row(store):
    rows, embeddings = photographs(5), unit(5)
    store.add(embeddings, rows)
    moved = replace(rows[2], source="/elsewhere.jpg", path="/elsewhere.jpg", camera="new")
    store.add(unit(3, seed=5), [rows[0], rows[0], moved])  # of the same twice the last counts
    wanted = expected(rows, embeddings) | expected([rows[0], moved], unit(3, seed=5)[1:])
    assert contents(store) == wanted and len(wanted) == 5


def test_crops_of_one_source_are_rows_of_their_own(store):
    crops = [photograph(1, frame=frame, box=(x, 0, x + 10, 20)) for frame in (0, 1) for x in (0, 5)]
    store.add(unit(4), crops)
    assert contents(store) == expected(crops, unit(4))
    store.add(unit(4), crops)
    assert store.count() == 4


def test_a_changed_source_takes_the_place_of_all_its_rows(store):
    rows = [photograph(1, frame=0), photograph(1, frame=1), photograph(2), photograph(3)]
    store.add(unit(4), rows)
    changed = [replace(rows[0], source_hash="e" * 64), photograph(3, camera="door")]
    store.add(unit(2, seed=1), changed)
    assert contents(store) == expected([rows[2]], unit(4)[2:3]) | expected(changed, unit(2, seed=1))
    both = [replace(rows[2], source_hash="f" * 64), replace(rows[2], source_hash="0" * 64)]
    store.add(unit(2, seed=2), both)  # a file that changed while it was read twice
    assert [row.source_hash for row in store.rows(Filter(sources=[rows[2].source]))] == ["0" * 64]


def test_equal_scores_are_ranked_by_id(store):
    """More equal ones than are asked for: which of them come must not depend on chance or on the order of adding."""
    rows = photographs(40)
    embeddings = np.concatenate([np.tile(unit(1, seed=3), (30, 1)), unit(10)])
    order = np.random.default_rng(0).permutation(40)
    store.add(embeddings[order[:25]], [rows[index] for index in order[:25]])
    store.add(embeddings[order[25:]], [rows[index] for index in order[25:]])
    query = unit(1, seed=3)
    for top_k in (1, 4, 29, 40):
        found = store.search(query, top_k)[0]
        equal = sorted(row.id for row in rows[:30])[:top_k]
        assert [scored.row.id for scored in found][: len(equal)] == equal
        assert len({scored.score for scored in found[: len(equal)]}) == 1 and len(found) == top_k


def test_what_is_added_and_deleted_is_seen_by_others_at_once(place):
    from store_worker import open_store

    location, store = place
    other = open_store(location)
    assert (other.manifest, other.count()) == (Manifest(NAME, MODEL, DIM), 0)
    store.add(unit(3), photographs(3))
    assert other.count() == 3 and len(other.search(unit(1), 5)[0]) == 3
    other.add(unit(1, seed=1), [photograph(9)])
    assert store.count() == 4
    assert store.delete(Filter(paths=["/people/image-0000.jpg"])) == 1
    assert sorted(scored.row.path for scored in other.search(unit(1), 5)[0])[0] == "/people/image-0001.jpg"
    store.compact()
    assert contents(other) == contents(store) and store.count() == 3


def test_more_rows_than_a_batch(store):
    rows = [photograph(number) for number in range(2500)]
    embeddings = unit(2500)
    store.add(embeddings, rows)
    assert contents(store) == expected(rows, embeddings)
    query = unit(1, seed=4)
    assert_same_hits(store.search(query, 30)[0], brute_force(rows, embeddings, query[0], 30))


def test_the_vector_index_measures_what_it_finds(own_store, monkeypatch):
    store = own_store
    rows, embeddings = photographs(600), unit(600)
    store.add(embeddings, rows)
    exact = store.build_index()
    assert (exact.kind, exact.recall) == ("FLAT", 1.0) and "50,000" in exact.reason
    monkeypatch.setattr(type(store), "exact_rows", 300)
    report = store.build_index()
    assert report.kind == store.vector_index().kind in ("IVF_RQ", "HNSW") and report.reason == ""
    assert report.rows == store.vector_index().rows == 600 and report.seconds > 0 and report.queries == 64
    queries = embeddings[::40]
    found = [{scored.row.id for scored in hits} for hits in store.search(queries, 10)]
    wanted = [{row.id for _, row in brute_force(rows, embeddings, query, 10)} for query in queries]
    recall = np.mean([len(each & those) / 10 for each, those in zip(found, wanted)])
    assert abs(report.recall - recall) < 0.1 and recall > 0.9
    where = Filter(cameras=["door"])  # few enough for an exact search
    left = [index for index, row in enumerate(rows) if row.camera == "door"]
    for many in (599, 10**9, 2**40):  # as many as there are, and more
        assert len(store.search(queries[:1], many)[0]) == min(many, 600)
    hits = store.search(queries[:1], 10, where)[0]
    assert_same_hits(hits, brute_force([rows[index] for index in left], embeddings[left], queries[0], 10))
    store.add(unit(1, seed=8), [photograph(5000)])  # after the index was built
    assert store.search(unit(1, seed=8), 1)[0][0].row == photograph(5000)
    store.delete(Filter(paths=["/people/image-0007.jpg"]))
    assert "/people/image-0007.jpg" not in {scored.row.path for scored in store.search(embeddings[7:8], 20)[0]}


class TwoGroups:
    """
    Rows of two groups in 40 places of the embedding space: the camera `night`, a tenth, is moved one way and the rest
    the other way; the queries are rows of the rest.
    """

    ROWS = 4000

    def __init__(self, apart):
        rng = np.random.default_rng(0)
        places = rng.normal(size=(40, DIM))
        places *= 0.8 / np.linalg.norm(places, axis=1, keepdims=True)
        night = rng.permutation(self.ROWS) < self.ROWS / 10
        embeddings = places[rng.integers(0, 40, self.ROWS)] + 0.15 * rng.normal(size=(self.ROWS, DIM))
        embeddings[:, 0] += np.where(night, -apart, apart)
        self.embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
        self.times = rng.random(self.ROWS)
        self.rows = [
            photograph(
                number, camera="night" if night[number] else "day", time=self.times[number], person_id=number // 4
            )
            for number in range(self.ROWS)
        ]
        self.queries = self.embeddings[np.flatnonzero(~night)[::450]]
        self.filters = [
            (None, np.full(self.ROWS, True)),
            (Filter(cameras=["night"]), night),
            (Filter(cameras=["day"]), ~night),
            (Filter(cameras=["night"], since=0.5), night & (self.times >= 0.5)),
            (Filter(since=0.5), self.times >= 0.5),
            (Filter(since=0.05), self.times >= 0.05),
            (Filter(person_ids=range(2)), np.arange(self.ROWS) < 8),
        ]

    def check(self, store):
        """Each search finds what there is, 95% of the exact ten best, and the same first ones for any number."""
        for where, passing in self.filters:
            numbers, found = np.flatnonzero(passing), {}
            for top_k in (1, 5, 15, 100, 500):
                found[top_k] = store.search(self.queries, top_k, where)
                for hits in found[top_k]:
                    assert len(hits) == min(top_k, len(numbers)), (where, top_k)
                    assert all(passing[int(scored.row.source_hash, 16)] for scored in hits)
            scores = self.embeddings[numbers].astype(float) @ self.queries.T.astype(float)
            best = [{f"{number:064x}" for number in numbers[order]} for order in np.argsort(-scores, axis=0)[:10].T]
            sources = [[scored.row.source_hash for scored in hits] for hits in found[100]]
            recall = np.mean([len({*hashes[:10]} & right) / len(right) for hashes, right in zip(sources, best)])
            assert recall >= 0.95, (where, recall)
            for top_k in (1, 5, 15):
                first = [[scored.row.source_hash for scored in hits] for hits in found[top_k]]
                assert first == [hashes[:top_k] for hashes in sources], (where, top_k)


@pytest.mark.parametrize("apart", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("way", ["held", "indexed"])
def test_a_filter_finds_rows_far_from_the_query(tmp_path, monkeypatch, way, apart):
    from functools import partial

    from aga_model.gallery import exact
    from aga_model.gallery.lance import store as lance_store

    monkeypatch.setattr(lance_store.LanceStore, "exact_rows", 100)
    if way == "indexed":
        monkeypatch.setattr(lance_store.LanceStore, "held_bytes", 0, raising=False)
    monkeypatch.setattr(exact, "_RECALL_QUERIES", 16)  # of each kind
    # As many partitions as a million rows have.
    monkeypatch.setattr(lance_store, "IvfRq", partial(lance_store.IvfRq, num_partitions=125))
    store, data = lance_store.LanceStore.create(tmp_path / "gallery", Manifest(NAME, MODEL, DIM)), TwoGroups(apart)
    store.add(data.embeddings, data.rows)
    report = store.build_index()
    data.check(store)
    assert report.kind == "IVF_RQ" and report.recall >= 0.95 and len(report.filtered) == 5 and report.queries == 16
    assert all(each.recall >= 0.95 for each in report.filtered)


def test_a_filter_finds_rows_far_from_the_query_on_a_server(milvus_server, monkeypatch):
    from aga_model.gallery import exact
    from aga_model.gallery.milvus import store as milvus_store

    monkeypatch.setattr(exact, "_RECALL_QUERIES", 16)  # of each kind
    monkeypatch.setattr(milvus_store.MilvusStore, "exact_rows", 100)
    monkeypatch.setattr(milvus_store, "_SCANNED_ROWS", 50)
    store, data = milvus_store.MilvusStore.create(f"{milvus_server}/apart", Manifest(NAME, MODEL, DIM)), TwoGroups(3.0)
    store.add(data.embeddings, data.rows)
    report = store.build_index()
    data.check(store)
    assert report.kind == "HNSW" and len(report.filtered) == 5
    assert all(each.recall >= 0.95 for each in report.filtered)


def test_the_report_tells_filtered_from_unfiltered_searches(place, monkeypatch):
    """Searches with a filter that answer with anything else have no recall; shares are of all rows."""
    store, rows = place[1], [photograph(number, time=number, camera="ab"[number % 4 == 0]) for number in range(64)]
    store.add(unit(64), rows)
    search = type(store).search
    monkeypatch.setattr(
        type(store),
        "search",
        lambda self, queries, top_k, where=None: search(self, queries if where is None else -queries, top_k, where),
    )
    report = store.build_index()
    assert report.recall == 1.0
    # The rows from the middle, the last tenth and the last fiftieth on, and those of either camera.
    assert [each.share for each in report.filtered] == [48 / 64, 32 / 64, 16 / 64, 7 / 64, 2 / 64]
    assert max(each.recall for each in report.filtered[:2]) < 0.1


def test_the_report_of_rows_without_facts(place):
    store = place[1]
    store.add(unit(20), [photograph(number) for number in range(20)])
    assert store.build_index().filtered == ()


def test_a_poor_index_is_reported_as_poor(place, monkeypatch):
    """The recall is a measurement: a search that answers with anything else has none."""
    store = place[1]
    store.add(unit(100), photographs(100))
    search = type(store).search
    monkeypatch.setattr(type(store), "search", lambda self, queries, top_k, where=None: search(self, -queries, top_k))
    assert store.build_index().recall == 0.0


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 5), max_size=2)),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def lance_places(tmp_path_factory):
    return tmp_path_factory.mktemp("sequences")


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_sequence_equals_a_dict(backend, request, lance_places):
    if backend == "milvus":
        shared = request.getfixturevalue("milvus_collection")[1]
    numbers = iter(range(10_000))

    @settings(
        max_examples=25 if backend == "lance" else 5,
        suppress_health_check=list(HealthCheck),
    )
    @given(OPERATIONS)
    def check(operations):
        if backend == "lance":
            from aga_model.gallery.lance.store import LanceStore

            store = LanceStore.create(lance_places / str(next(numbers)), Manifest(NAME, MODEL, DIM))
        else:
            store = shared
            store.delete(Filter(sources=[row.source for row in store.rows()]))
        model: dict[str, tuple[GalleryRow, bytes]] = {}
        for step, (operation, what) in enumerate(operations):
            if operation == "delete":
                sources = [f"/people/{number}.jpg" for number in what]
                gone = [row_id for row_id, (row, _) in model.items() if row.source in sources]
                assert store.delete(Filter(sources=sources)) == len(gone)
                for row_id in gone:
                    del model[row_id]
            else:
                # Versions of one file have other hashes, and file 5 always has the content of file 4.
                rows = [
                    replace(photograph(0), source=f"/people/{number}.jpg", source_hash=f"{min(number, 4)}-{version}")
                    for number, version in what
                ]
                embeddings = unit(len(rows), seed=step)
                store.add(embeddings, rows)
                for row, embedding in zip(rows, embeddings):
                    outdated = [
                        row_id
                        for row_id, (held, _) in model.items()
                        if held.source == row.source and held.source_hash != row.source_hash
                    ]
                    for row_id in outdated:
                        del model[row_id]
                    model[row.id] = row, embedding.tobytes()
        assert contents(store) == model

    check()


def test_a_gallery_and_its_commands_on_either_store(place):
    location = place[0]
    shown = location.replace("milvus://", "milvus://somebody:secret@")
    gallery = Gallery.open(shown)
    assert str(gallery) == location and (gallery.folder is None) == ("://" in location)
    rows, embeddings = photographs(20), unit(20)
    gallery.add(embeddings, rows)
    hits = gallery.search(unit(1, seed=1), 5, Filter(cameras=["door"]))[0]
    left = [index for index, row in enumerate(rows) if row.camera == "door"]
    wanted = brute_force([rows[index] for index in left], embeddings[left], unit(1, seed=1)[0], 5)
    assert [(hit.rank, hit.row) for hit in hits] == list(enumerate([row for _, row in wanted], start=1))
    with pytest.raises(GalleryError, match="was made with model some/model") as caught:
        gallery.require_model("b" * 64, "other")
    assert "secret" not in str(caught.value)

    def aga(*arguments):
        result = CliRunner().invoke(app, ["gallery", *arguments])
        assert result.exit_code == 0 and "secret" not in result.output, result.output
        return result.stdout

    assert "20 images, 16 of them with a time" in aga("info", shown)
    deleted = CliRunner().invoke(app, ["gallery", "delete", shown, "--camera", "door"])
    assert "7 images removed, the gallery holds 13" in deleted.stdout
    # What a server's operator has to do is told with the deletion.
    assert ("dataCoord.gc.dropTolerance" in deleted.stderr) == ("://" in location), deleted.stderr
    assert {row.camera for row in gallery.rows()} == {None, rows[2].camera}


def test_settings_hold_for_everyone_and_old_images_are_erased_on_either_store(place):
    location, store = place
    gallery, day = Gallery.open(location), 86_400.0
    now = time.time()
    dated = [photograph(n, time=now - n * day) for n in range(6)]  # 0 to 5 days old
    undated = [photograph(10 + n, added=now - n * day) for n in range(6)]
    ahead = [photograph(20 + n, time=now + 400 * day, added=now - n * day) for n in (0, 5)]  # a wrong clock
    gallery.add(unit(14), [*dated, *undated, *ahead])
    other = Gallery.open(location)
    try:
        wanted = GallerySettings(3.5 * day, os.path.abspath("audit.jsonl"), True, True)
        store.change_settings(wanted)  # as another process would, which has not erased anything yet
        fresh = {row.id for row in [*dated[:4], *undated[:4], ahead[0]]}
        assert other.settings == gallery.settings == wanted and store.count() - other.count() == 5
        assert {row.id for row in other.rows()} == fresh and other.count() == 9
        assert {hit.row.id for hit in other.search(unit(1), 50)[0]} == fresh
        assert {row_id for ids, _ in other.embeddings() for row_id in ids} == fresh
        assert store.count() == 14
        named = Filter(ids=[dated[0].id, dated[5].id, "nobody"])
        assert [hit.row for hit in other.search(unit(1), 50, named)[0]] == dated[:1]
        assert other.holds(dated[0]) and not other.holds(dated[5]) and store.count(named) == 2
        newest = Filter(since=now - 1.5 * day)
        assert {hit.row.id for hit in other.search(unit(1), 50, newest)[0]} == {
            row.id for row in [*dated[:2], ahead[0]]
        }
        # Added again, an image keeps the day on which it came.
        other.add(unit(1, seed=5), [replace(undated[3], added=None, camera="door")])
        assert other.expired == 5 and store.count() == 9
        gallery.change_settings(replace(wanted, keep_seconds=2.5 * day))
        assert gallery.expired == 2 and {row.id for row in store.rows()} == {
            row.id for row in [*dated[:3], *undated[:3], ahead[0]]
        }
        other.add(unit(1), [photograph(50, time=now - 9 * day)])
        assert other.expired == 6 and other.count() == 7
    finally:
        store.change_settings(GallerySettings())


# --- several processes ---


def start(python, *arguments):
    command = [python, str(WORKER), *map(str, arguments)]
    environment = os.environ | {"LANCE_CPU_THREADS": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_killed_writer_loses_nothing_that_was_acknowledged(python, place):
    location, store = place
    rng = np.random.default_rng()
    firsts = (0,) if "://" in location else (0, 1000, 2000)
    workers = [start(python, "write", location, first) for first in firsts]
    acknowledged = []
    try:
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker, first in zip(workers, firsts):  # the others go on writing
            assert worker.stdout.readline(), worker.stderr.read()
            time.sleep(rng.uniform(0, 0.4))
            worker.kill()
            numbers = [int(line) for line in worker.stdout.read().split()] or [first + 3]
            acknowledged += range(first, numbers[-1])
            worker.wait()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    found = contents(store)
    wanted = expected(*zip(*[numbered(number)[::-1] for number in acknowledged]))
    assert wanted.items() <= found.items()
    # At most the batch that was under way came in as well, whole.
    assert len(found) - len(wanted) in (0, 3, 6, 9)
    assert len({row.path for row, _ in found.values()}) == len(found)
    store.add(unit(1), [photograph(9999)])
    assert store.count() == len(found) + 1


def test_two_search_while_a_third_adds_and_tidies(python, place):
    location, store = place
    store.add(*reversed_pair(range(5)))
    readers = [start(python, "search", location) for _ in range(2)]
    try:
        for reader in readers:
            assert reader.stdout.readline() == "ready\n", reader.stderr.read()
        for first in range(5, 50, 5):
            store.add(*reversed_pair(range(first, first + 5)))
            if first in (20, 40) and "://" not in location:
                store.compact()  # removes the files that the others are reading
        last = time.monotonic() + 240
        sizes = [[], []]
        while any(not seen or seen[-1] < 50 for seen in sizes) and time.monotonic() < last:
            for reader, seen in zip(readers, sizes):
                seen.append(int(reader.stdout.readline() or -1))
                assert seen[-1] >= 0, reader.stderr.read()
    finally:
        for reader in readers:
            _, errors = reader.communicate()
            assert reader.returncode == 0, errors
    for seen in sizes:
        assert seen == sorted(seen) and seen[-1] == 50 and set(seen) <= set(range(5, 51, 5))


def reversed_pair(numbers):
    embeddings, rows = zip(*map(numbered, numbers))
    return np.stack(embeddings), rows


# --- LanceDB's folder ---


@pytest.fixture
def folder(tmp_path):
    from aga_model.gallery.lance.store import LanceStore

    folder = tmp_path / "gallery"
    LanceStore.create(folder, Manifest(NAME, MODEL, DIM)).add(unit(50), photographs(50))
    return folder


def search_by(way, monkeypatch):
    """`held`: from memory, and `indexed`: by the index, as if there were more rows than there are."""
    from aga_model.gallery.lance.store import LanceStore

    if way != "few":
        monkeypatch.setattr(LanceStore, "exact_rows", 10)
    if way == "indexed":
        from aga_model.gallery.lance import nearest as lance_search

        monkeypatch.setattr(LanceStore, "held_bytes", 0)
        monkeypatch.setattr(lance_search, "_SURE", 1)


def reopened(folder):
    from aga_model.gallery.lance.store import LanceStore

    return LanceStore.open(folder)


def files_with(folder, content):
    return [path for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


@pytest.mark.parametrize("indexed", [False, True])
def test_deletion_leaves_nothing_in_the_folder(folder, indexed, monkeypatch):
    from aga_model.gallery.lance.store import LanceStore

    store = reopened(folder)
    # As text that Lance does not compress, and in a version that was replaced.
    secret = photograph(7777, source="/people/xq7-zv0-the-one.jpg", path="/people/xq7-zv0-the-one.jpg")
    store.add(unit(1, seed=70), [replace(secret, source_hash="1" * 64)])
    store.add(unit(1, seed=71), [secret])
    if indexed:
        monkeypatch.setattr(LanceStore, "exact_rows", 20)
        store.build_index()
    traces = [unit(1, seed=70).tobytes(), unit(1, seed=71).tobytes(), b"xq7-zv0-the-one"]
    assert all(files_with(folder, trace) for trace in traces[1:])
    before = {path for path in folder.rglob("*") if "_indices" in path.parts and path.is_file()}
    assert bool(before) == indexed
    assert store.delete(Filter(paths=[secret.path])) == 1
    assert [files_with(folder, trace) for trace in traces] == [[], [], []]
    assert files_with(folder, unit(50)[17].tobytes())
    assert not any(path.exists() for path in before)  # the index held a form of the vector
    assert store.vector_index().kind == ("IVF_RQ" if indexed else "FLAT")
    assert contents(store) == expected(photographs(50), unit(50))
    assert store.delete(Filter(since=0)) + store.delete(Filter(until=0)) == 40
    assert not files_with(folder, unit(50)[17].tobytes())


def test_what_was_replaced_is_gone_after_compacting(folder):
    store = reopened(folder)
    store.add(unit(1, seed=9), [replace(photograph(7), source_hash="f" * 64)])
    assert files_with(folder, unit(50)[7].tobytes())
    store.compact()
    assert not files_with(folder, unit(50)[7].tobytes()) and store.count() == 50


def test_what_a_killed_writer_left_goes_with_the_next_deletion(folder):
    left = folder / "images-1.lance" / "data" / "left.lance"
    left.write_bytes(unit(1, seed=5).tobytes())
    assert reopened(folder).delete(Filter(paths=[photograph(17).path])) == 1
    assert not left.exists() and reopened(folder).count() == 49


@pytest.mark.parametrize("reading", ["few", "many", "rows"])
def test_a_read_whose_files_are_tidied_away_reads_again(folder, monkeypatch, reading):
    """A search that takes the rows into memory, one of more than that, and all rows."""
    from aga_model.gallery.lance import rows, table
    from aga_model.gallery.lance import store as lance_store

    store, other, real, calls = reopened(folder), reopened(folder), table.read_batches, []
    read = {"few": rows.COLUMNS, "many": ["id", "embedding"], "rows": rows.COLUMNS[2:]}[reading]
    if reading == "many":
        monkeypatch.setattr(lance_store.LanceStore, "exact_rows", 20)
        monkeypatch.setattr(lance_store.LanceStore, "held_bytes", 0)

    def late(table, condition, columns):
        batches = real(table, condition, columns)
        if columns == read:
            calls.append(columns)
            if len(calls) <= 2:
                other.add(unit(1, seed=len(calls)), [photograph(100 + len(calls))])
                other.compact()
        return batches

    monkeypatch.setattr(table, "read_batches", late)
    found = list(store.rows()) if reading == "rows" else store.search(unit(1), 100)[0]
    assert len(found) == 52 and len(calls) == 3


def test_a_search_by_the_index_whose_files_are_tidied_away_searches_again(folder, monkeypatch):
    from aga_model.gallery.lance import held as in_memory

    search_by("indexed", monkeypatch)
    store, other = reopened(folder), reopened(folder)
    store.build_index()
    real, calls = in_memory.nearest, []

    def late(*arguments):
        calls.append(arguments)
        if len(calls) <= 2:
            other.add(unit(1, seed=len(calls)), [photograph(100 + len(calls))])
            other.compact()
        return real(*arguments)

    monkeypatch.setattr(in_memory, "nearest", late)
    assert store.search(unit(1, seed=2), 1)[0][0].row == photograph(102)
    assert len(calls) == 3


def test_a_gallery_that_does_not_fit_is_not_held(folder, monkeypatch):
    from aga_model.gallery.lance import held as in_memory
    from aga_model.gallery.lance import store as lance_store

    search_by("held", monkeypatch)
    needed = 50 * (4 * DIM + in_memory.HELD_ROW_BYTES)
    for room, held in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(lance_store.LanceStore, "held_bytes", room)
        store = reopened(folder)
        assert_same_hits(store.search(unit(1), 5)[0], brute_force(photographs(50), unit(50), unit(1)[0], 5))
        assert (store._held is not None) == held


def test_searches_at_the_same_time_read_a_gallery_once(folder, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from aga_model.gallery.lance.held import HeldVectors

    search_by("held", monkeypatch)
    store, real, calls = reopened(folder), HeldVectors.of, []
    monkeypatch.setattr(HeldVectors, "of", lambda *arguments: calls.append(arguments) or real(*arguments))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: store.search(unit(1), 5), range(16)))
    assert len(calls) == 1 and all(hits == found[0] for hits in found) and len(found[0][0]) == 5


def test_many_small_additions_are_merged(folder, monkeypatch):
    from aga_model.gallery.lance import store as lance_store

    monkeypatch.setattr(lance_store, "_MOST_FRAGMENTS", 4)
    monkeypatch.setattr(lance_store, "_KEPT_VERSIONS", lance_store.timedelta(milliseconds=1))
    store = reopened(folder)
    for number in range(100, 120):
        store.add(unit(1, seed=number), [photograph(number)])
    assert len(list(folder.rglob("data/*.lance"))) < 10
    assert store.count() == 70 and len(store.search(unit(1), 100)[0]) == 70


def test_dimensions_that_the_quantiser_does_not_take(tmp_path, monkeypatch):
    from aga_model.gallery.lance.store import LanceStore

    monkeypatch.setattr(LanceStore, "exact_rows", 300)
    store = LanceStore.create(tmp_path / "gallery", Manifest(NAME, MODEL, 12))
    store.add(unit(600, dim=12), photographs(600))
    report = store.build_index()
    assert report.kind == "IVF_FLAT" and "multiple of 8" in report.reason and report.recall > 0.9


def test_overwriting_leaves_the_old_gallery_until_the_new_one_is_there(folder, monkeypatch):
    from aga_model.gallery.lance import store as lance_store

    def interrupted(*arguments):
        raise KeyboardInterrupt

    old = reopened(folder)
    with monkeypatch.context() as patch:
        patch.setattr("aga_model.gallery.lance.files.replace_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lance_store.LanceStore.create(folder, Manifest("other", "b" * 64, 4))
    assert reopened(folder).count() == 50
    new = lance_store.LanceStore.create(folder, Manifest("other", "b" * 64, 4))
    assert reopened(folder).manifest == new.manifest and new.count() == 0
    assert not files_with(folder, unit(50)[17].tobytes())
    for action in (old.count, lambda: old.search(unit(1), 1), lambda: old.add(unit(1), photographs(1))):
        with pytest.raises(GalleryError, match="overwritten by another process"):
            action()


def test_a_busy_gallery_says_so(folder, monkeypatch):

    monkeypatch.setattr("aga_model.gallery.lance.files._LOCK_SECONDS", 0)
    with FileLock(folder / ".lock"), pytest.raises(GalleryError, match="written by another process"):
        reopened(folder).add(unit(1), photographs(1))


# --- Milvus's addresses ---


@pytest.mark.parametrize(
    "location",
    ["milvus://", "milvus://host", "milvus://host/", "milvus://host:x/a", "milvus://host/a-b", "milvus://h/a/b"],
)
def test_bad_addresses_are_named(location):
    pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")
    from aga_model.gallery.milvus.store import MilvusStore

    with pytest.raises(GalleryError, match="host:port/collection"):
        MilvusStore.open(location)


def test_the_server_of_these_tests_has_nothing_but_a_loopback(milvus_process):
    networks = [os.readlink(f"/proc/{process}/ns/net") for process in (milvus_process[1], "self")]
    assert networks[0] != networks[1]
    interfaces = Path(f"/proc/{milvus_process[1]}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_no_server_and_no_collection(milvus_server):
    from aga_model.gallery.milvus.store import MilvusStore, Place, _connect

    with pytest.raises(GalleryError, match=r"milvus://127.0.0.1:1/people: ") as caught:
        MilvusStore.open("milvus://somebody:secret@127.0.0.1:1/people")
    assert "secret" not in str(caught.value)
    with pytest.raises(GalleryError, match="does not exist"):
        MilvusStore.open(f"{milvus_server}/nothing")
    client = _connect(Place.parse(f"{milvus_server}/foreign"))
    client.create_collection("foreign", schema=collection_schema(client, "somebody's"))
    with pytest.raises(GalleryError, match="something else"):
        MilvusStore.check_place(f"{milvus_server}/foreign", overwrite=True)
    with pytest.raises(GalleryError, match="damaged"):
        MilvusStore.open(f"{milvus_server}/foreign")


def collection_schema(client, description):
    schema = client.create_schema(auto_id=True, description=description)
    schema.add_field("id", 5, is_primary=True)
    schema.add_field("embedding", 101, dim=4)
    return schema


def test_a_collection_is_overwritten(milvus_server):
    from aga_model.gallery.milvus.store import MilvusStore, Place, _connect

    location = f"{milvus_server}/twice"
    client = _connect(Place.parse(location))
    description = json.dumps(Manifest(NAME, MODEL, DIM).to_dict())
    client.create_collection("twice", schema=collection_schema(client, description))
    with pytest.raises(GalleryError, match="holds a gallery already"):
        MilvusStore.check_place(location, overwrite=False)
    assert MilvusStore.exists(location) and not MilvusStore.exists(f"{milvus_server}/nothing")
    MilvusStore.create(location, Manifest("other", "b" * 64, 4))
    assert MilvusStore.open(location).manifest == Manifest("other", "b" * 64, 4)
    assert MilvusStore.open(location).count() == 0
