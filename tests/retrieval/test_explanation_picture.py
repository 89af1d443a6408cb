"""The picture of an explanation by value: which words, in which tile, in which colour, and how strong."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from aga_model.search import Explanation, explanation_image, explanation_picture
from aga_model.search.explanation_picture import _choose, _fit, _note_of_others, _on_image, _overlay

GREEN, RED, ORANGE = (30, 150, 60), (200, 40, 40), (235, 120, 20)
TILE, TILE_HEIGHT, MARGIN, FRAME = 160, 320, 16, (210, 210, 210)
GREY = Image.new("RGB", (60, 120), (128, 128, 128))


def made_up(contributions, method="occlusion"):
    """Words that look everywhere."""
    words = tuple(f"word{number}" for number in range(len(contributions)))
    heat = np.full((len(words), 3, 2), 0.02, dtype=np.float32)  # attention is small
    contributions = np.array(contributions, dtype=np.float32)
    spans = tuple((index, index + 1) for index in range(len(words)))
    return Explanation(" ".join(words), words, spans, heat, contributions, contributions, 0.25, None, method)


def covered(colour):
    """Of grey 128, three tenths of the way to white, by four fifths of a colour."""
    return [0.2 * (0.7 * 128 + 0.3 * 255) + 0.8 * value for value in colour]


@pytest.mark.parametrize(
    ("contributions", "most", "shown", "left_out"),
    [
        ([0.3, -0.5, 0.04, 0.06, -0.2], 9, [0, 1, 3, 4], [2]),  # at least a tenth of the largest, for or against
        ([0.3, -0.5, 0.04, 0.06, -0.2], 2, [0, 1], [2, 3, 4]),
        ([0.1, 0.2, 0.3], 2, [1, 2], [0]),
        ([-1.0, -0.5, 0.05], 9, [0, 1], [2]),
        ([0.1, 0.1, 0.1], 2, [0, 1], [2]),
        ([0.0, 0.0], 1, [0], [1]),
    ],
)
def test_words_are_chosen_by_size_and_stand_as_in_the_sentence(contributions, most, shown, left_out):
    assert _choose(np.array(contributions), most) == (shown, left_out)


def test_the_note_tells_of_the_largest_that_is_left_out():
    explanation = made_up([0.5, -0.25, 0.1])
    assert _note_of_others(explanation, [1, 2]) == "not shown, with contributions of 0.250 at most: word1, word2"
    assert _note_of_others(explanation, []) == ""


def test_each_tile_shows_the_heat_and_number_of_its_word(monkeypatch):
    """The first word is left out, so that places of words and of tiles differ."""
    monkeypatch.setattr(explanation_picture, "_arrange", lambda *given: given)
    monkeypatch.setattr(explanation_picture, "_overlay", lambda image, heat, box, colour: (float(heat.max()), colour))
    explanation = replace(made_up([0.01, 0.5, -0.3]), itm_score=1.5)
    explanation.heat[:] = np.array([1.0, 2.0, 3.0])[:, None, None]
    query, note, tiles, below = explanation_image(explanation, GREY)
    assert query == "word0 word1 word2" and "against it (red)" in note and below.endswith("of 0.010 at most: word0")
    assert tiles[0][0].size == (150, 300) and tiles[0][1] == ("similarity 0.250", "ITM 1.50")
    assert tiles[1:] == [((2.0, GREEN), ("word1", "+0.500")), ((3.0, RED), ("word2", "-0.300"))]


@pytest.mark.parametrize(
    ("size", "fitted"), [((60, 120), (150, 300)), ((200, 10), (150, 8)), ((12, 200), (19, 310)), ((1, 1000), (1, 310))]
)
def test_an_image_keeps_its_proportions(size, fitted):
    """In 150x310 pixels: the tile without its frame."""
    assert _fit(Image.new("RGB", size)).size == fitted


@pytest.mark.parametrize(("method", "against"), [("occlusion", RED), ("cross_attention", ORANGE)])
def test_each_word_has_its_tile_and_colour(method, against):
    signs = [1, -1, -1, 1, 1, 1, -1, -1, -1]
    pixels = np.asarray(explanation_image(made_up([0.1 * sign for sign in signs], method), GREY)).astype(int)
    framed = (pixels[:, MARGIN] == FRAME).all(axis=1)
    tops = [top for top in range(len(framed)) if framed[top : top + TILE_HEIGHT].all() and not framed[top - 1]]
    assert len(tops) == 2
    centres = [
        pixels[tops[number // 5] + TILE_HEIGHT // 2, MARGIN + number % 5 * (TILE + MARGIN) + TILE // 2]
        for number in range(10)
    ]
    assert centres[0].tolist() == [128, 128, 128]  # the image itself
    for sign, centre in zip(signs, centres[1:]):
        wanted = against if sign < 0 else GREEN if method == "occlusion" else ORANGE
        assert np.abs(centre - covered(wanted)).max() <= 1.5


@pytest.mark.parametrize("scale", [1e-4, 0.02, 1.0, 300.0])
def test_heat_is_drawn_on_its_own_scale(scale):
    heat = np.array([[1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, -1.0, -1.0, -1.0]]) * scale
    row = np.asarray(_overlay(Image.new("RGB", (200, 10), (128,) * 3), heat, None, GREEN)).astype(int)[5]
    faded = 0.7 * 128 + 0.3 * 255
    for place, opacity in ((10, 0.8), (100, 0.4), (190, 0.0)):
        assert np.abs(row[place] - [(1 - opacity) * faded + opacity * value for value in GREEN]).max() <= 5
    flat = np.asarray(_overlay(GREY, np.zeros((3, 2)), None, GREEN)).astype(int)
    assert np.abs(flat - faded).max() <= 1


def test_heat_goes_on_beyond_the_grid():
    """The first and last patches lie a step inside of an image whose patches overlap."""
    drawn = _on_image(np.ones((4, 2), dtype=np.float32), (-0.5, -1.0, 2.5, 5.0), (30, 60))
    np.testing.assert_allclose(drawn, 1.0, atol=1e-5)


@pytest.mark.parametrize(("row", "column"), [(0, 2), (1, 0), (0, 1)])
def test_heat_of_a_wide_grid_lies_at_its_patch(row, column):
    heat = np.zeros((2, 3), dtype=np.float32)
    heat[row, column] = 1.0
    drawn = _on_image(heat, None, (90, 40))
    hottest = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (hottest[0] // 20, hottest[1] // 30) == (row, column)
