"""Polygons in a figure's own units, mapped to pixels by one affine map.

Everything on a figure is a polygon whose points pass through that map, so size, shift, tilt and mirroring cost
nothing and the image has no empty corners, as it would have after rotating pixels.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

Point = tuple[float, float]
Rgb = tuple[int, int, int]

_CIRCLE = tuple((math.cos(2 * math.pi * i / 20), math.sin(2 * math.pi * i / 20)) for i in range(20))


def shade(colour: Rgb, factor: float) -> Rgb:
    """The colour times `factor`, within 0..255."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


def accent(colour: Rgb, strength: float = 0.35) -> Rgb:
    """A darker tone of a light colour, a lighter tone of a dark one: for seams and edges."""
    if sum(colour) > 200:
        return shade(colour, 1 - strength)
    red, green, blue = (round(channel + (255 - channel) * strength * 0.8) for channel in colour)
    return red, green, blue


def along(start: Point, end: Point, fraction: float) -> Point:
    """The point at `fraction` of the way from start to end."""
    return start[0] + (end[0] - start[0]) * fraction, start[1] + (end[1] - start[1]) * fraction


def polar(start: Point, length: float, degrees: float) -> Point:
    """The point `length` below start, swung `degrees` towards +x."""
    angle = math.radians(degrees)
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


@dataclass(frozen=True)
class Profile:
    """A garment's silhouette: its left and right edge (x) at rising heights (y), straight in between."""

    heights: tuple[float, ...]
    left: tuple[float, ...]
    right: tuple[float, ...]

    @classmethod
    def symmetric(cls, rows: Iterable[tuple[float, float]]) -> "Profile":
        """From (y, half width) rows about x = 0."""
        heights, halves = zip(*rows, strict=True)
        return cls(heights, tuple(-half for half in halves), halves)

    @property
    def top(self) -> float:
        return self.heights[0]

    @property
    def bottom(self) -> float:
        return self.heights[-1]

    def at(self, y: float) -> tuple[float, float]:
        """Left and right edge at height y."""
        i = min(max(bisect_right(self.heights, y), 1), len(self.heights) - 1)
        span = self.heights[i] - self.heights[i - 1]
        t = (y - self.heights[i - 1]) / span
        return (
            self.left[i - 1] + (self.left[i] - self.left[i - 1]) * t,
            self.right[i - 1] + (self.right[i] - self.right[i - 1]) * t,
        )

    def part(self, top: float, bottom: float, start: float = 0.0, end: float = 1.0) -> list[Point]:
        """The outline between two heights and between two fractions of the width (0 left edge, 1 right edge)."""
        inner = [y for y in self.heights if top < y < bottom]
        rows = [(y, *self.at(y)) for y in (top, *inner, bottom)]
        down = [(left + (right - left) * end, y) for y, left, right in rows]
        up = [(left + (right - left) * start, y) for y, left, right in reversed(rows)]
        return down + up


class Canvas:
    """Draws in figure units on an image.

    Args:
        image: RGB picture to draw on.
        centre: pixel at which the figure point `pivot` lands.
        scale: pixels for a figure unit along x and y; a negative x mirrors the figure.
        degrees: tilt about the pivot.
        pivot: the figure point about which it is tilted.
    """

    def __init__(self, image: Image.Image, centre: Point, scale: Point, degrees: float, pivot: Point):
        # Mode RGBA on an RGB image makes fills with an alpha value blend.
        self._draw = ImageDraw.Draw(image, "RGBA")
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        self._xx, self._xy = cos * scale[0], -sin * scale[1]
        self._yx, self._yy = sin * scale[0], cos * scale[1]
        self._x0 = centre[0] - self._xx * pivot[0] - self._xy * pivot[1]
        self._y0 = centre[1] - self._yx * pivot[0] - self._yy * pivot[1]

    def polygon(self, points: Sequence[Point], fill: tuple[int, ...]) -> None:
        """Fills a polygon; `fill` is RGB, or RGBA to blend."""
        xx, xy, yx, yy, x0, y0 = self._xx, self._xy, self._yx, self._yy, self._x0, self._y0
        self._draw.polygon([(x0 + xx * x + xy * y, y0 + yx * x + yy * y) for x, y in points], fill=fill)

    def shadow(self, points: Sequence[Point], strength: float) -> None:
        """Darkens a polygon's area by `strength` (0..1)."""
        self.polygon(points, (0, 0, 0, round(255 * strength)))

    def box(self, left: float, top: float, right: float, bottom: float, fill: tuple[int, ...]) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def soft_box(
        self, left: float, top: float, right: float, bottom: float, radius: float, fill: tuple[int, ...]
    ) -> None:
        """A box with cut corners."""
        r = radius
        self.polygon(
            [
                (left + r, top),
                (right - r, top),
                (right - r * 0.3, top + r * 0.3),
                (right, top + r),
                (right, bottom - r),
                (right - r * 0.3, bottom - r * 0.3),
                (right - r, bottom),
                (left + r, bottom),
                (left + r * 0.3, bottom - r * 0.3),
                (left, bottom - r),
                (left, top + r),
                (left + r * 0.3, top + r * 0.3),
            ],
            fill,
        )

    def ellipse(self, centre: Point, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        self.polygon([(centre[0] + rx * c, centre[1] + ry * s) for c, s in _CIRCLE], fill)

    def dome(self, centre: Point, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        """The upper half of an ellipse."""
        half = _CIRCLE[10:] + _CIRCLE[:1]
        self.polygon([(centre[0] + rx * c, centre[1] + ry * s) for c, s in half], fill)

    def limb(self, start: Point, end: Point, start_half: float, end_half: float, fill: tuple[int, ...]) -> None:
        """A tapered bar with round ends; the half widths are at its two ends."""
        self.polygon(limb_part(start, end, start_half, end_half, 0.0, 1.0), fill)
        self.ellipse(start, start_half, start_half, fill)
        self.ellipse(end, end_half, end_half, fill)

    def line(self, points: Sequence[Point], width: float, fill: tuple[int, ...]) -> None:
        """A line of `width` figure units through the points."""
        for start, end in pairwise(points):
            self.polygon(limb_part(start, end, width / 2, width / 2, 0.0, 1.0), fill)


def limb_part(start: Point, end: Point, start_half: float, end_half: float, first: float, last: float) -> list[Point]:
    """The outline of a tapered bar between two fractions of its length."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length, dx / length
    points = []
    for fraction, sides in ((first, (1, -1)), (last, (-1, 1))):
        x, y = start[0] + dx * fraction, start[1] + dy * fraction
        half = start_half + (end_half - start_half) * fraction
        points += [(x + side * nx * half, y + side * ny * half) for side in sides]
    return points
