"""Draws a pedestrian from attributes: pose, body, clothes and carried things, then the camera's picture of it.

The figure is drawn in its own units: x = 0 is its middle, y = 0 the top of the head, y = 100 the soles. A person
seen from the side faces +x here; a person walking to the left is the mirrored drawing.
"""

import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from PIL import Image

from .attributes import PersonAttributes
from .canvas import Canvas, Point, Profile, Rgb, accent, along, limb_part, polar, shade
from .scene import CAMERAS, develop, draw_background, draw_occlusion

VIEWS = ("front", "back", "left", "right")
_VIEW_WEIGHTS = (1, 1, 0.5, 0.5)

COLOUR_RGB: dict[str, Rgb] = {
    "black": (24, 24, 27),
    "white": (240, 240, 238),
    "gray": (128, 128, 130),
    "red": (205, 28, 36),
    "blue": (40, 96, 215),
    "green": (38, 142, 62),
    "yellow": (240, 212, 45),
    "orange": (240, 126, 22),
    "purple": (122, 48, 158),
    "pink": (246, 150, 190),
    "brown": (112, 68, 36),
    "beige": (216, 194, 152),
    "navy": (22, 32, 88),
}
HAIR_RGB: dict[str, Rgb] = {
    "black": (24, 20, 19),
    "brown": (94, 58, 32),
    "blond": (222, 186, 100),
    "gray": (168, 168, 170),
    "red": (176, 74, 30),
}
SKIN_RGB: dict[str, Rgb] = {
    "pale": (246, 214, 188),
    "light": (230, 186, 150),
    "olive": (198, 150, 110),
    "brown": (146, 98, 66),
    "dark": (98, 64, 44),
}
_BUILD_WIDTH = {"slim": 0.86, "average": 1.0, "stout": 1.22}
_METAL = (70, 70, 74)
_LENS = (16, 16, 20)

# Heights of the body, in figure units from the top of the head.
_HEAD_CENTRE, _NECK, _SHOULDER, _CHEST, _WAIST, _HIP, _CROTCH, _ANKLE = 8.0, 14.0, 18.5, 27.0, 38.0, 48.0, 52.0, 94.0
_HEAD_RX, _HEAD_RY = 4.9, 6.5
_UPPER_LEG = _LOWER_LEG = 22.0
_UPPER_ARM, _LOWER_ARM = 15.0, 13.0
_UMBRELLA_ROOM = 17.0  # above the head
MIN_SIDE = 32  # pixels


@dataclass(frozen=True)
class Palette:
    """How a look turns names into colours: each function maps a key of its table, with chance, to RGB."""

    cloth: Callable[[str, random.Random], Rgb]
    trousers: Callable[[str, str, random.Random], Rgb]  # of the lower garment's type and colour
    hair: Callable[[str, random.Random], Rgb]
    skin: Callable[[str, random.Random], Rgb]
    hair_lengths: tuple[float, float] = (1.0, 1.0)
    fringe: Callable[[random.Random], Rgb | None] = lambda _: None


@dataclass(frozen=True)
class _Joints:
    """An arm (shoulder, elbow, hand) or a leg (hip, knee, ankle)."""

    root: Point
    middle: Point
    end: Point
    far: bool  # on the side turned away from the viewer


@dataclass(frozen=True)
class Figure:
    """A person in a pose, in figure units, with the colours of everything worn."""

    attributes: PersonAttributes
    view: str
    width: float  # factor of the build
    legs: tuple[_Joints, _Joints]  # in drawing order
    arms: tuple[_Joints, _Joints]  # in drawing order; the second carries a handbag, the first an umbrella
    upper: Rgb
    second: Rgb
    inner: Rgb
    lower: Rgb
    shoes: Rgb
    bag: Rgb
    hat: Rgb
    hair: Rgb
    skin: Rgb
    umbrella: Rgb
    hair_length: float  # of long hair; 1 reaches below the shoulders
    fringe: Rgb | None  # what a bald head has left at its sides and back

    @property
    def side(self) -> bool:
        return self.view in ("left", "right")

    @property
    def body(self) -> Profile:
        """The trunk's silhouette from the neck to the crotch."""
        return _body_profile(self.attributes.gender, self.width, self.side)


def check_picture(height: int, width: int, camera: str, cameras: Collection[str]) -> None:
    """Raise the ValueError of [`render_person`]."""
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"height and width must be at least {MIN_SIDE} pixels, got height={height}, width={width}")
    if camera not in cameras:
        raise ValueError(f"unknown camera {camera!r}; known are {', '.join(cameras)}")


def render_person(
    attributes: PersonAttributes, rng: random.Random, height: int, width: int, camera: str = "cam_a"
) -> tuple[Image.Image, str]:
    """Draws one picture of a person; pose, view, place and light come from `rng`.

    Args:
        attributes: what the person looks like.
        rng: the only source of chance: the same state gives the same picture.
        height, width: size of the picture in pixels, each at least 32. The person is stretched by up to a quarter
            where the picture is wider than 1:3, as boxes are in re-identification sets.
        camera: a key of `scene.CAMERAS`, which differ in tint and contrast.

    Returns:
        An RGB picture of height x width pixels, and the view ("front", "back", "left" or "right": the side of the
        picture to which the person is turned).

    Raises:
        ValueError: height or width below 32, or an unknown camera.
    """
    check_picture(height, width, camera, CAMERAS)
    view = rng.choices(VIEWS, _VIEW_WEIGHTS)[0]
    figure = pose_figure(attributes, view, rng, _PAINT)
    reduction = max(2, math.ceil(256 / height))  # drawn larger and reduced: smooth edges
    image = draw_background(rng, height * reduction, width * reduction)
    draw_figure(_place(image, figure, rng), figure)
    draw_occlusion(image, rng)
    return develop(image.reduce(reduction), rng, CAMERAS[camera]), view


