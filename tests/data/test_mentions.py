"""Attribute phrases in captions: hand-worked sentences, and captions whose attributes are known."""

import random

import pytest

from aga_model.data import find_mentions, phrases_of
from aga_model.data.mentions import ATTRIBUTES, _meanings
from aga_model.data.rendered.worlds import world_named


def _found(caption):
    return [(caption[m.start : m.end], m.attribute, m.value) for m in find_mentions(caption)]


def test_every_kind_in_one_caption():
    caption = (
        "A slim man with short Grey hair wears a navy blue long-sleeved striped dress shirt, black denim pants and "
        "white dress shoes. He carries a tan messenger bag and a cap."
    )
    assert _found(caption) == [
        ("slim", "build", "slim"),
        ("man", "gender", "man"),
        ("short", "hair_style", "short"),
        ("Grey", "hair_colour", "gray"),
        ("navy blue", "colour", "navy"),
        ("long-sleeved", "sleeves", "long"),
        ("striped", "upper_pattern", "striped"),
        ("dress shirt", "upper_type", "shirt"),
        ("black", "colour", "black"),
        ("denim pants", "lower_type", "jeans"),
        ("white", "colour", "white"),
        ("dress shoes", "shoes_type", "leather shoes"),
        ("tan", "colour", "beige"),
        ("messenger bag", "bag_type", "shoulder bag"),
        ("cap", "hat_type", "cap"),
    ]
    assert {attribute for _, attribute, _ in _found(caption)} == set(ATTRIBUTES)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("black hair", [("black", "hair_colour")]),
        ("a black hat and hair", [("black", "colour")]),
        ("black long hair", [("black", "hair_colour"), ("long", "hair_style")]),
        ("brown and gray hair", [("brown", "hair_colour"), ("gray", "hair_colour")]),
        ("dressed in black, short hair", [("black", "colour"), ("short", "hair_style")]),
        ("long, black hair", [("long", "hair_style"), ("black", "hair_colour")]),
        ("short dark brown curly hair", [("short", "hair_style"), ("brown", "hair_colour")]),
        ("red hair in a bun", [("red", "hair_colour"), ("bun", "hair_style")]),
        ("a gray ponytail", [("gray", "hair_colour"), ("ponytail", "hair_style")]),
        ("Her hair is red.", [("red", "hair_colour")]),
        ("his hair is short and black", [("short", "hair_style"), ("black", "hair_colour")]),
        ("she has hair and black boots", [("black", "colour"), ("boots", "shoes_type")]),
        ("white hair", [("white", "colour")]),
        ("a blonde woman", [("blonde", "hair_colour"), ("woman", "gender")]),
        ("golden hair, a golden handbag", [("golden", "hair_colour"), ("handbag", "bag_type")]),
        ("a long coat", [("long coat", "upper_type")]),
        ("a long red coat", [("red", "colour"), ("coat", "upper_type")]),
        ("a short man", [("man", "gender")]),
        ("short sleeve shirt", [("short sleeve", "sleeves"), ("shirt", "upper_type")]),
        ("a long ponytail", [("ponytail", "hair_style")]),
        ("a short cropped jacket", [("jacket", "upper_type")]),
        ("short cropped hair", [("short cropped", "hair_style")]),
        ("all in black bald man", [("black", "colour"), ("bald", "hair_style"), ("man", "gender")]),
        ("a bald guy", [("bald", "hair_style"), ("guy", "gender")]),
        ("a skinny girl in skinny blue jeans", [
            ("skinny", "build"), ("girl", "gender"), ("blue", "colour"), ("jeans", "lower_type"),
        ]),
        ("thin hair", []),
    ],
)  # fmt: skip
def test_words_of_two_kinds_are_told_apart_by_what_follows(caption, expected):
    assert [(phrase, attribute) for phrase, attribute, _ in _found(caption)] == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("T-SHIRT, t shirt, tshirt", ["T-SHIRT", "t shirt", "tshirt"]),
        ("a long-sleeve tee shirt", ["long-sleeve", "tee shirt"]),
        ("dark\nblue", ["dark\nblue"]),
        ("dress, dress shirt", ["dress", "dress shirt"]),
        ("a shirtless man's undershirt", ["man"]),
        ("a blue-eyed, black-haired, off-white human in redwood", []),
        ("caption, étan, \u017fhirt, \u212anit hat", []),
        ("", []),
    ],
)
def test_whole_words_longest_first(caption, expected):
    assert [phrase for phrase, _, _ in _found(caption)] == expected


def test_both_caption_styles_are_known():
    colours = phrases_of("colour")
    assert "dark blue" in colours["navy"] and "midnight blue" in colours["navy"] and "teal" in colours["turquoise"]
    assert "rucksack" in phrases_of("bag_type")["backpack"] and "knapsack" in phrases_of("bag_type")["backpack"]
    assert phrases_of("upper_pattern")["striped"][:2] == ("striped", "stripes")
    assert phrases_of("build")["average"] == ()
    with pytest.raises(ValueError, match="unknown attribute 'color'; known: colour, hair_colour"):
        phrases_of("color")


def test_only_colours_belong_to_two_kinds():
    """Any other shared phrase would need a rule of its own."""
    shared = {phrase: set(values) for phrase, values in _meanings().items() if len(values) > 1}
    assert {"black", "brown", "gray", "grey", "red"} <= shared.keys()
    assert all(kinds == {"colour", "hair_colour"} for kinds in shared.values()), shared


@pytest.mark.parametrize(
    ("name", "told_otherwise"),
    [
        ("target", set()),
        # "brown-haired", "of heavy build", "with long sleeves", "with gray shoulders"
        ("base", {"hair_colour", "hair_style", "build", "sleeves", "upper_pattern"}),
    ],
)
def test_rendered_captions_say_what_was_drawn(name, told_otherwise):
    """Against the attributes that the captions were written from, not against the tables."""
    rng, world = random.Random(5), world_named(name)
    for _ in range(300):
        person = world.sample(rng)
        caption = world.tell(person, rng.choice(("front", "back", "left")), rng)
        looks = person.to_dict()
        worn = {value for name, value in looks.items() if name.endswith("_colour") and name != "hair_colour"}
        found = _found(caption.text)
        for phrase, attribute, value in found:
            if attribute == "colour":
                assert value in worn, (phrase, caption.text)
            elif not (person.upper_open and phrase == "shirt"):  # the one under an open jacket
                assert value == looks[attribute], (phrase, caption.text)
        told = {kind for kind in caption.mentioned & set(ATTRIBUTES) if looks[kind] is not None}
        assert told - told_otherwise <= {attribute for _, attribute, _ in found}, caption.text
