"""Pre-training by AGA and AMNS: the dual encoder with a fusion encoder, its heads, and all losses."""

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_aga import AgaConfig
from .distributed import GlobalBatch, exchange_sizes
from .losses import LOSSES, LossInputs, MomentumEmbeddings, pair_trust
from .matching import draw_negatives, matched_pairs
from .pair_batch import MatchedPairs, MomentumModel, PairBatch
from .pair_model import AgaPairModel

# CLIP clips the inverse temperature at 100 to keep training stable.
MAX_LOGIT_SCALE = math.log(100.0)

Part = TypeVar("Part")

# A field for the sum and for each row of the table of losses.
_LossFields: Any = make_dataclass(
    "_LossFields",
    [("loss", Tensor | None, None), *((f"{name}_loss", Tensor | None, None) for name in LOSSES)],
    bases=(ModelOutput,),
)


@dataclass
class AgaForPreTrainingOutput(_LossFields):
    """
    Output of [`AgaForPreTraining`]. A loss that the configuration does not name is None.

    Args:
        loss (scalar): weighted sum of the losses.
        itc_loss, sdm_loss, bsdm_loss, cmpm_loss, tal_loss, waf_loss, itm_loss, mlm_loss, id_loss (scalars): not
            weighted; one for each row of `LOSSES`.
        logits_per_image (`(batch, batch)`): cosine similarity over temperature within this process's batch.
        image_embeds, text_embeds (`(batch, projection_dim)`): normalised; texts as the alignment losses saw them.
        masked (`bool (batch, seq)`): tokens that the MLM had to predict.
        mask_probabilities (`(batch, seq)`): the policy's probability per token.
        mlm_logits (`(batch, capacity, vocabulary)`): of the tokens at `masked_positions(masked, capacity)`; not with
            `pairs_per_chunk`.
        enriched_input_ids (`(batch, seq)`): captions as TEM left them.
        kept_patches (`(batch, kept)`): indices of the patches that the image encoder received, when not all.
    """

    logits_per_image: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    masked: Tensor | None = None
    mask_probabilities: Tensor | None = None
    mlm_logits: Tensor | None = None
    enriched_input_ids: Tensor | None = None
    kept_patches: Tensor | None = None


