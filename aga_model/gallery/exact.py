"""The order of results, which is that of exact scores, and the recall of an approximate index."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .rows import Filter, GalleryRow
from .store import FilteredRecall, GalleryStore

EXACT_ROWS = 50_000  # up to here a gallery has no approximate index: a search compares with every row
RECALL_AT = 10
_RECALL_QUERIES = 64
_RECALL_TIMES = (0.5, 0.9, 0.98)  # from which on a filter leaves rows, of the times of the queried ones
_GATHERED = 0.25  # of fewer rows than this share a copy is made; of more, all scores are computed
SCORE_MARGIN = 1e-5  # more than float32 rounding moves a cosine


class BestRows:
    """
    The best rows of a stream of rows, for several queries at a time: by falling exact score, equal ones by id.

    Args:
        queries: float32 (n, dim), unit rows.
        top_k: rows that are kept for each query.
    """

    def __init__(self, queries: np.ndarray, top_k: int):
        self._queries = np.array(queries)  # torch wants one that can be written
        self._top_k = top_k
        self._best: list[list[tuple[float, str]]] = [[] for _ in queries]

    def update(self, ids: Sequence[Any], embeddings: np.ndarray, allowed: np.ndarray | None = None) -> None:
        """
        Go on with rows.

        Args:
            ids: as `str` gives them.
            embeddings: float32 (n, dim).
            allowed: which of them count, bool (n,); all without.
        """
        places = None
        if allowed is not None and allowed.mean() < _GATHERED:
            places = np.flatnonzero(allowed)
            embeddings, allowed = embeddings[places], None
        rough = _products(embeddings, self._queries)
        for number, query in enumerate(self._queries):
            candidates = self._candidates(rough[:, number], self._best[number], allowed)
            if len(candidates):
                scores = exact_scores(embeddings[candidates], query)
                rows = candidates if places is None else places[candidates]
                found = [(-score, str(ids[index])) for score, index in zip(scores.tolist(), rows.tolist())]
                self._best[number] = sorted([*self._best[number], *found])[: self._top_k]

    def _candidates(self, rough: np.ndarray, best: list[tuple[float, str]], allowed: np.ndarray | None) -> np.ndarray:
        """Indices of rows that may be among the best; a matrix product rounds by position."""
        if allowed is not None:
            rough = np.where(allowed, rough, -np.inf)
        bound = float(np.finfo(np.float32).min)
        if len(best) == self._top_k:
            bound = -best[-1][0] - SCORE_MARGIN
        if len(rough) > self._top_k:
            place = len(rough) - self._top_k
            bound = max(bound, float(np.partition(rough, place)[place]) - SCORE_MARGIN)
        return np.flatnonzero(rough >= bound)

    @staticmethod
    def tied(first: float, second: float) -> bool:
        """Whether two scores are so close that rounding may exchange their rows in another's order."""
        return abs(first - second) <= SCORE_MARGIN

    def found(self) -> list[list[tuple[str, float]]]:
        """For each query the ids and scores of its best rows."""
        return [[(row_id, -negative) for negative, row_id in best] for best in self._best]


def _products(embeddings: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """
    All dot products, float32 (n, queries). Where torch is there and the rows are in memory that can be written, by
    torch: numpy's threads go on spinning on the cores that torch's want for the next sentence.
    """
    torch: Any = sys.modules.get("torch")  # not imported for this: a search by onnxruntime needs none of it
    if torch is not None and embeddings.flags.writeable:
        return (torch.from_numpy(embeddings) @ torch.from_numpy(queries).T).numpy()
    return embeddings @ queries.T


def exact_scores(embeddings: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products with a query in float64, in the same order of additions for every row: equal rows score equally."""
    return (embeddings * query.astype(np.float64)).sum(axis=1)


def measure_recall(store: GalleryStore) -> tuple[float, int, tuple[FilteredRecall, ...]]:
    """
    The share of the exact best rows that a search finds, the number of queries, which are embeddings from all over
    the gallery, and the share with filters that leave about a half, a tenth and a fiftieth of the rows, and with those
    by the most and the least frequent camera.
    """
    queries = _spread_queries(store)
    if not len(queries):
        return 1.0, 0, ()
    recall = _recall(store, queries, None)
    filters = _filters(found[0].row for found in store.search(queries, 1) if found)
    total = store.count()
    filtered = [
        FilteredRecall(store.count(where) / total, measured)
        for where in filters
        if (measured := _recall(store, queries, where)) is not None
    ]
    return recall or 0.0, len(queries), tuple(sorted(filtered, key=lambda each: -each.share))


def _spread_queries(store: GalleryStore) -> np.ndarray:
    step = max(1, store.count() // _RECALL_QUERIES)
    picked, start = [np.empty((0, store.manifest.dim), np.float32)], 0
    for _, embeddings in store.embeddings():
        picked.append(embeddings[-start % step :: step])
        start += len(embeddings)
    return np.concatenate(picked)[:_RECALL_QUERIES]


def _filters(rows: Iterable[GalleryRow]) -> list[Filter]:
    """Filters by what a sample of the rows has."""
    sample = list(rows)
    times = sorted(row.time for row in sample if row.time is not None)
    cameras = Counter(row.camera for row in sample if row.camera is not None).most_common()
    since = {times[int(len(times) * place)] for place in _RECALL_TIMES} if times else set()
    named = {cameras[place][0] for place in (0, -1)} if len(cameras) > 1 else set()
    return [Filter(since=time) for time in sorted(since)] + [Filter(cameras=[camera]) for camera in sorted(named)]


def _recall(store: GalleryStore, queries: np.ndarray, where: Filter | None) -> float | None:
    """None where no row fulfils the filter."""
    best = BestRows(queries, RECALL_AT)
    for ids, embeddings in store.embeddings(where):
        best.update(ids, embeddings)
    hits = wanted = 0
    for exact, found in zip(best.found(), store.search(queries, RECALL_AT, where)):
        hits += len({row_id for row_id, _ in exact} & {scored.row.id for scored in found})
        wanted += len(exact)
    return hits / wanted if wanted else None
