"""
Frames of video files, with their number and time, decoded by FFmpeg through OpenCV.

A frame's number counts the frames that could be decoded before it, from 0. OpenCV's own frame positions are computed
from the average frame rate, which is wrong wherever the rate varies or frames are damaged, so they are not used.
"""

import hashlib
import math
import os
import stat
import warnings
from collections import deque
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from aga_model.defaults import EVERY

_FRAMES_AHEAD = 2  # decoded while the caller works on one; frames of 8K take 100 MB each
_FAILURES_IN_A_ROW = 1000  # of the decoder: then it is the end of the file, and not a damaged place
_MISSING_SECONDS = 1.0  # a video that ends so much before the time its header announces is called truncated
_DISORDER_SECONDS = 1.0  # a time that lies further back starts the clock anew
_SAME_TIME = 1e-6  # seconds
_SEEK_MARGINS = (2.0, 15.0)  # seconds before a frame to look for a key frame
_FALLBACK_RATE = 25.0  # frames per second, where neither times nor a rate are known
_HIGHEST_RATE = 1000.0  # frames per second; headers without a rate often give their clock's ticks instead

_SIGNATURES = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video
    b"\x00\x00\x00\x01",  # H.264, H.265
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"\x06\x0e\x2b\x34",  # MXF
    b"FLV",
    b"OggS",
    b"DKIF",  # IVF
    b"DHAV",  # recorders of surveillance cameras
)
_MP4_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
_TS_SYNC, _TS_PACKET = 0x47, 188  # MPEG transport stream; of 192 bytes with a time code before each packet
_SIGNATURE_BYTES = 200


class UnreadableVideoError(ValueError):
    """A video file that cannot be used. `path` is the file, `reason` says what is wrong with it."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoDamagedWarning(UserWarning):
    """A video of which a part could not be decoded."""


@dataclass(frozen=True)
class VideoFrame:
    """
    A frame of a video.

    Args:
        number (`int`): counted from 0 in the order in which frames are shown.
        offset (`float`): when it is shown, in seconds from the beginning of the video.
        image (`PIL.Image.Image`): upright RGB image.
    """

    number: int
    offset: float
    image: Image.Image


def is_video(path: str | os.PathLike) -> bool:
    """
    Whether a file's first bytes are those of a video container, whatever its name.

    Raises:
        UnreadableVideoError: the file is missing, no regular file, or cannot be opened.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableVideoError(path, "not a regular file")
        with open(path, "rb") as file:
            start = file.read(_SIGNATURE_BYTES)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        raise UnreadableVideoError(path, reason) from error
    if start[4:8] == b"ftyp":
        return start[8:12] not in _STILL_BRANDS
    return (
        start.startswith(_SIGNATURES)
        or start[4:8] in _MP4_ATOMS
        or (start.startswith(b"RIFF") and start[8:12] == b"AVI ")
        or any(start[first :: _TS_PACKET + first][:2] == bytes([_TS_SYNC] * 2) for first in (0, 4))
    )


def sample_frames(
    path: str | os.PathLike, every: float = EVERY, start_frame: int = 0, also: Collection[int] = ()
) -> Generator[VideoFrame, None, None]:
    """
    Frames of a video file at an interval: the first frame that is shown at or after 0, `every`, 2 `every`, ... seconds
    by the file's own times, so that a varying frame rate does not matter. Frames are decoded ahead in a thread.

    Args:
        path: video file.
        every: seconds.
        start_frame: leave out the frames before this number. Which frames follow does not depend on it: the video is
            decoded from its beginning all the same.
        also: numbers of frames that are given in any case.

    Warns:
        VideoDamagedWarning: after the last frame, where some could not be decoded or the file ends too early.

    Raises:
        UnreadableVideoError: the file is missing, no video, damaged so that no frame can be decoded, or its frames are
            larger than PIL's limit against decompression bombs.
        ValueError: `every` is not positive.
        ModuleNotFoundError: OpenCV is not installed.
    """
    if not (every > 0 and math.isfinite(every)):
        raise ValueError(f"frames cannot be taken every {every} seconds: give a positive number")
    reader = _Reader(path)
    yield from _ahead(reader, every, start_frame, frozenset(also))
    reader.check_end()