# --- pose and place ---------------------------------------------------------------------------------------------


def pose_figure(attributes: PersonAttributes, view: str, rng: random.Random, palette: Palette) -> Figure:
    """A person seen from `view`, in a pose and in colours that `rng` draws."""
    width = _BUILD_WIDTH[attributes.build] * rng.uniform(0.96, 1.04)
    side = view in ("left", "right")
    body = _body_profile(attributes.gender, width, side)
    legs = _side_legs(width, rng) if side else _front_legs(width, rng)
    raised = attributes.umbrella_colour is not None
    arms = _side_arms(raised, rng) if side else _front_arms(body.at(_SHOULDER)[1], raised, rng)

    def cloth(name: str | None) -> Rgb:
        return palette.cloth(name, rng) if name else (0, 0, 0)

    def trousers() -> Rgb:
        kind, colour = attributes.lower_type, attributes.lower_colour
        return palette.trousers(kind, colour, rng) if kind and colour else (0, 0, 0)

    return Figure(
        attributes=attributes,
        view=view,
        width=width,
        legs=legs,
        arms=arms,
        upper=cloth(attributes.upper_colour),
        second=cloth(attributes.upper_second_colour),
        inner=cloth(attributes.inner_colour),
        lower=trousers(),
        shoes=cloth(attributes.shoes_colour),
        bag=cloth(attributes.bag_colour),
        hat=cloth(attributes.hat_colour),
        hair=palette.hair(attributes.hair_colour, rng) if attributes.hair_colour else (0, 0, 0),
        skin=palette.skin(attributes.skin, rng),
        umbrella=cloth(attributes.umbrella_colour),
        hair_length=_between(palette.hair_lengths, rng),
        fringe=palette.fringe(rng) if attributes.hair_style == "bald" else None,
    )


def _between(bounds: tuple[float, float], rng: random.Random) -> float:
    low, high = bounds
    return low if low == high else rng.uniform(low, high)


def _jitter(colour: Rgb, rng: random.Random) -> Rgb:
    red, green, blue = (max(0, min(255, round(channel + rng.uniform(-12, 12)))) for channel in colour)
    return red, green, blue


_PAINT = Palette(
    cloth=lambda name, rng: _jitter(COLOUR_RGB[name], rng),
    trousers=lambda _, name, rng: _jitter(COLOUR_RGB[name], rng),
    hair=lambda name, rng: _jitter(HAIR_RGB[name], rng),
    skin=lambda name, rng: _jitter(SKIN_RGB[name], rng),
)


def _body_profile(gender: str, width: float, side: bool) -> Profile:
    if side:
        front = ((_NECK + 2, 2.6), (_SHOULDER, 4.6), (_CHEST, 6.0), (_WAIST, 5.2), (_HIP, 5.6), (_CROTCH, 5.2))
        back = (2.6, 5.0, 5.4, 4.6, 6.0, 5.4)
        heights, edges = zip(*front, strict=True)
        return Profile(heights, tuple(-edge * width for edge in back), tuple(edge * width for edge in edges))
    shoulder, waist, hip = (10.0, 7.8, 7.6) if gender == "man" else (8.8, 6.4, 8.0)
    rows = [(_NECK + 2, 3.2), (_SHOULDER, shoulder * (0.5 + 0.5 * width))]
    rows += [(_CHEST, shoulder * 0.92 * width), (_WAIST, waist * width), (_HIP, hip * width)]
    return Profile.symmetric([*rows, (_CROTCH, hip * width)])


def _front_legs(width: float, rng: random.Random) -> tuple[_Joints, _Joints]:
    spread, lifted, lift = rng.uniform(-0.4, 1.6), rng.choice((-1, 1)), rng.uniform(0, 4.5)
    legs = []
    for side in (-lifted, lifted):
        hip = (side * 3.7 * width, _HIP + 2)
        ankle = (side * (3.3 * width + spread), _ANKLE - (lift if side == lifted else 0))
        knee = (side * (3.5 * width + spread * 0.5 + 0.3), _HIP + 2 + (ankle[1] - _HIP - 2) * 0.5)
        legs.append(_Joints(hip, knee, ankle, far=side == lifted and lift > 2))
    return legs[0], legs[1]


def _side_legs(width: float, rng: random.Random) -> tuple[_Joints, _Joints]:
    swing = rng.uniform(4, 19)
    near_is_forward = rng.random() < 0.5
    legs = []
    for near in (False, True):
        forward = near == near_is_forward
        thigh = swing if forward else -swing * 0.8
        shin = thigh - (rng.uniform(2, 10) if forward else rng.uniform(4, 6 + swing * 0.5))
        hip = (0.3 * width, _HIP + 2.5)
        knee = polar(hip, _UPPER_LEG, thigh)
        legs.append(_Joints(hip, knee, polar(knee, _LOWER_LEG, shin), far=not near))
    return legs[0], legs[1]


def _front_arms(shoulder: float, umbrella: bool, rng: random.Random) -> tuple[_Joints, _Joints]:
    raised_side = rng.choice((-1, 1))
    arms = []
    for side in (raised_side, -raised_side):
        root = (side * (shoulder - 1.0), _SHOULDER + 2.0)
        swing = rng.uniform(5, 13)
        bend = rng.uniform(-12, 4)
        if umbrella and side == raised_side:
            swing, bend = 12.0, 150.0
        elbow = polar(root, _UPPER_ARM, side * swing)
        arms.append(_Joints(root, elbow, polar(elbow, _LOWER_ARM, side * (swing + bend)), far=False))
    return arms[0], arms[1]


