"""A picture of what AGM masks and TEM writes: captions with their words shaded by masking probability."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from torch import Tensor

from aga_model.files import read_image
from aga_model.masking import sample_tokens

from .language import encode_image_files, predict_hidden, tokenize_with_offsets, tokens_of_span, undisturbed
from .masking import masking_probabilities

WIDTH = 1200  # pixels, as all lengths below
_DPI = 100
_MARGIN = 24
_CROP_WIDTH, _CROP_HEIGHT = 110, 230  # room for a crop
_TEXT_LEFT = _MARGIN + _CROP_WIDTH + 24
_LINE_HEIGHT, _WORD_HEIGHT = 36, 28
_PADDING = 4  # between a word and the edge of its background
_SPACE = 9
_HEAD_HEIGHT = 88
_ROW_GAP = 36
_BASELINE = 20  # below the top of a word's background
_TITLE, _TEXT, _SMALL = (FontProperties(size=pixels * 72 / _DPI) for pixels in (24, 18, 15))
_INK, _GREY, _LINE = "#1a1a1a", "#8a8a8a", "#d9d9d9"
_OUTLINE, _SAME, _OTHER = "#1f4e9c", "#1b7f3b", "#b3261e"
_SHADES = LinearSegmentedColormap.from_list("masking", ["#ffffff", "#ffd08a", "#f58a2c"])
# A word with its hyphens and apostrophes, or the punctuation between words.
_PIECE = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]+")


@dataclass
class _Word:
    """A piece of a caption, its masking probability (None behind the text length) and what the MLM reads if masked."""

    text: str
    follows_space: bool
    probability: float | None
    predicted: str | None = None
    confidence: float = 1.0


@dataclass
class _Box:
    """Text to draw, placed by [`_place`] with its left edge and line."""

    text: str
    width: float
    gap: float  # to the box in front of it in the line
    breaks: bool  # whether a line may begin here
    word: _Word
    left: float = 0.0
    line: int = 0


def draw_word_attention(
    model,
    processor,
    captions: Sequence[str],
    image_paths: Sequence[str],
    out_path: str | os.PathLike,
    title: str = "What attention-guided masking hides, and what the MLM reads there",
    seed: int = 0,
) -> Path:
    """
    Draw captions with their words shaded by AGM's masking probability, beside their images, as a PNG 1200 pixels wide.

    A word's shade is the sum over its tokens, whatever policy the model was trained with. The outlined words were
    masked in one draw; below the caption stands what the MLM reads there from the image and the rest of the caption:
    its top-1 prediction for each masked token (never a special token), as TEM's arg-max would write it, and the
    product of their probabilities. Words behind the model's text length are grey.

    Args:
        model: AgaForPreTraining.
        processor: AgaProcessor.
        captions, image_paths: equally many; caption i describes image i. About 30 fit in one picture.
        out_path: PNG file to write.
        title: above the rows.
        seed: of the masking; the global random state is left as it was.

    Returns:
        `out_path`.

    Raises:
        ValueError: no caption, or different numbers of captions and images.
        UnreadableImageError: an image is missing or cannot be decoded.
    """
    if not captions or len(captions) != len(image_paths):
        raise ValueError(
            f"each caption needs its image, and one is needed: {len(captions)} captions, {len(image_paths)} images"
        )
    rows = _words(model, processor, captions, image_paths, seed)
    full_shade = model.config.objective_config.mask_max_probability
    layouts = [(_place(_caption_boxes(row)), _place(_prediction_boxes(row))) for row in rows]
    crops = [_fit(read_image(path)) for path in image_paths]
    heights = [
        max(crop.height, (_lines(words) + _lines(predictions)) * _LINE_HEIGHT)
        for (words, predictions), crop in zip(layouts, crops)
    ]
    height = _HEAD_HEIGHT + sum(heights) + _ROW_GAP * len(rows)
    figure = Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    _draw_head(axes, title, full_shade)
    top = float(_HEAD_HEIGHT)
    for (words, predictions), crop, row_height in zip(layouts, crops, heights):
        axes.plot([_MARGIN, WIDTH - _MARGIN], [top, top], color=_LINE, linewidth=0.8)
        top += _ROW_GAP / 2
        left = _MARGIN + (_CROP_WIDTH - crop.width) / 2
        axes.imshow(np.asarray(crop), extent=(left, left + crop.width, top + crop.height, top), aspect="auto")
        _draw_words(axes, words, top, full_shade)
        _draw_predictions(axes, predictions, top + _lines(words) * _LINE_HEIGHT)
        top += row_height + _ROW_GAP / 2
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    path = Path(out_path)
    figure.savefig(path, format="png", dpi=_DPI)
    return path


# --- what to show -----------------------------------------------------------------------------------------------


def _words(model, processor, captions: Sequence[str], image_paths: Sequence[str], seed: int) -> list[list[_Word]]:
    """The words of each caption with their probabilities and, for one draw of AGM, predictions."""
    ids, offsets = tokenize_with_offsets(processor, captions)
    with undisturbed(model, seed):
        probabilities = torch.zeros(ids.shape)
        for row, values in enumerate(masking_probabilities(model, processor, captions, "attention")):
            probabilities[row, : len(values)] = torch.from_numpy(values)
        masked = sample_tokens(probabilities)
        states = encode_image_files(model, processor, image_paths)
        logits = predict_hidden(model, ids.to(model.device), states, masked.to(model.device)).float().cpu()
    logits[:, model.enrichment.forbidden_ids] = float("-inf")
    best = logits.softmax(dim=-1).max(dim=-1)
    confidence, predicted = torch.ones(ids.shape), ids.clone()
    confidence[masked], predicted[masked] = best.values, best.indices
    rows = []
    for row, caption in enumerate(captions):
        words = []
        for match in _PIECE.finditer(caption):
            tokens = tokens_of_span(offsets[row], match.span())
            word = _Word(match.group(), caption[: match.start()][-1:].isspace(), None)
            if tokens:
                word.probability = float(probabilities[row, tokens].sum())
            if masked[row, tokens].any():
                word.predicted = _reading(processor.tokenizer, ids[row, tokens], predicted[row, tokens])
                word.confidence = float(confidence[row, tokens].prod())
            words.append(word)
        rows.append(words)
    return rows


def _reading(tokenizer, original: Tensor, predicted: Tensor) -> str:
    """The predicted tokens of one word, with a space where a prediction ends a word that the original went on with."""
    old, new = (tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in (original, predicted))
    text = ""
    for position, token in enumerate(new):
        text += tokenizer.decode([predicted[position]]).strip()
        if position == len(new) - 1:
            text += "" if token.endswith("</w>") else "…"
        elif token.endswith("</w>") and not old[position].endswith("</w>"):
            text += " "
    return text


# --- where to put it --------------------------------------------------------------------------------------------

_renderer = RendererAgg(1, 1, _DPI)


def _text_width(text: str, font: FontProperties) -> float:
    return _renderer.get_text_width_height_descent(text, font, ismath=False)[0]


def _caption_boxes(words: list[_Word]) -> list[_Box]:
    """One box per word; a word that is wider than the line is cut into several."""
    boxes = []
    for word in words:
        for number, text in enumerate(_cut(word.text, WIDTH - _MARGIN - _TEXT_LEFT - 2 * _PADDING)):
            spaced = word.follows_space and number == 0
            width = _text_width(text, _TEXT) + 2 * _PADDING
            boxes.append(_Box(text, width, _SPACE - _PADDING if spaced else 1, spaced or number > 0, word))
    return boxes


def _prediction_boxes(words: list[_Word]) -> list[_Box]:
    boxes = []
    for word in words:
        if word.predicted is not None:
            text = f"{_shorten(word.text)} → {_shorten(word.predicted)} {word.confidence:.2f}"
            boxes.append(_Box(text, _text_width(text, _SMALL), 26, True, word))
    return boxes


def _cut(text: str, width: float) -> list[str]:
    pieces = [""]
    for character in text:
        if pieces[-1] and _text_width(pieces[-1] + character, _TEXT) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _shorten(text: str, characters: int = 30) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _place(boxes: list[_Box]) -> list[_Box]:
    """Give every box its left edge and line; boxes between which no line may begin stay together if they fit."""
    runs: list[list[_Box]] = []
    for box in boxes:
        if box.breaks or not runs:
            runs.append([])
        runs[-1].append(box)
    right, line = float(_TEXT_LEFT), 0
    for run in runs:
        total = sum(box.width for box in run) + sum(box.gap for box in run[1:])
        begins = right == _TEXT_LEFT
        if not begins and right + run[0].gap + total > WIDTH - _MARGIN:
            right, line = float(_TEXT_LEFT), line + 1
        for box in run:
            begins = right == _TEXT_LEFT
            if not begins and right + box.gap + box.width > WIDTH - _MARGIN:
                right, line, begins = float(_TEXT_LEFT), line + 1, True
            box.left, box.line = right + (0 if begins else box.gap), line
            right = box.left + box.width
    return boxes


def _lines(boxes: list[_Box]) -> int:
    return boxes[-1].line + 1 if boxes else 0


def _fit(image: Image.Image) -> Image.Image:
    """The image scaled into the room for a crop without distortion."""
    scale = min(_CROP_WIDTH / image.width, _CROP_HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


# --- drawing, in pixels from the top left -----------------------------------------------------------------------


def _draw_text(axes: Axes, left: float, baseline: float, text: str, font: FontProperties, **style) -> None:
    axes.text(left, baseline, text, fontproperties=font, va="baseline", parse_math=False, **style)


def _draw_background(axes: Axes, left: float, top: float, width: float, colour, outline: str) -> None:
    shape = "round,pad=0,rounding_size=4"
    edge = 1.8 if outline != "none" else 0
    axes.add_patch(
        FancyBboxPatch((left, top), width, _WORD_HEIGHT, boxstyle=shape, fc=colour, ec=outline, linewidth=edge)
    )


def _draw_words(axes: Axes, boxes: list[_Box], top: float, full_shade: float) -> None:
    for box in boxes:
        upper, word = top + box.line * _LINE_HEIGHT, box.word
        if word.probability is not None:
            shade = _SHADES(min(word.probability / full_shade, 1.0))
            outline = "none" if word.predicted is None else _OUTLINE
            _draw_background(axes, box.left, upper, box.width, shade, outline)
        colour = _GREY if word.probability is None else _INK
        _draw_text(axes, box.left + _PADDING, upper + _BASELINE, box.text, _TEXT, color=colour)


def _draw_predictions(axes: Axes, boxes: list[_Box], top: float) -> None:
    for box in boxes:
        same = box.word.predicted is not None and box.word.predicted.lower() == box.word.text.lower()
        baseline = top + box.line * _LINE_HEIGHT + _BASELINE
        _draw_text(axes, box.left, baseline, box.text, _SMALL, color=_SAME if same else _OTHER)


def _draw_head(axes: Axes, title: str, full_shade: float) -> None:
    """The title and, below it, what shades, outlines and colours mean."""
    _draw_text(axes, _MARGIN, 36, title, _TITLE, color=_INK, weight="bold")
    baseline, left = 68.0, float(_MARGIN)

    def write(text: str, colour: str, gap: float) -> None:
        nonlocal left
        _draw_text(axes, left, baseline, text, _SMALL, color=colour)
        left += _text_width(text, _SMALL) + gap

    write("masking probability  0", _INK, 8)
    ramp = np.linspace(0, 1, 100)[None]
    axes.imshow(
        ramp, cmap=_SHADES, vmin=0, vmax=1, extent=(left, left + 110, baseline + 2, baseline - 13), aspect="auto"
    )
    left += 118
    write(f"{full_shade:g} or more", _INK, 36)
    _draw_background(axes, left, baseline - 20, _text_width("masked", _SMALL) + 16, "none", _OUTLINE)
    left += 8
    write("masked", _INK, 34)
    write("word → the same word read", _SAME, 26)
    write("word → another word read", _OTHER, 26)
    write("with its probability", _INK, 0)
