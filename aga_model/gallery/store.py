"""
What a store of a gallery must be able to do.

Two stores fulfil [`GalleryStore`]: LanceDB in a folder and a Milvus server. Both hold one entry per image or crop, an
embedding and a [`GalleryRow`], and both are asked with a [`Filter`].
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .rows import Filter, GalleryError, GalleryRow

FORMAT_VERSION = 3
OLDEST_VERSION = 2  # that is still read
_REMEDY = "make the gallery again with `aga index --overwrite`"


@dataclass(frozen=True)
class GallerySettings:
    """
    What whoever keeps a gallery has laid down for everyone who uses it; it lies with the gallery.

    Args:
        keep_seconds (`float`, *optional*): how long images are kept, from when they were taken, or, where that is not
            known or lies behind it, from when they were added. Older ones are never returned, and erased by the next
            write.
        audit (`str`, *optional*): absolute path of the file that every search, export and deletion is written to.
        purpose_required (`bool`): whether each of these must say what it is for.
        hide_faces (`bool`): whether faces are hidden in everything that is shown or saved. No viewer can show them.

    Raises:
        ValueError: a value of the wrong kind; names it.
    """

    keep_seconds: float | None = None
    audit: str | None = None
    purpose_required: bool = False
    hide_faces: bool = False

    def __post_init__(self) -> None:
        keep = self.keep_seconds
        if keep is not None and not (type(keep) in (int, float) and 0 < keep < math.inf):
            raise ValueError(f"keep_seconds of a gallery must be a positive number, got {keep!r}")
        if self.audit is not None and not (isinstance(self.audit, str) and os.path.isabs(self.audit)):
            raise ValueError(f"audit of a gallery must be the absolute path of a file, got {self.audit!r}")
        for name in ("purpose_required", "hide_faces"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} of a gallery must be true or false, got {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: Any, place: str) -> "GallerySettings":
        """
        Read what `asdict` gave.

        Raises:
            GalleryError: it is damaged, or has settings that this version does not know, and so could not keep to;
                names `place`.
        """
        if not isinstance(values, dict):
            raise GalleryError(f"{place} is damaged (settings are {values!r}): {_REMEDY}")
        if unknown := sorted(set(values) - {each.name for each in fields(cls)}):
            raise GalleryError(
                f"{place} has the setting {unknown[0]}, which this version does not know: update aga-model"
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise GalleryError(f"{place} is damaged ({error}): {_REMEDY}") from error


@dataclass(frozen=True)
class Manifest:
    """
    What a gallery was made with. It lies beside the rows, in the store's own way.

    Args:
        model_name (`str`): folder or Hub name of the model.
        model_hash (`str`): of its weights, see [`PersonEncoder.model_hash`].
        dim (`int`): of the embeddings.
    """

    model_name: str
    model_hash: str
    dim: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the format version."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, text: str, place: str) -> "Manifest":
        """
        Read what `to_dict` gave; further keys are the store's own.

        Raises:
            GalleryError: it is damaged, or of another format version; names `place`.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise GalleryError(f"{place} is damaged ({error}): {_REMEDY}") from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if not isinstance(version, int):
            raise GalleryError(f"{place} is damaged (no format_version): {_REMEDY}")
        if version < OLDEST_VERSION:
            raise GalleryError(
                f"{place} has format version {version}, which this version no longer reads: index the images again "
                "with `aga index --overwrite`"
            )
        if version > FORMAT_VERSION:
            raise GalleryError(f"{place} has format version {version}: update aga-model to read it")
        kinds = {"model_name": str, "model_hash": str, "dim": int}
        for key, kind in kinds.items():
            if not isinstance(content.get(key), kind):
                raise GalleryError(f"{place} is damaged ({key} is {content.get(key)!r}): {_REMEDY}")
        return cls(**{key: content[key] for key in kinds})


@dataclass(frozen=True)
class VectorIndex:
    """
    How a store finds the nearest embeddings.

    Args:
        kind (`str`): FLAT compares with every row; the others are approximate, such as IVF_RQ.
        rows (`int`): rows that the index covers. Every other row is compared with, too.
        held (`bool`): searches are exact nevertheless, since the embeddings fit into memory; those by source or path
            ask the index.
    """

    kind: str
    rows: int
    held: bool = False


