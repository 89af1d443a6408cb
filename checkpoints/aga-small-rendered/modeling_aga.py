"""AGA models: a dual encoder for retrieval and its pre-training with a fusion encoder, AGM and TEM."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers import initialization as init
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPEncoder,
    CLIPPreTrainedModel,
    CLIPTextModel,
    CLIPVisionEmbeddings,
    CLIPVisionModel,
)
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_aga import AgaConfig, AgaTextConfig, AgaVisionConfig
from .distributed import gather_rows, global_mean
from .enrichment import TextEnrichment
from .fusion import AgaFusionEncoder, AgaMLMHead
from .losses import id_loss, itc_loss, mlm_loss, sdm_loss
from .masking import MASKING_POLICIES, aggregate_class_attention, corrupt_tokens, ordinary_tokens, sample_tokens

# CLIP clips the inverse temperature at 100 to keep training stable.
MAX_LOGIT_SCALE = math.log(100.0)
SUMMARY_ROW_ATTENTION = "aga_sdpa_summary_row"


def sdpa_with_summary_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    summary_index: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """
    SDPA that also returns the attention row of one query per sequence, without the seq x seq maps.

    Args:
        query, key, value: (batch, heads, seq, head_dim).
        summary_index: (batch,) position of the query whose row is wanted; its row covers the tokens up to it (causal).
            None skips it.

    Returns:
        (batch, seq, heads, head_dim) and (batch, heads, seq) or None.
    """
    kwargs.pop("output_attentions", None)
    attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if summary_index is None:
        return attended, None
    batch = torch.arange(len(query), device=query.device)
    # The row is a statistic for AGM, never a path for gradients.
    row_query = query.detach()[batch, :, summary_index].unsqueeze(2)
    scores = (row_query @ key.detach().transpose(-1, -2)).squeeze(2).float()
    scores = scores * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    visible = torch.arange(key.shape[2], device=key.device)[None] <= summary_index[:, None]
    return attended, scores.masked_fill(~visible[:, None], float("-inf")).softmax(dim=-1).to(query.dtype)


AttentionInterface.register(SUMMARY_ROW_ATTENTION, sdpa_with_summary_row)
AttentionMaskInterface.register(SUMMARY_ROW_ATTENTION, sdpa_mask)


def summary_positions(input_ids: Tensor, eos_token_id: int) -> Tensor:
    """Position of each caption's first end-of-text token, (batch,)."""
    return (input_ids == eos_token_id).int().argmax(dim=-1)


def _pooled(states: Tensor, positions: Tensor) -> Tensor:
    """Rows of (batch, seq, dim) at (batch,) positions."""
    return states[torch.arange(len(states), device=states.device), positions]


class AgaVisionEmbeddings(CLIPVisionEmbeddings):
    """Patch and position embeddings on a rectangular grid, optionally behind a convolutional stem."""

    def __init__(self, config: AgaVisionConfig):
        nn.Module.__init__(self)
        self.config = config
        self.embed_dim = config.hidden_size
        self.image_size = config.image_height_width
        self.patch_size = config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(self.embed_dim))
        self.stem = nn.Sequential()
        channels = config.num_channels
        for width in config.stem_channels:
            # GroupNorm over all channels: unlike BatchNorm it does not depend on how a batch is split over processes.
            convolution = nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1, bias=False)
            self.stem.extend([convolution, nn.GroupNorm(1, width), nn.ReLU()])
            channels = width
        halvings = 2 ** len(config.stem_channels)
        self.patch_embedding = nn.Conv2d(
            channels,
            self.embed_dim,
            kernel_size=config.patch_size // halvings,
            stride=config.stride // halvings,
            bias=False,
        )
        rows, columns = config.grid_size
        self.num_patches = rows * columns
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """(batch, channels, height, width) to (batch, patches + 1, dim), class token first."""
        if interpolate_pos_encoding:
            raise ValueError(
                "position embeddings belong to this model's own grid; set vision_config.image_size instead of "
                "interpolating them in each forward"
            )
        if tuple(pixel_values.shape[-2:]) != self.image_size:
            height, width = pixel_values.shape[-2:]
            raise ValueError(
                f"pixel_values are {height}x{width}, the model wants {self.image_size[0]}x{self.image_size[1]} "
                "(height x width); use its AgaProcessor"
            )
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(self.stem(pixel_values)).flatten(2).transpose(1, 2)
        states = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return states + self.position_embedding(self.position_ids)


class AgaVisionModel(CLIPVisionModel):
    """CLIP's vision tower on [`AgaVisionEmbeddings`]."""

    config: AgaVisionConfig
    config_class = AgaVisionConfig

    def __init__(self, config: AgaVisionConfig):
        CLIPPreTrainedModel.__init__(self, config)
        self.embeddings = AgaVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()


