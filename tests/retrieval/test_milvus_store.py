"""The store of a Milvus server without the server: its requests are answered by a dict that reads the expressions."""

import itertools
import json
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from store_worker import DIM, MODEL, unit

from aga_model.gallery import Filter, GalleryError, GalleryRow, GallerySettings
from aga_model.gallery.store import Manifest

pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")

from pymilvus import MilvusException

from aga_model.gallery.milvus import store as milvus_store
from aga_model.gallery.milvus.store import MilvusStore

MANIFEST = Manifest("some/model", MODEL, DIM)


class Facts(dict):
    """Values of a JSON field; one that is missing is neither less nor more than anything."""

    def __missing__(self, name):
        return float("nan")


class Server:
    """Collections as dicts of rows by id; expressions are Python's but for `exists`."""

    def __init__(self):
        self.collections, self.descriptions, self.properties = {}, {}, {}
        self.indices, self.requests = {}, []

    def passing(self, name, expression):
        rows = self.collections[name].values()
        if not expression:
            return list(rows)
        code = compile(expression.replace("exists facts['added']", "'added' in facts"), "expression", "eval")
        return [row for row in rows if eval(code, {}, row | {"facts": Facts(row["facts"])})]

    # --- what a MilvusClient has

    def has_collection(self, name):
        return name in self.collections

    def describe_collection(self, name):
        return {"description": self.descriptions[name], "properties": self.properties.get(name, {})}

    def alter_collection_properties(self, name, values):
        self.properties.setdefault(name, {}).update(values)

    def load_collection(self, name):
        assert name in self.collections

    def drop_collection(self, name):
        for kept in (self.collections, self.descriptions, self.properties):
            kept.pop(name, None)

    def create_schema(self, description, **options):
        class Schema:
            def add_field(self, *arguments, **options):
                pass

        schema = Schema()
        schema.description = description
        return schema

    def prepare_index_params(self):
        class Params:
            def add_index(self, field, index_type, **options):
                self.kind = index_type

        return Params()

    def create_collection(self, name, schema, index_params, **options):
        self.collections[name], self.descriptions[name] = {}, schema.description
        self.indices[name] = index_params.kind

    def describe_index(self, name, field):
        return {"index_type": self.indices[name], "indexed_rows": len(self.collections[name])}

    def upsert(self, name, rows):
        self.requests.append(("upsert", len(rows)))
        self.collections[name].update((row["id"], row) for row in rows)

    def delete(self, name, ids=None, filter=None):
        gone = ids if ids is not None else [row["id"] for row in self.passing(name, filter)]
        for row_id in gone:
            self.collections[name].pop(row_id, None)

    def query(self, name, filter, output_fields, **options):
        assert options["consistency_level"] == "Strong"
        found = self.passing(name, filter)
        return [{"count(*)": len(found)}] if output_fields == ["count(*)"] else [dict(row) for row in found]

    def query_iterator(self, name, batch_size, filter, **options):
        rows = self.passing(name, filter)
        batches = iter([rows[start : start + batch_size] for start in range(0, len(rows), batch_size)])

        class Batches:
            def next(self):
                return next(batches, [])

            def close(self):
                pass

        return Batches()

    def search(self, name, queries, limit, filter, **options):
        self.requests.append(("search", limit, filter))
        rows = self.passing(name, filter)
        scores = np.array([row["embedding"] for row in rows]).reshape(-1, DIM) @ np.array(queries).T
        best = [np.argsort(-each, kind="stable")[:limit] for each in scores.T]
        return [
            [{"id": rows[row]["id"], "distance": float(each[row])} for row in ranked]
            for each, ranked in zip(scores.T, best)
        ]


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(milvus_store, "_connect", lambda place: server)
    return server


@pytest.fixture
def store(server):
    return MilvusStore.create("milvus://h/people", MANIFEST)


def photograph(number, **facts):
    path = f"/people/{number:04}.jpg"
    return replace(GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL, added=1000.0 + number), **facts)


# --- conditions ---------------------------------------------------------------------------------------------------

ROWS = [
    photograph(
        number,
        camera=(None, "hall", 'the "east" \\ side')[number % 3],
        time=(None, 0.0, 60.0 * number)[number % 4 if number % 4 < 3 else 2],
        person_id=number % 5 or None,
        added=100.0 * (number % 7),
    )
    for number in range(24)
]


