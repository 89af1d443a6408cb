"""Fill a gallery from image files, each of which shows one person: they are decoded ahead in threads."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aga_model.files import Skipped, UnreadableImageError, decode_image, read_bytes
from aga_model.gallery import Gallery, GalleryError, GalleryRow

from .encoding import ImageEncoder
from .facts import FactsOf, no_facts, updated_facts
from .held import Held, HeldFiles
from .pipeline import index
from .shards import Progress, Shards, no_progress, own_share
from .source import Found, IndexReport

_MAX_WORKERS = 8
_AHEAD = 64  # files that are decoded before they are asked for


@dataclass(frozen=True)
class _Unchanged:
    path: Path


@dataclass(frozen=True)
class _Copy:
    path: Path


_Outcome = Found | _Unchanged | _Copy | Skipped


class ImageFiles:
    """
    Image files as a [`Source`]: each is one person image. A file that the gallery holds with the same content and
    facts is not given again, nor is a copy of another file.

    Args:
        paths: image files, for example from `find_images`; rows hold absolute paths.
        facts_of: camera, person and time of a file from its absolute path; what it leaves open stays as it is. Called
            from several threads.
        preprocess: see [`ImageEncoder`]; with it images are preprocessed in the threads that decode them.
        ahead: files that are decoded before they are asked for.
    """

    finite = True

    def __init__(
        self,
        paths: Iterable[str | os.PathLike],
        facts_of: FactsOf = no_facts,
        preprocess: Callable[[Sequence[Image.Image]], Any] | None = None,
        ahead: int = _AHEAD,
    ):
        self._paths, self._facts_of, self._preprocess, self._ahead = paths, facts_of, preprocess, ahead

    def found(self, held: Held, report: IndexReport, progress: Progress) -> Iterator[list[Found]]:
        """See [`Source`]; each group is one image."""
        files = held.files()
        workers = min(_MAX_WORKERS, os.cpu_count() or 1)
        ids: set[str] = set()
        for outcome in _in_threads(lambda path: self._read(path, files), self._paths, workers, self._ahead + workers):
            progress.update(1)
            if isinstance(outcome, Skipped):
                report.skipped.append(outcome)
            elif isinstance(outcome, _Unchanged):
                report.unchanged += 1
            elif isinstance(outcome, _Copy) or outcome.row.id in ids:
                report.copies += 1
            else:
                ids.add(outcome.row.id)
                yield [outcome]

    def _read(self, path: str | os.PathLike, files: HeldFiles) -> _Outcome:
        source = os.path.abspath(path)
        try:
            data = read_bytes(source)
            sha256 = hashlib.sha256(data).hexdigest()
            before, now = files.facts(source, sha256), self._facts_of(source)
            facts = now if before is None else updated_facts(before, now)
            if facts == before:
                return _Unchanged(Path(source))
            if files.is_copy(source, sha256):
                return _Copy(Path(source))
            image = decode_image(data, source)
        except UnreadableImageError as error:
            return Skipped(error.path, error.reason)
        row = GalleryRow(source, sha256, source, image.width, image.height, **vars(facts))
        replaces = files.holds(source)
        if self._preprocess is None:
            return Found(row, image, replaces=replaces)
        return Found(row, pixel_values=self._preprocess([image]), replaces=replaces)


def index_images(
    paths: Sequence[str | os.PathLike],
    encoder: ImageEncoder,
    gallery: Gallery,
    batch_size: int = 32,
    progress: Callable[[int | None], AbstractContextManager[Progress | None]] = no_progress,
    facts_of: FactsOf = no_facts,
    shards: Shards | None = None,
) -> IndexReport:
    """
    Encode image files into a gallery. A file that the gallery holds with the same content and facts is not encoded
    again; a changed file takes the place of its old row. Images are written 512 at a time, and what is
    written stays if the process ends. Memory does not grow with the number of images beyond their paths and hashes.

    Args:
        paths: image files, for example from `find_images`; rows hold absolute paths.
        encoder: the model that the gallery was created with.
        gallery: a new or opened gallery.
        batch_size: images per forward pass.
        progress: called with the number of files; gives what is updated.
        facts_of: camera, person and time of a file from its absolute path; what it leaves open stays as it is. Called
            from several threads.
        shards: the processes that share the files out, each called with all of them. The report is that of all.

    Raises:
        GalleryError: the gallery belongs to another model, or none of the files could be read; nothing is written
            then.
        ShardError: the same among several processes, or one of them ended.
    """
    shards = shards or Shards()
    source = ImageFiles(own_share(paths, shards), facts_of, encoder.preprocess, 2 * batch_size)
    report = index(
        [source], encoder, gallery, batch_size=batch_size, progress=progress, expected=len(paths), shards=shards
    )
    with shards.together():
        if report.read == 0:
            raise GalleryError(f"none of the {len(paths)} image files could be read{_first_reason(report.skipped)}")
    return report


def _in_threads(
    function: Callable[[Any], _Outcome], items: Iterable[Any], workers: int, ahead: int
) -> Iterator[_Outcome]:
    """Apply a function in threads, in order, never more than `ahead` results before the one that is asked for."""
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[_Outcome]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _first_reason(skipped: Sequence[Skipped]) -> str:
    return f"; the first, {skipped[0].path}: {skipped[0].reason}" if skipped else ""


__all__ = ["ImageFiles", "index_images"]
