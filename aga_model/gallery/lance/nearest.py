"""
The nearest rows of a LanceDB table by its approximate index.

The index ranks rows by an estimate of their score. How far it errs depends on the dimensions, the data and the query,
so the candidates are scored exactly from the best estimate on, until the errors of the last ones say that the rest
holds no better row. A fixed number of candidates would be too few for one gallery and too many for the next.

A filter is evaluated within the index, and then every partition is searched: the rows that pass may lie anywhere, also
far from where the query would be sought. Comparing the codes of all rows that pass takes less time than the filter.
"""

from typing import Any

import numpy as np

from ..exact import SCORE_MARGIN, exact_scores

_SURE = 100  # up to so many results the candidates are the same: a shorter list is the beginning of a longer one
_CANDIDATES = 20  # times as many are estimated as results are wanted
_FIRST_STEP = 250  # candidates that are scored before the errors are looked at
_ERRORS = 3.0  # standard deviations of the estimates' errors; 3 finds 99% of the exact 100 best, and more of the 10
_PROBES = 32  # partitions of about 8,000 rows that are searched at least, and all with a filter
_ALL = 1_000_000


def most_candidates(top_k: int) -> int:
    """How many rows `nearest` may look at."""
    return _CANDIDATES * max(top_k, _SURE)


def nearest(table: Any, query: np.ndarray, top_k: int, condition: str | None) -> dict[int, float]:
    """
    Row numbers and exact scores of the rows that fulfil a condition and are most similar to a float32 query (dim,):
    `top_k` of them, and those that may score the same as the last. Where not as many fulfil it, all that do.

    Args:
        table: of LanceDB, of one version, which others do not change meanwhile.
    """
    numbers, estimates = _estimated(table, query, most_candidates(top_k), condition)
    embeddings = np.empty((len(numbers), len(query)), np.float32)
    rough = np.empty(len(numbers), np.float32)
    start, end = 0, min(len(numbers), max(_FIRST_STEP, max(top_k, _SURE)))
    while start < end:
        embeddings[start:end] = _embeddings(table, numbers[start:end])
        rough[start:end] = embeddings[start:end] @ query
        if not _may_improve(rough[:end], estimates, start, max(top_k, _SURE)):
            break
        start, end = end, min(len(numbers), end + max(_FIRST_STEP, end // 2))
    rough = rough[:end]
    if len(rough) > top_k:
        chosen = np.flatnonzero(rough >= np.partition(rough, -top_k)[-top_k] - SCORE_MARGIN)
    else:
        chosen = np.arange(len(rough))
    scores = exact_scores(embeddings[chosen], query)
    return dict(zip(numbers[chosen].tolist(), scores.tolist()))


def _estimated(table: Any, query: np.ndarray, limit: int, condition: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows with the best estimates, and these, falling."""
    search = table.search(query, vector_column_name="embedding").distance_type("dot").limit(limit)
    # 0: beyond as many partitions as are searched at least, LanceDB goes on until it has found enough.
    search = search.minimum_nprobes(_PROBES if condition is None else _ALL).maximum_nprobes(0)
    if condition is not None:
        search = search.where(condition, prefilter=True)
    found = search.select(["_distance"]).with_row_id(True).to_arrow()
    return found["_rowid"].to_numpy(), 1 - found["_distance"].to_numpy()


def _may_improve(rough: np.ndarray, estimates: np.ndarray, start: int, sure: int) -> bool:
    """Whether rows behind those of `rough` may be among the `sure` best; from `start` on they are new."""
    if len(rough) == len(estimates):
        return False
    errors = rough[start:] - estimates[start : len(rough)]
    bound = np.partition(rough, -sure)[-sure]
    return bool(estimates[len(rough)] + errors.mean() + _ERRORS * errors.std() >= bound)


def _embeddings(table: Any, numbers: np.ndarray) -> np.ndarray:
    """Those of the rows with these numbers, float32 (n, dim), in their order."""
    found = table.take_row_ids(numbers.tolist()).select(["embedding"]).with_row_id().to_arrow()
    embeddings = found["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    order = np.argsort(found["_rowid"].to_numpy())
    return embeddings.reshape(len(numbers), -1)[order[np.searchsorted(found["_rowid"].to_numpy()[order], numbers)]]
