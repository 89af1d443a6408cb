"""Writes captions of photographic-looking street people the way people jot them down: queries, lists, sentences.

The things to tell are drawn first (`_draw_things`); `_Describer` then puts each into a noun phrase and notes what
that tells, and `_Writer` sets the noun phrases into one of six kinds of caption.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..attributes import PersonAttributes, Phrases
from ..captions import Caption
from . import words as words

_STYLES = {"phrase": 33, "keywords": 12, "sentence": 22, "story": 10, "query": 11, "photo": 12}
# How often a caption of a style is terse, usual or rich.
_LEVELS = {
    "phrase": (45, 45, 10),
    "keywords": (30, 50, 20),
    "sentence": (30, 45, 25),
    "story": (5, 50, 45),
    "query": (50, 40, 10),
    "photo": (40, 45, 15),
}
# How often a terse, a usual and a rich caption tell a thing that is there and can be seen.
_MENTION = {
    "hair": (0.37, 0.62, 0.8),
    "upper": (0.93, 0.97, 1.0),
    "lower": (0.48, 0.78, 0.93),
    "shoes": (0.04, 0.17, 0.62),
    "hat": (0.42, 0.68, 0.9),
    "glasses": (0.25, 0.42, 0.7),
    "bag": (0.42, 0.68, 0.9),
    "umbrella": (0.5, 0.7, 0.9),
    "build": (0.03, 0.08, 0.25),
    "pattern": (0.7, 0.85, 0.95),
    "sleeves": (0.06, 0.15, 0.35),
    "inner": (0.5, 0.7, 0.85),
}
# How often a caption leaves the clothes out. They are easy to see: a model that always reads of them learns late, or
# never, to look at hair, hats and what is carried.
_WITHOUT_CLOTHES = 0.3
_PLURAL_LOWER = ("pants", "jeans", "shorts", "leggings")
_OUTERWEAR = ("jacket", "coat")
_ACTIONS = {
    "front": ("walking towards the camera", "facing the camera", "approaching", "coming this way", "facing us"),
    "back": (
        "walking away",
        "seen from behind",
        "facing away",
        "walking away from the camera",
        "heading away from us",
    ),
    "left": ("walking left", "heading left", "facing left", "walking to the left", "seen from the side", "in profile"),
    "right": ("walking right", "heading right", "facing right", "walking to the right", "seen from the side"),
}
_ANYWHERE = (
    "walking",
    "standing",
    "strolling",
    "crossing the street",
    "walking down the street",
    "out on the street",
    "on the pavement",
    "on the sidewalk",
    "out walking",
    "passing by",
)
_BAG_VERBS = {
    "backpack": ("carrying", "wearing"),
    "handbag": ("carrying", "holding"),
    "shoulder bag": ("carrying",),
    "suitcase": ("pulling", "wheeling", "dragging"),
    "shopping bag": ("carrying", "holding"),
}
_BAG_PLACES = {
    "backpack": (" on the back",),
    "handbag": (" in one hand", " in hand"),
    "shoulder bag": (" over the shoulder", " over one shoulder", " slung over the shoulder"),
    "suitcase": ("",),
    "shopping bag": (" in one hand", " in hand"),
}
_QUERIES = (
    "looking for",
    "find",
    "search for",
    "have you seen",
    "trying to find",
    "please find",
    "the witness saw",
    "I am looking for",
)
_ENDS = {  # how often a caption of a style begins with a capital, and ends with a full stop
    "phrase": (0.25, 0.1),
    "keywords": (0.2, 0.05),
    "sentence": (0.85, 0.9),
    "story": (1.0, 0.95),
    "query": (0.3, 0.15),
    "photo": (0.5, 0.3),
}
_CLOTHES = ("upper", "lower", "shoes")
_ACCESSORIES = ("hat", "glasses", "bag", "umbrella")
_PHOTO_NOUNS = (
    "photo",
    "photo",
    "picture",
    "image",
    "photograph",
    "street photo",
    "surveillance picture",
    "security camera image",
    "camera shot",
    "snapshot",
)


def compose_street_caption(attributes: PersonAttributes, view: str, rng: random.Random) -> Caption:
    """A caption of free phrasing, true of a picture of the person from `view`, with the fields that it tells.

    A word that fits several values (a "dark" jacket, a black "bag", a "person") tells no field. Of two colours in one
    garment ("a red and blue jacket") either may come first; both fields count as told.

    Args:
        attributes: what the person looks like.
        view: "front", "back", "left" or "right"; what cannot be seen from there (a logo or glasses from behind) is
            not named.
        rng: the only source of chance.
    """
    style = rng.choices(tuple(_STYLES), tuple(_STYLES.values()))[0]
    level = rng.choices((0, 1, 2), _LEVELS[style])[0]
    describer = _Describer(attributes, view, level, rng)
    text = _Writer(describer, _draw_things(attributes, view, level, rng), rng).write(style)
    return Caption(text, frozenset(describer.mentioned))


def _draw_things(a: PersonAttributes, view: str, level: int, rng: random.Random) -> list[str]:
    """The names (keys of `_MENTION`) of what the caption is to tell; at least one."""
    there = {
        "hair": not (a.hair_style == "bald" and a.hat_type),
        "upper": True,
        "lower": a.lower_type is not None,
        "shoes": True,
        "hat": a.hat_type is not None,
        "glasses": a.glasses and view != "back",
        "bag": a.bag_type is not None,
        "umbrella": a.umbrella_colour is not None,
        "build": a.build != "average" or rng.random() < 0.3,
    }
    if rng.random() < _WITHOUT_CLOTHES:
        others = [thing for thing, seen in there.items() if seen and thing not in _CLOTHES]
        told = [thing for thing in others if rng.random() < max(0.7, _MENTION[thing][level])]
        if told:
            return told
    return [thing for thing, seen in there.items() if seen and rng.random() < _MENTION[thing][level]] or ["upper"]


# --- noun phrases -----------------------------------------------------------------------------------------------


@dataclass
class _Describer:
    """Noun phrases for what one person looks like; keeps the names of the fields whose values they tell."""

    attributes: PersonAttributes
    view: str
    level: int
    rng: random.Random
    article: str = "a"  # of the things: "a", "the" or none, as in headlines
    mentioned: set[str] = field(default_factory=set)

    # --- the person ---

    def gendered_noun(self) -> str:
        self.mentioned.add("gender")
        return _pick(words.GENDERS[self.attributes.gender], self.rng)

    def build_adjective(self) -> str | None:
        phrases = words.BUILDS[self.attributes.build]
        if not phrases:
            return None
        self.mentioned.add("build")
        return _pick(phrases, self.rng)

    def build(self) -> str:
        """As in "slim build"."""
        self.mentioned.add("build")
        return f"{_pick(words.BUILD_NOUNS[self.attributes.build], self.rng)} build"

    def hair_adjective(self) -> str | None:
        """What stands before the person's noun, such as "blonde" or "short-haired"; None for tied hair at times."""
        style, colour = self.attributes.hair_style, self.attributes.hair_colour
        by_style = words.HAIR_STYLE_ADJECTIVES[style]
        if colour is None:
            self.mentioned |= {"hair_style", "hair_colour"}
            return _pick(by_style, self.rng)
        if self.rng.random() < 0.3:
            if by_style:
                self.mentioned.add("hair_style")
            return _pick(by_style, self.rng) if by_style else None
        if self._calls_hair_dark():
            return words.DARK_HAIR_ADJECTIVE
        self.mentioned.add("hair_colour")
        return _pick(words.HAIR_COLOUR_ADJECTIVES[colour], self.rng)

    def hair(self) -> str:
        """What follows "with": the colour, the style or both."""
        style = _pick(words.HAIR_STYLES[self.attributes.hair_style], self.rng)
        if self.attributes.hair_colour is None:
            self.mentioned |= {"hair_style", "hair_colour"}
            return "no hair" if self.rng.random() < 0.2 else self.a(f"{style} head")
        share = self.rng.random()
        noun = words.NOUNS["hair"][0]
        colour = self.hair_colour() if share < 0.75 else ""
        if share < 0.4:
            return f"{colour} {noun}"
        self.mentioned.add("hair_style")
        if self.attributes.hair_style in ("short", "long"):
            return _spaced(style, colour, noun)
        if self.rng.random() < 0.4:
            return self.a(_spaced(colour, style))
        tied = self.rng.choice(("in", "tied in", "tied back in", "pulled back into", "worn in"))
        return _spaced(colour, noun, tied, _with_article("a" if self.article else "", style))

    def hair_colour(self) -> str:
        if self._calls_hair_dark():
            return words.DARK_HAIR_WORD
        assert self.attributes.hair_colour is not None
        self.mentioned.add("hair_colour")
        return _pick(words.HAIR_COLOURS[self.attributes.hair_colour], self.rng)

    def _calls_hair_dark(self) -> bool:
        return self.attributes.hair_colour in words.DARK_HAIR_COLOURS and self.rng.random() < 0.25

    # --- clothes ---

    def outfit(self) -> str | None:
        """The clothes as a whole ("all in black", "in dark clothes"), where all that is seen of them is alike."""
        colours = self._visible_clothes_colours()
        first = colours[0]
        if all(colour == first for colour in colours):
            self.mentioned |= {"upper_colour"} | ({"lower_colour"} if self.attributes.lower_type else set())
            colour = _pick(words.COLOURS[first], self.rng)
            worn = (f"all in {colour}", f"dressed all in {colour}", f"wearing all {colour}", f"in {colour}")
            return self.rng.choice(worn)
        shades = {words.SHADE_OF.get(colour) for colour in colours}
        if shades not in ({"dark"}, {"light"}, {"bright"}):
            return None
        shade = _pick(words.SHADES[words.SHADE_OF[first]], self.rng)
        wearing = self.rng.choice(("in", "wearing", "dressed in"))
        return f"{wearing} {shade} {_pick(words.GENERIC_CLOTHES, self.rng)}"

    def _visible_clothes_colours(self) -> list[str]:
        a = self.attributes
        inner = a.inner_colour if self.view != "back" else None
        colours = (a.upper_colour, a.upper_second_colour, inner, a.lower_colour)
        return [colour for colour in colours if colour is not None]

    def upper(self) -> str:
        a = self.attributes
        if a.upper_open and self.view != "back" and self._tells("inner"):
            return self._open_upper()
        if a.upper_pattern != "plain" and self._pattern_is_seen() and self._tells("pattern"):
            return self._patterned_upper()
        plain = ""
        if a.upper_pattern == "plain" and a.upper_type not in _OUTERWEAR and self.rng.random() < 0.05:
            self.mentioned.add("upper_pattern")
            plain = words.PATTERNS["plain"][0]
        colour = self._upper_colour()
        return self.a(_spaced(plain, self._upper_garment(colour)))

    def _pattern_is_seen(self) -> bool:
        return self.attributes.upper_pattern != "logo" or self.view == "front"

    def _upper_colour(self) -> str:
        only_colour = self.attributes.upper_pattern in ("plain", "logo")
        return self._colour("upper_colour", nothing=0.06, shade=0.1 if only_colour else 0.0)

    def _upper_garment(self, colour: str) -> str:
        """The colours with the sleeves and the garment; the garment may be called a top only."""
        a = self.attributes
        if a.upper_type not in (*_OUTERWEAR, "dress") and self.rng.random() < 0.08:
            return _spaced(colour, words.GENERIC_UPPER)
        self.mentioned.add("upper_type")
        garment = self._garment(words.UPPER_TYPES, a.upper_type, "upper_colour")
        if a.upper_type in (*_OUTERWEAR, "vest", "hoodie") or not self._tells("sleeves"):
            size, _, rest = garment.partition(" ")
            if size in ("long", "short") and self.rng.random() < 0.6:  # "a long black coat"
                return _spaced(size, colour, rest)
            return _spaced(colour, garment)
        self.mentioned.add("sleeves")
        if a.sleeves != "none" and self.rng.random() < 0.25:
            return _spaced(colour, garment, "with", a.sleeves, words.SLEEVE_NOUN)
        sleeves = _pick(words.SLEEVES[a.sleeves], self.rng)
        order = (colour, sleeves) if self.rng.random() < 0.4 else (sleeves, colour)
        return _spaced(*order, garment)

    def _open_upper(self) -> str:
        a = self.attributes
        self.mentioned |= {"upper_type", "inner_colour"}
        garment = _spaced(self._upper_colour(), self._garment(words.UPPER_TYPES, a.upper_type, "upper_colour"))
        inner = self.a(f"{self._exact_colour('inner_colour')} {_pick(words.INNER_GARMENTS, self.rng)}")
        if self.rng.random() < 0.4:
            return f"{self.a(garment)} over {inner}"
        self.mentioned.add("upper_open")
        opened = self.a(f"{words.OPEN_WORD} {garment}")
        return self.rng.choice((f"{opened} over {inner}", f"{opened} with {inner} underneath"))

    def _patterned_upper(self) -> str:
        pattern = self.attributes.upper_pattern
        if pattern == "logo":
            return self._upper_with_logo()
        shape = self.rng.random()
        if shape < 0.25:
            nouns = words.PATTERN_NOUNS[pattern]
            garment = self.a(self._upper_garment(self._exact_colour("upper_colour")))
            link = "and" if f" {words.SLEEVE_NOUN}" in garment else "with"
            self.mentioned.add("upper_pattern")
            return f"{garment} {link} {self._exact_colour('upper_second_colour')} {_pick(nouns, self.rng)}"
        colours = self._upper_colours()
        if pattern == "blocks" and shape < 0.8:
            return self.a(self._upper_garment(colours))
        self.mentioned.add("upper_pattern")
        adjective = _pick(words.PATTERNS[pattern], self.rng)
        return self.a(self._upper_garment(_spaced(colours, adjective)))

    def _upper_colours(self) -> str:
        """Both colours of the pattern, in either order; at times the main one only, or that they are colourful."""
        a = self.attributes
        share = self.rng.random()
        if share < 0.2 and {a.upper_colour, a.upper_second_colour} <= set(words.VIVID_COLOURS):
            return _pick(words.COLOURFUL, self.rng)
        if share < 0.2 and a.upper_pattern != "blocks":
            return self._colour("upper_colour", nothing=0.3)
        both = [self._exact_colour("upper_colour"), self._exact_colour("upper_second_colour")]
        if self.rng.random() < 0.35:
            both.reverse()
        return " and ".join(both)

    def _upper_with_logo(self) -> str:
        self.mentioned.add("upper_pattern")
        colour = self._upper_colour()
        if self.rng.random() < 0.25:
            return self.a(self._upper_garment(_spaced(colour, _pick(words.PATTERNS["logo"], self.rng))))
        garment = self.a(self._upper_garment(colour))
        link = "and" if f" {words.SLEEVE_NOUN}" in garment else "with"
        logo_colour = self._colour("upper_second_colour", nothing=0.2)
        logo = self.a(_spaced(logo_colour, _pick(words.PATTERN_NOUNS["logo"], self.rng)))
        where = self.rng.choice(("", "", " on the front", " on the chest", " on it"))
        return f"{garment} {link} {logo}{where}"

    def lower(self) -> str:
        a = self.attributes
        assert a.lower_type is not None and a.lower_colour is not None
        colour = self._colour("lower_colour", nothing=0.25 if a.lower_type == "jeans" else 0.05, shade=0.12)
        if colour and self.rng.random() < 0.04:
            return f"{colour} {words.GENERIC_LOWER}"
        self.mentioned.add("lower_type")
        garment = _spaced(colour, self._garment(words.LOWER_TYPES, a.lower_type, "lower_colour"))
        return self._pair(garment) if a.lower_type in _PLURAL_LOWER else self.a(garment)

    def shoes(self) -> str:
        kind = self.attributes.shoes_type
        colour = self._colour("shoes_colour", nothing=0.08, shade=0.08)
        if colour and kind in ("sneakers", "leather shoes") and self.rng.random() < 0.4:
            return self._pair(f"{colour} {words.GENERIC_SHOES}")
        self.mentioned.add("shoes_type")
        return self._pair(_spaced(colour, _pick(words.SHOE_TYPES[kind], self.rng)))

    def statement(self, thing: str) -> str:
        """The upper or lower garment or the shoes with the verb: "jacket is navy", "shoes are white"."""
        a = self.attributes
        if thing == "upper":
            self.mentioned.add("upper_type")
            colours = self._stated_upper_colours()
            return f"{self._garment(words.UPPER_TYPES, a.upper_type, 'upper_colour')} is {colours}"
        if thing == "shoes":
            self.mentioned.add("shoes_type")
            noun = _pick(words.SHOE_TYPES[a.shoes_type], self.rng)
            return f"{noun} are {self._colour('shoes_colour', shade=0.08)}"
        assert a.lower_type is not None and a.lower_colour is not None
        self.mentioned.add("lower_type")
        colour = self._colour("lower_colour", shade=0.12)
        verb = "are" if a.lower_type in _PLURAL_LOWER else "is"
        return f"{self._garment(words.LOWER_TYPES, a.lower_type, 'lower_colour')} {verb} {colour}"

    def _stated_upper_colours(self) -> str:
        pattern = self.attributes.upper_pattern
        if pattern in ("plain", "logo") or not self._tells("pattern"):
            return self._colour("upper_colour", shade=0.1 if pattern == "plain" else 0.0)
        both = f"{self._exact_colour('upper_colour')} and {self._exact_colour('upper_second_colour')}"
        if pattern == "blocks" or self.rng.random() < 0.4:
            return both
        self.mentioned.add("upper_pattern")
        return f"{both} with {_pick(words.PATTERN_NOUNS[pattern], self.rng)}"

    # --- accessories ---

    def hat(self) -> str:
        kind = self.attributes.hat_type
        assert kind is not None
        colour = self._colour("hat_colour", nothing=0.15, shade=0.06)
        if self.rng.random() < 0.15:
            return self.a(_spaced(colour, words.GENERIC_HAT))
        self.mentioned.add("hat_type")
        return self.a(_spaced(colour, _pick(words.HAT_TYPES[kind], self.rng)))

    def glasses(self) -> str:
        self.mentioned.add("glasses")
        return _pick(words.NOUNS["glasses"], self.rng)

    def bag(self) -> str:
        a = self.attributes
        assert a.bag_type is not None and a.bag_colour is not None
        colour = self._colour("bag_colour", nothing=0.15, shade=0.06)
        if a.bag_type != "suitcase" and self.rng.random() < 0.2:
            return self.a(_spaced(colour, words.GENERIC_BAG))
        self.mentioned.add("bag_type")
        return self.a(_spaced(colour, self._garment(words.BAG_TYPES, a.bag_type, "bag_colour")))

    def umbrella(self) -> str:
        colour = self._colour("umbrella_colour", nothing=0.1, shade=0.05)
        return self.a(_spaced(colour, words.NOUNS["umbrella"][0]))

    # --- words ---

    def a(self, phrase: str) -> str:
        """The phrase of one countable thing with the article that this caption gives to things."""
        return _with_article(self.article, phrase)

    def _pair(self, phrase: str) -> str:
        return f"a pair of {phrase}" if self.article == "a" and self.rng.random() < 0.06 else phrase

    def _garment(self, table: Phrases, kind: str, colour_field: str) -> str:
        """The thing's noun, now and then with a material, which only the plainest noun goes with.

        A material of some colours only would tell more of the colour than the caption has; the colour comes first.
        """
        colour = getattr(self.attributes, colour_field) if colour_field in self.mentioned else None
        options = [name for name, colours in words.MATERIALS.get(kind, ()) if not colours or colour in colours]
        if options and self.rng.random() < 0.08:
            return f"{self.rng.choice(options)} {table[kind][0]}"
        return _pick(table[kind], self.rng)

    def _colour(self, name: str, *, nothing: float = 0.0, shade: float = 0.0) -> str:
        """The colour; with probability `shade` only "dark" and the like; with probability `nothing` no word."""
        share = self.rng.random()
        if share < nothing:
            return ""
        kind = words.SHADE_OF.get(getattr(self.attributes, name))
        if kind and share < nothing + shade:
            return _pick(words.SHADES[kind], self.rng)
        return self._exact_colour(name)

    def _exact_colour(self, name: str) -> str:
        self.mentioned.add(name)
        return _pick(words.COLOURS[getattr(self.attributes, name)], self.rng)

    def _tells(self, thing: str) -> bool:
        return self.rng.random() < _MENTION[thing][self.level]


