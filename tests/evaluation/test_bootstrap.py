"""Intervals and comparisons over persons: against a plain loop, their coverage, and the calibration of the test."""

import numpy as np
import pytest

from aga_model.evaluation import Interval, bootstrap_intervals, compare_queries, significance


def clustered(rng, persons=60, spread=1.0, noise=1.0):
    """Values of 1 to 6 queries of each person that share a person's effect; the true mean is 0 for every query."""
    person_ids = np.repeat(np.arange(persons), rng.integers(1, 7, size=persons))
    return spread * rng.normal(size=persons)[person_ids] + noise * rng.normal(size=len(person_ids)), person_ids


def test_equals_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    values, person_ids = clustered(rng)
    got = bootstrap_intervals({"x": values}, person_ids, samples=4000, seed=1)["x"]
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 60, size=60)
        means.append(np.concatenate([values[person_ids == person] for person in drawn]).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert got.low == pytest.approx(low, abs=0.03) and got.high == pytest.approx(high, abs=0.03)


def test_the_interval_covers_and_one_over_queries_would_not():
    rng = np.random.default_rng(1)
    covered = covered_by_queries = 0
    for _ in range(200):
        values, person_ids = clustered(rng, spread=2.0, noise=0.5)
        over_persons = bootstrap_intervals({"x": values}, person_ids, samples=300)["x"]
        over_queries = bootstrap_intervals({"x": values}, np.arange(len(values)), samples=300)["x"]
        covered += over_persons.low <= 0 <= over_persons.high
        covered_by_queries += over_queries.low <= 0 <= over_queries.high
    assert 0.88 * 200 <= covered <= 0.99 * 200
    assert covered_by_queries < 0.8 * 200


def test_the_interval_is_that_of_the_mean_over_queries():
    """
    One person with a query of 0, one with nine of 100. Half of the drawings hold both persons and their mean is 90,
    not the 50 that both persons have on average; a quarter each hold one person twice and give 0 or 100.
    """
    values, person_ids = np.repeat([0.0, 100.0], [1, 9]), np.repeat([3, 8], [1, 9])

    def interval(confidence):
        return bootstrap_intervals({"x": values}, person_ids, samples=4000, confidence=confidence)["x"]

    assert interval(0.4) == Interval(pytest.approx(90.0), pytest.approx(90.0))
    assert interval(0.6) == interval(0.95) == Interval(0.0, 100.0)


def test_every_part_of_the_resamplings_draws_anew(monkeypatch):
    """A large split is resampled in parts; 300 drawings of 40 persons hardly repeat a mean."""
    monkeypatch.setattr(significance, "_CHUNK", 40 * 7)
    sums, counts = np.random.default_rng(0).normal(size=(40, 1)), np.ones(40, dtype=int)
    means = significance._resampled_means(sums, counts, 300, 0)
    assert means.shape == (300, 1) and len(np.unique(means)) > 290


def test_seed_order_and_constants():
    values, person_ids = clustered(np.random.default_rng(2))
    rows = {"x": values, "flat": np.full(len(values), 7.0)}
    first = bootstrap_intervals(rows, person_ids, samples=200, seed=5)
    assert first == bootstrap_intervals(rows, person_ids, samples=200, seed=5)
    assert first != bootstrap_intervals(rows, person_ids, samples=200, seed=6)
    assert first["flat"].low == first["flat"].high == 7.0
    order = np.random.default_rng(0).permutation(len(values))
    again = bootstrap_intervals({"x": values[order]}, person_ids[order], samples=200, seed=5)["x"]
    assert (again.low, again.high) == pytest.approx((first["x"].low, first["x"].high))


def p_values(effect, runs=200, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        first, person_ids = clustered(rng, persons=40)
        change = rng.normal(size=40)[person_ids] + effect + 0.2 * rng.normal(size=len(person_ids))
        result = compare_queries({"x": first}, {"x": first + change}, person_ids, samples=50, permutations=400)
        found.append(result["x"].p_value)
    return np.array(found)


def test_p_values_are_uniform_without_an_effect():
    p = np.sort(p_values(effect=0.0))
    distance = np.abs(p - (np.arange(200) + 0.5) / 200).max()  # Kolmogorov-Smirnov; 0.115 has probability 1%
    assert distance < 0.115
    assert (p < 0.05).mean() < 0.1


def test_p_values_are_small_with_an_effect():
    assert np.median(p_values(effect=1.0, runs=20)) < 0.005


def test_the_difference_is_that_of_the_means():
    first, person_ids = clustered(np.random.default_rng(3))
    second = first + 0.5
    second[0] -= 5
    result = compare_queries({"x": first}, {"x": second}, person_ids, permutations=500)["x"]
    assert result.value == pytest.approx(second.mean() - first.mean())
    assert result.interval.low <= result.value <= result.interval.high
    assert (result.better, result.worse) == (len(first) - 1, 1)


def test_a_model_does_not_differ_from_itself():
    values, person_ids = clustered(np.random.default_rng(4))
    result = compare_queries({"x": values}, {"x": values}, person_ids, permutations=100)["x"]
    assert (result.value, result.p_value, result.better, result.worse) == (0.0, 1.0, 0, 0)


def test_few_persons_cannot_be_significant():
    """All queries of three persons improve: two of the eight sign patterns are as extreme, so p is about 1/4."""
    person_ids = np.repeat([0, 1, 2], 100)
    zeros = np.zeros(300)
    result = compare_queries({"x": zeros}, {"x": zeros + 1}, person_ids, samples=50, permutations=4000)["x"]
    assert result.p_value == pytest.approx(0.25, abs=0.03)


def test_p_is_never_zero():
    """Sixty persons improve: no drawing of signs comes as far, but the observed signs count as one."""
    zeros = np.zeros(60)
    result = compare_queries({"x": zeros}, {"x": zeros + 1}, np.arange(60), samples=50, permutations=400)["x"]
    assert result.p_value == pytest.approx(1 / 401)


@pytest.mark.parametrize("chunk", [2**22, 80, 12])
def test_p_counts_signs_of_both_sides_and_ties_despite_rounding(monkeypatch, chunk):
    """
    Of the 16 signs of 1, 2, 3 and 3, twelve sum up to at least 3 on either side. As binary fractions of tenths some of
    the sums of 3 fall short of it.
    """
    monkeypatch.setattr(significance, "_CHUNK", chunk)
    change = np.array([0.1, 0.2, 0.3, -0.3])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    wanted = np.mean(abs([1, 2, 3, 3] @ signs) >= 3)
    assert wanted == 0.75
    for sign in (1, -1):
        second = {"x": sign * change}
        result = compare_queries({"x": np.zeros(4)}, second, np.arange(4), samples=50, permutations=3000)["x"]
        assert result.p_value == pytest.approx(wanted, abs=0.03)


def test_the_comparisons_interval_is_of_the_asked_confidence():
    """As for one model above: half of the drawings give 90, a quarter each 0 and 100."""
    zeros, person_ids = np.zeros(10), np.repeat([3, 8], [1, 9])
    second = np.repeat([0.0, 100.0], [1, 9])
    for confidence, wanted in ((0.4, (90.0, 90.0)), (0.6, (0.0, 100.0))):
        found = compare_queries({"x": zeros}, {"x": second}, person_ids, 4000, 50, confidence)["x"].interval
        assert (found.low, found.high) == pytest.approx(wanted)


def test_queries_that_stay_as_they_are_neither_better_nor_worse():
    first = np.array([0.0, 0.0, 0.0, 50.0, 50.0, 50.0, 100.0])
    second = np.array([0.0, 10.0, 20.0, 40.0, 50.0, 60.0, 100.0])
    result = compare_queries({"x": first}, {"x": second}, np.array([1, 1, 1, 2, 2, 3, 3]), 50, 50)["x"]
    assert (result.better, result.worse, result.value) == (3, 1, pytest.approx(30 / 7))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="mAP: expected 3 finite values"):
        bootstrap_intervals({"mAP": np.array([1.0, np.nan, 0.0])}, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="mAP: expected 3 finite values"):
        bootstrap_intervals({"mAP": np.zeros(2)}, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="1 persons"):
        bootstrap_intervals({"mAP": np.zeros(2)}, np.array([4, 4]))
    with pytest.raises(ValueError, match="different metrics: a and b"):
        compare_queries({"a": np.zeros(2)}, {"b": np.zeros(2)}, np.array([0, 1]))
