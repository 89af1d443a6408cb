"""
A gallery in a folder, kept by LanceDB.

    gallery.json       format version, model name and hash, dim, settings, name of the table
    images-N.lance/    the table: one row per image with its embedding; N counts how often it was written anew
    crops/             saved crops, see `crops`
    skipped.json       files that the last `aga index` could not read
    .lock              held while a process writes
    .erasing           there while a deletion is not finished: what it removes
    .building/         what LanceDB writes for a while when it builds an index

Every addition is one commit of LanceDB, which is there whole or not at all, whenever the process ends. Writers take
turns by the lock. Readers need none: each read sees the last commit, and one whose files were tidied away under it
reads again.

What LanceDB deletes or replaces is only marked, and what it was killed at stays in its folder as files that it does
not know itself. Therefore a deletion writes what remains into a new table, with its index, names that in gallery.json,
and removes the folder of the old one. What it removes is written down before anything else: from then on no search
finds it, and whoever opens the gallery next, or writes to it, finishes what was interrupted.

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
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from lancedb.index import IvfFlat, IvfRq
from PIL import Image

from aga_model.files import write_through

from ..crops import (
    CROPS,
    crop_file,
    crop_name,
    has_foreign_crops,
    is_crop_folder,
    is_crop_name,
    remove_crop,
    saved_crops,
    stored_crop_path,
    write_crop,
)
from ..exact import EXACT_ROWS, BestRows, measure_recall
from ..rows import Filter, GalleryError, GalleryRow, read_text, row_of, storable, store_text
from ..store import (
    FORMAT_VERSION,
    FilteredRecall,
    GallerySettings,
    Manifest,
    ScoredRow,
    VectorIndex,
    VectorIndexReport,
    last_of_each,
)
from .nearest import most_candidates, nearest

MANIFEST = "gallery.json"
SKIPPED = "skipped.json"  # of `aga index`

_ERASING = ".erasing"
_BUILDING = ".building"
_TABLE = re.compile(r"images-(\d+)")
_OWN_FILES = re.compile(
    r"gallery\.json(\.tmp)?|skipped\.json(\.\d+)?(\.tmp)?|\.lock|\.erasing(\.tmp)?|\.building|images-\d+\.lance(\.removed)?"
)
_FIRST_FORMAT_FILES = re.compile(r"embeddings-\d+\.safetensors(\.tmp)?|rows-\d+\.jsonl(\.tmp)?")
_LANCE_FOLDERS = {"data", "_versions", "_transactions", "_deletions", "_indices", "_latest.manifest", "_refs"}
_LOCK_SECONDS = 600  # as long as another process may build an index
_READS = 10  # a read fails for good when others tidied up during as many
_SCAN_ROWS = 8192
_REWRITE_ROWS = 4096  # at a time when a table is written anew
_MOST_FRAGMENTS = 128  # each add makes one; more make every read slower
_KEPT_VERSIONS = timedelta(minutes=10)  # for reads that began before
_PRODUCTS = 2**24  # scores that a search holds at a time, of all its queries: 64 MB
_HELD_ROW_BYTES = 128  # of the facts by which a search filters
_REMEDY = "make the gallery again with `aga index --overwrite`"
_LANCE_ERRORS = (RuntimeError, OSError, ValueError)  # what lancedb raises, without a type of its own
_Result = TypeVar("_Result")
_temporary_folder = threading.Lock()  # the environment is the whole process's


class _Version(NamedTuple):
    """
    Which rows a search sees.

    Attributes:
        table: name of the table.
        number: of its version.
        left: condition on the rows that are left by a deletion which is not finished; None for all of them.
    """

    table: str
    number: int
    left: str | None


@dataclass(frozen=True)
class _Held:
    """
    A table in memory.

    Attributes:
        version: of the table, or an older one.
        folder: of the gallery.
        rows: all columns but the embedding.
        embeddings (`np.ndarray`): float32 (n, dim).
    """

    version: _Version
    folder: Path
    rows: pa.Table
    embeddings: np.ndarray

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        results = self._best(queries, top_k, where)
        ids = sorted({row_id for found in results for row_id, _ in found})
        found_rows = self.rows.take(pc.index_in(pa.array(ids, pa.string()), value_set=self.rows["id"]))
        known = {value["id"]: _row_of(value, self.folder) for value in found_rows.to_pylist()}
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
        texts = {name: pa.array(values, pa.string()) for name, values in _texts(where, self.folder).items()}
        conditions = [pc.is_in(self.rows[name], values) for name, values in texts.items()]
        has_ages = "added" in self.rows.column_names
        ages = pc.min_element_wise(self.rows["time"], self.rows["added"]) if has_ages else None
        for moments, (since, until) in ((self.rows["time"], where.times()), (ages, where.ages())):
            if moments is None:  # of an earlier version, which knows no ages
                continue
            conditions += [pc.greater_equal(moments, since)] if since is not None else []
            conditions += [pc.less(moments, until)] if until is not None else []
        if not conditions:
            return np.ones(len(self.rows), dtype=bool)
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
    def of(cls, version: _Version, folder: Path, table: Any) -> "_HeldVectors":
        """Read all of a table whose version is fixed, without what is left out."""
        schema = table.schema
        dim = schema.field("embedding").type.list_size
        embeddings, batches, end = np.empty((table.count_rows(version.left), dim), np.float32), [], 0
        columns = ["id", "embedding", *(name for name in _HELD_COLUMNS if name in schema.names)]
        query = table.search().select(columns).with_row_id(True)
        for batch in (query if version.left is None else query.where(version.left)).to_batches(_SCAN_ROWS):
            embeddings[end : end + batch.num_rows] = _matrix(batch, dim)
            batches.append(batch.drop_columns(["embedding"]))
            end += batch.num_rows
        rows = pa.Table.from_batches(batches).combine_chunks()
        return cls(version, folder, rows, embeddings, table)

    @staticmethod
    def knows(where: Filter | None) -> bool:
        """Whether the filter asks for nothing but columns that are held."""
        return where is None or set(where.texts()) <= {"id", *_HELD_COLUMNS}

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        results = self._best(queries, top_k, where)
        ids = pa.array(sorted({row_id for found in results for row_id, _ in found}), pa.string())
        places = np.flatnonzero(pc.is_in(self.rows["id"], value_set=ids).to_numpy())
        numbers = self.rows["_rowid"].take(places).to_pylist()
        known = {row.id: row for row in _rows_at(self.table, numbers, self.folder).values()}
        return [[ScoredRow(score, known[row_id]) for row_id, score in found] for found in results]


@dataclass(frozen=True)
class _Indexed:
    """A version of a table that is searched by its index."""

    version: _Version
    folder: Path
    table: Any

    @classmethod
    def of(cls, version: _Version, folder: Path, table: Any) -> "_Indexed":
        return cls(version, folder, table)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        condition = _all_of(_sql(where, self.folder), self.version.left)
        return [self._best(query, top_k, condition) for query in queries]

    def _best(self, query: np.ndarray, top_k: int, condition: str | None) -> list[ScoredRow]:
        scores = nearest(self.table, query, top_k, condition)
        rows = _rows_at(self.table, list(scores), self.folder)
        ranked = sorted(scores, key=lambda number: (-scores[number], rows[number].id))
        return [ScoredRow(scores[number], rows[number]) for number in ranked[:top_k]]


_Kept = TypeVar("_Kept", _HeldVectors, _Indexed)


class _Record(NamedTuple):
    """
    What gallery.json says.

    Attributes:
        manifest: see there.
        version: of the format.
        table: name of the table.
        lineage: the same for as long as it is one gallery; another when it was overwritten.
        settings: see there.
    """

    manifest: Manifest
    version: int
    table: str
    lineage: str
    settings: GallerySettings


class _Before(NamedTuple):
    """What a row that is replaced, or a row of its source, held."""

    source: str
    source_hash: str
    path: str
    added: float | None


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

    def __init__(self, folder: Path, record: _Record, table: Any):
        self.folder = folder
        self.manifest = record.manifest
        self._record = record
        self._table = table
        self._mark: _Mark | None = None  # of the gallery.json that `_record` was read from
        self._held: _Held | _Indexed | None = None
        self._keeping = threading.Lock()
        self._unknown_deletion = _is_empty(folder / _ERASING)
        self._lock = FileLock(folder / ".lock")

    @staticmethod
    def exists(location: str | os.PathLike) -> bool:
        """Whether there is a gallery, readable or not."""
        return (_real(location) / MANIFEST).exists()

    @staticmethod
    def check_place(location: str | os.PathLike, overwrite: bool) -> None:
        """Raise GalleryError unless a gallery can be made there."""
        _check_place(_real(location), overwrite)

    @classmethod
    def create(cls, location: str | os.PathLike, manifest: Manifest) -> "LanceStore":
        """
        Make an empty gallery, in place of the one that is there; that one stays until the new one is ready, and its
        settings go on to hold.

        Raises:
            GalleryError: the folder holds anything else, another process is writing there for long, or it cannot be
                written.
        """
        folder = _real(location)
        _check_place(folder, overwrite=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(FileLock(folder / ".lock"), folder):
                name = _next_table(folder)
                table = _connect(folder).create_table(name, schema=_schema(manifest.dim))
                record = _Record(manifest, FORMAT_VERSION, name, secrets.token_hex(8), _settings_of(folder))
                had_gallery = (folder / MANIFEST).exists()
                _write_record(folder, record)
                store = cls(folder, record, table)
                _remove_all(_of_overwritten(folder, name) if had_gallery else _leftovers(folder, name))
                store._sweep_crops(None)
        except GalleryError:
            raise
        except _LANCE_ERRORS as error:
            raise GalleryError(f"gallery {folder} cannot be made ({_first_line(error)})") from error
        return store

    @classmethod
    def open(cls, location: str | os.PathLike) -> "LanceStore":
        """
        Open a gallery. A deletion that was interrupted is finished, where the folder can be written and nobody else
        writes there; no search finds what it removes in any case ([`LanceStore.unfinished`]).

        Raises:
            GalleryError: there is none, or it is damaged; the message names the file.
        """
        folder = _real(location)
        record, mark, table = _open_table(folder)
        store = cls(folder, record, table)
        store._mark = mark
        if (folder / _ERASING).exists() or _leftovers(folder, record.table):
            with (
                contextlib.suppress(Timeout, *_LANCE_ERRORS),
                store._lock.acquire(timeout=0),
            ):
                store._follow()
                store._tidy()
        return store

    @property
    def settings(self) -> GallerySettings:
        self._follow()
        return self._record.settings

    def change_settings(self, settings: GallerySettings) -> None:
        with self._writing():
            self._write(self._record._replace(settings=settings))

    @property
    def unfinished(self) -> str:
        if self._unknown_deletion:
            return (
                f"an earlier version was interrupted while it deleted images of {self.folder}, and did not write down "
                "which: delete them again"
            )
        if not (self.folder / _ERASING).exists():
            return ""
        return (
            f"a deletion of images of {self.folder} is not finished, though no search finds them: it will be when the "
            "gallery is opened while its folder can be written, its disk has space and no other process writes there"
        )

    def add(
        self, embeddings: np.ndarray, rows: Sequence[GalleryRow], crops: Sequence[Image.Image | None] | None = None
    ) -> None:
        kept = last_of_each(rows)
        if not kept:
            return
        embeddings, rows = embeddings[kept], [rows[place] for place in kept]
        images = [None if crops is None else crops[place] for place in kept]
        with self._writing():
            before = self._before(rows)
            paths = self._save_crops(rows, images, before)
            rows = [_to_store(row, path, before.get(row.id)) for row, path in zip(rows, paths)]
            hashes = {store_text(row.source): row.source_hash for row in rows}
            changed = {
                each.source
                for each in before.values()
                if each.source in hashes and hashes[each.source] != each.source_hash
            }
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if changed:
                merge = merge.when_not_matched_by_source_delete(_outdated(changed, hashes))
            merge.execute(_to_arrow(embeddings, rows))
            self._remove_replaced_crops(before, rows, changed, hashes)
            if self._table.stats()["fragment_stats"]["num_fragments"] > _MOST_FRAGMENTS:
                self._table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        return self._read(lambda table: self._search(table, queries, top_k, where))

    def delete(self, where: Filter) -> int:
        with self._writing():
            self._require_no_links(self.folder / CROPS)
            removed = self._table.count_rows(self._condition(where))
            _replace_file(self.folder / _ERASING, json.dumps({"filter": where.to_dict()}).encode())
            try:
                self._tidy()
            except _LANCE_ERRORS as error:
                raise GalleryError(
                    f"the deletion is not finished ({_first_line(error)}): no search finds these images any more, and "
                    f"they are removed from the files of gallery {self.folder} when it is next opened or written to"
                ) from error
        return removed

    def count(self, where: Filter | None = None) -> int:
        return self._read(lambda table: table.count_rows(self._condition(where)))

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        # All of them before the first is given, so that a read whose files are tidied away can be made again.
        def ask(table: Any) -> list[pa.RecordBatch]:
            return list(_batches(table, self._condition(where), self._columns[2:]))

        for batch in self._read(ask):
            for values in batch.to_pylist():
                yield _row_of(values, self.folder)

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        columns = ["id", "embedding"]
        if where is not None and "source" in where.texts():  # of few files: they can be read again as a whole
            batches = iter(self._read(lambda table: list(_batches(table, self._condition(where), columns))))
        else:
            batches = self._scan(where, columns)
        for batch in batches:
            yield batch["id"].to_pylist(), _matrix(batch, self.manifest.dim)

    def vector_index(self) -> VectorIndex:
        return self._read(self._vector_index)

    def build_index(self) -> VectorIndexReport:
        started = time.perf_counter()
        reason = ""
        with self._writing():
            if self._table.count_rows() > self.exact_rows:
                reason = self._create_index(self._table)
            else:
                reason = f"up to {self.exact_rows:,} images every search compares with each of them"
            index = self._vector_index(self._table)
        seconds = time.perf_counter() - started
        recall, queries, filtered = self._measured()
        return VectorIndexReport(index.kind, index.rows, seconds, recall, queries, reason, filtered)

    def _measured(self) -> tuple[float, int, tuple[FilteredRecall, ...]]:
        """[`measure_recall`]; again where another process writes the gallery anew meanwhile."""
        for _ in range(_READS):
            before = self._record.table
            try:
                return measure_recall(self)
            except GalleryError:
                self._follow()
                if self._record.table == before:
                    raise
        return measure_recall(self)

    def compact(self) -> None:
        with self._writing():
            self._require_no_links(self.folder / CROPS)
            self._rewrite(None)
            self._sweep_crops(None)

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self, ask: Callable[[Any], _Result]) -> _Result:
        """What `ask` finds in the table; again, if another process has tidied up meanwhile."""
        for attempt in range(_READS):
            self._follow()
            version = self._version()
            try:
                return ask(self._table)
            except _LANCE_ERRORS as error:
                if self._follow():
                    continue
                if attempt == _READS - 1 or self._version() == version:
                    raise self._damaged(error) from error
        raise GalleryError(f"gallery {self.folder} is written anew over and over: try again later")

    def _follow(self) -> bool:
        """
        Go on with the table that gallery.json names now; whether it is another one than before.

        Raises:
            GalleryError: it is another gallery, or cannot be read.
        """
        if self._mark is not None and _mark_of(self.folder) == self._mark:
            return False
        record, mark, table = _open_table(self.folder)
        if (record.manifest, record.lineage) != (self.manifest, self._record.lineage):
            raise GalleryError(f"gallery {self.folder} was overwritten by another process: open it again")
        moved = record.table != self._record.table
        self._record, self._mark = record, mark
        if moved:
            self._table, self._held = table, None
        return moved

    def _version(self) -> int | None:
        try:
            return self._table.version
        except _LANCE_ERRORS:
            return None

    def _scan(self, where: Filter | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
        self._follow()
        try:
            yield from _batches(self._table, self._condition(where), columns)
        except _LANCE_ERRORS as error:
            if self._follow():
                raise GalleryError(
                    f"gallery {self.folder} was written anew while it was read: begin the reading again"
                ) from error
            raise self._damaged(error) from error

    @property
    def _columns(self) -> list[str]:
        """Of the table: `id` and `embedding`, and those of the row."""
        return _COLUMNS if self._record.version == FORMAT_VERSION else _OLD_COLUMNS

    def _condition(self, where: Filter | None) -> str | None:
        """A filter in SQL, without the images that an unfinished deletion removes; None where that is all of them."""
        pending = self._pending()
        left = None if pending is None else f"NOT coalesce({_sql(pending, self.folder)}, false)"
        return _all_of(_sql(where, self.folder), left)

    def _pending(self) -> Filter | None:
        """What a deletion that is not finished removes; None also where an earlier version did not write it down."""
        try:
            text = (self.folder / _ERASING).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise GalleryError(
                f"{self.folder / _ERASING} cannot be read ({error.strerror}): remove it and delete again what it was "
                "to remove"
            ) from error
        if not text:
            return None
        try:
            return Filter(**json.loads(text)["filter"])
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(
                f"{self.folder / _ERASING} is damaged ({_first_line(error)}): remove it and delete again what it was "
                "to remove"
            ) from error

    def _damaged(self, error: Exception) -> GalleryError:
        if isinstance(error, GalleryError):
            return error
        place = self.folder / f"{self._record.table}.lance"
        return GalleryError(f"{place} is damaged or cannot be read ({_first_line(error)}): {_REMEDY}")

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
        for batch in _batches(table, self._condition(where), ["id", "embedding"]):
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
            if not isinstance(held, kind) or held.version != self._version_of(table):
                self._held = None  # before as much is read again
                # One that stays at its version, so that row numbers which one read gives are those of the next; and
                # not the one before, whose caches hold what has been deleted since.
                fixed = lancedb.connect(self.folder).open_table(self._record.table)
                self._held = held = kind.of(self._version_of(fixed), self.folder, fixed)
            return held

    def _version_of(self, table: Any) -> _Version:
        return _Version(self._record.table, table.version, self._condition(None))

    def _hold(self, table: Any) -> _Held:
        held, version = self._held, self._version_of(table)
        if type(held) is not _Held or held.version != version:
            # Others may write between the two reads: then it is older than its content, and is read again next time.
            batches = list(_batches(table, version.left, self._columns))
            parts = [_matrix(batch, self.manifest.dim) for batch in batches]
            embeddings = np.concatenate([np.empty((0, self.manifest.dim), np.float32), *parts])
            schema = pa.schema([_schema(self.manifest.dim).field(name) for name in self._columns])
            rows = pa.Table.from_batches(batches, schema).drop_columns(["embedding"])
            self._held = held = _Held(version, self.folder, rows.combine_chunks(), embeddings)
        return held

    def _rows_of(self, table: Any, ids: set[str]) -> dict[str, GalleryRow]:
        if not ids:
            return {}
        condition = f"id IN ({', '.join(map(_quoted, sorted(ids)))})"
        columns = ["id", *self._columns[2:]]
        values = [value for batch in _batches(table, condition, columns) for value in batch.to_pylist()]
        return {value["id"]: _row_of(value, self.folder) for value in values}

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
            try:
                self._follow()
                self._require_no_links(self.folder / f"{self._record.table}.lance")
                self._held = None  # so that what is deleted is gone from memory, too
                self._tidy()
                self._upgrade()
                yield
            except GalleryError:
                raise
            except _LANCE_ERRORS as error:
                reason = f"{self.folder} cannot be changed ({_first_line(error)})"
                raise GalleryError(f"gallery {reason}") from error

    def _require_no_link(self, place: Path) -> None:
        """Through a link a stranger's gallery would have files removed elsewhere; its owner's would keep them."""
        if place.is_symlink():
            raise GalleryError(
                f"{place} is a symbolic link, through which nothing is removed: put what it points to in its place"
            )

    def _require_no_links(self, place: Path) -> None:
        """The same of a folder and the folders of the gallery's in it."""
        self._require_no_link(place)
        if place.is_dir():
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_symlink() and (place.name != CROPS or is_crop_folder(entry.name)):
                        self._require_no_link(Path(entry.path))

    def _upgrade(self) -> None:
        """Write what an earlier version made in today's form."""
        if self._record.version < FORMAT_VERSION:
            self._rewrite(None)

    def _tidy(self) -> None:
        """Remove what a process left that was killed, and finish a deletion. The lock is held."""
        self._remove_leftovers()
        erasing = self.folder / _ERASING
        if erasing.exists():
            self._erase(self._pending())
            self._remove_leftovers()
            erasing.unlink()
            write_through(self.folder)

    def _remove_leftovers(self) -> None:
        _remove_all(_leftovers(self.folder, self._record.table))

    def _erase(self, where: Filter | None) -> None:
        """Remove every trace of the images of a filter; None removes what writes before this have left."""
        self._upgrade()
        condition = None if where is None else _sql(where, self.folder)
        self._remove_skipped(where, condition)
        kept = None if condition is None else f"NOT coalesce({condition}, false)"
        self._sweep_crops(kept)
        if (condition is not None and self._table.count_rows(condition)) or not self._is_clean():
            self._rewrite(kept)

    def _is_clean(self) -> bool:
        """Whether LanceDB's folder holds nothing but what its present version reads."""
        place = self.folder / f"{self._record.table}.lance"
        data, deletions, indices = (
            len(os.listdir(place / part)) if (place / part).is_dir() else 0
            for part in ("data", "_deletions", "_indices")
        )
        fragments = self._table.stats()["fragment_stats"]["num_fragments"]
        return data == fragments and deletions == 0 and indices == len(self._table.list_indices())

    def _rewrite(self, kept: str | None) -> None:
        """
        Write the rows that fulfil a condition into a new table, with an index if there is one, and go on with that;
        the folder of the old one is removed with all that lies in it.
        """
        old, name = self._record, _next_table(self.folder)
        had_index = self._vector_index(self._table).kind != "FLAT"
        reader = _reader(self._table, kept, None, _REWRITE_ROWS)
        if old.version < FORMAT_VERSION:
            reader = _upgraded(reader, self.manifest.dim, self.folder)
        place = self.folder / f"{name}.lance"
        try:
            table = _connect(self.folder).create_table(name, data=reader, schema=_schema(self.manifest.dim))
            if had_index and table.count_rows() > self.exact_rows:
                self._create_index(table)
            _sync(place)
            self._write(old._replace(version=FORMAT_VERSION, table=name))
        except BaseException:
            if not _names(self.folder, name):
                shutil.rmtree(place, ignore_errors=True)
            raise
        self._table = table
        # In one step, so that nobody reads what is left of it while it is removed.
        removed = self.folder / f"{old.table}.lance.removed"
        os.rename(self.folder / f"{old.table}.lance", removed)
        shutil.rmtree(removed)

    def _write(self, record: _Record) -> None:
        _write_record(self.folder, record)
        self._record, self._mark = record, _mark_of(self.folder)

    def _before(self, rows: Sequence[GalleryRow]) -> dict[str, _Before]:
        """What the table holds of these rows and their sources, by id."""
        if self._table.count_rows() == 0:
            return {}
        sources, ids = ({store_text(row.source) for row in rows}, {row.id for row in rows})
        condition = " OR ".join(
            f"{column} IN ({', '.join(map(_quoted, sorted(values)))})"
            for column, values in (("source", sources), ("id", ids))
        )
        columns = ["id", *_Before._fields]
        values = [value for batch in _batches(self._table, condition, columns) for value in batch.to_pylist()]
        return {value.pop("id"): _Before(**value) for value in values}

    def _save_crops(
        self, rows: Sequence[GalleryRow], images: Sequence[Image.Image | None], before: dict[str, _Before]
    ) -> list[str]:
        """Save the crops that are given, or none if one cannot be; the paths that are stored with the rows."""
        held = {each.path for each in before.values()}
        written: list[Path] = []
        stored = []
        try:
            for row, image in zip(rows, images):
                path = row.path
                if image is not None:
                    path = f"{CROPS}/{crop_name(row.source_hash, row.frame, row.box or ())}"
                    file = self.folder / path
                    self._require_no_link(self.folder / CROPS)
                    self._require_no_link(file.parent)
                    write_crop(image, file)
                    if path not in held:
                        written.append(file)
                elif path and path != row.source:
                    path = stored_crop_path(path, self.folder) or path
                stored.append(path)
        except BaseException:
            for file in written:
                remove_crop(file)
            raise
        return stored

    def _remove_replaced_crops(
        self, before: dict[str, _Before], rows: Sequence[GalleryRow], changed: set[str], hashes: dict[str, str]
    ) -> None:
        """Remove the saved crops of rows that are no more, or that have another image now."""
        ids, paths = {row.id for row in rows}, {row.path for row in rows}
        for row_id, each in before.items():
            outdated = each.source in changed and hashes[each.source] != each.source_hash
            path = read_text(each.path)
            if (row_id in ids or outdated) and path not in paths:
                file = crop_file(path, self.folder)
                if file is not None:
                    remove_crop(file)

    def _sweep_crops(self, kept: str | None) -> None:
        """Remove the saved crops that no row of a condition names."""
        if not (self.folder / CROPS).is_dir() or (self.folder / CROPS).is_symlink():
            return
        named = "starts_with(path, 'crops/')"
        left = self._paths(named if kept is None else f"{named} AND {kept}")
        for path, file in saved_crops(self.folder):
            if path not in left:
                remove_crop(file)
        if kept is not None:  # crops with names of other makers go with their rows
            for path in self._paths(f"{named} AND NOT {kept}") - left:
                if (own := crop_file(path, self.folder)) is not None:
                    remove_crop(own)

    def _paths(self, condition: str) -> set[str]:
        batches = _batches(self._table, condition, ["path"])
        return {read_text(path) for batch in batches for path in batch["path"].to_pylist()}

    def _remove_skipped(self, where: Filter | None, condition: str | None) -> None:
        """
        Take out of the list of files that could not be read those that may tell of the deleted: their files, whatever
        lies in the same folders, and paths in which their person ids stand.
        """
        file = self.folder / SKIPPED
        if where is None or not file.exists():
            return
        batches = list(_batches(self._table, condition, ["source", "person_id"]))
        sources = {read_text(value) for batch in batches for value in batch["source"].to_pylist()}
        persons = {read_text(value) for batch in batches for value in batch["person_id"].to_pylist() if value}
        persons |= {str(person) for person in where.person_ids or ()}
        folders = {os.path.dirname(source) for source in (*sources, *map(str, where.sources or ()))}
        try:
            items = json.loads(file.read_text(encoding="utf-8"))
            left = [item for item in items if not _tells_of(str(item["path"]), folders, persons)]
        except (ValueError, KeyError, TypeError, RecursionError):  # what cannot be read may tell of anybody
            left = []
        _replace_file(file, (json.dumps(left, indent=2, sort_keys=True) + "\n").encode())

    def _create_index(self, table: Any) -> str:
        """Make the index; returns why it is of another kind than usual."""
        with _temporary_files_in(self.folder / _BUILDING):
            if self.manifest.dim % 8:
                table.create_index("embedding", config=IvfFlat(distance_type="dot"), replace=True)
                return f"IVF_RQ needs a multiple of 8 dimensions, and these embeddings have {self.manifest.dim}"
            table.create_index("embedding", config=IvfRq(distance_type="dot"), replace=True)
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
            pa.field("added", number),
        ]
    )


