"""A picture of search results: the sentence above, the images below it with rank, score and file name."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from aga_model.files import UnreadableImageError, whole_file
from aga_model.gallery import Hit, shown_image

COLUMNS = 5  # images in a row of a picture
TILE_WIDTH, TILE_HEIGHT = 160, 320  # pixels of the place for an image
_MARGIN = 16
_FRAME = 5
_TEXT_SIZE, _QUERY_SIZE = 14, 20
_LINE_HEIGHT, _QUERY_LINE_HEIGHT = 18, 26
_MAX_LINES = 8
_CAPTION_LINES = 2
_MIN_COLUMNS = 3  # room for the sentence above a single image
_RIGHT, _WRONG, _NO_FRAME = (30, 150, 60), (200, 40, 40), (210, 210, 210)
_GREY, _INK = (225, 225, 225), (20, 20, 20)
_FONT_FILES = ("DejaVuSans.ttf", "Arial.ttf")


def save_result_picture(
    query: str, hits: Sequence[Hit], path: str | os.PathLike, correct: Sequence[bool] | None = None
) -> Image.Image:
    """
    Draw the results of one query and save the picture in the format of the path's suffix. The file is there whole or
    not at all.

    Images keep their proportions; a file that is gone or damaged becomes a grey box that says so. Characters that the
    font lacks are drawn as their base letter or as a question mark.

    Args:
        query: the sentence.
        hits: results of `Gallery.search` for one query, best first.
        path: file to write, such as result.png.
        correct: whether each hit shows the right person; draws a green or red frame.

    Returns:
        The RGB picture.

    Raises:
        ValueError: `correct` has another length than `hits`, or the suffix is no image format.
        OSError: the file cannot be written; names it.
    """
    if correct is not None and len(correct) != len(hits):
        raise ValueError(f"{len(hits)} hits but {len(correct)} values in `correct`")
    image_format = picture_format(path, "result.png")
    picture = _draw(query, hits, correct)
    save_picture(picture, path, image_format)
    return picture


def picture_format(path: str | os.PathLike, example: str) -> str:
    """
    The image format that a path's suffix names.

    Args:
        path: of a picture that is to be written.
        example: of a good name.

    Raises:
        ValueError: it names none in which pictures can be written.
    """
    image_format = Image.registered_extensions().get(Path(path).suffix.lower(), "")
    if image_format not in Image.SAVE:
        raise ValueError(f"{path} has no suffix of an image format: use a name such as {example}")
    return image_format


def save_picture(picture: Image.Image, path: str | os.PathLike, image_format: str) -> None:
    """
    Save a picture so that the file is there whole or not at all.

    Raises:
        OSError: the file cannot be written; names it.
    """
    with whole_file(path) as file:
        picture.save(file, format=image_format)


def stack_pictures(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, at least one."""
    stack = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), "white")
    top = 0
    for picture in pictures:
        stack.paste(picture, (0, top))
        top += picture.height
    return stack