# --- captions ---------------------------------------------------------------------------------------------------


@dataclass
class _Parts:
    """Noun phrases by how they can be said of somebody."""

    who: str  # without article
    neutral: bool  # whether `who` leaves the gender open
    features: list[str] = field(default_factory=list)  # after "with" or "has"
    worn: list[str] = field(default_factory=list)  # after "in" or "wearing"
    outfit: str | None = None  # after "is", in place of what is worn
    carried: list[str] = field(default_factory=list)  # after "is": "carrying a white bag"


@dataclass
class _Writer:
    describer: _Describer
    things: list[str]
    rng: random.Random

    def write(self, style: str) -> str:
        compose = {
            "phrase": self._phrase,
            "keywords": self._keywords,
            "sentence": self._sentence,
            "story": self._story,
            "query": self._query,
            "photo": self._photo,
        }[style]
        text = compose()
        capital, stop = _ENDS[style]
        if self.rng.random() < capital:
            text = _capital(text)
        return f"{text}." if not text.endswith(("?", ".")) and self.rng.random() < stop else text

    # --- one noun phrase ---

    def _phrase(self) -> str:
        article = self._draw_articles(headline=0.2, definite=0.07)
        if article == "a" and self.rng.random() < 0.3:
            article = ""  # "man wearing a dark jacket"
        wear = self._draw_wear()
        return self._described(article, self._parts(0.12, wear, outfit=0.06), wear, acting=0.1)

    def _photo(self) -> str:
        article = self._draw_articles(headline=0.2, definite=0.0)
        noun = self.rng.choice(_PHOTO_NOUNS)
        prefix = f"{noun} of" if not article or self.rng.random() < 0.3 else f"{_with_article('a', noun)} of"
        wear = self._draw_wear()
        return f"{prefix} {self._described(article, self._parts(0.15, wear, outfit=0.06), wear, acting=0.4)}"

    def _query(self) -> str:
        article = self._draw_articles(headline=0.12, definite=0.2)
        wear = "last seen wearing" if self.rng.random() < 0.12 else self._draw_wear()
        if len(self.things) <= 2 and self.rng.random() < 0.2:
            self.describer.article = "the"
            parts = self._with_things(self._person("one"), wear)
            return self._described("the", parts, wear, acting=0.0)
        described = self._described(article, self._parts(0.35, wear, outfit=0.4), wear, acting=0.1)
        if self.rng.random() < 0.35:
            return described
        query = self.rng.choice(_QUERIES)
        return f"{query} {described}" + ("?" if query.startswith("have you") and self.rng.random() < 0.6 else "")

    def _described(self, article: str, parts: _Parts, wear: str, *, acting: float) -> str:
        """The person with everything that is told, as one noun phrase; with an action in a share of `acting`."""
        if wear == "with":  # one list, for "with blonde hair with a red coat" is none
            parts.features, parts.worn = [*parts.features, *parts.worn], []
        segments = [f"with {_join(parts.features, self.rng)}"] if parts.features else []
        clothed = parts.outfit or (f"{wear} {_join(parts.worn, self.rng)}" if parts.worn else None)
        if clothed:
            first = self.rng.random() < 0.3 and not any(_is_detailed(phrase) for phrase in parts.worn)
            segments.insert(0 if first else len(segments), clothed)
        if self.rng.random() < acting:
            segments.insert(self.rng.randrange(len(segments) + 1), self._action())
        text = " ".join([_with_article(article, parts.who), *segments])
        if not parts.carried:
            return text
        link = ", " if self.rng.random() < 0.2 else " "
        if clothed and segments[-1] == clothed and "wearing" in clothed.split(" ", 1)[0]:
            link = self.rng.choice((" and ", ", "))
        return f"{text}{link}{' and '.join(parts.carried)}"

    # --- lists ---

    def _keywords(self) -> str:
        describer = self.describer
        describer.article = ""
        share = self.rng.random()
        items = [describer.gendered_noun()] if share < 0.85 else ["person"] if share < 0.92 else []
        others = [self._keyword(thing) for thing in self.things]
        if self.rng.random() < 0.3:
            self.rng.shuffle(others)
        return self.rng.choice((", ", ", ", ", ", ", ", ", ", ", ", "; ", " ")).join(items + others)

    def _keyword(self, thing: str) -> str:
        describer, share = self.describer, self.rng.random()
        if thing == "build":
            return (describer.build_adjective() if share < 0.5 else None) or describer.build()
        if thing == "hair" and (share < 0.1 or (share < 0.7 and describer.attributes.hair_style == "bald")):
            return describer.hair_adjective() or describer.hair()
        if thing in ("bag", "umbrella"):
            return (self._bag() if thing == "bag" else self._umbrella()) if share < 0.15 else self._name(thing)
        if thing in ("hat", "glasses") and share < 0.15:
            return f"wearing {self._name(thing)}"
        return self._name(thing)

    # --- one sentence ---

    def _sentence(self) -> str:
        wear = self._draw_wear()
        parts = self._parts(0.12, wear, outfit=0.06)
        article = self.rng.choice(("a", "a", "a", "the", "this"))
        shape = self.rng.random()
        if shape < 0.2:
            there = self.rng.choice(("there is", "I can see", "we see", "you can see", "here is", "this is"))
            return f"{there} {self._described('a', parts, wear, acting=0.3)}"
        if shape < 0.35:
            return f"{self._described(article, parts, wear, acting=0.0)} is {self._action()}"
        if shape < 0.5 and parts.worn:
            return self._clothes_first(article, parts)
        if shape < 0.62 and (parts.worn or parts.outfit) and (parts.features or parts.carried):
            return self._relative_clause(article, parts)
        who = _with_article(article, parts.who)
        if parts.features and (parts.worn or parts.outfit) and self.rng.random() < 0.5:
            who += f" with {_join(parts.features, self.rng)}"
            parts.features = []
        clauses = self._clauses(parts)
        return f"{who} {_join(clauses or [f'is {self._action()}'], self.rng)}"

    def _clothes_first(self, article: str, parts: _Parts) -> str:
        dressed = self.rng.choice(("dressed in", "wearing", "clad in", "in"))
        if "glasses" in self.things:
            dressed = "wearing"
        who = _with_article(article, parts.who)
        if parts.features:
            who += f" with {_join(parts.features, self.rng)}"
        does = " and ".join(parts.carried) or self._action()
        return f"{dressed} {_join(parts.worn, self.rng)}, {who} is {does}"

    def _relative_clause(self, article: str, parts: _Parts) -> str:
        """One clause after "who", the others after it."""
        clauses = self._clauses(parts)
        told = clauses.pop(self.rng.randrange(len(clauses)))
        return f"{_with_article(article, parts.who)} who {told} {_join(clauses, self.rng)}"

    def _clauses(self, parts: _Parts) -> list[str]:
        """The parts as predicates."""
        clauses = []
        if parts.outfit:
            clauses.append(f"is {parts.outfit}")
        elif parts.worn:
            clauses.append(f"{self._draw_verb()} {_join(parts.worn, self.rng)}")
        if parts.features:
            clauses.append(f"has {_join(parts.features, self.rng)}")
        if parts.carried:
            clauses.append(f"is {' and '.join(parts.carried)}")
        if self.rng.random() < 0.3:
            self.rng.shuffle(clauses)
        return clauses

    def _draw_verb(self) -> str:
        if "glasses" in self.things:
            return self.rng.choice(("is wearing", "wears", "has on"))
        verbs = ("is wearing", "is wearing", "wears", "has on", "is dressed in", "is clad in", "is sporting", "is in")
        return self.rng.choice(verbs)

    # --- two or three sentences ---

    def _story(self) -> str:
        person = self._person(self._draw_noun(0.1))
        sentences = [self._story_opening(person)]
        clothes = [thing for thing in self.things if thing in _CLOTHES]
        if clothes:
            sentences.append(self._story_clothes(person, clothes))
        others = [f"has {feature}" for feature in person.features]
        others += [self._story_clause(thing) for thing in self.things if thing in _ACCESSORIES]
        if others:
            sentences.append(f"{self._pronoun(person)} {_join(others, self.rng)}")
        if len(sentences) == 1:
            sentences.append(f"{self._pronoun(person)} is {self._action()}")
        return ". ".join(map(_capital, sentences))

    def _story_opening(self, person: _Parts) -> str:
        """Says who there is; often uses the features up."""
        who = _with_article("a", person.who)
        if person.features and (len(self.things) > 4 or self.rng.random() < 0.6):
            who += f" with {_join(person.features, self.rng)}"
            person.features = []
        openings = ("this is {}", "here is {}", "{} on the street", "the photo shows {}", "in the shot we see {}")
        if len(self.things) > 1 and self.rng.random() < 0.5:
            return f"{who} is {self._action()}"
        return self.rng.choice(openings).format(who)

    def _story_clothes(self, person: _Parts, clothes: list[str]) -> str:
        possessive = "their" if person.neutral else "his" if self._is_man() else "her"
        if self.rng.random() < 0.4:
            told = [self.describer.statement(thing) for thing in clothes]
            return _join([f"{possessive} {statement}" for statement in told], self.rng)
        worn = [self._name(thing) for thing in clothes]
        verb = self.rng.choice(("is wearing", "is dressed in", "wears", "has on", "is in"))
        return f"{self._pronoun(person)} {verb} {_join(worn, self.rng)}"

    def _story_clause(self, thing: str) -> str:
        if thing == "bag":
            return f"is {self._bag()}" if self.rng.random() < 0.7 else f"has {self._name('bag')}"
        if thing == "umbrella":
            return f"is {self._umbrella()}"
        return f"{self.rng.choice(('wears', 'is wearing', 'has on'))} {self._name(thing)}"

    def _pronoun(self, person: _Parts) -> str:
        return "the person" if person.neutral else "he" if self._is_man() else "she"

    def _is_man(self) -> bool:
        return self.describer.attributes.gender == "man"

    # --- the person and the things ---

    def _parts(self, neutral: float, wear: str, *, outfit: float) -> _Parts:
        """Everything that is to be told; with the chance `outfit`, the clothes as a whole where they are alike."""
        parts = self._person(self._draw_noun(neutral))
        if "upper" in self.things and self.rng.random() < outfit:
            parts.outfit = self.describer.outfit()
        return self._with_things(parts, wear)

    def _draw_noun(self, neutral: float) -> str | None:
        """A noun that leaves the gender open, with the chance `neutral`."""
        if self.rng.random() >= neutral:
            return None
        nouns = [noun for noun in words.NEUTRAL_NOUNS if noun != "someone" or self.describer.article == "a"]
        return _pick(nouns, self.rng)

    def _person(self, neutral_noun: str | None) -> _Parts:
        """The person with the build and the hair, which may stand before the noun."""
        describer = self.describer
        noun = neutral_noun or describer.gendered_noun()
        before: list[str | None] = []
        after = ""
        features: list[str] = []
        takes_adjectives = noun != "someone"
        if "build" in self.things:
            adjective = describer.build_adjective() if takes_adjectives and self.rng.random() < 0.7 else None
            before.append(adjective)
            after = "" if adjective else f" of {describer.build()}"
        if "hair" in self.things:
            often = 0.6 if describer.attributes.hair_style == "bald" else 0.25
            adjective = describer.hair_adjective() if takes_adjectives and self.rng.random() < often else None
            before.append(adjective)
            features = [] if adjective else [describer.hair()]
        return _Parts(_spaced(*before, noun) + after, neutral_noun is not None, features)

    def _with_things(self, parts: _Parts, wear: str) -> _Parts:
        """Puts what the person has on and carries where it can be said."""
        for thing in self.things:
            if thing in ("upper", "lower"):
                if not parts.outfit:
                    parts.worn.append(self._name(thing))
            elif thing == "shoes":
                (parts.features if parts.outfit else parts.worn).append(self._name(thing))
            elif thing == "hat":
                (parts.worn if parts.worn and self.rng.random() < 0.5 else parts.features).append(self._name(thing))
            elif thing == "glasses":
                fits = parts.worn and wear.endswith("wearing") and self.rng.random() < 0.4
                (parts.worn if fits else parts.features).append(self._name(thing))
            elif thing in ("bag", "umbrella"):
                if self.rng.random() < 0.4:
                    parts.features.append(_placed_bag(self) if thing == "bag" else self._name(thing))
                else:
                    parts.carried.append(self._bag(wear) if thing == "bag" else self._umbrella())
        return parts

    def _name(self, thing: str) -> str:
        """The thing's noun phrase."""
        describer = self.describer
        names = {
            "hair": describer.hair,
            "upper": describer.upper,
            "lower": describer.lower,
            "shoes": describer.shoes,
            "hat": describer.hat,
            "glasses": describer.glasses,
            "bag": describer.bag,
            "umbrella": describer.umbrella,
        }
        return names[thing]()

    def _bag(self, wear: str = "") -> str:
        """The bag in the hand or on the back; no second "wearing" after the clothes' one, and none of a mere "bag"."""
        kind = self.describer.attributes.bag_type
        assert kind is not None
        bag = self._name("bag")
        worn = not wear.endswith("wearing") and not bag.endswith(words.GENERIC_BAG)
        return f"{self.rng.choice([verb for verb in _BAG_VERBS[kind] if worn or verb != 'wearing'])} {bag}"

    def _umbrella(self) -> str:
        return f"{self.rng.choice(('holding', 'carrying', 'under', 'sheltering under'))} {self._name('umbrella')}"

    # --- choices ---

    def _draw_articles(self, *, headline: float, definite: float) -> str:
        """Sets the article of the things, and returns it for the person."""
        share = self.rng.random()
        self.describer.article = "" if share < headline else "the" if share < headline + definite else "a"
        return self.describer.article

    def _draw_wear(self) -> str:
        return self.rng.choice(
            ("in", "in", "in", "in", "wearing", "wearing", "wearing", "wearing", "dressed in", "with")
        )

    def _action(self) -> str:
        return self.rng.choice(_ANYWHERE if self.rng.random() < 0.5 else _ACTIONS[self.describer.view])


