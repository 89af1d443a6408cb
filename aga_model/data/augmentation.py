"""Augmentation of person crops, drawn from a generator that the caller seeds per sample."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """
    Random flip, shifted crop, brightness and erasing, in this order.

    Args:
        flip: probability of a horizontal flip.
        crop_padding: the crop is padded at its borders (edge pixels) by this share of its height and width, then cut
            at a random place.
        brightness: the crop is multiplied by a factor drawn from [1 - brightness, 1 + brightness].
        erasing: probability of erasing a rectangle of 2% to 40% of the area with the crop's mean colour, as in IRRA.
    """

    flip: float = 0.5
    crop_padding: float = 0.03
    brightness: float = 0.0
    erasing: float = 0.0

    def __call__(self, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (height, width, 3) to a new array of the same shape."""
        if rng.random() < self.flip:
            crop = crop[:, ::-1]
        if self.crop_padding > 0:
            crop = _shifted(crop, self.crop_padding, rng)
        if self.brightness > 0:
            factor = 1 + self.brightness * rng.uniform(-1, 1)
            crop = np.clip(crop * np.float32(factor), 0, 255).astype(np.uint8)
        if rng.random() < self.erasing:
            crop = _erased(crop, rng)
        return crop


def _shifted(crop: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    height, width = crop.shape[:2]
    down = rng.integers(-round(share * height), round(share * height), endpoint=True)
    right = rng.integers(-round(share * width), round(share * width), endpoint=True)
    left, end = max(0, -right), width - max(0, right)  # of the columns that come from the crop
    shifted = np.empty(crop.shape, crop.dtype)
    shifted[:, left:end] = crop[:, left + right : end + right]
    shifted[:, :left] = crop[:, :1]
    shifted[:, end:] = crop[:, -1:]
    return shifted.take(np.clip(np.arange(height) + down, 0, height - 1), axis=0)


def _erased(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = crop.shape[:2]
    area = rng.uniform(0.02, 0.4) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    tall = int(min(height, max(1, round(np.sqrt(area * aspect)))))
    wide = int(min(width, max(1, round(np.sqrt(area / aspect)))))
    top, left = rng.integers(height - tall, endpoint=True), rng.integers(width - wide, endpoint=True)
    # Row by row, which numpy adds ten times as fast as over both sides at once.
    colour = crop.sum(axis=0, dtype=np.uint32).sum(axis=0) / (height * width)
    erased = crop.copy()
    erased[top : top + tall, left : left + wide] = colour.astype(np.uint8)
    return erased