def _side_arms(umbrella: bool, rng: random.Random) -> tuple[_Joints, _Joints]:
    swing = rng.uniform(-24, 24)
    arms = []
    for near in (False, True):
        root = (-0.3, _SHOULDER + 2.5)
        upper = swing if near else -swing
        bend = rng.uniform(5, 25)
        if umbrella and not near:
            upper, bend = 25.0, 125.0
        elbow = polar(root, _UPPER_ARM, upper)
        arms.append(_Joints(root, elbow, polar(elbow, _LOWER_ARM, upper + bend), far=not near))
    return arms[0], arms[1]


def _place(image: Image.Image, figure: Figure, rng: random.Random) -> Canvas:
    """Puts the figure into the image: size, position, tilt and, for a person turned left, mirroring."""
    width, height = image.size
    room = _UMBRELLA_ROOM if figure.attributes.umbrella_colour else 0.0
    scale_y = height * rng.uniform(0.82, 0.93) / (101 + room)
    stretch = min(1.25, max(1.0, 3 * width / height))
    scale_x = min(scale_y * stretch * rng.uniform(0.96, 1.04), width / 40)
    spare = height - scale_y * (100 + room)
    top = spare * rng.uniform(0.25, 0.75) + scale_y * room
    ground = max(leg.end[1] for leg in figure.legs) - _ANKLE
    mirrored = figure.view == "left" or (not figure.side and rng.random() < 0.5)
    centre = (width * rng.uniform(0.45, 0.55), top + scale_y * (50 - ground))
    return Canvas(image, centre, (-scale_x if mirrored else scale_x, scale_y), rng.uniform(-3.5, 3.5), (0.0, 50.0))


# --- the figure, from back to front -----------------------------------------------------------------------------


def draw_figure(canvas: Canvas, figure: Figure) -> None:
    """Draws the whole person with its shadow on the ground."""
    a = figure.attributes
    far_arm, near_arm = figure.arms
    ground = max(leg.end[1] for leg in figure.legs) + 4.5
    canvas.polygon([(-13, ground), (0, ground - 1.8), (15, ground), (0, ground + 1.8)], (0, 0, 0, 70))
    if a.umbrella_colour:
        _draw_umbrella(canvas, figure)
    if figure.view != "back":
        _draw_back_hair(canvas, figure)
    if a.bag_type == "backpack" and figure.view == "front":
        _draw_backpack_behind(canvas, figure)
    if figure.side:
        _draw_arm(canvas, figure, far_arm)
    for leg in figure.legs:
        _draw_leg(canvas, figure, leg)
    if a.lower_type:
        _draw_seat(canvas, figure)
    canvas.polygon(_neck(figure), shade(figure.skin, 0.86))
    if figure.side:
        _draw_upper(canvas, figure)
        _draw_head(canvas, figure)
        _draw_worn_bag(canvas, figure)
        _draw_arm(canvas, figure, near_arm)
    else:
        _draw_upper(canvas, figure)
        _draw_arm(canvas, figure, far_arm)
        _draw_arm(canvas, figure, near_arm)
        _draw_worn_bag(canvas, figure)
        _draw_head(canvas, figure)
    _draw_held_bag(canvas, figure, near_arm)


def _neck(figure: Figure) -> list[Point]:
    half = 2.1 if figure.side else 2.5
    return [(-half, _NECK - 3), (half, _NECK - 3), (half + 0.6, _SHOULDER), (-half - 0.6, _SHOULDER)]


# --- legs and shoes ---------------------------------------------------------------------------------------------

# Half widths at hip, knee and hem.
_LEG_WIDTHS = {"pants": (4.6, 3.8, 3.4), "jeans": (4.4, 3.2, 2.8), "leggings": (3.9, 2.5, 1.8)}


def _draw_leg(canvas: Canvas, figure: Figure, leg: _Joints) -> None:
    kind, width = figure.attributes.lower_type, figure.width
    tone = 0.78 if leg.far else 1.0
    skin = shade(figure.skin, tone)
    canvas.limb(leg.root, leg.middle, 3.6 * width, 2.4 * width, skin)
    canvas.limb(leg.middle, leg.end, 2.4 * width, 1.6, skin)
    colour = shade(figure.lower, tone)
    if kind in _LEG_WIDTHS:
        hip, knee, hem = (half * (0.4 + 0.6 * width) for half in _LEG_WIDTHS[kind])
        end = along(leg.middle, leg.end, 0.88 if kind == "leggings" else 1.0)
        canvas.limb(leg.root, leg.middle, hip, knee, colour)
        canvas.polygon(limb_part(leg.middle, end, knee, hem, 0.0, 1.04), colour)
        canvas.shadow(limb_part(leg.root, leg.middle, hip * 0.25, knee * 0.25, 0.2, 1.0), 0.12)
        if kind == "jeans":
            canvas.polygon(limb_part(leg.root, leg.middle, hip * 0.4, knee * 0.5, 0.3, 1.0), (255, 255, 255, 48))
            canvas.polygon(limb_part(leg.middle, end, hem * 1.15, hem * 1.15, 0.9, 1.04), accent(colour, 0.5))
    elif kind == "shorts":
        hem_point = along(leg.root, leg.middle, 0.85)
        canvas.polygon(limb_part(leg.root, hem_point, 4.6 * width, 4.4 * width, 0.0, 1.0), colour)
        canvas.polygon(limb_part(leg.root, hem_point, 4.4 * width, 4.5 * width, 0.93, 1.0), accent(colour, 0.25))
    _draw_shoe(canvas, figure, leg, tone)


