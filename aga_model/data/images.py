"""Reading person crops for training and evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def read_crop(path: str | Path, height: int, width: int) -> np.ndarray:
    """
    Decode an image file and resize it as AgaProcessor does (bicubic, no crop).

    Args:
        path: image file.
        height, width: pixels.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: the file is missing or cannot be decoded; names the file.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


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
    pixels = np.stack(crops).astype(np.float32) * scale - mean / std
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
