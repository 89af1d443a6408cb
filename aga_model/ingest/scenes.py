"""Fill a gallery from videos and photographs of whole scenes: detect people, cut them out, encode, write."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from aga_model.files import (
    EVERY,
    Skipped,
    UnreadableImageError,
    UnreadableVideoError,
    expected_frames,
    hash_video,
    is_video,
)
from aga_model.gallery import Filter, Gallery, GalleryRow

from .detection import Detection, PersonDetector
from .encoding import ImageEncoder
from .facts import FactsOf, ImageFacts, no_facts
from .indexing import WRITE_EVERY, updated_facts
from .people import MARGIN, MIN_HEIGHT, PersonCrop, crops_of_image, crops_of_video, save_crop
from .shards import Progress, Shards, no_progress, own_share
from .tracking import TrackedBox


@dataclass(frozen=True)
class SceneSettings:
    """
    How people are taken out of scenes.

    Args:
        every (`float`): seconds between the frames of a video that are looked at.
        margin (`float`): what is added to a detected box on each side, in parts of its width and height.
        min_height (`int`): pixels; lower people are left out.
        crops (`Path`, *optional*): folder that the crops are saved into; without one they are cut out again when they
            are shown.
        started (`float`, *optional*): when each video began, in seconds since 1970-01-01 UTC.
    """

    every: float = EVERY
    margin: float = MARGIN
    min_height: int = MIN_HEIGHT
    crops: Path | None = None
    started: float | None = None


@dataclass
class SceneReport:
    """
    What `index_scenes` did.

    Args:
        people (`int`): crops that were new to the gallery.
        frames (`int`): frames and photographs that were searched for people.
        unchanged (`int`): photographs that were in the gallery with the same content.
        copies (`int`): files with the content of another file, which share its rows.
        updated (`int`): rows that were in the gallery and got new facts: camera, person, time, or the file's new name.
        skipped (`list[Skipped]`): files that could not be read, and why.
        seconds (`float`): time taken.
    """

    people: int = 0
    frames: int = 0
    unchanged: int = 0
    copies: int = 0
    updated: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0


class _CountingDetector:
    """A detector that tells how many frames it has seen."""

    def __init__(self, detector: PersonDetector, seen: Callable[[int], None]):
        self._detector = detector
        self._seen = seen

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        found = self._detector.detect(images)
        self._seen(len(images))
        return found


def index_scenes(
    paths: Sequence[str | os.PathLike],
    detector: PersonDetector,
    encoder: ImageEncoder,
    gallery: Gallery,
    settings: SceneSettings | None = None,
    batch_size: int = 32,
    progress: Callable[[int | None], AbstractContextManager[Progress | None]] = no_progress,
    facts_of: FactsOf = no_facts,
    shards: Shards | None = None,
) -> SceneReport:
    """
    Detect people in videos and photographs and put their crops into a gallery.

    Crops are written `WRITE_EVERY` at a time, and what is written stays if the process ends. A video of which the
    gallery holds crops goes on at the last of their frames, with the tracks that are there, so that a finished one
    costs its decoding and the frames from its last person on. What is held is neither encoded nor saved again:
    settings count for what is new, and new facts are written to the rows. A file whose content has changed loses its
    old rows first; one that was renamed takes its rows with it.

    Args:
        paths: video files and photographs.
        detector: what finds people.
        encoder: the model that the gallery was created with.
        gallery: a new or opened gallery.
        settings: see there.
        batch_size: crops per forward pass.
        progress: called with the expected number of frames, None where a video does not tell; gives what is updated.
        facts_of: camera and person of a file from its absolute path; the time of a photograph.
        shards: the processes that share the files out, each called with all of them: a video is one process's. The
            report is that of all.

    Raises:
        GalleryError: the gallery belongs to another model.
        OSError: a crop cannot be saved.
        ShardError: another of several processes failed.
    """
    shards = shards or Shards()
    settings = settings or SceneSettings()
    gallery.require_model(encoder.model_hash, encoder.name)
    report, began = SceneReport(), time.perf_counter()
    own = own_share(paths, shards)
    expected = _expected(paths, settings.every) if shards.is_main else None
    with progress(expected) as bar, shards.shared("frames", bar) as told:

        def seen(frames: int) -> None:
            report.frames += frames
            if told is not None:
                told.update(frames)

        counting = _CountingDetector(detector, seen)
        held = _Held(gallery)
        groups = (group for path in own for group in _people(path, counting, held, settings, facts_of, report))
        for batch in _batches(groups):
            embeddings = encoder.encode_images([crop.image for crop in batch], batch_size)
            rows = [_row(crop, encoder.model_hash, settings, facts_of) for crop in batch]
            if _is_of_gallery(settings.crops, gallery):
                gallery.add(embeddings, rows, [crop.image for crop in batch])
            else:
                gallery.add(embeddings, _saved(rows, batch, settings.crops))
            report.people += len(rows)
    report = _total(shards.gather(report))
    report.seconds = time.perf_counter() - began
    return report


def _total(reports: Sequence[SceneReport]) -> SceneReport:
    """What several processes did."""
    return SceneReport(
        sum(report.people for report in reports),
        sum(report.frames for report in reports),
        sum(report.unchanged for report in reports),
        sum(report.copies for report in reports),
        sum(report.updated for report in reports),
        [item for report in reports for item in report.skipped],
    )


def _expected(paths: Iterable[str | os.PathLike], every: float) -> int | None:
    """Frames that will be searched; None where a video does not tell."""
    total = 0
    for path in paths:
        try:
            frames = expected_frames(path, every) if is_video(path) else 1
        except UnreadableVideoError:  # which is reported when its turn comes
            continue
        if frames is None:
            return None
        total += frames
    return total


def _batches(groups: Iterable[list[PersonCrop]]) -> Iterator[list[PersonCrop]]:
    """At least `WRITE_EVERY` crops at a time, but for the last ones, and no group in parts."""
    batch: list[PersonCrop] = []
    for group in groups:
        batch += group
        if len(batch) >= WRITE_EVERY:
            yield batch
            batch = []
    if batch:
        yield batch


def _people(
    path: str | os.PathLike,
    detector: PersonDetector,
    held: "_Held",
    settings: SceneSettings,
    facts_of: FactsOf,
    report: SceneReport,
) -> Iterator[list[PersonCrop]]:
    """
    The people of one file that the gallery does not hold yet, in groups that are written together: those of a
    photograph, because a photograph of which one row is there counts as finished. A file that cannot be read is
    reported.
    """
    source = os.path.abspath(path)
    try:
        source_hash = hash_video(source)
        rows = held.rows(source, source_hash)
        if rows is None:
            report.copies += 1
            return
        report.updated += held.write(
            rows, [_with_facts(row, source, facts_of(source), settings.started) for row in rows]
        )
        if is_video(source):
            for crop in _new_crops(source, detector, settings, source_hash, rows):
                yield [crop]
        elif any(row.box is not None for row in rows):
            report.unchanged += 1
        else:
            yield list(crops_of_image(source, detector, settings.margin, settings.min_height))
    except (UnreadableVideoError, UnreadableImageError) as error:
        report.skipped.append(Skipped(Path(source), error.reason))


def _new_crops(
    source: str, detector: PersonDetector, settings: SceneSettings, source_hash: str, rows: Sequence[GalleryRow]
) -> Iterator[PersonCrop]:
    """The people of a video from the last frame on of which there are rows, without those of these rows."""
    start = max((row.frame or 0 for row in rows), default=0)
    places = {(row.frame, row.box) for row in rows}
    known = [
        TrackedBox(row.frame, row.offset, row.box, row.track)
        for row in rows
        if row.frame is not None and row.offset is not None and row.box is not None and row.track is not None
    ]
    crops = crops_of_video(
        source, detector, settings.every, settings.margin, settings.min_height, start, source_hash, known
    )
    return (crop for crop in crops if (crop.frame, crop.box) not in places)


def _with_facts(row: GalleryRow, source: str, facts: ImageFacts, started: float | None) -> GalleryRow:
    """A row with the facts of its file as far as these are given, and with the file's name."""
    taken = facts.time
    if row.offset is not None:
        taken = None if started is None else started + row.offset
    now = replace(facts, time=taken)
    return replace(row, source=source, **vars(updated_facts(ImageFacts(row.camera, row.person_id, row.time), now)))


