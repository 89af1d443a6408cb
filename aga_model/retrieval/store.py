"""
What a gallery keeps of an image, and what a store must be able to do with it.

Two stores fulfil [`GalleryStore`]: LanceDB in a folder (`lance_store`) and a Milvus server (`milvus_store`). Both hold
one entry per image or crop, an embedding and a [`GalleryRow`], and both are asked with a [`Filter`]. What they share
is here: the order of results, which is that of exact scores, and how the recall of an approximate index is measured.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

FORMAT_VERSION = 3
OLDEST_VERSION = 2  # that is still read
EXACT_ROWS = 50_000  # up to here a gallery has no approximate index: a search compares with every row
RECALL_AT = 10
_RECALL_QUERIES = 64
_RECALL_TIMES = (0.5, 0.9, 0.98)  # from which on a filter leaves rows, of the times of the queried ones
_GATHERED = 0.25  # of fewer rows than this share a copy is made; of more, all scores are computed
SCORE_MARGIN = 1e-5  # more than float32 rounding moves a cosine
_ID_CHARACTERS = 32  # 128 bits: among a billion rows two share an id with a chance of 1e-21
_ESCAPE = "\x1a"
_REMEDY = "make the gallery again with `aga index --overwrite`"


class GalleryError(ValueError):
    """A gallery that is damaged, cannot be reached, does not fit the model, or is in the way."""


@dataclass(frozen=True)
class GalleryRow:
    """
    What a gallery knows of one person image: a file, or a crop of a file or of a video frame.

    Args:
        source (`str`): absolute path of the image or video file that the person was seen in.
        source_hash (`str`): SHA-256 of that file in hexadecimal.
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


def check_row(row: GalleryRow) -> None:
    """Raise ValueError for a row that a gallery cannot hold; names the field."""
    for name in ("source", "path"):
        value = getattr(row, name)
        if value and not os.path.isabs(value):
            raise ValueError(f"{name} of a gallery row must be an absolute path, got {value!r}")
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


@dataclass(frozen=True)
class Filter:
    """
    Which images of a gallery: those that fulfil every given condition. A field that is None says nothing.

    ```python
    >>> Filter(cameras=["entrance"], since=datetime(2026, 3, 1))
    ```

    Args:
        cameras, person_ids, tracks: images with one of these; a number stands for its digits.
        sources, paths: images of one of these source files, or with one of these paths; relative ones are taken from
            the working folder.
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
        for name in ("sources", "paths"):
            self._normalise(name, os.path.abspath)
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

    @property
    def is_empty(self) -> bool:
        """Whether it lets every image through."""
        return not self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """The conditions that it has, as JSON values; `Filter(**values)` is an equal one."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
                if value is not None}  # fmt: skip


