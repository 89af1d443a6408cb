"""What a rendered person can look like, and the words that captions use for it.

Every table maps an attribute's value to the phrases a caption may use for that value, so the values to sample, the
caption writer's vocabulary and the list of attribute words come from one place. Two values of one attribute never
share a phrase: a caption that names an attribute says which value it has. The values and phrases are those of
`world=target`; `street_words` has those of `world=base`.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

Phrases = dict[str, tuple[str, ...]]

COLOURS: Phrases = {
    "black": ("black",),
    "white": ("white",),
    "gray": ("gray", "grey"),
    "red": ("red",),
    "blue": ("blue",),
    "green": ("green",),
    "yellow": ("yellow",),
    "orange": ("orange",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown",),
    "beige": ("beige", "tan", "cream"),
    "navy": ("navy", "navy blue", "dark blue"),
}
GENDERS: Phrases = {
    "man": ("man", "male", "guy", "gentleman"),
    "woman": ("woman", "female", "lady", "girl"),
}
BUILDS: Phrases = {"slim": ("slim", "thin"), "average": (), "stout": ("stout", "heavy-set")}
SKINS = ("pale", "light", "olive", "brown", "dark")  # drawn, never put into words
HAIR_STYLES: Phrases = {
    "short": ("short",),
    "long": ("long",),
    "ponytail": ("ponytail",),
    "bun": ("bun",),
    "bald": ("bald",),
}
HAIR_COLOURS: Phrases = {
    "black": ("black",),
    "brown": ("brown",),
    "blond": ("blond", "blonde"),
    "gray": ("gray", "grey"),
    "red": ("red",),
}
UPPER_TYPES: Phrases = {
    "t-shirt": ("t-shirt", "tee shirt"),
    "shirt": ("shirt", "button-up shirt", "dress shirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "vest": ("vest", "tank top", "sleeveless top"),
    "jacket": ("jacket",),
    "coat": ("coat", "long coat", "overcoat"),
    "blouse": ("blouse",),
    "dress": ("dress", "knee-length dress"),
}
PATTERNS: Phrases = {"plain": (), "striped": ("striped",), "plaid": ("plaid", "checked", "checkered"), "logo": ()}
PATTERN_NOUNS: Phrases = {
    "striped": ("stripes", "horizontal stripes"),
    "plaid": ("checks", "plaid lines"),
    "logo": ("logo", "print", "round logo"),
}
SLEEVES: Phrases = {
    "long": ("long-sleeved", "long sleeve"),
    "short": ("short-sleeved", "short sleeve"),
    "none": ("sleeveless",),
}
INNER_GARMENTS = ("shirt", "undershirt", "top")
LOWER_TYPES: Phrases = {
    "pants": ("pants", "trousers", "slacks"),
    "jeans": ("jeans", "denim pants"),
    "shorts": ("shorts",),
    "leggings": ("leggings", "tights"),
    "skirt": ("skirt",),
}
SHOE_TYPES: Phrases = {
    "sneakers": ("sneakers", "trainers", "sports shoes"),
    "leather shoes": ("leather shoes", "dress shoes"),
    "boots": ("boots",),
    "sandals": ("sandals",),
}
GENERIC_SHOES = "shoes"  # names the colour only
BAG_TYPES: Phrases = {
    "backpack": ("backpack", "rucksack", "schoolbag"),
    "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "messenger bag", "crossbody bag"),
    "suitcase": ("suitcase", "rolling suitcase"),
}
HAT_TYPES: Phrases = {
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat"),
    "sun hat": ("sun hat", "wide-brimmed hat"),
}
NOUNS: Phrases = {"hair": ("hair",), "glasses": ("glasses", "eyeglasses"), "umbrella": ("umbrella",)}
OPEN_WORD = "open"

TABLES = (
    COLOURS,
    GENDERS,
    BUILDS,
    HAIR_STYLES,
    HAIR_COLOURS,
    UPPER_TYPES,
    PATTERNS,
    PATTERN_NOUNS,
    SLEEVES,
    LOWER_TYPES,
    SHOE_TYPES,
    BAG_TYPES,
    HAT_TYPES,
    NOUNS,
)
OTHER_WORDS = (*INNER_GARMENTS, GENERIC_SHOES, OPEN_WORD)  # that name attributes beside the tables' phrases

_FIXED_SLEEVES = {
    "t-shirt": "short",
    "sweater": "long",
    "hoodie": "long",
    "jacket": "long",
    "coat": "long",
    "vest": "none",
}
_PATTERNED = {
    "t-shirt": ("plain", "striped", "logo"),
    "shirt": ("plain", "striped", "plaid"),
    "sweater": ("plain", "striped", "logo"),
    "hoodie": ("plain", "striped", "logo"),
    "vest": ("plain", "striped", "logo"),
    "jacket": ("plain",),
    "coat": ("plain", "plaid"),
    "blouse": ("plain", "striped", "plaid"),
    "dress": ("plain", "striped", "plaid"),
}
_BAREHEADED = ("bald", "bun")  # would not show under a hat
_JEANS_COLOURS = ("blue", "navy", "black", "gray")
# Colours too near each other to show as a pattern, or as an inner garment.
_ALIKE = (
    {"black", "navy"},
    {"black", "brown"},
    {"navy", "purple"},
    {"navy", "blue"},
    {"blue", "purple"},
    {"brown", "navy"},
    {"white", "beige"},
    {"beige", "pink"},
    {"beige", "yellow"},
    {"orange", "yellow"},
    {"red", "orange"},
    {"brown", "purple"},
    {"gray", "green"},
    {"red", "purple"},
    {"red", "brown"},
    {"pink", "orange"},
)


@dataclass(frozen=True)
class PersonAttributes:
    """One person's looks. A field is None where it does not apply (the colour of a bag that is not there).

    Each value is a key of the table of its kind in this module, so `dataclasses.asdict` of it is JSON.
    """

    gender: str
    build: str
    skin: str
    hair_style: str
    hair_colour: str | None
    upper_type: str
    upper_colour: str
    upper_pattern: str
    upper_second_colour: str | None
    sleeves: str
    upper_open: bool
    inner_colour: str | None
    lower_type: str | None
    lower_colour: str | None
    shoes_type: str
    shoes_colour: str
    bag_type: str | None
    bag_colour: str | None
    hat_type: str | None
    hat_colour: str | None
    glasses: bool
    umbrella_colour: str | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as a JSON-serialisable dict."""
        return asdict(self)


