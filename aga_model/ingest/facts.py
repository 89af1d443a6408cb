"""What is known of an image file beside its pixels: camera and person from its path, the time from the file."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from PIL import ExifTags, Image

from aga_model.defaults import TimeSource


@dataclass(frozen=True)
class ImageFacts:
    """
    Facts for a gallery row; None says nothing.

    Args:
        camera, person_id (`str`, *optional*): see [`GalleryRow`].
        time (`float`, *optional*): seconds since 1970-01-01 UTC.
    """

    camera: str | None = None
    person_id: str | None = None
    time: float | None = None


FactsOf = Callable[[str], ImageFacts]  # the path of a file to what is known of it


def no_facts(path: str) -> ImageFacts:
    """Nothing is known."""
    return ImageFacts()


def updated_facts(before: ImageFacts, now: ImageFacts) -> ImageFacts:
    """`now`, and `before` where it says nothing."""
    return ImageFacts(
        before.camera if now.camera is None else now.camera,
        before.person_id if now.person_id is None else now.person_id,
        before.time if now.time is None else now.time,
    )


def facts_reader(
    camera: str | None = None,
    camera_from: str | None = None,
    person_from: str | None = None,
    time_from: TimeSource = TimeSource.NONE,
) -> FactsOf:
    """
    A function from the absolute path of an image file to its facts.

    Args:
        camera: the camera of every image.
        camera_from, person_from: regular expressions with one group, which is the camera or the person; a path in
            which the expression is not found has none.
        time_from: see [`TimeSource`].

    Raises:
        ValueError: both `camera` and `camera_from`, or an expression that is wrong or has not one group.
    """
    if camera is not None and camera_from is not None:
        raise ValueError("the camera is either given or told by the path: give --camera or --camera-from")
    camera_pattern = _pattern(camera_from, "--camera-from")
    person_pattern = _pattern(person_from, "--person-from")

    def facts_of(path: str) -> ImageFacts:
        return ImageFacts(camera or _group(camera_pattern, path), _group(person_pattern, path), _time(path, time_from))

    return facts_of


def exif_time(path: str | os.PathLike) -> float | None:
    """
    When a photograph was taken, in seconds since 1970-01-01 UTC: EXIF's DateTimeOriginal with its time zone, or as
    local time without one. None where the file does not tell, or cannot be read.
    """
    try:
        with Image.open(path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        taken = tags[ExifTags.Base.DateTimeOriginal] + tags.get(ExifTags.Base.OffsetTimeOriginal, "").strip()
        form = "%Y:%m:%d %H:%M:%S"
        return datetime.strptime(taken, form if len(taken) == len("2026:01:31 12:00:00") else f"{form}%z").timestamp()
    except Exception:  # damaged EXIF raises almost anything, and says nothing about the pixels
        return None


def _time(path: str, source: TimeSource) -> float | None:
    if source is TimeSource.NONE:
        return None
    if source is TimeSource.EXIF:
        return exif_time(path)
    try:
        return os.stat(path).st_mtime
    except OSError:  # the file cannot be read either, which is reported
        return None


def _pattern(expression: str | None, option: str) -> re.Pattern[str] | None:
    if expression is None:
        return None
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"{option} {expression!r} is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(f"{option} {expression!r} must have one group in brackets, it has {pattern.groups}")
    return pattern


def _group(pattern: re.Pattern[str] | None, path: str) -> str | None:
    match = pattern.search(path) if pattern is not None else None
    return match[1] or None if match is not None else None