@dataclass(frozen=True)
class GallerySettings:
    """
    What whoever keeps a gallery has laid down for everyone who uses it; it lies with the gallery.

    Args:
        keep_seconds (`float`, *optional*): how long images are kept, from when they were taken, or, where that is not
            known or lies behind it, from when they were added. Older ones are never returned, and erased by the next
            write.
        audit (`str`, *optional*): absolute path of the file that every search, export and deletion is written to.
        purpose_required (`bool`): whether each of these must say what it is for.
        hide_faces (`bool`): whether faces are hidden in everything that is shown or saved. No viewer can show them.

    Raises:
        ValueError: a value of the wrong kind; names it.
    """

    keep_seconds: float | None = None
    audit: str | None = None
    purpose_required: bool = False
    hide_faces: bool = False

    def __post_init__(self) -> None:
        keep = self.keep_seconds
        if keep is not None and not (type(keep) in (int, float) and 0 < keep < math.inf):
            raise ValueError(f"keep_seconds of a gallery must be a positive number, got {keep!r}")
        if self.audit is not None and not (isinstance(self.audit, str) and os.path.isabs(self.audit)):
            raise ValueError(f"audit of a gallery must be the absolute path of a file, got {self.audit!r}")
        for name in ("purpose_required", "hide_faces"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} of a gallery must be true or false, got {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: Any, place: str) -> "GallerySettings":
        """
        Read what `asdict` gave.

        Raises:
            GalleryError: it is damaged, or has settings that this version does not know, and so could not keep to;
                names `place`.
        """
        if not isinstance(values, dict):
            raise GalleryError(f"{place} is damaged (settings are {values!r}): {_REMEDY}")
        if unknown := sorted(set(values) - {each.name for each in fields(cls)}):
            raise GalleryError(
                f"{place} has the setting {unknown[0]}, which this version does not know: update aga-model"
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise GalleryError(f"{place} is damaged ({error}): {_REMEDY}") from error


@dataclass(frozen=True)
class Manifest:
    """
    What a gallery was made with. It lies beside the rows, in the store's own way.

    Args:
        model_name (`str`): folder or Hub name of the model.
        model_hash (`str`): of its weights, see [`PersonEncoder.model_hash`].
        dim (`int`): of the embeddings.
    """

    model_name: str
    model_hash: str
    dim: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the format version."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, text: str, place: str) -> "Manifest":
        """
        Read what `to_dict` gave; further keys are the store's own.

        Raises:
            GalleryError: it is damaged, or of another format version; names `place`.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise GalleryError(f"{place} is damaged ({error}): {_REMEDY}") from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if not isinstance(version, int):
            raise GalleryError(f"{place} is damaged (no format_version): {_REMEDY}")
        if version < OLDEST_VERSION:
            raise GalleryError(
                f"{place} has format version {version}, which this version no longer reads: index the images again "
                "with `aga index --overwrite`"
            )
        if version > FORMAT_VERSION:
            raise GalleryError(f"{place} has format version {version}: update aga-model to read it")
        kinds = {"model_name": str, "model_hash": str, "dim": int}
        for key, kind in kinds.items():
            if not isinstance(content.get(key), kind):
                raise GalleryError(f"{place} is damaged ({key} is {content.get(key)!r}): {_REMEDY}")
        return cls(**{key: content[key] for key in kinds})


@dataclass(frozen=True)
class VectorIndex:
    """
    How a store finds the nearest embeddings.

    Args:
        kind (`str`): FLAT compares with every row; the others are approximate, such as IVF_RQ.
        rows (`int`): rows that the index covers. Every other row is compared with, too.
        held (`bool`): searches are exact nevertheless, since the embeddings fit into memory; those by source or path
            ask the index.
    """

    kind: str
    rows: int
    held: bool = False


@dataclass(frozen=True)
class FilteredRecall:
    """
    How much of the exact result a search with a filter finds.

    Args:
        share (`float`): of the rows that the filter leaves, in (0, 1].
        recall (`float`): share in [0, 1] of the exact 10 best rows that the filter leaves among those that a search
            finds, for the queries of [`VectorIndexReport`].
    """

    share: float
    recall: float


@dataclass(frozen=True)
class VectorIndexReport:
    """
    What `build_index` did.

    Args:
        kind (`str`): FLAT where the gallery is small enough to compare with every row.
        rows (`int`): rows in the index.
        seconds (`float`): time taken, without measuring the recall.
        recall (`float`): share in [0, 1] of the exact 10 best rows among the 10 that a search finds, for embeddings of
            the gallery as queries.
        queries (`int`): how many of these were asked.
        reason (`str`): why it is of this kind, where it is not the usual one.
        filtered (`tuple` of [`FilteredRecall`]): the same with filters by the times and cameras of the gallery, by
            falling share; empty where its rows have neither.
    """

    kind: str
    rows: int
    seconds: float
    recall: float
    queries: int
    reason: str = ""
    filtered: tuple[FilteredRecall, ...] = ()


@dataclass(frozen=True)
class ScoredRow:
    """A row and its cosine similarity with the query, in [-1, 1]."""

    score: float
    row: GalleryRow


class GalleryStore(Protocol):
    """
    Embeddings and rows on disk or on a server. What `add` and `delete` have returned from is durable and is seen by
    every other process. Embeddings and rows come checked; see [`Gallery`].
    """

    manifest: Manifest

    @property
    def settings(self) -> GallerySettings:
        """What was laid down for this gallery, as it stands now."""

    def change_settings(self, settings: GallerySettings) -> None:
        """Lay down other settings."""

    @property
    def unfinished(self) -> str:
        """What is left to do of a deletion that was interrupted, in a sentence; empty if there is nothing."""

    def add(
        self, embeddings: np.ndarray, rows: Sequence[GalleryRow], crops: Sequence[Image.Image | None] | None = None
    ) -> None:
        """
        Add float32 unit rows (n, dim). A row takes the place of the row with its id, and of all rows of the same
        source with another hash. Of equal ids in `rows` the last counts. Crops are saved where the store has a place
        for them.
        """

    def search(self, queries: np.ndarray, top_k: int, where: Filter | None = None) -> list[list[ScoredRow]]:
        """The best rows for each of the float32 unit rows (n, dim): by falling score, equal ones by id."""

    def delete(self, where: Filter) -> int:
        """
        Remove rows and their saved crops; returns how many rows. A LanceDB store leaves no byte of them, nor of what
        earlier writes replaced, also when it removes none; see `milvus_store` for a server.
        """

    def count(self, where: Filter | None = None) -> int:
        """Number of rows."""

    def rows(self, where: Filter | None = None) -> Iterator[GalleryRow]:
        """Rows in no particular order."""

    def embeddings(self, where: Filter | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids of rows and their embeddings, float32 (n, dim), a few thousand at a time, in no particular order."""

    def vector_index(self) -> VectorIndex:
        """How searches are answered now."""

    def build_index(self) -> VectorIndexReport:
        """Index all rows for fast approximate search, where there are more than an exact search does quickly."""

    def compact(self) -> None:
        """Merge small files and drop what was replaced or deleted."""


def last_of_each(rows: Sequence[GalleryRow]) -> list[int]:
    """Which remain of rows that are added one by one: the last of each id, of each source those of its last hash."""
    hashes = {row.source: row.source_hash for row in rows}
    last = {row.id: index for index, row in enumerate(rows)}
    return [index for index in sorted(last.values()) if hashes[rows[index].source] == rows[index].source_hash]


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


class BestRows:
    """
    The best rows of a stream of rows, for several queries at a time: by falling exact score, equal ones by id.

    Args:
        queries: float32 (n, dim), unit rows.
        top_k: rows that are kept for each query.
    """

    def __init__(self, queries: np.ndarray, top_k: int):
        self._queries = np.array(queries)  # torch wants one that can be written
        self._top_k = top_k
        self._best: list[list[tuple[float, str]]] = [[] for _ in queries]

    def update(self, ids: Sequence[Any], embeddings: np.ndarray, allowed: np.ndarray | None = None) -> None:
        """
        Go on with rows.

        Args:
            ids: as `str` gives them.
            embeddings: float32 (n, dim).
            allowed: which of them count, bool (n,); all without.
        """
        places = None
        if allowed is not None and allowed.mean() < _GATHERED:
            places = np.flatnonzero(allowed)
            embeddings, allowed = embeddings[places], None
        rough = _products(embeddings, self._queries)
        for number, query in enumerate(self._queries):
            candidates = self._candidates(rough[:, number], self._best[number], allowed)
            if len(candidates):
                scores = exact_scores(embeddings[candidates], query)
                rows = candidates if places is None else places[candidates]
                found = [(-score, str(ids[index])) for score, index in zip(scores.tolist(), rows.tolist())]
                self._best[number] = sorted([*self._best[number], *found])[: self._top_k]

    def _candidates(self, rough: np.ndarray, best: list[tuple[float, str]], allowed: np.ndarray | None) -> np.ndarray:
        """Indices of rows that may be among the best; a matrix product rounds by position."""
        if allowed is not None:
            rough = np.where(allowed, rough, -np.inf)
        bound = float(np.finfo(np.float32).min)
        if len(best) == self._top_k:
            bound = -best[-1][0] - SCORE_MARGIN
        if len(rough) > self._top_k:
            place = len(rough) - self._top_k
            bound = max(bound, float(np.partition(rough, place)[place]) - SCORE_MARGIN)
        return np.flatnonzero(rough >= bound)

    @staticmethod
    def tied(first: float, second: float) -> bool:
        """Whether two scores are so close that rounding may exchange their rows in another's order."""
        return abs(first - second) <= SCORE_MARGIN

    def found(self) -> list[list[tuple[str, float]]]:
        """For each query the ids and scores of its best rows."""
        return [[(row_id, -negative) for negative, row_id in best] for best in self._best]


def _products(embeddings: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """
    All dot products, float32 (n, queries), by torch where the rows are in memory that can be written: numpy's threads
    go on spinning on the cores that torch's want for the next sentence.
    """
    if embeddings.flags.writeable:
        return (torch.from_numpy(embeddings) @ torch.from_numpy(queries).T).numpy()
    return embeddings @ queries.T


def exact_scores(embeddings: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products with a query in float64, in the same order of additions for every row: equal rows score equally."""
    return (embeddings * query.astype(np.float64)).sum(axis=1)


def measure_recall(store: GalleryStore) -> tuple[float, int, tuple[FilteredRecall, ...]]:
    """
    The share of the exact best rows that a search finds, the number of queries, which are embeddings from all over
    the gallery, and the share with filters that leave about a half, a tenth and a fiftieth of the rows, and with those
    by the most and the least frequent camera.
    """
    queries = _spread_queries(store)
    if not len(queries):
        return 1.0, 0, ()
    recall = _recall(store, queries, None)
    filters = _filters(found[0].row for found in store.search(queries, 1) if found)
    total = store.count()
    filtered = [
        FilteredRecall(store.count(where) / total, measured)
        for where in filters
        if (measured := _recall(store, queries, where)) is not None
    ]
    return recall or 0.0, len(queries), tuple(sorted(filtered, key=lambda each: -each.share))


def _spread_queries(store: GalleryStore) -> np.ndarray:
    step = max(1, store.count() // _RECALL_QUERIES)
    picked, start = [np.empty((0, store.manifest.dim), np.float32)], 0
    for _, embeddings in store.embeddings():
        picked.append(embeddings[-start % step :: step])
        start += len(embeddings)
    return np.concatenate(picked)[:_RECALL_QUERIES]


def _filters(rows: Iterable[GalleryRow]) -> list[Filter]:
    """Filters by what a sample of the rows has."""
    sample = list(rows)
    times = sorted(row.time for row in sample if row.time is not None)
    cameras = Counter(row.camera for row in sample if row.camera is not None).most_common()
    since = {times[int(len(times) * place)] for place in _RECALL_TIMES} if times else set()
    named = {cameras[place][0] for place in (0, -1)} if len(cameras) > 1 else set()
    return [Filter(since=time) for time in sorted(since)] + [Filter(cameras=[camera]) for camera in sorted(named)]


def _recall(store: GalleryStore, queries: np.ndarray, where: Filter | None) -> float | None:
    """None where no row fulfils the filter."""
    best = BestRows(queries, RECALL_AT)
    for ids, embeddings in store.embeddings(where):
        best.update(ids, embeddings)
    hits = wanted = 0
    for exact, found in zip(best.found(), store.search(queries, RECALL_AT, where)):
        hits += len({row_id for row_id, _ in exact} & {scored.row.id for scored in found})
        wanted += len(exact)
    return hits / wanted if wanted else None
