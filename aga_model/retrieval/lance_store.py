"""
A gallery in a folder, kept by LanceDB.

    gallery.json       format version, model name and hash, dim, name of the table
    images-N.lance/    the table: one row per image with its embedding; N counts how often the gallery was overwritten
    .lock              held while a process writes
    .erasing           there while a deletion is not finished

Every write is one commit of LanceDB, which is there whole or not at all, whenever the process ends. Writers take turns
by the lock. Readers need none: each read sees the last commit, and one whose files were tidied away under it reads
again.

Up to `EXACT_ROWS` rows are kept in memory from the first search to the next commit, because reading them takes many
times as long as comparing. Of more rows the embeddings are kept, and the facts by which a search filters, as long as
they fit into `LanceStore.held_bytes`: comparing with each is then as fast as the index or faster, and exact. A search
of a gallery that does not fit, or with a filter by source or path, asks the index, if `build_index` has made one
(`lance_search`); without one it reads all rows that pass.
"""

import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from lancedb.index import IvfFlat, IvfRq

from .lance_search import most_candidates, nearest
from .store import (
    CROPS,
    EXACT_ROWS,
    BestRows,
    Filter,
    GalleryError,
    GalleryRow,
    Manifest,
    ScoredRow,
    VectorIndex,
    VectorIndexReport,
    measure_recall,
    row_of,
    storable,
    store_text,
    without_replaced,
)

MANIFEST = "gallery.json"
SKIPPED = "skipped.json"  # of `aga index`

