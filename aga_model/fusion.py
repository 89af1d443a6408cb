"""Fusion encoders: caption states and patch states in, fused caption states out."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertIntermediate,
    BertOutput,
    BertPredictionHeadTransform,
)
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, eager_attention_forward

from .configuration_sections import AgaBertFusionConfig, AgaFusionConfig
from .packing import pack_states, same_caption, unpack_states
from .towers import OwnStartMixin, use_lean_layers


def _init_linear(layer: nn.Linear, std: float) -> None:
    init.normal_(layer.weight, std=std)
    init.zeros_(layer.bias)


class AgaCrossAttention(nn.Module):
    """Multi-head attention with queries from the caption and keys and values from the patches."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def _split_heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, states: Tensor, context: Tensor, **kwargs) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            states: (batch, seq, dim), the queries.
            context: (batch, patches, dim), keys and values.

        Returns:
            (batch, seq, dim) and, with eager attention, the weights (batch, heads, seq, patches).
        """
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(
            self,
            self._split_heads(self.q_proj(states)),
            self._split_heads(self.k_proj(context)),
            self._split_heads(self.v_proj(context)),
            None,
            scaling=self.scale,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(attended.reshape(states.shape)), weights


def token_rows(states: Tensor, positions: Tensor) -> Tensor:
    """Rows of (batch, seq, dim) at (batch,) positions."""
    return states[torch.arange(states.shape[0], device=states.device), positions]


def _by_image(text_states: Tensor, image_states: Tensor) -> Tensor:
    """
    Token states of captions, (texts, seq, dim), with those of one image in one row, (images, texts/images * seq, dim).

    Keys and values of an image are then computed once for all of its captions.
    """
    if len(text_states) % max(1, len(image_states)):
        raise ValueError(
            f"{len(text_states)} captions cannot be shared out evenly among {len(image_states)} images: the fusion "
            "encoder takes one caption per image, or the same number of consecutive captions for each"
        )
    return text_states.reshape(len(image_states), -1, text_states.shape[-1])


class AgaFusionEncoder(OwnStartMixin, PreTrainedModel):
    """
    IRRA's interaction encoder: LN of both inputs, one cross-attention, pre-LN self-attention blocks, LN.

    Source: IRRA (CVPR 2023), section 3.3. `config.cross_attention_residual` adds the caption states to the
    cross-attention's output, which IRRA does not.
    """

    config: AgaFusionConfig
    config_class = AgaFusionConfig
    base_model_prefix = "fusion"
    takes_packing = True
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: AgaFusionConfig):
        super().__init__(config)
        self.text_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.image_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attn = AgaCrossAttention(config)
        self.layers = nn.ModuleList([CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        use_lean_layers(self)
        self.post_init()

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The modules whose second output, with eager attention, says what each token attends to in the image."""
        return [self.cross_attn]

    @property
    def image_projections(self) -> list[nn.Linear]:
        """The layers that make keys and values of the patches, once for all captions of an image."""
        return [self.cross_attn.k_proj, self.cross_attn.v_proj]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's text initialisation, as IRRA uses it."""
        super()._init_weights(module)
        width = self.config.hidden_size
        residual_std = width**-0.5 * (2 * max(1, self.config.num_hidden_layers)) ** -0.5
        if isinstance(module, AgaCrossAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                _init_linear(projection, width**-0.5)
            _init_linear(module.out_proj, residual_std)
        elif isinstance(module, CLIPEncoderLayer):
            attention, mlp = module.self_attn, module.mlp
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                _init_linear(projection, width**-0.5)
            _init_linear(attention.out_proj, residual_std)
            _init_linear(mlp.fc1, (2 * width) ** -0.5)
            _init_linear(mlp.fc2, residual_std)

    def forward(
        self,
        text_states: Tensor,
        image_states: Tensor,
        attention_mask: Tensor | None = None,
        packing: dict[str, Tensor] | None = None,
        **kwargs,
    ) -> Tensor:
        """
        Args:
            text_states: (texts, seq, dim), projected token states of the captions.
            image_states: (images, patches + 1, dim), projected patch states with the class token first; caption i
                attends to image i // (texts / images).
            attention_mask: (texts, seq), 0 or False where a token takes no part; None when all do.
            packing: of `pack_captions` for these captions, whose padding then costs the blocks nothing; read with
                `sdpa` alone, the results are the same.

        Returns:
            (texts, seq, dim).
        """
        states, mask = self._cross(text_states, image_states, attention_mask, **kwargs)
        packed = packing is not None and self.config._attn_implementation == "sdpa"
        if packed:
            states, mask = pack_states(states, packing), same_caption(packing["captions"])
        for layer in self.layers:
            states = layer(states, mask, is_causal=False, **kwargs)
        states = self.final_layer_norm(states)
        return unpack_states(states, packing) if packed else states

    def pooled_states(
        self, text_states: Tensor, image_states: Tensor, attention_mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        """
        What [`forward`] gives at one token of each caption, (texts, dim), without the last layer's MLP on the others.

        Args:
            positions: (texts,) of the tokens.
        """
        states, mask = self._cross(text_states, image_states, attention_mask)
        for layer in self.layers[:-1]:
            states = layer(states, mask, is_causal=False)
        for layer in self.layers[-1:]:
            attended, _ = layer.self_attn(layer.layer_norm1(states), mask, is_causal=False)
            states = token_rows(states + attended, positions)
            states = states + layer.mlp(layer.layer_norm2(states))
        return self.final_layer_norm(states if states.ndim == 2 else token_rows(states, positions))

    def _cross(
        self, text_states: Tensor, image_states: Tensor, attention_mask: Tensor | None, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """Caption states after the cross-attention (texts, seq, dim), and the mask of the layers behind it."""
        queries = _by_image(self.text_layer_norm(text_states), image_states)
        states, _ = self.cross_attn(queries, self.image_layer_norm(image_states), **kwargs)
        states = states.reshape(text_states.shape)
        if self.config.cross_attention_residual:
            states = states + text_states
        mask: Any = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        return states, mask


class AgaMLMHead(nn.Module):
    """Linear, activation, LN, Linear to the vocabulary, as in IRRA."""

    def __init__(self, config, vocab_size: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, vocab_size)
        use_lean_layers(self)

    @torch.no_grad()
    def init_weights(self) -> None:
        """IRRA's initialisation."""
        width = self.dense.in_features
        _init_linear(self.dense, (2 * width) ** -0.5)
        _init_linear(self.decoder, width**-0.5 * (2 * 4) ** -0.5)

    def forward(self, states: Tensor) -> Tensor:
        """(..., dim) to (..., vocabulary)."""
        return self.decoder(self.layer_norm(self.activation(self.dense(states))))


class AgaBertFusionLayer(GradientCheckpointingLayer):
    """A layer of BERT with a cross-attention to the patches between its self-attention and its feed-forward."""

    def __init__(self, config: AgaBertFusionConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.crossattention = BertAttention(config, is_cross_attention=True)
        if config.encoder_width != config.hidden_size:
            cross = self.crossattention.self
            cross.key = nn.Linear(config.encoder_width, cross.all_head_size)
            cross.value = nn.Linear(config.encoder_width, cross.all_head_size)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, states: Tensor, mask: Tensor | None, image_states: Tensor, **kwargs) -> Tensor:
        """(texts, seq, dim) and (images, patches + 1, encoder_width) to (texts, seq, dim)."""
        states, _ = self.attention(states, mask, **kwargs)
        attended, _ = self.crossattention(
            _by_image(states, image_states), encoder_hidden_states=image_states, **kwargs
        )
        states = attended.reshape(states.shape)
        return self.output(self.intermediate(states), states)

    def pooled_states(self, states: Tensor, mask: Tensor | None, image_states: Tensor, positions: Tensor) -> Tensor:
        """What the layer gives at one token of each caption, (texts, dim); only that token attends to the patches."""
        attended, _ = self.attention(states, mask)
        rows = token_rows(attended, positions)[:, None]
        crossed, _ = self.crossattention(_by_image(rows, image_states), encoder_hidden_states=image_states)
        rows = crossed.reshape(rows.shape)[:, 0]
        return self.output(self.intermediate(rows), rows)


class AgaBertFusionEncoder(OwnStartMixin, PreTrainedModel):
    """
    The upper half of BERT, each layer attending to the patches: post-LN self-attention, cross-attention, feed-forward.

    Source: ALBEF (NeurIPS 2021), section 3.1; RaSa (IJCAI 2023) uses the same.
    """

    config: AgaBertFusionConfig
    config_class = AgaBertFusionConfig
    base_model_prefix = "fusion"
    takes_packing = False  # its layers attend to the image of each caption in turn
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: AgaBertFusionConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([AgaBertFusionLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The modules whose second output, with eager attention, says what each token attends to in the image."""
        return [layer.crossattention for layer in self.layers]

    @property
    def image_projections(self) -> list[nn.Linear]:
        """The layers that make keys and values of the patches, once for all captions of an image."""
        attentions = [layer.crossattention.self for layer in self.layers]
        return [projection for attention in attentions for projection in (attention.key, attention.value)]

    def forward(
        self, text_states: Tensor, image_states: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> Tensor:
        """
        Args:
            text_states: (texts, seq, dim), token states of the text tower.
            image_states: (images, patches + 1, encoder_width), patch states with the class token first; caption i
                attends to image i // (texts / images).
            attention_mask: (texts, seq), 0 or False where a token takes no part; None when all do.

        Returns:
            (texts, seq, dim).
        """
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=text_states, attention_mask=attention_mask)
        states = text_states
        for layer in self.layers:
            states = layer(states, mask, image_states, **kwargs)
        return states

    def pooled_states(
        self, text_states: Tensor, image_states: Tensor, attention_mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        """
        What [`forward`] gives at one token of each caption, (texts, dim), with the last layer for that token alone.

        Args:
            positions: (texts,) of the tokens.
        """
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=text_states, attention_mask=attention_mask)
        states = text_states
        for layer in self.layers[:-1]:
            states = layer(states, mask, image_states)
        return self.layers[-1].pooled_states(states, mask, image_states, positions)


class AgaBertMLMHead(nn.Module):
    """BERT's MLM head; its last matrix is the word embedding unless the configuration says otherwise."""

    def __init__(self, config: AgaBertFusionConfig, vocab_size: int):
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """(..., dim) to (..., vocabulary)."""
        return self.decoder(self.transform(states))


__all__ = ["AgaBertFusionEncoder", "AgaBertMLMHead", "AgaFusionEncoder", "AgaMLMHead", "token_rows"]
