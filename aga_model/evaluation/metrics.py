"""Rank-k, mAP and mINP of a retrieval."""

import numpy as np

from .ranking import Ranking, as_array, rank_matrix

RANKS = (1, 5, 10)


def chance_rank1(query_person_ids, gallery_person_ids) -> float:
    """Expected Rank-1 in percent of a random order: mean share of the gallery that is relevant to a query."""
    query, gallery = as_array(query_person_ids), as_array(gallery_person_ids)
    persons, counts = np.unique(gallery, return_counts=True)
    share = dict(zip(persons.tolist(), (counts / len(gallery)).tolist()))
    return 100.0 * float(np.mean([share.get(person, 0.0) for person in query.tolist()]))


def query_values(ranking: Ranking) -> dict[str, np.ndarray]:
    """
    What each query adds to each metric.

    AP is the mean precision at the ranks of the relevant images, INP the number of relevant images over the rank of
    the last one, as in IRRA's evaluation.

    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` -> (queries,) float64 in percent; the metric is the mean.
    """
    values = {f"rank{k}": 100.0 * (ranking.first_rank <= k) for k in RANKS}
    return values | {"mAP": 100.0 * ranking.average_precision, "mINP": 100.0 * ranking.inverse_negative_penalty}


def ranking_metrics(ranking: Ranking) -> dict[str, float]:
    """`rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent: the means over queries of [`query_values`]."""
    return {name: float(values.mean()) for name, values in query_values(ranking).items()}


def retrieval_metrics(similarity, query_person_ids, gallery_person_ids) -> dict[str, float]:
    """
    Metrics of text-to-image search from a ready similarity matrix.

    A gallery image is relevant when it shows the query's person. Ties count against the model, see [`Ranking`].

    Args:
        similarity: (queries, gallery), tensor or array; larger is more similar.
        query_person_ids: (queries,) integers.
        gallery_person_ids: (gallery,) integers.

    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent.

    Raises:
        ValueError: shapes do not agree, a similarity is not finite, or a query has no relevant image (names them).
    """
    return ranking_metrics(rank_matrix(similarity, query_person_ids, gallery_person_ids))
