"""
Exact ranks of the relevant images of every query, block by block, without sorting the gallery.

A rank needs no sorted gallery: it is one more than the number of images that come before. So the scores of the few
relevant images are computed first, and then one pass over blocks of scores counts how many reach each of them.

The score of a query and an image is the dot product of their unit vectors, whose entries are rounded to multiples of
2^-24, itself rounded to float32. Products of such entries are multiples of 2^-48 and no partial sum exceeds 1 by more
than rounding, so float64 holds every intermediate value exactly. The score therefore does not depend on the order of
summation, the size of the block, the place in the gallery or the device, and equal rows tie. Rounding the entries
moves a cosine by 1e-7 at most in practice, which is what the rounding inside a float32 matrix product does to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

MEMORY_MIB = 128.0
_GRID = 2.0**24
_NORMALISE_ROWS = 8192
_BYTES_PER_PAIR = 28  # the exact score, its rounding, and a sorted copy with its order
_SORT_ABOVE = 64  # relevant images of a query from which one sort is cheaper than that many comparisons
_CACHE_PAIRS = 2**18  # pairs compared at a time on a CPU, so that they stay in its cache
_MULTIPLE = 64  # a matrix product is fastest with whole tiles
_MAX_WIDTH = 2**20  # counts within a block are kept in float32


def as_array(values) -> np.ndarray:
    """Tensor, array or sequence as a numpy array on the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


class NotFiniteError(ValueError):
    """Embeddings hold NaN or infinity."""


@dataclass(frozen=True)
class Ranking:
    """
    Where the relevant images of each query are, and the best images of each query.

    Ranks are pessimistic: among equal scores the irrelevant images come first. A model that gives every image the same
    score therefore finds nothing, and no rank depends on the order of the gallery.

    Args:
        ranks: (relevant pairs,) int64, of 1..gallery; query by query, increasing within a query.
        offsets: (queries + 1,) int64; the ranks of query i are `ranks[offsets[i]:offsets[i + 1]]`, at least one.
        top_indices: (queries, k) int64, gallery rows from the best on; equal scores by irrelevance, then by row.
        top_scores: (queries, k) float64.
    """

    ranks: np.ndarray
    offsets: np.ndarray
    top_indices: np.ndarray
    top_scores: np.ndarray

    @property
    def number_relevant(self) -> np.ndarray:
        """(queries,) int64, relevant images of each query."""
        return np.diff(self.offsets)

    @property
    def first_rank(self) -> np.ndarray:
        """(queries,) int64, rank of the best relevant image."""
        return self.ranks[self.offsets[:-1]]

    @property
    def last_rank(self) -> np.ndarray:
        """(queries,) int64, rank of the worst relevant image."""
        return self.ranks[self.offsets[1:] - 1]

    @property
    def average_precision(self) -> np.ndarray:
        """(queries,) float64 in 0..1, mean precision at the ranks of the relevant images."""
        number = self.number_relevant
        place = np.arange(len(self.ranks)) - np.repeat(self.offsets[:-1], number) + 1
        return np.add.reduceat(place / self.ranks, self.offsets[:-1]) / number

    @property
    def inverse_negative_penalty(self) -> np.ndarray:
        """(queries,) float64 in 0..1, number of relevant images over the rank of the last one (Ye et al., 2021)."""
        return self.number_relevant / self.last_rank

    def best(self, k: int) -> "Ranking":
        """The same ranking with no more than the k best images of each query."""
        return replace(self, top_indices=self.top_indices[:, :k], top_scores=self.top_scores[:, :k])


