"""AGA models: a dual encoder for retrieval, its pre-training with a fusion encoder, AGM and TEM, and a re-ranker."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_aga import AgaConfig
from .distributed import GlobalBatch, exchange_sizes, global_mean
from .enrichment import TextEnrichment
from .fusion import AgaBertFusionEncoder, AgaBertMLMHead, AgaFusionEncoder, AgaMLMHead
from .losses import (
    IGNORED,
    TeacherEmbeddings,
    bsdm_loss,
    cmpm_loss,
    id_loss,
    identity_log_probability,
    itc_loss,
    itm_loss,
    match_log_probability,
    mlm_token_losses,
    momentum_itc_loss,
    pair_trust,
    sdm_loss,
    tal_loss,
    waf_loss,
)
from .masking import (
    MASKING_POLICIES,
    PATCH_SELECTIONS,
    aggregate_class_attention,
    best_patches,
    corrupt_tokens,
    masked_positions,
    ordinary_tokens,
    patch_attention,
    sample_tokens,
    special_token_ids,
)
from .matching import hard_negatives
from .packing import CaptionRows
from .towers import (
    SUMMARY_ROW_ATTENTION,
    AgaBertTextModel,
    AgaTextModel,
    AgaVisionModel,
    OwnStartMixin,
    SummaryRowMixin,
    caption_tokens,
    end_positions,
)

logger = logging.getLogger(__name__)

# CLIP clips the inverse temperature at 100 to keep training stable.
MAX_LOGIT_SCALE = math.log(100.0)

_NAMED_WEIGHTS = 8  # of those that are left out

Part = TypeVar("Part")


@dataclass
class AgaOutput(ModelOutput):
    """
    Output of [`AgaModel`].

    Args:
        loss (`torch.FloatTensor`, scalar, with `return_loss=True`): ITC with the diagonal as positives.
        logits_per_image (`(images, texts)`): cosine similarity over temperature.
        logits_per_text (`(texts, images)`): its transpose.
        text_embeds (`(texts, projection_dim)`): normalised.
        image_embeds (`(images, projection_dim)`): normalised.
        text_model_output, vision_model_output: the towers' outputs; `pooler_output` is projected, not normalised.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class AgaForPreTrainingOutput(ModelOutput):
    """
    Output of [`AgaForPreTraining`]. A loss that the configuration does not name is None.

    Args:
        loss (scalar): weighted sum of the losses.
        itc_loss, sdm_loss, bsdm_loss, cmpm_loss, tal_loss, waf_loss, itm_loss, mlm_loss, id_loss (scalars): not
            weighted.
        logits_per_image (`(batch, batch)`): cosine similarity over temperature within this process's batch.
        image_embeds, text_embeds (`(batch, projection_dim)`): normalised; texts as the alignment losses saw them.
        masked (`bool (batch, seq)`): tokens that the MLM had to predict.
        mask_probabilities (`(batch, seq)`): the policy's probability per token.
        mlm_logits (`(batch, capacity, vocabulary)`): of the tokens at `masked_positions(masked, capacity)`; not with
            `pairs_per_chunk`.
        enriched_input_ids (`(batch, seq)`): captions as TEM left them.
        kept_patches (`(batch, kept)`): indices of the patches that the image encoder received, when not all.
    """

    loss: Tensor | None = None
    itc_loss: Tensor | None = None
    sdm_loss: Tensor | None = None
    bsdm_loss: Tensor | None = None
    cmpm_loss: Tensor | None = None
    tal_loss: Tensor | None = None
    waf_loss: Tensor | None = None
    itm_loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    id_loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    masked: Tensor | None = None
    mask_probabilities: Tensor | None = None
    mlm_logits: Tensor | None = None
    enriched_input_ids: Tensor | None = None
    kept_patches: Tensor | None = None


class MomentumModel(Protocol):
    """
    What [`AgaForPreTraining`] asks of its momentum model (`aga_model.training.momentum.MomentumTeacher`).

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


class AgaPreTrainedModel(OwnStartMixin, PreTrainedModel):
    """Shared weight initialisation and saving: one folder serves AutoModel and AutoModelForPreTraining."""

    config: AgaConfig
    config_class = AgaConfig
    base_model_prefix = "aga"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = (
        "AgaBertFusionLayer",
        "AgaVisionEmbeddings",
        "BertEmbeddings",
        "BertLayer",
        "CLIPEncoderLayer",
        "CLIPTextEmbeddings",
    )

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        factor = self.config.initializer_factor
        if isinstance(module, AgaModel):
            init.normal_(module.text_projection.weight, std=self.config.text_config.hidden_size**-0.5 * factor)
            init.normal_(module.visual_projection.weight, std=self.config.vision_config.hidden_size**-0.5 * factor)
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        elif isinstance(module, AgaMLMHead):
            module.init_weights()
        elif isinstance(module, AgaForPreTraining) and module.identity_head is not None:
            init.normal_(module.identity_head.weight, std=0.001)
            init.zeros_(module.identity_head.bias)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args: Any,
        output_loading_info: bool = False,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ):
        """
        As in transformers. Weights of the checkpoint that this class or its configuration has no place for are named
        in the log, but for those that the class leaves out by design.
        """
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
        model, info = loaded
        if left_out := sorted(info["unexpected_keys"]):
            more = f" and {len(left_out) - _NAMED_WEIGHTS} more" if len(left_out) > _NAMED_WEIGHTS else ""
            logger.warning(
                "%s: this %s has no place for %d weights of the checkpoint, which it would not hold when it is saved "
                "again: %s%s",
                pretrained_model_name_or_path,
                cls.__name__,
                len(left_out),
                ", ".join(left_out[:_NAMED_WEIGHTS]),
                more,
            )
        return (model, info) if output_loading_info else model

    def set_attn_implementation(self, *args, **kwargs) -> None:
        """As in transformers; `sdpa` stays able to return the class attention."""
        super().set_attn_implementation(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, SummaryRowMixin):
                module.use_summary_row()

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in transformers; BERT's fusion encoder, whose configuration names the vocabulary too, follows."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        if self.config.family == "bert":
            self.config.cross_modal_config.vocab_size = self.config.text_config.vocab_size
        return embeddings

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers; the configuration also names every class that loads from this folder."""
        self.config.auto_map = {
            "AutoConfig": "configuration_aga.AgaConfig",
            "AutoModel": "modeling_aga.AgaModel",
            "AutoModelForPreTraining": "modeling_aga.AgaForPreTraining",
            "AgaForImageTextRetrieval": "modeling_aga.AgaForImageTextRetrieval",
        }
        super().save_pretrained(save_directory, **kwargs)


