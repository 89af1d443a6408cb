"""Answers of a search for people and programs: one per person or track, and as JSON, CSV or a page."""

import base64
import csv
import html
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from aga_model.files import UnreadableImageError, whole_file
from aga_model.gallery import GalleryRow, Hit, shown_image

COLUMNS = (
    "query", "rank", "score", "itm_score", "path", "source", "frame", "offset", "box", "camera", "time", "person_id",
    "track", "detection_score", "id",
)  # fmt: skip
_THUMBNAIL = (160, 320)  # pixels
_HALF_CHARACTERS = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # which stand for no byte of a file name
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #141414; background: #fff; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
ul.notes { color: #555; }
ol.hits { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 1rem; }
ol.hits li { width: 170px; border: 1px solid #ddd; padding: 4px; overflow-wrap: anywhere; font-size: 12px; }
ol.hits img { display: block; margin: 0 auto; height: 240px; max-width: 160px; object-fit: contain; }
ol.hits b { font-size: 14px; }
"""


@dataclass(frozen=True)
class Answer:
    """
    What was found for one query.

    Args:
        query (`str`): the sentence, or what the image was called.
        hits (`list[Hit]`): best first.
        notes (`list[str]`): what the reader should know of this search.
    """

    query: str
    hits: list[Hit]
    notes: list[str] = field(default_factory=list)


def _by_person(row: GalleryRow) -> tuple[str, ...] | None:
    return None if row.person_id is None else (row.person_id,)


def _by_track(row: GalleryRow) -> tuple[str, ...] | None:
    return None if row.track is None else (row.source, row.track)


# What results can be collapsed by -> whom an image shows; None where the gallery does not say.
COLLAPSES: dict[str, Callable[[GalleryRow], tuple[str, ...] | None]] = {"person": _by_person, "track": _by_track}


def collapse(hits: Iterable[Hit], by: str) -> list[Hit]:
    """
    The best hit of each person or track, ranked anew; an image of which neither is known stays.

    Args:
        hits: best first.
        by: `person` for the person id, `track` for the track within its video.

    Raises:
        ValueError: another `by`.
    """
    if by not in COLLAPSES:
        raise ValueError(f"collapse by {', '.join(COLLAPSES)}, not by {by!r}")
    seen: set[tuple[str, ...]] = set()
    kept = []
    for hit in hits:
        group = COLLAPSES[by](hit.row)
        if group is not None and group in seen:
            continue
        if group is not None:
            seen.add(group)
        kept.append(hit)
    return [replace(hit, rank=rank) for rank, hit in enumerate(kept, start=1)]


def with_faces_hidden(answer: Answer) -> Answer:
    """The answer with faces hidden in all of its images when they are shown or saved."""
    return replace(answer, hits=[replace(hit, hide_faces=True) for hit in answer.hits])


def hit_values(hit: Hit) -> dict[str, Any]:
    """A hit as JSON values: rank, scores and everything that the gallery knows of the image."""
    match = {} if hit.itm_score is None else {"itm_score": hit.itm_score}
    return {"rank": hit.rank, "score": hit.score, **match, **hit.row.to_dict()}


def write_csv(answers: Sequence[Answer], file: str | os.PathLike) -> None:
    """
    One line per hit, columns as in `COLUMNS`; what is not known is empty, a time is ISO 8601 in UTC.

    A text that a spreadsheet would run as a formula begins with an apostrophe. The file is UTF-8, but for file names
    that are not: their bytes are written as they are. `open(file, errors="surrogateescape", newline="")` reads all
    names as Python writes them.

    Raises:
        OSError: the file cannot be written; names it.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for answer in answers:
        for hit in answer.hits:
            values = {"query": answer.query, **hit_values(hit)}
            values["time"] = _iso(hit.row.time)
            writer.writerow([_cell(values.get(column)) for column in COLUMNS])
    _write(file, stream.getvalue())


def _write(file: str | os.PathLike, text: str) -> None:
    """Write text whole or not at all; bytes of file names that are no UTF-8 stay what they are."""
    content = _HALF_CHARACTERS.sub("?", text).encode("utf-8", "surrogateescape")
    with whole_file(file) as place:
        place.write_bytes(content)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _iso(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write_page(answers: Sequence[Answer], file: str | os.PathLike, title: str) -> None:
    """
    One HTML file that needs no other: a section per query with its images, scores and facts. File names that are not
    UTF-8 are written as [`write_csv`] does; a browser shows a sign for what it cannot read.

    Args:
        answers: in the order of the page.
        file: to write, such as result.html.
        title: of the page.

    Raises:
        OSError: the file cannot be written; names it.
    """
    sections = "".join(_section(answer) for answer in answers)
    heading = html.escape(title)
    _write(
        file,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{heading}</h1>{sections}</body></html>\n",
    )


def _section(answer: Answer) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in answer.notes)
    hits = "".join(_item(hit) for hit in answer.hits) or "<li>no results</li>"
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    return f'<section><h2>{html.escape(answer.query)}</h2>{listed}<ol class="hits">{hits}</ol></section>'


def _item(hit: Hit) -> str:
    row = hit.row
    facts = [f"cosine {hit.score:.4f}"]
    if hit.itm_score is not None:
        facts.append(f"ITM log-odds {hit.itm_score:.3f}")
    known = (("camera", row.camera), ("time", _iso(row.time)), ("person", row.person_id), ("track", row.track))
    facts += [f"{name} {value}" for name, value in known if value]
    if row.offset is not None:
        facts.append(f"{row.offset:.2f} s into the video")
    lines = "<br>".join(html.escape(fact) for fact in (*facts, str(hit.path)))
    return f"<li>{_thumbnail(hit)}<b>{hit.rank}</b> {lines}</li>"


def _thumbnail(hit: Hit) -> str:
    try:
        image = shown_image(hit)
    except UnreadableImageError as error:
        return f"<p>{html.escape(str(error))}</p>"
    image.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="rank {hit.rank}" src="data:image/jpeg;base64,{data}">'


__all__ = ["COLLAPSES", "Answer", "collapse", "hit_values", "with_faces_hidden", "write_csv", "write_page"]
