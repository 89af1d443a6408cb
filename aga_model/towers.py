"""Text and vision towers of both families, and attention that also gives the pooled token's row."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import QuickGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.clip.modeling_clip import (
    CLIPMLP,
    CLIPEncoder,
    CLIPPreTrainedModel,
    CLIPTextModel,
    CLIPVisionEmbeddings,
    CLIPVisionModel,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs, maybe_install_capturing_hooks

from .configuration_sections import AgaBertTextConfig, AgaTextConfig, AgaVisionConfig

POOLED_ROW_ATTENTION = "aga_sdpa_pooled_row"


def sdpa_with_pooled_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pooled_index: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """
    SDPA that also returns the attention row of one query per sequence, without the seq x seq maps.

    Args:
        query, key, value: (batch, heads, seq, head_dim).
        attention_mask: (batch, 1, seq, seq), bool or additive, or None.
        pooled_index: (batch,) position of the query whose row is wanted, or (queries, 2) sequence and position of any
            number of them. None skips it.

    Returns:
        (batch, seq, heads, head_dim) and (batch or queries, heads, seq) or None.
    """
    kwargs.pop("output_attentions", None)
    attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if pooled_index is None:
        return attended, None
    causal = kwargs.get("is_causal", getattr(module, "is_causal", False))
    return attended, pooled_row(query, key, attention_mask, pooled_index, scaling, causal)


@torch.no_grad()
def pooled_row(
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    pooled_index: Tensor,
    scaling: float | None,
    causal: bool,
) -> Tensor:
    """
    The attention of single queries, (batch or queries, heads, seq): a statistic for AGM, never a path for gradients.

    Arguments as [`sdpa_with_pooled_row`]; `causal` hides the keys behind the query.
    """
    if pooled_index.dim() == 1:
        sequences, positions = torch.arange(len(query), device=query.device), pooled_index
    else:
        sequences, positions = pooled_index.unbind(dim=1)
        key = key[sequences]
    row_query = query[sequences, :, positions].unsqueeze(2)
    scores = (row_query @ key.transpose(-1, -2)).squeeze(2).float()
    scores = scores * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if attention_mask is not None:
        row_mask = attention_mask.expand(len(query), -1, -1, -1)[sequences, :, positions]
        scores = scores.masked_fill(~row_mask, float("-inf")) if row_mask.dtype == torch.bool else scores + row_mask
    if causal:
        visible = torch.arange(key.shape[2], device=key.device)[None] <= positions[:, None]
        scores = scores.masked_fill(~visible[:, None], float("-inf"))
    return scores.softmax(dim=-1).to(query.dtype)


AttentionInterface.register(POOLED_ROW_ATTENTION, sdpa_with_pooled_row)
AttentionMaskInterface.register(POOLED_ROW_ATTENTION, sdpa_mask)


class LeanQuickGELU(nn.Module):
    """
    x sigmoid(1.702 x), CLIP's activation, as SiLU of the scaled input: one kernel forward and one backward between two
    scalings, and one tensor kept for the backward pass beside the result, where the product keeps two.
    """

    def forward(self, values: Tensor) -> Tensor:
        """(...) to (...)."""
        return F.silu(1.702 * values) / 1.702


class LeanMLP(CLIPMLP):
    """
    CLIP's MLP that keeps one tensor of the inner width for the backward pass, where it would keep two or three: the
    activation is computed a second time, to the same bits, instead of kept for itself and for the second layer.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        expanded = self.fc1(hidden_states)
        # torch.compile decides for itself what to compute twice.
        if not expanded.requires_grad or torch.compiler.is_compiling():
            return self._contracted(expanded)
        # Stops as soon as it has the second layer's input, whose product is not computed again.
        return checkpoint(self._contracted, expanded, use_reentrant=False)

    def _contracted(self, expanded: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(expanded))


