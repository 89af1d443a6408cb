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
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from lancedb.index import IvfFlat, IvfRq
from PIL import Image

from aga_model.files import write_through

from ..crops import (
    CROPS,
)
from ..exact import measure_recall
from ..rows import Filter, GalleryError, GalleryRow, store_text
from ..store import (
    FORMAT_VERSION,
    FilteredRecall,
    GallerySettings,
    Manifest,
    VectorIndexReport,
    last_of_each,
)
from .beside import TableWithCrops
from .files import (
    BUILDING,
    ERASING,
    LANCE_ERRORS,
    MANIFEST,
    Record,
    connect,
    first_line_of,
    leftovers,
    locked,
    mark_of,
    names_table,
    next_table,
    of_overwritten,
    open_table,
    real_folder,
    remove_all,
    replace_file,
    require_place,
    settings_of,
    sync_folder,
    temporary_files_in,
    write_record,
)
from .rows import (
    RowBefore,
    condition_of,
    outdated,
    quoted,
    read_batches,
    reader_of,
    schema_of,
    to_arrow,
    to_store,
    upgraded,
)
from .table import READS

_REWRITE_ROWS = 4096  # at a time when a table is written anew
_MOST_FRAGMENTS = 128  # each add makes one; more make every read slower
_KEPT_VERSIONS = timedelta(minutes=10)  # for reads that began before


