"""Which store keeps a gallery, by its location, and the one of a gallery before its first image."""

import importlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .locations import is_mistyped, redacted
from .rows import Filter, GalleryError, GalleryRow
from .store import GallerySettings, Manifest, ScoredRow, StoreClass, VectorIndex, VectorIndexReport


class StoreKind(NamedTuple):
    """
    A store and what it needs.

    Attributes:
        module, name: where its class is.
        what: what a message calls its galleries.
        form: what their locations look like.
        package, extra: what it needs, and the extra of this package that brings it.
    """

    module: str
    name: str
    what: str
    form: str
    package: str
    extra: str


# Scheme of a location, empty for a folder -> its store; a further one is one more row. Its module is imported when a
# gallery is made or opened, so that encoding and evaluation need no store's package.
STORES = {
    "": StoreKind(
        "aga_model.gallery.lance.store", "LanceStore", "a gallery in a folder", "a folder", "lancedb", "search"
    ),
    "milvus": StoreKind(
        "aga_model.gallery.milvus.store",
        "MilvusStore",
        "a gallery on a server",
        "milvus://host:port/collection",
        "pymilvus",
        "milvus",
    ),
}


def store_type(location: str) -> StoreClass:
    """
    The class of a location's store.

    Raises:
        GalleryError: there is no such kind of location, or the package of its store is not installed.
    """
    scheme, separator, _ = location.partition("://")
    if is_mistyped(location):
        raise GalleryError(
            f"{redacted(location)} looks like a gallery on a server, which is milvus://[user:password@]host:port/"
            "collection; write ./ before the name of a folder"
        )
    kind = STORES.get(scheme if separator else "")
    if kind is None:
        forms = " or at ".join(each.form for scheme, each in STORES.items() if scheme)
        raise GalleryError(f"a gallery lies in a folder or at {forms}, not at {redacted(location)}")
    try:
        return getattr(importlib.import_module(kind.module), kind.name)
    except ImportError as error:
        raise GalleryError(
            f"{kind.what} needs {kind.package} ({error}): pip install 'aga-model[{kind.extra}]'"
        ) from error


class EmptyStore:
    """
    Holds nothing and finds nothing; the first addition puts a real store in its place. It has all of [`GalleryStore`]
    but what would put something into it.

    Args:
        manifest: of the gallery that is to be made.
    """

    settings = GallerySettings()
    unfinished = ""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        return [[] for _ in queries]

    def delete(self, where: Filter) -> int:
        return 0

    def count(self, where: Filter | None = None) -> int:
        return 0

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        return iter(())

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        return iter(())

    def vector_index(self) -> VectorIndex:
        return VectorIndex("FLAT", 0)

    def build_index(self) -> VectorIndexReport:
        return VectorIndexReport("FLAT", 0, 0.0, 1.0, 0)

    def compact(self) -> None:
        """There is nothing to merge."""


__all__ = ["STORES", "EmptyStore", "StoreKind", "store_type"]
