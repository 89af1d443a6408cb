"""Rendered people as drawn: geometry worked out by hand, and what of a person a drawing holds."""

import dataclasses
import math
import random
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from aga_model.data.rendered import drawing, sample_person, scene
from aga_model.data.rendered.canvas import Canvas, Profile, accent, limb_part, polar, shade
from aga_model.data.rendered.drawing import VIEWS, Palette, draw_figure, pose_figure
from aga_model.data.rendered.scene import Camera
from aga_model.data.rendered.street import drawing as street_drawing
from aga_model.data.rendered.street import scene as street_scene
from aga_model.data.rendered.street.drawing import CLOTH_HSV

NEUTRAL = Camera((1.0, 1.0, 1.0), 1.0, 0.0)


class Middle(random.Random):
    """No chance: the middle of every range, the most frequent value, and of whatever is drawn seldom, nothing."""

    def random(self):
        return 0.99

    def uniform(self, a, b):
        return (a + b) / 2

    def gauss(self, mu=0.0, sigma=1.0):
        return mu

    def triangular(self, low=0.0, high=1.0, mode=None):
        return mode


class Recorder(Canvas):
    """Keeps the polygons, in figure units, with their colours."""

    def __init__(self):
        super().__init__(Image.new("RGB", (8, 8)), (0, 0), (1, 1), 0, (0, 0))
        self.polygons = []

    def polygon(self, points, fill):
        self.polygons.append((list(points), tuple(fill)))

    def points(self, fill):
        return [point for points, colour in self.polygons if colour == fill for point in points]


# --- the canvas ---------------------------------------------------------------------------------------------------


def _on_image(point, **settings):
    """Where a figure's point lies on an image."""
    canvas = Canvas(Image.new("RGB", (8, 8)), **settings)
    found = []
    canvas._draw = type("Draw", (), {"polygon": lambda self, points, fill: found.extend(points)})()
    canvas.polygon([point], (0, 0, 0))
    return pytest.approx(found[0], abs=1e-9)


@pytest.mark.parametrize(
    ("degrees", "scale", "point", "place"),
    [
        (0, (2, 3), (11, 5), (52, 65)),
        (0, (-2, 3), (11, 5), (48, 65)),
        (90, (2, 2), (11, 0), (50, 52)),  # what is on the right turns down
        (90, (2, 2), (10, 1), (48, 50)),  # and what is below turns to the left
        (30, (2, 2), (10, 1), (50 - 1, 50 + math.sqrt(3))),
    ],
)
def test_a_point_is_scaled_mirrored_and_turned_about_the_pivot(degrees, scale, point, place):
    assert _on_image(point, centre=(50, 50), scale=scale, degrees=degrees, pivot=(10, 0)) == place


def test_edges_of_a_garment_are_straight_between_its_rows():
    profile = Profile((0.0, 10.0, 30.0), (-1.0, -5.0, -5.0), (2.0, 4.0, 8.0))
    assert profile.at(2.5) == (-2.0, 2.5) and profile.at(25.0) == (-5.0, 7.0)
    straight = Profile.symmetric([(0.0, 10.0), (8.0, 10.0)])
    assert set(straight.part(2, 6, 0.25, 0.4)) == {(-2.0, 2), (-2.0, 6), (-5.0, 2), (-5.0, 6)}


def test_limbs_taper_and_swing_to_the_right():
    assert polar((1, 2), 10, 90) == pytest.approx((11, 2)) and polar((1, 2), 10, 0) == pytest.approx((1, 12))
    assert set(limb_part((0, 0), (0, 10), 3, 1, 0.0, 1.0)) == {(3, 0), (-3, 0), (1, 10), (-1, 10)}
    assert set(limb_part((0, 0), (0, 10), 3, 1, 0.5, 1.0)) == {(2, 5), (-2, 5), (1, 10), (-1, 10)}


def test_tones_stay_in_range_and_stand_out():
    assert shade((200, 100, 11), 2) == (255, 200, 22) and shade((200, 100, 11), 0.5) == (100, 50, 6)
    assert accent((100, 100, 100), 0.5) == (50, 50, 50)
    assert accent((20, 20, 20), 0.5) == (114, 114, 114)  # 20 + 235 * 0.5 * 0.8


# --- a person -----------------------------------------------------------------------------------------------------

COLOURS = {
    "black": (10, 11, 12), "white": (230, 231, 232), "gray": (120, 121, 122), "red": (200, 20, 30),
    "blue": (20, 40, 210), "green": (30, 150, 60), "yellow": (240, 220, 41), "orange": (241, 130, 23),
    "purple": (130, 50, 160),
}  # fmt: skip
PLAIN = Palette(
    cloth=lambda name, rng: COLOURS[name],
    trousers=lambda kind, name, rng: COLOURS[name],
    hair=lambda name, rng: (99, 66, 33),
    skin=lambda name, rng: (222, 180, 150),
)
LOOKS = {
    "build": "average", "hair_style": "short", "hair_colour": "brown", "upper_type": "shirt", "sleeves": "long",
    "upper_colour": "green", "upper_pattern": "plain", "upper_second_colour": None, "upper_open": False,
    "inner_colour": None, "lower_type": "pants", "lower_colour": "blue", "shoes_type": "sneakers",
    "shoes_colour": "yellow", "bag_type": None, "bag_colour": None, "hat_type": None, "hat_colour": None,
    "glasses": False, "umbrella_colour": None,
}  # fmt: skip