def _takes_teacher(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a forward pass take its momentum model by the name that it had before version 0.2."""

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if "teacher" in kwargs:
            warnings.warn("teacher is now called momentum_model", DeprecationWarning, stacklevel=2)
            kwargs["momentum_model"] = kwargs.pop("teacher")
        return forward(*args, **kwargs)

    return wrapped


class AgaForPreTraining(AgaPairModel):
    """
    [`AgaModel`] with a fusion encoder and heads for MLM, ITM and identities, trained by AGA.

    The masked caption goes through the text tower, the fusion encoder attends to the patches and the MLM head predicts
    the masked tokens. AGM chooses them by the class attention of the same step; TEM writes the predictions back into
    the caption for the alignment losses. Source: AGA (arXiv 2412.15106); CLIP family's fusion, SDM and identity head:
    IRRA; BERT family's fusion, ITM and momentum model: ALBEF.

    Example:

    ```python
    >>> batch = processor(images=images, text=captions, return_tensors="pt")
    >>> output = AgaForPreTraining(config)(**batch, person_ids=torch.tensor([0, 1]))
    >>> output.loss.backward()
    ```
    """

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        objective = config.objective_config
        self.identity_head = None
        if objective.num_identities > 0:
            self.identity_head = nn.Linear(config.projection_dim, objective.num_identities)
        # What no gradient reaches, which DistributedDataParallel would wait for.
        if objective.weight("mlm") == 0:
            self.mlm_head.requires_grad_(False)
            if objective.weight("itm") == 0:
                self.fusion.requires_grad_(False)
        if self.itm_head is not None and objective.weight("itm") == 0:
            self.itm_head.requires_grad_(False)
        self.pairs_per_chunk = 0
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.identity_head is not None:
            init.normal_(self.identity_head.weight, std=0.001)
            init.zeros_(self.identity_head.bias)

    @property
    def temperature(self) -> Tensor:
        """Softmax temperature of the alignment losses, a scalar with gradient when it is learnt."""
        return (-self.aga.logit_scale).exp()

    def use_chunks(self, pairs: int) -> None:
        """
        Bound the memory of training steps: of `pairs` pairs at a time, 0 for the whole batch.

        Towers, masking, MLM and TEM then run on one chunk of the batch after another and keep nothing but their
        results; the losses between images and captions run over the whole global batch; in the backward pass each
        chunk is computed again with the same random numbers. The gradients are those of the whole batch at once.
        Source: GradCache (Gao et al., RepL4NLP 2021).

        Raises:
            ValueError: a negative number.
        """
        if pairs < 0:
            raise ValueError(f"chunks have a positive number of pairs, or 0 for the whole batch; got {pairs}")
        self.pairs_per_chunk = pairs

    @_takes_teacher
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        person_ids: Tensor | None = None,
        momentum_model: MomentumModel | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> AgaForPreTrainingOutput:
        """
        Compute the losses that the objective names, over the global batch.

        Args:
            input_ids: (batch, seq); caption i describes image i.
            pixel_values: (batch, channels, height, width).
            attention_mask: (batch, seq), 0 at padding.
            person_ids: (batch,) integers; without them only the diagonal pairs are positives of ITC and ITM.
            momentum_model: its queue takes up the batch; needed in training when the objective has one.
            packing: as [`AgaModel.get_text_features`]; of the whole batch, so not together with [`use_chunks`].

        Raises:
            ValueError: the objective has no loss, or needs `person_ids` or a `momentum_model` and they are missing;
                `packing` in chunks.
        """
        self._check_inputs(person_ids, momentum_model, packing)
        self._bound_temperature()

        def encode(ids: Tensor, pixels: Tensor, mask: Tensor | None) -> PairBatch:
            pairs = PairBatch(ids, pixels, mask, packing)
            self.select_patches(pairs, momentum_model)
            self.read_images(pairs)
            self.read_captions(pairs)
            if self._uses("mlm"):
                self.mask_words(pairs)
                self.predict_words(pairs, momentum_model)
            self.enrich_captions(pairs)
            self.read_with_momentum(pairs, momentum_model)
            pairs.drop_intermediates(keep_states=self._uses("itm"), keep_logits=self.pairs_per_chunk == 0)
            return pairs

        pairs = PairBatch.join(self._in_chunks(encode, input_ids, pixel_values, attention_mask))
        everyone = self._exchange_sizes(pairs)
        given = LossInputs(pairs, person_ids, everyone, self.aga.logit_scale)
        given.weights = self._pair_weights(given)
        aligned = self.align(given, momentum_model)
        given.matched = self.match(given) if self._uses("itm") else None
        return self._output(pairs, self._losses(given, between_views=False) | aligned)

    def _check_inputs(
        self, person_ids: Tensor | None, momentum_model: MomentumModel | None, packing: dict[str, Tensor] | None
    ) -> None:
        objective = self.config.objective_config
        objective.require_losses()
        wanting = objective.needs_person_ids
        wanting += ["itc with a queue"] if objective.queue_size > 0 and self.training else []
        if wanting and person_ids is None:
            raise ValueError(f"the losses {', '.join(wanting)} need person_ids, (batch,) integers")
        if objective.momentum is not None and self.training and momentum_model is None:
            raise ValueError(
                "objective_config.momentum asks for a momentum model in training: pass "
                "momentum_model=aga_model.training.momentum.MomentumModel(model), or leave momentum out"
            )
        if packing is not None and self.pairs_per_chunk:
            raise ValueError("packed captions cannot be read in chunks: leave packing out, or use_chunks(0)")

    def _bound_temperature(self) -> None:
        if self.training:
            with torch.no_grad():
                self.aga.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def _in_chunks(self, function: Callable[..., Part], *columns: Tensor | None) -> list[Part]:
        """Results of a function of tensors (batch, ...); by chunks, each is computed again in the backward pass."""
        size, batch = self.pairs_per_chunk, len(columns[0])
        if not self.training or size == 0 or size >= batch:
            return [function(*columns)]
        starts = range(0, batch, size)
        chunks = [[None if each is None else each[start : start + size] for each in columns] for start in starts]
        # The tensors are arguments because checkpoint keeps the random state of the devices that it sees there.
        return [checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks]

    def _exchange_sizes(self, pairs: PairBatch) -> GlobalBatch:
        # Captions that are padded to the text length are longer than their ids.
        length = (pairs.input_ids if pairs.text_states is None else pairs.text_states).shape[1]
        return exchange_sizes(len(pairs.input_ids), length, pairs.input_ids.device)

    # --- the losses of the global batch

    def _pair_weights(self, given: LossInputs) -> Tensor | None:
        """
        Per-pair weights of the global batch, (global batch,) with mean 1; None where they are uniform.

        From the embeddings of the images and the original captions.
        """
        if not self._weights_pairs():
            return None
        pairs, everyone = given.pairs, given.everyone
        images, texts = everyone.gather(pairs.image.detach()), everyone.gather(pairs.original.detach())
        persons = None if given.person_ids is None else everyone.gather(given.person_ids)
        return pair_trust(images, texts, persons, self.temperature)

    def align(self, given: LossInputs, momentum_model: MomentumModel | None) -> dict[str, Tensor]:
        """The losses between images and captions, mean over the enriched and the original view where both count."""
        pairs, objective = given.pairs, self.config.objective_config
        views = [(pairs.text, pairs.momentum_text)]
        if self._adds_view_now():
            views.append((pairs.original, pairs.momentum_original))
        targets = self._target_model(momentum_model)
        found = []
        for text, momentum_text in views:
            given.view(text, self.temperature)
            if targets is not None and momentum_text is not None:
                soft = given.everyone.gather(pairs.momentum_image), given.everyone.gather(momentum_text)
                given.momentum_embeds = MomentumEmbeddings(*soft, *(targets.past() or ()))
                given.momentum_weight = targets.weight
            found.append(self._losses(given, between_views=True))
        if given.momentum_embeds is not None and objective.queue_size > 0 and self.training:
            momentum_model.remember(*soft, given.all_person_ids)
        return {name: sum(view[name] for view in found) / len(found) for name in found[0]}

    def _losses(self, given: LossInputs, between_views: bool) -> dict[str, Tensor]:
        """Losses of the table, those that read the identity classifier last."""
        objective = self.config.objective_config
        names = [name for name, loss in LOSSES.items() if self._uses(name) and loss.between_views == between_views]
        plain = [name for name in names if not LOSSES[name].classifier(objective)]
        # `id` in front of `waf`: the order of a sum decides its last bit.
        classifying = sorted(name for name in names if LOSSES[name].classifier(objective))
        losses = {name: LOSSES[name].function(given, objective) for name in plain}
        if classifying:
            given.image_logits = self.identity_head(given.pairs.image)
            given.text_logits = self.identity_head(given.text)
        return losses | {name: LOSSES[name].function(given, objective) for name in classifying}

    def match(self, given: LossInputs) -> MatchedPairs:
        """
        ITM of the batch's pairs, and of one hard negative image per caption and one hard negative caption per image.

        The negatives come from the batches of all processes.
        """
        pairs, everyone = given.pairs, given.everyone
        pooled = self.aga.text_model.pooled_positions(pairs.input_ids)
        all_images, all_states = everyone.gather(pairs.image_states), everyone.gather_captions(pairs.text_states)
        all_masks, all_pooled = everyone.gather_captions(pairs.text_mask), everyone.gather(pooled)
        negatives = draw_negatives(pairs, given.person_ids, everyone, self.temperature)

        def match(own: Tensor, other: Tensor, own_images: Tensor, other_images: Tensor) -> tuple[Tensor, Tensor]:
            """Logits of images with their own and another caption, and of captions with another image."""
            # Both captions of an image follow each other, so that its keys and values are computed once.
            both = torch.stack([own, other], dim=1).flatten()
            with_own_image = self.match_logits(all_states[both], all_masks[both], all_pooled[both], own_images)
            with_negative_image = self.match_logits(
                all_states[own], all_masks[own], all_pooled[own], all_images[other_images]
            )
            return with_own_image, with_negative_image

        chunks = self._in_chunks(match, negatives.own, negatives.text, pairs.image_states, negatives.image)
        with_own_image, with_negative_image = (torch.cat(logits) for logits in zip(*chunks))
        return matched_pairs(with_own_image, with_negative_image, negatives, given.own_weights)

    def _output(self, pairs: PairBatch, losses: dict[str, Tensor]) -> AgaForPreTrainingOutput:
        weight = self.config.objective_config.weight
        loss = sum((weight(name) * value for name, value in losses.items()), start=pairs.image.sum() * 0.0)
        image_embeds = nn.functional.normalize(pairs.image, dim=-1)
        text_embeds = nn.functional.normalize(pairs.text, dim=-1)
        return AgaForPreTrainingOutput(
            loss=loss,
            **{f"{name}_loss": losses.get(name) for name in LOSSES},
            logits_per_image=image_embeds @ text_embeds.t() / self.temperature,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            masked=pairs.masked,
            mask_probabilities=pairs.probabilities,
            mlm_logits=pairs.logits,
            enriched_input_ids=pairs.enriched_ids,
            kept_patches=pairs.kept_patches,
        )


AgaForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = ["AgaForPreTraining", "AgaForPreTrainingOutput"]
