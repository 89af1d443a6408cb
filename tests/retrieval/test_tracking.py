import numpy as np
import pytest
from PIL import Image, ImageDraw

from aga_model.files import VideoFrame
from aga_model.ingest import PersonTracker, TrackedBox, tracking, unfinished
from aga_model.ingest.tracking import largest_first

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 160, 60)
STEP = 0.5  # seconds between frames


def person(x, y=50.0, width=30.0, height=80.0):
    return (x, y, x + width, y + height)


def run(positions, tracker=None, first=0):
    """
    Names of the tracks in each frame.

    Args:
        positions: for each frame the people as pairs of a colour and a box.
    """
    tracker = tracker or PersonTracker()
    names = []
    for number, people in enumerate(positions, start=first):
        image = Image.new("RGB", (700, 200), (120, 120, 120))
        draw = ImageDraw.Draw(image)
        for colour, box in people:
            draw.rectangle(box, fill=colour)
        names.append(tracker.update(VideoFrame(number, STEP * number, image), [box for _, box in people]))
    return names


def test_people_who_walk_their_own_width_keep_their_track():
    """Plain IoU of neighbouring frames is zero."""
    assert run([[(RED, person(10 + 32 * step))] for step in range(10)]) == [["0.1"]] * 10


def test_two_people_side_by_side():
    """From one frame to the next each comes to where the other was."""
    positions = [[(RED, person(10 + 30 * step)), (BLUE, person(42 + 30 * step))] for step in range(10)]
    assert run(positions) == [["0.1", "0.2"]] * 10
    swapped = [people if step % 2 else people[::-1] for step, people in enumerate(positions)]
    names = run(swapped)
    assert names == [["0.1", "0.2"] if step % 2 == 0 else ["0.2", "0.1"] for step in range(10)]


def test_people_dressed_alike_cross():
    """Only their speed tells them apart."""
    positions = [[(RED, person(10 + 25 * step)), (RED, person(455 - 25 * step, y=52))] for step in range(18)]
    assert run(positions) == [["0.1", "0.2"]] * 18


def test_a_short_gap_is_bridged_and_a_long_one_is_not():
    walk = [[(RED, person(10 + 20 * step))] for step in range(20)]
    for gap, same in ((3, True), (4, False)):
        names = run(walk[:6] + [[]] * gap + walk[6 + gap :])
        assert names[:6] == [["0.1"]] * 6
        assert set(map(tuple, names[6 + gap :])) == {("0.1",) if same else (f"{6 + gap}.1",)}


def test_a_gap_may_be_any_length():
    walk = [[(RED, person(10 + 20 * step))] for step in range(20)]
    names = run(walk[:6] + [[]] * 8 + walk[14:], PersonTracker(max_gap=5))
    assert {name for frame in names for name in frame} == {"0.1"}


def test_people_come_and_go():
    positions = [
        [(RED, person(10)), (BLUE, person(300))],
        [(BLUE, person(300))],
        [(GREEN, person(600)), (BLUE, person(310)), (RED, person(450))],
        [],
        [(GREEN, person(600))],
    ]
    assert run(positions) == [["0.1", "0.2"], ["0.2"], ["2.1", "0.2", "2.3"], [], ["2.1"]]


def test_another_person_in_the_same_place_is_a_new_one():
    assert run([[(RED, person(10))], [(GREEN, person(14, y=52))]]) == [["0.1"], ["1.1"]]


def test_a_person_whose_colours_change_step_by_step_keeps_the_track():
    """Out of the shade: neighbouring frames differ by 12%, the first and the last by 82%."""
    assert run([[((level, level, level), person(100))] for level in range(10, 230, 30)]) == [["0.1"]] * 8


def test_a_person_who_turns_around_is_sought_at_the_mean_of_the_speeds():
    """Right by 20 a frame, twice left by 20: 20, 0 and then -10 pixels a frame are expected."""
    tracker = PersonTracker()
    run([[(RED, person(x))] for x in (100, 120, 100, 80)], tracker)
    (track,) = tracker._tracks
    assert track.velocity == pytest.approx([-10 / STEP, 0])
    assert track.predicted(3 * STEP + 0.25) == pytest.approx(np.array(person(80 - 10 / STEP * 0.25)))