def _draw_seat(canvas: Canvas, figure: Figure) -> None:
    """The part of the lower garment about the hips: a skirt's whole, else what joins the legs."""
    left, right = figure.body.at(_HIP)
    if figure.attributes.lower_type != "skirt":
        canvas.polygon(figure.body.part(_WAIST + 3, _CROTCH + 1), figure.lower)
        return
    flare = 3.5
    skirt = Profile((_WAIST + 2, _HIP, 69.0), (left * 0.9, left, left - flare), (right * 0.9, right, right + flare))
    canvas.polygon(skirt.part(skirt.top, skirt.bottom), figure.lower)
    for start in (0.12, 0.38, 0.64):
        canvas.shadow(skirt.part(_HIP, skirt.bottom, start, start + 0.09), 0.2)


def _draw_shoe(canvas: Canvas, figure: Figure, leg: _Joints, tone: float) -> None:
    kind, colour = figure.attributes.shoes_type, shade(figure.shoes, tone)
    x, y = leg.end
    if kind == "boots":
        shaft = along(leg.end, leg.middle, 0.42)
        canvas.polygon(limb_part(shaft, leg.end, 3.1, 2.9, 0.0, 1.1), colour)
        canvas.polygon(limb_part(shaft, leg.end, 3.2, 3.2, 0.0, 0.12), accent(colour, 0.3))
    toe = x + (3.4 if figure.side else math.copysign(0.5, x))
    length = 4.9 if figure.side else 3.0
    sole = y + 5.2
    foot = [
        (toe - length, sole),
        (toe - length, y + 1.6),
        (toe - length * 0.5, y - 0.6),
        (toe + length * 0.3, y + 0.2),
    ]
    foot += [(toe + length, y + 3.0), (toe + length, sole)]
    if kind == "sandals":
        canvas.polygon(foot, shade(figure.skin, tone))
        canvas.box(toe - length, sole - 1.2, toe + length, sole, colour)
        canvas.box(toe - length * 0.1, y, toe + length * 0.45, sole, colour)
        canvas.box(toe - length, y + 0.2, toe - length * 0.3, y + 1.8, colour)
        return
    canvas.polygon(foot, colour)
    if kind == "sneakers":
        canvas.box(toe - length - 0.2, sole - 1.4, toe + length + 0.3, sole, shade((236, 236, 234), tone))
        canvas.line([(toe - 1, y + 2), (toe + 1.2, y + 2)], 0.7, (240, 240, 240, 190))
    else:
        canvas.box(toe - length, sole - 0.8, toe + length, sole, shade(accent(colour, 0.5), tone))


# --- upper garment and arms -------------------------------------------------------------------------------------


def _upper_profile(figure: Figure) -> Profile:
    """The upper garment's silhouette: the body's down to the hips, then the garment's own hem."""
    kind = figure.attributes.upper_type
    bottom, flare = {
        "coat": (71.0, 2.0),
        "dress": (70.0, 4.5),
        "hoodie": (53.0, 0.8),
        "jacket": (52.0, 0.6),
        "vest": (50.0, 0.0),
    }.get(kind, (51.0, 0.3))
    ease = 1.0 if kind in ("coat", "jacket", "hoodie") else 0.5
    heights = [y for y in figure.body.heights if y <= _HIP]
    edges = [figure.body.at(y) for y in heights]
    if kind == "vest" and not figure.side:  # bare shoulders
        edges[1] = (edges[1][0] * 0.66, edges[1][1] * 0.66)
    left = [edge - ease for edge, _ in edges] + [edges[-1][0] - ease - flare]
    right = [edge + ease for _, edge in edges] + [edges[-1][1] + ease + flare]
    return Profile((*heights, bottom), tuple(left), tuple(right))


def _draw_upper(canvas: Canvas, figure: Figure) -> None:
    a = figure.attributes
    shape = _upper_profile(figure)
    if a.upper_type == "vest" and not figure.side:
        canvas.polygon(figure.body.part(_NECK + 2, _CHEST), shade(figure.skin, 0.94))
    canvas.polygon(shape.part(shape.top, shape.bottom), figure.upper)
    _draw_pattern(canvas, figure, shape)
    canvas.shadow(shape.part(_SHOULDER, shape.bottom, 0.78, 1.0), 0.16)
    canvas.shadow(shape.part(shape.bottom - 1.2, shape.bottom), 0.22)
    if figure.view != "back":
        _draw_closure(canvas, figure, shape)
        _draw_collar(canvas, figure)
    if a.upper_type in ("dress", "coat"):
        for start in (0.3, 0.6):
            canvas.shadow(shape.part(_HIP, shape.bottom, start, start + 0.07), 0.15)
        canvas.shadow(shape.part(_WAIST - 0.6, _WAIST + 0.8), 0.3)
    if a.upper_type == "hoodie":
        _draw_hood(canvas, figure)


