"""A re-ranked order without the whole matrix, against the whole matrix; and a split re-ranked by a model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aga_model import AgaConfig, AgaForImageTextRetrieval
from aga_model.data import load_benchmark
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import RetrievalEvaluator, rank_matrix, ranking_metrics, rerank, retrieval
from aga_model.files import read_image
from aga_model.search import Reranker

FIELDS = ("ranks", "offsets", "top_indices", "top_scores")


def case(seed, ties, queries=17, gallery=29, persons=5):
    """Similarities and new scores, with many ties when asked for, and ids: each query has a relevant image."""
    rng = np.random.default_rng(seed)
    gallery_ids = rng.integers(0, persons, size=gallery)
    shape = queries, gallery
    if ties:
        similarity, scores = rng.integers(0, 6, size=shape) / 6.0, rng.integers(0, 4, size=shape) / 4.0
    else:
        similarity, scores = rng.normal(size=shape), rng.normal(size=shape)
    return similarity, scores, rng.choice(gallery_ids, size=queries), gallery_ids


def whole_matrix(similarity, scores, query_ids, gallery_ids, k):
    """
    The re-ranked order as one matrix: new scores of the k best images, and below them all others by their old rank.

    The k best are found by sorting: among equal similarities irrelevant images first, then by row.
    """
    matrix = np.empty(similarity.shape)
    for query, row in enumerate(similarity):
        order = sorted(range(len(gallery_ids)), key=lambda i: (-row[i], gallery_ids[i] == query_ids[query], i))
        matrix[query, order] = -100.0 - np.arange(len(order))
        matrix[query, order[:k]] = scores[query, order[:k]]
    return matrix


@pytest.mark.parametrize("k", [1, 4, 29])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_whole_matrix(seed, ties, k):
    similarity, scores, *ids = case(seed, ties)
    before = rank_matrix(similarity, *ids, top_k=k)
    after = rerank(before, np.take_along_axis(scores, before.top_indices, axis=1), *ids)
    wanted = rank_matrix(whole_matrix(similarity, scores, *ids, k), *ids, top_k=k)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(after, name), getattr(wanted, name), err_msg=name)
    assert ranking_metrics(after) == ranking_metrics(wanted)


def test_relevant_images_outside_the_best_keep_their_ranks():
    similarity, scores, *ids = case(3, ties=True)
    before = rank_matrix(similarity, *ids, top_k=4)
    after = rerank(before, np.take_along_axis(scores, before.top_indices, axis=1), *ids)
    outside = before.ranks > 4
    assert outside.any() and (~outside).any()
    np.testing.assert_array_equal(after.ranks[outside], before.ranks[outside])
    assert (after.ranks[~outside] <= 4).all() and (after.ranks[~outside] != before.ranks[~outside]).any()


@pytest.mark.parametrize("k", [1, 3, 29])
@pytest.mark.parametrize("ties", [False, True])
def test_the_old_scores_give_the_old_ranking(ties, k):
    similarity, _, *ids = case(0, ties)
    before = rank_matrix(similarity, *ids, top_k=k)
    after = rerank(before, before.top_scores, *ids)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


def test_a_collapsed_head_finds_nothing_among_its_candidates():
    ids = np.arange(30) // 3
    similarity = (ids[:, None] == ids).astype(float)
    before = rank_matrix(similarity, ids, ids, top_k=10)
    assert ranking_metrics(before)["rank1"] == 100.0
    after = rerank(before, np.zeros((30, 10)), ids, ids)
    assert set(after.first_rank.tolist()) == {8} and ranking_metrics(after)["rank5"] == 0.0


def test_best_keeps_the_ranks():
    similarity, _, *ids = case(1, ties=True)
    whole, part = (rank_matrix(similarity, *ids, top_k=k) for k in (12, 5))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(whole.best(5), name), getattr(part, name), err_msg=name)


def test_bad_scores_and_ids_are_refused():
    similarity, scores, query_ids, gallery_ids = case(2, ties=False)
    before = rank_matrix(similarity, query_ids, gallery_ids, top_k=6)
    new = np.take_along_axis(scores, before.top_indices, axis=1)
    for bad in (np.nan, np.inf, -np.inf):
        holed = new.copy()
        holed[3, 2] = bad
        with pytest.raises(ValueError, match="1 values that are not finite"):
            rerank(before, holed, query_ids, gallery_ids)
    with pytest.raises(ValueError, match=r"scores are \(17, 5\), expected .*\(17, 6\)"):
        rerank(before, new[:, :5], query_ids, gallery_ids)
    with pytest.raises(ValueError, match="not empty"):
        rerank(before.best(0), new[:, :0], query_ids, gallery_ids)
    with pytest.raises(ValueError, match="16 query and 29 gallery person ids"):
        rerank(before, new, query_ids[:-1], gallery_ids)
    with pytest.raises(ValueError, match="17 query and 9 gallery person ids"):
        rerank(before, new, query_ids, gallery_ids[:9])
    with pytest.raises(ValueError, match="not those that the ranking was made with"):
        rerank(before, new, query_ids[::-1], gallery_ids)


def test_ids_that_give_other_queries_as_many_relevant_images_are_refused():
    """Person 0 has two of the three best images of both queries, person 1 one: three pairs either way round."""
    before = rank_matrix(np.array([[3.0, 2, 1], [3, 2, 1]]), [0, 1], [0, 0, 1], top_k=3)
    with pytest.raises(ValueError, match="not those that the ranking was made with"):
        rerank(before, before.top_scores, [1, 0], [0, 0, 1])


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerank")
    render_dataset(folder, 14, 0, val_identities=2, test_identities=6, height=64, width=32, processes=1)
    return load_benchmark("cuhk-pedes", folder)["test"]


@pytest.fixture
def model(make_model):
    torch.manual_seed(0)
    model = AgaForImageTextRetrieval(AgaConfig(**make_model(loss_weights={"itm": 1.0}).config.to_dict())).eval()
    with torch.no_grad():
        model.itm_head.weight.normal_()
    return model


def every_pair(model, processor, evaluator):
    """The model's own scores of all captions with all images, (queries, gallery)."""
    images = [read_image(path) for path in evaluator.gallery_paths]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    rows = []
    for caption in evaluator.captions:
        text = processor(text=[caption] * len(pixels), return_tensors="pt")
        rows.append(model.score(pixels, **text).numpy())
    return np.stack(rows)


