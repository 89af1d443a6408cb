"""The two worlds of rendered people: what the base model is trained on, and what it is then adapted to."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from PIL import Image

from . import attributes
from .attributes import PersonAttributes, sample_person
from .captions import Caption, compose_caption
from .drawing import render_person
from .scene import CAMERAS, Camera
from .street import words as street_words
from .street.captions import compose_street_caption
from .street.drawing import render_street_person
from .street.people import sample_street_person
from .street.scene import STREET_CAMERAS


@dataclass(frozen=True)
class World:
    """A population with its look and its way of telling it; each function draws all chance from its generator.

    Attributes:
        description: one line for the set's README.
        sample: one person's attributes.
        draw: (attributes, rng, height, width, camera) to the picture and the view it shows.
        tell: (attributes, view, rng) to a caption.
        cameras: the cameras that `draw` knows.
        qualities: lowest and highest JPEG quality of the pictures.
    """

    description: str
    sample: Callable[[random.Random], PersonAttributes]
    draw: Callable[[PersonAttributes, random.Random, int, int, str], tuple[Image.Image, str]]
    tell: Callable[[PersonAttributes, str, random.Random], Caption]
    cameras: Mapping[str, Camera]
    qualities: tuple[int, int]


WORLDS: dict[str, World] = {
    "base": World(
        description="streets under many cameras, muted clothes, short and free captions",
        sample=sample_street_person,
        draw=render_street_person,
        tell=compose_street_caption,
        cameras=STREET_CAMERAS,
        qualities=(35, 95),
    ),
    "target": World(
        description="clear pictures of brightly dressed people, long captions that list what they wear and carry",
        sample=sample_person,
        draw=render_person,
        tell=compose_caption,
        cameras=CAMERAS,
        qualities=(80, 95),
    ),
}


def world_named(name: str) -> World:
    """The world of that name.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name not in WORLDS:
        raise ValueError(f"unknown world {name!r}; known are {', '.join(WORLDS)}")
    return WORLDS[name]


@cache
def attribute_words() -> frozenset[str]:
    """The single lower-case words with which captions of either world name attributes; the others are filler.

    A hyphenated word counts whole and in its pieces ("t-shirt", "t", "shirt"), as tokenizers differ. Pronouns are
    filler: they only repeat the gender that the subject has named.
    """
    tables = (*attributes.TABLES, *street_words.TABLES)
    phrases = [phrase for table in tables for options in table.values() for phrase in options]
    phrases += [*attributes.OTHER_WORDS, *street_words.OTHER_WORDS]
    whole = {word for phrase in phrases for word in phrase.split()}
    return frozenset(whole | {piece for word in whole for piece in re.split("-", word)})