_ERASING = ".erasing"
_TABLE = re.compile(r"images-(\d+)")
_OWN_FILES = re.compile(
    r"gallery\.json(\.tmp)?|skipped\.json(\.tmp)?|\.lock|\.erasing|images-\d+\.lance"
    r"|embeddings-\d+\.safetensors(\.tmp)?|rows-\d+\.jsonl(\.tmp)?"  # of format version 1
)
_LOCK_SECONDS = 600  # as long as another process may build an index
_READS = 10  # a read fails for good when others tidied up during as many
_SCAN_ROWS = 8192
_MOST_FRAGMENTS = 128  # each add makes one; more make every read slower
_KEPT_VERSIONS = timedelta(minutes=10)  # for reads that began before
_PRODUCTS = 2**24  # scores that a search holds at a time, of all its queries: 64 MB
_HELD_ROW_BYTES = 128  # of the facts by which a search filters
_REMEDY = "make the gallery again with `aga index --overwrite`"
_LANCE_ERRORS = (RuntimeError, OSError, ValueError)  # what lancedb raises, without a type of its own
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Held:
    """
    A table in memory.

    Attributes:
        version: of the table, or an older one.
        rows: all columns but the embedding.
        embeddings (`np.ndarray`): float32 (n, dim).
    """

    version: int
    rows: pa.Table
    embeddings: np.ndarray

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        results = self._best(queries, top_k, where)
        ids = sorted({row_id for found in results for row_id, _ in found})
        found_rows = self.rows.take(pc.index_in(pa.array(ids, pa.string()), value_set=self.rows["id"]))
        known = {value["id"]: row_of(value) for value in found_rows.to_pylist()}
        return [[ScoredRow(score, known[row_id]) for row_id, score in found] for found in results]

    def _best(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[tuple[str, float]]]:
        allowed = None if where is None or where.is_empty else self._fulfils(where)
        best, ids = BestRows(queries, top_k), self.rows["id"]
        step = max(1, _PRODUCTS // len(queries))
        for start in range(0, len(self.embeddings), step):
            part = slice(start, start + step)
            best.update(ids[part], self.embeddings[part], None if allowed is None else allowed[part])
        return best.found()

    def _fulfils(self, where: Filter) -> np.ndarray:
        """What `_sql` says, of each row; what a row does not say fulfils nothing."""
        since, until = where.times()
        texts = {name: pa.array(values, pa.string()) for name, values in where.texts().items()}
        conditions = [pc.is_in(self.rows[name], values) for name, values in texts.items()]
        conditions += [pc.greater_equal(self.rows["time"], since)] if since is not None else []
        conditions += [pc.less(self.rows["time"], until)] if until is not None else []
        return np.logical_and.reduce([condition.fill_null(False).to_numpy() for condition in conditions])


@dataclass(frozen=True)
class _HeldVectors(_Held):
    """
    The embeddings of a larger table in memory, and the columns that a search filters by.

    Attributes:
        rows: `id`, the columns of `_HELD_COLUMNS`, and `_rowid`, where LanceDB finds the row in this version.
        table: of this version.
    """

    table: Any

    @classmethod
    def of(cls, table: Any, dim: int) -> "_HeldVectors":
        """Read all of a table whose version is fixed."""
        embeddings, batches, end = np.empty((table.count_rows(), dim), np.float32), [], 0
        columns = ["id", "embedding", *_HELD_COLUMNS]
        for batch in table.search().select(columns).with_row_id(True).to_batches(_SCAN_ROWS):
            embeddings[end : end + batch.num_rows] = _matrix(batch, dim)
            batches.append(batch.drop_columns(["embedding"]))
            end += batch.num_rows
        return cls(table.version, pa.Table.from_batches(batches).combine_chunks(), embeddings, table)

    @staticmethod
    def knows(where: Filter | None) -> bool:
        """Whether the filter asks for nothing but columns that are held."""
        return where is None or set(where.texts()) <= set(_HELD_COLUMNS)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        results = self._best(queries, top_k, where)
        ids = pa.array(sorted({row_id for found in results for row_id, _ in found}), pa.string())
        places = np.flatnonzero(pc.is_in(self.rows["id"], value_set=ids).to_numpy())
        known = {row.id: row for row in _rows_at(self.table, self.rows["_rowid"].take(places).to_pylist()).values()}
        return [[ScoredRow(score, known[row_id]) for row_id, score in found] for found in results]


@dataclass(frozen=True)
class _Indexed:
    """A version of a table that is searched by its index."""

    version: int
    table: Any

    @classmethod
    def of(cls, table: Any, dim: int) -> "_Indexed":
        return cls(table.version, table)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        return [self._best(query, top_k, _sql(where)) for query in queries]

    def _best(self, query: np.ndarray, top_k: int, condition: str | None) -> list[ScoredRow]:
        scores = nearest(self.table, query, top_k, condition)
        rows = _rows_at(self.table, list(scores))
        ranked = sorted(scores, key=lambda number: (-scores[number], rows[number].id))
        return [ScoredRow(scores[number], rows[number]) for number in ranked[:top_k]]


_Kept = TypeVar("_Kept", _HeldVectors, _Indexed)


class LanceStore:
    """
    The store of a gallery folder; see [`GalleryStore`]. Make one with `create` or `open`.

    Attributes:
        exact_rows (`int`): up to so many rows there is no index.
        held_bytes (`int`): up to so much memory the embeddings of a larger gallery are held, and its searches are
            exact, too; of each row they take the embedding in float32 and about 128 bytes.
    """

    exact_rows = EXACT_ROWS
    held_bytes = 2**28

    def __init__(self, folder: Path, manifest: Manifest, table_name: str, table: Any):
        self.folder = folder
        self.manifest = manifest
        self._table_name = table_name
        self._table = table
        self._held: _Held | _Indexed | None = None
        self._keeping = threading.Lock()
        self._lock = FileLock(folder / ".lock")

    @staticmethod
    def exists(location: str | os.PathLike) -> bool:
        """Whether there is a gallery, readable or not."""
        return (Path(location) / MANIFEST).exists()

    @staticmethod
    def check_place(location: str | os.PathLike, overwrite: bool) -> None:
        """Raise GalleryError unless a gallery can be made there."""
        _check_place(Path(location), overwrite)

    @classmethod
    def create(cls, location: str | os.PathLike, manifest: Manifest) -> "LanceStore":
        """
        Make an empty gallery, in place of the one that is there; that one stays until the new one is ready.

        Raises:
            GalleryError: the folder holds anything else, or another process is writing there for long.
            OSError: the folder cannot be written.
        """
        folder = Path(location)
        _check_place(folder, overwrite=True)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(FileLock(folder / ".lock"), folder):
            numbers = [int(match[1]) for name in os.listdir(folder) if (match := _TABLE.match(name))]
            name = f"images-{max(numbers, default=0) + 1}"
            table = _connect(folder).create_table(name, schema=_schema(manifest.dim))
            content = json.dumps(manifest.to_dict() | {"table": name}, indent=2) + "\n"
            _replace_file(folder / MANIFEST, content.encode())
            _remove_all_but(folder, {MANIFEST, SKIPPED, ".lock", f"{name}.lance"})
        return cls(folder, manifest, name, table)

    @classmethod
    def open(cls, location: str | os.PathLike) -> "LanceStore":
        """
        Open a gallery. A deletion that was interrupted is finished, where the folder can be written.

        Raises:
            GalleryError: there is none, or it is damaged; the message names the file.
        """
        folder = Path(location)
        manifest, name = _read_manifest(folder)
        place = folder / f"{name}.lance"
        if not place.is_dir():
            raise GalleryError(f"{place} is missing: {_REMEDY}")
        try:
            table = _connect(folder).open_table(name)
            schema = table.schema
        except _LANCE_ERRORS as error:
            raise GalleryError(f"{place} is damaged ({_first_line(error)}): {_REMEDY}") from error
        if schema != _schema(manifest.dim):
            raise GalleryError(f"{place} does not hold what {folder / MANIFEST} says: {_REMEDY}")
        store = cls(folder, manifest, name, table)
        if (folder / _ERASING).exists():
            with contextlib.suppress(Timeout, OSError), store._lock.acquire(timeout=0):
                store._finish_erasing()
        return store

    def add(self, embeddings: np.ndarray, rows: Sequence[GalleryRow]) -> None:
        embeddings, rows = without_replaced(embeddings, rows)
        if not rows:
            return
        with self._writing():
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if outdated := self._outdated(rows):
                merge = merge.when_not_matched_by_source_delete(outdated)
            merge.execute(_to_arrow(embeddings, rows))
            if self._table.stats()["fragment_stats"]["num_fragments"] > _MOST_FRAGMENTS:
                self._table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        return self._read(lambda table: self._search(table, queries, top_k, where))

    def delete(self, where: Filter) -> int:
        condition = _sql(where)
        with self._writing():
            removed = self._table.count_rows(condition)
            if removed:
                (self.folder / _ERASING).touch()
                self._rewrite(f"NOT coalesce({condition}, false)")
                (self.folder / _ERASING).unlink()
        return removed

    def count(self, where: Filter | None = None) -> int:
        condition = _sql(where)
        return self._read(lambda table: table.count_rows(condition))

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        # All of them before the first is given, so that a read whose files are tidied away can be made again.
        condition = _sql(where)
        for batch in self._read(lambda table: list(_batches(table, condition, _ROW_COLUMNS))):
            yield from map(row_of, batch.to_pylist())

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        for batch in self._scan(where, ["id", "embedding"]):
            yield batch["id"].to_pylist(), _matrix(batch, self.manifest.dim)

    def vector_index(self) -> VectorIndex:
        return self._read(self._vector_index)

    def build_index(self) -> VectorIndexReport:
        started = time.perf_counter()
        reason = ""
        with self._writing():
            if self._table.count_rows() > self.exact_rows:
                reason = self._create_index()
            else:
                reason = f"up to {self.exact_rows:,} images every search compares with each of them"
            index = self._vector_index(self._table)
        seconds = time.perf_counter() - started
        recall, queries, filtered = measure_recall(self)
        return VectorIndexReport(index.kind, index.rows, seconds, recall, queries, reason, filtered)

    def compact(self) -> None:
        with self._writing():
            self._rewrite("true")

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self, ask: Callable[[Any], _Result]) -> _Result:
        """What `ask` finds in the table; again, if another process has tidied up meanwhile."""
        for attempt in range(_READS):
            version = self._version()
            try:
                return ask(self._table)
            except _LANCE_ERRORS as error:
                self._require_same_table()
                if attempt == _READS - 1 or self._version() == version:
                    raise self._damaged(error) from error
        raise AssertionError("the last attempt returns or raises")

    def _version(self) -> int | None:
        try:
            return self._table.version
        except _LANCE_ERRORS:
            return None

    def _scan(self, where: Filter | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from _batches(self._table, _sql(where), columns)
        except _LANCE_ERRORS as error:
            self._require_same_table()
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> GalleryError:
        place = self.folder / f"{self._table_name}.lance"
        return GalleryError(f"{place} is damaged or cannot be read ({_first_line(error)}): {_REMEDY}")

    def _require_same_table(self) -> None:
        if _read_manifest(self.folder) != (self.manifest, self._table_name):
            raise GalleryError(f"gallery {self.folder} was overwritten by another process: open it again")

    def _search(self, table: Any, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        count = table.count_rows()
        if count <= self.exact_rows:
            return self._hold(table).search(queries, top_k, where)
        if self._fits(count) and _HeldVectors.knows(where):
            return self._current(table, _HeldVectors).search(queries, top_k, where)
        # With many results asked for, the index would have to compare with every row, too.
        if most_candidates(top_k) < count and self._vector_index(table).kind != "FLAT":
            return self._current(table, _Indexed).search(queries, top_k, where)
        best = BestRows(queries, top_k)
        for batch in _batches(table, _sql(where), ["id", "embedding"]):
            best.update(batch["id"], _matrix(batch, self.manifest.dim))
        results = best.found()
        known = self._rows_of(table, {row_id for found in results for row_id, _ in found})
        # What was deleted since it was found is no result.
        return [[ScoredRow(score, known[row_id]) for row_id, score in found if row_id in known] for found in results]

    def _fits(self, count: int) -> bool:
        """Whether the embeddings of so many rows may be held in memory."""
        return count * (4 * self.manifest.dim + _HELD_ROW_BYTES) <= self.held_bytes

    def _current(self, table: Any, kind: "type[_Kept]") -> "_Kept":
        """What is kept of the table as it is now."""
        with self._keeping:  # so that searches at the same time read it once
            held = self._held
            if not isinstance(held, kind) or held.version != table.version:
                self._held = None  # before as much is read again
                # One that stays at its version, so that row numbers which one read gives are those of the next; and
                # not the one before, whose caches hold what has been deleted since.
                fixed = lancedb.connect(self.folder).open_table(self._table_name)
                self._held = held = kind.of(fixed, self.manifest.dim)
            return held

    def _hold(self, table: Any) -> _Held:
        held, version = self._held, table.version
        if type(held) is not _Held or held.version != version:
            # Others may write between the two reads: then it is older than its content, and is read again next time.
            batches = list(_batches(table, None, _COLUMNS))
            parts = [_matrix(batch, self.manifest.dim) for batch in batches]
            embeddings = np.concatenate([np.empty((0, self.manifest.dim), np.float32), *parts])
            rows = pa.Table.from_batches(batches, _schema(self.manifest.dim)).drop_columns(["embedding"])
            self._held = held = _Held(version, rows.combine_chunks(), embeddings)
        return held

    def _rows_of(self, table: Any, ids: set[str]) -> dict[str, GalleryRow]:
        if not ids:
            return {}
        condition = f"id IN ({', '.join(map(_quoted, sorted(ids)))})"
        values = [value for batch in _batches(table, condition, ["id", *_ROW_COLUMNS]) for value in batch.to_pylist()]
        return {value["id"]: row_of(value) for value in values}

    def _vector_index(self, table: Any) -> VectorIndex:
        for index in table.list_indices():
            if index.columns == ["embedding"]:
                stats = table.index_stats(index.name)
                return VectorIndex(stats.index_type, stats.num_indexed_rows, self._fits(table.count_rows()))
        return VectorIndex("FLAT", table.count_rows())

    # --- writing --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with _locked(self._lock, self.folder):
            self._require_same_table()
            self._held = None  # so that what is deleted is gone from memory, too
            if (self.folder / _ERASING).exists():
                self._finish_erasing()
            try:
                yield
            except GalleryError:
                raise
            except _LANCE_ERRORS as error:
                raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> GalleryError:
        return GalleryError(f"gallery {self.folder} cannot be changed ({_first_line(error)})")

    def _outdated(self, rows: Sequence[GalleryRow]) -> str | None:
        """The condition on rows whose source has changed, None where there are none."""
        hashes = {store_text(row.source): row.source_hash for row in rows}
        condition = f"source IN ({', '.join(map(_quoted, hashes))})"
        changed = {
            value["source"]
            for batch in _batches(self._table, condition, ["source", "source_hash"])
            for value in batch.to_pylist()
            if hashes[value["source"]] != value["source_hash"]
        }
        if not changed:
            return None
        return " OR ".join(
            f"(source = {_quoted(source)} AND source_hash <> {_quoted(hashes[source])})" for source in sorted(changed)
        )

    def _rewrite(self, kept: str) -> None:
        """
        Write the rows that fulfil a condition anew and remove every old file: what LanceDB deletes or replaces is only
        marked, and its own compaction leaves rows with few marks among them as they are.
        """
        had_index = self._vector_index(self._table).kind != "FLAT"
        self._table.add(_reader(self._table, kept, None), mode="overwrite")
        self._remove_old_files()
        if had_index and self._table.count_rows() > self.exact_rows:
            self._create_index()

    def _finish_erasing(self) -> None:
        self._remove_old_files()
        (self.folder / _ERASING).unlink(missing_ok=True)

    def _remove_old_files(self) -> None:
        # One millisecond, because lancedb warns of 0. No other process is writing, so that files without a commit are
        # those of a process that was killed.
        time.sleep(0.002)
        self._table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)

    def _create_index(self) -> str:
        """Make the index; returns why it is of another kind than usual."""
        if self.manifest.dim % 8:
            self._table.create_index("embedding", config=IvfFlat(distance_type="dot"), replace=True)
            return f"IVF_RQ needs a multiple of 8 dimensions, and these embeddings have {self.manifest.dim}"
        self._table.create_index("embedding", config=IvfRq(distance_type="dot"), replace=True)
        return ""


def _schema(dim: int) -> pa.Schema:
    text, number = pa.string(), pa.float64()
    return pa.schema(
        [
            pa.field("id", text, nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("source", text, nullable=False),
            pa.field("source_hash", text, nullable=False),
            pa.field("path", text, nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("model_hash", text, nullable=False),
            pa.field("frame", pa.int64()),
            pa.field("box", pa.list_(number)),
            pa.field("camera", text),
            pa.field("time", number),
            pa.field("offset", number),
            pa.field("person_id", text),
            pa.field("track", text),
            pa.field("detection_score", number),
        ]
    )


_COLUMNS = _schema(1).names
_ROW_COLUMNS = [name for name in _COLUMNS if name not in ("id", "embedding")]
# Long texts, which few searches filter by, and what no filter asks for.
_NOT_HELD = {"source", "source_hash", "path", "width", "height", "model_hash"}
_NOT_HELD |= {"frame", "box", "offset", "detection_score"}
_HELD_COLUMNS = [name for name in _ROW_COLUMNS if name not in _NOT_HELD]


def _to_arrow(embeddings: np.ndarray, rows: Sequence[GalleryRow]) -> pa.Table:
    schema = _schema(embeddings.shape[1])
    values = [storable(row) for row in rows]
    columns: dict[str, Any] = {
        field.name: pa.array([value[field.name] for value in values], field.type)
        for field in schema
        if field.name != "embedding"
    }
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _matrix(batch: pa.RecordBatch, dim: int) -> np.ndarray:
    """The embeddings, float32 (n, dim)."""
    return batch["embedding"].flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def _reader(table: Any, condition: str | None, columns: list[str] | None) -> pa.RecordBatchReader:
    query = table.search()
    if columns is not None:
        query = query.select(columns)
    if condition is not None:
        query = query.where(condition)
    return query.to_batches(_SCAN_ROWS)


def _batches(table: Any, condition: str | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in _reader(table, condition, columns) if batch.num_rows)


def _rows_at(table: Any, numbers: list[int]) -> dict[int, GalleryRow]:
    """Rows by LanceDB's number in this version of the table."""
    if not numbers:
        return {}
    values = table.take_row_ids(numbers).select(_ROW_COLUMNS).with_row_id().to_arrow().to_pylist()
    return {value["_rowid"]: row_of(value) for value in values}


def _sql(where: Filter | None) -> str | None:
    """The filter as a condition in SQL."""
    if where is None or where.is_empty:
        return None
    since, until = where.times()
    conditions = [
        f"{column} IN ({', '.join(map(_quoted, values))})" if values else "false"
        for column, values in where.texts().items()
    ]
    if since is not None:
        conditions.append(f"time >= {since!r}")
    if until is not None:
        conditions.append(f"time < {until!r}")
    return f"({' AND '.join(conditions)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _connect(folder: Path) -> Any:
    # Without an interval, what other processes have written would not be seen.
    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


@contextlib.contextmanager
def _locked(lock: FileLock, folder: Path) -> Iterator[None]:
    try:
        with lock.acquire(timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise GalleryError(f"gallery {folder} is being written by another process: try again later") from error


def _check_place(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise GalleryError(f"gallery {folder} cannot be made: {parent} is no folder that can be written")
        return
    if not folder.is_dir():
        raise GalleryError(f"gallery {folder} is a file: give a folder")
    if not os.access(folder, os.W_OK):
        raise GalleryError(f"gallery {folder} cannot be written")
    has_gallery = (folder / MANIFEST).exists()
    foreign = sorted(name for name in os.listdir(folder) if name != CROPS and not _OWN_FILES.fullmatch(name))
    if foreign and not has_gallery:
        raise GalleryError(f"{folder} holds other files ({foreign[0]}): give a new or empty folder for the gallery")
    if has_gallery and not overwrite:
        raise GalleryError(f"{folder} holds a gallery already: open it or overwrite it")


def _read_manifest(folder: Path) -> tuple[Manifest, str]:
    """What gallery.json says, and the name of the table."""
    file = folder / MANIFEST
    if folder.exists() and not folder.is_dir():
        raise GalleryError(f"gallery {folder} is a file: give the folder that `aga index` wrote")
    if not file.is_file():
        raise GalleryError(f"{folder} holds no gallery ({MANIFEST} is missing): make one with `aga index`")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GalleryError(f"{file} is damaged ({error}): {_REMEDY}") from error
    manifest = Manifest.from_json(text, str(file))
    name = json.loads(text).get("table")
    if not isinstance(name, str) or not _TABLE.fullmatch(name):
        raise GalleryError(f"{file} is damaged (table is {name!r}): {_REMEDY}")
    return manifest, name


def _remove_all_but(folder: Path, kept: set[str]) -> None:
    """Remove what earlier galleries left in the folder; files of others stay."""
    for name in os.listdir(folder):
        if name not in kept and _OWN_FILES.fullmatch(name):
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it has its whole content from the moment it bears its name, even over a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name != "nt":  # folders cannot be opened there
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # LanceDB ends with the line of its own source.
    return re.sub(r", \S+\.rs:\d+:\d+", "", lines[0]) if lines else type(error).__name__
