"""A store in memory, as somebody might add one: this file, and one row of `STORES`."""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aga_model.gallery.exact import BestRows
from aga_model.gallery.rows import Filter, GalleryError, GalleryRow
from aga_model.gallery.store import (
    GallerySettings,
    Manifest,
    ScoredRow,
    VectorIndex,
    VectorIndexReport,
    last_of_each,
)

_KEPT: dict[str, "MemoryStore"] = {}


class MemoryStore:
    unfinished = ""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.settings = GallerySettings()
        self._rows: dict[str, tuple[GalleryRow, np.ndarray]] = {}

    @staticmethod
    def exists(location):
        return location in _KEPT

    @staticmethod
    def check_place(location, overwrite):
        if location in _KEPT and not overwrite:
            raise GalleryError(f"{location} holds a gallery already: open it or overwrite it")

    @classmethod
    def create(cls, location, manifest):
        _KEPT[location] = cls(manifest)
        return _KEPT[location]

    @staticmethod
    def open(location):
        if location not in _KEPT:
            raise GalleryError(f"{location} holds no gallery")
        return _KEPT[location]

    def change_settings(self, settings):
        self.settings = settings

    def add(self, embeddings, rows, crops=None):
        for index in last_of_each(rows):
            row = rows[index]
            for held, _ in list(self._rows.values()):
                if held.source == row.source and held.source_hash != row.source_hash:
                    del self._rows[held.id]
            before = self._rows.get(row.id)
            added = row.added or (before[0].added if before else time.time())
            self._rows[row.id] = replace(row, added=added), embeddings[index]

    def search(self, queries, top_k, where=None):
        best = BestRows(queries, top_k)
        for ids, embeddings in self.embeddings(where):
            best.update(ids, embeddings)
        return [[ScoredRow(score, self._rows[row_id][0]) for row_id, score in found] for found in best.found()]

    def delete(self, where):
        gone = [row.id for row in self.rows(where)]
        for row_id in gone:
            del self._rows[row_id]
        return len(gone)

    def count(self, where=None):
        return len(list(self.rows(where)))

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        return (row for row, _ in self._rows.values() if where is None or where.accepts(row))

    def embeddings(self, where=None):
        kept = [row.id for row in self.rows(where)]
        if kept:
            yield kept, np.stack([self._rows[row_id][1] for row_id in kept])

    def vector_index(self):
        return VectorIndex("FLAT", 0)

    def build_index(self):
        return VectorIndexReport("FLAT", 0, 0.0, 1.0, 0)

    def compact(self):
        pass
