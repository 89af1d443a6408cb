"""Fill a gallery from image files: decode ahead in threads, encode in batches, write now and then."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aga_model.files import Skipped, UnreadableImageError, decode_image, read_bytes
from aga_model.gallery import Gallery, GalleryError, GalleryRow

from .encoding import ImageEncoder
from .facts import FactsOf, ImageFacts, no_facts
from .shards import Progress, Shards, no_progress, own_share

WRITE_EVERY = 512  # images: an interrupted run loses no more than these
_MAX_WORKERS = 8


@dataclass
class IndexReport:
    """
    What `index_images` did.

    Args:
        added (`int`): images that were new to the gallery.
        replaced (`int`): images whose file, camera, person or time had changed since they were indexed.
        unchanged (`int`): images that were in the gallery already, with the same content.
        copies (`int`): files with the content of another file, which share its row.
        skipped (`list[Skipped]`): files that could not be read, and why.
        seconds (`float`): time taken.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    copies: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def encoded(self) -> int:
        """Images that went through the model."""
        return self.added + self.replaced

    @property
    def read(self) -> int:
        """Images that could be read."""
        return self.encoded + self.unchanged + self.copies

    @property
    def images_per_second(self) -> float:
        """Rate over all images that were looked at and could be read."""
        return self.read / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Prepared:
    row: GalleryRow
    pixel_values: torch.Tensor  # (1, 3, height, width)


@dataclass(frozen=True)
class _Unchanged:
    path: Path


@dataclass(frozen=True)
class _Copy:
    path: Path


_Outcome = _Prepared | _Unchanged | _Copy | Skipped


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
    again; a changed file takes the place of its old row. Images are written `WRITE_EVERY` at a time, and what is
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
    gallery.require_model(encoder.model_hash, encoder.name)
    started = time.perf_counter()
    known = _Known(gallery)
    report = IndexReport()

    def prepare(path: str | os.PathLike) -> _Outcome:
        return _prepare(path, known, encoder, facts_of)

    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    own = own_share(paths, shards)
    embeddings: list[np.ndarray] = []
    rows: list[GalleryRow] = []
    with progress(len(paths)) as bar, shards.shared("images", bar) as told:
        outcomes = _counted(_in_threads(prepare, own, workers, ahead=2 * batch_size + workers), told)
        for batch in _batches(outcomes, batch_size, report):
            embeddings.append(encoder.encode_pixels(torch.cat([item.pixel_values for item in batch])))
            rows += [item.row for item in batch]
            replaced = sum(known.holds(item.row.source) for item in batch)
            report.replaced += replaced
            report.added += len(batch) - replaced
            if len(rows) >= WRITE_EVERY:
                gallery.add(np.concatenate(embeddings), rows)
                embeddings, rows = [], []
        if rows:
            gallery.add(np.concatenate(embeddings), rows)
    report = _total(shards.gather(report))
    with shards.together():
        if report.read == 0:
            raise GalleryError(f"none of the {len(paths)} image files could be read{_first_reason(report.skipped)}")
    report.seconds = time.perf_counter() - started
    return report


def _total(reports: Sequence[IndexReport]) -> IndexReport:
    """What several processes did."""
    return IndexReport(
        sum(report.added for report in reports),
        sum(report.replaced for report in reports),
        sum(report.unchanged for report in reports),
        sum(report.copies for report in reports),
        [item for report in reports for item in report.skipped],
    )


def _counted(outcomes: Iterable[_Outcome], progress: Progress | None) -> Iterator[_Outcome]:
    for outcome in outcomes:
        if progress is not None:
            progress.update(1)
        yield outcome


class _Known:
    """What the gallery holds of whole image files."""

    def __init__(self, gallery: Gallery):
        self._files: dict[str, tuple[str, ImageFacts]] = {}
        self._sources: dict[str, str] = {}  # of contents
        for row in gallery.rows():
            if row.frame is None and row.box is None:
                self._files[row.source] = row.source_hash, ImageFacts(row.camera, row.person_id, row.time)
                self._sources[row.source_hash] = row.source

    def holds(self, source: str) -> bool:
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


def _prepare(path: str | os.PathLike, known: _Known, encoder: ImageEncoder, facts_of: FactsOf) -> _Outcome:
    source = os.path.abspath(path)
    try:
        data = read_bytes(source)
        sha256 = hashlib.sha256(data).hexdigest()
        before, now = known.facts(source, sha256), facts_of(source)
        facts = now if before is None else updated_facts(before, now)
        if facts == before:
            return _Unchanged(Path(source))
        if known.is_copy(source, sha256):
            return _Copy(Path(source))
        image = decode_image(data, source)
    except UnreadableImageError as error:
        return Skipped(error.path, error.reason)
    row = GalleryRow(
        source=source,
        source_hash=sha256,
        path=source,
        width=image.width,
        height=image.height,
        model_hash=encoder.model_hash,
        camera=facts.camera,
        person_id=facts.person_id,
        time=facts.time,
    )
    return _Prepared(row, encoder.preprocess([image]))


def updated_facts(before: ImageFacts, now: ImageFacts) -> ImageFacts:
    """`now`, and `before` where it says nothing."""
    return ImageFacts(
        before.camera if now.camera is None else now.camera,
        before.person_id if now.person_id is None else now.person_id,
        before.time if now.time is None else now.time,
    )


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


def _batches(outcomes: Iterable[_Outcome], batch_size: int, report: IndexReport) -> Iterator[list[_Prepared]]:
    """Batches of prepared images; what needs no encoding goes into the report."""
    batch: list[_Prepared] = []
    ids: set[str] = set()
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            report.skipped.append(outcome)
        elif isinstance(outcome, _Unchanged):
            report.unchanged += 1
        elif isinstance(outcome, _Copy) or outcome.row.id in ids:
            report.copies += 1
        else:
            ids.add(outcome.row.id)
            batch.append(outcome)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _first_reason(skipped: Sequence[Skipped]) -> str:
    return f"; the first, {skipped[0].path}: {skipped[0].reason}" if skipped else ""
