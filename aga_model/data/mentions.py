"""Finds the attributes that a caption names, in captions by people as well as in rendered ones."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .rendered import attributes as rendered
from .rendered.attributes import Phrases
from .rendered.street import words as street_words

# Hair styles that describe hair; every other one is a thing of its own, "a black bun".
_ADJECTIVES_OF_HAIR = ("long", "short", "cropped", "short cropped", "flowing")
_ADJECTIVES_OF_HEAD = ("bald", "shaved")
# Hair colours that need no "hair" beside them, "a blonde woman"; others do, "chestnut hair" but "a chestnut coat".
_NEVER_OF_CLOTHES = ("blond", "blonde", "ginger")
# What may stand between a word for hair and "hair", beside colours and hair styles.
_OTHER_HAIR_WORDS = (
    "curly", "straight", "wavy", "messy", "thick", "thin", "fine", "neat", "dark", "light", "medium", "length",
    "shoulder-length", "colored", "coloured",
)  # fmt: skip


def _merge(tables: Iterable[Phrases]) -> Phrases:
    """The union of several tables of one kind, in their order."""
    merged: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        for value, phrases in table.items():
            merged[value] += [phrase for phrase in phrases if phrase not in merged[value]]
    return {value: tuple(phrases) for value, phrases in merged.items()}


_RENDERED: dict[str, Phrases] = {
    "colour": rendered.COLOURS,
    "hair_colour": rendered.HAIR_COLOURS,
    "gender": rendered.GENDERS,
    "build": rendered.BUILDS,
    "hair_style": rendered.HAIR_STYLES,
    "upper_type": rendered.UPPER_TYPES,
    "upper_pattern": _merge((rendered.PATTERNS, rendered.PATTERN_NOUNS)),
    "sleeves": rendered.SLEEVES,
    "lower_type": rendered.LOWER_TYPES,
    "shoes_type": rendered.SHOE_TYPES,
    "bag_type": rendered.BAG_TYPES,
    "hat_type": rendered.HAT_TYPES,
}
_SOURCES: tuple[dict[str, Phrases], ...] = (_RENDERED, street_words.PHRASES)
_PHRASES = {attribute: _merge(source.get(attribute, {}) for source in _SOURCES) for attribute in _RENDERED}

ATTRIBUTES = tuple(_PHRASES)


@dataclass(frozen=True)
class Mention:
    """An attribute phrase in a caption, `caption[start:end]`, and the value that it names."""

    start: int
    end: int
    attribute: str
    value: str


def phrases_of(attribute: str) -> dict[str, tuple[str, ...]]:
    """
    The phrases for each value of one of `ATTRIBUTES`; a value that captions leave unsaid (a plain garment) has none.

    Raises:
        ValueError: no such attribute.
    """
    if attribute not in _PHRASES:
        raise ValueError(f"unknown attribute {attribute!r}; known: {', '.join(ATTRIBUTES)}")
    return dict(_PHRASES[attribute])


def find_mentions(caption: str) -> list[Mention]:
    """
    The attribute phrases of a caption, left to right and without overlap.

    Matches whole words in any case; a hyphen belongs to its word ("blue-eyed" names no colour), but the words of a
    phrase may be joined by spaces or hyphens ("long-sleeve", "t shirt"). The longest phrase wins: "dress shirt" is
    no dress. The words around a phrase settle what it is of:

    - a hair colour must describe hair: "black hair", "brown long hair", "a gray ponytail", "her hair is red". Else
      the word is a colour of clothes ("black"), or no mention if it is none ("golden"). "Blonde" needs no hair;
    - so must a hair style that is an adjective: "long, black hair"; else it is no mention ("a short man"), or part of
      another phrase ("long coat");
    - a build is of a body: "skinny jeans" and "thin hair" are none.
    """
    mentions = []
    for match in _PHRASE.finditer(caption):
        values = _MEANINGS[_normalise(match[0])]
        attribute = _attribute_in_context(values, caption, match)
        if attribute:
            mentions.append(Mention(match.start(), match.end(), attribute, values[attribute]))
    return mentions


def _normalise(phrase: str) -> str:
    return re.sub(r"[\s-]+", " ", phrase.lower())


def _meanings() -> dict[str, dict[str, str]]:
    """Normalised phrase -> attribute -> value."""
    meanings: dict[str, dict[str, str]] = defaultdict(dict)
    for attribute, table in _PHRASES.items():
        for value, phrases in table.items():
            for phrase in phrases:
                known = meanings[_normalise(phrase)].setdefault(attribute, value)
                if known != value:
                    raise ValueError(f"{phrase!r} names two values of {attribute}: {known!r} and {value!r}")
    return dict(meanings)


def _any_of(phrases: Iterable[str]) -> str:
    """A pattern for any of the phrases, whole and longest first; only ASCII letters match an ASCII letter."""
    longest_first = sorted({_normalise(phrase) for phrase in phrases}, key=lambda phrase: (-len(phrase), phrase))
    options = "|".join(r"[\s-]+".join(map(re.escape, phrase.split())) for phrase in longest_first)
    return rf"(?<![\w-])(?a:{options})(?![\w-])"


_MEANINGS = _meanings()
_PHRASE = re.compile(_any_of(_MEANINGS), re.IGNORECASE)

_COLOURS = [phrase for phrase, values in _MEANINGS.items() if {"colour", "hair_colour"} & values.keys()]
_HAIR_THINGS = [
    phrase
    for phrase, values in _MEANINGS.items()
    if "hair_style" in values and phrase not in _ADJECTIVES_OF_HAIR + _ADJECTIVES_OF_HEAD
]
_GARMENTS = [phrase for phrase, values in _MEANINGS.items() if {"upper_type", "lower_type"} & values.keys()]
_COLOUR, _HAIR = _any_of(_COLOURS), _any_of(["hair"])
_HAIR_WORD = _any_of([*_COLOURS, *_ADJECTIVES_OF_HAIR, *_OTHER_HAIR_WORDS])
# "black HAIR", "black long HAIR", "black and gray HAIR", "black BUN"; not "dressed in black, short hair".
_COLOURS_HAIR = re.compile(
    rf"(?:\s+and\s+{_COLOUR})?(?:\s+{_HAIR_WORD})*\s+{_any_of(['hair', *_HAIR_THINGS])}", re.IGNORECASE
)
# "long HAIR", "long, black HAIR", "short and curly HAIR".
_STYLES_HAIR = re.compile(rf"(?:(?:\s*,|\s+and)?\s+{_HAIR_WORD})*\s+{_HAIR}", re.IGNORECASE)
# "her HAIR IS black", "his HAIR IS short and black".
_HAIR_IS = re.compile(
    rf"{_HAIR}\s+(?:is|was|looks)\s+(?:very\s+)?(?:{_HAIR_WORD}(?:\s+and\s+|\s*,\s*|\s+))*$", re.IGNORECASE
)
# "skinny JEANS", "slim FIT", "thin black JACKET", "thin HAIR".
_NO_BODY = re.compile(rf"(?:\s+{_HAIR_WORD})*\s+{_any_of([*_GARMENTS, 'hair', 'fit', 'fitting'])}", re.IGNORECASE)


def _attribute_in_context(values: dict[str, str], caption: str, match: re.Match[str]) -> str | None:
    """Which of the attributes that a phrase can name it does name here, if any."""
    phrase = _normalise(match[0])
    if "hair_colour" in values and phrase not in _NEVER_OF_CLOTHES:
        of_hair = _COLOURS_HAIR.match(caption, match.end()) or _HAIR_IS.search(caption[: match.start()])
        return "hair_colour" if of_hair else next((other for other in values if other != "hair_colour"), None)
    if phrase in _ADJECTIVES_OF_HAIR:
        of_hair = _STYLES_HAIR.match(caption, match.end()) or _HAIR_IS.search(caption[: match.start()])
        return "hair_style" if of_hair else None
    if "build" in values and _NO_BODY.match(caption, match.end()):
        return None
    return next(iter(values))
