"""What a gallery keeps of an image, which images a filter means, and how both are written down."""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

_ID_CHARACTERS = 32  # 128 bits: among a billion rows two share an id with a chance of 1e-21
_ESCAPE = "\x1a"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # of a stream; a letter alone is a drive


class GalleryError(ValueError):
    """A gallery that is damaged, cannot be reached, does not fit the model, or is in the way."""


@dataclass(frozen=True)
class GalleryRow:
    """
    What a gallery knows of one person image: a file, or a crop of a file or of a video frame.

    Args:
        source (`str`): absolute path of the image or video file that the person was seen in, or the address of a
            stream, such as `rtsp://hall/1`.
        source_hash (`str`): SHA-256 of that file in hexadecimal; of a stream that of whatever names the recording.
        path (`str`): absolute path of the image: the source itself, or the saved crop; empty for a crop that was not
            saved. A folder gallery keeps the path of a crop of its own relative to the folder, wherever that lies.
        width, height (`int`): of the image, in pixels.
        model_hash (`str`): of the model that made the embedding.
        frame (`int`, *optional*): number of the video frame, from 0.
        box (`tuple`, *optional*): (x1, y1, x2, y2) of the person in the source, in pixels.
        camera, track (`str`, *optional*): names of the camera and of the track within its source.
        person_id (`str`, *optional*): who it is, where that is known. A number is kept as its digits.
        time (`float`, *optional*): when the image was taken, in seconds since 1970-01-01 UTC.
        offset (`float`, *optional*): seconds from the beginning of the video.
        detection_score (`float`, *optional*): confidence of the detector in [0, 1].
        added (`float`, *optional*): when the row came into the gallery, in seconds since 1970-01-01 UTC. The gallery
            fills it in, and keeps it when the row is added again. Two rows that differ in it alone are equal.
    """

    source: str
    source_hash: str = ""
    path: str = ""
    width: int = 0
    height: int = 0
    model_hash: str = ""
    frame: int | None = None
    box: tuple[float, float, float, float] | None = None
    camera: str | None = None
    time: float | None = None
    offset: float | None = None
    person_id: str | None = None
    track: str | None = None
    detection_score: float | None = None
    added: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # One form each, so that equal facts give equal ids and filters, whatever the caller's types.
        if self.box is not None:
            object.__setattr__(self, "box", tuple(float(side) for side in self.box))
        for name in ("camera", "person_id", "track"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(value) or None)
        for name in ("time", "offset", "detection_score", "added"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))

    @property
    def id(self) -> str:
        """
        The same for the same content: of the source's hash, the frame and the box, not of the path. A file that is
        added twice, from whatever place, is one row.
        """
        content = json.dumps([self.source_hash, self.frame, self.box])
        return hashlib.sha256(content.encode()).hexdigest()[:_ID_CHARACTERS]

    def to_dict(self) -> dict[str, Any]:
        """Id and fields as JSON values, without `added`: the same content gives the same, whenever it came in."""
        values = asdict(self)
        del values["added"]
        return {"id": self.id, **values}


def is_address(source: str) -> bool:
    """Whether a source is the address of a stream, not the path of a file."""
    return _ADDRESS.match(source) is not None


def absolute_source(source: str | os.PathLike) -> str:
    """The absolute path of a file; the address of a stream as it is."""
    text = os.fspath(source)
    return text if is_address(text) else os.path.abspath(text)


def check_row(row: GalleryRow) -> None:
    """Raise ValueError for a row that a gallery cannot hold; names the field."""
    if row.source and not (os.path.isabs(row.source) or is_address(row.source)):
        raise ValueError(f"source of a gallery row must be an absolute path or an address, got {row.source!r}")
    if row.path and not os.path.isabs(row.path):
        raise ValueError(f"path of a gallery row must be an absolute path, got {row.path!r}")
    for name in ("source", "source_hash", "model_hash"):
        if not getattr(row, name):
            raise ValueError(f"a gallery row needs {name}, {row.source!r} has none")
    if row.width < 1 or row.height < 1:
        raise ValueError(f"width and height of {row.source!r} must be positive, got {row.width}x{row.height}")
    if row.frame is not None and row.frame < 0:
        raise ValueError(f"frame of {row.source!r} must be 0 or more, got {row.frame}")
    if row.box is not None and not (len(row.box) == 4 and row.box[0] < row.box[2] and row.box[1] < row.box[3]):
        raise ValueError(f"box of {row.source!r} must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2, got {row.box}")
    for name in ("time", "offset", "detection_score", "added"):
        value = getattr(row, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} of {row.source!r} is not finite")


def _lies_within(moment: float | None, since: float | None, until: float | None) -> bool:
    """Whether a moment is at `since` or later and before `until`; without a moment only if neither is given."""
    if moment is None:
        return since is None and until is None
    return (since is None or moment >= since) and (until is None or moment < until)