def _draw_pattern(canvas: Canvas, figure: Figure, shape: Profile) -> None:
    pattern, second = figure.attributes.upper_pattern, figure.second
    if pattern == "striped":
        y = shape.top + 4.0
        while y < shape.bottom:
            canvas.polygon(shape.part(y, min(y + 3.1, shape.bottom)), second)
            y += 6.6
    elif pattern == "plaid":
        y = shape.top + 3.0
        while y < shape.bottom:
            canvas.polygon(shape.part(y, min(y + 1.6, shape.bottom)), second)
            y += 5.4
        for start in (0.08, 0.32, 0.56, 0.80) if not figure.side else (0.15, 0.5, 0.8):
            canvas.polygon(shape.part(shape.top, shape.bottom, start, start + 0.09), second)
    elif pattern == "blocks":
        canvas.polygon(shape.part(shape.top, _CHEST + 1.5), second)
    elif pattern == "logo" and figure.view == "front":
        canvas.ellipse((0.0, _CHEST + 1.5), 4.1, 4.3, second)
        canvas.ellipse((0.0, _CHEST + 1.5), 1.6, 1.7, figure.upper)


def _draw_closure(canvas: Canvas, figure: Figure, shape: Profile) -> None:
    """How the garment is closed in front: open over an inner garment, with a zip, with buttons, or not at all."""
    a = figure.attributes
    top = shape.top + 0.4
    start, end = (0.72, 1.0) if figure.side else (0.33, 0.67)
    if a.upper_open:
        inner_bottom = _HIP + 2.5
        canvas.polygon(shape.part(top, inner_bottom, start, end), figure.inner)
        below = figure.lower if a.upper_type == "coat" else figure.inner
        if shape.bottom > inner_bottom:
            canvas.polygon(shape.part(inner_bottom, shape.bottom, start + 0.03, end - 0.03), below)
        canvas.shadow(shape.part(top, shape.bottom, start - 0.05, start), 0.3)
        if not figure.side:
            canvas.shadow(shape.part(top, shape.bottom, end, end + 0.05), 0.3)
        return
    if figure.side:
        return
    if a.upper_type in ("jacket", "coat", "shirt", "blouse"):
        canvas.polygon(shape.part(top + 1, shape.bottom, 0.485, 0.515), accent(figure.upper, 0.45))
    if a.upper_type in ("shirt", "blouse", "coat"):
        for y in (24.0, 30.0, 36.0, 42.0):
            canvas.ellipse((0.9, y), 0.5, 0.5, accent(figure.upper, 0.6))


def _draw_collar(canvas: Canvas, figure: Figure) -> None:
    kind = figure.attributes.upper_type
    if figure.side or figure.attributes.upper_open:
        return
    if kind in ("t-shirt", "vest", "dress", "blouse"):
        depth = 4.5 if kind in ("vest", "dress") else 3.0
        canvas.polygon([(-3.0, _NECK + 1.6), (3.0, _NECK + 1.6), (0, _NECK + 1.6 + depth)], shade(figure.skin, 0.92))
    elif kind in ("shirt", "coat", "jacket"):
        collar = accent(figure.upper, 0.28)
        for side in (-1, 1):
            canvas.polygon([(0, 18.0), (side * 3.6, 15.2), (side * 4.6, 18.2), (side * 1.8, 21.5)], collar)


def _draw_hood(canvas: Canvas, figure: Figure) -> None:
    colour = accent(figure.upper, 0.25)
    if figure.view == "front":
        canvas.ellipse((0.0, _SHOULDER - 0.6), 6.0, 2.6, colour)
        canvas.ellipse((0.0, _SHOULDER - 1.6), 3.0, 1.4, shade(figure.skin, 0.86))
        for side in (-1, 1):
            canvas.line([(side * 1.6, 20.5), (side * 1.8, 27.0)], 0.7, accent(figure.upper, 0.7))
        canvas.shadow([(-4.5, 41), (4.5, 41), (5.8, 48), (-5.8, 48)], 0.2)
    elif figure.view == "back":
        canvas.ellipse((0.0, _SHOULDER + 1.4), 5.8, 4.6, colour)
        canvas.shadow([(-5.0, 19.5), (5.0, 19.5), (0.0, 25.0)], 0.15)
    else:
        canvas.ellipse((-4.2, _SHOULDER - 0.4), 3.4, 3.4, colour)


def _draw_arm(canvas: Canvas, figure: Figure, arm: _Joints) -> None:
    a, width = figure.attributes, 0.4 + 0.6 * figure.width
    tone = 0.74 if arm.far else (0.92 if figure.side else 0.95)
    skin, cloth = shade(figure.skin, tone), shade(figure.upper, tone)
    canvas.limb(arm.root, arm.middle, 2.5 * width, 2.0 * width, skin)
    canvas.limb(arm.middle, arm.end, 2.0 * width, 1.5, skin)
    canvas.ellipse(arm.end, 1.9, 2.1, skin)
    thick = 0.5 if a.upper_type in ("coat", "jacket", "hoodie", "sweater") else 0.0
    if a.sleeves == "long":
        cuff = along(arm.middle, arm.end, 0.88)
        canvas.limb(arm.root, arm.middle, (3.0 + thick) * width, (2.5 + thick) * width, cloth)
        canvas.polygon(limb_part(arm.middle, cuff, (2.5 + thick) * width, 2.2 + thick, 0.0, 1.0), cloth)
        _draw_sleeve_pattern(canvas, figure, arm.root, arm.middle, 2.8 * width, tone)
        _draw_sleeve_pattern(canvas, figure, arm.middle, cuff, 2.4 * width, tone)
    elif a.sleeves == "short":
        hem = along(arm.root, arm.middle, 0.62)
        canvas.ellipse(arm.root, 3.0 * width, 3.0 * width, cloth)
        canvas.polygon(limb_part(arm.root, hem, 3.0 * width, 3.3 * width, 0.0, 1.0), cloth)
        _draw_sleeve_pattern(canvas, figure, arm.root, hem, 3.1 * width, tone)
    if a.sleeves != "none":
        canvas.shadow(limb_part(arm.root, arm.middle, 0.5, 0.4, 0.1, 0.6), 0.15)


