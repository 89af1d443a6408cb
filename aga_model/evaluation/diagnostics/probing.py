"""Looking into a model without changing it: its patch states, and one draw of AGM and TEM."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from aga_model.data import read_crop, to_pixel_values
from aga_model.masking import sample_tokens


@contextmanager
def undisturbed(model, seed: int) -> Iterator[None]:
    """Without gradient, in eval mode, with random numbers of `seed`; leaves mode and random state as they were."""
    training = model.training
    with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def encode_image_files(model, processor, image_paths: Sequence[str]) -> Tensor:
    """Patch states that the fusion encoder attends to, (images, patches + 1, projection_dim)."""
    size = processor.image_processor.size
    crops = [read_crop(path, size["height"], size["width"]) for path in image_paths]
    pixels = torch.from_numpy(to_pixel_values(crops, processor.image_processor)).to(model.device)
    return model.aga.fusion_image_states(model.aga.get_image_features(pixels))


@dataclass(frozen=True)
class EnrichmentDraw:
    """
    What one masking did to a batch of captions.

    Attributes:
        probabilities: float (batch, seq), of masking each token.
        masked: bool (batch, seq).
        enriched: token ids (batch, seq) after TEM.
    """

    probabilities: Tensor
    masked: Tensor
    enriched: Tensor


def enrich_once(model, inputs, image_states: Tensor) -> EnrichmentDraw:
    """
    AGM and TEM as in a training step, with the model's own policies; use within [`undisturbed`].

    Args:
        model: AgaForPreTraining.
        inputs: `input_ids` and `attention_mask` (batch, seq), on the model's device.
        image_states: (batch, patches + 1, projection_dim) of [`encode_image_files`].
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    attention = model.aga.get_text_features_with_attention(ids)[1] if model.masking.needs_attention else None
    probabilities = model.mask_probabilities(ids, mask, attention)
    masked = sample_tokens(probabilities)
    enriched = model.enrichment.enrich(ids, masked, model.predict_masked(ids, image_states, masked))
    return EnrichmentDraw(probabilities, masked, enriched)