def read_frame(path: str | os.PathLike, number: int, offset: float | None = None) -> Image.Image:
    """
    Read one frame again: the same pixels as `sample_frames` gave.

    Args:
        path: video file.
        number: of the frame.
        offset: seconds of the frame, as `sample_frames` gave it. With it, decoding begins at a key frame before the
            frame where the file's times allow it, otherwise at the beginning of the video.

    Raises:
        UnreadableVideoError: the file cannot be read, as for `sample_frames`, or has no such frame.
        ModuleNotFoundError: OpenCV is not installed.
    """
    image = None if offset is None else _Reader(path).seek(offset)
    if image is not None:
        return image
    reader = _Reader(path)
    while reader.number < number:
        if not reader.advance():
            raise UnreadableVideoError(path, f"has no frame {number}, only {reader.number + 1} that can be decoded")
    image = reader.image()
    if image is None:
        raise UnreadableVideoError(path, f"frame {number} is damaged")
    return image


def expected_frames(path: str | os.PathLike, every: float = EVERY) -> int | None:
    """
    About how many frames [`sample_frames`] gives, by what the file says of itself; None where it does not tell.

    Raises:
        UnreadableVideoError: as [`sample_frames`].
    """
    cv2 = import_opencv()
    capture = _open(cv2, Path(path))
    frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    if not (frames > 0 and 0 < rate < math.inf):
        return None
    return min(int(frames), math.ceil(frames / rate / every))


def import_opencv() -> ModuleType:
    """
    The module `cv2`.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.
    """
    # FFmpeg writes a line for every damaged macroblock; what matters is reported by exceptions and warnings.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "OpenCV is needed to read videos and to find people: pip install 'aga-model[search]'", name="cv2"
        ) from error
    return cv2


class _Clock:
    """
    Times of frames in seconds that never run backwards, from those that the decoder reports.

    Decoders give a time that lies a little back where a damaged stream puts frames out of order, and begin anew where
    recordings were put together. Streams without times report the same one for every frame.

    Args:
        period: seconds between two frames, where there is no usable time.
    """

    def __init__(self, period: float):
        self._period = period
        self._shift = 0.0
        self._reported = math.nan
        self._offset = -period

    def tick(self, milliseconds: float) -> float:
        """Seconds of the next frame."""
        following = self._offset + self._period
        seconds = milliseconds / 1000 + self._shift
        if not math.isfinite(seconds) or milliseconds == self._reported:
            seconds = following
        elif seconds < self._offset - _DISORDER_SECONDS:
            self._shift += following - seconds
            seconds = following
        self._reported = milliseconds
        # The first frame of a stream with B frames can have a time below zero.
        self._offset = max(self._offset, seconds, 0.0)
        return self._offset