def sample_person(rng: random.Random) -> PersonAttributes:
    """Draws one person's attributes; what would hide another attribute (a bun under a hat) is not combined."""
    gender = rng.choice(tuple(GENDERS))
    hat_type = rng.choice(tuple(HAT_TYPES)) if rng.random() < 0.4 else None
    hair_style = _sample_hair_style(gender, hat_type, rng)
    upper_type = _sample_upper_type(gender, rng)
    upper_colour = _colour(rng)
    upper_pattern = _sample_pattern(upper_type, rng)
    upper_open = upper_type in ("jacket", "coat") and upper_pattern == "plain" and rng.random() < 0.5
    lower_type = _sample_lower_type(gender, upper_type, rng)
    bag_type = rng.choice(tuple(BAG_TYPES)) if rng.random() < 0.7 else None
    return PersonAttributes(
        gender=gender,
        build=rng.choices(tuple(BUILDS), (1, 2, 1))[0],
        skin=rng.choice(SKINS),
        hair_style=hair_style,
        hair_colour=None if hair_style == "bald" else rng.choice(tuple(HAIR_COLOURS)),
        upper_type=upper_type,
        upper_colour=upper_colour,
        upper_pattern=upper_pattern,
        upper_second_colour=None if upper_pattern == "plain" else _contrasting_colour(upper_colour, rng),
        sleeves=_FIXED_SLEEVES.get(upper_type) or rng.choice(("long", "short")),
        upper_open=upper_open,
        inner_colour=_contrasting_colour(upper_colour, rng) if upper_open else None,
        lower_type=lower_type,
        lower_colour=_sample_lower_colour(lower_type, rng),
        shoes_type=rng.choice(tuple(SHOE_TYPES)),
        shoes_colour=_colour(rng),
        bag_type=bag_type,
        bag_colour=_colour(rng) if bag_type else None,
        hat_type=hat_type,
        hat_colour=_colour(rng) if hat_type else None,
        glasses=rng.random() < 0.25,
        umbrella_colour=_colour(rng) if rng.random() < 0.07 else None,
    )


