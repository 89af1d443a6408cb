"""Tell which boxes of a video's sampled frames show one person, by where they are and by their colours."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from aga_model.files import VideoFrame

from .detection import Box, pairwise_iou

MAX_GAP = 2.0  # seconds
# These three were chosen on 25 seconds of people who walk side by side and cross (OpenCV's vtest.avi, every 0.5 s).
_BUFFER = 0.7  # parts of a box's width and height on each side
_COLOUR_SCALE = 0.15  # mean difference of colours in [0, 1] that divides an overlap by e
_LEAST_LIKENESS = 0.06
_COLOUR_GRID = (4, 8)  # columns and rows of a box whose mean colours are compared
_SIDES = 0.2  # part of the width on each side that is mostly background


@dataclass(frozen=True)
class TrackedBox:
    """
    A box whose track is known, because [`PersonTracker.update`] gave it in an earlier run.

    Args:
        frame (`int`): number of the frame.
        offset (`float`): seconds of the frame from the beginning of the video.
        box (`tuple[float, float, float, float]`): as it was given to the tracker.
        track (`str`): name of the track.
    """

    frame: int
    offset: float
    box: Box
    track: str


@dataclass
class _Track:
    name: str
    box: np.ndarray  # (4,)
    colours: np.ndarray  # (rows, columns, 3) in [0, 1]
    offset: float
    velocity: np.ndarray | None = None  # (2,) pixels per second; None before the second box

    def predicted(self, offset: float) -> np.ndarray:
        if self.velocity is None:
            return self.box
        return self.box + np.tile(self.velocity * (offset - self.offset), 2)

    def follow(self, box: np.ndarray, colours: np.ndarray, offset: float) -> None:
        moved = (_centre(box) - _centre(self.box)) / (offset - self.offset)
        # Means with what was known smooth the jitter of detections.
        self.velocity = moved if self.velocity is None else (self.velocity + moved) / 2
        self.colours = (self.colours + colours) / 2
        self.box, self.offset = box, offset


class PersonTracker:
    """
    Continues tracks from frame to frame of one video: each track is moved on at its last speed, and boxes are given to
    tracks by IoU and likeness of colours, the best pair first.

    People move by about their own width between sampled frames, where plain IoU is zero. So boxes are grown before
    they are compared (the buffered IoU of C-BIoU, Yang et al., WACV 2023). That makes neighbours overlap as well, and
    colours tell them apart; people dressed alike who pass close by each other can exchange their tracks.

    Args:
        max_gap: seconds after which a person who is not found again counts as a new one.
    """

    def __init__(self, max_gap: float = MAX_GAP):
        self.max_gap = max_gap
        self._tracks: list[_Track] = []

    def update(self, frame: VideoFrame, boxes: Sequence[Box]) -> list[str]:
        """
        Tracks of the boxes of the next frame, which must be later than the last.

        Args:
            frame: of the video.
            boxes: left, top, right, bottom in pixels, each at least one pixel wide and high.

        Returns:
            For each box the name of its track: the number of the frame where the track begins, a dot, and the box's
            place in that frame from 1. So names are the same in every run, and a run that begins in the middle of
            the video gives no name of an earlier one.
        """
        found = np.array(boxes, np.float64).reshape(-1, 4)
        colours = [_colours(frame.image, box) for box in boxes]
        self._forget(frame.offset)
        names = [f"{frame.number}.{place}" for place in range(1, len(found) + 1)]
        new = set(range(len(found)))
        for track_index, index in largest_first(self._likeness(found, colours, frame.offset), _LEAST_LIKENESS):
            track = self._tracks[track_index]
            track.follow(found[index], colours[index], frame.offset)
            names[index] = track.name
            new.remove(index)
        self._tracks += [_Track(names[index], found[index], colours[index], frame.offset) for index in sorted(new)]
        return names

    def recall(self, frame: VideoFrame, known: Sequence[TrackedBox]) -> None:
        """
        Go through a frame whose tracks are known. Led through the frames of [`unfinished`], a new tracker gives later
        frames the names that the tracker of the earlier run would have given them.

        Args:
            frame: of the video, later than the last.
            known: its boxes, in the order of [`unfinished`]. No tracker gave a box outside of the frame, or a second
                one of a track: they are left aside.
        """
        self._forget(frame.offset)
        tracks = {track.name: track for track in self._tracks}
        boxes = {one.track: one for one in reversed(known) if _is_within(one.box, frame.image)}
        for one in reversed(boxes.values()):
            box, colours = np.array(one.box, np.float64), _colours(frame.image, one.box)
            if one.track in tracks:
                tracks[one.track].follow(box, colours, frame.offset)
            else:
                self._tracks.append(_Track(one.track, box, colours, frame.offset))

    def _forget(self, offset: float) -> None:
        self._tracks = [track for track in self._tracks if offset - track.offset <= self.max_gap]

    def _likeness(self, boxes: np.ndarray, colours: Sequence[np.ndarray], offset: float) -> np.ndarray:
        """(tracks, boxes) in [0, 1]."""
        predicted = np.array([track.predicted(offset) for track in self._tracks]).reshape(-1, 4)
        differences = [[np.abs(track.colours - found).mean() for found in colours] for track in self._tracks]
        difference = np.array(differences).reshape(len(self._tracks), len(boxes))
        return pairwise_iou(_grown(predicted), _grown(boxes)) * np.exp(-difference / _COLOUR_SCALE)


def unfinished(known: Iterable[TrackedBox], max_gap: float = MAX_GAP) -> dict[int, list[TrackedBox]]:
    """
    The boxes of those tracks that can go on after the last of some frames, by frame: what a tracker has to recall.
    The frames are in order, and the boxes of a frame in the order of the tracks' names.
    """
    known = sorted(known, key=lambda one: (one.frame, _place(one.track), one.track))
    ends = {one.track: one.offset for one in known}
    least = max(ends.values(), default=0.0) - max_gap
    by_frame: dict[int, list[TrackedBox]] = {}
    for one in known:
        if ends[one.track] >= least:
            by_frame.setdefault(one.frame, []).append(one)
    return by_frame


def _place(name: str) -> int:
    """Where a track's first box stood in its frame."""
    place = name.rpartition(".")[2]
    return int(place) if place.isdecimal() else 0


def largest_first(values: np.ndarray, least: float) -> Iterator[tuple[int, int]]:
    """
    Row and column of the largest of some values (rows, columns), then of the largest in the other rows and columns,
    and so on down to `least`.
    """
    rows, columns = np.nonzero(values >= least)
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    for index in np.argsort(-values[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            yield row, column


def _colours(image: Image.Image, box: Box) -> np.ndarray:
    """Mean colours (rows, columns, 3) in [0, 1] of the parts of a box, without its sides."""
    left, top, right, bottom = box
    sides = _SIDES * (right - left)
    inner = image.resize(_COLOUR_GRID, Image.Resampling.BOX, box=(left + sides, top, right - sides, bottom))
    return np.asarray(inner, np.float64) / 255


def _is_within(box: Box, image: Image.Image) -> bool:
    left, top, right, bottom = box
    return 0 <= left < right <= image.width and 0 <= top < bottom <= image.height


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _grown(boxes: np.ndarray) -> np.ndarray:
    size = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] - _BUFFER * size, boxes[:, 2:] + _BUFFER * size], axis=1)