_COLUMNS = _schema(1).names
_OLD_COLUMNS = [name for name in _COLUMNS if name != "added"]  # of format version 2
# Long texts, which few searches filter by, and what no filter asks for.
_NOT_HELD = {"source", "source_hash", "path", "width", "height", "model_hash"}
_NOT_HELD |= {"frame", "box", "offset", "detection_score"}
_HELD_COLUMNS = [name for name in _COLUMNS[2:] if name not in _NOT_HELD]


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


def _reader(
    table: Any, condition: str | None, columns: list[str] | None, rows: int = _SCAN_ROWS
) -> pa.RecordBatchReader:
    query = table.search()
    if columns is not None:
        query = query.select(columns)
    if condition is not None:
        query = query.where(condition)
    return query.to_batches(rows)


def _batches(table: Any, condition: str | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in _reader(table, condition, columns) if batch.num_rows)


def _rows_at(table: Any, numbers: list[int], folder: Path) -> dict[int, GalleryRow]:
    """Rows by LanceDB's number in this version of the table."""
    if not numbers:
        return {}
    columns = [name for name in table.schema.names if name not in ("id", "embedding")]
    values = table.take_row_ids(numbers).select(columns).with_row_id().to_arrow().to_pylist()
    return {value["_rowid"]: _row_of(value, folder) for value in values}