def age(row):
    """The moment from which an image is kept: when it was taken, at the latest when it was added."""
    return row.added if row.time is None else min(row.time, row.added)


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (Filter(), lambda row: True),
        (Filter(cameras=["hall", "none"]), lambda row: row.camera == "hall"),
        (Filter(cameras=['the "east" \\ side']), lambda row: row.camera == 'the "east" \\ side'),
        (Filter(cameras=[]), lambda row: False),
        (Filter(person_ids=[1, 2]), lambda row: row.person_id in ("1", "2")),
        (Filter(since=360.0), lambda row: row.time is not None and row.time >= 360),
        (Filter(until=360.0), lambda row: row.time is not None and row.time < 360),
        (Filter(since=0.0, until=0.5), lambda row: row.time == 0),
        (Filter(since=-5.0), lambda row: row.time is not None),
        (Filter(sources=[ROWS[3].source], paths=[ROWS[3].path]), lambda row: row == ROWS[3]),
        (Filter(ids=[ROWS[3].id, ROWS[5].id]), lambda row: row in (ROWS[3], ROWS[5])),
        (
            Filter(cameras=["hall"], until=700.0),
            lambda row: row.camera == "hall" and row.time is not None and row.time < 700,
        ),
        (Filter(cameras=["hall"], person_ids=[1]), lambda row: row.camera == "hall" and row.person_id == "1"),
        (Filter(fresh_since=300.0), lambda row: age(row) >= 300),
        (Filter(stale_before=300.0), lambda row: age(row) < 300),
        (Filter(fresh_since=200.0, cameras=["hall"]), lambda row: age(row) >= 200 and row.camera == "hall"),
    ],
)
def test_a_condition_lets_through_what_it_says(store, where, passes):
    store.add(unit(len(ROWS)), ROWS)
    wanted = {row.id for row in ROWS if passes(row)}
    assert {row.id for row in store.rows(where)} == wanted and store.count(where) == len(wanted)
    assert {scored.row.id for scored in store.search(unit(1, seed=1), 100, where)[0]} == wanted


def test_rows_of_earlier_versions_without_a_time_have_no_age_and_stay(store, server):
    store.add(unit(3), [photograph(0, time=None), photograph(1, time=500.0), photograph(2, time=100.0)])
    for row in server.collections["people"].values():
        del row["facts"]["added"]
    assert {row.time for row in store.rows(Filter(fresh_since=300.0))} == {500.0, None}
    assert {row.time for row in store.rows(Filter(stale_before=300.0))} == {100.0}


@pytest.mark.parametrize("parts", [1, 2, 14, 20])
def test_each_row_is_in_one_part(parts):
    ids = [f"{number:02x}ab" for number in range(256)]
    conditions = [eval(f"lambda id: True{part}") for part in milvus_store._id_ranges(parts)]
    found = [list(filter(condition, ids)) for condition in conditions]
    assert len(found) == parts and [*itertools.chain(*found)] == ids
    assert max(map(len, found)) - min(map(len, found)) <= 1


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_and_a_changed_file_loses_its_old_rows(store, server):
    rows = [photograph(0, frame=frame, box=(0, 0, 5, 6.5), offset=frame / 2, track="0.1") for frame in range(3)]
    rows += [photograph(1, camera="\udcff", detection_score=0.5), photograph(2)]
    store.add(unit(5), rows)
    assert {row.id: row for row in store.rows()} == {row.id: row for row in rows}
    changed = replace(rows[0], source_hash="e" * 64)
    store.add(unit(1, seed=1), [changed])
    assert {row.id: row for row in store.rows()} == {row.id: row for row in [changed, *rows[3:]]}
    found = {row_id: one for ids, some in store.embeddings() for row_id, one in zip(ids, some)}
    np.testing.assert_array_equal(found[changed.id], unit(1, seed=1)[0])
    np.testing.assert_array_equal(found[rows[4].id], unit(5)[4])
    assert store.delete(Filter(cameras=["\udcff"])) == 1 and store.count() == 2


def test_rows_are_written_in_parts_that_a_request_may_hold(store, server, monkeypatch):
    monkeypatch.setattr(milvus_store, "_ROWS_PER_REQUEST", 4)
    rows = [photograph(number) for number in range(10)]
    store.add(unit(10), rows)
    assert server.requests == [("upsert", 4), ("upsert", 4), ("upsert", 2)]
    found = {row_id: one for ids, some in store.embeddings() for row_id, one in zip(ids, some)}
    assert all(np.array_equal(found[row.id], embedding) for row, embedding in zip(rows, unit(10)))


def test_a_row_keeps_the_moment_at_which_it_came_first(store, monkeypatch):
    row = photograph(1, added=None)
    for moment in (50.0, 70.0):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        store.add(unit(1), [row])
        assert [each.added for each in store.rows()] == [50.0]
    store.add(unit(1), [replace(row, added=60.0)])
    assert [each.added for each in store.rows()] == [60.0]


