"""Training pairs: order, augmentation and batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aga_model.data import Augmentation, PairCollator, PairDataset, load_benchmark, to_pixel_values
from aga_model.data.augmentation import _erased, _shifted
from aga_model.data.rendered import render_dataset


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    render_dataset(folder, 6, 1, val_identities=1, test_identities=1, height=64, width=32, processes=1)
    return load_benchmark("cuhk-pedes", folder)["train"]


def _same(first, second):
    return all(
        np.array_equal(a["crop"], b["crop"]) and a["input_ids"] == b["input_ids"] for a, b in zip(first, second)
    )


def test_a_sample_depends_on_seed_epoch_and_index_alone(rows, processor):
    augmentation = Augmentation(brightness=0.2, erasing=0.5)
    first, second = (PairDataset(rows, processor, augmentation, seed=4, cache=cache) for cache in (False, True))
    assert _same(list(first), [second[i] for i in range(len(second))])
    assert _same([first[5], first[2]], [second[5], second[2]])
    before = first[3]["crop"]
    first.set_epoch(1)
    assert not np.array_equal(first[3]["crop"], before)
    other_seed = PairDataset(rows, processor, augmentation, seed=5)
    assert not _same(list(other_seed), list(second))


def test_labels_run_from_zero_without_gaps(rows, processor):
    dataset = PairDataset(rows, processor, None)
    assert sorted({sample["person_id"] for sample in dataset}) == [0, 1, 2, 3]


def test_collator_pads_to_the_longest_of_the_batch(rows, processor):
    dataset = PairDataset(rows, processor, None)
    samples = [dataset[i] for i in (0, 3, 5)]
    batch = PairCollator(processor)(samples)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert batch["input_ids"].shape == (3, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    by_processor = processor(text=[rows["caption"][i] for i in (0, 3, 5)], return_tensors="pt")
    assert torch.equal(batch["input_ids"], by_processor["input_ids"])
    assert torch.equal(batch["attention_mask"], by_processor["attention_mask"])
    assert batch["pixel_values"].shape == (3, 3, 32, 16) and batch["pixel_values"].is_contiguous()


def test_collator_says_how_captions_share_rows(rows, processor):
    dataset = PairDataset(rows, processor, None)
    samples = [dataset[i] for i in range(8)]
    batch = PairCollator(processor, packed=True)(samples)
    packing, ids = batch.pop("packing"), batch["input_ids"]
    assert batch.keys() == PairCollator(processor)(samples).keys()
    taken = ids.flatten()[packing["tokens"]].flatten()
    for row, sample in enumerate(samples):
        slots = packing["slots"][row][: len(sample["input_ids"])]
        assert taken[slots].tolist() == sample["input_ids"]


def test_every_epoch_has_crops_of_its_own(rows, processor):
    dataset = PairDataset(rows, processor, Augmentation(flip=0, crop_padding=0, brightness=0.5))
    crops = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        crops.append(dataset[2]["crop"].tobytes())
    assert len(set(crops)) == 4


def test_a_pair_is_described_by_its_place_in_the_split(rows, processor):
    told = PairDataset(rows, processor, None).describe(3)
    assert (told["row"], told["image"]) == (3, rows[3]["image"]["path"])
    assert all(told[key] == rows[3][key] for key in ("image_id", "person_id", "caption"))


def test_what_is_done_to_crops_unless_told_otherwise():
    assert vars(Augmentation()) == {"flip": 0.5, "crop_padding": 0.03, "brightness": 0.0, "erasing": 0.0}


def test_two_captions_of_an_image_see_it_augmented_apart(rows, processor):
    dataset = PairDataset(rows, processor, Augmentation(flip=0, crop_padding=0, brightness=0.5), seed=4)
    assert dataset.paths[0] == dataset.paths[1]
    assert not np.array_equal(dataset[0]["crop"], dataset[1]["crop"])


@pytest.mark.parametrize(("text_length", "rows"), [(12, 2), (13, 1)])
def test_packed_rows_are_no_longer_than_the_texts_of_the_model(processor, text_length, rows):
    """Captions of 6 and 7 tokens need 13 places in one row."""
    collator = PairCollator(processor, packed=True)
    collator.text_length = text_length
    crop = np.zeros((32, 16, 3), np.uint8)
    samples = [{"crop": crop, "input_ids": [5] * n, "person_id": n, "row": n} for n in (6, 7)]
    tokens = collator(samples)["packing"]["tokens"]
    assert tokens.shape[0] == rows and tokens.shape[1] <= text_length


def test_captions_are_padded_with_the_padding_token(processor):
    """Of a vocabulary whose padding is neither its first nor its last entry."""
    collator = PairCollator(processor)
    collator.pad_token_id = 7
    crop = np.zeros((32, 16, 3), np.uint8)
    batch = collator([{"crop": crop, "input_ids": [3] * n, "person_id": n, "row": n} for n in (1, 3)])
    assert batch["input_ids"].tolist() == [[3, 7, 7], [3, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["rows"] == [1, 3] and batch["person_ids"].tolist() == [1, 3]


def test_brightness_goes_up_and_down_and_stops_at_white():
    """Factors are even in 0.5 to 1.5; 200 becomes 100 to 255, and white for a factor of 1.275 or more."""
    crop = np.full((2, 2, 3), 200, np.uint8)
    found = [Augmentation(0, 0, 0.5, 0)(crop, np.random.default_rng(seed))[0, 0, 0] for seed in range(200)]
    assert 100 <= min(found) < 110
    assert 0.12 < np.mean(np.equal(found, 255)) < 0.33
    assert 0.4 < np.mean(np.less(found, 200)) < 0.6


def test_erased_areas_are_two_to_forty_hundredths():
    crop = np.zeros((60, 40, 3), np.uint8)
    crop[:, 20:] = 255  # the mean is neither of the two
    erased = np.array(
        [(Augmentation(0, 0, 0, 1)(crop, np.random.default_rng(seed)) == 127).all(axis=2) for seed in range(200)]
    )
    areas = erased.mean(axis=(1, 2))
    assert 0.015 < min(areas) < 0.05 and 0.35 < max(areas) < 0.41
    assert 0.18 < np.mean(areas) < 0.24
    by_place = erased.mean(axis=0)  # nowhere in particular: as often at the top as at the bottom
    assert abs(by_place[:30].mean() - by_place[30:].mean()) < 0.05
    assert abs(by_place[:, :20].mean() - by_place[:, 20:].mean()) < 0.05


def test_augmentation_keeps_shape_and_input():
    crop = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)
    before = crop.copy()
    for seed in range(30):
        result = Augmentation(0.5, 0.1, 0.3, 0.5)(crop, np.random.default_rng(seed))
        assert result.shape == crop.shape and result.dtype == np.uint8
    assert np.array_equal(crop, before)


def test_each_augmentation_does_what_it_says():
    crop = np.random.default_rng(0).integers(20, 200, (20, 10, 3), dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(Augmentation(0, 0, 0, 0)(crop, rng), crop)
    assert np.array_equal(Augmentation(1, 0, 0, 0)(crop, rng), crop[:, ::-1])
    erased = Augmentation(0, 0, 0, 1)(crop, rng)
    changed = (erased != crop).any(axis=2)
    assert 0.01 < changed.mean() < 0.5
    assert np.array_equal(erased[changed][0], crop.mean(axis=(0, 1)).astype(np.uint8))


def test_shift_erasing_and_normalisation_are_their_formulas():
    """To the last bit, on shifts beyond every border."""
    generator = np.random.default_rng(0)
    for seed in range(60):
        height, width = generator.integers(8, 40, 2)
        crop = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rng = np.random.default_rng(seed)
        down, right = (rng.integers(-round(0.3 * side), round(0.3 * side), endpoint=True) for side in (height, width))
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        np.testing.assert_array_equal(_shifted(crop, 0.3, np.random.default_rng(seed)), crop[rows][:, columns])
        erased = _erased(crop, np.random.default_rng(seed))
        changed = (erased != crop).any(axis=2)
        assert changed.any()
        assert (erased[changed] == crop.mean(axis=(0, 1)).astype(np.uint8)).all()
    processor = SimpleNamespace(image_mean=[0.48, 0.45, 0.4], image_std=[0.26, 0.27, 0.28], rescale_factor=1 / 255)
    mean, std = (np.asarray(values, dtype=np.float32) for values in (processor.image_mean, processor.image_std))
    wanted = crop.astype(np.float32) * (np.float32(1 / 255) / std) - mean / std
    pixels = to_pixel_values([crop[:, ::-1], crop], processor)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels[1], wanted.transpose(2, 0, 1))
