"""Fill a gallery from videos and photographs of whole scenes: people are detected and cut out."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

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
from aga_model.gallery import Gallery, GalleryRow

from .detection import Detection, PersonDetector
from .encoding import ImageEncoder
from .facts import FactsOf, ImageFacts, no_facts, updated_facts
from .held import Held
from .people import MARGIN, MIN_HEIGHT, PersonCrop, crops_of_image, crops_of_video
from .pipeline import index
from .shards import Progress, Shards, no_progress, own_share
from .source import Found, IndexReport
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
) -> IndexReport:
    """
    Detect people in videos and photographs and put their crops into a gallery.

    Crops are written 512 at a time, and what is written stays if the process ends. A video of which the
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
    own = own_share(paths, shards)
    return index(
        [Scene(path, detector, settings, facts_of) for path in own],
        encoder,
        gallery,
        batch_size=batch_size,
        crops=settings.crops,
        progress=progress,
        expected=_expected(paths, settings.every) if shards.is_main else None,
        shards=shards,
    )


class Scene:
    """
    A video or a photograph as a [`Source`]: the people in it, of which the gallery holds none or those up to a frame.

    Args:
        path: the file.
        detector: what finds people.
        settings: see there.
        facts_of: camera and person of the file from its absolute path; the time of a photograph.
    """

    finite = True

    def __init__(
        self,
        path: str | os.PathLike,
        detector: PersonDetector,
        settings: SceneSettings | None = None,
        facts_of: FactsOf = no_facts,
    ):
        self._source = os.path.abspath(path)
        self._detector, self._settings, self._facts_of = detector, settings or SceneSettings(), facts_of

    def found(self, held: Held, report: IndexReport, progress: Progress) -> Iterator[list[Found]]:
        """
        See [`Source`]. The people of a photograph are one group, because a photograph of which one row is there counts
        as finished. A file that cannot be read is reported.
        """
        source, settings = self._source, self._settings

        def seen(frames: int) -> None:
            report.frames += frames
            progress.update(frames)

        detector = _CountingDetector(self._detector, seen)
        try:
            source_hash = hash_video(source)
            rows = held.rows(source, source_hash)
            if rows is None:
                report.copies += 1
                return
            facts = self._facts_of(source)
            report.updated += held.write(rows, [_with_facts(row, source, facts, settings.started) for row in rows])
            if is_video(source):
                for crop in _new_crops(source, detector, settings, source_hash, rows):
                    yield [self._found(crop, facts)]
            elif any(row.box is not None for row in rows):
                report.unchanged += 1
            else:
                crops = crops_of_image(source, detector, settings.margin, settings.min_height)
                yield [self._found(crop, facts) for crop in crops]
        except (UnreadableVideoError, UnreadableImageError) as error:
            report.skipped.append(Skipped(Path(source), error.reason))

    def _found(self, crop: PersonCrop, facts: ImageFacts) -> Found:
        row = GalleryRow(
            source=str(crop.source),
            source_hash=crop.source_hash,
            width=crop.image.width,
            height=crop.image.height,
            frame=crop.frame,
            box=crop.box,
            camera=facts.camera,
            person_id=facts.person_id,
            time=_time(crop.offset, facts, self._settings.started),
            offset=crop.offset,
            track=crop.track,
            detection_score=crop.detection_score,
        )
        return Found(row, crop.image)


class _CountingDetector:
    """A detector that tells how many frames it has seen."""

    def __init__(self, detector: PersonDetector, seen: Callable[[int], None]):
        self._detector = detector
        self._seen = seen

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        found = self._detector.detect(images)
        self._seen(len(images))
        return found


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
    now = replace(facts, time=_time(row.offset, facts, started))
    return replace(row, source=source, **vars(updated_facts(ImageFacts(row.camera, row.person_id, row.time), now)))


def _time(offset: float | None, facts: ImageFacts, started: float | None) -> float | None:
    """When a crop was taken: of a video by when it began, of a photograph by its facts."""
    if offset is None:
        return facts.time
    return None if started is None else started + offset


__all__ = ["Scene", "SceneSettings", "index_scenes"]
