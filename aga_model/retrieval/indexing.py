"""Fill a gallery from image files: decode ahead in threads, encode in batches, save now and then."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aga_model.data.image_files import Skipped, UnreadableImageError, decode_image, read_bytes

from .encoder import PersonEncoder
from .gallery import Gallery, GalleryError, Row

SAVE_EVERY = 20_000  # images: an interrupted run loses no more than these
_MAX_WORKERS = 8


@dataclass
class IndexReport:
    """
    What `index_images` did.

    Args:
        added (`int`): images that were new to the gallery.
        replaced (`int`): images whose file had changed since they were indexed.
        unchanged (`int`): images that were in the gallery already, with the same content.
        skipped (`list[Skipped]`): files that could not be read, and why.
        seconds (`float`): time taken.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def encoded(self) -> int:
        """Images that went through the model."""
        return self.added + self.replaced

    @property
    def images_per_second(self) -> float:
        """Rate over all images that were looked at and could be read."""
        return (self.encoded + self.unchanged) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Prepared:
    row: Row
    pixel_values: torch.Tensor  # (1, 3, height, width)


@dataclass(frozen=True)
class _Unchanged:
    path: Path


_Outcome = _Prepared | _Unchanged | Skipped


def _untracked(outcomes: Iterable[Any], total: int) -> Iterable[Any]:
    return outcomes


def index_images(
    paths: Sequence[str | os.PathLike],
    encoder: PersonEncoder,
    gallery: Gallery,
    batch_size: int = 32,
    track: Callable[..., Iterable[Any]] = _untracked,
) -> IndexReport:
    """
    Encode image files into a gallery and save it. A file that the gallery holds with the same content is not encoded
    again; a changed file takes the place of its old row. Memory does not grow with the number of images beyond the
    embeddings and rows themselves.

    Args:
        paths: image files, for example from `find_images`; rows hold absolute paths.
        encoder: the model that the gallery was created with.
        gallery: a new or opened gallery.
        batch_size: images per forward pass.
        track: called as `track(outcomes, total=n)` and iterated instead of the outcomes; `tqdm` fits.

    Raises:
        GalleryError: the gallery belongs to another model, or none of the files could be read; then nothing is saved.
    """
    gallery.require_model(encoder.model_hash, encoder.name)
    started = time.perf_counter()
    known = {row["path"]: row.get("sha256") for row in gallery.rows}
    report = IndexReport()
    prepare = partial(_prepare, known=known, encoder=encoder)
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    outcomes = _in_threads(prepare, paths, workers, ahead=2 * batch_size + workers)
    unsaved = 0
    for batch in _batches(track(outcomes, total=len(paths)), batch_size, report):
        embeddings = encoder.encode_pixels(torch.cat([item.pixel_values for item in batch]))
        gallery.add(embeddings, [item.row for item in batch], model_hash=encoder.model_hash)
        replaced = sum(item.row["path"] in known for item in batch)
        report.replaced += replaced
        report.added += len(batch) - replaced
        unsaved += len(batch)
        if unsaved >= SAVE_EVERY:
            gallery.save()
            unsaved = 0
    if report.encoded + report.unchanged == 0:
        raise GalleryError(f"none of the {len(paths)} image files could be read{_first_reason(report.skipped)}")
    if unsaved:
        gallery.save()
    report.seconds = time.perf_counter() - started
    return report


def _prepare(path: str | os.PathLike, known: dict[str, Any], encoder: PersonEncoder) -> _Outcome:
    absolute = os.path.abspath(path)
    try:
        data = read_bytes(absolute)
        sha256 = hashlib.sha256(data).hexdigest()
        if known.get(absolute) == sha256:
            return _Unchanged(Path(absolute))
        image = decode_image(data, absolute)
    except UnreadableImageError as error:
        return Skipped(error.path, error.reason)
    row = {"path": absolute, "sha256": sha256, "width": image.width, "height": image.height}
    return _Prepared(row, encoder.preprocess([image]))


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
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            report.skipped.append(outcome)
        elif isinstance(outcome, _Unchanged):
            report.unchanged += 1
        else:
            batch.append(outcome)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _first_reason(skipped: Sequence[Skipped]) -> str:
    return f"; the first, {skipped[0].path}: {skipped[0].reason}" if skipped else ""
