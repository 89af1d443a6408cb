"""A picture of an explanation: the image, and beside it one copy for each word with the word's heat in colour."""

import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .explanation import Explanation
from .picture import (
    _CAPTION_LINES,
    _FRAME,
    _INK,
    _LINE_HEIGHT,
    _MARGIN,
    _MIN_COLUMNS,
    _NO_FRAME,
    _QUERY_LINE_HEIGHT,
    _QUERY_SIZE,
    _RIGHT,
    _TEXT_SIZE,
    _WRONG,
    COLUMNS,
    TILE_HEIGHT,
    TILE_WIDTH,
    _font,
    _printable,
    _width,
    _wrap,
    picture_format,
    save_picture,
)

Rgb = tuple[int, int, int]
Tile = tuple[Image.Image, tuple[str, str]]  # an image that fits into it, and the two lines below

MAX_WORDS = 9  # with the image itself two full rows
_GAP = 6  # pixels between the sentence and the note below it
_LEAST = 0.1  # of the largest contribution; words with less say nothing about the image, and neither does their heat
_WHITENED = 0.3  # of the way from the grey image to white, so that the colour of the heat stands out
_OPACITY = 0.8  # where the heat is highest
_NEUTRAL = (235, 120, 20)  # attention is neither for nor against the image
_NOTES = {
    "occlusion": "colour: what speaks for the word (green) or against it (red); number: its part in the similarity",
    "cross_attention": "colour: what the word attends to; number: its part in the similarity",
}


def save_explanation_picture(
    explanation: Explanation, image: Image.Image, path: str | os.PathLike, max_words: int = MAX_WORDS
) -> Image.Image:
    """
    Draw an explanation as [`explanation_image`] does and save it in the format of the path's suffix.

    The file is there whole or not at all.

    Returns:
        The RGB picture.

    Raises:
        ValueError: `max_words` is below 1, or the suffix is no image format.
        OSError: the file cannot be written; names it.
    """
    image_format = picture_format(path, "explanation.png")
    picture = explanation_image(explanation, image, max_words)
    save_picture(picture, path, image_format)
    return picture


def explanation_image(explanation: Explanation, image: Image.Image, max_words: int = MAX_WORDS) -> Image.Image:
    """
    Draw an explanation: the sentence above, the image, and a faded copy of it for each word with the word's heat.

    Each word's heat is drawn on its own scale; the number below it is the word's contribution. Words are in the order
    of the sentence. Drawn are those with the largest contributions, for or against the image, of at least a tenth of
    the largest. The others are named below.

    Args:
        explanation: of `image`.
        image: RGB, of any size; it keeps its proportions.
        max_words: words to draw at most.

    Returns:
        The RGB picture, up to 900 pixels wide.

    Raises:
        ValueError: `max_words` is below 1.
    """
    if max_words < 1:
        raise ValueError(f"max_words must be at least 1, got {max_words}")
    shown, left_out = _choose(explanation.contributions, max_words)
    fitted = _fit(image)
    tiles = [(fitted, _scores(explanation))]
    for word in shown:
        overlaid = _overlay(fitted, explanation.heat[word], explanation.image_box, _colour(explanation, word))
        tiles.append((overlaid, (explanation.words[word], f"{explanation.contributions[word]:+.3f}")))
    return _arrange(explanation.query, _NOTES[explanation.method], tiles, _note_of_others(explanation, left_out))


