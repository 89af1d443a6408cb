"""From video files and photographs of whole scenes to crops of the people in them."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from PIL import Image

from aga_model.defaults import MARGIN, MIN_HEIGHT
from aga_model.files import EVERY, MIN_SIDE, VideoFrame, hash_video, read_image_file, sample_frames
from aga_model.gallery import crop_name, write_crop

from .detection import Box, Detection, PersonDetector
from .tracking import PersonTracker, TrackedBox, unfinished

CropBox = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels of the picture
_FRAMES_PER_CALL = 8  # of the detector


@dataclass(frozen=True)
class PersonCrop:
    """
    A person cut out of a video frame or a photograph.

    Args:
        image (`PIL.Image.Image`): RGB image of the box.
        source (`Path`): absolute path of the video or photograph.
        source_hash (`str`): SHA-256 of the source's bytes in hexadecimal.
        frame (`int`, *optional*): number of the video frame, from 0.
        offset (`float`, *optional*): seconds of the frame from the beginning of the video.
        box (`tuple[int, int, int, int]`): left, top, right, bottom in pixels of the upright frame or photograph, with
            the margin.
        detection_score (`float`): score of the detector.
        track (`str`, *optional*): name of the person's track, the same in all frames of the video that show it.
    """

    image: Image.Image
    source: Path
    source_hash: str
    frame: int | None
    offset: float | None
    box: CropBox
    detection_score: float
    track: str | None


def crops_of_video(
    path: str | os.PathLike,
    detector: PersonDetector,
    every: float = EVERY,
    margin: float = MARGIN,
    min_height: int = MIN_HEIGHT,
    start_frame: int = 0,
    source_hash: str | None = None,
    known: Iterable[TrackedBox] = (),
) -> Iterator[PersonCrop]:
    """
    The people in a video, frame after frame; within a frame the surest first. The same file gives the same crops.

    An interrupted run continues with the frame of the last crop that was kept as `start_frame`: crops of that frame
    come again, with the same boxes. With the crops of the frames before as `known` their tracks go on, as they do in a
    run that was not interrupted; without them tracks begin anew under names that were not given before.

    Args:
        path: video file.
        detector: what finds people.
        every: seconds between the frames that are looked at.
        margin: what is added to the detector's box on each side, in parts of its width and height.
        min_height: pixels; lower boxes are left out.
        start_frame: leave out the frames before this number.
        source_hash: of [`hash_video`], where it is known already.
        known: boxes and tracks of the crops of an earlier run with the same `margin`; those before `start_frame`
            count.

    Warns:
        VideoDamagedWarning: at the end, where a part of the video could not be decoded.

    Raises:
        UnreadableVideoError: see [`sample_frames`].
        ValueError: `every` is not positive, or `margin` is negative.
    """
    _check_margin(margin)
    source = Path(os.path.abspath(path))
    source_hash = source_hash or hash_video(source)
    tracker = PersonTracker()
    before = unfinished(
        replace(crop, box=_without_margin(crop.box, margin)) for crop in known if crop.frame < start_frame
    )
    with closing(sample_frames(source, every, start_frame, before)) as frames:
        new = _recalled(frames, tracker, before)
        while batch := list(islice(new, _FRAMES_PER_CALL)):
            for frame, detections in zip(batch, detector.detect([frame.image for frame in batch])):
                people = [
                    (_cut_box(person.box, margin, frame.image), person.score)
                    for person in _large_enough(detections, min_height)
                ]
                # Tracks follow from what is kept of a crop, so that a run that is continued can find them again.
                boxes = list(dict.fromkeys(box for box, _ in people))
                names = tracker.update(frame, [_without_margin(box, margin) for box in boxes])
                tracks = dict(zip(boxes, names))
                for box, score in people:
                    place = (frame.number, frame.offset, box)
                    yield PersonCrop(frame.image.crop(box), source, source_hash, *place, score, tracks[box])


def _recalled(
    frames: Iterable[VideoFrame], tracker: PersonTracker, known: Mapping[int, Sequence[TrackedBox]]
) -> Iterator[VideoFrame]:
    """The other frames than those whose tracks are known; these the tracker is led through."""
    for frame in frames:
        if frame.number in known:
            tracker.recall(frame, known[frame.number])
        else:
            yield frame


def crops_of_image(
    path: str | os.PathLike, detector: PersonDetector, margin: float = MARGIN, min_height: int = MIN_HEIGHT
) -> Iterator[PersonCrop]:
    """
    The people in a photograph, the surest first; arguments as for [`crops_of_video`].

    Raises:
        UnreadableImageError: the file is missing, damaged or no image.
        ValueError: `margin` is negative.
    """
    _check_margin(margin)
    content = read_image_file(os.path.abspath(path))
    for person in _large_enough(detector.detect([content.image])[0], min_height):
        box = _cut_box(person.box, margin, content.image)
        yield PersonCrop(
            content.image.crop(box), content.path, content.sha256, None, None, box, person.score, track=None
        )


def save_crop(crop: PersonCrop, folder: str | os.PathLike) -> Path:
    """
    Write a crop as JPEG into a folder of its source's hash under `folder`; the name tells frame and box. The file is
    there whole or not at all, and the same crop always gets the same name. A gallery removes, with its next deletion,
    what lies in its own folder of crops and is named by none of its rows: give crops to [`Gallery.add`] for that one.

    Returns:
        The file.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(folder, crop_name(crop.source_hash, crop.frame, crop.box))
    write_crop(crop.image, path)
    return path


def _check_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin of crops is {margin}: give a part of the box's size, such as {MARGIN}")


def _large_enough(detections: list[Detection], min_height: int) -> list[Detection]:
    """Without those that are lower than `min_height`, or smaller than any image may be."""
    people = []
    for detection in detections:
        left, top, right, bottom = detection.box
        if bottom - top >= max(min_height, MIN_SIDE) and right - left >= MIN_SIDE:
            people.append(detection)
    return people


def _cut_box(box: Box, margin: float, image: Image.Image) -> CropBox:
    left, top, right, bottom = box
    across, down = margin * (right - left), margin * (bottom - top)
    return (
        max(0, math.floor(left - across)),
        max(0, math.floor(top - down)),
        min(image.width, math.ceil(right + across)),
        min(image.height, math.ceil(bottom + down)),
    )


def _without_margin(box: Box, margin: float) -> Box:
    """The detected box of which `_cut_box` made this one, but for rounding and what lay outside of the frame."""
    left, top, right, bottom = box
    across, down = (side * margin / (1 + 2 * margin) for side in (right - left, bottom - top))
    return left + across, top + down, right - across, bottom - down
