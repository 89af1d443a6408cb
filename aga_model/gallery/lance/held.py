"""A gallery's table in memory, whole or its embeddings, and the index where it does not fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..exact import BestRows
from ..rows import Filter
from ..store import (
    ScoredRow,
)
from .nearest import nearest
from .rows import HELD_COLUMNS, SCAN_ROWS, all_of, condition_of, matrix_of, row_in, rows_at, stored_texts

_PRODUCTS = 2**24  # scores that a search holds at a time, of all its queries: 64 MB
HELD_ROW_BYTES = 128  # of the facts by which a search filters


class TableVersion(NamedTuple):
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
class HeldTable:
    """
    A table in memory.

    Attributes:
        version: of the table, or an older one.
        folder: of the gallery.
        rows: all columns but the embedding.
        embeddings (`np.ndarray`): float32 (n, dim).
    """

    version: TableVersion
    folder: Path
    rows: pa.Table
    embeddings: np.ndarray

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        results = self._best(queries, top_k, where)
        ids = sorted({row_id for found in results for row_id, _ in found})
        found_rows = self.rows.take(pc.index_in(pa.array(ids, pa.string()), value_set=self.rows["id"]))
        known = {value["id"]: row_in(value, self.folder) for value in found_rows.to_pylist()}
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
        """What `condition_of` says, of each row; what a row does not say fulfils nothing."""
        texts = {name: pa.array(values, pa.string()) for name, values in stored_texts(where, self.folder).items()}
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
class HeldVectors(HeldTable):
    """
    The embeddings of a larger table in memory, and the columns that a search filters by.

    Attributes:
        rows: `id`, the columns of `HELD_COLUMNS`, and `_rowid`, where LanceDB finds the row in this version.
        table: of this version.
    """

    table: Any

    @classmethod
    def of(cls, version: TableVersion, folder: Path, table: Any) -> "HeldVectors":
        """Read all of a table whose version is fixed, without what is left out."""
        schema = table.schema
        dim = schema.field("embedding").type.list_size
        embeddings, batches, end = np.empty((table.count_rows(version.left), dim), np.float32), [], 0
        columns = ["id", "embedding", *(name for name in HELD_COLUMNS if name in schema.names)]
        query = table.search().select(columns).with_row_id(True)
        for batch in (query if version.left is None else query.where(version.left)).to_batches(SCAN_ROWS):
            embeddings[end : end + batch.num_rows] = matrix_of(batch, dim)
            batches.append(batch.drop_columns(["embedding"]))
            end += batch.num_rows
        rows = pa.Table.from_batches(batches).combine_chunks()
        return cls(version, folder, rows, embeddings, table)

    @staticmethod
    def knows(where: Filter | None) -> bool:
        """Whether the filter asks for nothing but columns that are held."""
        return where is None or set(where.texts()) <= {"id", *HELD_COLUMNS}

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        results = self._best(queries, top_k, where)
        ids = pa.array(sorted({row_id for found in results for row_id, _ in found}), pa.string())
        places = np.flatnonzero(pc.is_in(self.rows["id"], value_set=ids).to_numpy())
        numbers = self.rows["_rowid"].take(places).to_pylist()
        known = {row.id: row for row in rows_at(self.table, numbers, self.folder).values()}
        return [[ScoredRow(score, known[row_id]) for row_id, score in found] for found in results]


@dataclass(frozen=True)
class IndexedTable:
    """A version of a table that is searched by its index."""

    version: TableVersion
    folder: Path
    table: Any

    @classmethod
    def of(cls, version: TableVersion, folder: Path, table: Any) -> "IndexedTable":
        return cls(version, folder, table)

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None) -> list[list[ScoredRow]]:
        condition = all_of(condition_of(where, self.folder), self.version.left)
        return [self._best(query, top_k, condition) for query in queries]

    def _best(self, query: np.ndarray, top_k: int, condition: str | None) -> list[ScoredRow]:
        scores = nearest(self.table, query, top_k, condition)
        rows = rows_at(self.table, list(scores), self.folder)
        ranked = sorted(scores, key=lambda number: (-scores[number], rows[number].id))
        return [ScoredRow(scores[number], rows[number]) for number in ranked[:top_k]]


Kept = TypeVar("Kept", HeldVectors, IndexedTable)