# --- searches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FLAT", "HNSW"])
@pytest.mark.parametrize("top_k", [1, 7, 300])
def test_a_search_is_brute_force_with_equal_scores_by_id(store, server, monkeypatch, kind, top_k):
    monkeypatch.setattr(milvus_store, "_SCANNED_ROWS", 20)
    embeddings = unit(200)
    embeddings[::4] = embeddings[0]
    rows = [photograph(number, camera="ab"[number % 3 == 0], time=float(number)) for number in range(200)]
    store.add(embeddings, rows)
    server.indices["people"] = kind
    queries = np.stack([embeddings[1], embeddings[0] if kind == "FLAT" else embeddings[2]])
    for where, passing in (
        (None, range(200)),
        (Filter(cameras=["a"]), [number for number in range(200) if number % 3]),
        (Filter(cameras=["b"]), range(0, 200, 3)),
        (Filter(since=190.0), range(190, 200)),
    ):
        for query, found in zip(queries, store.search(queries, top_k, where)):
            scores = {number: float(embeddings[number].astype(float) @ query.astype(float)) for number in passing}
            wanted = sorted(passing, key=lambda number: (-round(scores[number], 9), rows[number].id))[:top_k]
            if kind == "FLAT" or query is queries[0]:
                assert [scored.row for scored in found[:1]] == [rows[wanted[0]]]
            assert [scored.score for scored in found] == pytest.approx([scores[number] for number in wanted])
            if kind == "FLAT":
                assert [scored.row for scored in found] == [rows[number] for number in wanted]


# --- collections and settings -------------------------------------------------------------------------------------


def test_what_is_no_gallery_is_never_overwritten(server):
    server.collections["people"], server.descriptions["people"] = {}, "recipes"
    for text in ("recipes", "", '{"version": 3}', "[1]"):
        server.descriptions["people"] = text
        with pytest.raises(GalleryError, match="is a collection of something else"):
            MilvusStore.create("milvus://h/people", MANIFEST)
        with pytest.raises(GalleryError, match="is a collection of something else"):
            MilvusStore.check_place("milvus://h/people", overwrite=True)
    assert "people" in server.collections


def test_settings_outlast_overwriting(server, store):
    store.add(unit(1), [photograph(1)])
    settings = GallerySettings(keep_seconds=60.0, audit="/var/log/people.jsonl", hide_faces=True)
    store.change_settings(settings)
    with pytest.raises(GalleryError, match="holds a gallery already"):
        MilvusStore.check_place("milvus://h/people", overwrite=False)
    made = MilvusStore.create("milvus://h/people", replace(MANIFEST, model_hash="b" * 64))
    assert made.count() == 0 and made.settings == MilvusStore.open("milvus://h/people").settings == settings
    assert MilvusStore.open("milvus://h/people").manifest.model_hash == "b" * 64


def test_settings_that_are_damaged_or_of_a_newer_version_are_refused(server, store):
    assert store.settings == GallerySettings()
    for text in ("{", "[]", json.dumps(asdict(GallerySettings()) | {"blur": 1}), '{"keep_seconds": -1}'):
        server.alter_collection_properties("people", {"aga.settings": text})
        with pytest.raises(GalleryError, match=r"property aga\.settings of milvus://h:19530/people"):
            _ = store.settings


# --- addresses ----------------------------------------------------------------------------------------------------


def test_an_address_in_its_parts(monkeypatch):
    place = milvus_store.Place.parse("milvus://a%20da:p%40ss%2F@db.example.org:1234/people")
    assert (place.host, place.port, place.collection) == ("db.example.org", 1234, "people")
    assert (place.user, place.password) == ("a da", "p@ss/") and "p@ss/" not in repr(place) + str(place)
    place = milvus_store.Place.parse("milvus://[::1]/people_2")
    assert (place.address, place.user, place.password) == ("[::1]:19530", "", "")
    asked = {}
    monkeypatch.setattr(milvus_store, "MilvusClient", lambda **options: asked.update(options))
    milvus_store._connect(milvus_store.Place.parse("milvus://ada:p%40ss@h/people"))
    assert (asked["uri"], asked["user"], asked["password"]) == ("http://h:19530", "ada", "p@ss")


def test_an_error_of_the_server_hides_the_password():
    place = milvus_store.Place.parse("milvus://ada:p%40ss@h/people")
    with pytest.raises(GalleryError) as caught, milvus_store._reported(place):
        raise MilvusException(message="cannot log in ada with p@ss\nsecond line")
    assert str(caught.value) == "milvus://h:19530/people: cannot log in ada with ***"
