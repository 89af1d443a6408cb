"""Writes English sentences about a rendered person: a random part of the attributes, in varied words and order."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import attributes as vocabulary
from .attributes import PersonAttributes

# How often a caption names a thing that is there and can be seen. The upper garment's type and colour always are.
_MENTION = {
    "build": 0.12,
    "sleeves": 0.3,
    "pattern": 0.85,
    "inner": 0.8,
    "lower": 0.88,
    "shoes": 0.55,
    "hair": 0.62,
    "bag": 0.78,
    "hat": 0.75,
    "glasses": 0.65,
    "umbrella": 0.92,
}
_PLURAL_LOWER = {"pants", "jeans", "shorts", "leggings"}
_DIRECTIONS = {
    "front": ("is walking towards the camera", "is facing the camera", "is coming closer"),
    "back": ("is walking away from the camera", "is seen from behind", "is turned away from the camera"),
    "left": ("is walking to the left", "is seen from the side", "is heading to the left"),
    "right": ("is walking to the right", "is seen from the side", "is heading to the right"),
}


@dataclass(frozen=True)
class Caption:
    """A caption, and the names of the `PersonAttributes` fields whose values it tells."""

    text: str
    mentioned: frozenset[str]


def write_caption(attributes: PersonAttributes, view: str, rng: random.Random) -> str:
    """One to four English sentences about the person, true of a picture from `view`.

    Args:
        attributes: what the person looks like.
        view: "front", "back", "left" or "right"; what cannot be seen from there (a logo or glasses from behind) is
            not named.
        rng: the only source of chance.
    """
    return compose_caption(attributes, view, rng).text


def compose_caption(attributes: PersonAttributes, view: str, rng: random.Random) -> Caption:
    """As `write_caption`, with the fields that the caption tells."""
    return _Writer(attributes, view, rng).write()


@dataclass
class _Writer:
    attributes: PersonAttributes
    view: str
    rng: random.Random
    mentioned: set[str] = field(default_factory=lambda: {"gender"})

    @property
    def possessive(self) -> str:
        return "his" if self.attributes.gender == "man" else "her"

    def write(self) -> Caption:
        clothes = self._clothes()
        predicates = self._predicates()
        self.rng.shuffle(predicates)
        sentences = [self._opening(clothes, predicates), *self._following(predicates)]
        return Caption(" ".join(sentences), frozenset(self.mentioned))

    # --- sentences ---

    def _opening(self, clothes: list[str], predicates: list[str]) -> str:
        """The first sentence; it may use up a predicate."""
        worn = _enumerate(clothes, self.rng)
        shape = self.rng.random()
        if shape < 0.16 and predicates:
            dressed = self.rng.choice(("Wearing", "Dressed in"))
            return f"{dressed} {worn}, {self._subject_noun('the')} {predicates.pop()}."
        if shape < 0.28:
            return f"{self._subject()} {self.rng.choice(_DIRECTIONS[self.view])}, wearing {worn}."
        with_hair = self._pop_hair(predicates) if shape > 0.6 else None
        described = f" with {with_hair}" if with_hair else ""
        if self.rng.random() < 0.18:
            there = self.rng.choice(("There is", "The picture shows", "This is an image of", "Here we see"))
            who = self.rng.choice((" who is wearing", " wearing", " dressed in", " in"))
            return f"{there} {self._subject_noun('a')}{described}{who} {worn}."
        verb = self.rng.choice(("is wearing", "is wearing", "wears", "is dressed in", "has on"))
        return f"{self._subject()}{described} {verb} {worn}."

    def _following(self, predicates: list[str]) -> list[str]:
        """The other sentences, of one or two predicates each."""
        sentences: list[str] = []
        while predicates:
            size = 2 if self.rng.random() < 0.65 else 1
            group, predicates = predicates[:size], predicates[size:]
            if sentences and self.rng.random() < 0.4:
                group[0] = _also(group[0])
            named = self.rng.random() < 0.15
            subject = _capital(self._subject_noun("the")) if named else self._pronoun()
            sentences.append(f"{subject} {' and '.join(group)}.")
        return sentences

    def _pronoun(self) -> str:
        return "He" if self.attributes.gender == "man" else "She"

    def _subject(self) -> str:
        article = self.rng.choice(("a", "a", "the", "the", "this"))
        place = self.rng.choice(("", "", "", "", " in the picture", " on the street"))
        return _capital(self._subject_noun(article) + (place if article == "the" else ""))

    def _subject_noun(self, article: str) -> str:
        noun = self.rng.choice(vocabulary.GENDERS[self.attributes.gender])
        builds = vocabulary.BUILDS[self.attributes.build]
        if builds and self._talks_about("build"):
            self.mentioned.add("build")
            noun = f"{self.rng.choice(builds)} {noun}"
        return _with_article(noun) if article == "a" else f"{article} {noun}"

    # --- worn things, as noun phrases ---

    def _clothes(self) -> list[str]:
        worn = [self._upper()]
        if self.attributes.lower_type and self._talks_about("lower"):
            worn.append(self._lower())
        if self._talks_about("shoes"):
            worn.append(self._shoes())
        if self.rng.random() < 0.12:
            self.rng.shuffle(worn)
        return worn

    def _upper(self) -> str:
        a = self.attributes
        self.mentioned |= {"upper_type", "upper_colour"}
        colour = self._colour("upper_colour")
        garment = self.rng.choice(vocabulary.UPPER_TYPES[a.upper_type])
        if a.upper_open and self.view != "back" and self._talks_about("inner"):
            return self._open_upper(colour, garment)
        adjective, detail = self._pattern(colour)
        if a.upper_type not in ("jacket", "coat", "vest") and self._talks_about("sleeves"):
            self.mentioned.add("sleeves")
            sleeves = self.rng.choice(vocabulary.SLEEVES[a.sleeves])
            adjective = f"{sleeves} {adjective}" if self.rng.random() < 0.5 else f"{adjective} {sleeves}"
        return _with_article(f"{adjective} {garment}") + detail

    def _open_upper(self, colour: str, garment: str) -> str:
        self.mentioned |= {"upper_open", "inner_colour"}
        inner = _with_article(f"{self._colour('inner_colour')} {self.rng.choice(vocabulary.INNER_GARMENTS)}")
        opened = f"{vocabulary.OPEN_WORD} {colour} {garment}"
        if self.rng.random() < 0.5:
            return f"{_with_article(opened)} over {inner}"
        return f"{_with_article(opened)} with {inner} underneath"

    def _pattern(self, colour: str) -> tuple[str, str]:
        """The upper garment's colour with the pattern's adjective, and what follows the garment."""
        pattern = self.attributes.upper_pattern
        seen = pattern != "plain" and (pattern != "logo" or self.view == "front")
        if not seen or not self._talks_about("pattern"):
            return colour, ""
        self.mentioned.add("upper_pattern")
        adjectives, nouns = vocabulary.PATTERNS[pattern], vocabulary.PATTERN_NOUNS[pattern]
        if adjectives and self.rng.random() < 0.3:
            return f"{colour} {self.rng.choice(adjectives)}", ""
        self.mentioned.add("upper_second_colour")
        second, noun = self._colour("upper_second_colour"), self.rng.choice(nouns)
        if pattern == "logo":
            where = self.rng.choice(("", " on the front", " on the chest"))
            return colour, f" with {_with_article(f'{second} {noun}')}{where}"
        if self.rng.random() < 0.5:
            return f"{colour} and {second} {self.rng.choice(adjectives)}", ""
        return colour, f" with {second} {noun}"

    def _lower(self) -> str:
        kind = self.attributes.lower_type
        assert kind is not None
        self.mentioned |= {"lower_type", "lower_colour"}
        phrase = f"{self._colour('lower_colour')} {self.rng.choice(vocabulary.LOWER_TYPES[kind])}"
        return self._pair(phrase) if kind in _PLURAL_LOWER else _with_article(phrase)

    def _shoes(self) -> str:
        self.mentioned.add("shoes_colour")
        noun = vocabulary.GENERIC_SHOES
        if self.attributes.shoes_type in ("boots", "sandals") or self.rng.random() < 0.7:
            self.mentioned.add("shoes_type")
            noun = self.rng.choice(vocabulary.SHOE_TYPES[self.attributes.shoes_type])
        return self._pair(f"{self._colour('shoes_colour')} {noun}")

    def _pair(self, phrase: str) -> str:
        return f"a pair of {phrase}" if self.rng.random() < 0.2 else phrase

    # --- everything else, as predicates ---

    def _predicates(self) -> list[str]:
        a = self.attributes
        predicates = []
        if not (a.hair_style == "bald" and a.hat_type) and self._talks_about("hair"):
            predicates.append(self._hair())
        if a.bag_type and self._talks_about("bag"):
            predicates.append(self._bag(a.bag_type))
        if a.hat_type and self._talks_about("hat"):
            predicates.append(self._hat(a.hat_type))
        if a.glasses and self.view != "back" and self._talks_about("glasses"):
            self.mentioned.add("glasses")
            noun = self.rng.choice(vocabulary.NOUNS["glasses"])
            predicates.append(self.rng.choice((f"wears {noun}", f"is wearing {noun}", f"has a pair of {noun} on")))
        if a.umbrella_colour and self._talks_about("umbrella"):
            self.mentioned.add("umbrella_colour")
            umbrella = _with_article(
                f"{self._colour('umbrella_colour')} {self.rng.choice(vocabulary.NOUNS['umbrella'])}"
            )
            predicates.append(self.rng.choice((f"is holding {umbrella}", f"holds {umbrella}", f"is under {umbrella}")))
        return predicates

    def _hair(self) -> str:
        style, colour = self.attributes.hair_style, self.attributes.hair_colour
        self.mentioned |= {"hair_style", "hair_colour"}
        word = self.rng.choice(vocabulary.HAIR_STYLES[style])
        if colour is None:
            return self.rng.choice((f"has a {word} head", f"is {word}"))
        coloured = f"{self.rng.choice(vocabulary.HAIR_COLOURS[colour])} {self.rng.choice(vocabulary.NOUNS['hair'])}"
        if style in ("ponytail", "bun"):
            return self.rng.choice(
                (
                    f"has {coloured} tied in a {word}",
                    f"has {coloured} in a {word}",
                    f"wears {self.possessive} {coloured} in a {word}",
                )
            )
        return f"has {word} {coloured}"

    def _pop_hair(self, predicates: list[str]) -> str | None:
        """Takes the hair out of the predicates, as what may follow "with"."""
        for i, predicate in enumerate(predicates):
            words = predicate.split()
            if words[0] == "has" and vocabulary.NOUNS["hair"][0] in words:
                return predicates.pop(i).removeprefix("has ")
        return None

    def _bag(self, kind: str) -> str:
        self.mentioned |= {"bag_type", "bag_colour"}
        bag = _with_article(f"{self._colour('bag_colour')} {self.rng.choice(vocabulary.BAG_TYPES[kind])}")
        if kind == "suitcase":
            return self.rng.choice((f"is pulling {bag}", f"pulls {bag}", f"is walking with {bag}"))
        place = {
            "backpack": f"has {bag} on {self.possessive} back",
            "handbag": f"is holding {bag} in {self.possessive} hand",
            "shoulder bag": f"has {bag} over {self.possessive} shoulder",
        }[kind]
        return self.rng.choice((place, place, f"is carrying {bag}", f"carries {bag}"))

    def _hat(self, kind: str) -> str:
        self.mentioned |= {"hat_type", "hat_colour"}
        hat = _with_article(f"{self._colour('hat_colour')} {self.rng.choice(vocabulary.HAT_TYPES[kind])}")
        return self.rng.choice((f"is wearing {hat}", f"wears {hat}", f"has {hat} on {self.possessive} head"))

    # --- choices ---

    def _talks_about(self, thing: str) -> bool:
        return self.rng.random() < _MENTION[thing]

    def _colour(self, name: str) -> str:
        return self.rng.choice(vocabulary.COLOURS[getattr(self.attributes, name)])


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _also(predicate: str) -> str:
    first, rest = predicate.split(" ", 1)
    return f"is also {rest}" if first == "is" else f"also {predicate}"


def _enumerate(phrases: Sequence[str], rng: random.Random) -> str:
    """Joins to "x", "x and y" or "x, y and z", with or without the comma before "and"."""
    if len(phrases) == 1:
        return phrases[0]
    comma = "," if len(phrases) > 2 and rng.random() < 0.5 else ""
    return f"{', '.join(phrases[:-1])}{comma} and {phrases[-1]}"
