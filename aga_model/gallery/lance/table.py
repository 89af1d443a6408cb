"""A gallery folder as it is read: searches, filters, rows, and what is left of a deletion that was interrupted."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
from filelock import FileLock

from ..exact import EXACT_ROWS, BestRows
from ..rows import Filter, GalleryError, GalleryRow
from ..store import (
    FORMAT_VERSION,
    GallerySettings,
    ScoredRow,
    VectorIndex,
)
from .files import (
    ERASING,
    LANCE_ERRORS,
    MANIFEST,
    READS,
    REMEDY,
    FileMark,
    Record,
    first_line_of,
    is_empty,
    mark_of,
    open_table,
    real_folder,
)
from .held import HELD_ROW_BYTES, HeldTable, HeldVectors, IndexedTable, Kept, TableVersion
from .nearest import most_candidates
from .rows import COLUMNS, OLD_COLUMNS, all_of, condition_of, matrix_of, quoted, read_batches, row_in, schema_of

_Result = TypeVar("_Result")


class LanceTable:
    """
    A gallery folder as it is read; [`LanceStore`] writes it.

    Attributes:
        exact_rows (`int`): up to so many rows there is no index.
        held_bytes (`int`): up to so much memory the embeddings of a larger gallery are held, and its searches are
            exact, too; of each row they take the embedding in float32 and about 128 bytes.
    """

    exact_rows = EXACT_ROWS
    held_bytes = 2**28

    def __init__(self, folder: Path, record: Record, table: Any):
        self.folder = folder
        self.manifest = record.manifest
        self._record = record
        self._table = table
        self._mark: FileMark | None = None  # of the gallery.json that `_record` was read from
        self._held: HeldTable | IndexedTable | None = None
        self._keeping = threading.Lock()
        self._unknown_deletion = is_empty(folder / ERASING)
        self._lock = FileLock(folder / ".lock")

    @staticmethod
    def exists(location: str | os.PathLike) -> bool:
        """Whether there is a gallery, readable or not."""
        return (real_folder(location) / MANIFEST).exists()

    @property
    def settings(self) -> GallerySettings:
        self._follow()
        return self._record.settings

    @property
    def unfinished(self) -> str:
        if self._unknown_deletion:
            return (
                f"an earlier version was interrupted while it deleted images of {self.folder}, and did not write down "
                "which: delete them again"
            )
        if not (self.folder / ERASING).exists():
            return ""
        return (
            f"a deletion of images of {self.folder} is not finished, though no search finds them: it will be when the "
            "gallery is opened while its folder can be written, its disk has space and no other process writes there"
        )

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        return self._read(lambda table: self._search(table, queries, top_k, where))

    def count(self, where: Filter | None = None) -> int:
        return self._read(lambda table: table.count_rows(self._condition(where)))

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        # All of them before the first is given, so that a read whose files are tidied away can be made again.
        def ask(table: Any) -> list[pa.RecordBatch]:
            return list(read_batches(table, self._condition(where), self._columns[2:]))

        for batch in self._read(ask):
            for values in batch.to_pylist():
                yield row_in(values, self.folder)

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        columns = ["id", "embedding"]
        if where is not None and "source" in where.texts():  # of few files: they can be read again as a whole
            batches = iter(self._read(lambda table: list(read_batches(table, self._condition(where), columns))))
        else:
            batches = self._scan(where, columns)
        for batch in batches:
            yield batch["id"].to_pylist(), matrix_of(batch, self.manifest.dim)

    def vector_index(self) -> VectorIndex:
        return self._read(self._vector_index)

    def _read(self, ask: Callable[[Any], _Result]) -> _Result:
        """What `ask` finds in the table; again, if another process has tidied up meanwhile."""
        for attempt in range(READS):
            self._follow()
            version = self._version()
            try:
                return ask(self._table)
            except LANCE_ERRORS as error:
                if self._follow():
                    continue
                if attempt == READS - 1 or self._version() == version:
                    raise self._damaged(error) from error
        raise GalleryError(f"gallery {self.folder} is written anew over and over: try again later")

    def _follow(self) -> bool:
        """
        Go on with the table that gallery.json names now; whether it is another one than before.

        Raises:
            GalleryError: it is another gallery, or cannot be read.
        """
        if self._mark is not None and mark_of(self.folder) == self._mark:
            return False
        record, mark, table = open_table(self.folder)
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
        except LANCE_ERRORS:
            return None

    def _scan(self, where: Filter | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
        self._follow()
        try:
            yield from read_batches(self._table, self._condition(where), columns)
        except LANCE_ERRORS as error:
            if self._follow():
                raise GalleryError(
                    f"gallery {self.folder} was written anew while it was read: begin the reading again"
                ) from error
            raise self._damaged(error) from error

    @property
    def _columns(self) -> list[str]:
        """Of the table: `id` and `embedding`, and those of the row."""
        return COLUMNS if self._record.version == FORMAT_VERSION else OLD_COLUMNS

    def _condition(self, where: Filter | None) -> str | None:
        """A filter in SQL, without the images that an unfinished deletion removes; None where that is all of them."""
        pending = self._pending()
        left = None if pending is None else f"NOT coalesce({condition_of(pending, self.folder)}, false)"
        return all_of(condition_of(where, self.folder), left)

    def _pending(self) -> Filter | None:
        """What a deletion that is not finished removes; None also where an earlier version did not write it down."""
        try:
            text = (self.folder / ERASING).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise GalleryError(
                f"{self.folder / ERASING} cannot be read ({error.strerror}): remove it and delete again what it was "
                "to remove"
            ) from error
        if not text:
            return None
        try:
            return Filter(**json.loads(text)["filter"])
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(
                f"{self.folder / ERASING} is damaged ({first_line_of(error)}): remove it and delete again what it was "
                "to remove"
            ) from error

    def _damaged(self, error: Exception) -> GalleryError:
        if isinstance(error, GalleryError):
            return error
        place = self.folder / f"{self._record.table}.lance"
        return GalleryError(f"{place} is damaged or cannot be read ({first_line_of(error)}): {REMEDY}")

    def _search(self, table: Any, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        count = table.count_rows()
        if count <= self.exact_rows:
            return self._hold(table).search(queries, top_k, where)
        if self._fits(count) and HeldVectors.knows(where):
            return self._current(table, HeldVectors).search(queries, top_k, where)
        # With many results asked for, the index would have to compare with every row, too.
        if most_candidates(top_k) < count and self._vector_index(table).kind != "FLAT":
            return self._current(table, IndexedTable).search(queries, top_k, where)
        best = BestRows(queries, top_k)
        for batch in read_batches(table, self._condition(where), ["id", "embedding"]):
            best.update(batch["id"], matrix_of(batch, self.manifest.dim))
        results = best.found()
        known = self._rows_of(table, {row_id for found in results for row_id, _ in found})
        # What was deleted since it was found is no result.
        return [[ScoredRow(score, known[row_id]) for row_id, score in found if row_id in known] for found in results]

    def _fits(self, count: int) -> bool:
        """Whether the embeddings of so many rows may be held in memory."""
        return count * (4 * self.manifest.dim + HELD_ROW_BYTES) <= self.held_bytes

    def _current(self, table: Any, kind: "type[Kept]") -> "Kept":
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

    def _version_of(self, table: Any) -> TableVersion:
        return TableVersion(self._record.table, table.version, self._condition(None))

    def _hold(self, table: Any) -> HeldTable:
        held, version = self._held, self._version_of(table)
        if type(held) is not HeldTable or held.version != version:
            # Others may write between the two reads: then it is older than its content, and is read again next time.
            batches = list(read_batches(table, version.left, self._columns))
            parts = [matrix_of(batch, self.manifest.dim) for batch in batches]
            embeddings = np.concatenate([np.empty((0, self.manifest.dim), np.float32), *parts])
            schema = pa.schema([schema_of(self.manifest.dim).field(name) for name in self._columns])
            rows = pa.Table.from_batches(batches, schema).drop_columns(["embedding"])
            self._held = held = HeldTable(version, self.folder, rows.combine_chunks(), embeddings)
        return held

    def _rows_of(self, table: Any, ids: set[str]) -> dict[str, GalleryRow]:
        if not ids:
            return {}
        condition = f"id IN ({', '.join(map(quoted, sorted(ids)))})"
        columns = ["id", *self._columns[2:]]
        values = [value for batch in read_batches(table, condition, columns) for value in batch.to_pylist()]
        return {value["id"]: row_in(value, self.folder) for value in values}

    def _vector_index(self, table: Any) -> VectorIndex:
        for index in table.list_indices():
            if index.columns == ["embedding"]:
                stats = table.index_stats(index.name)
                return VectorIndex(stats.index_type, stats.num_indexed_rows, self._fits(table.count_rows()))
        return VectorIndex("FLAT", table.count_rows())