def _draw_sleeve_pattern(canvas: Canvas, figure: Figure, start: Point, end: Point, half: float, tone: float) -> None:
    pattern, second = figure.attributes.upper_pattern, shade(figure.second, tone)
    if pattern == "striped":
        for first in (0.12, 0.6):
            canvas.polygon(limb_part(start, end, half, half, first, first + 0.24), second)
    elif pattern == "plaid":
        for first in (0.15, 0.6):
            canvas.polygon(limb_part(start, end, half, half, first, first + 0.12), second)
        canvas.polygon(limb_part(start, end, 0.6, 0.6, 0.0, 1.0), second)
    elif pattern == "blocks" and start[1] < _CHEST:  # the upper arm
        canvas.polygon(limb_part(start, end, half, half, -0.15, 0.6), second)


# --- head -------------------------------------------------------------------------------------------------------


def _hanging(figure: Figure, y: float) -> float:
    """Where long hair ends that would end at height y."""
    return _NECK + (y - _NECK) * figure.hair_length


def _draw_back_hair(canvas: Canvas, figure: Figure) -> None:
    """The hair that hangs behind the head and trunk of a person not seen from behind."""
    style, hair = figure.attributes.hair_style, shade(figure.hair, 0.85)
    if style == "long":
        if figure.side:
            canvas.soft_box(-6.4, 3.0, 0.5, _hanging(figure, 27.5), 2.5, hair)
        else:
            canvas.soft_box(-6.6, 3.0, 6.6, _hanging(figure, 26.5), 2.5, hair)
    elif style == "ponytail" and not figure.side:
        canvas.polygon([(3.0, 3.5), (7.4, 6.0), (8.4, 14.0), (6.2, 22.5), (4.6, 14.0)], hair)


def _draw_head(canvas: Canvas, figure: Figure) -> None:
    a = figure.attributes
    centre = (0.8 if figure.side else 0.0, _HEAD_CENTRE)
    canvas.ellipse(centre, _HEAD_RX, _HEAD_RY, figure.skin)
    if figure.view == "front":
        _draw_face(canvas, figure)
    elif figure.side:
        canvas.polygon([(5.4, 7.2), (6.9, 9.8), (5.4, 10.2)], figure.skin)  # nose
        canvas.ellipse((3.9, 7.4), 0.6, 0.7, (40, 30, 28))
        canvas.line([(3.8, 11.6), (5.2, 11.5)], 0.6, shade(figure.skin, 0.6))
        canvas.ellipse((-0.2, 8.6), 1.0, 1.5, shade(figure.skin, 0.8))
    else:
        for side in (-1, 1):
            canvas.ellipse((side * 4.9, 8.6), 0.9, 1.5, shade(figure.skin, 0.9))
    if a.hair_style != "bald":
        _draw_hair(canvas, figure)
    elif figure.fringe:
        _draw_fringe(canvas, figure, figure.fringe)
    if a.glasses and figure.view != "back":
        _draw_glasses(canvas, figure)
    if a.hat_type:
        _draw_hat(canvas, figure)


def _draw_face(canvas: Canvas, figure: Figure) -> None:
    for side in (-1, 1):
        canvas.ellipse((side * 4.9, 8.6), 0.9, 1.5, shade(figure.skin, 0.9))
        canvas.ellipse((side * 1.9, 7.6), 0.65, 0.65, (40, 30, 28))
        canvas.line([(side * 1.1, 6.2), (side * 2.8, 6.2)], 0.45, shade(figure.skin, 0.5))
    canvas.line([(0.1, 8.2), (0.3, 10.0)], 0.6, shade(figure.skin, 0.8))
    lips = (170, 60, 66) if figure.attributes.gender == "woman" else shade(figure.skin, 0.62)
    canvas.line([(-1.4, 11.8), (1.4, 11.8)], 0.7, lips)


def _draw_hair(canvas: Canvas, figure: Figure) -> None:
    style, hair = figure.attributes.hair_style, figure.hair
    if figure.view == "front":
        canvas.dome((0.0, 6.4), 5.6, 6.4, hair)
        canvas.polygon([(-3.9, 6.4), (0.5, 4.6), (4.2, 6.4), (3.0, 3.6), (-2.0, 3.4)], figure.skin)
        if style == "long":
            for side in (-1, 1):
                low, lower = _hanging(figure, 24.0), _hanging(figure, 25.0)
                canvas.polygon([(side * 4.0, 5.5), (side * 6.4, 6.0), (side * 6.8, lower), (side * 4.1, low)], hair)
    elif figure.view == "back":
        canvas.ellipse((0.0, 7.0), 5.6, 6.9, hair)
        for x in (-2.6, 0.0, 2.6):  # strands
            canvas.line([(x * 0.5, 1.4), (x, 6.0), (x * 1.1, 12.2)], 0.5, accent(hair, 0.16))
        if style == "long":
            end = _hanging(figure, 28.0)
            canvas.soft_box(-6.2, 5.0, 6.2, end + 0.5, 2.6, hair)
            canvas.shadow([(-0.4, 8.0), (0.8, 8.0), (1.6, end), (0.4, end)], 0.18)
        elif style == "ponytail":
            canvas.polygon([(-1.4, 6.0), (1.4, 6.0), (3.0, 14.0), (0.6, 27.0), (-2.4, 15.0)], accent(hair, 0.2))
            canvas.box(-1.7, 6.2, 1.7, 7.8, accent(hair, 0.6))
    else:
        canvas.dome((0.4, 6.6), 5.6, 6.6, hair)
        canvas.polygon([(-5.2, 6.0), (0.2, 6.0), (-0.6, 10.5), (-2.6, 13.6), (-4.6, 11.0)], hair)
        if style == "long":
            low, lower = _hanging(figure, 26.0), _hanging(figure, 27.0)
            canvas.polygon([(-5.4, 6.0), (0.4, 6.0), (-0.2, min(16.0, low)), (-1.6, lower), (-6.6, low)], hair)
        elif style == "ponytail":
            canvas.polygon([(-4.4, 4.0), (-7.6, 4.6), (-9.2, 13.0), (-8.0, 23.0), (-6.6, 14.0)], hair)
            canvas.box(-5.4, 3.6, -4.2, 6.2, accent(hair, 0.6))
    if style == "bun":
        knot = (-5.6, 2.6) if figure.side else (0.0, -0.2)
        canvas.ellipse(knot, 3.2, 3.0, hair)
        canvas.shadow([(knot[0] - 2.6, knot[1] + 1.2), (knot[0] + 2.6, knot[1] + 1.2), (knot[0], knot[1] + 2.6)], 0.25)


