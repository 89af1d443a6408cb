"""The metric of the `evaluate` library, imported and loaded from its file, offline."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from aga_model.evaluation import rank_gallery, ranking_metrics
from aga_model.evaluation import text_to_image_retrieval as module


@pytest.fixture(params=["imported", "loaded"])
def metric(request, tmp_path, monkeypatch):
    if request.param == "imported":
        return module.TextToImageRetrieval(cache_dir=str(tmp_path))
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return evaluate.load(str(Path(module.__file__)), cache_dir=str(tmp_path))


def test_equals_the_streaming_ranking(metric):
    torch.manual_seed(0)
    query, gallery = torch.randn(50, 16), torch.randn(70, 16)
    query_ids, gallery_ids = np.arange(50) % 12, np.arange(70) % 12
    for start in range(0, 50, 20):
        stop = start + 20
        metric.add_batch(predictions=query[start:stop].numpy(), references=query_ids[start:stop])
    got = metric.compute(gallery_embeds=gallery, gallery_person_ids=gallery_ids)
    assert got == ranking_metrics(rank_gallery(query, gallery, query_ids, gallery_ids))
    again = metric.compute(
        predictions=query, references=query_ids, gallery_embeds=gallery.tolist(), gallery_person_ids=gallery_ids
    )
    assert again == got


def test_the_documented_example(metric):
    metric.add_batch(predictions=[[1.0, 0.0], [0.0, 1.0]], references=[7, 8])
    assert metric.compute(gallery_embeds=[[0.9, 0.1], [0.2, 0.8]], gallery_person_ids=[7, 8])["rank1"] == 100.0
    assert "mINP" in metric.description and metric.module_type == "metric"


def test_a_query_without_a_relevant_image_is_named(metric):
    metric.add_batch(predictions=[[1.0, 0.0]], references=[3])
    with pytest.raises(ValueError, match=r"no relevant image.*person 3"):
        metric.compute(gallery_embeds=[[1.0, 0.0]], gallery_person_ids=[4])


def test_embeddings_keep_their_precision(tmp_path):
    """A caption that is nearly across the image: half precision would take it for exactly across, a tie."""
    metric = module.TextToImageRetrieval(cache_dir=str(tmp_path))
    metric.add_batch(predictions=[[1.0003, -1.0]], references=[3])
    assert metric.compute(gallery_embeds=[[1.0, 1.0], [-1.0, -1.0]], gallery_person_ids=[3, 4])["rank1"] == 100.0
