"""Who walks through `world=base`: people dressed as on a street, mostly in dark and muted clothes."""

import random
from collections.abc import Mapping

from ..attributes import BUILDS, GENDERS, HAT_TYPES, SHOE_TYPES, SKINS, PersonAttributes

Weights = Mapping[str, float]

_TOPS: Weights = {
    "black": 20,
    "dark gray": 9,
    "gray": 8,
    "light gray": 4,
    "white": 10,
    "navy": 9,
    "blue": 7,
    "light blue": 4,
    "red": 6,
    "maroon": 3,
    "green": 3,
    "dark green": 4,
    "brown": 6,
    "beige": 5,
    "yellow": 3,
    "orange": 2.5,
    "pink": 3,
    "purple": 2.5,
    "turquoise": 2,
}
_TROUSERS: Weights = {
    "black": 26,
    "dark gray": 12,
    "gray": 8,
    "light gray": 3,
    "white": 4,
    "navy": 10,
    "blue": 5,
    "light blue": 2,
    "brown": 6,
    "beige": 8,
    "dark green": 4,
    "red": 2,
    "maroon": 1.5,
    "green": 1,
    "pink": 1,
    "purple": 1,
    "orange": 0.5,
    "yellow": 0.5,
    "turquoise": 0.5,
}
_DENIM: Weights = {"blue": 50, "light blue": 16, "navy": 16, "black": 10, "gray": 5, "white": 3}
_SHOES: Weights = {
    "black": 38,
    "brown": 14,
    "white": 18,
    "gray": 8,
    "dark gray": 5,
    "navy": 4,
    "beige": 4,
    "red": 3,
    "blue": 3,
    "pink": 1,
    "green": 1,
    "yellow": 1,
}
_BAGS: Weights = {
    "black": 30,
    "brown": 10,
    "gray": 6,
    "navy": 6,
    "red": 7,
    "blue": 7,
    "white": 6,
    "beige": 6,
    "green": 3,
    "dark green": 3,
    "pink": 3,
    "purple": 2,
    "orange": 2,
    "yellow": 3,
}
_SHOPPING_BAGS: Weights = {"white": 45, "blue": 12, "red": 8, "yellow": 8, "black": 8, "green": 6, "beige": 13}
_HAIR: Weights = {"black": 30, "brown": 32, "blond": 20, "gray": 13, "red": 5}

_MENS_UPPER: Weights = {
    "jacket": 26,
    "coat": 13,
    "hoodie": 11,
    "sweater": 11,
    "t-shirt": 17,
    "shirt": 15,
    "vest": 3,
}
_WOMENS_UPPER: Weights = {
    "jacket": 19,
    "coat": 19,
    "hoodie": 6,
    "sweater": 11,
    "t-shirt": 12,
    "shirt": 6,
    "vest": 4,
    "blouse": 9,
    "dress": 12,
}
_MENS_LOWER: Weights = {"pants": 44, "jeans": 44, "shorts": 12}
_WOMENS_LOWER: Weights = {"pants": 28, "jeans": 34, "leggings": 16, "shorts": 6, "skirt": 16}
_UNDER_A_COAT: Weights = {"pants": 45, "jeans": 35, "leggings": 20}
_BAG_KINDS: Mapping[str, Weights] = {
    "man": {"backpack": 48, "shoulder bag": 22, "shopping bag": 22, "suitcase": 8},
    "woman": {"backpack": 24, "handbag": 34, "shoulder bag": 22, "shopping bag": 14, "suitcase": 6},
}
_PATTERNS: Mapping[str, Weights] = {
    "t-shirt": {"plain": 60, "striped": 16, "logo": 18, "blocks": 6},
    "shirt": {"plain": 58, "striped": 16, "plaid": 26},
    "sweater": {"plain": 70, "striped": 20, "blocks": 10},
    "hoodie": {"plain": 66, "logo": 18, "blocks": 16},
    "vest": {"plain": 75, "striped": 15, "logo": 10},
    "jacket": {"plain": 80, "blocks": 20},
    "coat": {"plain": 92, "plaid": 8},
    "blouse": {"plain": 70, "striped": 15, "plaid": 15},
    "dress": {"plain": 72, "striped": 18, "plaid": 10},
}
_SLEEVES: Mapping[str, Weights] = {
    "t-shirt": {"short": 1},
    "shirt": {"long": 3, "short": 1},
    "sweater": {"long": 1},
    "hoodie": {"long": 1},
    "vest": {"none": 1},
    "jacket": {"long": 1},
    "coat": {"long": 1},
    "blouse": {"long": 1, "short": 1},
    "dress": {"long": 1, "short": 1},
}
_SHADES = (  # tones of one hue, or dark ones: no contrast for a pattern or an inner garment
    {"black", "dark gray", "navy", "maroon", "brown", "dark green"},
    {"dark gray", "gray"},
    {"gray", "light gray"},
    {"light gray", "white", "beige", "light blue"},
    {"red", "maroon", "orange", "pink"},
    {"blue", "navy", "purple", "turquoise"},
    {"light blue", "turquoise"},
    {"green", "dark green", "turquoise"},
    {"yellow", "beige", "orange"},
    {"brown", "orange"},
    {"purple", "maroon", "navy"},
    {"pink", "beige"},
    {"green", "gray"},
    {"blue", "gray"},
)


