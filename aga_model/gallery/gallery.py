"""
A gallery of person images: embeddings and what is known of each image, ranked by cosine similarity.

It lies in a folder (LanceDB, see `lance_store`) or on a server (Milvus, see `milvus_store`); both do the same.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .crops import CROPS, crop_name, is_crop_name
from .rows import Filter, GalleryError, GalleryRow, check_row
from .store import GallerySettings, GalleryStore, Manifest, VectorIndex, VectorIndexReport
from .stores import EmptyStore, store_type

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
        hide_faces (`bool`): whether faces are hidden where the image is shown or saved, see [`shown_image`].
    """

    rank: int
    score: float
    row: GalleryRow
    itm_score: float | None = None
    hide_faces: bool = False

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
        store: GalleryStore | EmptyStore,
        first: Callable[[], AbstractContextManager[bool]] = _alone,
    ):
        self.location = location
        self._manifest = manifest
        self._store = store
        self._first = first
        self.expired = 0  # images that this object erased because they were older than the gallery keeps them
        # Called with filter, number of images and `delete` or `purge` before images are removed; stops it by an error.
        self.before_removal: Callable[[Filter, int, str], None] | None = None

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
        then, and its settings go on to hold.

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
        store_type(location).check_place(location, overwrite)
        manifest = Manifest(model_name, model_hash, dim)
        return cls(location, manifest, EmptyStore(manifest), first)

    @classmethod
    def open(cls, location: str | os.PathLike) -> "Gallery":
        """
        Open a gallery.

        Raises:
            GalleryError: there is none, it cannot be read, or an earlier version of this package made it; the message
                names the file and says what to do.
        """
        location = os.fspath(location)
        store = store_type(location).open(location)
        return cls(location, store.manifest, store)

    @staticmethod
    def exists(location: str | os.PathLike) -> bool:
        """Whether there is a gallery, readable or not."""
        return store_type(os.fspath(location)).exists(os.fspath(location))

    @property
    def is_made(self) -> bool:
        """Whether it is on disk: one that was created is not before the first `add`."""
        return not isinstance(self._store, EmptyStore)

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

    @property
    def settings(self) -> GallerySettings:
        """What was laid down for everyone who uses the gallery, as it stands now."""
        return self._store.settings

    def change_settings(self, settings: GallerySettings) -> None:
        """
        Lay down other settings. A shorter time for which images are kept holds at once: older ones are erased.

        Raises:
            GalleryError: the gallery is empty, or cannot be written.
        """
        if isinstance(self._store, EmptyStore):
            raise GalleryError(f"gallery {self} is empty: add images before you change its settings")
        self._store.change_settings(settings)
        self.purge()

    @property
    def unfinished(self) -> str:
        """What is left to do of a deletion that was interrupted, in a sentence; empty if there is nothing."""
        return self._store.unfinished

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

    def add(
        self, embeddings: np.ndarray, rows: Sequence[GalleryRow], crops: Sequence[Image.Image | None] | None = None
    ) -> None:
        """
        Add images. A row takes the place of the row with its id, that is with the same content, frame and box, and of
        all rows of the same source file with another content. Of the same content twice in `rows` the last counts.
        Images that are older than the gallery keeps them are erased, also among these ([`Gallery.expired`]).

        Args:
            embeddings: float32 (n, dim), unit rows.
            rows: what is known of each image.
            crops: RGB images, None for rows that need none. They are saved within a gallery's folder, and deleted with
                their rows, whose `path` they become; a server keeps no images, and does not save them.

        Raises:
            GalleryError: another model's embeddings, or the gallery cannot be written.
            ValueError: wrong shapes, embeddings that are not finite or not of unit length, or a row that lacks
                something; nothing is added then.
        """
        embeddings = _unit_rows(embeddings, self.dim)
        if len(rows) != len(embeddings):
            raise ValueError(f"{len(embeddings)} embeddings but {len(rows)} rows")
        if crops is not None and len(crops) != len(rows):
            raise ValueError(f"{len(crops)} crops but {len(rows)} rows")
        for row, crop in zip(rows, crops or [None] * len(rows)):
            check_row(row)
            self.require_model(row.model_hash, "the model of these embeddings")
            if crop is not None:
                _check_crop(row)
        if isinstance(self._store, EmptyStore):
            store = store_type(self.location)
            with self._first() as first:
                self._store = store.create(self.location, self._manifest) if first else store.open(self.location)
        self._store.add(embeddings, rows, crops)
        self.purge()

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
        if not len(queries):
            return []
        hide_faces = self.settings.hide_faces
        return [
            [Hit(rank, scored.score, scored.row, hide_faces=hide_faces) for rank, scored in enumerate(found, start=1)]
            for found in self._store.search(queries, top_k, _fresh(where, self.settings))
        ]

    def delete(self, where: Filter) -> int:
        """
        Remove images. In a folder their rows, embeddings and saved crops are gone from every file when this returns,
        and so is what earlier additions replaced, which rewrites the gallery; delete many at a time. (The file system
        may keep freed blocks for a while.) The list of files that could not be read loses all that may tell of them.
        What was begun is finished: a process that is killed, or a full disk, leaves it to the next that opens the
        gallery or writes to it, and no search finds what it removes meanwhile. A server is asked to, see
        `milvus_store`.

        Returns:
            Number of removed images.

        Raises:
            GalleryError: the gallery cannot be written.
            ValueError: the filter has no condition, which would remove everything.
        """
        if where.is_empty:
            raise ValueError("a filter without a condition would delete every image: say which")
        self._tell(where, "delete")
        removed = self._store.delete(where)
        self.purge()
        return removed

    def _tell(self, where: Filter, action: str) -> None:
        if self.before_removal is not None and self.is_made:
            self.before_removal(where, self._store.count(where), action)

    def purge(self) -> int:
        """
        Erase the images that are older than the gallery keeps them ([`GallerySettings`]). Searches leave them out in
        any case, and every addition and deletion does this, too.

        Returns:
            Number of erased images.

        Raises:
            GalleryError: the gallery cannot be written.
        """
        stale = _stale(self.settings)
        if stale is None or not self._store.count(stale):
            return 0
        self._tell(stale, "purge")
        expired = self._store.delete(stale)
        self.expired += expired
        return expired

    def count(self, where: Filter | None = None) -> int:
        """Number of images."""
        return self._store.count(_fresh(where, self.settings))

    def holds(self, row: GalleryRow) -> bool:
        """Whether a row that a search has found is still there."""
        return self.count(Filter(ids=[row.id])) > 0

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        """What is known of the images, in no particular order."""
        return self._store.rows(_fresh(where, self.settings))

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids of images and their embeddings, float32 (n, dim), a few thousand at a time, in no particular order."""
        return self._store.embeddings(_fresh(where, self.settings))

    def vector_index(self) -> VectorIndex:
        """How searches are answered now."""
        return self._store.vector_index()

    def build_index(self) -> VectorIndexReport:
        """
        Index the images for fast approximate search, if there are more than `EXACT_ROWS`, and measure how much of the
        exact result a search finds, without a filter and with several.

        Raises:
            GalleryError: the gallery is empty, or cannot be written.
        """
        if self._store.count() == 0:
            raise GalleryError(f"gallery {self} is empty: there is nothing to index")
        self.purge()
        return self._store.build_index()

    def compact(self) -> None:
        """Write the gallery anew without what was replaced or deleted."""
        self.purge()
        self._store.compact()


def _stale(settings: GallerySettings) -> Filter | None:
    """The images that are older than a gallery keeps them; None where it keeps them for ever."""
    keep = settings.keep_seconds
    return None if keep is None else Filter(stale_before=time.time() - keep)


def _fresh(where: Filter | None, settings: GallerySettings) -> Filter | None:
    """The filter without images that are older than a gallery keeps them."""
    keep = settings.keep_seconds
    if keep is None:
        return where
    kept_since = time.time() - keep
    if where is not None and where.fresh_since is not None:
        kept_since = max(kept_since, where.ages()[0] or 0.0)
    return replace(where or Filter(), fresh_since=kept_since)


def _check_crop(row: GalleryRow) -> None:
    """Raise ValueError unless the crop of a row has a name that it can be saved under."""
    whole = row.box is not None and all(side == int(side) >= 0 for side in row.box)
    if not whole or not is_crop_name(crop_name(row.source_hash, row.frame, row.box or ())):
        raise ValueError(
            f"the crop of {row.source!r} cannot be saved: its row needs a box of whole pixels and the SHA-256 of its "
            f"source in hexadecimal, got {row.box} and {row.source_hash!r}"
        )


def _unit_rows(embeddings: np.ndarray, dim: int) -> np.ndarray:
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise ValueError(f"embeddings must have the shape (n, {dim}), got {embeddings.shape}")
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE))  # NaN is bad, too
    if len(bad):
        raise ValueError(f"embeddings must have unit length, but row {bad[0]} has length {norms[bad[0]]:.4g}")
    return embeddings
