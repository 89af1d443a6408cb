"""Wrong pairs: the statistic by loops, its p-values where nothing is right, and noise of a known share."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aga_model.evaluation import SplitEmbeddings, find_wrong_pairs, wrong_pairs


def make_split(persons=300, images_each=2, captions_each=2, spread=0.8, wrong=0.0, seed=0):
    """
    Captions near their images, `wrong` of them exchanged with those of other persons.

    Returns:
        the split, and (captions,) bool: which are wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(persons * images_each, 24, generator=generator)
    image_of = np.repeat(np.arange(len(images)), captions_each)
    texts = images[image_of] + spread * torch.randn(len(image_of), 24, generator=generator)
    chosen = np.random.default_rng(seed).permutation(len(image_of))[: round(wrong * len(image_of))]
    texts[chosen] = texts[np.roll(chosen, 1)]
    is_wrong = np.zeros(len(image_of), dtype=bool)
    is_wrong[chosen] = True
    person_of = np.arange(len(images)) // images_each
    split = SplitEmbeddings(
        images, texts, person_of, person_of[image_of], np.arange(len(images)) + 1000, image_of + 1000, [], []
    )
    return split, is_wrong


def test_the_statistic_by_loops():
    split, _ = make_split(persons=4, spread=1.5, wrong=0.5)
    texts, images = F.normalize(split.text_embeds, dim=-1), F.normalize(split.image_embeds, dim=-1)
    statistic = wrong_pairs._Statistic(
        split.text_embeds, split.image_embeds, split.query_person_ids, split.gallery_person_ids, None
    )
    captions, own = np.arange(16).repeat(8), np.tile(np.arange(8), 16)
    for caption, image, value in zip(captions, own, statistic(captions, own)):
        score = texts[caption] @ images[image]
        strangers = [k for k in range(8) if split.gallery_person_ids[k] != split.gallery_person_ids[image]]
        better_images = sum(bool(texts[caption] @ images[k] >= score) for k in strangers)
        others = [k for k in range(16) if split.query_person_ids[k] != split.query_person_ids[caption]]
        better_captions = sum(bool(texts[k] @ images[image] >= score) for k in others)
        wanted = (1 + better_images) / (1 + len(strangers)) * (1 + better_captions) / (1 + len(others))
        assert value == pytest.approx(wanted)


@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.5, 0.7])
def test_a_planted_share_is_found(wrong):
    split, is_wrong = make_split(wrong=wrong)
    found = find_wrong_pairs(split)
    assert found.wrong_share == pytest.approx(wrong, abs=0.05)
    assert (found.kept & ~is_wrong).sum() >= 0.97 * (~is_wrong).sum()
    assert (found.kept & is_wrong).sum() <= 0.03 * found.kept.sum()
    assert found.wrong_kept == pytest.approx((found.kept & is_wrong).sum(), abs=0.02 * len(is_wrong))


def test_where_all_pairs_are_wrong_p_values_are_uniform():
    split, _ = make_split(spread=1e3)
    found = find_wrong_pairs(split)
    quantiles = np.quantile(found.p_values, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.05)
    assert found.wrong_share > 0.9


def test_the_line_is_where_right_and_wrong_are_as_likely():
    """Half of the p-values uniform, half in [0, 0.1]: density 5.5 below 0.1 and 0.5 above, so the line is at 0.1."""
    uniform = np.linspace(0, 1, 10_001)
    found = wrong_pairs._judge(np.concatenate([uniform, uniform / 10]), uniform)
    assert found.wrong_share == pytest.approx(0.5, abs=0.01) and found.threshold == pytest.approx(0.1, abs=0.005)
    assert found.wrong_kept == pytest.approx(0.1 * 10_001, rel=0.05)