@dataclass(frozen=True)
class Filter:
    """
    Which images of a gallery: those that fulfil every given condition. A field that is None says nothing.

    ```python
    >>> Filter(cameras=["entrance"], since=datetime(2026, 3, 1))
    ```

    Args:
        cameras, person_ids, tracks: images with one of these; a number stands for its digits.
        sources, paths: images of one of these source files or streams, or with one of these paths; relative ones are
            taken from the working folder.
        since, until: images taken at `since` or later, and before `until`: seconds since 1970-01-01 UTC or a
            `datetime`, which without time zone is local. An image without a time fulfils neither.
        ids: images with one of these row ids ([`GalleryRow.id`]).
        fresh_since, stale_before: images that were taken at this time or later, and before it; of an image without a
            time, or with one that lies behind it, the moment counts at which it was added. What a gallery that keeps
            its images for a while only distinguishes ([`GallerySettings`]).

    Raises:
        ValueError: a name is empty, a time is not finite, or `until` is not after `since`.
    """

    cameras: Collection[str] | None = None
    since: float | datetime | None = None
    until: float | datetime | None = None
    person_ids: Collection[str | int] | None = None
    sources: Collection[str | os.PathLike] | None = None
    paths: Collection[str | os.PathLike] | None = None
    tracks: Collection[str] | None = None
    ids: Collection[str] | None = None
    fresh_since: float | datetime | None = None
    stale_before: float | datetime | None = None

    def __post_init__(self) -> None:
        for name in ("cameras", "person_ids", "tracks", "ids"):
            self._normalise(name, str)
        self._normalise("sources", absolute_source)
        self._normalise("paths", os.path.abspath)
        for name in ("since", "until", "fresh_since", "stale_before"):
            value = getattr(self, name)
            if value is not None:
                seconds = value.timestamp() if isinstance(value, datetime) else float(value)
                if not math.isfinite(seconds):
                    raise ValueError(f"{name} of a filter must be finite, got {value}")
                object.__setattr__(self, name, seconds)
        since, until = self.times()
        if since is not None and until is not None and until <= since:
            raise ValueError("`until` of a filter must be after `since`")

    def _normalise(self, name: str, form: Any) -> None:
        values = getattr(self, name)
        if values is None:
            return
        texts = [form(value) for value in ([values] if isinstance(values, str | os.PathLike | int) else values)]
        if "" in texts:
            raise ValueError(f"{name} of a filter hold an empty name")
        object.__setattr__(self, name, tuple(dict.fromkeys(texts)))

    def times(self) -> tuple[float | None, float | None]:
        """`since` and `until` in seconds since 1970-01-01 UTC."""
        return self._seconds("since"), self._seconds("until")

    def ages(self) -> tuple[float | None, float | None]:
        """`fresh_since` and `stale_before` in seconds since 1970-01-01 UTC."""
        return self._seconds("fresh_since"), self._seconds("stale_before")

    def _seconds(self, name: str) -> float | None:
        value = getattr(self, name)
        return None if value is None else float(value)

    def texts(self) -> dict[str, tuple[str, ...]]:
        """The conditions that name values: column of the row -> the values that it may have, as they are stored."""
        columns = {
            "id": self.ids,
            "camera": self.cameras,
            "person_id": self.person_ids,
            "source": self.sources,
            "path": self.paths,
            "track": self.tracks,
        }
        return {
            column: tuple(store_text(str(value)) for value in values)
            for column, values in columns.items()
            if values is not None
        }

    def accepts(self, row: GalleryRow) -> bool:
        """
        Whether an image fulfils it. Stores say the same in the languages of their data bases; this is what they mean.
        """
        for column, values in self.texts().items():
            value = row.id if column == "id" else getattr(row, column)
            if value is None or store_text(value) not in values:
                return False
        # A time behind the moment at which an image was added comes from a wrong clock: the earlier of both counts.
        age = min((moment for moment in (row.time, row.added) if moment is not None), default=None)
        return _lies_within(row.time, *self.times()) and _lies_within(age, *self.ages())

    @property
    def is_empty(self) -> bool:
        """Whether it lets every image through."""
        return not self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """The conditions that it has, as JSON values; `Filter(**values)` is an equal one."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
                if value is not None}  # fmt: skip


def store_text(text: str) -> str:
    """
    Text that UTF-8 can hold. File names may hold bytes that are no UTF-8, which Python shows as lone surrogates; each
    becomes U+001A and the byte in hexadecimal, and U+001A itself becomes U+001A and `1a`.
    """
    if _ESCAPE not in text:
        try:
            text.encode()
            return text
        except UnicodeEncodeError:
            pass
    pieces = []
    for character in text:
        if character == _ESCAPE:
            pieces.append(f"{_ESCAPE}1a")
        elif 0xDC80 <= ord(character) <= 0xDCFF:
            pieces.append(f"{_ESCAPE}{ord(character) - 0xDC00:02x}")
        else:
            pieces.append(character)
    return "".join(pieces)


def read_text(stored: str) -> str:
    """The text of which `store_text` made this."""
    first, *rest = stored.split(_ESCAPE)
    return first + "".join(
        (_ESCAPE if piece[:2] == "1a" else chr(0xDC00 + int(piece[:2], 16))) + piece[2:] for piece in rest
    )


_FIELDS = tuple(each.name for each in fields(GalleryRow))
_TEXTS = ("source", "path", "camera", "person_id", "track")


def storable(row: GalleryRow) -> dict[str, Any]:
    """Id and all fields with every text as `store_text` gives it; `box` is a list."""
    values = row.to_dict() | {"added": row.added}
    for name in _TEXTS:
        if values[name] is not None:
            values[name] = store_text(values[name])
    if values["box"] is not None:
        values["box"] = list(values["box"])
    return values


def row_of(values: dict[str, Any]) -> GalleryRow:
    """The row of which `storable` made this; other keys are left aside. Earlier versions stored no `added`."""
    read = {name: values[name] for name in _FIELDS if name != "added"} | {"added": values.get("added")}
    for name in _TEXTS:
        if read[name] is not None and _ESCAPE in read[name]:
            read[name] = read_text(read[name])
    return GalleryRow(**read)
