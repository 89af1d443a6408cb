"""
What version 2 of the renderer draws and writes.

A set on disk is taken for complete if its version is the renderer's. So whatever changes a person, a caption or a
picture must raise RENDERER_VERSION, or sets that are there already stay as they were, unlike those of others. Where a
change is meant, raise the version and run `python tests/data/test_renderer_version.py`, which writes new values.
"""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aga_model.data.rendered import WORLDS, drawing
from aga_model.data.rendered.canvas import Canvas
from aga_model.data.rendered.dataset import RENDERER_VERSION, sample_people
from aga_model.data.rendered.street import drawing as street_drawing

VALUES = Path(__file__).parents[1] / "fixtures" / "renderer.json"
PALETTES = {"target": drawing._PAINT, "base": street_drawing._PALETTE}


class _Polygons(Canvas):
    """The polygons of a figure, to a hundredth of a unit, with their colours."""

    def __init__(self):
        super().__init__(Image.new("RGB", (8, 8)), (0, 0), (1, 1), 0, (0, 0))
        self.drawn = []

    def polygon(self, points, fill):
        self.drawn.append([[f"{x + 0.0:.2f} {y + 0.0:.2f}" for x, y in points], list(fill)])


def _hash(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _figure(person, number, palette):
    polygons = _Polygons()
    view = drawing.VIEWS[number % 4]
    drawing.draw_figure(polygons, drawing.pose_figure(person, view, random.Random(number), palette))
    return polygons.drawn


def _picture(draw, person, number, cameras):
    """The mean red, green and blue of the eighths of a small picture, in rows."""
    picture, _ = draw(person, random.Random(number), 64, 32, cameras[number % len(cameras)])
    return (
        np.asarray(picture, dtype=float)
        .reshape(4, 16, 2, 16, 3)
        .mean(axis=(1, 3))
        .round()
        .astype(int)
        .ravel()
        .tolist()
    )


def values_of(name: str) -> dict:
    world, people = WORLDS[name], sample_people(120, 1, name)
    captions = [
        world.tell(person, drawing.VIEWS[number % 4], random.Random(f"{number}/{again}"))
        for number, person in enumerate(people)
        for again in range(4)
    ]
    return {
        "people": _hash([person.to_dict() for person in people]),
        "lookalikes": _hash([person.to_dict() for person in sample_people(60, 1, name, lookalikes=3)]),
        "captions": _hash([[caption.text, sorted(caption.mentioned)] for caption in captions]),
        "figures": _hash([_figure(person, number, PALETTES[name]) for number, person in enumerate(people[:80])]),
        "pictures": [
            _picture(world.draw, person, number, tuple(world.cameras)) for number, person in enumerate(people[:12])
        ],
    }


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_rendered_changes_with_the_version_only(name):
    kept = json.loads(VALUES.read_text())
    assert kept["version"] == RENDERER_VERSION
    found, wanted = values_of(name), kept[name]
    # Releases of Pillow may differ in the last bit of a pixel.
    np.testing.assert_allclose(found.pop("pictures"), wanted.pop("pictures"), atol=2)
    assert found == wanted


if __name__ == "__main__":
    VALUES.write_text(json.dumps({"version": RENDERER_VERSION} | {name: values_of(name) for name in WORLDS}) + "\n")
