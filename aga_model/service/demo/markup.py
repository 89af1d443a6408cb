"""
Results and explanations as HTML for the page. Images are part of it, as data, so that no file has to be served.

Every text that comes from the gallery, the model or the person is escaped here: names of files, cameras and persons
may hold anything.
"""

import base64
import html
import io
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from PIL import Image

from aga_model.files import UnreadableImageError
from aga_model.gallery import Hit, shown_image

_THUMBNAIL = (240, 400)  # pixels


def result_cards(hits: Iterable[Hit]) -> str:
    """A grid of buttons, one per result: image, scores and what is known of it. The n-th has `data-index` n."""
    cards = "".join(f"<li>{_card(index, hit)}</li>" for index, hit in enumerate(hits))
    return f'<ol class="aga-results">{cards}</ol>' if cards else ""


def explanation_figure(hit: Hit, picture: Image.Image, sentence: str) -> str:
    """The picture of what each word says about a result, under the result's facts."""
    described = f"what each word of “{sentence}” says about result {hit.rank}"
    facts = " · ".join(f"{_escaped(name)} {_escaped(value)}" for name, value in hit_facts(hit))
    return (
        f'<figure class="aga-explanation"><figcaption><b>Result {hit.rank}: where each word looks</b><br>{facts}'
        f'</figcaption><div class="aga-wide"><img alt="{_escaped(described)}" src="{data_url(picture, "PNG")}"></div>'
        "</figure>"
    )


def message_list(messages: Iterable[str], wrong: bool = False) -> str:
    """Notes about a search, or what went wrong."""
    items = "".join(f"<li>{_escaped(text)}</li>" for text in messages)
    kind = "aga-wrong" if wrong else "aga-notes"
    return f'<ul class="{kind}" role="{"alert" if wrong else "status"}">{items}</ul>' if items else ""


def hit_facts(hit: Hit) -> list[tuple[str, str]]:
    """What is shown of a result: names and values. Of its source only the file's name, which is no path."""
    row = hit.row
    facts = [("cosine", f"{hit.score:.3f}")]
    if hit.itm_score is not None:
        facts.append(("ITM", f"{hit.itm_score:.2f}"))
    facts += [(name, value) for name, value in (("person", row.person_id), ("camera", row.camera)) if value]
    if row.time is not None:
        facts.append(("time", _local_time(row.time)))
    if row.track is not None:
        facts.append(("track", row.track))
    facts.append(("file", Path(row.source).name))
    if row.offset is not None:
        facts.append(("at", f"{row.offset:.2f} s"))
    return facts


def data_url(image: Image.Image, image_format: str) -> str:
    """An image as a URL that holds it."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=85)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _card(index: int, hit: Hit) -> str:
    rows = "".join(f"<dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd>" for name, value in hit_facts(hit))
    label = f"result {hit.rank}, {_escaped(Path(hit.row.source).name)}"
    return (
        f'<button type="button" data-index="{index}" aria-label="{label}">'
        f'<span class="aga-image">{_thumbnail(hit)}<b>{hit.rank}</b></span><dl>{rows}</dl></button>'
    )


def _thumbnail(hit: Hit) -> str:
    try:
        image = shown_image(hit)
    except UnreadableImageError as error:
        return f'<span class="aga-missing">image cannot be read: {_escaped(error.reason)}</span>'
    image.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    return f'<img alt="result {hit.rank}" src="{data_url(image, "JPEG")}">'


def _local_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "minutes")
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return f"{seconds:.0f} s since 1970"


def _escaped(text: str) -> str:
    """Text for HTML. Names of files may hold control characters and bytes that are no text."""
    return html.escape("".join(part if part.isprintable() else "\N{REPLACEMENT CHARACTER}" for part in text))


__all__ = ["data_url", "explanation_figure", "hit_facts", "message_list", "result_cards"]