BAGS = ("backpack", "handbag", "shoulder bag", "suitcase", "shopping bag")


def _figure(view="front", seed=0, **looks):
    person = dataclasses.replace(sample_person(random.Random(1)), **LOOKS | looks)
    return pose_figure(person, view, random.Random(seed), PLAIN)


def _drawn(figure):
    recorder = Recorder()
    draw_figure(recorder, figure)
    return recorder


def test_everything_has_the_colour_of_its_own_field():
    figure = _figure(
        upper_second_colour="red", inner_colour="white", bag_colour="orange", hat_colour="purple",
        umbrella_colour="gray",
    )  # fmt: skip
    found = {
        "green": figure.upper, "red": figure.second, "white": figure.inner, "blue": figure.lower,
        "yellow": figure.shoes, "orange": figure.bag, "purple": figure.hat, "gray": figure.umbrella,
    }  # fmt: skip
    assert found == {name: COLOURS[name] for name in found}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("looks", "name"),
    [
        *(({"bag_type": kind, "bag_colour": "orange"}, "orange") for kind in BAGS),
        *(({"hat_type": kind, "hat_colour": "purple"}, "purple") for kind in ("cap", "beanie", "sun hat")),
        *(({"upper_pattern": kind, "upper_second_colour": "red"}, "red") for kind in ("striped", "plaid", "blocks")),
        *(({"lower_type": kind}, "blue") for kind in ("pants", "jeans", "shorts", "leggings", "skirt")),
        ({"umbrella_colour": "gray"}, "gray"),
    ],
)  # fmt: skip
def test_what_a_person_has_is_in_the_drawing_from_every_side(view, looks, name):
    assert _drawn(_figure(view, **looks)).points(COLOURS[name])
    others = dict.fromkeys(("bag_type", "hat_type", "umbrella_colour", "lower_type"))
    assert not _drawn(_figure(view, **LOOKS | others)).points(COLOURS[name])


@pytest.mark.parametrize("view", VIEWS)
def test_glasses_logos_and_open_jackets_are_where_captions_tell_them(view):
    glasses = _drawn(_figure(view, glasses=True)).points(drawing._LENS)
    logo = _drawn(_figure(view, upper_pattern="logo", upper_second_colour="red")).points(COLOURS["red"])
    inner = _drawn(_figure(view, upper_type="jacket", upper_open=True, inner_colour="white")).points(COLOURS["white"])
    assert bool(glasses) == bool(inner) == (view != "back") and bool(logo) == (view == "front")
    assert not _drawn(_figure(view)).points(drawing._LENS)


def test_sleeves_reach_the_hand_the_elbow_or_nothing():
    def reach(sleeves):
        """How far from the hand the cloth on the arms ends, in figure units; 28 is the shoulder."""
        figure = _figure(sleeves=sleeves)
        points = _drawn(figure).points(shade(COLOURS["green"], 0.95))
        return min((math.dist(arm.end, point) for arm in figure.arms for point in points), default=99)

    assert reach("long") < 5 < 13 < reach("short") < 28 and reach("none") == 99


def test_stout_people_are_the_widest():
    slim, average, stout = (_figure(build=build).width for build in ("slim", "average", "stout"))
    assert slim < 0.95 * average and stout > 1.1 * average


def test_trousers_narrow_towards_the_hem_in_their_order():
    def hem(kind):
        figure = _figure(lower_type=kind)
        leg = figure.legs[1]
        points = [x for x, y in _drawn(figure).points(shade(COLOURS["blue"], 0.78 if leg.far else 1)) if y > 80]
        return max(points) - min(points)

    assert hem("pants") > hem("jeans") > hem("leggings")


def test_a_colour_name_is_drawn_in_the_order_of_its_brightness_and_hue():
    rgb = drawing.COLOUR_RGB
    for name, strongest in (("red", 0), ("green", 1), ("blue", 2), ("navy", 2), ("orange", 0), ("brown", 0)):
        assert max(range(3), key=lambda channel: rgb[name][channel]) == strongest, name
    greys = [sum(CLOTH_HSV[name][2]) for name in ("black", "dark gray", "gray", "light gray", "white")]
    assert greys == sorted(greys)
    for darker, lighter in pairwise(("black", "dark gray", "gray", "light gray", "white")):
        assert CLOTH_HSV[darker][2][1] < CLOTH_HSV[lighter][2][0]
    assert sum(CLOTH_HSV["navy"][2]) < sum(CLOTH_HSV["blue"][2]) < sum(CLOTH_HSV["light blue"][2])
    assert sum(CLOTH_HSV["maroon"][2]) < sum(CLOTH_HSV["red"][2])