class AgaModel(AgaPreTrainedModel):
    """
    Dual encoder for retrieval: a text and an image tower with projections into one space.

    Example:

    ```python
    >>> model = AutoModel.from_pretrained(folder)
    >>> processor = AutoProcessor.from_pretrained(folder)
    >>> image = model.get_image_features(**processor(images=crops, return_tensors="pt")).pooler_output
    >>> text = model.get_text_features(**processor(text=["a man in red"], return_tensors="pt")).pooler_output
    >>> scores = torch.nn.functional.cosine_similarity(text, image)
    ```
    """

    # A checkpoint of AgaForPreTraining holds these beside the dual encoder.
    _keys_to_ignore_on_load_unexpected = (r"^fusion\.", r"^mlm_head\.", r"^identity_head\.", r"^itm_head\.")

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        self.is_bert = config.family == "bert"
        text_class: Any = AgaBertTextModel if self.is_bert else AgaTextModel
        self.text_model = text_class._from_config(config.text_config)
        self.vision_model = AgaVisionModel._from_config(config.vision_config)
        vision_width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.visual_projection = nn.Linear(vision_width, config.projection_dim, bias=self.is_bert)
        self.text_projection = nn.Linear(text_width, config.projection_dim, bias=self.is_bert)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.logit_scale.requires_grad_(config.objective_config.learn_temperature)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        packing: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """
        Encode captions.

        Args:
            input_ids: (batch, seq); each caption holds an end-of-text token, as the processor writes it.
            attention_mask: (batch, seq), optional: padding behind the end takes no part either way.
            packing: of `pack_captions` for these captions, which changes nothing but the time; needs `sdpa`.

        Returns:
            `pooler_output` (batch, projection_dim): projected, not normalised; `last_hidden_state` (batch, seq, dim).
        """
        rows = self.caption_rows(input_ids, attention_mask, packing)
        outputs = self.read_rows(input_ids, rows, **kwargs)
        outputs.last_hidden_state = rows.by_caption(outputs.last_hidden_state)
        return outputs

    def caption_rows(
        self, input_ids: Tensor, attention_mask: Tensor | None, packing: dict[str, Tensor] | None
    ) -> CaptionRows:
        """
        The rows in which the text tower reads captions; arguments as [`get_text_features`].

        Raises:
            ValueError: the text tower's attention implementation cannot read packed captions.
        """
        implementation = self.text_model.config._attn_implementation
        if packing is not None and implementation != SUMMARY_ROW_ATTENTION:
            raise ValueError(
                f"attention implementation {implementation!r} cannot keep packed captions apart; use "
                f"{SUMMARY_ROW_ATTENTION!r} (the default), or leave packing out"
            )
        return CaptionRows(attention_mask, tuple(input_ids.shape), packing, input_ids.device)

    def read_rows(self, input_ids: Tensor, rows: CaptionRows, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        [`get_text_features`] of captions (batch, seq) in rows of which some may have been chosen.

        `last_hidden_state` and `attentions` are those of the rows; `pooler_output` (batch, projection_dim) has any
        values for a caption that is not in them.
        """
        inputs = rows.inputs(input_ids, self.text_model.causal)
        outputs = self.text_model(**inputs, return_dict=True, **kwargs)
        # Not CLIP's own pooling, which for eos_token_id 2 takes the highest id of the caption.
        summary = rows.at(outputs.last_hidden_state, self.text_model.summary_positions(input_ids))
        outputs.pooler_output = self.text_projection(summary)
        return outputs

    def read_rows_with_attention(
        self, input_ids: Tensor, rows: CaptionRows
    ) -> tuple[BaseModelOutputWithPooling, Tensor]:
        """[`read_rows`] with the class attention (batch, seq) of [`get_text_features_with_attention`]."""
        summary = rows.summary_index(self.text_model.summary_positions(input_ids))
        outputs = self.read_rows(input_ids, rows, output_attentions=True, summary_index=summary)
        attention = rows.attention_by_caption(self.text_model.summary_rows(outputs, summary))
        ordinary = ordinary_tokens(input_ids, rows.attention_mask, self.config.text_config)
        return outputs, aggregate_class_attention(attention, ordinary, self.config.objective_config.attention_decay)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Encode images.

        Args:
            pixel_values: (batch, channels, height, width) of the configured size.
            kwargs: `kept_patches` (batch, kept) leaves the other patches out; see [`AgaVisionModel`].

        Returns:
            `pooler_output` (batch, projection_dim): projected, not normalised; `last_hidden_state`
            (batch, patches + 1, dim), class token first.
        """
        outputs = self.vision_model(pixel_values=pixel_values, return_dict=True, **kwargs)
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    def get_text_features_with_attention(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> tuple[BaseModelOutputWithPooling, Tensor]:
        """
        Encode captions and record which words the summary token attends to. Arguments as [`get_text_features`].

        Returns:
            the outputs of [`get_text_features`] and the class attention (batch, seq), aggregated over layers, zero at
            special tokens and padding, rows summing to 1.

        Raises:
            ValueError: the attention implementation gives no attention (only `sdpa` and `eager` do).
        """
        rows = self.caption_rows(input_ids, attention_mask, packing)
        outputs, attention = self.read_rows_with_attention(input_ids, rows)
        outputs.last_hidden_state = rows.by_caption(outputs.last_hidden_state)
        return outputs, attention

    def get_image_features_with_attention(
        self, pixel_values: Tensor, resolution: float = 1.0
    ) -> tuple[BaseModelOutputWithPooling, Tensor]:
        """
        Encode images and record which patches the class token attends to.

        Args:
            pixel_values: (batch, channels, height, width) of the configured size.
            resolution: height and width at which the images are encoded, as a share of theirs.

        Returns:
            the outputs of [`get_image_features`] and the class attention (batch, patches) on the configured grid, mean
            over heads and layers.

        Raises:
            ValueError: the attention implementation gives no attention (only `sdpa` and `eager` do).
        """
        grid = self.config.vision_config.grid_size
        if resolution < 1:
            pixel_values = self._smaller(pixel_values, resolution)
        summary = self.vision_model.summary_positions(pixel_values)
        outputs = self.get_image_features(
            pixel_values,
            interpolate_pos_encoding=resolution < 1,
            output_attentions=True,
            summary_index=summary,
            return_dict=True,
        )
        attention = patch_attention(self.vision_model.summary_rows(outputs, summary))
        if resolution < 1:
            coarse = attention.unflatten(1, self._grid_of(pixel_values))
            attention = nn.functional.interpolate(coarse[:, None], size=grid, mode="bilinear")[:, 0].flatten(1)
        return outputs, attention

    def _smaller(self, pixel_values: Tensor, resolution: float) -> Tensor:
        """Images at a share of their height and width, rounded to whole patches."""
        patch = self.config.vision_config.patch_size
        sides = [max(patch, round(side * resolution / patch) * patch) for side in pixel_values.shape[-2:]]
        return nn.functional.interpolate(pixel_values, size=sides, mode="bilinear", antialias=True)

    def _grid_of(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches of images."""
        vision = self.config.vision_config
        height, width = pixel_values.shape[-2:]
        return vision.patches_along(height), vision.patches_along(width)

    def fusion_image_states(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """
        Patch states for the fusion encoder, class token first, from [`get_image_features`].

        (batch, patches + 1, projection_dim) in the joint space for the CLIP family, as in IRRA; (batch, patches + 1,
        vision hidden size) for the BERT family, as in ALBEF.
        """
        states: Tensor = self.vision_model.post_layernorm(outputs.last_hidden_state)
        return states if self.is_bert else self.visual_projection(states)

    def fusion_text_states(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """
        Token states for the fusion encoder from [`get_text_features`].

        (batch, seq, projection_dim) in the joint space for the CLIP family; (batch, seq, text hidden size) for BERT's.
        """
        states: Tensor = outputs.last_hidden_state
        return states if self.is_bert else self.text_projection(states)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Any,
    ) -> AgaOutput:
        """
        Embed captions and images and score every pair.

        Args:
            input_ids: (texts, seq).
            pixel_values: (images, channels, height, width).
            attention_mask: (texts, seq), optional.
            return_loss: also return the ITC loss, text i belonging to image i.
        """
        if input_ids is None or pixel_values is None:
            raise ValueError("forward needs input_ids and pixel_values; use get_text_features or get_image_features")
        vision = self.get_image_features(pixel_values, **kwargs)
        text = self.get_text_features(input_ids, attention_mask, **kwargs)
        image_embeds = nn.functional.normalize(vision.pooler_output, dim=-1)
        text_embeds = nn.functional.normalize(text.pooler_output, dim=-1)
        logits_per_text = text_embeds @ image_embeds.t() * self.logit_scale.exp()
        loss = None
        if return_loss:
            loss = itc_loss(image_embeds, text_embeds, None, (-self.logit_scale).exp())
        return AgaOutput(
            loss=loss,
            logits_per_image=logits_per_text.t(),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )


class AgaFusionModel(AgaPreTrainedModel):
    """The dual encoder with a fusion encoder on top, shared by pre-training and re-ranking."""

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        fusion_class: Any = AgaBertFusionEncoder if config.family == "bert" else AgaFusionEncoder
        self.aga = AgaModel._from_config(config)
        self.fusion = fusion_class._from_config(config.cross_modal_config)
        self.itm_head = None
        if config.objective_config.has_matching_head:
            self.itm_head = nn.Linear(config.cross_modal_config.hidden_size, 2)

    def post_init(self) -> None:
        """As in transformers, which would take over from the dual encoder inside what that may leave out."""
        super().post_init()
        self._keys_to_ignore_on_load_unexpected = set(type(self)._keys_to_ignore_on_load_unexpected or ())

    def get_input_embeddings(self) -> nn.Module:
        return self.aga.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.aga.set_input_embeddings(value)

    def caption_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        outputs: BaseModelOutputWithPooling | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Token states of captions, ready to be fused with an image.

        Padding behind the end-of-text takes no part, unless `cross_modal_config.attended_padding_id` says that
        captions are padded to the model's text length and all of it is attended to, as in IRRA.

        Args:
            input_ids: (batch, seq).
            attention_mask: (batch, seq), optional.
            outputs: of [`AgaModel.get_text_features`] for these captions, when they are there.
            packing: as [`AgaModel.get_text_features`]; captions that are padded to the text length do without.

        Returns:
            states (batch, seq or text length, dim) and bool of the same first two sizes, or None when all tokens
            take part.
        """
        text_config = self.config.text_config
        padding_id = getattr(self.config.cross_modal_config, "attended_padding_id", None)
        if padding_id is None:
            if outputs is None:
                outputs = self.aga.get_text_features(input_ids, attention_mask, packing)
            return self.aga.fusion_text_states(outputs), caption_tokens(input_ids, attention_mask, text_config)
        length = input_ids.shape[1]
        inside = torch.arange(length, device=input_ids.device)[None] <= end_positions(input_ids, text_config)[:, None]
        padded = input_ids.new_full((len(input_ids), text_config.max_position_embeddings), padding_id)
        padded[:, :length] = torch.where(inside, input_ids, padding_id)
        return self.aga.fusion_text_states(self.aga.get_text_features(padded)), None

    def fuse(
        self,
        input_ids: Tensor,
        image_states: Tensor,
        attention_mask: Tensor | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Caption states after attending to the image, (texts, seq, dim).

        Args:
            input_ids: (texts, seq).
            image_states: (images, patches + 1, dim) of [`AgaModel.fusion_image_states`]; caption i attends to image
                i // (texts / images).
            attention_mask: (texts, seq), optional.
            packing: as [`caption_states`].
        """
        states, mask = self.caption_states(input_ids, attention_mask, packing=packing)
        # Attended padding leaves nothing to spare; BERT's layers attend to the image of each caption in turn.
        spares = packing is not None and mask is not None and not self.aga.is_bert
        shared: dict[str, Any] = {"packing": packing} if spares else {}
        return self.fusion(states, image_states, mask, **shared)[:, : input_ids.shape[1]]

    def match_logits(
        self, text_states: Tensor, text_mask: Tensor | None, summary: Tensor, image_states: Tensor
    ) -> Tensor:
        """
        ITM logits of captions with images, (texts, 2), column 1 for a match.

        Args:
            text_states, text_mask: of [`caption_states`].
            summary: (texts,) position of each caption's summary token.
            image_states: (images, patches + 1, dim); caption i goes with image i // (texts / images).
        """
        if self.itm_head is None:
            raise ValueError(
                "this model has no ITM head: objective_config.loss_weights must give 'itm' a weight in the run that "
                "trains it"
            )
        return self.itm_head(self.fusion.summary_states(text_states, image_states, text_mask, summary))


@dataclass(frozen=True)
class _Texts:
    """
    The captions' first pass through the text tower.

    Args:
        embeds: (batch, dim), any where TEM's words will take the caption's place.
        attention: class attention (batch, seq), or None.
        states: (batch, seq, dim) for the fusion encoder with ITM, else None.
        mask: bool (batch, seq), tokens that take part, with `states`.
    """

    embeds: Tensor
    attention: Tensor | None
    states: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class _MaskedWords:
    """
    One masking of a batch of captions.

    Args:
        probabilities: (batch, seq) of masking each token.
        masked: bool (batch, seq).
        logits: (batch, capacity, vocabulary) at `masked_positions`.
        predictions: the logits that TEM reads, of the momentum model where there is one.
        losses: (batch,), sum over each caption's masked tokens.
        counts: (batch,), masked tokens.
    """

    probabilities: Tensor
    masked: Tensor
    logits: Tensor
    predictions: Tensor
    losses: Tensor
    counts: Tensor


@dataclass(frozen=True)
class _Pairs:
    """
    What each pair gives by itself: all that the losses over the global batch, ITM and the outputs need.

    The first size of every tensor is the batch.

    Args:
        image: (batch, dim), not normalised.
        text: (batch, dim), of the captions as the alignment losses see them first: enriched by TEM.
        ids: (batch, seq) of these captions.
        original: (batch, dim), of the captions as they were, when the losses see these too.
        image_states, text_states, text_mask: for ITM, (batch, patches + 1, dim), (batch, seq, dim) and (batch, seq).
        mlm_losses, mlm_counts: (batch,), sum over each caption's masked tokens and their number.
        probabilities, masked: (batch, seq).
        logits: (batch, capacity, vocabulary), not kept in chunks.
        kept_patches: (batch, kept).
        teacher_image: (batch, dim), the momentum model's, where a loss asks for it.
        teacher_text, teacher_original: (batch, dim), the momentum model's of both kinds of captions.
    """

    image: Tensor
    text: Tensor
    ids: Tensor
    original: Tensor | None = None
    image_states: Tensor | None = None
    text_states: Tensor | None = None
    text_mask: Tensor | None = None
    mlm_losses: Tensor | None = None
    mlm_counts: Tensor | None = None
    probabilities: Tensor | None = None
    masked: Tensor | None = None
    logits: Tensor | None = None
    kept_patches: Tensor | None = None
    teacher_image: Tensor | None = None
    teacher_text: Tensor | None = None
    teacher_original: Tensor | None = None

    @classmethod
    def join(cls, chunks: list["_Pairs"]) -> "_Pairs":
        """The chunks of a batch as one."""
        if len(chunks) == 1:
            return chunks[0]
        columns = {field.name: [getattr(chunk, field.name) for chunk in chunks] for field in fields(cls)}
        return cls(**{name: None if parts[0] is None else torch.cat(parts) for name, parts in columns.items()})


class AgaForPreTraining(AgaFusionModel):
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
        objective, text_config = config.objective_config, config.text_config
        self.mlm_head: AgaMLMHead | AgaBertMLMHead
        if config.family == "bert":
            self.mlm_head = AgaBertMLMHead(config.cross_modal_config, text_config.vocab_size)
            self._tied_weights_keys = {
                "mlm_head.decoder.weight": "aga.text_model.embeddings.word_embeddings.weight",
            }
        else:
            self.mlm_head = AgaMLMHead(config.cross_modal_config, text_config.vocab_size)
        self.identity_head = None
        if objective.num_identities > 0:
            self.identity_head = nn.Linear(config.projection_dim, objective.num_identities)
        self.masking = MASKING_POLICIES[objective.mask_strategy](objective.mask_ratio, objective.mask_max_probability)
        self.patch_selection = PATCH_SELECTIONS[objective.image_mask_strategy]()
        self.enrichment = TextEnrichment(
            objective.enrichment_sampling, objective.enrichment_min_confidence, special_token_ids(text_config)
        )
        # What no gradient reaches, which DistributedDataParallel would wait for.
        if objective.weight("mlm") == 0:
            self.mlm_head.requires_grad_(False)
            if not objective.has_matching_head:
                self.fusion.requires_grad_(False)
        self.pairs_per_chunk = 0
        self.training_progress = 0.0
        self.post_init()

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

    @property
    def temperature(self) -> Tensor:
        """Softmax temperature of the alignment losses, a scalar with gradient when it is learnt."""
        return (-self.aga.logit_scale).exp()

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

    def _itc_loss(
        self,
        images: Tensor,
        texts: Tensor,
        person_ids: Tensor | None,
        teacher: MomentumModel | None,
        teacher_embeds: tuple[Tensor, Tensor] | None,
        weights: Tensor | None,
    ) -> Tensor:
        """ITC over the global batch, with the momentum model's targets when there is one."""
        if teacher is None or teacher_embeds is None:
            return itc_loss(images, texts, person_ids, self.temperature, weights)
        embeddings = TeacherEmbeddings(*teacher_embeds, *(teacher.past() or ()))
        return momentum_itc_loss(images, texts, person_ids, self.temperature, embeddings, teacher.weight, weights)

    def _pair_weights(self, pairs: _Pairs, person_ids: Tensor | None, everyone: GlobalBatch) -> Tensor | None:
        """
        What each pair of the global batch counts, (global batch,) of mean 1; None where all count alike.

        From the embeddings of the images and the original captions.
        """
        if not self._weights_pairs():
            return None
        ids = None if person_ids is None else everyone.gather(person_ids)
        images, texts = everyone.gather(pairs.image.detach()), everyone.gather(pairs.original.detach())
        return pair_trust(images, texts, ids, self.temperature)

    def _weights_pairs(self) -> bool:
        return self.config.objective_config.pair_weighting != "uniform" and self.training

    def _masked_words_loss(self, pairs: _Pairs, everyone: GlobalBatch, weights: Tensor | None) -> Tensor:
        """MLM over the global batch, mean over the masked tokens; `weights` are of [`_pair_weights`]."""
        losses, count = pairs.mlm_losses, pairs.mlm_counts.sum()
        if weights is not None:
            losses = losses * everyone.own(weights).to(losses)
        return global_mean(losses.sum() / count.clamp(min=1), count)

    def _alignment_losses(
        self,
        image: Tensor,
        text: Tensor,
        person_ids: Tensor | None,
        everyone: GlobalBatch,
        teacher: MomentumModel | None = None,
        teacher_embeds: tuple[Tensor, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Losses between image (batch, dim) and text (batch, dim) embeddings over the global batch.

        `teacher_embeds` are those of the momentum model for the global batch, images and texts; `weights` are of
        [`_pair_weights`].
        """
        objective, temperature = self.config.objective_config, self.temperature
        images, texts = everyone.gather(image), everyone.gather(text)
        ids = None if person_ids is None else everyone.gather(person_ids)
        losses = {}
        if objective.weight("itc") > 0:
            losses["itc"] = self._itc_loss(images, texts, ids, teacher, teacher_embeds, weights)
        if objective.weight("sdm") > 0:
            losses["sdm"] = sdm_loss(images, texts, ids, temperature, weights)
        if objective.weight("bsdm") > 0:
            kl_weights = tuple(objective.bsdm_kl_weights)
            losses["bsdm"] = bsdm_loss(images, texts, ids, temperature, kl_weights, weights)
        if objective.weight("cmpm") > 0:
            losses["cmpm"] = cmpm_loss(images, texts, ids, weights)
        if objective.weight("tal") > 0:
            losses["tal"] = tal_loss(images, texts, ids, temperature, objective.tal_margin, weights)
        if objective.weight("waf") > 0 and objective.waf_target == "match":
            probability = match_log_probability(images, texts, ids, temperature)
            losses["waf"] = waf_loss(probability, objective.waf_gamma, objective.waf_weighting)
        if objective.needs_identity_head:
            losses |= self._identity_losses(image, text, person_ids, everyone, weights)
        return losses

    def _identity_losses(
        self, image: Tensor, text: Tensor, person_ids: Tensor, everyone: GlobalBatch, weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Losses that read the identity classifier of images and texts (batch, dim), over the global batch."""
        objective, losses = self.config.objective_config, {}
        image_logits, text_logits = self.identity_head(image), self.identity_head(text)
        if objective.weight("id") > 0:
            own = None if weights is None else everyone.own(weights)
            losses["id"] = global_mean(id_loss(image_logits, text_logits, person_ids, own), len(image))
        if objective.weight("waf") > 0 and objective.waf_target == "identity":
            probability = everyone.gather(identity_log_probability(image_logits, text_logits, person_ids))
            losses["waf"] = waf_loss(probability, objective.waf_gamma, objective.waf_weighting)
        return losses

    def _matching_loss(
        self,
        pairs: _Pairs,
        input_ids: Tensor,
        person_ids: Tensor | None,
        everyone: GlobalBatch,
        weights: Tensor | None,
    ) -> Tensor:
        """
        ITM of the batch's pairs, and of one hard negative image per caption and one hard negative caption per image.

        The negatives come from the batches of all processes.
        """
        batch, offset = len(input_ids), everyone.first_row
        summary = self.aga.text_model.summary_positions(input_ids)
        all_images, all_states = everyone.gather(pairs.image_states), everyone.gather_captions(pairs.text_states)
        all_masks, all_summaries = everyone.gather_captions(pairs.text_mask), everyone.gather(summary)
        with torch.no_grad():
            images = everyone.gather(nn.functional.normalize(pairs.image.float(), dim=-1))
            texts = everyone.gather(nn.functional.normalize(pairs.original.float(), dim=-1))
            numbers = torch.arange(len(images), device=images.device)
            persons = numbers if person_ids is None else everyone.gather(person_ids)
            rows = slice(offset, offset + batch)
            same = persons[rows, None] == persons[None, :]
            logits = texts[rows] @ images.t() / self.temperature
            negative_image, found_image = hard_negatives(logits, same)
            negative_text, found_text = hard_negatives(images[rows] @ texts.t() / self.temperature, same)
        own = numbers[rows]

        def match(own: Tensor, other: Tensor, own_images: Tensor, other_images: Tensor) -> tuple[Tensor, Tensor]:
            """Logits of images with their own and another caption, and of captions with another image."""
            # Both captions of an image follow each other, so that its keys and values are computed once.
            both = torch.stack([own, other], dim=1).flatten()
            with_own_image = self.match_logits(all_states[both], all_masks[both], all_summaries[both], own_images)
            with_negative_image = self.match_logits(
                all_states[own], all_masks[own], all_summaries[own], all_images[other_images]
            )
            return with_own_image, with_negative_image

        logits_of_chunks = self._in_chunks(match, own, negative_text, pairs.image_states, negative_image)
        first_logits, second_logits = zip(*logits_of_chunks)
        matches = torch.ones(batch, dtype=torch.bool, device=own.device)
        labels = torch.cat([torch.stack([matches, ~matches], dim=1).flatten(), ~matches])
        own_weights = torch.ones(batch, device=own.device) if weights is None else everyone.own(weights)
        # A wrong pair is no match; a mismatch stays one.
        counted = torch.cat([torch.stack([own_weights, found_text.float()], dim=1).flatten(), found_image.float()])
        loss = itm_loss(torch.cat([*first_logits, *second_logits]), labels, counted)
        return global_mean(loss, counted.sum())

    def _in_chunks(self, function: Callable[..., Part], *columns: Tensor | None) -> list[Part]:
        """Results of a function of tensors (batch, ...); by chunks, each is computed again in the backward pass."""
        size, batch = self.pairs_per_chunk, len(columns[0])
        if not self.training or size == 0 or size >= batch:
            return [function(*columns)]
        starts = range(0, batch, size)
        chunks = [[None if each is None else each[start : start + size] for each in columns] for start in starts]
        # The tensors are arguments because checkpoint keeps the random state of the devices that it sees there.
        return [checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks]

    def _enriches_now(self) -> bool:
        objective = self.config.objective_config
        if objective.enrichment == "none" or objective.weight("mlm") == 0 or not self.training:
            return False
        return objective.enrichment_probability > 0 and self._enrichment_started

    def _check_inputs(self, person_ids: Tensor | None, teacher: MomentumModel | None) -> None:
        objective = self.config.objective_config
        wanting = objective.needs_person_ids
        wanting += ["itc with a queue"] if objective.queue_size > 0 and self.training else []
        if wanting and person_ids is None:
            raise ValueError(f"the losses {', '.join(wanting)} need person_ids, (batch,) integers")
        if objective.momentum is not None and self.training and teacher is None:
            raise ValueError(
                "objective_config.momentum asks for a momentum model in training: pass "
                "teacher=aga_model.training.momentum.MomentumTeacher(model), or leave momentum out"
            )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        person_ids: Tensor | None = None,
        teacher: MomentumModel | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> AgaForPreTrainingOutput:
        """
        Compute the losses that the objective names, over the global batch.

        Args:
            input_ids: (batch, seq); caption i describes image i.
            pixel_values: (batch, channels, height, width).
            attention_mask: (batch, seq), 0 at padding.
            person_ids: (batch,) integers; without them only the diagonal pairs are positives of ITC and ITM.
            teacher: the momentum model, whose queue takes up the batch; needed in training when the objective has one.
            packing: as [`AgaModel.get_text_features`]; of the whole batch, so not together with [`use_chunks`].

        Raises:
            ValueError: the objective has no loss, or needs `person_ids` or a `teacher` and they are missing; `packing`
                in chunks.
        """
        objective = self.config.objective_config
        objective.require_losses()
        self._check_inputs(person_ids, teacher)
        if packing is not None and self.pairs_per_chunk:
            raise ValueError("packed captions cannot be read in chunks: leave packing out, or use_chunks(0)")
        if self.training:
            with torch.no_grad():
                self.aga.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

        def encode(ids: Tensor, pixels: Tensor, mask: Tensor | None) -> _Pairs:
            return self._encode_pairs(ids, pixels, mask, teacher, packing)

        pairs = _Pairs.join(self._in_chunks(encode, input_ids, pixel_values, attention_mask))
        # Captions that are padded to the text length are longer than their ids.
        length = input_ids.shape[1] if pairs.text_states is None else pairs.text_states.shape[1]
        everyone = exchange_sizes(len(input_ids), length, input_ids.device)
        weights = self._pair_weights(pairs, person_ids, everyone)
        losses: dict[str, Tensor] = {}
        if pairs.mlm_losses is not None:
            losses["mlm"] = self._masked_words_loss(pairs, everyone, weights)
        if objective.has_matching_head:
            losses["itm"] = self._matching_loss(pairs, input_ids, person_ids, everyone, weights)
        losses |= self._view_losses(pairs, person_ids, everyone, teacher, weights)
        loss = sum((objective.weight(name) * value for name, value in losses.items()), start=pairs.image.sum() * 0.0)
        image_embeds = nn.functional.normalize(pairs.image, dim=-1)
        text_embeds = nn.functional.normalize(pairs.text, dim=-1)
        return AgaForPreTrainingOutput(
            loss=loss,
            itc_loss=losses.get("itc"),
            sdm_loss=losses.get("sdm"),
            bsdm_loss=losses.get("bsdm"),
            cmpm_loss=losses.get("cmpm"),
            tal_loss=losses.get("tal"),
            waf_loss=losses.get("waf"),
            itm_loss=losses.get("itm"),
            mlm_loss=losses.get("mlm"),
            id_loss=losses.get("id"),
            logits_per_image=image_embeds @ text_embeds.t() / self.temperature,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            masked=pairs.masked,
            mask_probabilities=pairs.probabilities,
            mlm_logits=pairs.logits,
            enriched_input_ids=pairs.ids,
            kept_patches=pairs.kept_patches,
        )

    def _view_losses(
        self,
        pairs: _Pairs,
        person_ids: Tensor | None,
        everyone: GlobalBatch,
        teacher: MomentumModel | None,
        weights: Tensor | None,
    ) -> dict[str, Tensor]:
        """The losses between images and captions, mean over the enriched and the original view where both count."""
        objective = self.config.objective_config
        views = [(pairs.text, pairs.teacher_text)]
        if objective.enrichment == "add" and self._enriches_now():
            views.append((pairs.original, pairs.teacher_original))
        guide = teacher if objective.teacher_guides else None
        found = []
        targets = None
        for text, teacher_text in views:
            if teacher_text is not None:
                targets = everyone.gather(pairs.teacher_image), everyone.gather(teacher_text)
            found.append(self._alignment_losses(pairs.image, text, person_ids, everyone, guide, targets, weights))
        if teacher is not None and targets is not None and objective.queue_size > 0 and self.training:
            teacher.remember(*targets, everyone.gather(person_ids))
        return {name: sum(view[name] for view in found) / len(found) for name in found[0]}

    def _encode_pairs(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None,
        teacher: MomentumModel | None,
        packing: dict[str, Tensor] | None,
    ) -> _Pairs:
        """All that concerns each pair by itself; arguments as [`forward`]."""
        objective = self.config.objective_config
        guide = teacher if objective.teacher_guides else None
        teacher_vision, kept = self._select_patches(pixel_values, teacher)
        vision = self.aga.get_image_features(pixel_values, kept_patches=kept)
        rows = self.aga.caption_rows(input_ids, attention_mask, packing)
        matches = objective.has_matching_head
        # Decided by settings alone, so that all processes take part in the same collectives.
        enriches = self._enriches_now()
        order = torch.rand(rows.count, device=input_ids.device).argsort() if enriches else None
        needs_original = matches or self._weights_pairs() or (enriches and objective.enrichment == "add")
        # Where an enriched caption takes the original's place for good, no gradient reaches the original's pass.
        replaces = enriches and not needs_original
        texts = self._encode_texts(input_ids, rows, order if replaces else None)
        found: dict[str, Tensor | None] = {"image": vision.pooler_output, "text": texts.embeds, "ids": input_ids}
        image_states = None
        if objective.weight("mlm") > 0 or matches:
            image_states = self.aga.fusion_image_states(vision)
        if matches:
            found |= {"image_states": image_states, "text_states": texts.states, "text_mask": texts.mask}
        if objective.weight("mlm") > 0:
            words = self._masked_words(
                input_ids, attention_mask, texts.attention, image_states, guide, teacher_vision, packing
            )
            found |= {"mlm_losses": words.losses, "mlm_counts": words.counts}
            found |= {"probabilities": words.probabilities, "masked": words.masked}
            found["logits"] = None if self.pairs_per_chunk else words.logits
            if enriches:
                found["ids"], found["text"] = self._enriched_texts(input_ids, texts.embeds, rows, order, words)
        if needs_original:
            found["original"] = texts.embeds
        if guide is not None and objective.weight("itc") > 0:
            found |= self._teacher_embeds(guide, teacher_vision, found["ids"], input_ids, attention_mask, packing)
        return _Pairs(kept_patches=kept, **found)

    def _enriched_rows(self, rows: CaptionRows) -> tuple[int, float]:
        """How many rows of captions are enriched in any case, and the probability that one more is."""
        share = self.config.objective_config.enrichment_probability * rows.count
        return math.floor(share), share - math.floor(share)

    def _encode_texts(self, input_ids: Tensor, rows: CaptionRows, order: Tensor | None) -> _Texts:
        """
        The captions' first pass.

        Args:
            input_ids: (batch, seq).
            rows: of these captions.
            order: (rows,) random, when those of the first rows will be replaced by enriched ones.
        """
        attends = self.config.objective_config.weight("mlm") > 0 and self.masking.needs_attention
        if order is None:
            outputs, attention = self._read(input_ids, rows, attends)
            states, mask = None, None
            if self.config.objective_config.has_matching_head:
                outputs.last_hidden_state = rows.by_caption(outputs.last_hidden_state)
                states, mask = self.caption_states(input_ids, rows.attention_mask, outputs)
                mask = torch.ones_like(states[..., 0], dtype=torch.bool) if mask is None else mask
            return _Texts(outputs.pooler_output, attention, states, mask)
        replaced, _ = self._enriched_rows(rows)
        embeds, attention = None, None
        if replaced < rows.count:
            kept = rows.choose(order[replaced:])
            outputs, attention = self._read(input_ids, kept, attends)
            embeds = outputs.pooler_output
        if replaced > 0 and (attends or embeds is None):
            with torch.no_grad():
                outputs, others = self._read(input_ids, rows.choose(order[:replaced]), attends)
            if embeds is None:
                embeds, attention = outputs.pooler_output, others
            elif attends:
                attention = torch.where(kept.present()[:, None], attention, others)
        return _Texts(embeds, attention, None, None)

    def _read(
        self, input_ids: Tensor, rows: CaptionRows, attends: bool
    ) -> tuple[BaseModelOutputWithPooling, Tensor | None]:
        """The text tower's outputs and, when AGM wants it, the class attention (batch, seq)."""
        if attends:
            return self.aga.read_rows_with_attention(input_ids, rows)
        return self.aga.read_rows(input_ids, rows), None

    def _enriched_texts(
        self, input_ids: Tensor, text: Tensor, rows: CaptionRows, order: Tensor, words: _MaskedWords
    ) -> tuple[Tensor, Tensor]:
        """
        TEM: captions (batch, seq) of which those in a share of the rows are enriched, and embeddings (batch, dim).

        How many rows are read does not depend on the draw, so that shapes are the same in every step; of the last one
        the words may go unused.
        """
        whole, rest = self._enriched_rows(rows)
        chosen = rows.choose(order[: whole + (1 if rest > 0 else 0)])
        enriched = self.enrichment.enrich(input_ids, words.masked, words.predictions)
        embeds = self.aga.read_rows(enriched, chosen).pooler_output
        number, one_more = chosen.numbers(), torch.rand((), device=text.device) < rest
        counts = ((number >= 0) & ((number < whole) | one_more))[:, None]
        return torch.where(counts, enriched, input_ids), torch.where(counts, embeds, text)

    @torch.no_grad()
    def _select_patches(
        self, pixel_values: Tensor, teacher: MomentumModel | None
    ) -> tuple[BaseModelOutputWithPooling | None, Tensor | None]:
        """
        What the momentum model's image encoder says of the whole images, where something asks for it, and AWM's
        selection of patches (batch, kept), None for all.
        """
        objective = self.config.objective_config
        selects = objective.image_keep_ratio < 1 and self._drops_patches and self.training
        attention, vision, resolution = None, None, objective.image_score_resolution
        if teacher is not None and selects and self.patch_selection.needs_attention:
            outputs, attention = teacher.model.aga.get_image_features_with_attention(pixel_values, resolution)
            vision = outputs if resolution == 1 else None
        if teacher is not None and vision is None and objective.teacher_guides:
            vision = teacher.model.aga.get_image_features(pixel_values)
        if not selects:
            return vision, None
        patches = self.aga.vision_model.embeddings.num_patches
        scores = self.patch_selection.scores(pixel_values, attention, patches)
        return vision, best_patches(scores, objective.image_keep_ratio)

    def _masked_words(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        attention: Tensor | None,
        image_states: Tensor,
        teacher: MomentumModel | None,
        teacher_vision: BaseModelOutputWithPooling | None,
        packing: dict[str, Tensor] | None,
    ) -> _MaskedWords:
        """Mask a batch of captions and predict what was masked."""
        probabilities = self.mask_probabilities(input_ids, attention_mask, attention)
        masked = sample_tokens(probabilities)
        corrupted = corrupt_tokens(input_ids, masked, self.config.text_config)
        # All tokens but the end of text may be words; as many positions in every step as its longest caption may need.
        positions, valid = masked_positions(masked, self.masking.capacity(input_ids.shape[1] - 1))
        logits = self.mlm_logits(corrupted, image_states, positions, attention_mask, packing)
        labels = torch.where(valid, input_ids.gather(1, positions), IGNORED).flatten()
        predictions = logits
        if teacher is None:
            losses = mlm_token_losses(logits.flatten(0, 1), labels)
        else:
            with torch.no_grad():
                states = teacher.model.aga.fusion_image_states(teacher_vision)
                predictions = teacher.model.mlm_logits(corrupted, states, positions, attention_mask, packing)
            losses = mlm_token_losses(logits.flatten(0, 1), labels, predictions.flatten(0, 1), teacher.weight)
        return _MaskedWords(
            probabilities, masked, logits, predictions, losses.view_as(positions).sum(dim=1), valid.sum(dim=1)
        )

    @torch.no_grad()
    def _teacher_embeds(
        self,
        teacher: MomentumModel,
        vision: BaseModelOutputWithPooling,
        ids: Tensor,
        original_ids: Tensor,
        attention_mask: Tensor | None,
        packing: dict[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """The momentum model's embeddings (batch, dim) of images, captions, and original captions where they count."""
        encode = teacher.model.aga.get_text_features
        found = {
            "teacher_image": vision.pooler_output.float(),
            "teacher_text": encode(ids, attention_mask, packing).pooler_output.float(),
        }
        if self.config.objective_config.enrichment == "add" and self._enriches_now():
            found["teacher_original"] = encode(original_ids, attention_mask, packing).pooler_output.float()
        return found


@dataclass
class AgaForImageTextRetrievalOutput(ModelOutput):
    """
    Output of [`AgaForImageTextRetrieval`].

    Args:
        logits (`(batch, 2)`): of ITM, column 1 for a match.
        image_embeds, text_embeds (`(batch, projection_dim)`): of the dual encoder, normalised.
    """

    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class AgaForImageTextRetrieval(AgaFusionModel):
    """
    [`AgaModel`] with the fusion encoder and the ITM head, to re-rank what the dual encoder finds.

    A checkpoint of [`AgaForPreTraining`] trained with the loss `itm` loads into it.

    Example:

    ```python
    >>> model = AgaForImageTextRetrieval.from_pretrained(folder)
    >>> batch = processor(images=crops, text=["a man in red"] * len(crops), return_tensors="pt")
    >>> scores = model.score(**batch)
    ```
    """

    _keys_to_ignore_on_load_unexpected = (r"^mlm_head\.", r"^identity_head\.")

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        if self.itm_head is None:
            raise ValueError(
                "objective_config.loss_weights does not name 'itm' with a weight above 0: this checkpoint has no "
                "ITM head to re-rank with; train one with that loss, or use AgaModel"
            )
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None
    ) -> AgaForImageTextRetrievalOutput:
        """
        Match caption i with image i.

        Args:
            input_ids: (batch, seq).
            pixel_values: (batch, channels, height, width).
            attention_mask: (batch, seq), 0 at padding.
        """
        if len(input_ids) != len(pixel_values):
            raise ValueError(f"caption i goes with image i, got {len(input_ids)} captions, {len(pixel_values)} images")
        vision, text = self.aga.get_image_features(pixel_values), self.aga.get_text_features(input_ids, attention_mask)
        states, mask = self.caption_states(input_ids, attention_mask, text)
        summary = self.aga.text_model.summary_positions(input_ids)
        return AgaForImageTextRetrievalOutput(
            logits=self.match_logits(states, mask, summary, self.aga.fusion_image_states(vision)),
            image_embeds=nn.functional.normalize(vision.pooler_output, dim=-1),
            text_embeds=nn.functional.normalize(text.pooler_output, dim=-1),
        )

    @torch.no_grad()
    def score(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Log-odds that caption i describes image i, (batch,) float32, without gradients."""
        logits = self(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask).logits.float()
        return logits[:, 1] - logits[:, 0]


AgaModel.register_for_auto_class("AutoModel")
AgaForPreTraining.register_for_auto_class("AutoModelForPreTraining")
# transformers has no Auto class for image-text matching: the entry names the class for get_class_from_dynamic_module.
AgaForImageTextRetrieval._auto_class = "AgaForImageTextRetrieval"

__all__ = [
    "AgaForImageTextRetrieval",
    "AgaForImageTextRetrievalOutput",
    "AgaForPreTraining",
    "AgaForPreTrainingOutput",
    "AgaModel",
    "AgaOutput",
    "AgaPreTrainedModel",
]