class LanceStore(TableWithCrops):
    """The store of a gallery folder; see [`GalleryStore`]. Make one with `create` or `open`."""

    @staticmethod
    def check_place(location: str | os.PathLike, overwrite: bool) -> None:
        """Raise GalleryError unless a gallery can be made there."""
        require_place(real_folder(location), overwrite)

    @classmethod
    def create(cls, location: str | os.PathLike, manifest: Manifest) -> "LanceStore":
        """
        Make an empty gallery, in place of the one that is there; that one stays until the new one is ready, and its
        settings go on to hold.

        Raises:
            GalleryError: the folder holds anything else, another process is writing there for long, or it cannot be
                written.
        """
        folder = real_folder(location)
        require_place(folder, overwrite=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(FileLock(folder / ".lock"), folder):
                name = next_table(folder)
                table = connect(folder).create_table(name, schema=schema_of(manifest.dim))
                record = Record(manifest, FORMAT_VERSION, name, secrets.token_hex(8), settings_of(folder))
                had_gallery = (folder / MANIFEST).exists()
                write_record(folder, record)
                store = cls(folder, record, table)
                remove_all(of_overwritten(folder, name) if had_gallery else leftovers(folder, name))
                store._sweep_crops(None)
        except GalleryError:
            raise
        except LANCE_ERRORS as error:
            raise GalleryError(f"gallery {folder} cannot be made ({first_line_of(error)})") from error
        return store

    @classmethod
    def open(cls, location: str | os.PathLike) -> "LanceStore":
        """
        Open a gallery. A deletion that was interrupted is finished, where the folder can be written and nobody else
        writes there; no search finds what it removes in any case ([`LanceStore.unfinished`]).

        Raises:
            GalleryError: there is none, or it is damaged; the message names the file.
        """
        folder = real_folder(location)
        record, mark, table = open_table(folder)
        store = cls(folder, record, table)
        store._mark = mark
        if (folder / ERASING).exists() or leftovers(folder, record.table):
            with (
                contextlib.suppress(Timeout, *LANCE_ERRORS),
                store._lock.acquire(timeout=0),
            ):
                store._follow()
                store._tidy()
        return store

    def change_settings(self, settings: GallerySettings) -> None:
        with self._writing():
            self._write(self._record._replace(settings=settings))

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
            rows = [to_store(row, path, before.get(row.id)) for row, path in zip(rows, paths)]
            hashes = {store_text(row.source): row.source_hash for row in rows}
            changed = {
                each.source
                for each in before.values()
                if each.source in hashes and hashes[each.source] != each.source_hash
            }
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if changed:
                merge = merge.when_not_matched_by_source_delete(outdated(changed, hashes))
            merge.execute(to_arrow(embeddings, rows))
            self._remove_replaced_crops(before, rows, changed, hashes)
            if self._table.stats()["fragment_stats"]["num_fragments"] > _MOST_FRAGMENTS:
                self._table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def delete(self, where: Filter) -> int:
        with self._writing():
            self._require_no_links(self.folder / CROPS)
            removed = self._table.count_rows(self._condition(where))
            replace_file(self.folder / ERASING, json.dumps({"filter": where.to_dict()}).encode())
            try:
                self._tidy()
            except LANCE_ERRORS as error:
                raise GalleryError(
                    f"the deletion is not finished ({first_line_of(error)}): no search finds these images any more, "
                    f"and they leave the files of gallery {self.folder} when it is next opened or written to"
                ) from error
        return removed

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
        for _ in range(READS):
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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with locked(self._lock, self.folder):
            try:
                self._follow()
                self._require_no_links(self.folder / f"{self._record.table}.lance")
                self._held = None  # so that what is deleted is gone from memory, too
                self._tidy()
                self._upgrade()
                yield
            except GalleryError:
                raise
            except LANCE_ERRORS as error:
                reason = f"{self.folder} cannot be changed ({first_line_of(error)})"
                raise GalleryError(f"gallery {reason}") from error

    def _upgrade(self) -> None:
        """Write what an earlier version made in today's form."""
        if self._record.version < FORMAT_VERSION:
            self._rewrite(None)

    def _tidy(self) -> None:
        """Remove what a process left that was killed, and finish a deletion. The lock is held."""
        self._remove_leftovers()
        erasing = self.folder / ERASING
        if erasing.exists():
            self._erase(self._pending())
            self._remove_leftovers()
            erasing.unlink()
            write_through(self.folder)

    def _remove_leftovers(self) -> None:
        remove_all(leftovers(self.folder, self._record.table))

    def _erase(self, where: Filter | None) -> None:
        """Remove every trace of the images of a filter; None removes what writes before this have left."""
        self._upgrade()
        condition = None if where is None else condition_of(where, self.folder)
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
        old, name = self._record, next_table(self.folder)
        had_index = self._vector_index(self._table).kind != "FLAT"
        reader = reader_of(self._table, kept, None, _REWRITE_ROWS)
        if old.version < FORMAT_VERSION:
            reader = upgraded(reader, self.manifest.dim, self.folder)
        place = self.folder / f"{name}.lance"
        try:
            table = connect(self.folder).create_table(name, data=reader, schema=schema_of(self.manifest.dim))
            if had_index and table.count_rows() > self.exact_rows:
                self._create_index(table)
            sync_folder(place)
            self._write(old._replace(version=FORMAT_VERSION, table=name))
        except BaseException:
            if not names_table(self.folder, name):
                shutil.rmtree(place, ignore_errors=True)
            raise
        self._table = table
        # In one step, so that nobody reads what is left of it while it is removed.
        removed = self.folder / f"{old.table}.lance.removed"
        os.rename(self.folder / f"{old.table}.lance", removed)
        shutil.rmtree(removed)

    def _write(self, record: Record) -> None:
        write_record(self.folder, record)
        self._record, self._mark = record, mark_of(self.folder)

    def _before(self, rows: Sequence[GalleryRow]) -> dict[str, RowBefore]:
        """What the table holds of these rows and their sources, by id."""
        if self._table.count_rows() == 0:
            return {}
        sources, ids = ({store_text(row.source) for row in rows}, {row.id for row in rows})
        condition = " OR ".join(
            f"{column} IN ({', '.join(map(quoted, sorted(values)))})"
            for column, values in (("source", sources), ("id", ids))
        )
        columns = ["id", *RowBefore._fields]
        values = [value for batch in read_batches(self._table, condition, columns) for value in batch.to_pylist()]
        return {value.pop("id"): RowBefore(**value) for value in values}

    def _create_index(self, table: Any) -> str:
        """Make the index; returns why it is of another kind than usual."""
        with temporary_files_in(self.folder / BUILDING):
            if self.manifest.dim % 8:
                table.create_index("embedding", config=IvfFlat(distance_type="dot"), replace=True)
                return f"IVF_RQ needs a multiple of 8 dimensions, and these embeddings have {self.manifest.dim}"
            table.create_index("embedding", config=IvfRq(distance_type="dot"), replace=True)
            return ""