@dataclass(frozen=True)
class FilteredRecall:
    """
    How much of the exact result a search with a filter finds.

    Args:
        share (`float`): of the rows that the filter leaves, in (0, 1].
        recall (`float`): share in [0, 1] of the exact 10 best rows that the filter leaves among those that a search
            finds, for the queries of [`VectorIndexReport`].
    """

    share: float
    recall: float


@dataclass(frozen=True)
class VectorIndexReport:
    """
    What `build_index` did.

    Args:
        kind (`str`): FLAT where the gallery is small enough to compare with every row.
        rows (`int`): rows in the index.
        seconds (`float`): time taken, without measuring the recall.
        recall (`float`): share in [0, 1] of the exact 10 best rows among the 10 that a search finds, for embeddings of
            the gallery as queries.
        queries (`int`): how many of these were asked.
        reason (`str`): why it is of this kind, where it is not the usual one.
        filtered (`tuple` of [`FilteredRecall`]): the same with filters by the times and cameras of the gallery, by
            falling share; empty where its rows have neither.
    """

    kind: str
    rows: int
    seconds: float
    recall: float
    queries: int
    reason: str = ""
    filtered: tuple[FilteredRecall, ...] = ()


@dataclass(frozen=True)
class ScoredRow:
    """A row and its cosine similarity with the query, in [-1, 1]."""

    score: float
    row: GalleryRow


class GalleryStore(Protocol):
    """
    Embeddings and rows on disk or on a server. What `add` and `delete` have returned from is durable and is seen by
    every other process. Embeddings and rows come checked; see [`Gallery`].
    """

    manifest: Manifest

    @property
    def settings(self) -> GallerySettings:
        """What was laid down for this gallery, as it stands now."""

    def change_settings(self, settings: GallerySettings) -> None:
        """Lay down other settings."""

    @property
    def unfinished(self) -> str:
        """What is left to do of a deletion that was interrupted, in a sentence; empty if there is nothing."""

    def add(
        self, embeddings: np.ndarray, rows: Sequence[GalleryRow], crops: Sequence[Image.Image | None] | None = None
    ) -> None:
        """
        Add float32 unit rows (n, dim). A row takes the place of the row with its id, and of all rows of the same
        source with another hash. Of equal ids in `rows` the last counts. Crops are saved where the store has a place
        for them.
        """

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        """The best rows for each of the float32 unit rows (n, dim): by falling score, equal ones by id."""

    def delete(self, where: Filter) -> int:
        """
        Remove rows and their saved crops; returns how many rows. A LanceDB store leaves no byte of them, nor of what
        earlier writes replaced, also when it removes none; see `milvus_store` for a server.
        """

    def count(self, where: Filter | None = None) -> int:
        """Number of rows."""

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        """Rows in no particular order."""

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids of rows and their embeddings, float32 (n, dim), a few thousand at a time, in no particular order."""

    def vector_index(self) -> VectorIndex:
        """How searches are answered now."""

    def build_index(self) -> VectorIndexReport:
        """Index all rows for fast approximate search, where there are more than an exact search does quickly."""

    def compact(self) -> None:
        """Merge small files and drop what was replaced or deleted."""


class StoreClass(Protocol):
    """What makes and opens the stores of one kind: the class of a store."""

    @staticmethod
    def exists(location: str) -> bool:
        """Whether there is a gallery, readable or not."""

    @staticmethod
    def check_place(location: str, overwrite: bool) -> None:
        """Raise GalleryError unless a gallery can be made there, which may replace one if `overwrite` says so."""

    @staticmethod
    def create(location: str, manifest: Manifest) -> GalleryStore:
        """
        Make an empty gallery, in place of the one that is there; that one stays until the new one is ready, and its
        settings go on to hold.
        """

    @staticmethod
    def open(location: str) -> GalleryStore:
        """Open a gallery; GalleryError if there is none, or it cannot be read."""


def last_of_each(rows: Sequence[GalleryRow]) -> list[int]:
    """Which remain of rows that are added one by one: the last of each id, of each source those of its last hash."""
    hashes = {row.source: row.source_hash for row in rows}
    last = {row.id: index for index, row in enumerate(rows)}
    return [index for index in sorted(last.values()) if hashes[rows[index].source] == rows[index].source_hash]
