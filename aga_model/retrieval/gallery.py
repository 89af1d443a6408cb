"""
A gallery of person images: embeddings and what is known of each image, ranked by cosine similarity.

It lies in a folder (LanceDB, see `lance_store`) or on a server (Milvus, see `milvus_store`); both do the same.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .store import (
    CROPS,
    Filter,
    GalleryError,
    GalleryRow,
    GalleryStore,
    Manifest,
    VectorIndex,
    VectorIndexReport,
    check_row,
)

if TYPE_CHECKING:
    from .lance_store import LanceStore
    from .milvus_store import MilvusStore

_NORM_TOLERANCE = 1e-3


def _alone() -> AbstractContextManager[bool]:
    """No other process makes the gallery, too."""
    return nullcontext(True)


@dataclass(frozen=True)
class Hit:
    """
    One search result.

    Args:
        rank (`int`): 1 is the best.
        score (`float`): cosine similarity in [-1, 1].
        row (`GalleryRow`): what the gallery knows of the image.
        itm_score (`float`, *optional*): log-odds of the ITM head that the sentence describes the image, when it was
            re-ranked.
    """

    rank: int
    score: float
    row: GalleryRow
    itm_score: float | None = None

    @property
    def path(self) -> Path:
        """The image file; the source for a crop that was not saved."""
        return Path(self.row.path or self.row.source)


class Gallery:
    """
    Embeddings of person images with their rows, on disk. What an `add` or `delete` has returned from is durable and
    seen by every other process; several may search and add at a time.

    ```python
    >>> gallery = Gallery.create("gallery", encoder.model_hash, encoder.dim, encoder.name)
    >>> row = GalleryRow(path, sha256, path, width, height, encoder.model_hash, camera="entrance")
    >>> gallery.add(encoder.encode_images([image]), [row])
    >>> sentence = encoder.encode_texts(["a man with a backpack"])
    >>> hits = Gallery.open("gallery").search(sentence, top_k=10, where=Filter(cameras=["entrance"]))[0]
    ```

    Make one with `create` or `open`.
    """

    def __init__(
        self,
        location: str,
        manifest: Manifest,
        store: GalleryStore | None,
        first: Callable[[], AbstractContextManager[bool]] = _alone,
    ):
        self.location = location
        self._manifest = manifest
        self._opened = store
        self._first = first

    @classmethod
    def create(
        cls,
        location: str | os.PathLike,
        model_hash: str,
        dim: int,
        model_name: str,
        overwrite: bool = False,
        first: Callable[[], AbstractContextManager[bool]] = _alone,
    ) -> "Gallery":
        """
        A new, empty gallery. Nothing is written before the first `add`; a gallery that is overwritten stays until
        then, but for its saved crops, which are removed at once.

        Args:
            location: folder, or `milvus://[user:password@]host:port/collection`.
            model_hash, model_name: of the model whose embeddings it is to hold; see [`PersonEncoder`].
            dim: of the embeddings.
            overwrite: whether a gallery that is there may be replaced.
            first: for several processes that create one gallery. Entered at the first `add`: true in the process that
                is to make it, false in the others, once it is made ([`Shards.first`]).

        Raises:
            GalleryError: there is a gallery and `overwrite` is not set, there is something else, or it cannot be made.
        """
        location = os.fspath(location)
        _store_type(location).check_place(location, overwrite)
        gallery = cls(location, Manifest(model_name, model_hash, dim), None, first)
        if overwrite and gallery.crops is not None:
            shutil.rmtree(gallery.crops, ignore_errors=True)
        return gallery

    @classmethod
    def open(cls, location: str | os.PathLike) -> "Gallery":
        """
        Open a gallery.

        Raises:
            GalleryError: there is none, it cannot be read, or an earlier version of this package made it; the message
                names the file and says what to do.
        """
        location = os.fspath(location)
        store = _store_type(location).open(location)
        return cls(location, store.manifest, store)

    @staticmethod
    def exists(location: str | os.PathLike) -> bool:
        """Whether there is a gallery, readable or not."""
        return _store_type(os.fspath(location)).exists(os.fspath(location))

    @property
    def is_made(self) -> bool:
        """Whether it is on disk: one that was created is not before the first `add`."""
        return self._opened is not None

    @property
    def model_name(self) -> str:
        """Folder or Hub name of the model that made the embeddings."""
        return self._manifest.model_name

    @property
    def model_hash(self) -> str:
        """Hash of its weights."""
        return self._manifest.model_hash

    @property
    def dim(self) -> int:
        """Of the embeddings."""
        return self._manifest.dim

    @property
    def folder(self) -> Path | None:
        """Where it lies; None on a server."""
        return None if "://" in self.location else Path(self.location)

    @property
    def crops(self) -> Path | None:
        """Folder for crops of videos and photographs, which goes with the gallery; None for a server's gallery."""
        return None if self.folder is None else self.folder.absolute() / CROPS

    def require_model(self, model_hash: str, model_name: str) -> None:
        """Raise GalleryError unless the gallery was made with this model: other embeddings cannot be compared."""
        if model_hash != self.model_hash:
            raise GalleryError(
                f"gallery {self} was made with model {self.model_name} (weights {self.model_hash[:12]}), not "
                f"with {model_name} (weights {model_hash[:12]}): use that model, or index the images anew"
            )

    def __str__(self) -> str:
        """The location without the password."""
        server, separator, rest = self.location.partition("://")
        return self.location if not separator else f"{server}://{rest.rpartition('@')[2]}"

    def add(self, embeddings: np.ndarray, rows: Sequence[GalleryRow]) -> None:
        """
        Add images. A row takes the place of the row with its id, that is with the same content, frame and box, and of
        all rows of the same source file with another content. Of the same content twice in `rows` the last counts.

        Args:
            embeddings: float32 (n, dim), unit rows.
            rows: what is known of each image.

        Raises:
            GalleryError: another model's embeddings, or the gallery cannot be written.
            ValueError: wrong shapes, embeddings that are not finite or not of unit length, or a row that lacks
                something; nothing is added then.
        """
        embeddings = _unit_rows(embeddings, self.dim)
        if len(rows) != len(embeddings):
            raise ValueError(f"{len(embeddings)} embeddings but {len(rows)} rows")
        for row in rows:
            check_row(row)
            self.require_model(row.model_hash, "the model of these embeddings")
        if self._opened is None:
            store = _store_type(self.location)
            with self._first() as first:
                self._opened = store.create(self.location, self._manifest) if first else store.open(self.location)
        self._opened.add(embeddings, rows)

    def search(self, query_embeddings: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[Hit]]:
        """
        Rank the gallery for each query by cosine similarity, equal scores by id.

        The order is exact up to `EXACT_ROWS` images, and in a folder while the embeddings fit into 256 MiB of memory
        (about 123,000 images of 512 dimensions); above that it is approximate if there is an index
        ([`Gallery.build_index`]). Scores are exact in any case.

        Args:
            query_embeddings: float32 (queries, dim), unit rows.
            top_k: results per query; fewer only when the gallery, or the filter, has not as many images.
            where: search among these images only.

        Raises:
            GalleryError: the gallery cannot be read.
            ValueError: `top_k` below 1, wrong shapes, queries that are not finite or not of unit length.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        queries = _unit_rows(query_embeddings, self.dim)
        if self._opened is None or not len(queries):
            return [[] for _ in queries]
        return [
            [Hit(rank, scored.score, scored.row) for rank, scored in enumerate(found, start=1)]
            for found in self._opened.search(queries, top_k, where)
        ]

    def delete(self, where: Filter) -> int:
        """
        Remove images. In a folder their rows and embeddings are gone from every file when this returns, which rewrites
        the gallery; delete many at a time. (The file system may keep freed blocks for a while.) A server is asked to,
        see `milvus_store`.

        Returns:
            Number of removed images.

        Raises:
            GalleryError: the gallery cannot be written.
            ValueError: the filter has no condition, which would remove everything.
        """
        if where.is_empty:
            raise ValueError("a filter without a condition would delete every image: say which")
        if self._opened is None:
            return 0
        self._delete_crops(where)
        return self._opened.delete(where)

    def _delete_crops(self, where: Filter) -> None:
        """Remove saved crops; before their rows, so that a deletion that was interrupted can be done again."""
        if self.crops is None or not self.crops.is_dir():
            return
        for path in {row.path for row in self.rows(where) if row.path != row.source}:
            if Path(path).is_relative_to(self.crops):
                Path(path).unlink(missing_ok=True)

    def count(self, where: Filter | None = None) -> int:
        """Number of images."""
        return 0 if self._opened is None else self._opened.count(where)

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        """What is known of the images, in no particular order."""
        return iter(()) if self._opened is None else self._opened.rows(where)

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids of images and their embeddings, float32 (n, dim), a few thousand at a time, in no particular order."""
        return iter(()) if self._opened is None else self._opened.embeddings(where)

    def vector_index(self) -> VectorIndex:
        """How searches are answered now."""
        return VectorIndex("FLAT", 0) if self._opened is None else self._opened.vector_index()

    def build_index(self) -> VectorIndexReport:
        """
        Index the images for fast approximate search, if there are more than `EXACT_ROWS`, and measure how much of the
        exact result a search finds, without a filter and with several.

        Raises:
            GalleryError: the gallery is empty, or cannot be written.
        """
        if self._opened is None or self._opened.count() == 0:
            raise GalleryError(f"gallery {self} is empty: there is nothing to index")
        return self._opened.build_index()

    def compact(self) -> None:
        """Write the gallery anew without what was replaced or deleted."""
        if self._opened is not None:
            self._opened.compact()


def _store_type(location: str) -> "type[LanceStore] | type[MilvusStore]":
    # Imported when a gallery is made or opened, so that encoding and evaluation need neither package.
    scheme, separator, _ = location.partition("://")
    if not separator:
        try:
            from .lance_store import LanceStore
        except ImportError as error:
            raise _missing(error, "a gallery in a folder", "lancedb", "search") from error
        return LanceStore
    if scheme != "milvus":
        raise GalleryError(f"a gallery lies in a folder or at milvus://host:port/collection, not at {location}")
    try:
        from .milvus_store import MilvusStore
    except ImportError as error:
        raise _missing(error, "a gallery on a server", "pymilvus", "milvus") from error
    return MilvusStore


def _missing(error: ImportError, what: str, package: str, extra: str) -> GalleryError:
    return GalleryError(f"{what} needs {package} ({error}): pip install 'aga-model[{extra}]'")


def _unit_rows(embeddings: np.ndarray, dim: int) -> np.ndarray:
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise ValueError(f"embeddings must have the shape (n, {dim}), got {embeddings.shape}")
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE))  # NaN is bad, too
    if len(bad):
        raise ValueError(f"embeddings must have unit length, but row {bad[0]} has length {norms[bad[0]]:.4g}")
    return embeddings