def _draw(query: str, hits: Sequence[Hit], correct: Sequence[bool] | None) -> Image.Image:
    columns = min(COLUMNS, max(len(hits), _MIN_COLUMNS))
    width = _MARGIN + columns * (TILE_WIDTH + _MARGIN)
    lines = _wrap(query, _QUERY_SIZE, width - 2 * _MARGIN) or [""]
    top = 2 * _MARGIN + len(lines) * _QUERY_LINE_HEIGHT
    cell_height = TILE_HEIGHT + _CAPTION_LINES * _LINE_HEIGHT + _MARGIN
    height = top + -(-max(len(hits), 1) // columns) * cell_height
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _QUERY_LINE_HEIGHT), line, fill=_INK, font=_font(_QUERY_SIZE))
    if not hits:
        draw.text((_MARGIN, top), "no results", fill=_INK, font=_font(_TEXT_SIZE))
    for index, hit in enumerate(hits):
        left = _MARGIN + index % columns * (TILE_WIDTH + _MARGIN)
        colour = _NO_FRAME if correct is None else _RIGHT if correct[index] else _WRONG
        _draw_hit(picture, hit, left, top + index // columns * cell_height, colour)
    return picture


def _draw_hit(picture: Image.Image, hit: Hit, left: int, top: int, frame: tuple[int, int, int]) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle(
        (left, top, left + TILE_WIDTH - 1, top + TILE_HEIGHT - 1), fill="white", outline=frame, width=_FRAME
    )
    room = TILE_WIDTH - 2 * _FRAME, TILE_HEIGHT - 2 * _FRAME
    image = _load(hit, room)
    picture.paste(image, (left + (TILE_WIDTH - image.width) // 2, top + (TILE_HEIGHT - image.height) // 2))
    below = top + TILE_HEIGHT + 2
    font = _font(_TEXT_SIZE)
    score = f"{hit.score:.3f}" if hit.itm_score is None else f"ITM {hit.itm_score:.2f}  ({hit.score:.3f})"
    draw.text((left, below), f"{hit.rank}.  {score}", fill=_INK, font=font)
    name = _shorten(_printable(hit.path.name, _TEXT_SIZE), TILE_WIDTH)
    draw.text((left, below + _LINE_HEIGHT), name, fill=_INK, font=font)


def _load(hit: Hit, room: tuple[int, int]) -> Image.Image:
    """The image scaled into `room` (width, height) without distortion, or a grey box of that size."""
    try:
        image = shown_image(hit)
    except UnreadableImageError as error:
        return _grey_box("missing" if not hit.path.exists() else "unreadable", error.reason, room)
    scale = min(room[0] / image.width, room[1] / image.height)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )


def _grey_box(title: str, reason: str, room: tuple[int, int]) -> Image.Image:
    box = Image.new("RGB", room, _GREY)
    draw = ImageDraw.Draw(box)
    for number, line in enumerate([title, *_wrap(reason, _TEXT_SIZE, room[0] - 16)]):
        draw.text((8, 8 + number * _LINE_HEIGHT), line, fill=_INK, font=_font(_TEXT_SIZE))
    return box


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A common font of the system, otherwise PIL's own, which has ASCII letters only."""
    for name in _FONT_FILES:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size=size)


@cache
def _has_glyph(character: str, size: int) -> bool:
    if character == " ":
        return True
    mask, missing = _font(size).getmask(character), _font(size).getmask("\uffff")
    return bool(mask.size[0]) and (mask.size, bytes(mask)) != (missing.size, bytes(missing))


def _printable(text: str, size: int) -> str:
    return "".join(_printable_character(character, size) for character in unicodedata.normalize("NFC", text))


def _printable_character(character: str, size: int) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character).startswith("C"):  # control and format characters, halves of damaged names
        return "" if unicodedata.category(character) == "Cf" else "?"
    if _has_glyph(character, size):
        return character
    base = unicodedata.normalize("NFKD", character)[0]
    return base if base.isascii() and base.isprintable() else "?"


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of printable text no wider than `width` pixels; words that are too long are broken."""
    lines = [""]
    for word in _printable(text, size).split():
        joined = f"{lines[-1]} {word}".strip()
        if _width(joined, size) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        lines[-1:] = _break(word, lambda piece: _width(piece, size) <= width)
        if len(lines) > _MAX_LINES:
            lines = lines[:_MAX_LINES]
            while _width(lines[-1] + " ...", size) > width:
                lines[-1] = lines[-1][:-1]
            lines[-1] += " ..."
            break
    return [line for line in lines if line]


def _break(word: str, fits: Callable[[str], bool]) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and not fits(pieces[-1] + character):
            pieces.append("")
        pieces[-1] += character
    return pieces


def _shorten(name: str, width: int) -> str:
    """The end of a file name, which tells frames and crops apart, in at most `width` pixels."""
    if _width(name, _TEXT_SIZE) <= width:
        return name
    end = name
    while end and _width("..." + end, _TEXT_SIZE) > width:
        end = end[1:]
    return "..." + end


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text)
