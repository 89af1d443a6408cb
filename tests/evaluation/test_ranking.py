"""Streaming ranking against brute force in exact arithmetic, for all blocks, ties and numbers of relevant images."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from aga_model.evaluation import rank_gallery, rank_matrix, ranking_metrics
from aga_model.evaluation import ranking as ranking_module
from aga_model.evaluation.ranking import block_shape, unit_rows


def brute_ranks(scores, query_ids, gallery_ids):
    """Pessimistic ranks query by query: irrelevant images that are at least as similar, and better relevant ones."""
    found = []
    for row, person in zip(scores, query_ids):
        order = sorted(range(len(gallery_ids)), key=lambda i: (-row[i], gallery_ids[i] == person))
        found.append([rank for rank, i in enumerate(order, start=1) if gallery_ids[i] == person])
    return found


def brute_top(scores, query_ids, gallery_ids, k):
    return [
        sorted(range(len(gallery_ids)), key=lambda i: (-row[i], gallery_ids[i] == person, i))[:k]
        for row, person in zip(scores, query_ids)
    ]


def split_ranks(ranking):
    return [part.tolist() for part in np.split(ranking.ranks, ranking.offsets[1:-1])]


def case(seed, queries=23, gallery=37, persons=6, dim=5, distinct=9):
    """Embeddings with many equal rows."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct, dim)).astype(np.float32)
    gallery_ids = rng.integers(0, persons, size=gallery)
    return (
        torch.from_numpy(vectors[rng.integers(0, distinct, size=queries)]),
        torch.from_numpy(vectors[rng.integers(0, distinct, size=gallery)]),
        rng.choice(gallery_ids, size=queries),
        gallery_ids,
    )


def exact_scores(query, gallery):
    """Dot products of the rounded unit rows in rational arithmetic, rounded once to float32."""
    rows = [[[Fraction(float(x)) for x in row] for row in unit_rows(part)] for part in (query, gallery)]
    dots = [[float(sum(a * b for a, b in zip(q, g))) for g in rows[1]] for q in rows[0]]
    return np.array(dots).astype(np.float32)


MEMORIES = [0.0, 0.0013, 0.01, 64.0]  # MiB


def test_these_memories_give_blocks_of_all_sizes():
    shapes = [block_shape(23, 37, 5, memory) for memory in MEMORIES]
    assert shapes[0] == (1, 1) and shapes[-1] == (23, 37)
    assert any(1 < height < 23 and 1 < width <= 37 for height, width in shapes)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(3))
def test_ranks_equal_brute_force(seed, memory):
    query, gallery, query_ids, gallery_ids = case(seed)
    scores = exact_scores(query, gallery)
    ranking = rank_gallery(query, gallery, query_ids, gallery_ids, top_k=7, memory_mib=memory)
    assert split_ranks(ranking) == brute_ranks(scores, query_ids, gallery_ids)
    assert ranking.top_indices.tolist() == brute_top(scores, query_ids, gallery_ids, 7)
    np.testing.assert_array_equal(ranking.top_scores, np.take_along_axis(scores, ranking.top_indices, axis=1))


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (1, 37), (23, 1), (7, 20), (23, 37)])
@pytest.mark.parametrize("sort_above", [0, 3, 64])
def test_blocks_and_ways_of_counting_do_not_matter(monkeypatch, shape, sort_above):
    query, gallery, query_ids, gallery_ids = case(11, dim=32)
    wanted = rank_gallery(query, gallery, query_ids, gallery_ids, top_k=10)
    monkeypatch.setattr(ranking_module, "block_shape", lambda *arguments: shape)
    monkeypatch.setattr(ranking_module, "_SORT_ABOVE", sort_above)
    monkeypatch.setattr(ranking_module, "_CACHE_PAIRS", 60)
    for got in (
        rank_gallery(query, gallery, query_ids, gallery_ids, top_k=10),
        rank_matrix(exact_scores(query, gallery), query_ids, gallery_ids, top_k=10),
    ):
        for name in ("ranks", "offsets", "top_indices", "top_scores"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), err_msg=name)


def test_a_pair_has_one_score_whatever_the_block():
    """Bit for bit, in dimensions and sizes where float32 products differ between block shapes."""
    torch.manual_seed(0)
    query, gallery = torch.randn(30, 513), torch.randn(101, 513)
    ids = np.zeros(30, dtype=int), np.zeros(101, dtype=int)
    whole = rank_gallery(query, gallery, *ids, top_k=101)
    for memory in (0.0, 0.05, 0.7):
        parts = rank_gallery(query, gallery, *ids, top_k=101, memory_mib=memory)
        np.testing.assert_array_equal(parts.top_scores, whole.top_scores)
        np.testing.assert_array_equal(parts.top_indices, whole.top_indices)
    alone = rank_gallery(query[5:6], gallery[17:18], ids[0][:1], ids[1][:1], top_k=1).top_scores[0, 0]
    assert alone == whole.top_scores[5][whole.top_indices[5] == 17][0]


