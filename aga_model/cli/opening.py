"""What commands that need a model begin with: a split of a data set and a model, or a gallery's model."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging as transformers_logging

from aga_model.errors import ModelLoadError
from aga_model.gallery import Gallery
from aga_model.search import PersonEncoder

from .messages import RENDERED_NOTE, note

if TYPE_CHECKING:
    from datasets import Dataset


def open_split(
    model: str, data_root: Path, dataset: str, split: str, device: str | None, trust_remote_code: bool = False
) -> "tuple[Dataset, PersonEncoder]":
    """
    The rows of a split, one per caption, and the model; says so where it has only seen drawings.

    Raises:
        OSError, ValueError: data or model cannot be read, or there is no such split; names it.
    """
    # Imported here, so that the other commands run without the libraries of the extra `train`.
    from aga_model.data import load_benchmark

    splits = load_benchmark(dataset, data_root)
    if split not in splits:
        raise ValueError(f"--split {split}: {data_root} has the splits {', '.join(splits)}")
    transformers_logging.disable_progress_bar()
    encoder = PersonEncoder.from_pretrained(model, device, trust_remote_code=trust_remote_code)
    if encoder.rendered_only:
        note(RENDERED_NOTE)
    return splits[split], encoder


def load_encoder(
    gallery: Gallery, model: str | None, device: str | None, trust_remote_code: bool = False
) -> PersonEncoder:
    """
    The encoder of a gallery: the model that it names, or `model`, whose own code runs only where it is trusted.

    Raises:
        GalleryError: the gallery was made with another model.
        ModelLoadError: the model cannot be loaded, or not on the device.
    """
    transformers_logging.disable_progress_bar()
    try:
        encoder = PersonEncoder.from_pretrained(
            model or gallery.model_name, device, trust_remote_code=trust_remote_code
        )
    except ModelLoadError as error:
        if model is None:
            raise ModelLoadError(f"{error} (the gallery names this model; give --model if it has moved)") from error
        raise
    gallery.require_model(encoder.model_hash, encoder.name)
    return encoder
