"""How the bench of people found counts."""

import numpy as np

from benchmarks.quality.people_found import compare

PEOPLE = np.array([[0, 0, 20, 60], [30, 0, 50, 60], [100, 0, 120, 60]], float)
HIDDEN = np.array([[200, 0, 220, 60]], float)


def test_found_missed_and_false_boxes():
    boxes = np.array(
        [
            [1, 0, 21, 60],  # the first person: IoU 19/21
            [0, 2, 20, 62],  # the same: IoU 58/62
            [38, 0, 58, 60],  # too far from the second: IoU 3/7
            [202, 5, 218, 40],  # on somebody who is hidden
            [300, 0, 320, 60],  # nobody
        ],
        float,
    )
    found, false, ious = compare(PEOPLE, HIDDEN, boxes)
    assert (found, false) == ({0}, {0, 2, 4})
    np.testing.assert_allclose(ious, [58 / 62])


def test_nobody_and_nothing():
    empty = np.empty((0, 4))
    assert compare(PEOPLE, HIDDEN, empty) == (set(), set(), [])
    assert compare(empty, empty, PEOPLE) == (set(), {0, 1, 2}, [])
