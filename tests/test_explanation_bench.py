"""The bench of explanations: its regions, its figures, and its report."""

import json

import numpy as np
import pytest

from benchmarks.quality import explanation


@pytest.fixture(scope="module")
def cases():
    return list(explanation.draw_cases(12, seed=5))


def test_regions_are_where_things_are_worn(cases):
    heights = {kind: [] for kind in explanation.PAIRS}
    for case in cases:
        for thing in case.things:
            rows, _ = np.nonzero(thing.region)
            heights[thing.kind].append(rows.mean() / explanation.HEIGHT)
            assert explanation.LEAST_AREA <= thing.region.mean() < 0.5
    means = [np.mean(heights[kind]) for kind in ("hair", "upper", "lower", "shoes")]
    assert means == sorted(means) and means[0] < 0.3 and means[-1] > 0.7


def test_words_of_things_stand_in_the_sentence(cases):
    for case in cases:
        named = {(case.query[slice(*thing.colour)], case.query[slice(*thing.noun)]) for thing in case.things}
        assert len(named) == len(case.things) and all(f"{colour} {noun}" in case.query for colour, noun in named)


def test_a_thing_in_another_colour_is_all_that_changes(cases):
    for case in cases:
        for thing in case.things:
            changed = np.asarray(case.image, dtype=int) - np.asarray(thing.recoloured, dtype=int)
            assert np.abs(changed[~thing.region]).max() <= explanation.DIFFERENCE


def test_figures():
    share = np.zeros((6, 2), dtype=np.float32)
    share[4:, 1] = 0.5, 0.1  # shown by one patch of the lower third; 0.1 is below a quarter
    heat = np.zeros((6, 2))
    heat[4, 1], heat[0, 0] = 3, 1
    assert explanation.figures(heat, share) == {"pointing": 1.0, "inside": 0.75, "third": 0.0}
    heat[0, 0] = 0.1
    assert explanation.figures(heat, share)["third"] == 1.0
    assert explanation.figures(heat[::-1], share) == pytest.approx({"pointing": 0.0, "inside": 0.0, "third": 0.0})
    assert explanation.figures(heat * 0, share) == {"pointing": 0.0, "inside": 0.0, "third": 0.0}
    assert explanation.figures(heat, share / 10)["pointing"] == 1.0  # no patch is covered by a quarter


def test_share_of_patches():
    region = np.zeros((128, 64), dtype=bool)
    region[:16, :8] = True
    share = explanation.share_of_patches(region, (8, 4))
    assert share[0, 0] == 0.5 and share.sum() == 0.5


def test_report(tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    monkeypatch.setattr(explanation, "SMOKE", {"images": 2})
    explanation.main(["--smoke", "--seed", "5", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["settings"] == {"images": 2, "seed": 5, "model": "aga-small-rendered"}
    assert found["device"]["processor"] in capsys.readouterr().out
    assert set(found["results"]) == set(explanation.WAYS)
    words = {result["words"] for result in found["results"].values()}
    assert len(words) == 1 and words.pop() > 10
    for result in found["results"].values():
        low, high = result["pointing_interval"]
        assert 0 <= low <= result["pointing"] + 0.1 and result["pointing"] - 0.1 <= high <= 100
        assert 0 <= result["inside"] <= 100 and 0 <= result["third"] <= 100
    assert found["results"]["occlusion"]["pointing"] > found["results"]["chance"]["pointing"]
    assert found["contributions"]["words"] >= 2