def test_colours_are_those_of_the_body_and_not_of_the_ground_beside_it():
    """A fifth of the width on each side is left out; the grid has 8 rows and 4 columns."""
    image = Image.new("RGB", (100, 80), (0, 0, 0))
    image.paste((255, 255, 255), (20, 0, 80, 40))
    image.paste((255, 0, 0), (20, 40, 80, 80))
    wanted = np.repeat([[[1.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]], 4, axis=0).repeat(4, axis=1)
    assert np.array_equal(tracking._colours(image, (0, 0, 100, 80)), wanted)


def test_boxes_that_jitter():
    rng = np.random.default_rng(0)
    positions = []
    for step in range(30):
        shift = rng.normal(0, 3, (2, 2))
        positions.append(
            [
                (RED, person(20 + 15 * step + shift[0, 0], 40 + shift[0, 1])),
                (BLUE, person(550 - 15 * step + shift[1, 0], 60 + shift[1, 1])),
            ]
        )
    assert run(positions) == [["0.1", "0.2"]] * 30


def test_a_later_start_gives_no_name_again():
    positions = [[(RED, person(10 + 20 * step)), (BLUE, person(500))] for step in range(10)]
    whole = {name for names in run(positions) for name in names}
    later = {name for names in run(positions[6:], first=6) for name in names}
    assert len(later) == 2 and not whole & later


def test_boxes_that_no_tracker_gave_are_left_aside():
    """Rows of a gallery that others wrote: beyond the frame, twice in one frame, without a size."""
    walk = [[(RED, person(10 + 20 * step))] for step in range(10)]
    known = [TrackedBox(step, STEP * step, people[0][1], "0.1") for step, people in enumerate(walk[:6])]
    odd = [(900.0, 0.0, 950.0, 90.0), (-5.0, 0.0, 20.0, 90.0), (30.0, 50.0, 30.0, 90.0), (10.0, 50.0, 40.0, 500.0)]
    known += [TrackedBox(5, STEP * 5, box, f"5.{place}") for place, box in enumerate(odd, start=2)]
    known.append(TrackedBox(5, STEP * 5, person(600), "0.1"))
    tracker = PersonTracker()
    for number, boxes in unfinished(known).items():
        image = Image.new("RGB", (700, 200), (120, 120, 120))
        ImageDraw.Draw(image).rectangle(walk[number][0][1], fill=RED)
        tracker.recall(VideoFrame(number, STEP * number, image), boxes)
    assert run(walk[6:], tracker, first=6) == [["0.1"]] * 4


def test_only_tracks_that_can_go_on_are_recalled():
    known = [TrackedBox(frame, float(frame), person(0), track) for frame, track in enumerate("aabbbab")]
    known += [TrackedBox(1, 1.0, person(100), "c"), TrackedBox(4, 4.0, person(100), "1.10")]
    known += [TrackedBox(4, 4.0, person(200), "1.9")]
    found = unfinished(known, max_gap=2.0)
    assert {frame: [one.track for one in boxes] for frame, boxes in found.items()} == {
        0: ["a"],
        1: ["a"],
        2: ["b"],
        3: ["b"],
        4: ["b", "1.9", "1.10"],
        5: ["a"],
        6: ["b"],
    }
    assert unfinished([]) == {}


@pytest.mark.parametrize("seed", range(5))
def test_largest_first(seed):
    values = np.random.default_rng(seed).integers(0, 5, (4, 6)) / 5
    found, left = [], values.copy()
    while left.max() >= 0.4:
        row, column = np.unravel_index(left.argmax(), left.shape)
        found.append((row, column))
        left[row], left[:, column] = -1, -1
    assert list(largest_first(values, 0.4)) == found
    assert list(largest_first(np.empty((0, 3)), 0.1)) == []