def sample_street_person(rng: random.Random) -> PersonAttributes:
    """Draws one person's attributes; what would hide another attribute (a bun under a hat) is not combined."""
    gender = rng.choice(tuple(GENDERS))
    hat = rng.choices(tuple(HAT_TYPES), (5, 4, 1))[0] if rng.random() < 0.17 else None
    hair_style = _hair_style(gender, hat, rng)
    upper = _draw(_MENS_UPPER if gender == "man" else _WOMENS_UPPER, rng)
    colour = _draw(_TOPS, rng)
    pattern = _draw(_PATTERNS[upper], rng)
    is_open = upper in ("jacket", "coat") and pattern == "plain" and rng.random() < 0.3
    lower = _lower(gender, upper, rng)
    bag = _draw(_BAG_KINDS[gender], rng) if rng.random() < 0.45 else None
    return PersonAttributes(
        gender=gender,
        build=rng.choices(tuple(BUILDS), (1, 4, 1))[0],
        skin=rng.choice(SKINS),
        hair_style=hair_style,
        hair_colour=None if hair_style == "bald" else _draw(_HAIR, rng),
        upper_type=upper,
        upper_colour=colour,
        upper_pattern=pattern,
        upper_second_colour=None if pattern == "plain" else _contrast(colour, rng),
        sleeves=_draw(_SLEEVES[upper], rng),
        upper_open=is_open,
        inner_colour=_contrast(colour, rng) if is_open else None,
        lower_type=lower,
        lower_colour=None if lower is None else _draw(_DENIM if lower == "jeans" else _TROUSERS, rng),
        shoes_type=rng.choices(tuple(SHOE_TYPES), (45, 25, 20, 10))[0],
        shoes_colour=_draw(_SHOES, rng),
        bag_type=bag,
        bag_colour=None if bag is None else _draw(_SHOPPING_BAGS if bag == "shopping bag" else _BAGS, rng),
        hat_type=hat,
        hat_colour=None if hat is None else _draw(_TOPS, rng),
        glasses=rng.random() < 0.2,
        umbrella_colour=_draw(_TOPS, rng) if rng.random() < 0.025 else None,
    )


def _draw(weights: Weights, rng: random.Random) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _contrast(first: str, rng: random.Random) -> str:
    return _draw(
        {
            name: weight + 4  # rare colours stand out as a second one more often
            for name, weight in _TOPS.items()
            if name != first and not any({name, first} <= shades for shades in _SHADES)
        },
        rng,
    )


def _hair_style(gender: str, hat: str | None, rng: random.Random) -> str:
    if gender == "woman":
        styles: Weights = {"long": 50, "ponytail": 20, "short": 18} | ({} if hat else {"bun": 10})
    else:
        styles = {"short": 78, "long": 5} | ({} if hat else {"bald": 15})
    return _draw(styles, rng)


def _lower(gender: str, upper: str, rng: random.Random) -> str | None:
    if upper == "dress":
        return None
    if upper == "coat":
        return _draw(
            {name: _UNDER_A_COAT[name] for name in _UNDER_A_COAT if gender == "woman" or name != "leggings"}, rng
        )
    return _draw(_MENS_LOWER if gender == "man" else _WOMENS_LOWER, rng)
