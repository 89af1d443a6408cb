"""The two worlds of rendered people: each its own pictures, people and words, and both true to their attributes."""

import colorsys
import dataclasses
import json
import random

import numpy as np
import pytest

from aga_model.data import attribute_words
from aga_model.data.rendered import WORLDS, render_dataset
from aga_model.data.rendered.dataset import sample_people
from aga_model.data.rendered.street.drawing import CLOTH_HSV, render_street_person
from aga_model.data.rendered.street.people import sample_street_person
from aga_model.data.rendered.street.scene import STREET_CAMERAS
from aga_model.data.rendered.worlds import world_named

SMALL = {"height": 48, "width": 32}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    for world in WORLDS:
        render_dataset(folder / world, 12, 3, world=world, processes=1, **SMALL)
    return folder


def test_the_same_seed_gives_each_world_its_own_set(sets):
    captions = {}
    for world in WORLDS:
        description = json.loads((sets / world / "attributes.json").read_text())
        assert description["arguments"]["world"] == world
        assert world in (sets / world / "README.md").read_text()
        records = json.loads((sets / world / "reid_raw.json").read_text())
        captions[world] = {caption for record in records for caption in record["captions"]}
        assert all((sets / world / "imgs" / record["file_path"]).is_file() for record in records)
    assert not captions["base"] & captions["target"]


def test_a_set_of_one_world_is_not_taken_for_the_other(sets):
    with pytest.raises(FileExistsError, match="world base instead of target"):
        render_dataset(sets / "base", 12, 3, world="target", **SMALL)


def test_an_unknown_world_is_named(tmp_path):
    with pytest.raises(ValueError, match="unknown world 'moon'; known are base, target"):
        render_dataset(tmp_path / "set", 12, 3, world="moon", **SMALL)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", WORLDS)
def test_every_value_of_a_world_can_be_drawn_and_told(name):
    world = world_named(name)
    cameras = tuple(world.cameras)
    people = sample_people(300, 5, name)
    values = {field.name: {getattr(p, field.name) for p in people} for field in dataclasses.fields(people[0])}
    assert {len(values[part]) for part in ("gender", "glasses", "upper_open")} == {2}
    assert {"coat", "dress", "vest"} <= values["upper_type"] and {"jeans", "skirt", None} <= values["lower_type"]
    assert len(values["bag_type"]) >= 5 and len(values["hat_type"]) == 4 and len(values["umbrella_colour"]) > 3
    for i, person in enumerate(people):
        rng = random.Random(i)
        picture, view = world.draw(person, rng, 64, 32, rng.choice(cameras))
        assert picture.size == (32, 64)
        assert np.asarray(picture).std() > 2
        caption = world.tell(person, view, rng)
        assert caption.text
        assert caption.mentioned <= {field.name for field in dataclasses.fields(person)}


def test_a_street_picture_depends_on_its_generator_only():
    person = sample_street_person(random.Random(1))
    first, again, other = (render_street_person(person, random.Random(seed), 64, 32)[0] for seed in (2, 2, 3))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_bad_arguments_of_a_street_picture_are_named():
    person = sample_street_person(random.Random(1))
    with pytest.raises(ValueError, match="at least 32"):
        render_street_person(person, random.Random(1), 16, 32)
    with pytest.raises(ValueError, match=f"unknown camera 'x'; known are {', '.join(STREET_CAMERAS)}"):
        render_street_person(person, random.Random(1), 64, 32, "x")


@pytest.mark.parametrize(("name", "low", "high"), [("red", 340, 20), ("green", 80, 165), ("blue", 195, 245)])
def test_a_street_colour_is_that_colour_in_most_pictures(name, low, high):
    """Median hue of the chest over many pictures of one attribute; light and cameras change it a little."""
    right = 0
    for seed in range(60):
        rng = random.Random(seed)
        person = dataclasses.replace(
            sample_street_person(rng),
            upper_type="sweater",
            upper_colour=name,
            upper_pattern="plain",
            upper_second_colour=None,
            upper_open=False,
            bag_type=None,
            umbrella_colour=None,
        )
        picture, _ = render_street_person(person, rng, 96, 48, rng.choice(tuple(STREET_CAMERAS)))
        chest = np.asarray(picture, dtype=float)[32:42, 20:28].reshape(-1, 3)
        hue = 360 * colorsys.rgb_to_hsv(*np.median(chest, axis=0) / 255)[0]
        right += (hue >= low or hue <= high) if low > high else low <= hue <= high
    assert right >= 48