# What may be exchanged between two people without contradicting the rest: fields that go together.
_EXCHANGEABLE = (
    ("hair_style", "hair_colour"),
    ("upper_colour",),
    ("lower_colour",),
    ("shoes_type", "shoes_colour"),
    ("bag_type", "bag_colour"),
    ("hat_type", "hat_colour"),
)
_LOOKALIKE_CHANGES = 2


def sample_lookalike(
    person: PersonAttributes, sample: Callable[[random.Random], PersonAttributes], rng: random.Random
) -> PersonAttributes:
    """
    Somebody who is `person` but for two things: hair, shoes, bag, hat, or the colour of the upper or lower garment.

    Args:
        sample: draws a person of the same population; whose things the lookalike gets.
    """
    changed: set[tuple[str, ...]] = set()
    while len(changed) < _LOOKALIKE_CHANGES:
        other, fields = sample(rng), rng.choice(_EXCHANGEABLE)
        values = {name: getattr(other, name) for name in fields}
        differs = any(getattr(person, name) != value for name, value in values.items())
        if fields not in changed and differs and _can_exchange(person, other, fields):
            person = replace(person, **values)
            changed.add(fields)
    return person


def _can_exchange(person: PersonAttributes, other: PersonAttributes, fields: tuple[str, ...]) -> bool:
    if fields[0] == "hair_style":
        return person.gender == other.gender and not (person.hat_type and other.hair_style in _BAREHEADED)
    if fields[0] == "hat_type":
        return not (other.hat_type and person.hair_style in _BAREHEADED)
    if fields[0] == "upper_colour":
        return person.upper_pattern == "plain" and not person.upper_open
    if fields[0] == "lower_colour":
        return (
            person.lower_type is not None
            and (person.lower_type == "jeans") == (other.lower_type == "jeans")
            and (other.lower_type is not None)
        )
    return True


def _colour(rng: random.Random) -> str:
    return rng.choice(tuple(COLOURS))


def _contrasting_colour(first: str, rng: random.Random) -> str:
    return rng.choice([colour for colour in COLOURS if colour != first and {colour, first} not in _ALIKE])


def _sample_hair_style(gender: str, hat_type: str | None, rng: random.Random) -> str:
    if gender == "woman":
        styles = ["long", "long", "ponytail", "ponytail", "short"] + ([] if hat_type else ["bun"])
    else:
        styles = ["short", "short", "short", "long"] + ([] if hat_type else ["bald"])
    return rng.choice(styles)


def _sample_upper_type(gender: str, rng: random.Random) -> str:
    womens = ("blouse", "dress", "dress") if gender == "woman" else ()
    return rng.choice([kind for kind in UPPER_TYPES if kind not in ("blouse", "dress")] + list(womens))


def _sample_pattern(upper_type: str, rng: random.Random) -> str:
    options = _PATTERNED[upper_type]
    return "plain" if rng.random() < 0.4 else rng.choice(options)


def _sample_lower_type(gender: str, upper_type: str, rng: random.Random) -> str | None:
    if upper_type == "dress":
        return None
    options = ["pants", "jeans"]
    if gender == "woman":
        options.append("leggings")
    if upper_type != "coat":  # it would cover them
        options += ["shorts", "skirt", "skirt"] if gender == "woman" else ["shorts"]
    return rng.choice(options)


def _sample_lower_colour(lower_type: str | None, rng: random.Random) -> str | None:
    if lower_type is None:
        return None
    return rng.choice(_JEANS_COLOURS) if lower_type == "jeans" else _colour(rng)