def _draw_fringe(canvas: Canvas, figure: Figure, hair: Rgb) -> None:
    """The hair around the sides and the back of a bald head."""
    if figure.view == "front":
        for side in (-1, 1):
            canvas.ellipse((side * 4.6, 6.8), 1.0, 2.6, hair)
    elif figure.view == "back":
        canvas.polygon(
            [(-5.0, 5.6), (0.0, 7.2), (5.0, 5.6), (4.4, 11.5), (2.2, 13.6), (-2.2, 13.6), (-4.4, 11.5)], hair
        )
    else:
        canvas.polygon([(-4.4, 5.4), (0.0, 7.0), (-0.4, 9.4), (-2.4, 13.2), (-4.0, 11.2)], hair)


def _draw_glasses(canvas: Canvas, figure: Figure) -> None:
    if figure.side:
        canvas.soft_box(2.6, 6.2, 6.2, 9.4, 0.9, _LENS)
        canvas.line([(-0.4, 7.2), (3.0, 7.2)], 0.8, _LENS)
        return
    for side in (-1, 1):
        canvas.ellipse((side * 2.2, 7.7), 1.95, 1.8, _LENS)
        canvas.line([(side * 1.4, 7.2), (side * 2.4, 7.0)], 0.5, (190, 200, 215, 150))
    canvas.line([(-4.9, 7.2), (4.9, 7.2)], 0.7, _LENS)


def _draw_hat(canvas: Canvas, figure: Figure) -> None:
    kind, hat = figure.attributes.hat_type, figure.hat
    x = 0.4 if figure.side else 0.0
    edge = accent(hat, 0.3)
    if kind == "beanie":
        canvas.dome((x, 5.2), 6.0, 7.4, hat)
        canvas.soft_box(x - 6.2, 2.6, x + 6.2, 6.0, 0.8, edge)
        canvas.ellipse((x, -2.8), 1.7, 1.6, edge)
    elif kind == "cap":
        canvas.dome((x, 5.0), 5.9, 6.2, hat)
        if figure.side:
            canvas.polygon([(2.5, 3.2), (6.0, 3.2), (11.2, 5.6), (11.0, 6.6), (2.5, 5.6)], edge)
        elif figure.view == "front":
            canvas.polygon([(-5.6, 4.0), (5.6, 4.0), (6.6, 6.8), (3.5, 6.0), (-3.5, 6.0), (-6.6, 6.8)], edge)
        else:
            canvas.dome((0.0, 5.0), 1.8, 1.8, figure.hair if figure.attributes.hair_colour else figure.skin)
    else:
        canvas.ellipse((x, 4.6), 10.4, 2.5, edge)
        canvas.dome((x, 4.6), 5.8, 7.0, hat)
        canvas.polygon([(x - 5.8, 2.8), (x + 5.8, 2.8), (x + 5.8, 4.6), (x - 5.8, 4.6)], accent(hat, 0.6))


# --- carried things ---------------------------------------------------------------------------------------------


def _draw_backpack_behind(canvas: Canvas, figure: Figure) -> None:
    """A backpack's rim beside the trunk of a person seen from the front."""
    left, right = figure.body.at(_CHEST)
    canvas.soft_box(left - 3.4, _SHOULDER + 1.0, right + 3.4, 44.0, 3.0, shade(figure.bag, 0.85))


def _draw_worn_bag(canvas: Canvas, figure: Figure) -> None:
    kind = figure.attributes.bag_type
    if kind == "backpack":
        _draw_backpack(canvas, figure)
    elif kind == "shoulder bag":
        _draw_shoulder_bag(canvas, figure)