def _texts(where: Filter, folder: Path) -> dict[str, tuple[str, ...]]:
    """[`Filter.texts`], with the paths of saved crops as they are stored, too."""
    texts = where.texts()
    if "path" in texts:
        stored = [stored_crop_path(str(path), folder) for path in where.paths or ()]
        texts["path"] += tuple(store_text(path) for path in stored if path is not None)
    return texts


def _sql(where: Filter | None, folder: Path) -> str | None:
    """The filter as a condition in SQL."""
    if where is None or where.is_empty:
        return None
    conditions = [
        f"{column} IN ({', '.join(map(_quoted, values))})" if values else "false"
        for column, values in _texts(where, folder).items()
    ]
    since, until = where.times()
    conditions += [f"time >= {since!r}"] if since is not None else []
    conditions += [f"time < {until!r}"] if until is not None else []
    # A time behind the moment at which an image was added comes from a wrong clock: the earlier of both counts.
    since, until = where.ages()
    conditions += [f"coalesce(time, added) >= {since!r} AND added >= {since!r}"] if since is not None else []
    conditions += [f"(coalesce(time, added) < {until!r} OR added < {until!r})"] if until is not None else []
    return f"({' AND '.join(conditions)})"


def _all_of(*conditions: str | None) -> str | None:
    given = [condition for condition in conditions if condition is not None]
    return f"({' AND '.join(given)})" if given else None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _row_of(values: dict[str, Any], folder: Path) -> GalleryRow:
    """The row that is stored as these values, with the path of a saved crop where the gallery lies now."""
    row = row_of(values)
    if not row.path or row.path == row.source:
        return row
    if os.path.isabs(row.path):
        return replace(row, path=_moved(row, folder)) if "added" not in values else row
    stored = stored_crop_path(row.path, folder)  # anything else that is no absolute path leads out of the gallery
    return replace(row, path="" if stored is None else os.path.join(os.path.abspath(folder), stored))