def test_a_split_is_reranked_as_the_whole_matrix_would_be(split, model, processor):
    evaluator = RetrievalEvaluator(split, processor, batch_size=16)
    embedded = evaluator.embed(model.aga)
    before = embedded.rank_images(top_k=7)
    after = evaluator.rerank(Reranker(model, processor, batch_size=16, similarity_weight=0.0), before)
    scores = every_pair(model, processor, evaluator)
    wanted = np.take_along_axis(scores, after.top_indices, axis=1)
    np.testing.assert_allclose(after.top_scores, wanted, atol=2e-2)
    assert (np.sort(after.top_indices) == np.sort(before.top_indices)).all()
    assert (after.top_indices != before.top_indices).any()
    # The order by the re-ranker's own scores: those of the model differ by rounding.
    np.put_along_axis(scores, after.top_indices, after.top_scores, axis=1)
    cosine = np.full(scores.shape, np.nan)
    everything = embedded.rank_images(top_k=len(evaluator.gallery_paths))
    np.put_along_axis(cosine, everything.top_indices, everything.top_scores, axis=1)
    ids = evaluator.query_person_ids, evaluator.gallery_person_ids
    np.testing.assert_array_equal(after.ranks, rank_matrix(whole_matrix(cosine, scores, *ids, 7), *ids).ranks)


def test_similarity_weight_alone_gives_the_dual_encoders_order(split, model, processor):
    evaluator = RetrievalEvaluator(split, processor, batch_size=16)
    before = evaluator.embed(model.aga).rank_images(top_k=7)
    with torch.no_grad():
        model.itm_head.weight.zero_()
    after = evaluator.rerank(Reranker(model, processor, similarity_weight=0.5), before)
    for name in ("ranks", "top_indices"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


def test_processes_share_the_images_and_get_the_same(split, model, processor, monkeypatch):
    evaluator = RetrievalEvaluator(split, processor, batch_size=16)
    before = evaluator.embed(model.aga).rank_images(top_k=9)
    reranker = Reranker(model, processor)
    wanted = evaluator.rerank(reranker, before)
    shares, asked, pixels = [], [], evaluator._pixels

    def gather(share):
        shares.extend(share)
        return [np.zeros(before.top_indices.shape)]

    monkeypatch.setattr(retrieval, "gather_object", gather)
    monkeypatch.setattr(evaluator, "_pixels", lambda images: asked.extend(images) or pixels(images))
    for rank in range(3):
        state = SimpleNamespace(process_index=rank, num_processes=3, is_main_process=rank == 0)
        monkeypatch.setattr(retrieval, "PartialState", lambda state=state: state)
        evaluator.rerank(reranker, before)
    assert len(shares) == 3 and sorted(asked) == np.unique(before.top_indices).tolist()  # no image by two processes
    monkeypatch.setattr(retrieval, "gather_object", lambda share: shares)
    got = evaluator.rerank(reranker, before)
    np.testing.assert_allclose(got.top_scores, wanted.top_scores, atol=1e-3)
    np.testing.assert_array_equal(got.ranks, wanted.ranks)