def use_lean_layers(model: nn.Module) -> None:
    """Put [`LeanQuickGELU`] and [`LeanMLP`] in the place of every activation and MLP of that form in a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, QuickGELUActivation):
                setattr(module, name, LeanQuickGELU())
            elif type(child) is CLIPMLP:
                child.__class__ = LeanMLP  # not a new module, which would be initialised once more


class OwnStartMixin:
    """A model whose weights begin by all rules of its `_init_weights`."""

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code outside its own package transformers passes over every module that holds no parameter of its own,
        # and so over the rules for attentions, MLPs and heads. It does so for code that writes over loaded weights,
        # which its functions of `initialization` never do.
        super()._initialize_weights(module)


class PooledRowMixin(OwnStartMixin):
    """A tower whose `sdpa` can also return the attention rows of its pooled token."""

    def use_pooled_row(self) -> None:
        """Put it in the place of plain SDPA; after every change of the attention implementation."""
        # Otherwise on first use, which torch.compile cannot trace.
        maybe_install_capturing_hooks(self)  # type: ignore[arg-type]
        config: Any = self.config  # type: ignore[attr-defined]
        if config._attn_implementation == "sdpa":
            config._attn_implementation = POOLED_ROW_ATTENTION

    def set_attn_implementation(self, *args, **kwargs) -> None:
        """As in transformers."""
        super().set_attn_implementation(*args, **kwargs)  # type: ignore[misc]
        self.use_pooled_row()

    def pooled_rows(self, outputs: Any, pooled: Tensor) -> Tensor:
        """
        The pooled token's attention in every layer, (layers, batch, heads, seq).

        Args:
            outputs: of a forward pass with `output_attentions=True, pooled_index=pooled`.
            pooled: (batch,) position of the pooled token, or (captions, 2) its row and position.

        Raises:
            ValueError: the attention implementation gives no attention (only `sdpa` and `eager` do).
        """
        config: Any = self.config  # type: ignore[attr-defined]
        sequences = torch.arange(len(pooled), device=pooled.device) if pooled.dim() == 1 else pooled[:, 0]
        positions = pooled if pooled.dim() == 1 else pooled[:, 1]
        rows = [row if row.dim() == 3 else row[sequences, :, positions] for row in outputs.attentions]
        if len(rows) != config.num_hidden_layers:
            raise ValueError(
                f"attention implementation {config._attn_implementation!r} returns no attention rows, which AGM and "
                f"AWM need; use {POOLED_ROW_ATTENTION!r} (the default) or 'eager' for this tower"
            )
        return torch.stack(rows)


def end_positions(input_ids: Tensor, config) -> Tensor:
    """Position of each caption's first end-of-text token, (batch,)."""
    return (input_ids == config.eos_token_id).int().argmax(dim=-1)


