"""The picture of AGM and TEM: its size, what it shows, and a layout in which nothing overlaps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from aga_model.evaluation.diagnostics import attention_picture
from aga_model.evaluation.diagnostics.attention_picture import (
    WIDTH,
    _caption_boxes,
    _draw_predictions,
    _draw_words,
    _fit,
    _place,
    _prediction_boxes,
    _reading,
    _Word,
    _words,
    draw_word_attention,
)

FULL_SHADE = (245, 138, 44)


@pytest.fixture
def blue_image(tmp_path) -> str:
    path = tmp_path / "crop.png"
    Image.new("RGB", (20, 40), (0, 0, 255)).save(path)
    return str(path)


def mask_only(monkeypatch, processor, word: str) -> None:
    """Makes AGM mask the tokens of one word with certainty, and nothing else."""
    wanted = set(processor.tokenizer(word, add_special_tokens=False)["input_ids"])

    def probabilities(model, processor, captions, strategy):
        assert strategy == "attention"
        rows = processor.tokenizer(list(captions), truncation=True)["input_ids"]
        return [np.array([float(index in wanted) for index in row], dtype=np.float32) for row in rows]

    monkeypatch.setattr(attention_picture, "masking_probabilities", probabilities)


def predict_always(model, index: int, logit: float) -> None:
    vocabulary = model.config.text_config.vocab_size
    row = torch.zeros(vocabulary)
    row[index] = logit
    row[vocabulary - 1] = 50.0  # end-of-text, which is never written
    model.mlm_head.forward = lambda states: row.repeat(len(states), 1)


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    return set(picture.convert("RGB").getdata())


def test_picture_shows_image_shade_and_masked_word(make_model, processor, blue_image, tmp_path, monkeypatch):
    mask_only(monkeypatch, processor, "navy")
    model, path = make_model().train(), tmp_path / "words.png"
    state = torch.get_rng_state()
    assert draw_word_attention(model, processor, ["A man in a navy jacket."], [blue_image], path) == path
    assert torch.equal(torch.get_rng_state(), state) and model.training
    with Image.open(path) as file:
        assert file.format == "PNG"
        picture = file.convert("RGB")
    # The head, one image of 20 x 40 enlarged to 110 x 220 and the gap around it.
    assert picture.size == (WIDTH, 88 + 220 + 36)
    assert picture.getpixel((24 + 55, 88 + 18 + 110)) == (0, 0, 255)
    words = picture.crop((158, 88 + 18, WIDTH, 88 + 18 + 36))
    assert FULL_SHADE in colours(words)
    mask_only(monkeypatch, processor, "shoes")
    draw_word_attention(model, processor, ["A man in a navy jacket."], [blue_image], path)
    with Image.open(path) as file:
        other = file.convert("RGB").crop((158, 88 + 18, WIDTH, 88 + 18 + 36))
    assert FULL_SHADE not in colours(other) and len(colours(other)) > 20  # its letters are there


def test_words_tell_prediction_and_confidence(make_model, processor, blue_image, monkeypatch):
    mask_only(monkeypatch, processor, "black")
    model = make_model()
    (navy,) = processor.tokenizer("navy", add_special_tokens=False)["input_ids"]
    predict_always(model, navy, 5.0)
    words = _words(model, processor, ["A Black, blackish jacket."], [blue_image], 0)[0]
    assert [word.text for word in words] == ["A", "Black", ",", "blackish", "jacket", "."]
    assert [word.follows_space for word in words] == [False, True, False, True, True, False]
    assert [word.predicted for word in words] == [None, "navy", None, None, None, None]
    # Every entry but the three special tokens has logit 0.
    others = model.config.text_config.vocab_size - 4
    assert words[1].confidence == pytest.approx(math.exp(5) / (math.exp(5) + others), rel=1e-5)
    assert words[1].probability == 1.0 and words[0].probability == 0.0


def test_a_word_sums_its_tokens(make_model, processor, blue_image, monkeypatch):
    mask_only(monkeypatch, processor, "umbrella")
    pieces = processor.tokenizer("umbrella", add_special_tokens=False)["input_ids"]
    model = make_model()
    predict_always(model, pieces[-1], 3.0)
    word = _words(model, processor, ["umbrella"], [blue_image], 0)[0][0]
    assert len(pieces) > 1 and word.probability == len(pieces)
    others = model.config.text_config.vocab_size - 4
    assert word.confidence == pytest.approx((math.exp(3) / (math.exp(3) + others)) ** len(pieces), rel=1e-4)
    assert word.predicted == " ".join([processor.tokenizer.decode([pieces[-1]]).strip()] * len(pieces))


def test_a_word_of_which_one_token_is_masked_is_read_there(make_model, processor, blue_image, monkeypatch):
    first, *rest = processor.tokenizer("umbrella", add_special_tokens=False)["input_ids"]
    assert rest and first not in rest
    monkeypatch.setattr(
        attention_picture,
        "masking_probabilities",
        lambda model, processor, captions, strategy: [
            np.array([0.75 * (index == first) for index in processor.tokenizer(captions[0])["input_ids"]], np.float32)
        ],
    )
    monkeypatch.setattr(attention_picture, "sample_tokens", lambda probabilities: probabilities > 0.5)
    model = make_model()
    predict_always(model, first, 3.0)
    word = _words(model, processor, ["umbrella"], [blue_image], 0)[0][0]
    others = model.config.text_config.vocab_size - 4
    assert word.predicted == "umbrella" and word.probability == pytest.approx(0.75)
    assert word.confidence == pytest.approx(math.exp(3) / (math.exp(3) + others), rel=1e-4)


def test_predictions_are_joined_where_the_word_was(processor):
    tokenizer = processor.tokenizer

    def ids(*words):
        return torch.tensor(
            [index for word in words for index in tokenizer(word, add_special_tokens=False)["input_ids"]]
        )

    pieces = ids("umbrella")
    assert len(pieces) > 2
    hyphenated, red = ids("wide", "-", "navy")[-2:], ids("red")
    assert _reading(tokenizer, hyphenated, hyphenated) == "-navy"  # the word had its hyphen without spaces too
    assert _reading(tokenizer, pieces[:2], torch.cat([red, red])) == "red red"
    assert _reading(tokenizer, pieces, pieces) == "umbrella"
    assert _reading(tokenizer, red, pieces[:1]) == tokenizer.decode(pieces[:1]).strip() + "…"


def test_words_are_shaded_up_to_the_largest_probability_outlined_and_grey():
    axes = Figure().add_subplot()
    words = [_Word("a", True, 0.0), _Word("b", True, 0.3), _Word("c", True, 0.6, "d", 0.5), _Word("e", True, None)]
    _draw_words(axes, _place(_caption_boxes([*words, _Word("f", True, 0.9)])), 0.0, 0.6)
    # White, the middle of the scale, and its end from 0.6 on; no background where there is no probability.
    shades = [tuple(round(255 * part) for part in patch.get_facecolor()[:3]) for patch in axes.patches]
    assert shades[0] == (255, 255, 255) and shades[2:] == [FULL_SHADE, FULL_SHADE]
    np.testing.assert_allclose(shades[1], (255, 208, 138), atol=2)
    assert [patch.get_linewidth() > 0 for patch in axes.patches] == [False, False, True, False]
    assert [text.get_color() for text in axes.texts] == ["#1a1a1a"] * 3 + ["#8a8a8a", "#1a1a1a"]


def test_the_same_word_is_read_whatever_its_capitals():
    axes = Figure().add_subplot()
    words = [_Word("Red", False, 0.5, "red", 0.25), _Word("coat", True, 0.5, "dress", 0.5), _Word("a", True, 0.1)]
    _draw_predictions(axes, _place(_prediction_boxes(words)), 0.0)
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        ("Red → red 0.25", "#1b7f3b"),
        ("coat → dress 0.50", "#b3261e"),
    ]


@pytest.mark.parametrize(
    ("size", "fitted"), [((40, 20), (110, 55)), ((20, 80), (58, 230)), ((300, 3), (110, 1)), ((110, 230), (110, 230))]
)
def test_an_image_is_scaled_into_its_room(size, fitted):
    assert _fit(Image.new("RGB", size)).size == fitted


def test_words_behind_the_text_length_have_no_probability(make_model, processor, blue_image):
    words = _words(make_model(), processor, ["red " * 50], [blue_image], 0)[0]
    assert [word.probability is None for word in words] == [False] * 38 + [True] * 12


@pytest.mark.parametrize(
    "caption",
    [
        " ".join(["The", "wide-brimmed", "hat,", "a", "man's", "backpack", "and"] * 9),
        "w" * 300 + " coat " + "x,y;" * 90,
        "coat",
    ],
)
def test_nothing_overlaps_or_leaves_the_picture(caption):
    words = [_Word(text, number > 0, 0.1) for number, text in enumerate(caption.split())]
    boxes = _place(_caption_boxes(words))
    assert "".join(box.text for box in boxes) == caption.replace(" ", "")
    assert all(box.left >= 158 and box.left + box.width <= WIDTH - 24 for box in boxes)
    for one, other in pairwise(boxes):
        if one.line == other.line:
            assert other.left >= one.left + one.width
        else:
            assert other.line == one.line + 1 and other.left == 158


def test_punctuation_stays_with_its_word():
    words = [_Word(text, text != ",", 0.1) for text in ["wide-brimmed", ","] * 30]
    boxes = _place(_caption_boxes(words))
    assert boxes[-1].line > 0
    assert all(one.line == other.line for one, other in pairwise(boxes) if other.text == ",")


def test_long_captions_and_markup_make_a_taller_picture(make_model, processor, blue_image, tmp_path):
    captions = ["A man in $x_1$ and {red} 50% off.", " ".join(["trousers"] * 120)]
    path = draw_word_attention(make_model(), processor, captions, [blue_image] * 2, tmp_path / "b.png", title="$")
    with Image.open(path) as picture:
        assert picture.width == WIDTH and picture.height > 88 + 2 * (220 + 36)


def test_captions_without_images_are_refused(make_model, processor, tmp_path):
    for captions, images in ((["red"], []), (["red", "blue"], ["a.png"]), ([], [])):
        with pytest.raises(ValueError, match=f"{len(captions)} captions, {len(images)} images"):
            draw_word_attention(make_model(), processor, captions, images, tmp_path / "b.png")