def _moved(row: GalleryRow, folder: Path) -> str:
    """The path of a row of format version 2, which is absolute; of a saved crop where the gallery lies now."""
    stored = stored_crop_path(row.path, folder)
    if stored is None and row.box is not None:
        name = Path(row.path).as_posix().rpartition(f"/{CROPS}/")[2]
        if is_crop_name(name) and (folder / CROPS / name).is_file():
            stored = f"{CROPS}/{name}"
    return row.path if stored is None else os.path.join(os.path.abspath(folder), stored)


def _upgraded(reader: pa.RecordBatchReader, dim: int, folder: Path) -> pa.RecordBatchReader:
    """Rows of format version 2 in today's form. Nobody knows when they were added: their age counts from now."""
    schema, now = _schema(dim), time.time()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            rows = [_row_of(values, folder) for values in batch.select(_OLD_COLUMNS[2:]).to_pylist()]
            paths = [store_text(stored_crop_path(row.path, folder) or row.path) if row.box else None for row in rows]
            kept = pc.coalesce(pa.array(paths, pa.string()), batch["path"])
            columns = {name: batch[name] for name in _OLD_COLUMNS} | {"path": kept}
            columns["added"] = pa.array([now] * len(rows), pa.float64())
            yield pa.record_batch([columns[name] for name in schema.names], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _to_store(row: GalleryRow, path: str, before: _Before | None) -> GalleryRow:
    """The row with the path that is stored, and the moment at which it came into the gallery."""
    added = row.added
    if added is None:
        added = time.time() if before is None or before.added is None else before.added
    return replace(row, path=path, added=added)


def _outdated(changed: set[str], hashes: dict[str, str]) -> str:
    """The condition on rows of these sources that have another hash."""
    return " OR ".join(
        f"(source = {_quoted(source)} AND source_hash <> {_quoted(hashes[source])})" for source in sorted(changed)
    )


def _tells_of(path: str, folders: set[str], persons: set[str]) -> bool:
    return os.path.dirname(path) in folders or any(person.lower() in path.lower() for person in persons)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """
    LanceDB writes its temporary files into a folder, and not to the system's place for them: building an index it
    writes vectors there, and what a process leaves that is killed meanwhile is found by nobody.
    """
    with _temporary_folder:
        before = os.environ.get("TMPDIR")
        folder.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = os.path.abspath(folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
            shutil.rmtree(folder, ignore_errors=True)


def _connect(folder: Path) -> Any:
    # Without an interval, what other processes have written would not be seen.
    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


@contextlib.contextmanager
def _locked(lock: FileLock, folder: Path) -> Iterator[None]:
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise GalleryError(f"gallery {folder} is being written by another process: try again later") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise GalleryError(
            f"gallery {folder} cannot be written ({reason.lower()}): make its folder writable, or copy the gallery to "
            "one that is"
        ) from error
    try:
        yield
    finally:
        lock.release()


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
    foreign = [] if has_gallery else sorted(name for name in os.listdir(folder) if not _is_own(folder, name))
    foreign = [name for name in foreign if name != CROPS]
    if not foreign and has_foreign_crops(folder):
        foreign = [CROPS]
    if foreign and not has_gallery:
        raise GalleryError(f"{folder} holds other files ({foreign[0]}): give a new or empty folder for the gallery")
    if has_gallery and not overwrite:
        raise GalleryError(f"{folder} holds a gallery already: open it or overwrite it")


_Mark = tuple[int, int, int]


def _real(location: str | os.PathLike) -> Path:
    """
    The folder by one name: LanceDB takes `link/..` for nothing, where the operating system follows the link first.

    Raises:
        GalleryError: LanceDB cannot open a folder of this name.
    """
    folder = os.path.realpath(location)
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise GalleryError(f"the name of gallery {location!s} is not valid UTF-8: rename its folder") from error
    if any(not character.isprintable() for character in folder):
        raise GalleryError(f"the name of gallery {location!s} holds a character that no file name should: rename it")
    return Path(folder)


def _is_own(folder: Path, name: str) -> bool:
    """Whether a file has a name of the gallery's, and is no folder of somebody else's with the name of a table."""
    return bool(_OWN_FILES.fullmatch(name)) and (not name.startswith("images-") or _is_table(folder / name))


def _is_table(place: Path) -> bool:
    """Whether a folder looks like one of LanceDB's."""
    return place.is_symlink() or (place.is_dir() and set(os.listdir(place)) <= _LANCE_FOLDERS)


def _mark_of(folder: Path) -> _Mark | None:
    """What tells one gallery.json from the next; None where there is none."""
    try:
        found = os.stat(folder / MANIFEST)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read_record(folder: Path) -> _Record:
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
    content = json.loads(text)
    name = content.get("table")
    if not isinstance(name, str) or not _TABLE.fullmatch(name):
        raise GalleryError(f"{file} is damaged (table is {name!r}): {_REMEDY}")
    settings = GallerySettings.from_dict(content.get("settings", {}), str(file))
    # Format version 2 has no lineage; its table was made once and stayed.
    return _Record(manifest, content["format_version"], name, str(content.get("lineage", name)), settings)


def _write_record(folder: Path, record: _Record) -> None:
    content = record.manifest.to_dict() | {
        "table": record.table,
        "lineage": record.lineage,
        "settings": asdict(record.settings),
    }
    _replace_file(folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())


def _settings_of(folder: Path) -> GallerySettings:
    """
    Of a gallery that is overwritten, also of one that cannot be read otherwise; none where there is none.

    Raises:
        GalleryError: it has settings that this version does not know.
    """
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_text(encoding="utf-8")).get("settings", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return GallerySettings()
    return GallerySettings.from_dict(values, str(file))


def _open_table(folder: Path) -> tuple[_Record, _Mark | None, Any]:
    """What gallery.json says, and its table, while others may write it anew."""
    for attempt in range(_READS):
        mark = _mark_of(folder)
        record = _read_record(folder)
        place = folder / f"{record.table}.lance"
        try:
            if not place.is_dir():
                raise GalleryError(f"{place} is missing: {_REMEDY}")
            table = _connect(folder).open_table(record.table)
            schema = table.schema
        except _LANCE_ERRORS as error:
            if attempt < _READS - 1 and _mark_of(folder) != mark:
                continue
            if isinstance(error, GalleryError):
                raise
            raise GalleryError(f"{place} is damaged ({_first_line(error)}): {_REMEDY}") from error
        wanted = _schema(record.manifest.dim)
        if record.version < FORMAT_VERSION:
            wanted = pa.schema([wanted.field(name) for name in _OLD_COLUMNS])
        if schema != wanted:
            raise GalleryError(f"{place} does not hold what {folder / MANIFEST} says: {_REMEDY}")
        return record, mark, table
    raise AssertionError("the last attempt returns or raises")


def _names(folder: Path, table: str) -> bool:
    """Whether gallery.json names a table, or may do so."""
    try:
        return _read_record(folder).table == table
    except GalleryError:
        return True


def _of_overwritten(folder: Path, table: str) -> list[Path]:
    """What is left of the gallery in whose place this table comes, also of one of the first format."""
    first = [folder / name for name in os.listdir(folder) if _FIRST_FORMAT_FILES.fullmatch(name)]
    return [*_leftovers(folder, table), *first, folder / SKIPPED, folder / _ERASING]


def _is_empty(file: Path) -> bool:
    """Whether a file is there and holds nothing."""
    try:
        return file.stat().st_size == 0
    except OSError:
        return False


def _next_table(folder: Path) -> str:
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := _TABLE.match(name))]
    return f"images-{max(numbers, default=0) + 1}"


def _leftovers(folder: Path, table: str) -> list[Path]:
    """What a process has left that was killed while it wrote the gallery, or deleted from it."""
    kept = {MANIFEST, SKIPPED, ".lock", _ERASING, f"{table}.lance"}
    return [folder / name for name in os.listdir(folder) if name not in kept and _is_own(folder, name)]


def _remove_all(places: Iterable[Path]) -> None:
    """Remove files and folders; of a link the link."""
    for path in places:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it has its whole content from the moment it bears its name, even over a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # a link of this name would lead elsewhere
    try:
        with temporary.open("xb") as file:
            file.write(content)
        write_through(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk
        raise
    write_through(path.parent)


def _sync(folder: Path) -> None:
    """Bring a table's files to the disk, before what they replace is removed."""
    for path in (*folder.rglob("*"), folder):
        write_through(path)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # LanceDB ends with the line of its own source.
    return re.sub(r", \S+\.rs:\d+:\d+", "", lines[0]) if lines else type(error).__name__
