"""Crops as the processor makes them: filter, draft, colours and normalisation."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from aga_model.data import read_crop, to_pixel_values


def test_crops_are_resized_with_a_cubic_filter(tmp_path):
    """Beside an edge a cubic filter goes beyond the values of both sides; box and linear filters never do."""
    pixels = np.full((8, 8, 3), 100, np.uint8)
    pixels[:, 4:] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    row = read_crop(tmp_path / "a.png", 16, 32)[8, :, 0]
    assert (row[0], row[-1]) == (100, 200) and row.min() < 97 and row.max() > 203


def test_only_a_draft_leaves_pixels_out_and_keeps_twice_the_size(tmp_path, monkeypatch):
    """A picture of eight times the crop's sides is decoded at a quarter; the filter does the rest."""
    Image.new("RGB", (128, 256), (40, 80, 120)).save(tmp_path / "a.jpg")
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, *rest: sizes.append(image.size) or resize(image, *rest))
    for draft in (False, True):
        assert read_crop(tmp_path / "a.jpg", 32, 16, draft).shape == (32, 16, 3)
    assert sizes == [(128, 256), (32, 64)]


def test_normalised_channels_are_red_green_blue():
    """(value / 255 - mean) / std, with numbers that differ by channel."""
    processor = SimpleNamespace(image_mean=[0.5, 0.4, 0.2], image_std=[0.5, 0.25, 0.1], rescale_factor=1 / 255)
    crop = np.full((2, 3, 3), (255, 102, 51), np.uint8)
    pixels = to_pixel_values([crop], processor)
    assert pixels.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(pixels[0, :, 1, 2], [1, 0, 0], atol=1e-6)