class _Reader:
    """
    Decodes a video from its beginning.

    Args:
        path: video file.

    Attributes:
        number (`int`): of the last decoded frame; -1 before the first.
        offset (`float`): seconds of the last decoded frame.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(os.path.abspath(path))
        self.number = -1
        self.offset = 0.0
        self._cv2: Any = import_opencv()
        self._capture = _open(self._cv2, self.path)
        rate = self._capture.get(self._cv2.CAP_PROP_FPS)
        self._rate = rate if 0 < rate <= _HIGHEST_RATE else _FALLBACK_RATE
        self._clock = _Clock(1 / self._rate)
        self._damaged = 0
        self._stopped = False

    def advance(self) -> bool:
        """Decode the next frame; False at the end."""
        failures = 0
        while not self._stopped and failures < _FAILURES_IN_A_ROW:
            if self._capture.grab():
                self.number += 1
                self.offset = self._clock.tick(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))
                self._damaged += failures
                return True
            failures += 1
        return False

    def image(self) -> Image.Image | None:
        """The last decoded frame; None if it is damaged."""
        found, pixels = self._capture.retrieve()
        if not found:
            self._damaged += 1
            return None
        return Image.fromarray(self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB))

    def seek(self, offset: float) -> Image.Image | None:
        """The frame at a time in seconds, decoded from a key frame before it; None if no frame has this very time."""
        for margin in _SEEK_MARGINS:
            if offset <= margin:
                return None
            self._capture.set(self._cv2.CAP_PROP_POS_MSEC, 1000 * (offset - margin))
            seconds = self._grab_time()
            if seconds is None or seconds > offset - margin / 2:
                continue  # behind the frame, or so close to it that it may lack what it refers to
            while seconds is not None and seconds < offset - _SAME_TIME:
                seconds = self._grab_time()
            return self.image() if seconds is not None and seconds <= offset + _SAME_TIME else None
        return None

    def check_end(self) -> None:
        """Raise UnreadableVideoError if there was no frame at all, and warn if some are missing."""
        if self.number < 0:
            raise UnreadableVideoError(self.path, "holds no frame that can be decoded")
        announced = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        # Both, because AVI counts frames that were dropped and the last frame of a varying rate may be shown for long.
        seconds = announced / self._rate
        truncated = self.number + 1 < announced and self.offset + max(_MISSING_SECONDS, 2 / self._rate) < seconds
        problems = []
        if self._damaged:
            problems.append(f"{self._damaged} frames or stretches of frames cannot be decoded")
        if truncated:
            problems.append(f"it ends after {self.offset:.1f} seconds, where its header announces {seconds:.1f}")
        if problems:
            warnings.warn(f"{self.path}: {' and '.join(problems)}", VideoDamagedWarning, stacklevel=3)

    def stop(self) -> None:
        """Let `advance` find the end, also where it is in a thread on a long way to the next frame."""
        self._stopped = True

    def _grab_time(self) -> float | None:
        return self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000 if self._capture.grab() else None


def _open(cv2: Any, path: Path) -> Any:
    # FFmpeg would also draw text files as pictures and follow play lists to other files.
    if not is_video(path):
        raise UnreadableVideoError(path, "not a video")
    try:
        str(path).encode()  # OpenCV crashes on other names
    except UnicodeEncodeError as error:
        raise UnreadableVideoError(path, "its name is not valid UTF-8: rename it") from error
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise UnreadableVideoError(path, "truncated, or no video in a format that can be decoded")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        limit = f"more than {Image.MAX_IMAGE_PIXELS} pixels, PIL's limit against decompression bombs"
        raise UnreadableVideoError(path, f"frames of {width}x{height}: {limit}")
    return capture


def _sample(reader: _Reader, every: float, start_frame: int, also: Collection[int]) -> Iterator[VideoFrame]:
    due = 0.0
    while reader.advance():
        is_due = reader.offset >= due - _SAME_TIME
        if is_due:
            due = every * (math.floor((reader.offset + _SAME_TIME) / every) + 1)
        wanted = reader.number in also or (is_due and reader.number >= start_frame)
        image = reader.image() if wanted else None
        if image is not None:
            yield VideoFrame(reader.number, reader.offset, image)


def _ahead(
    reader: _Reader, every: float, start_frame: int, also: Collection[int] = frozenset()
) -> Iterator[VideoFrame]:
    """Sampled frames, decoded in a thread while the caller works."""
    frames = _sample(reader, every, start_frame, also)
    pool = ThreadPoolExecutor(1)
    pending: deque[Future[VideoFrame | None]] = deque(pool.submit(next, frames, None) for _ in range(_FRAMES_AHEAD))
    try:
        while (frame := pending.popleft().result()) is not None:
            pending.append(pool.submit(next, frames, None))
            yield frame
    finally:
        reader.stop()
        pool.shutdown(cancel_futures=True)


def hash_video(path: str | os.PathLike) -> str:
    """SHA-256 of a video file in hexadecimal; UnreadableVideoError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableVideoError(path, (error.strerror or str(error)).lower()) from error
