"""
How sure a metric is, and whether two models differ: bootstrap and permutation over identities.

Captions and images of one person are alike: a model that misses one caption of a person often misses the others. So
the persons are the independent units, and queries are drawn and exchanged by person, never one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95  # of an interval
SAMPLES = 1000
PERMUTATIONS = 10_000  # of the signs of differences, for a p-value
_CHUNK = 2**22  # random numbers drawn at a time


@dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval, in the unit of the values."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """
    Second model minus first.

    Args:
        value: mean difference over queries, in the unit of the values.
        interval: bootstrap interval of it.
        p_value: two-sided, of the hypothesis that the models are exchangeable person by person.
        better, worse: queries whose value rose and fell.
    """

    value: float
    interval: Interval
    p_value: float
    better: int
    worse: int


def _by_person(values: Mapping[str, np.ndarray], person_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (persons, metrics) of the values of each person's queries, and number of queries (persons,)."""
    person_ids = np.asarray(person_ids)
    for name, row in values.items():
        if np.shape(row) != person_ids.shape or not np.isfinite(row).all():
            raise ValueError(f"{name}: expected {len(person_ids)} finite values, one per query, got {np.shape(row)}")
    persons, codes, counts = np.unique(person_ids, return_inverse=True, return_counts=True)
    if len(persons) < 2:
        raise ValueError(f"the queries show {len(persons)} persons; an interval over persons needs two at least")
    sums = [np.bincount(codes, weights=row, minlength=len(persons)) for row in values.values()]
    return np.stack(sums, axis=1), counts


def _resampled_means(sums: np.ndarray, counts: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over queries (samples, metrics) with persons drawn with replacement, each with all its queries."""
    generator = np.random.default_rng(seed)
    persons = len(counts)
    found = []
    step = max(1, _CHUNK // persons)
    for start in range(0, samples, step):
        number = min(step, samples - start)
        drawn = generator.integers(0, persons, size=(number, persons)) + persons * np.arange(number)[:, None]
        times = np.bincount(drawn.ravel(), minlength=number * persons).reshape(number, persons).astype(np.float64)
        found.append((times @ sums) / (times @ counts)[:, None])
    return np.concatenate(found)


def _intervals(means: np.ndarray, names: list[str], confidence: float) -> dict[str, Interval]:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return {name: Interval(float(low[i]), float(high[i])) for i, name in enumerate(names)}


def bootstrap_intervals(
    values: Mapping[str, np.ndarray],
    person_ids: np.ndarray,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """
    Percentile bootstrap intervals of means over queries (Efron and Tibshirani, 1993), drawn over persons.

    The persons of the queries are drawn with replacement, each with all its queries; the gallery stays as it is. The
    interval says how much the metric would vary with other persons to search for, not with another training run.

    ```python
    >>> bootstrap_intervals(query_values(ranking), query_person_ids)["rank1"]
    Interval(low=58.3, high=63.9)
    ```

    Args:
        values: name -> (queries,), such as [`query_values`].
        person_ids: (queries,).
        samples: number of resamplings.
        confidence: share of resamplings inside the interval.
        seed: of the resampling; all metrics see the same resamplings.

    Raises:
        ValueError: lengths do not agree, a value is not finite, or there is one person only.
    """
    means = _resampled_means(*_by_person(values, person_ids), samples, seed)
    return _intervals(means, list(values), confidence)


def compare_queries(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    person_ids: np.ndarray,
    samples: int = SAMPLES,
    permutations: int = PERMUTATIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Difference]:
    """
    Compare two models on the same queries.

    The interval is the bootstrap of [`bootstrap_intervals`] on the differences. The p-value is a paired sign-flip
    test: if the models were exchangeable, a person's difference, summed over that person's queries, would be as likely
    with the other sign. p = (1 + number of flipped sums at least as far from zero) / (1 + `permutations`). One p-value
    is given for each metric, without correction for their number.

    Args:
        first, second: name -> (queries,) values of each model, the same names and queries.
        person_ids: (queries,).
        samples: resamplings of the interval.
        permutations: random sign flips of the test.
        confidence: of the interval.
        seed: of both.

    Raises:
        ValueError: names or lengths differ, a value is not finite, or there is one person only.
    """
    if list(first) != list(second):
        raise ValueError(f"the models have different metrics: {', '.join(first)} and {', '.join(second)}")
    differences = {name: np.asarray(second[name]) - np.asarray(first[name]) for name in first}
    sums, counts = _by_person(differences, person_ids)
    intervals = _intervals(_resampled_means(sums, counts, samples, seed), list(first), confidence)
    p_values = _sign_flip_p_values(sums, permutations, seed)
    return {
        name: Difference(
            float(row.mean()), intervals[name], float(p_values[i]), int((row > 0).sum()), int((row < 0).sum())
        )
        for i, (name, row) in enumerate(differences.items())
    }


def _sign_flip_p_values(sums: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """Two-sided p-values (metrics,) of sums (persons, metrics) under random signs of the persons."""
    generator = np.random.default_rng(seed)
    # Sums that are equal but for rounding count as equally far from zero.
    limit = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    reached = np.zeros(sums.shape[1], dtype=np.int64)
    step = max(1, _CHUNK // len(sums))
    for start in range(0, permutations, step):
        number = min(step, permutations - start)
        signs = 2.0 * generator.integers(0, 2, size=(number, len(sums)), dtype=np.int8) - 1.0
        reached += (np.abs(signs @ sums) >= limit).sum(axis=0)
    return (1 + reached) / (1 + permutations)