class AgaTextModel(CLIPTextModel):
    """CLIP's text tower, able to return the summary token's attention rows."""

    config: AgaTextConfig
    config_class = AgaTextConfig

    def __init__(self, config: AgaTextConfig):
        super().__init__(config)
        self.use_summary_row()

    def use_summary_row(self) -> None:
        """SDPA that can also return the summary row takes the place of plain SDPA."""
        if self.config._attn_implementation == "sdpa":
            self.config._attn_implementation = SUMMARY_ROW_ATTENTION

    def set_attn_implementation(self, *args, **kwargs) -> None:
        """As in transformers."""
        super().set_attn_implementation(*args, **kwargs)
        self.use_summary_row()


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
        itc_loss, sdm_loss, mlm_loss, id_loss (scalars): unweighted.
        logits_per_image (`(batch, batch)`): cosine similarity over temperature within this process's batch.
        image_embeds, text_embeds (`(batch, projection_dim)`): normalised; texts as the alignment losses saw them.
        masked (`bool (batch, seq)`): tokens that the MLM had to predict.
        mask_probabilities (`(batch, seq)`): the policy's probability per token.
        mlm_logits (`(masked tokens, vocabulary)`): in the row-major order of `masked`.
        enriched_input_ids (`(batch, seq)`): captions as TEM left them.
    """

    loss: Tensor | None = None
    itc_loss: Tensor | None = None
    sdm_loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    id_loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    masked: Tensor | None = None
    mask_probabilities: Tensor | None = None
    mlm_logits: Tensor | None = None
    enriched_input_ids: Tensor | None = None


class AgaPreTrainedModel(PreTrainedModel):
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
    _no_split_modules = ("CLIPTextEmbeddings", "CLIPEncoderLayer", "AgaVisionEmbeddings")

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

    def set_attn_implementation(self, *args, **kwargs) -> None:
        """As in transformers; `sdpa` stays able to return the class attention."""
        super().set_attn_implementation(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, AgaTextModel):
                module.use_summary_row()

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers; the configuration also names every class that loads from this folder."""
        self.config.auto_map = {
            "AutoConfig": "configuration_aga.AgaConfig",
            "AutoModel": "modeling_aga.AgaModel",
            "AutoModelForPreTraining": "modeling_aga.AgaForPreTraining",
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
    _keys_to_ignore_on_load_unexpected = (r"^fusion\.", r"^mlm_head\.", r"^identity_head\.")

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        self.text_model = AgaTextModel._from_config(config.text_config)
        self.vision_model = AgaVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.logit_scale.requires_grad_(config.objective_config.learn_temperature)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """
        Encode captions.

        Args:
            input_ids: (batch, seq); each caption holds an end-of-text token, as the processor writes it.
            attention_mask: (batch, seq), optional: the causal tower never looks at padding behind the end.

        Returns:
            `pooler_output` (batch, projection_dim): projected, not normalised; `last_hidden_state` (batch, seq, dim).
        """
        outputs = self.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        # Not the tower's own pooling, which for eos_token_id 2 takes the highest id of the caption.
        summary = summary_positions(input_ids, self.config.text_config.eos_token_id)
        outputs.pooler_output = self.text_projection(_pooled(outputs.last_hidden_state, summary))
        return outputs

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Encode images.

        Args:
            pixel_values: (batch, channels, height, width) of the configured size.

        Returns:
            `pooler_output` (batch, projection_dim): projected, not normalised; `last_hidden_state`
            (batch, patches + 1, dim), class token first.
        """
        outputs = self.vision_model(pixel_values=pixel_values, return_dict=True, **kwargs)
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    def get_text_features_with_attention(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[BaseModelOutputWithPooling, Tensor]:
        """
        Encode captions and record which words the end-of-text token attends to.

        Returns:
            the outputs of [`get_text_features`] and the class attention (batch, seq), aggregated over layers, zero at
            special tokens and padding, rows summing to 1.

        Raises:
            ValueError: the attention implementation gives no attention (only `sdpa` and `eager` do).
        """
        text_config = self.config.text_config
        summary = summary_positions(input_ids, text_config.eos_token_id)
        outputs = self.get_text_features(
            input_ids, attention_mask, output_attentions=True, summary_index=summary, return_dict=True
        )
        rows = [row if row.dim() == 3 else row[torch.arange(len(row)), :, summary] for row in outputs.attentions]
        if len(rows) != text_config.num_hidden_layers:
            raise ValueError(
                f"attention implementation {text_config._attn_implementation!r} returns no attention rows, which AGM "
                f"needs; use {SUMMARY_ROW_ATTENTION!r} (the default) or 'eager' for the text tower"
            )
        ordinary = ordinary_tokens(input_ids, attention_mask, text_config)
        decay = self.config.objective_config.attention_decay
        return outputs, aggregate_class_attention(torch.stack(rows), ordinary, decay)

    def project_image_states(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """Patch states in the joint space, (batch, patches + 1, projection_dim), from [`get_image_features`]."""
        return self.visual_projection(self.vision_model.post_layernorm(outputs.last_hidden_state))

    def project_text_states(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """Token states in the joint space, (batch, seq, projection_dim), from [`get_text_features`]."""
        return self.text_projection(outputs.last_hidden_state)

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


class AgaForPreTraining(AgaPreTrainedModel):
    """
    [`AgaModel`] with a fusion encoder, an MLM head and an identity head, trained by AGA.

    The masked caption goes through the text tower, the fusion encoder attends to the patches and the MLM head predicts
    the masked tokens. AGM chooses them by the class attention of the same step; TEM writes the predictions back into
    the caption for the alignment losses. Source: AGA (arXiv 2412.15106); fusion, SDM and identity head: IRRA.

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
        self.aga = AgaModel._from_config(config)
        self.fusion = AgaFusionEncoder._from_config(config.cross_modal_config)
        self.mlm_head = AgaMLMHead(config.cross_modal_config, text_config.vocab_size)
        self.identity_head = None
        if objective.num_identities > 0:
            self.identity_head = nn.Linear(config.projection_dim, objective.num_identities)
        self.masking = MASKING_POLICIES[objective.mask_strategy](objective.mask_ratio, objective.mask_max_probability)
        special = [text_config.bos_token_id, text_config.eos_token_id, text_config.mask_token_id]
        self.enrichment = TextEnrichment(objective.enrichment_sampling, objective.enrichment_min_confidence, special)
        if objective.weight("mlm") == 0:  # no gradient reaches them, which DistributedDataParallel would wait for
            self.fusion.requires_grad_(False)
            self.mlm_head.requires_grad_(False)
        self.training_progress = 0.0  # share of training done in [0, 1]; the trainer keeps it up to date
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.aga.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.aga.set_input_embeddings(value)

    @property
    def temperature(self) -> Tensor:
        """Softmax temperature of the alignment losses, a scalar with gradient when it is learnt."""
        return (-self.aga.logit_scale).exp()

    def fuse(self, input_ids: Tensor, image_states: Tensor) -> Tensor:
        """
        Caption states after attending to the image, (batch, seq, projection_dim).

        Padding behind the end-of-text takes no part, unless `cross_modal_config.attended_padding_id` says that
        captions are padded to the model's text length and all of it is attended to, as in IRRA.

        Args:
            input_ids: (batch, seq).
            image_states: (batch, patches + 1, projection_dim) of [`AgaModel.project_image_states`].
        """
        text_config, padding_id = self.config.text_config, self.config.cross_modal_config.attended_padding_id
        length = input_ids.shape[1]
        summary = summary_positions(input_ids, text_config.eos_token_id)
        inside = torch.arange(length, device=input_ids.device)[None] <= summary[:, None]
        if padding_id is None:
            text = self.aga.get_text_features(input_ids)  # causal: padding behind the caption changes nothing
            return self.fusion(self.aga.project_text_states(text), image_states, inside)
        padded = input_ids.new_full((len(input_ids), text_config.max_position_embeddings), padding_id)
        padded[:, :length] = torch.where(inside, input_ids, padding_id)
        text = self.aga.get_text_features(padded)
        return self.fusion(self.aga.project_text_states(text), image_states)[:, :length]

    def mask_probabilities(self, input_ids: Tensor, attention_mask: Tensor | None, attention: Tensor | None) -> Tensor:
        """The masking policy's probability per token, (batch, seq), from the class attention (batch, seq)."""
        ordinary = ordinary_tokens(input_ids, attention_mask, self.config.text_config)
        return self.masking.probabilities(ordinary, attention)

    def predict_masked(self, input_ids: Tensor, image_states: Tensor, masked: Tensor) -> Tensor:
        """
        MLM logits at the masked positions of captions corrupted by BERT's rule.

        Args:
            masked: bool (batch, seq).

        Returns:
            (masked tokens, vocabulary) in the row-major order of `masked`.
        """
        corrupted = corrupt_tokens(input_ids, masked, self.config.text_config)
        return self.mlm_head(self.fuse(corrupted, image_states)[masked])

    def _encode_texts(self, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Text embeddings (batch, dim) and, when the masking policy wants it, the class attention (batch, seq)."""
        if self.config.objective_config.weight("mlm") > 0 and self.masking.needs_attention:
            outputs, attention = self.aga.get_text_features_with_attention(input_ids)
            return outputs.pooler_output, attention
        return self.aga.get_text_features(input_ids).pooler_output, None

    def _alignment_losses(self, image: Tensor, text: Tensor, person_ids: Tensor | None) -> dict[str, Tensor]:
        """Losses between image (batch, dim) and text (batch, dim) embeddings over the global batch."""
        objective = self.config.objective_config
        losses = {}
        if objective.weight("itc") > 0 or objective.weight("sdm") > 0:
            all_images, all_texts = gather_rows(image), gather_rows(text)
            all_ids = None if person_ids is None else gather_rows(person_ids)
            if objective.weight("itc") > 0:
                losses["itc"] = itc_loss(all_images, all_texts, all_ids, self.temperature)
            if objective.weight("sdm") > 0:
                losses["sdm"] = sdm_loss(all_images, all_texts, all_ids, self.temperature)
        if objective.weight("id") > 0:
            loss = id_loss(self.identity_head(image), self.identity_head(text), person_ids)
            losses["id"] = global_mean(loss, len(image))
        return losses

    def _enriches_now(self) -> bool:
        objective = self.config.objective_config
        if objective.enrichment == "none" or objective.weight("mlm") == 0 or not self.training:
            return False
        return objective.enrichment_probability > 0 and self.training_progress >= objective.enrichment_start

    def _enriched_texts(
        self, input_ids: Tensor, text: Tensor, masked: Tensor, mlm_logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """TEM: captions (batch, seq) of which a share is enriched, and the embeddings (batch, dim) of these."""
        probability = self.config.objective_config.enrichment_probability
        chosen = torch.rand(len(input_ids), 1, device=input_ids.device) < probability
        enriched = torch.where(chosen, self.enrichment.enrich(input_ids, masked, mlm_logits), input_ids)
        changed = (enriched != input_ids).any(dim=1).nonzero().squeeze(1)
        if len(changed) == 0:
            return enriched, text
        embeds = self.aga.get_text_features(enriched[changed]).pooler_output
        return enriched, text.index_copy(0, changed, embeds.to(text.dtype))

    def _check_person_ids(self, person_ids: Tensor | None) -> None:
        objective = self.config.objective_config
        wanting = [name for name in ("sdm", "id") if objective.weight(name) > 0]
        if wanting and person_ids is None:
            raise ValueError(f"the losses {', '.join(wanting)} need person_ids, (batch,) integers")

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        person_ids: Tensor | None = None,
    ) -> AgaForPreTrainingOutput:
        """
        Compute the losses that the objective names, over the global batch.

        Args:
            input_ids: (batch, seq); caption i describes image i.
            pixel_values: (batch, channels, height, width).
            attention_mask: (batch, seq), 0 at padding.
            person_ids: (batch,) integers; without them only the diagonal pairs are positives of ITC.

        Raises:
            ValueError: a loss needs `person_ids` and they are missing.
        """
        objective = self.config.objective_config
        self._check_person_ids(person_ids)
        if self.training:
            with torch.no_grad():
                self.aga.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        vision = self.aga.get_image_features(pixel_values)
        image = vision.pooler_output
        text, attention = self._encode_texts(input_ids)
        losses: dict[str, Tensor] = {}
        probabilities = masked = mlm_logits = None
        enriched_ids, enriched_text = input_ids, text
        if objective.weight("mlm") > 0:
            probabilities = self.mask_probabilities(input_ids, attention_mask, attention)
            masked = sample_tokens(probabilities)
            image_states = self.aga.project_image_states(vision)
            mlm_logits = self.predict_masked(input_ids, image_states, masked)
            labels = input_ids[masked]
            losses["mlm"] = global_mean(mlm_loss(mlm_logits, labels), len(labels))
            if self._enriches_now():
                enriched_ids, enriched_text = self._enriched_texts(input_ids, text, masked, mlm_logits)
        losses |= self._alignment_losses(image, enriched_text, person_ids)
        # Decided by settings alone, so that all processes take part in the same collectives.
        if objective.enrichment == "add" and self._enriches_now():
            for name, loss in self._alignment_losses(image, text, person_ids).items():
                losses[name] = (losses[name] + loss) / 2
        loss = sum((objective.weight(name) * value for name, value in losses.items()), start=image.sum() * 0.0)
        image_embeds = nn.functional.normalize(image, dim=-1)
        text_embeds = nn.functional.normalize(enriched_text, dim=-1)
        return AgaForPreTrainingOutput(
            loss=loss,
            itc_loss=losses.get("itc"),
            sdm_loss=losses.get("sdm"),
            mlm_loss=losses.get("mlm"),
            id_loss=losses.get("id"),
            logits_per_image=image_embeds @ text_embeds.t() / self.temperature,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            masked=masked,
            mask_probabilities=probabilities,
            mlm_logits=mlm_logits,
            enriched_input_ids=enriched_ids,
        )


AgaModel.register_for_auto_class("AutoModel")
AgaForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = ["AgaForPreTraining", "AgaForPreTrainingOutput", "AgaModel", "AgaOutput", "AgaPreTrainedModel"]
