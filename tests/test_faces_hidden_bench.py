"""How the bench of hidden faces counts, and that docs/search.md gives its numbers."""

import json
import re

import pytest
from PIL import Image

pytest.importorskip("cv2", reason="the extra `search` is not installed")
from benchmarks.places import RESULTS, ROOT
from benchmarks.quality.faces_hidden import PEOPLE, Person, cut_close, measure, read_people


def test_shares_of_faces_heads_and_area():
    people = [
        Person("front", (10, 0, 30, 20), (12, 5, 28, 20)),
        Person("away", (40, 0, 60, 20), (40, 5, 44, 15)),
        Person("back", (70, 0, 90, 20), None),
    ]
    image = Image.new("RGB", (100, 50))
    counts = measure(lambda _: [(10, 0, 30, 16), (40.2, -5, 43.5, 10), (0, 40, 100, 60)], [(image, people)])
    seconds = counts.pop("cpu_seconds_per_image")
    assert seconds >= 0
    hidden = 20 * 16 + 4 * 10 + 100 * 10  # pixels, of boxes in whole pixels within the image
    assert counts == {
        "faces": 1, "faces_hidden": 1, "faces_nearly_all_hidden": 0,  # 11 of its 15 rows
        "edges": 1, "edges_hidden": 1,  # 5 of 10 rows
        "heads": 3, "heads_hidden": 1,
        "area_hidden": hidden / 5000, "area_hidden_needlessly": 1000 / 5000,
    }  # fmt: skip


def test_a_close_crop_keeps_what_is_within_it():
    people = [Person("front", (40, 12, 60, 32), (45, 20, 60, 30)), Person("back", (0, 10, 29, 30), None)]
    image, left = cut_close(Image.new("RGB", (100, 100)), people)
    assert image.size == (2 * 17, 83)  # from 10 to 93 and 0.2 of that, 16.6, to each side of 50
    assert left == [Person("front", (7, 2, 27, 22), (12, 10, 27, 20))]  # the other is outside


def test_every_drawn_face_lies_on_its_head():
    _, people = read_people(PEOPLE)
    assert sorted(people) == [f"{number:03}.jpg" for number in range(51)]
    for one in (one for drawn in people.values() for one in drawn):
        assert one.view in ("front", "profile", "away", "back") and (one.face is None) == (one.view == "back")
        left, top, right, bottom = one.head
        assert left < right and top < bottom
        if one.face is not None:
            assert left - 2 <= one.face[0] < one.face[2] <= right + 1 and top < one.face[1] < one.face[3] <= bottom + 1


def test_the_documents_give_the_measured_numbers():
    results = json.loads((RESULTS / "faces_hidden.json").read_text())["results"]
    text = " ".join((ROOT / "docs" / "search.md").read_text().split())
    numbers = re.search(
        r"Of (\d+) faces in 51 crops .*?, (\d+) are hidden, of (\d+) in the same crops cut close to the person all; "
        r"(\d+) and (\d+) % of the pictures .* alone find (\d+) and (\d+)\.",
        text,
    )
    wide, close = results["as they are"], results["cut close"]
    ours, ours_close = wide["as the package does"], close["as the package does"]
    assert [int(number) for number in numbers.groups()] == [
        ours["faces"], ours["faces_hidden"], ours_close["faces"],
        round(100 * ours["area_hidden_needlessly"]), round(100 * ours_close["area_hidden_needlessly"]),
        wide["face detectors alone"]["faces_hidden"], close["face detectors alone"]["faces_hidden"],
    ]  # fmt: skip
    assert ours_close["faces_hidden"] == ours_close["faces"]
