"""Fill a gallery from videos and photographs of whole scenes: detect people, cut them out, encode, write."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from PIL import Image

from aga_model.data.image_files import Skipped, UnreadableImageError

from .detection import Detection, PersonDetector
from .encoder import PersonEncoder
from .facts import FactsOf, no_facts
from .gallery import Gallery
from .indexing import WRITE_EVERY
from .ingestion import MARGIN, MIN_HEIGHT, PersonCrop, crops_of_image, crops_of_video, hash_video, save_crop
from .shards import Progress, Shards, no_progress, own_share
from .store import Filter, GalleryRow
from .video import EVERY, UnreadableVideoError, expected_frames, is_video


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
        people (`int`): crops that were written, those that a continued video gives once more included.
        frames (`int`): frames and photographs that were searched for people.
        unchanged (`int`): photographs that were in the gallery with the same content.
        skipped (`list[Skipped]`): files that could not be read, and why.
        seconds (`float`): time taken.
    """

    people: int = 0
    frames: int = 0
    unchanged: int = 0
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
    encoder: PersonEncoder,
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
    gallery holds crops goes on at the last of their frames, so that a finished one costs its decoding and the frames
    behind its last person. A file whose content has changed loses its old rows first.

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
        crops = chain.from_iterable(_crops(path, counting, gallery, settings, report) for path in own)
        while batch := list(islice(crops, WRITE_EVERY)):
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


def _crops(
    path: str | os.PathLike,
    detector: PersonDetector,
    gallery: Gallery,
    settings: SceneSettings,
    report: SceneReport,
) -> Iterator[PersonCrop]:
    """The people of one file that the gallery does not hold yet; a file that cannot be read is reported."""
    source = os.path.abspath(path)
    try:
        source_hash = hash_video(source)
        known = list(gallery.rows(Filter(sources=[source])))
        if any(row.source_hash != source_hash for row in known):
            gallery.delete(Filter(sources=[source]))  # with the saved crops of what the file was
            known = []
        if is_video(source):
            start = max((row.frame or 0 for row in known), default=0)
            yield from crops_of_video(
                source, detector, settings.every, settings.margin, settings.min_height, start, source_hash
            )
        elif any(row.box is not None for row in known):
            report.unchanged += 1
        else:
            yield from crops_of_image(source, detector, settings.margin, settings.min_height)
    except (UnreadableVideoError, UnreadableImageError) as error:
        report.skipped.append(Skipped(Path(source), error.reason))


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