def test_scores_are_cosines():
    torch.manual_seed(0)
    query, gallery = torch.randn(9, 512), 30 * torch.randn(40, 512)
    ranking = rank_gallery(query, gallery, np.zeros(9), np.zeros(40), top_k=40)
    cosine = torch.nn.functional.cosine_similarity(query.double()[:, None], gallery.double()[None], dim=-1).numpy()
    got = np.empty((9, 40))
    np.put_along_axis(got, ranking.top_indices, ranking.top_scores, axis=1)
    np.testing.assert_allclose(got, cosine, rtol=0, atol=2e-7)


def test_equal_rows_tie_everywhere_in_the_gallery():
    torch.manual_seed(1)
    one, query = torch.randn(1, 512), torch.randn(40, 512)
    gallery = one.repeat(1000, 1)
    gallery_ids = np.arange(1000)
    ranking = rank_gallery(query, gallery, np.arange(40) * 25, gallery_ids, memory_mib=1.0)
    assert set(ranking.first_rank.tolist()) == {1000}


def test_order_of_gallery_and_queries_does_not_matter():
    query, gallery, query_ids, gallery_ids = case(4, queries=30, gallery=50)
    wanted = split_ranks(rank_gallery(query, gallery, query_ids, gallery_ids))
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(30), rng.permutation(50)
    got = split_ranks(rank_gallery(query[rows], gallery[columns], query_ids[rows], gallery_ids[columns]))
    assert got == [wanted[row] for row in rows]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_collapsed_model_stays_below_chance(value):
    ids = np.arange(200) // 4
    embeds = torch.full((200, 16), value)
    metrics = ranking_metrics(rank_gallery(embeds, embeds, ids, ids))
    assert metrics["rank1"] == metrics["rank10"] == 0.0
    assert metrics["mAP"] < 100 * 4 / 200


def test_metrics_of_known_ranks():
    # Person 0 is at ranks 1 and 4, person 1 at rank 2.
    similarity = np.array([[0.9, 0.1, 0.8, 0.2], [0.9, 0.1, 0.8, 0.2]])
    ranking = rank_matrix(similarity, [0, 1], [0, 0, 1, 2])
    assert split_ranks(ranking) == [[1, 4], [2]]
    metrics = ranking_metrics(ranking)
    assert metrics["rank1"] == 50.0 and metrics["rank5"] == 100.0
    assert metrics["mAP"] == pytest.approx(100 * ((1 + 2 / 4) / 2 + 1 / 2) / 2)
    assert metrics["mINP"] == pytest.approx(100 * (2 / 4 + 1 / 2) / 2)


def test_double_precision_matrices_are_compared_as_such():
    similarity = np.array([[0.5, 0.5 + 1e-12]])
    assert rank_matrix(similarity, [0], [0, 1]).ranks.tolist() == [2]
    assert rank_matrix(similarity, [1], [0, 1]).ranks.tolist() == [1]


def test_integer_and_half_matrices():
    ids = [0, 1]
    assert rank_matrix(torch.eye(2, dtype=torch.int64), ids, ids).ranks.tolist() == [1, 1]
    assert rank_matrix(torch.eye(2, dtype=torch.bfloat16), ids, ids).ranks.tolist() == [1, 1]


def test_memory_is_bounded():
    for queries, gallery, dim in ((20_000, 20_000, 512), (10, 10**7, 256), (10**6, 5, 768)):
        height, width = block_shape(queries, gallery, dim, 64.0)
        assert 8 * dim * width + (28 * width + 8 * dim) * height <= 64 * 2**20


def test_bad_input_is_named():
    query, gallery = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"1 queries have no relevant image.*1 \(person 9\)"):
        rank_gallery(query, gallery, [0, 9], [0, 0, 1, 2])
    with pytest.raises(ValueError, match="gallery embeddings: 1 rows are not finite, first: 2"):
        rank_gallery(query, gallery.index_fill(0, torch.tensor([2]), float("nan")), [0, 0], [0] * 4)
    with pytest.raises(ValueError, match="3 dimensions, gallery embeddings 2"):
        rank_gallery(query, gallery[:, :2], [0, 0], [0] * 4)
    with pytest.raises(ValueError, match="1 query and 4 gallery person ids for 2 queries"):
        rank_gallery(query, gallery, [0], [0] * 4)
    with pytest.raises(ValueError, match="query embeddings are"):
        rank_gallery(query[:0], gallery, [], [0] * 4)


def test_a_row_with_one_bad_entry_is_named_by_its_place_among_all(monkeypatch):
    monkeypatch.setattr(ranking_module, "_NORMALISE_ROWS", 4)  # rows are looked at in parts
    embeds = torch.ones(11, 3)
    embeds[9, 1], embeds[10] = float("nan"), float("inf")
    with pytest.raises(ranking_module.NotFiniteError, match="embeddings: 2 rows are not finite, first: 9"):
        unit_rows(embeds)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_result():
    torch.manual_seed(0)
    query, gallery = torch.randn(300, 512), torch.randn(500, 512)
    query_ids, gallery_ids = np.arange(300) % 90, np.arange(500) % 90
    results = [rank_gallery(query, gallery, query_ids, gallery_ids, 10, 1.0, device) for device in ("cpu", "cuda")]
    for name in ("ranks", "top_indices", "top_scores"):
        np.testing.assert_array_equal(getattr(results[0], name), getattr(results[1], name))
