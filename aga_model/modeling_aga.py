"""AGA models: what they share, and the dual encoder for retrieval."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_aga import AgaConfig
from .families import FAMILIES, Family
from .losses import itc_loss
from .masking import aggregate_class_attention, ordinary_tokens, patch_attention
from .packing import PackedCaptions
from .towers import POOLED_ROW_ATTENTION, OwnStartMixin, PooledRowMixin

logger = logging.getLogger(__name__)

_NAMED_WEIGHTS = 8  # of those that are left out


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

    @property
    def family(self) -> Family:
        """What this model's parts are."""
        return FAMILIES[self.config.family]

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
            if isinstance(module, PooledRowMixin):
                module.use_pooled_row()

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in transformers; a fusion encoder whose configuration names the vocabulary, too, follows."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.cross_modal_config.follow_vocabulary(self.config.text_config.vocab_size)
        return embeddings

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers; the configuration also names every class that loads from this folder."""
        self.config.auto_map = {
            "AutoConfig": "configuration_aga.AgaConfig",
            "AutoModel": "modeling_aga.AgaModel",
            "AutoModelForPreTraining": "pretraining_aga.AgaForPreTraining",
            "AgaForImageTextRetrieval": "retrieval_aga.AgaForImageTextRetrieval",
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
        family = self.family
        self.text_model = family.text_model._from_config(config.text_config)
        self.vision_model = family.vision_model._from_config(config.vision_config)
        vision_width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.visual_projection = nn.Linear(vision_width, config.projection_dim, bias=family.projection_bias)
        self.text_projection = nn.Linear(text_width, config.projection_dim, bias=family.projection_bias)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.logit_scale.requires_grad_(config.objective_config.learn_temperature)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Not by isinstance: remote code that is loaded twice has two classes of one name.
        if module is self:
            factor = self.config.initializer_factor
            init.normal_(self.text_projection.weight, std=self.config.text_config.hidden_size**-0.5 * factor)
            init.normal_(self.visual_projection.weight, std=self.config.vision_config.hidden_size**-0.5 * factor)
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)

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
        captions = self.packed_captions(input_ids, attention_mask, packing)
        outputs = self.read_packed(input_ids, captions, **kwargs)
        outputs.last_hidden_state = captions.by_caption(outputs.last_hidden_state)
        return outputs

    def packed_captions(
        self, input_ids: Tensor, attention_mask: Tensor | None, packing: dict[str, Tensor] | None
    ) -> PackedCaptions:
        """
        Captions in the rows in which the text tower reads them; arguments as [`get_text_features`].

        Raises:
            ValueError: the text tower's attention implementation cannot read packed captions.
        """
        implementation = self.text_model.config._attn_implementation
        if packing is not None and implementation != POOLED_ROW_ATTENTION:
            raise ValueError(
                f"attention implementation {implementation!r} cannot keep packed captions apart; use "
                f"{POOLED_ROW_ATTENTION!r} (the default), or leave packing out"
            )
        return PackedCaptions(attention_mask, tuple(input_ids.shape), packing, input_ids.device)

    def read_packed(self, input_ids: Tensor, captions: PackedCaptions, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        [`get_text_features`] of captions (batch, seq) in rows of which some may have been chosen.

        `last_hidden_state` and `attentions` are those of the rows; `pooler_output` (batch, projection_dim) has any
        values for a caption that is not in them.
        """
        inputs = captions.inputs(input_ids, self.text_model.causal)
        outputs = self.text_model(**inputs, return_dict=True, **kwargs)
        # Not CLIP's own pooling, which for eos_token_id 2 takes the highest id of the caption.
        pooled = captions.at(outputs.last_hidden_state, self.text_model.pooled_positions(input_ids))
        outputs.pooler_output = self.text_projection(pooled)
        return outputs

    def read_packed_with_attention(
        self, input_ids: Tensor, captions: PackedCaptions
    ) -> tuple[BaseModelOutputWithPooling, Tensor]:
        """[`read_packed`] with the class attention (batch, seq) of [`get_text_features_with_attention`]."""
        pooled = captions.pooled_index(self.text_model.pooled_positions(input_ids))
        outputs = self.read_packed(input_ids, captions, output_attentions=True, pooled_index=pooled)
        attention = captions.attention_by_caption(self.text_model.pooled_rows(outputs, pooled))
        ordinary = ordinary_tokens(input_ids, captions.attention_mask, self.config.text_config)
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
        Encode captions and record which words the pooled token attends to. Arguments as [`get_text_features`].

        Returns:
            the outputs of [`get_text_features`] and the class attention (batch, seq), aggregated over layers, zero at
            special tokens and padding, rows summing to 1.

        Raises:
            ValueError: the attention implementation gives no attention (only `sdpa` and `eager` do).
        """
        captions = self.packed_captions(input_ids, attention_mask, packing)
        outputs, attention = self.read_packed_with_attention(input_ids, captions)
        outputs.last_hidden_state = captions.by_caption(outputs.last_hidden_state)
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
        pooled = self.vision_model.pooled_positions(pixel_values)
        outputs = self.get_image_features(
            pixel_values,
            interpolate_pos_encoding=resolution < 1,
            output_attentions=True,
            pooled_index=pooled,
            return_dict=True,
        )
        attention = patch_attention(self.vision_model.pooled_rows(outputs, pooled))
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
        return self.visual_projection(states) if self.family.fuses_projected_states else states

    def fusion_text_states(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """
        Token states for the fusion encoder from [`get_text_features`].

        (batch, seq, projection_dim) in the joint space for the CLIP family; (batch, seq, text hidden size) for BERT's.
        """
        states: Tensor = outputs.last_hidden_state
        return self.text_projection(states) if self.family.fuses_projected_states else states

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


AgaModel.register_for_auto_class("AutoModel")


def __getattr__(name: str) -> Any:
    """
    The classes that were in this file before version 0.2, for one version more.

    The imports also tell transformers to save these files beside this one, so that a folder of the dual encoder holds
    all classes that its configuration names.
    """
    if name in ("AgaForPreTraining", "AgaForPreTrainingOutput"):
        from .pretraining_aga import AgaForPreTraining, AgaForPreTrainingOutput

        found: Any = {"AgaForPreTraining": AgaForPreTraining, "AgaForPreTrainingOutput": AgaForPreTrainingOutput}[name]
    elif name in ("AgaForImageTextRetrieval", "AgaForImageTextRetrievalOutput"):
        from .retrieval_aga import AgaForImageTextRetrieval, AgaForImageTextRetrievalOutput

        classes = (AgaForImageTextRetrieval, AgaForImageTextRetrievalOutput)
        found = {each.__name__: each for each in classes}[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} has moved to {found.__module__}", DeprecationWarning, stacklevel=2)
    return found


__all__ = ["AgaModel", "AgaOutput", "AgaPreTrainedModel"]
