"""Rows of a gallery as LanceDB keeps them, and filters as its conditions."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..crops import (
    CROPS,
    is_crop_name,
    stored_crop_path,
)
from ..rows import Filter, GalleryRow, row_of, storable, store_text

SCAN_ROWS = 8192


class RowBefore(NamedTuple):
    """What a row that is replaced, or a row of its source, held."""

    source: str
    source_hash: str
    path: str
    added: float | None


def schema_of(dim: int) -> pa.Schema:
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


COLUMNS = schema_of(1).names
OLD_COLUMNS = [name for name in COLUMNS if name != "added"]  # of format version 2
# Long texts, which few searches filter by, and what no filter asks for.
_NOT_HELD = {"source", "source_hash", "path", "width", "height", "model_hash"}
_NOT_HELD |= {"frame", "box", "offset", "detection_score"}
HELD_COLUMNS = [name for name in COLUMNS[2:] if name not in _NOT_HELD]


def to_arrow(embeddings: np.ndarray, rows: Sequence[GalleryRow]) -> pa.Table:
    schema = schema_of(embeddings.shape[1])
    values = [storable(row) for row in rows]
    columns: dict[str, Any] = {
        field.name: pa.array([value[field.name] for value in values], field.type)
        for field in schema
        if field.name != "embedding"
    }
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def matrix_of(batch: pa.RecordBatch, dim: int) -> np.ndarray:
    """The embeddings, float32 (n, dim)."""
    return batch["embedding"].flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def reader_of(
    table: Any, condition: str | None, columns: list[str] | None, rows: int = SCAN_ROWS
) -> pa.RecordBatchReader:
    query = table.search()
    if columns is not None:
        query = query.select(columns)
    if condition is not None:
        query = query.where(condition)
    return query.to_batches(rows)


def read_batches(table: Any, condition: str | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in reader_of(table, condition, columns) if batch.num_rows)


def rows_at(table: Any, numbers: list[int], folder: Path) -> dict[int, GalleryRow]:
    """Rows by LanceDB's number in this version of the table."""
    if not numbers:
        return {}
    columns = [name for name in table.schema.names if name not in ("id", "embedding")]
    values = table.take_row_ids(numbers).select(columns).with_row_id().to_arrow().to_pylist()
    return {value["_rowid"]: row_in(value, folder) for value in values}


def stored_texts(where: Filter, folder: Path) -> dict[str, tuple[str, ...]]:
    """[`Filter.texts`], with the paths of saved crops as they are stored, too."""
    texts = where.texts()
    if "path" in texts:
        stored = [stored_crop_path(str(path), folder) for path in where.paths or ()]
        texts["path"] += tuple(store_text(path) for path in stored if path is not None)
    return texts


def condition_of(where: Filter | None, folder: Path) -> str | None:
    """The filter as a condition in SQL."""
    if where is None or where.is_empty:
        return None
    conditions = [
        f"{column} IN ({', '.join(map(quoted, values))})" if values else "false"
        for column, values in stored_texts(where, folder).items()
    ]
    since, until = where.times()
    conditions += [f"time >= {since!r}"] if since is not None else []
    conditions += [f"time < {until!r}"] if until is not None else []
    # A time behind the moment at which an image was added comes from a wrong clock: the earlier of both counts.
    since, until = where.ages()
    conditions += [f"coalesce(time, added) >= {since!r} AND added >= {since!r}"] if since is not None else []
    conditions += [f"(coalesce(time, added) < {until!r} OR added < {until!r})"] if until is not None else []
    return f"({' AND '.join(conditions)})"


def all_of(*conditions: str | None) -> str | None:
    given = [condition for condition in conditions if condition is not None]
    return f"({' AND '.join(given)})" if given else None


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def row_in(values: dict[str, Any], folder: Path) -> GalleryRow:
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


def upgraded(reader: pa.RecordBatchReader, dim: int, folder: Path) -> pa.RecordBatchReader:
    """Rows of format version 2 in today's form. Nobody knows when they were added: their age counts from now."""
    schema, now = schema_of(dim), time.time()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            rows = [row_in(values, folder) for values in batch.select(OLD_COLUMNS[2:]).to_pylist()]
            paths = [store_text(stored_crop_path(row.path, folder) or row.path) if row.box else None for row in rows]
            kept = pc.coalesce(pa.array(paths, pa.string()), batch["path"])
            columns = {name: batch[name] for name in OLD_COLUMNS} | {"path": kept}
            columns["added"] = pa.array([now] * len(rows), pa.float64())
            yield pa.record_batch([columns[name] for name in schema.names], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def to_store(row: GalleryRow, path: str, before: RowBefore | None) -> GalleryRow:
    """The row with the path that is stored, and the moment at which it came into the gallery."""
    added = row.added
    if added is None:
        added = time.time() if before is None or before.added is None else before.added
    return replace(row, path=path, added=added)


def outdated(changed: set[str], hashes: dict[str, str]) -> str:
    """The condition on rows of these sources that have another hash."""
    return " OR ".join(
        f"(source = {quoted(source)} AND source_hash <> {quoted(hashes[source])})" for source in sorted(changed)
    )


def tells_of(path: str, folders: set[str], persons: set[str]) -> bool:
    return os.path.dirname(path) in folders or any(person.lower() in path.lower() for person in persons)
