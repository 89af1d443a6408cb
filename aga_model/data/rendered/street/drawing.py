"""Draws the pictures of `world=base`: people as a street camera sees them, in muted clothes and changing light."""

import colorsys
import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from ..attributes import PersonAttributes
from ..canvas import Canvas, Point, Rgb
from ..drawing import VIEWS, Figure, Palette, check_picture, draw_figure, pose_figure
from .people import sample_street_person
from .scene import STREET_CAMERAS, draw_in_front, draw_street, expose, noise_field

_Hsv = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]  # degrees, 0..1, 0..1

# What people call by a name, as ranges of hue, saturation and value in even light.
CLOTH_HSV: dict[str, _Hsv] = {
    "black": ((0, 360), (0.0, 0.22), (0.03, 0.17)),
    "dark gray": ((0, 360), (0.0, 0.1), (0.22, 0.34)),
    "gray": ((0, 360), (0.0, 0.08), (0.4, 0.58)),
    "light gray": ((0, 360), (0.0, 0.06), (0.64, 0.77)),
    "white": ((0, 360), (0.0, 0.05), (0.86, 1.0)),
    "red": ((350, 367), (0.65, 0.95), (0.48, 0.88)),
    "maroon": ((343, 363), (0.5, 0.8), (0.2, 0.38)),
    "blue": ((208, 232), (0.5, 0.9), (0.4, 0.85)),
    "light blue": ((198, 220), (0.2, 0.45), (0.7, 0.95)),
    "navy": ((215, 240), (0.4, 0.75), (0.14, 0.32)),
    "green": ((95, 150), (0.45, 0.85), (0.35, 0.68)),
    "dark green": ((70, 150), (0.28, 0.6), (0.17, 0.34)),
    "yellow": ((46, 58), (0.55, 0.95), (0.75, 1.0)),
    "orange": ((16, 32), (0.72, 0.95), (0.75, 1.0)),
    "purple": ((262, 297), (0.35, 0.75), (0.3, 0.65)),
    "pink": ((325, 356), (0.22, 0.55), (0.75, 1.0)),
    "brown": ((14, 32), (0.36, 0.66), (0.22, 0.45)),
    "beige": ((28, 45), (0.13, 0.36), (0.65, 0.88)),
    "turquoise": ((170, 190), (0.4, 0.8), (0.45, 0.8)),
}
DENIM_HSV: dict[str, _Hsv] = {
    "blue": ((205, 222), (0.28, 0.6), (0.35, 0.66)),
    "light blue": ((203, 218), (0.14, 0.34), (0.62, 0.85)),
    "navy": ((212, 230), (0.3, 0.55), (0.17, 0.32)),
}
HAIR_HSV: dict[str, _Hsv] = {
    "black": ((0, 360), (0.0, 0.25), (0.04, 0.15)),
    "brown": ((17, 30), (0.35, 0.6), (0.2, 0.4)),
    "blond": ((35, 48), (0.25, 0.6), (0.6, 0.9)),
    "gray": ((0, 360), (0.0, 0.06), (0.5, 0.78)),
    "red": ((13, 23), (0.58, 0.82), (0.4, 0.65)),
}
SKIN_HSV: dict[str, _Hsv] = {
    "pale": ((16, 28), (0.18, 0.3), (0.86, 0.98)),
    "light": ((16, 28), (0.28, 0.42), (0.75, 0.92)),
    "olive": ((18, 30), (0.38, 0.5), (0.62, 0.8)),
    "brown": ((15, 27), (0.45, 0.6), (0.42, 0.6)),
    "dark": ((14, 25), (0.4, 0.6), (0.22, 0.4)),
}


def _colour(ranges: _Hsv, rng: random.Random) -> Rgb:
    hue, saturation, value = (rng.uniform(low, high) for low, high in ranges)
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))
    return red, green, blue


def _fringe(rng: random.Random) -> Rgb | None:
    if rng.random() < 0.35:
        return None
    return _colour(HAIR_HSV[rng.choice(("black", "brown", "brown", "gray"))], rng)


def _trousers(kind: str, name: str, rng: random.Random) -> Rgb:
    return _colour(DENIM_HSV.get(name, CLOTH_HSV[name]) if kind == "jeans" else CLOTH_HSV[name], rng)


_PALETTE = Palette(
    cloth=lambda name, rng: _colour(CLOTH_HSV[name], rng),
    trousers=_trousers,
    hair=lambda name, rng: _colour(HAIR_HSV[name], rng),
    skin=lambda name, rng: _colour(SKIN_HSV[name], rng),
    hair_lengths=(0.25, 1.15),
    fringe=_fringe,
)


