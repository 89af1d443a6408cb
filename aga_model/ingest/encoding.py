"""What filling a gallery needs of an encoder."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image


class ImageEncoder(Protocol):
    """
    Embeds person images, as [`PersonEncoder`] does.

    Attributes:
        name (`str`): folder or Hub name of the model.
        model_hash (`str`): of its weights.
        dim (`int`): of the embeddings.
    """

    name: str
    dim: int

    @property
    def model_hash(self) -> str: ...

    def preprocess(self, images: Sequence[Image.Image]) -> Any:
        """RGB images to what `encode_pixels` takes, one entry per image. Called from several threads."""

    def encode_pixels(self, pixel_values: Any) -> np.ndarray:
        """Embed preprocessed images to float32 (n, dim) of unit length."""

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = ...) -> np.ndarray:
        """Embed RGB images, so many at a time, to float32 (n, dim) of unit length."""
