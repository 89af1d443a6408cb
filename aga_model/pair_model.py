"""What pre-training does with each pair by itself: select patches, read, mask, predict and enrich."""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_aga import AgaConfig
from .enrichment import EnrichedRows, TextEnrichment
from .fusion import AgaMLMHead
from .losses import IGNORED, LOSSES, mlm_token_losses
from .masking import (
    MASKING_POLICIES,
    PATCH_SELECTIONS,
    best_patches,
    corrupt_tokens,
    masked_positions,
    ordinary_tokens,
    sample_tokens,
    special_token_ids,
)
from .modeling_fusion import AgaFusionModel
from .packing import PackedCaptions
from .pair_batch import MomentumModel, PairBatch


class AgaPairModel(AgaFusionModel):
    """
    [`AgaFusionModel`] with the MLM head, the masking policies and TEM.

    Its steps fill in a [`PairBatch`], in the order in which they stand here and in docs/methods.md. None of them looks
    at other pairs, so that a batch can be taken in chunks.
    """

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        objective, text_config = config.objective_config, config.text_config
        self.mlm_head = self.family.mlm_head(config.cross_modal_config, text_config.vocab_size)
        if self.family.tied_weights:
            self._tied_weights_keys = dict(self.family.tied_weights)
        self.masking = MASKING_POLICIES[objective.mask_strategy](objective.mask_ratio, objective.mask_max_probability)
        self.patch_selection = PATCH_SELECTIONS[objective.image_mask_strategy]()
        self.enrichment = TextEnrichment(
            objective.enrichment_sampling, objective.enrichment_min_confidence, special_token_ids(text_config)
        )
        self.training_progress = 0.0

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AgaMLMHead):
            module.init_weights()

    def get_output_embeddings(self) -> nn.Linear:
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.mlm_head.decoder = new_embeddings

    @property
    def training_progress(self) -> float:
        """Share of training done in [0, 1], which TEM's start and AWM's end depend on; the trainer sets it."""
        return self._training_progress

    @training_progress.setter
    def training_progress(self, share: float) -> None:
        self._training_progress = share
        # Flags of their own, so that a compiled forward pass depends on them alone and not on every step's share.
        self._enrichment_started = share >= self.config.objective_config.enrichment_start
        self._drops_patches = share < self.config.objective_config.image_keep_until

    # --- what the objective asks for in this step; by settings alone, so that all processes take part in the same
    # collectives

    def _uses(self, loss: str) -> bool:
        return self.config.objective_config.weight(loss) > 0

    def _enriches_now(self) -> bool:
        objective = self.config.objective_config
        if objective.enrichment == "none" or objective.weight("mlm") == 0 or not self.training:
            return False
        return objective.enrichment_probability > 0 and self._enrichment_started

    def _adds_view_now(self) -> bool:
        """Enriched captions are a second view beside the original ones."""
        return self.config.objective_config.enrichment == "add" and self._enriches_now()

    def _weights_pairs(self) -> bool:
        return self.config.objective_config.pair_weighting != "uniform" and self.training

    def _needs_original(self) -> bool:
        """A loss reads the embeddings of the captions as they were given."""
        return self._uses("itm") or self._weights_pairs() or self._adds_view_now()

    def _target_model(self, momentum_model: MomentumModel | None) -> MomentumModel | None:
        """The momentum model where its targets or predictions are used, not its patch scores alone."""
        return momentum_model if self.config.objective_config.uses_momentum_targets else None

    # --- the steps

    @torch.no_grad()
    def select_patches(self, pairs: PairBatch, momentum_model: MomentumModel | None) -> None:
        """AWM: keep the best patches, and what the momentum model says of the whole images where that is used."""
        objective = self.config.objective_config
        selects = objective.image_keep_ratio < 1 and self._drops_patches and self.training
        attention, resolution = None, objective.image_score_resolution
        if momentum_model is not None and selects and self.patch_selection.needs_attention:
            encoder = momentum_model.model.aga
            outputs, attention = encoder.get_image_features_with_attention(pairs.pixel_values, resolution)
            pairs.momentum_vision = outputs if resolution == 1 else None
        if pairs.momentum_vision is None and (targets := self._target_model(momentum_model)) is not None:
            pairs.momentum_vision = targets.model.aga.get_image_features(pairs.pixel_values)
        if selects:
            patches = self.aga.vision_model.embeddings.num_patches
            scores = self.patch_selection.scores(pairs.pixel_values, attention, patches)
            pairs.kept_patches = best_patches(scores, objective.image_keep_ratio)

    def read_images(self, pairs: PairBatch) -> None:
        """The image tower on the patches that were kept."""
        vision = self.aga.get_image_features(pairs.pixel_values, kept_patches=pairs.kept_patches)
        pairs.image = vision.pooler_output
        if self._uses("mlm") or self._uses("itm"):
            pairs.image_states = self.aga.fusion_image_states(vision)

    def read_captions(self, pairs: PairBatch) -> None:
        """
        The text tower on the captions, with the class attention where AGM masks by it.

        Of captions in whose place TEM's will come for good the class attention alone is read, without gradient.
        """
        objective = self.config.objective_config
        pairs.captions = captions = self.aga.packed_captions(pairs.input_ids, pairs.attention_mask, pairs.packing)
        if self._enriches_now():
            pairs.enriched_rows = EnrichedRows.draw(captions.count, objective.enrichment_probability, captions.device)
        if pairs.enriched_rows is not None and not self._needs_original():
            self._read_captions_that_stay(pairs, captions, pairs.enriched_rows)
            return
        outputs, pairs.attention = self._read_captions(pairs, captions)
        pairs.text = outputs.pooler_output
        if self._needs_original():
            pairs.original = pairs.text
        if self._uses("itm"):
            outputs.last_hidden_state = captions.by_caption(outputs.last_hidden_state)
            states, mask = self.caption_states(pairs.input_ids, captions.attention_mask, outputs)
            pairs.text_states = states
            pairs.text_mask = torch.ones_like(states[..., 0], dtype=torch.bool) if mask is None else mask

    def _read_captions_that_stay(self, pairs: PairBatch, captions: PackedCaptions, enriched: EnrichedRows) -> None:
        kept = None
        if enriched.whole < captions.count:
            kept = captions.choose(enriched.others)
            outputs, pairs.attention = self._read_captions(pairs, kept)
            pairs.text = outputs.pooler_output
        if enriched.whole > 0 and (self._reads_attention() or kept is None):
            with torch.no_grad():
                outputs, attention = self._read_captions(pairs, captions.choose(enriched.certain))
            if kept is None:
                pairs.text, pairs.attention = outputs.pooler_output, attention
            elif attention is not None:
                pairs.attention = torch.where(kept.present()[:, None], pairs.attention, attention)

    def _reads_attention(self) -> bool:
        return self._uses("mlm") and self.masking.needs_attention

    def _read_captions(
        self, pairs: PairBatch, captions: PackedCaptions
    ) -> tuple[BaseModelOutputWithPooling, Tensor | None]:
        """The text tower's outputs and, when AGM wants it, the class attention (batch, seq)."""
        if self._reads_attention():
            return self.aga.read_packed_with_attention(pairs.input_ids, captions)
        return self.aga.read_packed(pairs.input_ids, captions), None

    def mask_words(self, pairs: PairBatch) -> None:
        """AGM, or the uniform baseline: draw words and corrupt them by BERT's rule."""
        pairs.probabilities = self.mask_probabilities(pairs.input_ids, pairs.attention_mask, pairs.attention)
        pairs.masked = sample_tokens(pairs.probabilities)
        pairs.corrupted = corrupt_tokens(pairs.input_ids, pairs.masked, self.config.text_config)
        # All tokens but the end of text may be words; as many positions in every step as its longest caption may need.
        capacity = self.masking.capacity(pairs.input_ids.shape[1] - 1)
        pairs.positions, pairs.valid = masked_positions(pairs.masked, capacity)

    def predict_words(self, pairs: PairBatch, momentum_model: MomentumModel | None) -> None:
        """The MLM on the corrupted captions and the images, with the momentum model's soft targets if it has any."""
        reading = pairs.positions, pairs.attention_mask, pairs.packing
        logits = self.mlm_logits(pairs.corrupted, pairs.image_states, *reading)
        labels = torch.where(pairs.valid, pairs.input_ids.gather(1, pairs.positions), IGNORED).flatten()
        pairs.logits = pairs.predictions = logits
        targets = self._target_model(momentum_model)
        if targets is None:
            losses = mlm_token_losses(logits.flatten(0, 1), labels)
        else:
            with torch.no_grad():
                states = targets.model.aga.fusion_image_states(pairs.momentum_vision)
                pairs.predictions = targets.model.mlm_logits(pairs.corrupted, states, *reading)
            predictions = pairs.predictions.flatten(0, 1)
            losses = mlm_token_losses(logits.flatten(0, 1), labels, predictions, targets.weight)
        pairs.mlm_losses, pairs.mlm_counts = losses.view_as(pairs.positions).sum(dim=1), pairs.valid.sum(dim=1)

    def enrich_captions(self, pairs: PairBatch) -> None:
        """TEM: write predictions into a share of the captions and read these again."""
        pairs.enriched_ids = pairs.input_ids
        enriched_rows = pairs.enriched_rows
        if enriched_rows is None:
            return
        chosen = pairs.captions.choose(enriched_rows.read)
        enriched = self.enrichment.enrich(pairs.input_ids, pairs.masked, pairs.predictions)
        embeds = self.aga.read_packed(enriched, chosen).pooler_output
        used = enriched_rows.used(chosen.numbers())[:, None]
        pairs.enriched_ids = torch.where(used, enriched, pairs.input_ids)
        pairs.text = torch.where(used, embeds, pairs.text)

    @torch.no_grad()
    def read_with_momentum(self, pairs: PairBatch, momentum_model: MomentumModel | None) -> None:
        """The momentum model's embeddings of images and captions, for losses between these with soft targets."""
        targets = self._target_model(momentum_model)
        reads = any(self._uses(name) for name, loss in LOSSES.items() if loss.momentum and loss.between_views)
        if targets is None or not reads:
            return
        encoder, reading = targets.model.aga, (pairs.attention_mask, pairs.packing)
        pairs.momentum_image = pairs.momentum_vision.pooler_output.float()
        pairs.momentum_text = encoder.get_text_features(pairs.enriched_ids, *reading).pooler_output.float()
        if self._adds_view_now():
            pairs.momentum_original = encoder.get_text_features(pairs.input_ids, *reading).pooler_output.float()

    # --- parts of the steps

    def mask_probabilities(self, input_ids: Tensor, attention_mask: Tensor | None, attention: Tensor | None) -> Tensor:
        """The masking policy's probability per token, (batch, seq), from the class attention (batch, seq)."""
        ordinary = ordinary_tokens(input_ids, attention_mask, self.config.text_config)
        return self.masking.probabilities(ordinary, attention)

    def mlm_logits(
        self,
        corrupted: Tensor,
        image_states: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """
        MLM logits at some positions of captions.

        Args:
            corrupted: (batch, seq), captions with the masked tokens replaced, as [`corrupt_tokens`] does.
            image_states: (batch, patches + 1, dim) of [`AgaModel.fusion_image_states`].
            positions: (batch, count).
            attention_mask: (batch, seq), optional.
            packing: as [`caption_states`].

        Returns:
            (batch, count, vocabulary).
        """
        fused = self.fuse(corrupted, image_states, attention_mask, packing)
        return self.mlm_head(fused.gather(1, positions[..., None].expand(-1, -1, fused.shape[-1])))

    def predict_masked(self, input_ids: Tensor, image_states: Tensor, masked: Tensor) -> Tensor:
        """
        MLM logits of masked tokens, in captions that are first corrupted by BERT's rule.

        Args:
            input_ids: (batch, seq).
            image_states: (batch, patches + 1, dim) of [`AgaModel.fusion_image_states`].
            masked: bool (batch, seq).

        Returns:
            (batch, most masked tokens of a caption, vocabulary), at [`masked_positions`].
        """
        corrupted = corrupt_tokens(input_ids, masked, self.config.text_config)
        positions, _ = masked_positions(masked, int(masked.sum(dim=1).max()))
        return self.mlm_logits(corrupted, image_states, positions)


__all__ = ["AgaPairModel"]
