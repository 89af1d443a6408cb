"""What a gallery holds already of what is put into it."""

import hashlib
from collections.abc import Sequence

import numpy as np

from aga_model.files import UnreadableImageError, UnreadableVideoError, hash_video, read_bytes
from aga_model.gallery import Filter, Gallery, GalleryRow

from .facts import ImageFacts


class HeldFiles:
    """What a gallery holds of whole image files at one moment. May be asked from several threads."""

    def __init__(self, gallery: Gallery):
        self._files: dict[str, tuple[str, ImageFacts]] = {}
        self._sources: dict[str, str] = {}  # of contents
        for row in gallery.rows():
            if row.frame is None and row.box is None:
                self._files[row.source] = row.source_hash, ImageFacts(row.camera, row.person_id, row.time)
                self._sources[row.source_hash] = row.source

    def holds(self, source: str) -> bool:
        """Whether a file is there, with whatever content."""
        return source in self._files

    def facts(self, source: str, sha256: str) -> ImageFacts | None:
        """What is known of a file with this content, None where it is new or had another content."""
        known_hash, facts = self._files.get(source, ("", ImageFacts()))
        return facts if known_hash == sha256 else None

    def is_copy(self, source: str, sha256: str) -> bool:
        """Whether the row of this content belongs to another file that is still there."""
        other = self._sources.get(sha256, source)
        if other == source:
            return False
        try:
            return hashlib.sha256(read_bytes(other)).hexdigest() == sha256
        except UnreadableImageError:
            return False


class Held:
    """What a gallery holds of the sources that are gone through now, also of files that were renamed or copied."""

    def __init__(self, gallery: Gallery):
        self._gallery = gallery
        self._first: dict[str, str] = {}  # content -> the first file of this run that has it
        self._before: dict[str, set[str]] | None = None  # content -> files that rows of earlier runs name

    def files(self) -> HeldFiles:
        """What it holds of whole image files now."""
        return HeldFiles(self._gallery)

    def rows(self, source: str, source_hash: str) -> list[GalleryRow] | None:
        """
        Rows of a scene, or of one with its content that is no longer there; None for a copy of another file, to which
        the rows belong. Those of an earlier content are deleted.
        """
        rows = list(self._gallery.rows(Filter(sources=[source])))
        if any(row.source_hash != source_hash for row in rows):
            self._gallery.delete(Filter(sources=[source]))  # with the saved crops of what the file was
            rows = []
        if self._first.get(source_hash, source) != source:
            return None
        if not rows and (others := self._others(source, source_hash)):
            if any(_has_content(other, source_hash) for other in others):
                return None
            rows = [row for row in self._gallery.rows(Filter(sources=others)) if _is_crop(row, source_hash)]
        self._first[source_hash] = source
        return rows

    def _others(self, source: str, source_hash: str) -> set[str]:
        """Other files of this content that the gallery knows from earlier runs."""
        if self._before is None:
            self._before = {}
            for row in self._gallery.rows():
                if _is_crop(row, row.source_hash):
                    self._before.setdefault(row.source_hash, set()).add(row.source)
        return self._before.get(source_hash, set()) - {source}

    def write(self, rows: Sequence[GalleryRow], updated: Sequence[GalleryRow]) -> int:
        """Put rows that differ in the place of those that they were, with the same embeddings; returns how many."""
        changed = {row.id: row for before, row in zip(rows, updated) if row != before}
        if not changed:
            return 0
        where = Filter(sources={row.source for row in rows})
        # All of them before the first is written, since writing may tidy away what is being read.
        found = [
            (changed[row_id], embedding)
            for ids, embeddings in self._gallery.embeddings(where)
            for row_id, embedding in zip(ids, embeddings)
            if row_id in changed
        ]
        if found:  # what another process has deleted meanwhile stays so
            self._gallery.add(np.stack([embedding for _, embedding in found]), [row for row, _ in found])
        return len(found)


def _is_crop(row: GalleryRow, source_hash: str) -> bool:
    return row.source_hash == source_hash and (row.frame is not None or row.box is not None)


def _has_content(path: str, source_hash: str) -> bool:
    """Whether a file is there and has this content."""
    try:
        return hash_video(path) == source_hash
    except UnreadableVideoError:
        return False


__all__ = ["Held", "HeldFiles"]