class _Scores(Protocol):
    """Scores of all pairs, computed where they are needed."""

    shape: tuple[int, int]
    dim: int
    device: torch.device

    def pairs(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Scores (n,) of pairs of rows."""
        ...

    def blocks(self, order: Tensor, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
        """
        All blocks with the queries in the given order: position of the first query in it, first gallery row, scores of
        at most (height, width), which hold until the next block.
        """
        ...


class _EmbeddingScores:
    def __init__(self, query: Tensor, gallery: Tensor):
        self.query, self.gallery = query, gallery
        self.shape = len(query), len(gallery)
        self.dim = query.shape[1]
        self.device = query.device

    def pairs(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return torch.linalg.vecdot(self.query[queries].double(), self.gallery[gallery].double()).float()

    def blocks(self, order: Tensor, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
        exact = torch.empty(height * width, dtype=torch.float64, device=self.device)
        rounded = torch.empty(height * width, dtype=torch.float32, device=self.device)
        for column in range(0, self.shape[1], width):
            columns = self.gallery[column : column + width].double().t()
            for row in range(0, self.shape[0], height):
                rows = self.query[order[row : row + height]].double()
                shape = len(rows), columns.shape[1]
                product = exact[: shape[0] * shape[1]].view(shape)
                torch.mm(rows, columns, out=product)
                yield row, column, rounded[: product.numel()].view(shape).copy_(product)


class _MatrixScores:
    dim = 1

    def __init__(self, similarity: Tensor):
        self.similarity = similarity
        self.dtype = (
            torch.float32 if similarity.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float64
        )
        self.shape = similarity.shape[0], similarity.shape[1]
        self.device = similarity.device

    def pairs(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return self.similarity[queries, gallery].to(self.dtype)

    def blocks(self, order: Tensor, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
        for column in range(0, self.shape[1], width):
            columns = self.similarity[:, column : column + width]
            for row in range(0, self.shape[0], height):
                yield row, column, columns[order[row : row + height]].to(self.dtype)


def unit_rows(embeds: Tensor, name: str = "embeddings") -> Tensor:
    """
    Rows of unit length with entries rounded to multiples of 2^-24, which float32 holds exactly; zero rows stay zero.

    Args:
        embeds: (n, dim) of any float type.
        name: for the error.

    Returns:
        float32 (n, dim).

    Raises:
        ValueError: not a non-empty matrix.
        NotFiniteError: an entry is not finite (names rows).
    """
    if embeds.ndim != 2 or embeds.numel() == 0:
        raise ValueError(f"{name} are {tuple(embeds.shape)}, expected (rows, dim), not empty")
    parts = []
    for start in range(0, len(embeds), _NORMALISE_ROWS):
        part = embeds[start : start + _NORMALISE_ROWS].double()
        bad = (~part.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise NotFiniteError(f"{name}: {len(bad)} rows are not finite, first: {start + bad[0]}")
        unit = torch.nn.functional.normalize(part, dim=1)
        parts.append(unit.mul_(_GRID).round_().div_(_GRID).float())
    return torch.cat(parts)


def block_shape(queries: int, gallery: int, dim: int, memory_mib: float) -> tuple[int, int]:
    """Queries and gallery rows of one block, so that what is computed with it stays within `memory_mib` MiB."""
    memory = memory_mib * 2**20
    # A quarter for the gallery's columns in float64.
    width = int(min(gallery, _MAX_WIDTH, max(1, memory / 4 // (8 * dim))))
    height = int(max(1, memory / 2 // (_BYTES_PER_PAIR * width + 8 * dim)))
    if height > _MULTIPLE:
        height -= height % _MULTIPLE
    return min(queries, height), width


def rank_gallery(
    query_embeds,
    gallery_embeds,
    query_person_ids,
    gallery_person_ids,
    top_k: int = 0,
    memory_mib: float = MEMORY_MIB,
    device: torch.device | str | None = None,
) -> Ranking:
    """
    Rank a gallery for every query by cosine similarity.

    Besides the embeddings, the result and 40 bytes for each relevant pair, memory stays within `memory_mib`.

    ```python
    >>> ranking = rank_gallery(text_embeds, image_embeds, caption_person_ids, image_person_ids, top_k=10)
    >>> ranking_metrics(ranking)["rank1"], ranking.top_indices[0]
    ```

    Args:
        query_embeds: (queries, dim) tensor or array, of any length.
        gallery_embeds: (gallery, dim).
        query_person_ids: (queries,). An image is relevant when it shows the query's person.
        gallery_person_ids: (gallery,).
        top_k: best images to keep of each query; no more than the gallery holds.
        memory_mib: MiB for scores and what is computed with them.
        device: where to compute, in float64; that of `query_embeds` by default, the CPU for devices without float64.

    Raises:
        ValueError: shapes do not agree, an embedding is not finite, or a query has no relevant image (names them).
    """
    query, gallery = (
        values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
        for values in (query_embeds, gallery_embeds)
    )
    place = torch.device(device) if device is not None else query.device
    if place.type == "mps":
        place = torch.device("cpu")
    query = unit_rows(query.detach().to(place), "query embeddings")
    gallery = unit_rows(gallery.detach().to(place), "gallery embeddings")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query embeddings have {query.shape[1]} dimensions, gallery embeddings {gallery.shape[1]}")
    return _rank(_EmbeddingScores(query, gallery), query_person_ids, gallery_person_ids, top_k, memory_mib)


def rank_matrix(
    similarity, query_person_ids, gallery_person_ids, top_k: int = 0, memory_mib: float = MEMORY_MIB
) -> Ranking:
    """
    As [`rank_gallery`] from a ready matrix.

    Args:
        similarity: (queries, gallery), tensor or array; larger is more similar. Compared as float64.

    Raises:
        ValueError: shapes do not agree, a similarity is not finite, or a query has no relevant image (names them).
    """
    scores = (
        similarity.detach() if isinstance(similarity, Tensor) else torch.from_numpy(np.ascontiguousarray(similarity))
    )
    expected = (len(query_person_ids), len(gallery_person_ids))
    if tuple(scores.shape) != expected or scores.numel() == 0:
        raise ValueError(f"similarity is {tuple(scores.shape)}, expected {expected}, not empty")
    bad = int((~scores.isfinite()).sum())
    if bad:
        raise ValueError(f"similarity holds {bad} values that are not finite")
    return _rank(_MatrixScores(scores), query_person_ids, gallery_person_ids, top_k, memory_mib)


def rerank(ranking: Ranking, scores, query_person_ids, gallery_person_ids) -> Ranking:
    """
    Put the best images of each query, `ranking.top_indices`, into the order of other scores.

    All other images keep their place behind them, whatever the scores. So only the ranks of relevant images among the
    best change, and no other score is needed.

    ```python
    >>> ranking = rank_gallery(text_embeds, image_embeds, caption_person_ids, image_person_ids, top_k=128)
    >>> log_odds = reranker.score(captions, load_pixels, ranking.top_indices)
    >>> ranking_metrics(rerank(ranking, log_odds, caption_person_ids, image_person_ids))
    ```

    Args:
        ranking: with `top_k` images of each query.
        scores: (queries, top_k), the new score of each of `ranking.top_indices`; larger is better. Compared as
            float64.
        query_person_ids: (queries,).
        gallery_person_ids: (gallery,).

    Returns:
        a ranking with the same images at the top, whose `top_scores` are the new scores.

    Raises:
        ValueError: shapes do not agree, a score is not finite, the ranking keeps no images, or it is of other persons.
    """
    wide, top = as_array(scores).astype(np.float64), ranking.top_indices
    if wide.shape != top.shape or wide.size == 0:
        raise ValueError(f"scores are {wide.shape}, expected one for each of the best images {top.shape}, not empty")
    bad = int((~np.isfinite(wide)).sum())
    if bad:
        raise ValueError(f"scores hold {bad} values that are not finite")
    query, gallery = as_array(query_person_ids), as_array(gallery_person_ids)
    if len(query) != len(top) or len(gallery) <= top.max():
        raise ValueError(
            f"{len(query)} query and {len(gallery)} gallery person ids for a ranking of {len(top)} queries and image "
            f"{top.max()}"
        )
    relevant = gallery[top] == query[:, None]
    order = np.lexsort((top, relevant, -wide), axis=1)
    moved_query, place = np.nonzero(np.take_along_axis(relevant, order, axis=1))
    # Relevant images among the best are the first of their query's ranks, which increase.
    among_best = ranking.ranks <= top.shape[1]
    ranked_query = np.repeat(np.arange(len(top)), ranking.number_relevant)
    if not np.array_equal(ranked_query[among_best], moved_query):
        raise ValueError("the person ids are not those that the ranking was made with")
    ranks = ranking.ranks.copy()
    ranks[among_best] = place + 1
    return Ranking(
        ranks,
        ranking.offsets,
        np.take_along_axis(top, order, axis=1),
        np.take_along_axis(wide, order, axis=1),
    )


@dataclass(frozen=True)
class _Relevance:
    """
    Relevant pairs, query by query.

    Args:
        offsets: (queries + 1,) int64 into `gallery`.
        gallery: (pairs,) int64, gallery rows.
        query_codes, gallery_codes: (queries,), (gallery,) int64, a number for each person.
    """

    offsets: np.ndarray
    gallery: np.ndarray
    query_codes: np.ndarray
    gallery_codes: np.ndarray

    @classmethod
    def of(cls, query_person_ids, gallery_person_ids, shape: tuple[int, int]) -> "_Relevance":
        query, gallery = as_array(query_person_ids), as_array(gallery_person_ids)
        if (len(query), len(gallery)) != shape:
            raise ValueError(
                f"{len(query)} query and {len(gallery)} gallery person ids for {shape[0]} queries and a gallery of "
                f"{shape[1]}"
            )
        persons, codes = np.unique(np.concatenate([query, gallery]), return_inverse=True)
        query_codes, gallery_codes = codes[: len(query)], codes[len(query) :]
        in_gallery = np.bincount(gallery_codes, minlength=len(persons))
        number = in_gallery[query_codes]
        without = np.flatnonzero(number == 0)
        if len(without):
            named = ", ".join(f"{index} (person {query[index]})" for index in without[:5])
            raise ValueError(f"{len(without)} queries have no relevant image in the gallery, first: {named}")
        by_person = np.argsort(gallery_codes, kind="stable")
        start = np.cumsum(in_gallery) - in_gallery
        offsets = np.concatenate([[0], np.cumsum(number)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], number)
        return cls(offsets, by_person[np.repeat(start[query_codes], number) + within], query_codes, gallery_codes)

    @property
    def query(self) -> np.ndarray:
        """(pairs,) int64, the query of each pair."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def _rank(scores: _Scores, query_person_ids, gallery_person_ids, top_k: int, memory_mib: float) -> Ranking:
    relevance = _Relevance.of(query_person_ids, gallery_person_ids, scores.shape)
    # Queries with equally many relevant images side by side, so that a block makes as many comparisons for each.
    order = np.argsort(-np.diff(relevance.offsets), kind="stable")
    thresholds = _relevant_scores(scores, relevance, memory_mib)
    before = _Counter(thresholds, relevance.offsets, order, scores.device)
    best = _Best(relevance, order, min(top_k, scores.shape[1]), scores.device)
    on_device = torch.from_numpy(order).to(scores.device)
    for row, column, block in scores.blocks(on_device, *block_shape(*scores.shape, scores.dim, memory_mib)):
        before.add(row, block)
        best.add(row, column, block)
    offsets = relevance.offsets
    place = np.arange(len(thresholds)) - np.repeat(offsets[:-1], np.diff(offsets)) + 1
    ranks = before.counts - _relevant_at_least(thresholds, relevance.query, offsets) + place
    return Ranking(ranks, offsets, best.indices, best.scores)


def _relevant_scores(scores: _Scores, relevance: _Relevance, memory_mib: float) -> np.ndarray:
    """(pairs,) scores, falling within each query."""
    queries, found = relevance.query, []
    piece = max(1, int(memory_mib * 2**20 // (32 * scores.dim)))
    for start in range(0, len(queries), piece):
        rows = (torch.from_numpy(part[start : start + piece]) for part in (queries, relevance.gallery))
        found.append(scores.pairs(*(part.to(scores.device) for part in rows)).cpu().numpy())
    values = np.concatenate(found)
    return values[np.lexsort((-values, queries))]


def _relevant_at_least(thresholds: np.ndarray, queries: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(pairs,) int64: how many relevant scores of the same query are at least this one; `thresholds` fall."""
    last = np.ones(len(thresholds), dtype=bool)  # the last pair of its query with its score
    last[:-1] = (queries[1:] != queries[:-1]) | (thresholds[1:] != thresholds[:-1])
    ends = np.flatnonzero(last)
    return ends[np.searchsorted(ends, np.arange(len(thresholds)))] + 1 - offsets[queries]


class _Counter:
    """Counts, for each relevant pair, the scores of the whole gallery that are at least the pair's own."""

    def __init__(self, thresholds: np.ndarray, offsets: np.ndarray, order: np.ndarray, device: torch.device):
        self.thresholds = thresholds
        self.start, self.number = offsets[order], np.diff(offsets)[order]
        self.device = device
        self.counts = np.zeros(len(thresholds), dtype=np.int64)

    def add(self, row: int, block: Tensor) -> None:
        """Count a block (queries, gallery rows) of scores, whose first query is the one at `row` in the order."""
        start, number = self.start[row : row + len(block)], self.number[row : row + len(block)]
        places = np.arange(number[0])
        held = places < number[:, None]
        pair = np.where(held, start[:, None] + places, 0)
        thresholds = torch.from_numpy(self.thresholds[pair]).to(self.device)
        self.counts[pair[held]] += count_at_least(block, thresholds, number)[held]


def count_at_least(scores: Tensor, thresholds: Tensor, number: np.ndarray) -> np.ndarray:
    """
    How many scores of a row are at least each threshold of the row.

    Args:
        scores: (rows, columns), at most 2^20 columns.
        thresholds: (rows, most), of the type of `scores`.
        number: (rows,), falling; how many thresholds of each row are wanted.

    Returns:
        (rows, most) int64, undefined beyond each row's number.
    """
    rows, columns = scores.shape
    if number[0] > _SORT_ABOVE:
        return columns - torch.searchsorted(scores.sort(dim=1).values, thresholds).cpu().numpy()
    counts = scores.new_zeros(int(number[0]), rows)
    height = max(1, _CACHE_PAIRS // columns) if scores.device.type == "cpu" else rows
    # Comparing into the scores' own type is several times faster than into booleans.
    reached = scores.new_empty(min(height, rows), columns)
    for top in range(0, rows, height):
        for place in range(number[top]):
            stop = top + int((number[top : top + height] > place).sum())
            part = reached[: stop - top]
            torch.ge(scores[top:stop], thresholds[top:stop, place, None], out=part)
            torch.sum(part, dim=1, out=counts[place, top:stop])
    return counts.t().long().cpu().numpy()


class _Best:
    """Keeps the k best gallery rows of each query; equal scores by irrelevance, then by row."""

    def __init__(self, relevance: _Relevance, order: np.ndarray, k: int, device: torch.device):
        self.k = k
        self.order = order
        self.query_codes, self.gallery_codes = relevance.query_codes, relevance.gallery_codes
        self.device = device
        self.indices = np.full((len(order), k), -1, dtype=np.int64)
        self.scores = np.full((len(order), k), -np.inf)

    def add(self, row: int, column: int, block: Tensor) -> None:
        """Merge a block of scores: of the queries from `row` in the order and the gallery rows from `column`."""
        if self.k == 0:
            return
        queries = self.order[row : row + len(block)]
        values, found = self._of_block(queries, column, block)
        scores = np.concatenate([self.scores[queries], values.double().cpu().numpy()], axis=1)
        indices = np.concatenate([self.indices[queries], found.cpu().numpy() + column], axis=1)
        relevant = self.gallery_codes[indices] == self.query_codes[queries, None]
        best = np.lexsort((indices, relevant, -scores), axis=1)[:, : self.k]
        self.scores[queries] = np.take_along_axis(scores, best, axis=1)
        self.indices[queries] = np.take_along_axis(indices, best, axis=1)

    def _of_block(self, queries: np.ndarray, column: int, block: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and columns of the k best of each row, in no order; right also where equal scores are cut."""
        width = block.shape[1]
        k = min(self.k, width)
        values, found = block.topk(min(k + 1, width), dim=1)
        cut = (values[:, k - 1] == values[:, -1]).nonzero().flatten() if width > k else values.new_zeros(0).long()
        values, found = values[:, :k], found[:, :k]
        if len(cut):
            # topk keeps any of the equal scores: fill the places below the higher ones in the stated order instead.
            worst = values[cut, k - 1 :]
            persons = self.query_codes[queries[cut.cpu().numpy()], None]
            relevant = torch.from_numpy(persons == self.gallery_codes[None, column : column + width]).to(self.device)
            order = relevant * width + torch.arange(width, device=self.device)
            order = order.masked_fill(block[cut] != worst, 2 * width)
            equal = order.topk(k, dim=1, largest=False).indices
            higher = (values[cut] > worst).sum(dim=1, keepdim=True)
            place = torch.arange(k, device=self.device).expand(len(cut), k)
            filled = equal.gather(1, (place - higher).clamp(min=0))
            found = found.clone()
            found[cut] = torch.where(place < higher, found[cut], filled)
        return block.gather(1, found), found