class _StreetCanvas(Canvas):
    """
    A canvas whose figure is seen from above and wears soft cloth.

    Args:
        height_of_camera: 0 at eye level; up to about 0.4, the upper body then is larger and the legs are shorter.
        wave: (size, waves per figure unit, phase) of the wrinkles along the outlines, in figure units.
        slope: by how much the shoulders fall, per unit away from the neck.
        Otherwise as [`Canvas`].
    """

    def __init__(
        self,
        image: Image.Image,
        centre: Point,
        scale: Point,
        degrees: float,
        pivot: Point,
        height_of_camera: float,
        wave: tuple[float, float, float],
        slope: float,
    ):
        super().__init__(image, centre, scale, degrees, pivot)
        self._p, self._wave, self._slope = height_of_camera, wave, slope

    def polygon(self, points: Sequence[Point], fill: tuple[int, ...]) -> None:
        p, (size, rate, phase) = self._p, self._wave
        bent = []
        for x, y in points:
            if 14 < y < 30:
                y += self._slope * max(0.0, abs(x) - 3) * (1 - (y - 14) / 16)
            t = y / 100
            x = x * (1 + p * (0.5 - t)) + size * math.sin(rate * y + phase)
            bent.append((x, 100 * t * (1 + p - p * t)))
        super().polygon(bent, fill)


def render_street_person(
    attributes: PersonAttributes, rng: random.Random, height: int, width: int, camera: str = "cam_a"
) -> tuple[Image.Image, str]:
    """Draws one picture of a person on a street; arguments, result and errors as `drawing.render_person`.

    `camera` is a key of `street_scene.STREET_CAMERAS`.
    """
    check_picture(height, width, camera, STREET_CAMERAS)
    view = rng.choices(VIEWS, (1, 1, 0.8, 0.8))[0]
    reduction = max(2, math.ceil(192 / height))
    image = draw_street(rng, height * reduction, width * reduction)
    elevation = max(0.0, rng.triangular(-0.1, 0.45, 0.1))
    _draw_neighbours(image, rng, elevation)
    figure = pose_figure(attributes, view, rng, _PALETTE)
    image = _draw_lit(image, figure, rng, elevation, _place(image, figure, rng))
    draw_in_front(image, rng)
    return expose(image.reduce(reduction), rng, STREET_CAMERAS[camera]), view


def _place(image: Image.Image, figure: Figure, rng: random.Random) -> tuple[Point, Point]:
    """Centre and scale of the person: boxes of detectors leave room around it or cut its feet."""
    width, height = image.size
    room = 17.0 if figure.attributes.umbrella_colour else 0.0
    scale_y = height * rng.triangular(0.66, 1.02, 0.86) / (100 + room)
    scale_x = min(scale_y * rng.uniform(0.92, 1.4) * min(1.35, max(0.9, 2.6 * width / height)), width / 36)
    spare = height - scale_y * (100 + room)
    # A person larger than the picture keeps the head and loses the feet.
    top = spare * rng.uniform(0.2, 0.8) if spare > 0 else rng.uniform(0, 0.02) * height
    centre = (width * rng.gauss(0.5, 0.05), top + scale_y * (room + 50))
    return centre, (scale_x, scale_y)


def _draw_neighbours(image: Image.Image, rng: random.Random, elevation: float) -> None:
    """Other people, cut by the frame's sides or small behind the person."""
    if rng.random() > 0.3:
        return
    width, height = image.size
    for _ in range(rng.choice((1, 1, 2))):
        other = pose_figure(sample_street_person(rng), rng.choice(VIEWS), rng, _PALETTE)
        scale = height * rng.uniform(0.35, 0.9) / 100
        x = rng.choice((rng.uniform(-0.08, 0.08), rng.uniform(0.92, 1.08))) * width
        y = rng.uniform(0.2, 0.75) * height
        lit = _draw_lit(image, other, rng, elevation, ((x, y), (scale, scale)))
        image.paste(lit)


def _draw_lit(
    image: Image.Image, figure: Figure, rng: random.Random, elevation: float, place: tuple[Point, Point]
) -> Image.Image:
    """The image with the figure drawn on it, with light from one side and folds in its clothes."""
    (centre, (scale_x, scale_y)), (width, height) = place, image.size
    drawn = image.copy()
    mirrored = figure.view == "left" or (not figure.side and rng.random() < 0.5)
    wave = (rng.uniform(0.0, 0.5), rng.uniform(0.25, 0.6), rng.uniform(0, 6.3))
    slope = rng.uniform(0.15, 0.5)
    scale = (-scale_x if mirrored else scale_x, scale_y)
    canvas = _StreetCanvas(drawn, centre, scale, rng.gauss(0, 2.5), (0.0, 50.0), elevation, wave, slope)
    draw_figure(canvas, figure)
    if rng.random() < 0.5:
        drawn = drawn.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 1.2)))
    changed = ImageChops.difference(drawn, image).convert("L").point(lambda value: 255 if value > 3 else 0)
    generator = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    folds = noise_field(generator, height, width, height // 16, width // 6) * np.float32(rng.uniform(0.03, 0.16))
    folds += noise_field(generator, height, width, height // 5, width // 4) * np.float32(rng.uniform(0.0, 0.08))
    across = np.linspace(-centre[0], width - centre[0], width, dtype=np.float32) / (12 * scale_x)
    side = np.clip(across, -1, 1) * np.float32(rng.uniform(-0.3, 0.3))
    down = np.linspace(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), height, dtype=np.float32)
    gain = 1 + folds + side[None, :] + down[:, None]
    # A little light is added as well as scaled: folds of black cloth show too.
    lit = np.asarray(drawn, dtype=np.float32) * gain[..., None] + (gain[..., None] - 1) * 14
    shaded = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    return Image.composite(shaded, drawn, changed)
