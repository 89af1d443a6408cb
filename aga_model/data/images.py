"""Person crops as arrays for training and evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aga_model.files import read_image

# Pillow's own choice for thumbnails: the last reduction, by two or more, is left to the bicubic filter.
DRAFT_GAP = 2


def read_crop(path: str | Path, height: int, width: int, draft: bool = False) -> np.ndarray:
    """
    Read an image file completely and resize it as AgaProcessor does (bicubic, no crop).

    Args:
        path: image file.
        height, width: pixels.
        draft: a large JPEG is first decoded at a fraction of its size, at least `DRAFT_GAP` times the wanted one: for
            training, where augmentation changes far more. Evaluation and search read whole images, so that they agree.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UnreadableImageError: the file is missing or cannot be decoded; names it.
    """
    least = (DRAFT_GAP * width, DRAFT_GAP * height) if draft else None
    image = read_image(path, least).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def to_pixel_values(crops: Sequence[np.ndarray], image_processor) -> np.ndarray:
    """
    Rescale and normalise crops as `image_processor` does after its resizing.

    Args:
        crops: uint8 (height, width, 3) each, of one size.
        image_processor: AgaProcessor's image processor; its mean, standard deviation and rescale factor are used.

    Returns:
        float32 (batch, 3, height, width).
    """
    mean = np.asarray(image_processor.image_mean, dtype=np.float32)
    std = np.asarray(image_processor.image_std, dtype=np.float32)
    scale = np.float32(image_processor.rescale_factor) / std
    pixels = np.empty((len(crops), 3, *crops[0].shape[:2]), dtype=np.float32)
    factors, shifts = scale[:, None, None], (mean / std)[:, None, None]
    for crop, planes in zip(crops, pixels):  # image by image, in the processor's cache
        np.multiply(np.ascontiguousarray(crop.transpose(2, 0, 1)), factors, out=planes)
        planes -= shifts
    return pixels
