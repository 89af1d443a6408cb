"""The typed batches of pre-training: what each pair gives by itself, and what the losses read of all of them."""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .distributed import GlobalBatch
from .embedding_losses import MomentumEmbeddings
from .enrichment import EnrichedRows
from .packing import PackedCaptions


class MomentumModel(Protocol):
    """
    What [`AgaForPreTraining`] asks of its momentum model (`aga_model.training.momentum.MomentumModel`).

    Attributes:
        model: the moving average, an AgaForPreTraining without gradients.
        weight: alpha now, weight of the soft targets.
    """

    model: Any
    weight: float

    def remember(self, image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor) -> None:
        """Put embeddings (global batch, dim) and persons (global batch,) into the queue."""
        ...

    def past(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Image embeddings (queue, dim), text embeddings (queue, dim) and persons (queue,); None while empty."""
        ...


@dataclass
class PairBatch:
    """
    A batch of pairs, or a chunk of one, that the steps of pre-training fill in one after another.

    Caption i describes image i, and the first size of every tensor is the batch. Columns that no loss and no output
    needs are None.

    Args:
        input_ids: (batch, seq).
        pixel_values: (batch, channels, height, width).
        attention_mask: (batch, seq), 0 at padding.
        packing: of `pack_captions` for these captions.
        kept_patches: (batch, kept), indices of the patches that the image tower reads; None for all.
        momentum_vision: the momentum model's outputs for the whole images.
        image: (batch, dim), not normalised.
        image_states: (batch, patches + 1, dim), for the fusion encoder.
        captions: in the rows in which the text tower reads them.
        enriched_rows: those of these rows that TEM enriches.
        text: (batch, dim), not normalised, of the captions as the alignment losses read them first; TEM rewrites it.
        original: (batch, dim), of the captions as they were given, where a loss reads these as well.
        text_states, text_mask: (batch, seq, dim) and bool (batch, seq), for ITM.
        attention: (batch, seq), class attention.
        probabilities, masked: (batch, seq), of masking each token, and bool: the tokens that are masked.
        corrupted: (batch, seq), captions with the masked tokens replaced.
        positions, valid: (batch, capacity), of `masked_positions`.
        logits: (batch, capacity, vocabulary), the MLM's at `positions`.
        predictions: as `logits`, those that TEM writes: of the momentum model where there is one.
        mlm_losses, mlm_counts: (batch,), sum over each caption's masked tokens, and their number.
        enriched_ids: (batch, seq), captions as TEM left them.
        momentum_image, momentum_text, momentum_original: (batch, dim), the momentum model's of images, captions as TEM
            left them, and captions as they were given.
    """

    input_ids: Tensor
    pixel_values: Tensor | None
    attention_mask: Tensor | None = None
    packing: dict[str, Tensor] | None = None
    kept_patches: Tensor | None = None
    momentum_vision: BaseModelOutputWithPooling | None = None
    image: Tensor | None = None
    image_states: Tensor | None = None
    captions: PackedCaptions | None = None
    enriched_rows: EnrichedRows | None = None
    text: Tensor | None = None
    original: Tensor | None = None
    text_states: Tensor | None = None
    text_mask: Tensor | None = None
    attention: Tensor | None = None
    probabilities: Tensor | None = None
    masked: Tensor | None = None
    corrupted: Tensor | None = None
    positions: Tensor | None = None
    valid: Tensor | None = None
    logits: Tensor | None = None
    predictions: Tensor | None = None
    mlm_losses: Tensor | None = None
    mlm_counts: Tensor | None = None
    enriched_ids: Tensor | None = None
    momentum_image: Tensor | None = None
    momentum_text: Tensor | None = None
    momentum_original: Tensor | None = None

    def drop_intermediates(self, keep_states: bool, keep_logits: bool) -> None:
        """
        Let go of what only the steps needed, so that it does not stay in memory.

        Args:
            keep_states: ITM will read the patch states.
            keep_logits: the output has the MLM's logits.
        """
        self.pixel_values = self.momentum_vision = self.captions = self.enriched_rows = self.attention = None
        self.corrupted = self.positions = self.valid = self.predictions = self.packing = None
        if not keep_states:
            self.image_states = None
        if not keep_logits:
            self.logits = None

    @classmethod
    def join(cls, chunks: list["PairBatch"]) -> "PairBatch":
        """The chunks of a batch as one, after [`drop_intermediates`]."""
        if len(chunks) == 1:
            return chunks[0]
        columns = {field.name: [getattr(chunk, field.name) for chunk in chunks] for field in fields(cls)}
        return cls(**{name: None if parts[0] is None else torch.cat(parts) for name, parts in columns.items()})


@dataclass(frozen=True)
class MatchedPairs:
    """
    What ITM is computed from: the batch's pairs and their hard negatives.

    Args:
        logits: (pairs, 2), column 1 for a match.
        labels: bool (pairs,), True for a match.
        weights: (pairs,), 0 for a hard negative that was not found.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor


@dataclass
class LossInputs:
    """
    What losses are computed from: the pairs of this process, and one view of the captions of all processes.

    Args:
        pairs: this process's batch.
        person_ids: (batch,) integers, or None.
        everyone: the sizes of all processes' batches.
        logit_scale: log of the inverse temperature, a scalar.
        weights: (global batch,) per-pair weights with mean 1; uniform if None.
        text: (batch, dim), this process's captions in the view: as TEM left them, or as they were given.
        images, texts: (global batch, dim), not normalised, of all processes.
        all_person_ids: (global batch,), the persons of all processes, or None.
        temperature: softmax temperature, a scalar with gradient when it is learnt.
        momentum_embeds: the momentum model's of the view, where the objective uses its targets.
        momentum_weight: alpha, weight of the momentum model's targets.
        image_logits, text_logits: (batch, identities), of the identity classifier, for the losses that read it.
        matched: for ITM.
    """

    pairs: PairBatch
    person_ids: Tensor | None
    everyone: GlobalBatch
    logit_scale: Tensor
    weights: Tensor | None = None
    text: Tensor | None = None
    images: Tensor | None = None
    texts: Tensor | None = None
    all_person_ids: Tensor | None = None
    temperature: Tensor | None = None
    momentum_embeds: MomentumEmbeddings | None = None
    momentum_weight: float = 0.0
    image_logits: Tensor | None = None
    text_logits: Tensor | None = None
    matched: MatchedPairs | None = None

    def view(self, text: Tensor, temperature: Tensor) -> None:
        """Turn to a view of the captions (batch, dim), and gather it from all processes."""
        self.text, self.temperature = text, temperature
        self.images, self.texts = self.everyone.gather(self.pairs.image), self.everyone.gather(text)
        self.all_person_ids = None if self.person_ids is None else self.everyone.gather(self.person_ids)

    @property
    def own_weights(self) -> Tensor | None:
        """(batch,), this process's part of the weights."""
        return None if self.weights is None else self.everyone.own(self.weights)


__all__ = ["LossInputs", "MatchedPairs", "MomentumModel", "PairBatch"]