class _Held:
    """The rows that a gallery holds of videos and photographs, also of those that were renamed or copied."""

    def __init__(self, gallery: Gallery):
        self._gallery = gallery
        self._first: dict[str, str] = {}  # content -> the first file of this run that has it
        self._before: dict[str, set[str]] | None = None  # content -> files that rows of earlier runs name

    def rows(self, source: str, source_hash: str) -> list[GalleryRow] | None:
        """
        Rows of a file, or of one with its content that is no longer there; None for a copy of another file, to which
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


def _row(crop: PersonCrop, model_hash: str, settings: SceneSettings, facts_of: FactsOf) -> GalleryRow:
    source = str(crop.source)
    facts = facts_of(source)
    taken = facts.time if crop.offset is None else None
    if crop.offset is not None and settings.started is not None:
        taken = settings.started + crop.offset
    return GalleryRow(
        source=source,
        source_hash=crop.source_hash,
        path="",
        width=crop.image.width,
        height=crop.image.height,
        model_hash=model_hash,
        frame=crop.frame,
        box=crop.box,
        camera=facts.camera,
        person_id=facts.person_id,
        time=taken,
        offset=crop.offset,
        track=crop.track,
        detection_score=crop.detection_score,
    )


def _is_of_gallery(crops: Path | None, gallery: Gallery) -> bool:
    """Whether crops are saved by the gallery, into its own folder."""
    if crops is None or gallery.crops is None:
        return False
    return os.path.realpath(crops) == os.path.realpath(gallery.crops)


def _saved(rows: list[GalleryRow], crops: Sequence[PersonCrop], folder: Path | None) -> list[GalleryRow]:
    """The rows with the paths of their crops, which are saved into a folder, if there is one."""
    if folder is None:
        return rows
    return [replace(row, path=str(save_crop(crop, folder).absolute())) for row, crop in zip(rows, crops)]


__all__ = ["SceneReport", "SceneSettings", "index_scenes"]