def caption_tokens(input_ids: Tensor, attention_mask: Tensor | None, config) -> Tensor:
    """
    Tokens of a caption with its special tokens but without padding, bool (batch, seq).

    The causal family ends a caption at its first end-of-text, which is also its padding; BERT's follows
    `attention_mask`, or the padding id without one.
    """
    ends = input_ids == config.eos_token_id
    inside = (ends.cumsum(dim=1) - ends.long()) == 0
    if config.pad_token_id not in (None, config.eos_token_id):
        inside = input_ids != config.pad_token_id
    if attention_mask is None:
        return inside
    return attention_mask.bool() if config.pad_token_id != config.eos_token_id else inside & attention_mask.bool()


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
            bias=config.patch_bias,
        )
        rows, columns = config.grid_size
        self.num_patches = rows * columns
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, kept_patches: Tensor | None = None
    ) -> Tensor:
        """
        (batch, channels, height, width) to (batch, patches + 1, dim), class token first.

        Args:
            interpolate_pos_encoding: take an image of another size, with position embeddings for its grid.
            kept_patches: (batch, kept) indices of the patches that go on, with their own position embeddings.
        """
        if tuple(pixel_values.shape[-2:]) != self.image_size and not interpolate_pos_encoding:
            height, width = pixel_values.shape[-2:]
            raise ValueError(
                f"pixel_values are {height}x{width}, the model wants {self.image_size[0]}x{self.image_size[1]} "
                "(height x width); use its AgaProcessor"
            )
        patches = self.patch_embedding(self.stem(pixel_values.to(self.patch_embedding.weight.dtype)))
        positions = self.position_embedding(self.position_ids)
        table = positions[:, 1:]
        if patches.shape[2:] != self.config.grid_size:
            table = self._interpolated(table, patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).transpose(1, 2) + table
        if kept_patches is not None:
            patches = patches.gather(1, kept_patches[..., None].expand(-1, -1, patches.shape[-1]))
        class_token = self.class_embedding + positions[:, :1]
        # Not len(), which an exported graph would keep as a number.
        return torch.cat([class_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    def _interpolated(self, table: Tensor, rows: int, columns: int) -> Tensor:
        """Position embeddings (1, patches, dim) of the own grid on another one, bicubic as in CLIP."""
        grid = table.transpose(1, 2).unflatten(2, self.config.grid_size).float()
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return grid.to(table.dtype).flatten(2).transpose(1, 2)


class AgaVisionModel(PooledRowMixin, CLIPVisionModel):
    """
    CLIP's vision tower on [`AgaVisionEmbeddings`]; with `pre_layernorm=False` it is timm's ViT.

    The pooled token is the class token. Can return its attention rows, and can leave patches out.
    """

    config: AgaVisionConfig
    config_class = AgaVisionConfig

    def __init__(self, config: AgaVisionConfig):
        CLIPPreTrainedModel.__init__(self, config)
        self.embeddings = AgaVisionEmbeddings(config)
        self.pre_layrnorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.pre_layernorm else nn.Identity()
        )
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        use_lean_layers(self)
        self.use_pooled_row()
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        kept_patches: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """
        As in transformers, on a part of the patches.

        Args:
            pixel_values: (batch, channels, height, width).
            interpolate_pos_encoding: take an image of another size than the configured one.
            kept_patches: (batch, kept) indices of the patches that the encoder receives, in order; all when None.
        """
        states = self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding, kept_patches))
        states = self.encoder(inputs_embeds=states, **kwargs).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.post_layernorm(states[:, 0]))

    def pooled_positions(self, pixel_values: Tensor) -> Tensor:
        """Position of each image's class token, (batch,)."""
        return torch.zeros(len(pixel_values), dtype=torch.long, device=pixel_values.device)


class AgaTextModel(PooledRowMixin, CLIPTextModel):
    """CLIP's causal text tower; the pooled token is the end-of-text. Can return its attention rows."""

    config: AgaTextConfig
    config_class = AgaTextConfig
    causal = True

    def __init__(self, config: AgaTextConfig):
        super().__init__(config)
        use_lean_layers(self)
        self.use_pooled_row()

    def pooled_positions(self, input_ids: Tensor) -> Tensor:
        """Position of each caption's pooled token, (batch,)."""
        return end_positions(input_ids, self.config)


class AgaBertTextModel(PooledRowMixin, BertModel):
    """BERT without its pooler; the pooled token is the first one. Can return its attention rows."""

    config: AgaBertTextConfig
    config_class = AgaBertTextConfig
    causal = False

    def __init__(self, config: AgaBertTextConfig):
        super().__init__(config, add_pooling_layer=False)
        self.use_pooled_row()

    def pooled_positions(self, input_ids: Tensor) -> Tensor:
        """Position of each caption's pooled token, (batch,)."""
        return input_ids.new_zeros(input_ids.shape[0])

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """
        As in transformers; padding behind the end of a caption takes no part, also without `attention_mask`.

        A mask (batch, 1, seq, seq) is taken as it is.
        """
        if attention_mask is None or attention_mask.dim() == 2:
            attention_mask = caption_tokens(input_ids, attention_mask, self.config).long()
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


__all__ = [
    "POOLED_ROW_ATTENTION",
    "AgaBertTextModel",
    "AgaTextModel",
    "AgaVisionModel",
    "LeanMLP",
    "LeanQuickGELU",
    "OwnStartMixin",
    "PooledRowMixin",
    "caption_tokens",
    "end_positions",
    "use_lean_layers",
]
