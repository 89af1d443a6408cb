"""
A gallery on a Milvus server, for one that several machines share: `milvus://[user:password@]host:port/collection`.

One collection is one gallery; its description holds the manifest. The columns that a filter asks for are fields of
their own, and the whole row is in the JSON field `facts`. Fields that can be null came with Milvus 2.5, therefore ""
stands for no camera, person or track, and -1e300 for no time.

Every read asks for Strong consistency: it sees what any process has written before. Three things are weaker than in a
folder. A changed file's new row and the removal of its old one are two requests; a process that ends between them
leaves both, until the file is added again. A row that is added again may be missing to others for the moment in which
the server replaces it. And the server decides when the bytes of deleted rows leave its disk: `compact` asks it to
rewrite its segments, and it drops the old ones after its own time ([`SERVER_KEEPS`]).

The gallery's settings are a property of the collection, so that every process reads them with each question.

Up to `EXACT_ROWS` rows the index is FLAT, which is exact. Above, `build_index` makes an HNSW index, with which a
search without a filter is approximate; rows that are added later are found through the server's interim index until it
is built again. With a filter that leaves less than half of the rows, or few of the nearest, the rows that pass are
asked for in parts so small that the server compares with each.
"""

import itertools
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import grpc
import numpy as np
from PIL import Image
from pymilvus import DataType, MilvusClient, MilvusException

from ..exact import EXACT_ROWS, BestRows, measure_recall
from ..locations import HIDDEN
from ..rows import Filter, GalleryError, GalleryRow, row_of, storable, store_text
from ..store import GallerySettings, Manifest, ScoredRow, VectorIndex, VectorIndexReport, last_of_each
from .place import Place

_CONNECT_SECONDS = 10
_COMPACT_SECONDS = 600
_NO_TIME = -1e300
_ROWS_PER_REQUEST = 1000  # a request may have 64 MB
_MOST_RESULTS = 16_384  # of a search, set by the server
_SCANNED_ROWS = 1_000  # with so few rows left by a filter an approximate index is passed over
_TIED_SPARE = 10  # rows beyond top_k, to see whether equal scores go on there
_HNSW = {"M": 16, "efConstruction": 200}
_LEAST_EF = 256  # the same up to 100 results: a shorter list is the beginning of a longer one
_MOST = 0.5  # share of the rows from which on a filter is applied to what a search without it finds
_PARTS_AT_ONCE = 8
_COMPARED = 0.05  # of the rows; when a filter leaves less than 7%, the server compares with each of them
_TEXT_BYTES = 65_535
_STRONG = {"consistency_level": "Strong"}
_SETTINGS = "aga.settings"  # property of the collection
# What a deletion cannot reach on a Milvus server, in words for the person.
SERVER_KEEPS = (
    "the bytes of deleted rows stay in the server's segments and in the logs of its message queue until it collects "
    "them: whoever runs it sets dataCoord.gc.dropTolerance, dataCoord.gc.missingTolerance, "
    "rocksmq.retentionTimeInMinutes and rocksmq.retentionSizeInMB (or the retention of its Kafka or Pulsar) as low as "
    "the deletion asks for, and runs `aga gallery compact`"
)