def _arrange(query: str, note: str, tiles: Sequence[Tile], below: str) -> Image.Image:
    """The sentence and a note above the tiles, which fill their rows evenly, and another note below."""
    rows = -(-len(tiles) // COLUMNS)
    columns = max(-(-len(tiles) // rows), _MIN_COLUMNS)
    width = _MARGIN + columns * (TILE_WIDTH + _MARGIN)
    query_lines = _wrap(query, _QUERY_SIZE, width - 2 * _MARGIN)
    note_lines, last_lines = (_wrap(text, _TEXT_SIZE, width - 2 * _MARGIN) for text in (note, below))
    note_top = _MARGIN + len(query_lines) * _QUERY_LINE_HEIGHT + _GAP
    tiles_top = note_top + len(note_lines) * _LINE_HEIGHT + _MARGIN
    cell_height = TILE_HEIGHT + _CAPTION_LINES * _LINE_HEIGHT + _MARGIN
    tiles_bottom = tiles_top + rows * cell_height
    height = tiles_bottom + (len(last_lines) * _LINE_HEIGHT + _MARGIN if last_lines else 0)
    picture = Image.new("RGB", (width, height), "white")
    _write(picture, query_lines, _MARGIN, _QUERY_SIZE, _QUERY_LINE_HEIGHT)
    _write(picture, note_lines, note_top, _TEXT_SIZE, _LINE_HEIGHT)
    _write(picture, last_lines, tiles_bottom, _TEXT_SIZE, _LINE_HEIGHT)
    for number, (image, caption) in enumerate(tiles):
        left = _MARGIN + number % columns * (TILE_WIDTH + _MARGIN)
        _draw_tile(picture, image, left, tiles_top + number // columns * cell_height, caption)
    return picture


def _choose(contributions: np.ndarray, max_words: int) -> tuple[list[int], list[int]]:
    """The words to draw and the others, each in the order of the sentence."""
    sizes = np.abs(contributions)
    ranked = np.argsort(-sizes, kind="stable")
    count = min(max_words, max(1, int((sizes >= _LEAST * sizes.max()).sum())))
    return sorted(ranked[:count].tolist()), sorted(ranked[count:].tolist())


def _colour(explanation: Explanation, word: int) -> Rgb:
    if explanation.method != "occlusion":
        return _NEUTRAL
    return _WRONG if explanation.contributions[word] < 0 else _RIGHT


def _note_of_others(explanation: Explanation, words: list[int]) -> str:
    if not words:
        return ""
    most = np.abs(explanation.contributions[words]).max()
    names = ", ".join(explanation.words[word] for word in words)
    return f"not shown, with contributions of {most:.3f} at most: {names}"


def _scores(explanation: Explanation) -> tuple[str, str]:
    itm = "" if explanation.itm_score is None else f"ITM {explanation.itm_score:.2f}"
    return f"similarity {explanation.similarity:.3f}", itm


def _write(picture: Image.Image, lines: list[str], top: int, size: int, line_height: int) -> None:
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, top + number * line_height), line, fill=_INK, font=_font(size))


def _draw_tile(picture: Image.Image, image: Image.Image, left: int, top: int, caption: tuple[str, str]) -> None:
    draw = ImageDraw.Draw(picture)
    box = left, top, left + TILE_WIDTH - 1, top + TILE_HEIGHT - 1
    draw.rectangle(box, fill="white", outline=_NO_FRAME, width=_FRAME)
    picture.paste(image, (left + (TILE_WIDTH - image.width) // 2, top + (TILE_HEIGHT - image.height) // 2))
    for number, text in enumerate(caption):
        line = _first_part(_printable(text, _TEXT_SIZE))
        draw.text((left, top + TILE_HEIGHT + 2 + number * _LINE_HEIGHT), line, fill=_INK, font=_font(_TEXT_SIZE))


def _first_part(text: str) -> str:
    """The beginning of a word that is wider than its tile."""
    if _width(text, _TEXT_SIZE) <= TILE_WIDTH:
        return text
    while text and _width(text + "...", _TEXT_SIZE) > TILE_WIDTH:
        text = text[:-1]
    return text + "..."


def _fit(image: Image.Image) -> Image.Image:
    """The image scaled into its tile without distortion."""
    scale = min((TILE_WIDTH - 2 * _FRAME) / image.width, (TILE_HEIGHT - 2 * _FRAME) / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _overlay(
    image: Image.Image, heat: np.ndarray, image_box: tuple[float, float, float, float] | None, colour: Rgb
) -> Image.Image:
    """
    The image in light grey, and heat (rows, columns) on it as a colour that covers the more the hotter it is.

    `image_box` is that of the [`Explanation`].
    """
    grey = image.convert("L").convert("RGB")
    faded = Image.blend(grey, Image.new("RGB", image.size, "white"), _WHITENED)
    values = _on_image(heat, image_box, image.size).clip(min=0)
    opacity = _OPACITY * values / max(float(values.max()), float(np.finfo(np.float32).tiny))
    mask = Image.fromarray(np.rint(255 * opacity).astype(np.uint8))
    return Image.composite(Image.new("RGB", image.size, colour), faded, mask)


def _on_image(
    heat: np.ndarray, image_box: tuple[float, float, float, float] | None, size: tuple[int, int]
) -> np.ndarray:
    """
    Heat (rows, columns) smoothly on the pixels of an image, (height, width).

    The image was given to the model whole, without a crop. Outside the grid the heat is that of the nearest patch.
    """
    rows, columns = heat.shape
    left, top, right, bottom = image_box or (0.0, 0.0, columns, rows)
    margin = max(0, math.ceil(max(-left, -top, right - columns, bottom - rows)))
    padded = Image.fromarray(np.pad(heat.astype(np.float32), margin, mode="edge"))
    box = left + margin, top + margin, right + margin, bottom + margin
    return np.asarray(padded.resize(size, Image.Resampling.BICUBIC, box=box))
