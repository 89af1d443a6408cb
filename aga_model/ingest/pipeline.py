"""One way from sources to a gallery: what they find is encoded in batches and written now and then."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, fields, replace
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aga_model.gallery import Gallery, GalleryRow, crop_name, write_crop

from .encoding import ImageEncoder
from .held import Held
from .shards import Progress, Shards, no_progress
from .source import Found, IndexReport, Source

WRITE_EVERY = 512  # images: an interrupted run loses no more than these
_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Flush:
    """
    When images that are found are written to the gallery: with the group that makes either true.

    Args:
        images (`int`, *optional*): so many wait; `WRITE_EVERY` if None.
        seconds (`float`, *optional*): the first of those that wait has waited so long. Without a number finite sources
            are written by the number of images alone, others every 10 seconds.
    """

    images: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise ValueError(f"images of Flush is {self.images}: give a number from 1")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds of Flush is {self.seconds}: give a number above 0")


def index(
    sources: Sequence[Source],
    encoder: ImageEncoder,
    gallery: Gallery,
    flush: Flush | None = None,
    *,
    batch_size: int = 32,
    crops: Path | None = None,
    progress: Callable[[int | None], AbstractContextManager[Progress | None]] = no_progress,
    expected: int | None = None,
    shards: Shards | None = None,
) -> IndexReport:
    """
    Fill a gallery from sources. What is written stays if the process ends; when a source fails or is interrupted, what
    it has found is written before.

    Args:
        sources: finite ones are gone through in their order, then the others take turns until each has ended.
        encoder: the model that the gallery was created with.
        gallery: a new or opened gallery.
        flush: when images are written.
        batch_size: images per forward pass.
        crops: folder that crops are saved into; without one they are cut out again when they are shown, which only
            those of files can be.
        progress: called with `expected`; gives what is updated.
        expected: how many files or frames all processes will look at, if that is known.
        shards: the processes among which the sources are shared out, each called with its own. The report is that of
            all.

    Raises:
        GalleryError: the gallery belongs to another model.
        OSError: a crop cannot be saved.
        ShardError: another of several processes failed.
    """
    shards = shards or Shards()
    gallery.require_model(encoder.model_hash, encoder.name)
    report, began = IndexReport(), time.perf_counter()
    endless = any(not source.finite for source in sources)
    flush = flush or Flush()
    seconds = flush.seconds or (_WAIT_SECONDS if endless else float("inf"))
    writer = _Writer(encoder, gallery, batch_size, flush.images or WRITE_EVERY, seconds, crops, report)
    with (
        progress(expected) as bar,
        shards.shared(bar) as told,
        closing(_in_turns(sources, Held(gallery), report, told or _Untold())) as groups,
    ):
        writer.take_all(groups)
    report = _total(shards.gather(report))
    report.seconds = time.perf_counter() - began
    return report


class _Untold:
    """Progress that nobody looks at."""

    def update(self, n: int) -> None:
        pass


def _in_turns(
    sources: Sequence[Source], held: Held, report: IndexReport, progress: Progress
) -> Generator[list[Found]]:
    for source in sources:
        if source.finite:
            yield from source.found(held, report, progress)
    endless = [source.found(held, report, progress) for source in sources if not source.finite]
    while endless:
        for found in list(endless):
            group = next(found, None)
            if group is None:
                endless.remove(found)
            else:
                yield group


class _Writer:
    """Encodes what is found and writes it, no group in parts."""

    def __init__(
        self,
        encoder: ImageEncoder,
        gallery: Gallery,
        batch_size: int,
        images: int,
        seconds: float,
        crops: Path | None,
        report: IndexReport,
    ):
        self._encoder, self._gallery, self._report = encoder, gallery, report
        self._images, self._seconds, self._batch_size = images, seconds, min(batch_size, images)
        self._folder = crops
        self._waiting: list[tuple[Found, bool]] = []  # to be encoded, and whether their group ends with them
        self._ended = True  # whether a group ended with the last that was encoded
        self._rows: list[GalleryRow] = []  # to be written, with embeddings and the crops that are to be saved
        self._embeddings: list[np.ndarray] = []
        self._crops: list[Image.Image | None] = []
        self._since = 0.0

    def take_all(self, groups: Iterator[list[Found]]) -> None:
        """Write all groups, and those before an error as well."""
        while True:
            try:
                group = next(groups, None)
            except BaseException:
                self._write_all()
                raise
            if group is None:
                break
            self._take(group)
        self._write_all()

    def _take(self, group: list[Found]) -> None:
        if not self._rows and not self._waiting:
            self._since = time.monotonic()
        self._waiting += [(found, number == len(group)) for number, found in enumerate(group, 1)]
        while len(self._waiting) >= self._batch_size:
            self._encode()
        if (self._waiting or self._rows) and time.monotonic() - self._since >= self._seconds:
            self._write_all()
        elif len(self._rows) >= self._images:
            while not self._ended:  # no group in parts
                self._encode()
            self._write()

    def _encode(self) -> None:
        """A batch of those that wait: preprocessed ones or others, whichever comes first."""
        is_prepared = self._waiting[0][0].pixel_values is not None
        same = takewhile(lambda found: (found[0].pixel_values is not None) == is_prepared, self._waiting)
        batch, ends = zip(*islice(same, self._batch_size))
        del self._waiting[: len(batch)]
        if is_prepared:
            self._embeddings.append(self._encoder.encode_pixels(torch.cat([found.pixel_values for found in batch])))
        else:
            self._embeddings.append(self._encoder.encode_images([found.image for found in batch], self._batch_size))
        self._ended = ends[-1]
        self._rows += [replace(found.row, model_hash=self._encoder.model_hash) for found in batch]
        self._crops += [found.image if self._is_saved(found.row) else None for found in batch]
        replaced = sum(found.replaces for found in batch)
        self._report.replaced += replaced
        self._report.added += len(batch) - replaced

    def _is_saved(self, row: GalleryRow) -> bool:
        return self._folder is not None and not row.path and row.box is not None

    def _write_all(self) -> None:
        while self._waiting:
            self._encode()
        if self._rows:
            self._write()

    def _write(self) -> None:
        embeddings, rows, crops = np.concatenate(self._embeddings), self._rows, self._crops
        self._embeddings, self._rows, self._crops, self._since = [], [], [], time.monotonic()
        if not any(map(self._is_saved, rows)):
            self._gallery.add(embeddings, rows)
        elif self._gallery.crops and os.path.realpath(str(self._folder)) == os.path.realpath(self._gallery.crops):
            self._gallery.add(embeddings, rows, crops)
        else:
            self._gallery.add(embeddings, [self._saved(*pair) for pair in zip(rows, crops)])

    def _saved(self, row: GalleryRow, crop: Image.Image | None) -> GalleryRow:
        """A row with the path of its crop, which is saved into the folder."""
        if crop is None or self._folder is None or row.box is None:  # none is to be saved
            return row
        path = self._folder / crop_name(row.source_hash, row.frame, row.box)
        write_crop(crop, path)
        return replace(row, path=str(path.absolute()))


def _total(reports: Sequence[IndexReport]) -> IndexReport:
    """What several processes did; of none the time."""
    total = IndexReport()
    for report in reports:
        for name in (each.name for each in fields(IndexReport) if each.name != "seconds"):
            setattr(total, name, getattr(total, name) + getattr(report, name))
    return total


__all__ = ["WRITE_EVERY", "Flush", "index"]
