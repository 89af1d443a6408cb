"""Encoding and measuring a split, with encoders so simple that every figure can be worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch import nn

from aga_model.evaluation import RetrievalEvaluator, SplitEmbeddings

# (image id, person, red of the image, caption): images come in no order, and some have two captions.
ROWS = [
    (30, 5, 200, "a man"),
    (30, 5, 200, "a young man wearing a navy blue jacket and white sneakers"),
    (10, 8, 90, "the woman in a red dress"),
    (20, 5, 150, "shoes"),
    (20, 5, 150, "a girl in a yellow dress walks away"),
    (40, 2, 30, "he wears a green hoodie"),
    (15, 2, 10, "grey shorts and orange shoes"),
]


@pytest.fixture
def rows(tmp_path):
    columns = {"image": [], "caption": [], "person_id": [], "image_id": []}
    for image_id, person, red, caption in ROWS:
        path = tmp_path / f"{image_id}.png"
        Image.new("RGB", (20, 40), (red, 0, 0)).save(path)
        values = {"path": str(path), "bytes": None}, caption, person, image_id
        for column, value in zip(columns.values(), values):
            column.append(value)
    return Dataset.from_dict(columns)


class PlainEncoders(nn.Module):
    """An image is its mean colour, a caption the mean and the mean square of its ids, padding left out."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.modes = []

    def get_image_features(self, pixels):
        self.modes.append(self.training)
        return SimpleNamespace(pooler_output=pixels.mean(dim=(2, 3)))

    def get_text_features(self, input_ids, attention_mask=None):
        self.modes.append(self.training)
        weights = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids, weights = input_ids.float(), weights / weights.sum(dim=1, keepdim=True)
        return SimpleNamespace(pooler_output=torch.stack([(ids * weights).sum(1), (ids**2 * weights).sum(1)], dim=1))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_each_image_and_caption_once_in_the_order_of_the_split(rows, processor, cache, batch_size):
    evaluator, model = RetrievalEvaluator(rows, processor, batch_size, cache), PlainEncoders()
    for _ in range(2):  # the second time from the cache
        split = evaluator.embed(model)
        assert split.gallery_image_ids.tolist() == [30, 10, 20, 40, 15]
        assert split.gallery_person_ids.tolist() == [5, 8, 5, 2, 2]
        assert [path.rpartition("/")[2] for path in split.gallery_paths] == [f"{i}.png" for i in (30, 10, 20, 40, 15)]
        assert split.query_image_ids.tolist() == [row[0] for row in ROWS]
        assert split.query_person_ids.tolist() == [row[1] for row in ROWS]
        assert split.captions == [row[3] for row in ROWS]
        mean, std = (np.array(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std"))
        colours = np.array([[red, 0, 0] for red in (200, 90, 150, 30, 10)])
        np.testing.assert_allclose(split.image_embeds, (colours / 255 - mean) / std, atol=1e-5)
        ids = [np.array(processor.tokenizer(row[3])["input_ids"], dtype=float) for row in ROWS]
        wanted = [[row.mean(), (row**2).mean()] for row in ids]
        np.testing.assert_allclose(split.text_embeds, wanted, rtol=1e-5)


def test_large_photographs_are_read_whole(rows, processor, tmp_path):
    """Not decoded at a fraction of their size as in training, so that evaluation and search agree."""
    noise = np.random.default_rng(0).integers(0, 256, (1024, 512, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg")
    evaluator = RetrievalEvaluator(rows, processor)
    evaluator.gallery_paths[1] = str(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        wanted = np.asarray(image.convert("RGB").resize((16, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(evaluator._crop(1), wanted)


@pytest.mark.parametrize("training", [False, True])
def test_encodes_in_eval_mode_and_leaves_the_mode_as_it_was(rows, processor, training):
    model = PlainEncoders().train(training)
    RetrievalEvaluator(rows, processor).embed(model)
    assert model.modes == [False, False] and model.training is training


class Embedded(RetrievalEvaluator):
    """An evaluator whose embeddings are given."""

    def __init__(self, query_person_ids, found_person_ids, gallery_person_ids, query_image_ids):
        persons = np.unique(gallery_person_ids)
        self.query_person_ids = np.asarray(query_person_ids)
        directions = np.eye(len(persons), dtype=np.float32)
        self.split = SplitEmbeddings(
            torch.from_numpy(directions[np.searchsorted(persons, gallery_person_ids)]),
            torch.from_numpy(directions[np.searchsorted(persons, found_person_ids)]),
            np.asarray(gallery_person_ids),
            self.query_person_ids,
            np.arange(len(gallery_person_ids)) + 100,
            np.asarray(query_image_ids) + 100,
            ["image.png"] * len(gallery_person_ids),
            ["caption"] * len(query_person_ids),
        )

    def embed(self, model):
        return self.split


def test_sizes_chance_and_metrics_of_a_split():
    # Of seven captions six find their person; five images of three persons.
    evaluator = Embedded([4, 4, 4, 6, 6, 6, 9], [4, 4, 4, 6, 6, 9, 9], [4, 4, 4, 6, 9], [0, 1, 2, 3, 3, 3, 4])
    found = evaluator.evaluate(PlainEncoders())
    assert (found["n_identities"], found["n_gallery"], found["n_queries"]) == (3, 5, 7)
    assert found["chance_rank1"] == pytest.approx(100 * (3 * 3 / 5 + 4 * 1 / 5) / 7)
    assert found["rank1"] == pytest.approx(600 / 7)
    # The missed image ties with the three of person 4: it comes after these and that of person 9.
    assert found["mAP"] == pytest.approx(100 * (6 + 1 / 5) / 7)


def test_both_directions_keep_the_best():
    """Captions of persons 4, 6 and 4 as unit vectors, images of persons 4 and 6: the others tie behind, by row."""
    split = Embedded([4, 6, 4], [4, 6, 4], [4, 6], [0, 1, 0]).split
    images, captions = split.rank_images(top_k=2), split.rank_captions(top_k=2)
    assert images.top_indices.tolist() == [[0, 1], [1, 0], [0, 1]] and images.first_rank.tolist() == [1, 1, 1]
    assert captions.top_indices.tolist() == [[0, 2], [1, 0]] and captions.top_scores.tolist() == [[1, 1], [1, 0]]
    assert split.rank_captions().top_indices.shape == (2, 0)


def test_the_interval_is_over_persons():
    """One person is always found, the other never: a quarter each of the drawings of two persons give 0 and 100%."""
    evaluator = Embedded([1] * 6 + [2] * 6, [1] * 12, [1] * 6 + [2] * 6, range(12))
    metrics, intervals = evaluator.evaluate_with_intervals(PlainEncoders())
    assert metrics["rank1"] == 50.0 and (intervals["rank1"].low, intervals["rank1"].high) == (0.0, 100.0)


def test_a_split_of_one_person_has_metrics_and_no_interval():
    metrics, intervals = Embedded([3, 3], [3, 3], [3], [0, 0]).evaluate_with_intervals(PlainEncoders())
    assert metrics["rank1"] == 100.0 and metrics["n_identities"] == 1 and intervals == {}
