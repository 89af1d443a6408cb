"""Rank-k, mAP and mINP of a retrieval."""

import numpy as np
import torch
from torch import Tensor

RANKS = (1, 5, 10)


def _as_array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def ranked_relevance(similarity: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """
    Relevance of the gallery in the order of similarity, ties resolved against the model.

    Among equal similarities the irrelevant images come first, so a model that gives every image the same score finds
    nothing, and the result does not depend on the order of the gallery.

    Args:
        similarity: (queries, gallery) float.
        relevant: bool (queries, gallery).

    Returns:
        bool (queries, gallery).
    """
    order = np.lexsort((relevant, -similarity), axis=1)
    return np.take_along_axis(relevant, order, axis=1)


def chance_rank1(query_person_ids, gallery_person_ids) -> float:
    """Expected Rank-1 in percent of a random order: mean share of the gallery that is relevant to a query."""
    query, gallery = _as_array(query_person_ids), _as_array(gallery_person_ids)
    persons, counts = np.unique(gallery, return_counts=True)
    share = dict(zip(persons.tolist(), (counts / len(gallery)).tolist()))
    return 100.0 * float(np.mean([share.get(person, 0.0) for person in query.tolist()]))


def retrieval_metrics(similarity, query_person_ids, gallery_person_ids) -> dict[str, float]:
    """
    Metrics of text-to-image search from a ready similarity matrix.

    A gallery image is relevant when it shows the query's person. mAP and mINP as in IRRA's evaluation: AP is the mean
    precision at the ranks of the relevant images, INP the number of relevant images over the rank of the last one.
    Ties count against the model, see [`ranked_relevance`].

    Args:
        similarity: (queries, gallery), tensor or array; larger is more similar.
        query_person_ids: (queries,) integers.
        gallery_person_ids: (gallery,) integers.

    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent.

    Raises:
        ValueError: shapes do not agree, a similarity is not finite, or a query has no relevant image (names them).
    """
    scores = _as_array(similarity)
    query, gallery = _as_array(query_person_ids), _as_array(gallery_person_ids)
    if scores.shape != (len(query), len(gallery)) or scores.size == 0:
        raise ValueError(f"similarity is {scores.shape}, expected {(len(query), len(gallery))}, not empty")
    if not np.isfinite(scores).all():
        raise ValueError(f"similarity holds {int((~np.isfinite(scores)).sum())} values that are not finite")
    relevant = query[:, None] == gallery[None, :]
    without = np.flatnonzero(~relevant.any(axis=1))
    if len(without):
        named = ", ".join(f"{index} (person {query[index]})" for index in without[:5])
        raise ValueError(f"{len(without)} queries have no relevant image in the gallery, first: {named}")
    hits = ranked_relevance(scores, relevant)
    found = hits.cumsum(axis=1)
    ranks = np.arange(1, scores.shape[1] + 1)
    number = hits.sum(axis=1)
    average_precision = (found / ranks * hits).sum(axis=1) / number
    last = scores.shape[1] - hits[:, ::-1].argmax(axis=1)
    metrics = {f"rank{k}": 100.0 * float(hits[:, :k].any(axis=1).mean()) for k in RANKS}
    metrics["mAP"] = 100.0 * float(average_precision.mean())
    metrics["mINP"] = 100.0 * float((number / last).mean())
    return metrics


def similarity_matrix(query_embeds: Tensor, gallery_embeds: Tensor) -> Tensor:
    """Cosine similarity (queries, gallery) of (queries, dim) and (gallery, dim) embeddings, float32."""
    query = torch.nn.functional.normalize(query_embeds.float(), dim=-1)
    gallery = torch.nn.functional.normalize(gallery_embeds.float(), dim=-1)
    return query @ gallery.t()