# --- text -------------------------------------------------------------------------------------------------------


def _pick(phrases: Sequence[str], rng: random.Random) -> str:
    """One of the phrases; the first, which is the plainest, more than half of the times."""
    return phrases[0] if rng.random() < 0.55 else rng.choice(phrases)


def _spaced(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _with_article(article: str, phrase: str) -> str:
    if not article or phrase.startswith("someone"):
        return phrase
    if article == "a" and phrase[0] in "aeiou":
        article = "an"
    return f"{article} {phrase}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _is_detailed(phrase: str) -> bool:
    """Whether a noun phrase ends in a detail that what follows could be read as part of."""
    return " with " in phrase or " over " in phrase


def _join(phrases: Sequence[str], rng: random.Random) -> str:
    """Joins to "x", "x and y" or "x, y and z"; phrases with details come last."""
    ordered = sorted(phrases, key=_is_detailed)
    if len(ordered) == 1:
        return ordered[0]
    comma = "," if len(ordered) > 2 and rng.random() < 0.3 else ""
    return f"{', '.join(ordered[:-1])}{comma} and {ordered[-1]}"


def _placed_bag(writer: _Writer) -> str:
    kind = writer.describer.attributes.bag_type
    assert kind is not None
    return writer._name("bag") + (writer.rng.choice(_BAG_PLACES[kind]) if writer.rng.random() < 0.25 else "")