# --- in the picture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("view", "to_the_right"), [("left", False), ("right", True)])
def test_people_face_the_side_of_their_view(view, to_the_right, monkeypatch):
    """A figure seen from the side faces +x, so that x grows to the right of the picture, or else is mirrored."""
    image, figure = Image.new("RGB", (64, 128)), _figure(view)
    assert (drawing._place(image, figure, random.Random(2))._xx > 0) == to_the_right
    scales = []

    class Spy(street_drawing._StreetCanvas):
        def __init__(self, image, centre, scale, *rest):
            scales.append(scale)
            super().__init__(image, centre, scale, *rest)

    monkeypatch.setattr(street_drawing, "_StreetCanvas", Spy)
    street_drawing._draw_lit(image, figure, random.Random(2), 0.1, ((32, 64), (1.2, 1.2)))
    assert (scales[0][0] > 0) == to_the_right


@pytest.mark.parametrize("umbrella", [None, "gray"])
def test_the_head_and_the_umbrella_are_in_the_picture(umbrella):
    """The head is at 0 figure units, the umbrella's top at -17."""
    image, figure = Image.new("RGB", (64, 128)), _figure(umbrella_colour=umbrella)
    top = -17 if umbrella else 0
    for seed in range(60):
        canvas = drawing._place(image, figure, random.Random(seed))
        assert canvas._y0 + canvas._yy * top > -1
        (_, middle), (_, scale) = street_drawing._place(image, figure, random.Random(seed))
        assert middle + scale * (top - 50) > -1


def test_light_falls_on_the_person_only():
    image = Image.new("RGB", (64, 128), (120, 130, 140))
    lit = np.asarray(street_drawing._draw_lit(image, _figure(), random.Random(2), 0.0, ((32, 64), (0.9, 0.9))))
    assert (lit[:6] == (120, 130, 140)).all() and (lit[:, :6] == (120, 130, 140)).all()
    trunk = lit[45:60, 26:38].reshape(-1, 3)
    assert len(np.unique(trunk, axis=0)) > 50  # folds and light


@pytest.mark.parametrize(
    ("put", "share"),
    [
        (scene.draw_occlusion, 0.18),
        (street_scene.draw_in_front, 0.14),
        (lambda image, rng: street_drawing._draw_neighbours(image, rng, 0.1), 0.3),
    ],
)
def test_few_people_are_hidden_or_have_neighbours(put, share):
    changed = 0
    for seed in range(100):
        image = Image.new("RGB", (32, 64), (1, 2, 3))
        put(image, random.Random(seed))
        changed += np.asarray(image).max() > 3
    assert 0.4 * share < changed / 100 < 1.7 * share


# --- the camera ---------------------------------------------------------------------------------------------------


def _developed(camera, colour=(100, 100, 100)):
    image = scene.develop(Image.new("RGB", (32, 32), colour), Middle(0), camera)
    return np.asarray(image, dtype=float).mean(axis=(0, 1))


def test_gains_contrast_and_offset_of_a_camera():
    """
    Light is 0.98 in the middle, and contrast is about 128. Noise is even, so that it changes no mean; that values are
    cut to whole numbers takes a half.
    """
    np.testing.assert_allclose(_developed(NEUTRAL), 98 - 0.5, atol=0.6)
    np.testing.assert_allclose(_developed(Camera((1.2, 1, 0.7), 1, 0)), [117.1, 97.5, 68.1], atol=0.6)
    np.testing.assert_allclose(_developed(Camera((1, 1, 1), 0.5, 7)), 128 - 64 + 49 + 7 - 0.5, atol=0.6)
    assert _developed(Camera((1.2, 1.2, 1.2), 1, 0), (255, 250, 3)).tolist()[0] == 255.0


def _exposed(camera, colour):
    image = street_scene.expose(Image.new("RGB", (32, 32), colour), Middle(0), camera)
    return np.asarray(image, dtype=float) / 255


@pytest.mark.parametrize(("contrast", "offset"), [(1.0, 0.0), (1.8, 0.0), (1.0, 51.0), (0.5, -25.5)])
def test_contrast_and_offset_of_a_street_camera(contrast, offset):
    """Grey of 0.5 is 0.54 after gamma exp(-0.12); contrast is about 0.45, and the offset a share of 255."""
    grey = 0.5 ** math.exp(-0.12)
    wanted = (grey - 0.45) * contrast + 0.45 + offset / 255
    exposed = _exposed(Camera((1.0, 1.0, 1.0), contrast, offset), (127, 127, 128))
    np.testing.assert_allclose(exposed.mean(axis=(0, 1)), wanted, atol=0.03)


def test_a_street_camera_keeps_hues_and_does_not_wrap():
    red, green, blue = _exposed(NEUTRAL, (200, 90, 40)).mean(axis=(0, 1))
    assert red > green + 0.2 > blue + 0.3
    assert _exposed(Camera((1.0, 1.0, 1.0), 1.5, 0.0), (255, 255, 255)).min() > 0.99
    assert _exposed(Camera((1.0, 1.0, 1.0), 1.5, -80.0), (2, 2, 2)).max() < 0.01