def test_p_values_share_and_line_by_hand():
    """Nine pairs wrong for certain with statistics 0.1 to 0.9; two right pairs, and three that could be any."""
    found = wrong_pairs._judge(np.array([0.01, 0.01, 0.3, 0.55, 0.95]), np.arange(1, 10) / 10)
    np.testing.assert_allclose(found.p_values, [0.1, 0.1, 0.4, 0.6, 1.0])  # 0.3 counts itself
    assert found.wrong_share == pytest.approx((2 / 5) / 0.5)
    # The gain is 0.4 - 1.6 * 0.1 at 0.1, less than nothing behind it; the pairs at the line are kept.
    assert found.threshold == pytest.approx(0.1) and found.kept.tolist() == [True, True, False, False, False]
    assert found.wrong_kept == pytest.approx(0.8 * 0.1 * 5)


def test_a_collapsed_model_finds_all_pairs_wrong_and_no_more():
    split, _ = make_split(persons=5)
    split.text_embeds, split.image_embeds = torch.ones(20, 3), torch.ones(10, 3)
    found = find_wrong_pairs(split)
    assert found.wrong_share == 1.0 and set(found.p_values.tolist()) == {1.0}


def test_a_stranger_that_matches_as_well_counts():
    """One of two strange images and one of two strange captions are as near as the own ones: 2/3 of each."""
    embeds, persons = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1, 2, 3])
    statistic = wrong_pairs._Statistic(embeds, embeds, persons, persons, None)
    assert statistic(np.array([0, 2]), np.array([0, 2])) == pytest.approx([2 / 3 * 2 / 3, 1 / 3 * 1 / 3])


def test_clean_pairs_are_all_kept():
    found = wrong_pairs._judge(np.zeros(7), np.full(99, 0.5))
    assert found.wrong_share == 0.0 and found.kept.all() and found.p_values[0] == pytest.approx(0.01)


def test_pairs_of_one_person_are_not_among_those_that_are_wrong_for_certain():
    """
    Two persons that nothing confuses: every pair of strangers matches worse than every own pair, so a right pair has
    the least p-value there is. Half of the pairs drawn are of one person.
    """
    embeds, persons = torch.eye(2).repeat_interleave(6, dim=0), np.repeat([1, 2], 6)
    split = SplitEmbeddings(embeds, embeds, persons, persons, np.arange(12), np.arange(12), [], [])
    found = find_wrong_pairs(split)
    assert found.p_values.max() < 2 / 9000 and found.wrong_share == 0.0


def test_what_is_left_out_is_listed_from_the_worst_on():
    found = wrong_pairs.WrongPairs(np.array([0.2, 0.7, 0.1, 0.9, 0.7]), 0.4, 0.2)
    persons, described = np.array([4, 5, 6]), np.array([12, 10, 11, 10, 12])
    split = SplitEmbeddings(
        torch.empty(3, 0), torch.empty(5, 0), persons, persons[[2, 0, 1, 0, 2]], np.array([10, 11, 12]), described,
        ["a.png", "b.png", "c.png"], ["red", "green", "blue", "grey", "teal"],
    )  # fmt: skip
    assert found.to_json(split) == {
        "rows": 5,
        "wrong_share": 0.4,
        "threshold": 0.2,
        "expected_wrong_kept": pytest.approx(0.4),
        "left_out": [
            {"row": 3, "p_value": 0.9, "image": "a.png", "caption": "grey"},
            {"row": 1, "p_value": 0.7, "image": "a.png", "caption": "green"},
            {"row": 4, "p_value": 0.7, "image": "c.png", "caption": "teal"},
        ],
    }


def test_the_same_seed_gives_the_same():
    split, _ = make_split(wrong=0.3)
    first, again, other = (find_wrong_pairs(split, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.p_values, again.p_values) and not np.array_equal(first.p_values, other.p_values)


def test_a_single_person_is_refused():
    split, _ = make_split(persons=1)
    with pytest.raises(ValueError, match="all images show one person"):
        find_wrong_pairs(split)
