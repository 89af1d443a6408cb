"""A drawn stand-in for a text-based person search benchmark: people, captions and CUHK-PEDES's layout on disk."""

from .attributes import PersonAttributes, sample_person
from .captions import write_caption
from .dataset import RenderSummary, render_dataset
from .drawing import render_person
from .worlds import WORLDS, World, attribute_words

__all__ = [
    "WORLDS",
    "PersonAttributes",
    "RenderSummary",
    "World",
    "attribute_words",
    "render_dataset",
    "render_person",
    "sample_person",
    "write_caption",
]
