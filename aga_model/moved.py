"""
Old import paths. Each keeps working for one version, with a DeprecationWarning that names the new path;
docs/migration.md lists them.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]
# Old module -> the modules that hold its names now. One without any was a package of modules.
MOVED: dict[str, tuple[str, ...]] = {
    "cli.check_data": ("cli.datasets.check_data",),
    "cli.render": ("cli.datasets.render",),
    "cli.wrong_pairs": ("cli.datasets.wrong_pairs",),
    "cli.demo": ("cli.galleries.demo",),
    "cli.gallery": ("cli.galleries.gallery",),
    "cli.index": ("cli.galleries.index",),
    "cli.search": ("cli.galleries.search", "cli.galleries.commands", "cli.opening"),
    "cli.convert": ("cli.models.convert",),
    "cli.evaluate": ("cli.models.evaluate", "cli.models.commands"),
    "cli.export": ("cli.models.export",),
    "cli.push": ("cli.models.push",),
    "cli.report": ("cli.models.report",),
    "cli.splits": ("cli.opening",),
    "cli.trust": ("cli.options",),
    "data.check": ("data.checking.check",),
    "data.examination": ("data.checking.examination",),
    "data.files": ("files.whole_files",),
    "data.image_files": ("files.image_files",),
    "data.problems": ("data.checking.problems",),
    "data.rendered.street_captions": ("data.rendered.street.captions",),
    "data.rendered.street_drawing": ("data.rendered.street.drawing",),
    "data.rendered.street_people": ("data.rendered.street.people",),
    "data.rendered.street_scene": ("data.rendered.street.scene",),
    "data.rendered.street_words": ("data.rendered.street.words",),
    "evaluation.attention_picture": ("evaluation.diagnostics.attention_picture",),
    "evaluation.language_diagnostics": ("evaluation.diagnostics.language",),
    "evaluation.probing": ("evaluation.diagnostics.probing",),
    "retrieval": ("gallery", "ingest", "search", "files", "errors"),
    "retrieval.audit": ("gallery.audit",),
    "retrieval.crops": ("gallery.crops",),
    "retrieval.demo": (),
    "retrieval.demo.connections": ("service.connections",),
    "retrieval.demo.guard": ("service.guard",),
    "retrieval.demo.logs": ("service.logs",),
    "retrieval.demo.markup": ("service.demo.markup",),
    "retrieval.demo.page": ("service.demo.page",),
    "retrieval.demo.page_rules": ("service.demo.page_rules",),
    "retrieval.demo.server": ("service.demo.server",),
    "retrieval.demo.service": ("service.searching",),
    "retrieval.demo.turns": ("service.demo.turns",),
    "retrieval.detection": ("ingest.detection",),
    "retrieval.encoder": ("search.encoder", "search.sentences", "loading"),
    "retrieval.explanation": ("search.explanation",),
    "retrieval.explanation_picture": ("search.explanation_picture",),
    "retrieval.faces": ("files.faces",),
    "retrieval.facts": ("ingest.facts",),
    "retrieval.gallery": ("gallery.gallery",),
    "retrieval.hit_images": ("gallery.hit_images",),
    "retrieval.indexing": ("ingest.image_files", "ingest.source", "ingest.pipeline", "ingest.facts"),
    "retrieval.ingestion": ("ingest.people", "gallery.hit_images", "files.video"),
    "retrieval.lance_search": ("gallery.lance.nearest",),
    "retrieval.lance_store": ("gallery.lance.store", "gallery.lance.files"),
    "retrieval.locations": ("gallery.locations",),
    "retrieval.milvus_store": ("gallery.milvus.store",),
    "retrieval.picture": ("search.picture",),
    "retrieval.recording": ("gallery.recording",),
    "retrieval.reranking": ("search.reranking",),
    "retrieval.results": ("search.results",),
    "retrieval.scenes": ("ingest.scenes", "ingest.source"),
    "retrieval.searching": ("search.answering",),
    "retrieval.shards": ("ingest.shards",),
    "retrieval.store": ("gallery.rows", "gallery.store", "gallery.exact"),
    "retrieval.times": ("gallery.times",),
    "retrieval.tracking": ("ingest.tracking",),
    "retrieval.video": ("files.video",),
    "training.card": ("training.release.card",),
    "training.processes": ("training.parallel.processes",),
    "training.sharding": ("training.parallel.sharding",),
    "training.hub": ("training.release.hub",),
}

# Old module and name -> the name now.
RENAMED = {
    ("retrieval", "Ranking"): "SearchOptions",
    ("retrieval.searching", "Ranking"): "SearchOptions",
    ("retrieval.demo.service", "DemoError"): "SearchError",
    ("retrieval.demo.service", "DemoSearch"): "GallerySearch",
    ("retrieval.scenes", "SceneReport"): "IndexReport",
    ("retrieval", "SceneReport"): "IndexReport",
    ("retrieval.reranking", "MEMORY_MIB"): "RERANK_MEMORY_MIB",
}


class _OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules that there are no longer; stands behind the finders of real modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != _PACKAGE or name not in MOVED:
            return None
        holds_modules = any(other.startswith(f"{name}.") for other in MOVED)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=holds_modules)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


class _OldModule(ModuleType):
    """A module whose names are looked up where they are now."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            old = self.__name__.partition(".")[2]
            now = RENAMED.get((old, name), name)
            for new in MOVED[old]:
                module = importlib.import_module(f"{_PACKAGE}.{new}")
                if hasattr(module, now):
                    warnings.warn(
                        f"{self.__name__} has moved: import {now} from {module.__name__}; the old path will be gone "
                        "in the next version",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    return getattr(module, now)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)


def keep_old_paths() -> None:
    """Let imports find the old paths."""
    sys.meta_path.append(_OldPaths())


__all__ = ["MOVED", "keep_old_paths"]