def _draw_backpack(canvas: Canvas, figure: Figure) -> None:
    bag, edge = figure.bag, accent(figure.bag, 0.4)
    left, right = figure.body.at(_CHEST)
    if figure.view == "front":
        for side in (-1, 1):
            x = side * right * 0.62
            canvas.line([(x * 0.85, _SHOULDER - 1.6), (x * 1.1, 30.0), (x * 1.2, 41.0)], 2.9, bag)
            canvas.box(x * 1.1 - 1.5, 31.0, x * 1.1 + 1.5, 32.2, edge)
    elif figure.view == "back":
        canvas.soft_box(left * 0.86, _SHOULDER, right * 0.86, 45.0, 2.8, edge)
        canvas.soft_box(left * 0.80, _SHOULDER + 0.6, right * 0.80, 44.4, 2.6, bag)
        canvas.soft_box(left * 0.55, 33.5, right * 0.55, 42.6, 1.5, edge)
        canvas.soft_box(left * 0.50, 34.2, right * 0.50, 42.0, 1.4, shade(bag, 0.92))
        canvas.line([(-2.0, _SHOULDER), (0.0, _SHOULDER - 1.8), (2.0, _SHOULDER)], 0.9, edge)
    else:
        canvas.soft_box(left - 8.4, _SHOULDER + 0.6, left + 1.4, 44.6, 2.8, edge)
        canvas.soft_box(left - 7.8, _SHOULDER + 1.2, left + 1.0, 44.0, 2.6, bag)
        canvas.soft_box(left - 9.4, 33.0, left - 5.6, 42.6, 1.5, shade(bag, 0.9))
        canvas.line([(left + 0.4, _SHOULDER + 1), (0.6, _SHOULDER - 1.0), (2.6, 28.0), (left + 1.0, 38.0)], 2.4, bag)


def _draw_shoulder_bag(canvas: Canvas, figure: Figure) -> None:
    bag, edge = figure.bag, accent(figure.bag, 0.4)
    left, right = figure.body.at(_HIP)
    x = 0.2 if figure.side else right - 0.5
    start = (2.0, _SHOULDER - 1.5) if figure.side else (left * 0.55, _SHOULDER - 1.6)
    canvas.line([start, (x, 44.0)], 2.0, edge)
    canvas.line([start, (x, 44.0)], 1.5, bag)
    canvas.soft_box(x - 5.0, 43.0, x + 5.0, 54.6, 1.6, edge)
    canvas.soft_box(x - 4.5, 43.5, x + 4.5, 54.1, 1.5, bag)
    canvas.polygon([(x - 4.5, 44.0), (x + 4.5, 44.0), (x + 4.0, 48.8), (x - 4.0, 48.8)], shade(accent(bag, 0.18), 1.0))


def _draw_held_bag(canvas: Canvas, figure: Figure, arm: _Joints) -> None:
    kind, bag, edge = figure.attributes.bag_type, figure.bag, accent(figure.bag, 0.4)
    x, y = arm.end
    if kind == "handbag":
        canvas.line([(x - 3.0, y + 5.4), (x - 1.6, y), (x + 1.6, y), (x + 3.0, y + 5.4)], 0.9, edge)
        canvas.polygon([(x - 4.6, y + 5), (x + 4.6, y + 5), (x + 5.8, y + 14.4), (x - 5.8, y + 14.4)], edge)
        canvas.polygon([(x - 4.2, y + 5.5), (x + 4.2, y + 5.5), (x + 5.2, y + 13.9), (x - 5.2, y + 13.9)], bag)
        canvas.box(x - 4.4, y + 7.6, x + 4.4, y + 8.4, edge)
    elif kind == "shopping bag":
        canvas.line([(x - 2.4, y + 4.4), (x, y), (x + 2.4, y + 4.4)], 0.8, edge)
        canvas.polygon([(x - 4.4, y + 4), (x + 4.2, y + 4.4), (x + 5.4, y + 17.0), (x - 5.0, y + 16.4)], bag)
        canvas.shadow([(x + 0.6, y + 4.4), (x + 4.2, y + 4.4), (x + 5.4, y + 17.0), (x + 2.0, y + 16.8)], 0.14)
    elif kind == "suitcase":
        ground = max(leg.end[1] for leg in figure.legs) + 5.0
        x = -10.5 if figure.side else x + math.copysign(1.6, x)
        canvas.line([arm.end, (x, ground - 24.0)], 1.1, _METAL)
        canvas.soft_box(x - 5.6, ground - 25.0, x + 5.6, ground - 1.4, 1.4, edge)
        canvas.soft_box(x - 5.0, ground - 24.4, x + 5.0, ground - 2.0, 1.2, bag)
        for dx in (-2.4, 1.2):
            canvas.box(x + dx, ground - 23.0, x + dx + 1.0, ground - 3.4, edge)
        for dx in (-4.2, 4.2):
            canvas.ellipse((x + dx, ground - 0.8), 1.0, 1.0, (20, 20, 20))


def _draw_umbrella(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.arms[0].end
    middle = x * 0.45
    canvas.line([(x, y + 3.0), (middle, -13.0)], 1.1, _METAL)
    rim, top, half = -1.0, -16.0, 19.0
    crown = (middle, rim)
    canvas.dome(crown, half, rim - top, figure.umbrella)
    for i, (first, last) in enumerate(((-1.0, -0.5), (-0.5, 0.0), (0.0, 0.5), (0.5, 1.0))):
        points = [(middle, top)]
        points += [_on_dome(crown, half, rim - top, first + (last - first) * t) for t in (0.0, 0.5, 1.0)]
        canvas.polygon(points, shade(figure.umbrella, 0.86) if i % 2 else figure.umbrella)
    canvas.line([(middle, top - 1.6), (middle, top + 1.0)], 0.9, _METAL)


def _on_dome(centre: Point, rx: float, ry: float, across: float) -> Point:
    """A point of the dome's lower rim, which sags between the ribs; `across` runs from -1 to 1."""
    sag = 1.6 * abs(math.sin(across * 2 * math.pi))
    return centre[0] + rx * across, centre[1] - sag
