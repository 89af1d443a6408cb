"""Retrieval metrics against IRRA's golden values, a brute-force version and a collapsed model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aga_model.evaluation import chance_rank1, retrieval_metrics

FIXTURES = Path(__file__).parents[1] / "fixtures"


def brute_force(similarity, query_ids, gallery_ids):
    """Metrics query by query in plain Python; among equal scores the irrelevant images come first."""
    rows = {"rank1": [], "rank5": [], "rank10": [], "mAP": [], "mINP": []}
    for scores, person in zip(similarity, query_ids):
        ranking = sorted(range(len(gallery_ids)), key=lambda i: (-scores[i], gallery_ids[i] == person))
        relevant = [gallery_ids[i] == person for i in ranking]
        ranks = [rank for rank, hit in enumerate(relevant, start=1) if hit]
        for k in (1, 5, 10):
            rows[f"rank{k}"].append(any(relevant[:k]))
        rows["mAP"].append(sum(number / rank for number, rank in enumerate(ranks, start=1)) / len(ranks))
        rows["mINP"].append(len(ranks) / ranks[-1])
    return {name: 100 * float(np.mean(values)) for name, values in rows.items()}


def test_equals_irra():
    data = load_file(FIXTURES / "retrieval_metrics.safetensors")
    golden = json.loads((FIXTURES / "retrieval_metrics.json").read_text())
    got = retrieval_metrics(data["similarity"], data["query_person_ids"], data["gallery_person_ids"])
    for ours, theirs in (("rank1", "R1"), ("rank5", "R5"), ("rank10", "R10"), ("mAP", "mAP"), ("mINP", "mINP")):
        assert got[ours] == pytest.approx(golden[theirs], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force_with_ties(seed):
    rng = np.random.default_rng(seed)
    gallery = rng.integers(0, 9, size=40)
    query = rng.choice(gallery, size=25)
    similarity = rng.integers(0, 6, size=(25, 40)) / 6.0
    got = retrieval_metrics(similarity, query, gallery)
    for name, value in brute_force(similarity, query, gallery).items():
        assert got[name] == pytest.approx(value, abs=1e-9), name


def test_order_of_a_tied_gallery_does_not_matter():
    rng = np.random.default_rng(0)
    gallery, similarity = rng.integers(0, 5, size=30), rng.integers(0, 4, size=(6, 30)).astype(float)
    query = gallery[:6]
    order = rng.permutation(30)
    assert retrieval_metrics(similarity, query, gallery) == pytest.approx(
        retrieval_metrics(similarity[:, order], query, gallery[order])
    )


def test_views_of_arrays_are_fine():
    rng = np.random.default_rng(0)
    gallery, similarity = rng.integers(0, 5, size=30), rng.normal(size=(6, 30))
    wanted = retrieval_metrics(similarity, gallery[:6], gallery)
    assert retrieval_metrics(similarity[:, ::-1], gallery[:6], gallery[::-1]) == pytest.approx(wanted)


def test_a_collapsed_model_scores_nothing():
    gallery = np.arange(50) // 2
    metrics = retrieval_metrics(np.ones((50, 50)), gallery, gallery)
    assert metrics["rank10"] == 0.0
    assert metrics["mAP"] < 5.0


def test_a_perfect_model_scores_everything():
    ids = torch.arange(12) // 3
    similarity = (ids[:, None] == ids[None]).float()
    assert set(retrieval_metrics(similarity, ids, ids).values()) == {100.0}


def test_queries_without_a_relevant_image_are_named():
    with pytest.raises(ValueError, match=r"2 queries have no relevant image.*1 \(person 7\), 3 \(person 8\)"):
        retrieval_metrics(np.zeros((4, 2)), [0, 7, 1, 8], [0, 1])


@pytest.mark.parametrize("similarity", [np.zeros((2, 3)), np.zeros((0, 2)), np.array([[np.nan, 1.0], [0.0, 1.0]])])
def test_bad_similarity_is_refused(similarity):
    with pytest.raises(ValueError, match="similarity"):
        retrieval_metrics(similarity, [0, 1][: len(similarity)], [0, 1])


def test_chance_level():
    # Two of five images show person 0, one shows person 1: 2/5 and 1/5.
    assert chance_rank1([0, 1], [0, 0, 1, 2, 3]) == pytest.approx(100 * (0.4 + 0.2) / 2)
    # Asked for twice person 0, once person 1 and once someone who is not there.
    assert chance_rank1([0, 0, 1, 9], [0, 0, 1, 2, 3]) == pytest.approx(100 * (0.4 + 0.4 + 0.2 + 0.0) / 4)