def test_street_people_wear_what_people_wear():
    people = [sample_street_person(random.Random(f"{i}")) for i in range(3000)]
    dark = [p for p in people if p.upper_colour in ("black", "dark gray", "navy", "brown", "maroon", "dark green")]
    assert 0.35 < len(dark) / len(people) < 0.6
    assert {p.upper_colour for p in people} == set(CLOTH_HSV)
    assert all((p.lower_type is None) == (p.upper_type == "dress") for p in people)
    assert not any(p.upper_type == "coat" and p.lower_type in ("shorts", "skirt") for p in people)
    assert not any(p.hat_type and p.hair_style in ("bald", "bun") for p in people)
    assert all((p.bag_type is None) == (p.bag_colour is None) for p in people)


def test_street_people_wear_what_shows():
    people = [sample_street_person(random.Random(f"{i}")) for i in range(3000)]
    near = [
        {"black", "navy"}, {"white", "beige"}, {"orange", "yellow"}, {"red", "maroon"}, {"gray", "light gray"},
        {"blue", "navy"}, {"green", "dark green"},
    ]  # fmt: skip
    for first, second in ((p.upper_colour, p.upper_second_colour or p.inner_colour) for p in people):
        assert first != second and {first, second} not in near
    assert all(p.upper_pattern == "plain" and p.inner_colour for p in people if p.upper_open)
    jeans = {p.lower_colour for p in people if p.lower_type == "jeans"}
    assert jeans == {"blue", "light blue", "navy", "black", "gray", "white"}
    assert {"yellow", "beige", "dark gray"} <= {p.lower_colour for p in people if p.lower_type == "pants"}
    assert {p.lower_type for p in people if p.upper_type == "coat"} == {"pants", "jeans", "leggings"}


def test_each_world_has_people_of_its_own():
    colours, bags = (
        {getattr(p, name) for p in sample_people(300, 5, "base")} for name in ("upper_colour", "bag_type")
    )
    assert {"maroon", "turquoise", "dark gray"} <= colours and "shopping bag" in bags
    colours, bags = ({getattr(p, name) for p in sample_people(300, 5)} for name in ("upper_colour", "bag_type"))
    assert not {"maroon", "turquoise", "dark gray"} & colours and "shopping bag" not in bags


def test_attribute_words_are_those_of_both_worlds():
    assert {"maroon", "trousers", "backpack", "blond", "striped", "dark"} <= attribute_words()
    assert not {"the", "wearing", "with", "his", "walking"} & attribute_words()
    assert {"brunette", "redheaded", "chinos", "denim", "sleeves"} <= attribute_words()
    assert {"t-shirt", "t", "wide-brimmed", "wide", "brimmed", "knee", "coloured"} <= attribute_words()


# --- people who look alike --------------------------------------------------------------------------------------

THINGS = (
    {"hair_style", "hair_colour"}, {"upper_colour"}, {"lower_colour"}, {"shoes_type", "shoes_colour"},
    {"bag_type", "bag_colour"}, {"hat_type", "hat_colour"},
)  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_lookalikes_differ_from_the_first_in_two_things(name):
    people = sample_people(300, 7, name, lookalikes=3)
    assert len(set(people)) == 300
    seen = set()
    for first in range(0, 300, 3):
        one = people[first].to_dict()
        for other in (people[first + 1].to_dict(), people[first + 2].to_dict()):
            changed = {field for field in one if one[field] != other[field]}
            things = [thing for thing in THINGS if thing & changed]
            assert len(things) == 2 and changed <= set.union(*things)
            seen |= changed
            assert not (other["hat_type"] and other["hair_style"] in ("bald", "bun"))
            if "upper_colour" in changed:
                assert other["upper_pattern"] == "plain" and not other["upper_open"]
            assert (other["bag_type"] is None) == (other["bag_colour"] is None)
            assert (other["hair_style"] == "bald") == (other["hair_colour"] is None)
            assert (other["lower_type"] is None) == (other["lower_colour"] is None)
            if other["lower_type"] == "jeans":
                assert other["lower_colour"] in {p.lower_colour for p in people if p.lower_type == "jeans"}
    assert seen == set.union(*THINGS)
    assert sample_people(100, 7, name, lookalikes=3) == people[:100]


def test_lookalikes_are_harder_to_tell_apart(tmp_path):
    ceilings = [
        render_dataset(tmp_path / str(n), 60, 3, test_identities=50, lookalikes=n, processes=1, **SMALL).oracle_rank1
        for n in (1, 5)
    ]
    assert ceilings[0] > 95 > ceilings[1] > 40
    description = json.loads((tmp_path / "5" / "attributes.json").read_text())
    assert description["arguments"]["lookalikes"] == 5
    assert "--lookalikes 5" in (tmp_path / "5" / "README.md").read_text()