# pymilvus prints each error with a traceback before it raises it.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class MilvusStore:
    """
    The store of a gallery on a Milvus server; see [`GalleryStore`]. Make one with `create` or `open`.

    Attributes:
        exact_rows (`int`): up to so many rows `build_index` keeps the exact index FLAT.
    """

    exact_rows = EXACT_ROWS

    def __init__(self, place: Place, client: MilvusClient, manifest: Manifest):
        self.manifest = manifest
        self._place = place
        self._client = client
        self._name = place.collection

    @staticmethod
    def exists(location: str) -> bool:
        """Whether there is a collection of this name."""
        place = Place.parse(location)
        with _reported(place):
            return bool(_connect(place).has_collection(place.collection))

    @staticmethod
    def check_place(location: str, overwrite: bool) -> None:
        """Raise GalleryError unless a gallery can be made there."""
        place = Place.parse(location)
        with _reported(place):
            _check_place(_connect(place), place, overwrite)

    @classmethod
    def create(cls, location: str, manifest: Manifest) -> "MilvusStore":
        """
        Make an empty gallery, in place of the one that is there.

        Raises:
            GalleryError: the server cannot be reached, or the collection is no gallery.
        """
        place = Place.parse(location)
        with _reported(place):
            client = _connect(place)
            _check_place(client, place, overwrite=True)
            there = client.has_collection(place.collection)
            settings = _settings_of(client, place) if there else GallerySettings()  # which go on to hold
            client.drop_collection(place.collection)
            schema = client.create_schema(
                auto_id=False, enable_dynamic_field=False, description=json.dumps(manifest.to_dict())
            )
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=manifest.dim)
            for name in ("source", "source_hash", "path", "camera", "person_id", "track"):
                schema.add_field(name, DataType.VARCHAR, max_length=_TEXT_BYTES)
            schema.add_field("time", DataType.DOUBLE)
            schema.add_field("facts", DataType.JSON)
            index = _index_params(client, "FLAT", {})
            client.create_collection(place.collection, schema=schema, index_params=index, **_STRONG)
            store = cls(place, client, manifest)
            if settings != GallerySettings():
                store.change_settings(settings)
        return store

    @classmethod
    def open(cls, location: str) -> "MilvusStore":
        """
        Open a gallery.

        Raises:
            GalleryError: the server cannot be reached, or holds no such gallery.
        """
        place = Place.parse(location)
        with _reported(place):
            client = _connect(place)
            if not client.has_collection(place.collection):
                raise GalleryError(f"{place} does not exist: make it with `aga index`")
            manifest = Manifest.from_json(client.describe_collection(place.collection)["description"], str(place))
            client.load_collection(place.collection)
        return cls(place, client, manifest)

    @property
    def settings(self) -> GallerySettings:
        with _reported(self._place):
            return _settings_of(self._client, self._place)

    def change_settings(self, settings: GallerySettings) -> None:
        with _reported(self._place):
            self._client.alter_collection_properties(self._name, {_SETTINGS: json.dumps(asdict(settings))})

    @property
    def unfinished(self) -> str:
        return ""

    def add(
        self, embeddings: np.ndarray, rows: Sequence[GalleryRow], crops: Sequence[Image.Image | None] | None = None
    ) -> None:
        """A server keeps no images: `crops` are not saved."""
        kept = last_of_each(rows)
        embeddings, rows = embeddings[kept], [rows[place] for place in kept]
        with _reported(self._place):
            for start in range(0, len(rows), _ROWS_PER_REQUEST):
                part = slice(start, start + _ROWS_PER_REQUEST)
                dated = self._dated(rows[part])
                entities = [_entity(row, embedding) for row, embedding in zip(dated, embeddings[part])]
                self._client.upsert(self._name, entities)
                if outdated := self._outdated(rows[part]):
                    self._client.delete(self._name, ids=outdated)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        exact = self._describe_index()["index_type"] == "FLAT"
        wanted, expression = top_k + _TIED_SPARE, _expression(where)
        found: list[list[dict[str, Any]]] | None = None
        if wanted <= _MOST_RESULTS:
            if exact or not expression:
                found = self._nearest(queries, wanted, expression, exact)
            elif (passing := self.count(where)) > _SCANNED_ROWS:
                found = self._nearest_of_some(queries, wanted, expression, passing)
        if found is None or (not exact and any(len(hits) < wanted for hits in found) and self.count(where) >= wanted):
            return self._search_by_scan(queries, top_k, where)
        known = self._entities({hit["id"] for hits in found for hit in hits}, ["id", "embedding", "facts"])
        results = []
        for query, hits in zip(queries, found):
            ids = [hit["id"] for hit in hits if hit["id"] in known]  # without those that were deleted since
            best = BestRows(query[None], len(ids))
            if ids:
                best.update(ids, np.array([known[row_id]["embedding"] for row_id in ids], np.float32))
            ranked = [ScoredRow(score, row_of(known[row_id]["facts"])) for row_id, score in best.found()[0]]
            if ranked and exact and len(hits) == wanted and BestRows.tied(ranked[:top_k][-1].score, ranked[-1].score):
                # Rows that the server left out may score the same and have a smaller id.
                ranked = self._search_by_scan(query[None], top_k, where)[0]
            results.append(ranked[:top_k])
        return results

    def _nearest(
        self, queries: np.ndarray, wanted: int, expression: str, exact: bool = False
    ) -> list[list[dict[str, Any]]]:
        """For each query the ids and scores (`distance`) that the server's index finds."""
        parameters = {} if exact else {"ef": max(_LEAST_EF, 2 * wanted)}
        with _reported(self._place):
            # Asked for fields with vectors, the server would fail when a row of the result is replaced meanwhile.
            return self._client.search(
                self._name,
                [query.tolist() for query in queries],
                limit=wanted,
                filter=expression,
                search_params={"metric_type": "IP", "params": parameters},
                **_STRONG,
            )

    def _nearest_of_some(
        self, queries: np.ndarray, wanted: int, expression: str, passing: int
    ) -> list[list[dict[str, Any]]] | None:
        """
        What the index finds among the rows, `passing` in number, that fulfil a condition; None where it finds too few.

        The graph of HNSW leads to the rows that are near the query, and where those that pass are elsewhere, a search
        with a filter ends without them. Therefore a filter that leaves most rows is applied to what a search without
        it finds. When a filter leaves less than 7% of the rows the server compares with each of these, so that other
        filters, and those that leave too few of the nearest, are asked in parts as small.
        """
        share = passing / max(self.count(), passing)
        least = min(wanted, passing)
        limit = math.ceil(2 * wanted / share) if share >= _MOST else _MOST_RESULTS + 1
        if limit <= _MOST_RESULTS:
            found = self._nearest(queries, limit, "")
            left = self._entities({hit["id"] for hits in found for hit in hits}, ["id"], expression)
            found = [[hit for hit in hits if hit["id"] in left][:wanted] for hits in found]
            if all(len(hits) >= least for hits in found):
                return found
        # First as if each segment of the server held its share of the rows that pass, then as if one held them alone.
        for parts in sorted({math.ceil(share / _COMPARED), math.ceil(1 / _COMPARED)}):
            found = self._nearest_in_parts(queries, wanted, expression, parts)
            if all(len(hits) >= least for hits in found):
                return found
        return None

    def _nearest_in_parts(
        self, queries: np.ndarray, wanted: int, expression: str, parts: int
    ) -> list[list[dict[str, Any]]]:
        """The rows are shared out by their ids, which are hashes."""
        conditions = [expression + part for part in _id_ranges(parts)]
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:  # since each waits until the server has seen all writes
            asked = list(pool.map(lambda condition: self._nearest(queries, wanted, condition), conditions))
        return [
            sorted(itertools.chain(*hits), key=lambda hit: -hit["distance"])[:wanted]
            for hits in zip(*asked, strict=True)
        ]

    def delete(self, where: Filter) -> int:
        removed = self.count(where)
        if removed:
            with _reported(self._place):
                self._client.delete(self._name, filter=_expression(where))
        return removed

    def count(self, where: Filter | None = None) -> int:
        with _reported(self._place):
            found = self._client.query(self._name, filter=_expression(where), output_fields=["count(*)"], **_STRONG)
        return int(found[0]["count(*)"])

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        for batch in self._scan(where, ["facts"]):
            yield from (row_of(entity["facts"]) for entity in batch)

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        for batch in self._scan(where, ["id", "embedding"]):
            embeddings = np.array([entity["embedding"] for entity in batch], np.float32)
            yield [entity["id"] for entity in batch], embeddings

    def vector_index(self) -> VectorIndex:
        index = self._describe_index()
        # The server counts rows that are deleted until it compacts.
        return VectorIndex(index["index_type"], min(int(index["indexed_rows"]), self.count()))

    def build_index(self) -> VectorIndexReport:
        started = time.perf_counter()
        reason = ""
        if self.count() > self.exact_rows:
            _replace_index(self._client, self._place, "HNSW", _HNSW)
        else:
            reason = f"up to {self.exact_rows:,} images every search compares with each of them"
            if self._describe_index()["index_type"] != "FLAT":
                _replace_index(self._client, self._place, "FLAT", {})
        seconds = time.perf_counter() - started
        recall, queries, filtered = measure_recall(self)
        index = self.vector_index()
        return VectorIndexReport(index.kind, index.rows, seconds, recall, queries, reason, filtered)

    def compact(self) -> None:
        with _reported(self._place):
            self._client.flush(self._name)
            job = self._client.compact(self._name)
            end = time.monotonic() + _COMPACT_SECONDS
            while self._client.get_compaction_state(job) != "Completed":
                if time.monotonic() > end:
                    raise GalleryError(f"{self._place}: the server has not finished compacting, it goes on with it")
                time.sleep(0.2)

    def _dated(self, rows: Sequence[GalleryRow]) -> list[GalleryRow]:
        """The rows with the moments at which they came into the gallery."""
        held = self._entities({row.id for row in rows if row.added is None}, ["id", "facts"])
        before = {row_id: entity["facts"].get("added") for row_id, entity in held.items()}
        now = time.time()
        return [row if row.added is not None else replace(row, added=before.get(row.id) or now) for row in rows]

    def _outdated(self, rows: Sequence[GalleryRow]) -> list[str]:
        """Ids of rows whose source has changed."""
        hashes = {store_text(row.source): row.source_hash for row in rows}
        found = self._client.query(
            self._name,
            filter=f"source in {_listed(hashes)}",
            output_fields=["id", "source", "source_hash"],
            **_STRONG,
        )
        return [entity["id"] for entity in found if hashes[entity["source"]] != entity["source_hash"]]

    def _scan(self, where: Filter | None, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        with _reported(self._place):
            iterator = self._client.query_iterator(
                self._name,
                batch_size=_ROWS_PER_REQUEST,
                filter=_expression(where),
                output_fields=fields,
                **_STRONG,
            )
        try:
            while True:
                with _reported(self._place):
                    batch = iterator.next()
                if not batch:
                    return
                yield batch
        finally:
            iterator.close()

    def _search_by_scan(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        best = BestRows(queries, top_k)
        for ids, embeddings in self.embeddings(where):
            best.update(ids, embeddings)
        found = best.found()
        entities = self._entities({row_id for ranked in found for row_id, _ in ranked}, ["id", "facts"])
        known = {row_id: row_of(entity["facts"]) for row_id, entity in entities.items()}
        # What was deleted since it was found is no result.
        return [[ScoredRow(score, known[row_id]) for row_id, score in ranked if row_id in known] for ranked in found]

    def _entities(self, ids: set[str], fields: list[str], expression: str = "") -> dict[str, dict[str, Any]]:
        """Fields of the rows with these ids, by id; what is gone or does not fulfil the condition is left out."""
        wanted = sorted(ids)
        found: dict[str, dict[str, Any]] = {}
        with _reported(self._place):
            for start in range(0, len(wanted), _ROWS_PER_REQUEST):
                condition = f"id in {_listed(wanted[start : start + _ROWS_PER_REQUEST])}"
                condition += f" and {expression}" if expression else ""
                entities = self._client.query(self._name, filter=condition, output_fields=fields, **_STRONG)
                found.update((entity["id"], entity) for entity in entities)
        return found

    def _describe_index(self) -> dict[str, Any]:
        with _reported(self._place):
            return dict(self._client.describe_index(self._name, "embedding"))


def _replace_index(client: MilvusClient, place: Place, kind: str, parameters: dict[str, int]) -> None:
    with _reported(place):
        client.flush(place.collection)  # what is not flushed would be asked through a coarser index of the server
        client.release_collection(place.collection)
        client.drop_index(place.collection, "embedding")
        client.create_index(place.collection, _index_params(client, kind, parameters))
        client.load_collection(place.collection)


def _entity(row: GalleryRow, embedding: np.ndarray) -> dict[str, Any]:
    facts = storable(row)
    return {
        "id": facts["id"],
        "embedding": embedding,
        "source": facts["source"],
        "source_hash": facts["source_hash"],
        "path": facts["path"],
        "camera": facts["camera"] or "",
        "person_id": facts["person_id"] or "",
        "track": facts["track"] or "",
        "time": _NO_TIME if facts["time"] is None else facts["time"],
        "facts": facts,
    }


def _index_params(client: MilvusClient, kind: str, parameters: dict[str, int]) -> Any:
    params = client.prepare_index_params()
    # Of unit rows the inner product is the cosine; Milvus's COSINE would norm them again and round.
    params.add_index("embedding", index_type=kind, index_name="embedding", metric_type="IP", params=parameters)
    return params


def _expression(where: Filter | None) -> str:
    """The filter in Milvus's language."""
    if where is None or where.is_empty:
        return ""
    since, until = where.times()
    conditions = [f"{column} in {_listed(values)}" for column, values in where.texts().items()]
    if since is not None or until is not None:
        conditions.append(f"time >= {_NO_TIME / 10 if since is None else since!r}")
    if until is not None:
        conditions.append(f"time < {until!r}")
    since, until = where.ages()
    # Earlier versions stored no moment of the addition: such a row without a time has no age, and stays.
    if since is not None:
        undated = f"(not (exists facts['added']) or facts['added'] >= {since!r})"
        conditions.append(f"((time >= {since!r} or time < {_NO_TIME / 10!r}) and {undated})")
    if until is not None:
        known = f"(time >= {_NO_TIME / 10!r} and time < {until!r})"
        conditions.append(f"({known} or facts['added'] < {until!r})")
    return " and ".join(conditions)


def _id_ranges(parts: int) -> list[str]:
    """Conditions that share the rows out by id, to be put behind another."""
    bounds = [f"{256 * part // parts:02x}" for part in range(1, parts)]
    return [
        (f' and id >= "{first}"' if first else "") + (f' and id < "{last}"' if last else "")
        for first, last in zip(["", *bounds], [*bounds, ""])
    ]


def _listed(texts: Any) -> str:
    # Milvus reads JSON's escapes.
    return json.dumps(list(texts), ensure_ascii=False)


def _connect(place: Place) -> MilvusClient:
    return MilvusClient(
        uri=f"http://{place.address}", user=place.user, password=place.password, timeout=_CONNECT_SECONDS
    )


def _settings_of(client: MilvusClient, place: Place) -> GallerySettings:
    text = client.describe_collection(place.collection).get("properties", {}).get(_SETTINGS)
    if text is None:
        return GallerySettings()
    try:
        values = json.loads(text)
    except ValueError:
        values = text
    return GallerySettings.from_dict(values, f"property {_SETTINGS} of {place}")


def _check_place(client: MilvusClient, place: Place, overwrite: bool) -> None:
    if not client.has_collection(place.collection):
        return
    description = client.describe_collection(place.collection)["description"]
    try:
        is_gallery = "format_version" in json.loads(description)
    except (ValueError, TypeError):
        is_gallery = False
    if not is_gallery:
        raise GalleryError(f"{place} is a collection of something else: give another name")
    if not overwrite:
        raise GalleryError(f"{place} holds a gallery already: open it or overwrite it")


@contextmanager
def _reported(place: Place) -> Iterator[None]:
    try:
        yield
    except MilvusException as error:
        reason = _reason(error)
        if place.password:
            reason = reason.replace(place.password, HIDDEN)
        raise GalleryError(f"{place}: {reason}") from error
    except grpc.RpcError as error:
        raise GalleryError(f"{place}: the server cannot be reached ({type(error).__name__})") from error


def _reason(error: MilvusException) -> str:
    lines = str(error.message).strip().splitlines()
    return lines[0] if lines else f"the server failed (code {error.code})"
