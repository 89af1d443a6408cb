"""
The training step as the field writes it, in plain PyTorch: IRRA's recipe (CVPR 2023) and, on top of it, AGM and TEM.

What the field does: captions padded to the text length, a second full text pass for the masked caption, the MLM head
and a float32 cross-entropy over all positions, attention maps of all tokens where attention is wanted, and a forward
pass of its own for words that are to be written into a caption. [`Recipe`] switches each of these off alone.

[`ReferenceModel`] takes over the weights of an `AgaForPreTraining`, so that the losses of both can be compared; for
the same reason padding takes no part in its fusion encoder, in which IRRA attends to it. Attention without maps is
`scaled_dot_product_attention`, as `nn.MultiheadAttention` computes it today.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.enrichment import TextEnrichment
from aga_model.masking import (
    AttentionGuidedMasking,
    aggregate_class_attention,
    corrupt_tokens,
    masked_positions,
    ordinary_tokens,
    sample_tokens,
    special_token_ids,
)


@dataclass(frozen=True)
class Recipe:
    """
    How the step is computed.

    Args:
        padded: captions have the text length; else that of the longest of the batch.
        head_everywhere: the MLM head and its loss see all positions; else the masked ones.
        class_attention: what AGM reads: `none` for random masks, the attention `maps` of all tokens, or the `row` of
            the end-of-text token.
        enrichment: TEM's words: `none`, from an `own_pass` through text tower and fusion encoder, or from the
            `shared_pass` of the MLM.
        fused_optimizer: Adam's update in one kernel.
    """

    padded: bool = True
    head_everywhere: bool = True
    class_attention: str = "none"
    enrichment: str = "none"
    fused_optimizer: bool = False


class QuickGELU(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "quick_gelu": QuickGELU,
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
}


class Attention(nn.Module):
    """Multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, states: Tensor, context: Tensor | None = None, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """(batch, seq, dim), attending to `context` or to themselves; `mask` (batch, 1, 1, keys) is True to attend."""
        query, key, value = self._project(states, context)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self._join(attended)

    def with_maps(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Causal attention the eager way, and its maps (batch, heads, seq, seq)."""
        query, key, value = self._project(states, None)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        return self._join(weights @ value), weights

    def with_row(self, states: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Causal attention, and the row (batch, heads, seq) of one query per caption."""
        query, key, value = self._project(states, None)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        with torch.no_grad():
            rows = torch.arange(len(states), device=states.device)
            scores = (query[rows, :, position, None] @ key.transpose(-1, -2)).squeeze(2) * query.shape[-1] ** -0.5
            later = torch.arange(states.shape[1], device=states.device)[None] > position[:, None]
            weights = scores.masked_fill(later[:, None], float("-inf")).softmax(dim=-1)
        return self._join(attended), weights

    def _project(self, states: Tensor, context: Tensor | None) -> list[Tensor]:
        if context is None:
            parts = self.in_proj(states).chunk(3, dim=-1)
        else:
            width = states.shape[-1]
            weight, bias = self.in_proj.weight, self.in_proj.bias
            key, value = F.linear(context, weight[width:], bias[width:]).chunk(2, dim=-1)
            parts = (F.linear(states, weight[:width], bias[:width]), key, value)
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]

    def _join(self, attended: Tensor) -> Tensor:
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """CLIP's pre-LN transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: str, epsilon: float):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=epsilon)
        self.c_fc = nn.Linear(width, mlp_width)
        self.activation = ACTIVATIONS[activation]()
        self.c_proj = nn.Linear(mlp_width, width)

    def forward(self, states: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        return self._mlp(states + self.attn(self.ln_1(states), mask=mask, causal=causal))

    def with_maps(self, states: Tensor) -> tuple[Tensor, Tensor]:
        attended, maps = self.attn.with_maps(self.ln_1(states))
        return self._mlp(states + attended), maps

    def with_row(self, states: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        attended, row = self.attn.with_row(self.ln_1(states), position)
        return self._mlp(states + attended), row

    def _mlp(self, states: Tensor) -> Tensor:
        return states + self.c_proj(self.activation(self.c_fc(self.ln_2(states))))


def blocks(config, count: int) -> nn.ModuleList:
    """`count` blocks of a tower's configuration."""
    sizes = config.hidden_size, config.num_attention_heads, config.intermediate_size
    return nn.ModuleList([Block(*sizes, config.hidden_act, config.layer_norm_eps) for _ in range(count)])


class VisionTower(nn.Module):
    """CLIP's ViT on a rectangular image, behind an optional convolutional stem; all tokens are projected."""

    def __init__(self, config, dim: int):
        super().__init__()
        width, halvings = config.hidden_size, 2 ** len(config.stem_channels)
        self.stem = nn.Sequential()
        channels = config.num_channels
        for wide in config.stem_channels:
            self.stem.extend([nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.GroupNorm(1, wide), nn.ReLU()])
            channels = wide
        size, stride = config.patch_size // halvings, config.stride // halvings
        self.patches = nn.Conv2d(channels, width, size, stride, bias=config.patch_bias)
        rows, columns = config.grid_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(rows * columns + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.blocks = blocks(config, config.num_hidden_layers)
        self.ln_post = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, patches + 1, dim)."""
        patches = self.patches(self.stem(images)).flatten(2).transpose(1, 2)
        summary = self.class_embedding.expand(len(patches), 1, -1)
        states = self.ln_pre(torch.cat([summary, patches], dim=1) + self.positions)
        for block in self.blocks:
            states = block(states)
        return self.projection(self.ln_post(states))


class TextTower(nn.Module):
    """CLIP's causal text tower; all tokens are projected."""

    def __init__(self, config, dim: int):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(config.max_position_embeddings, config.hidden_size))
        self.blocks = blocks(config, config.num_hidden_layers)
        self.ln_final = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, seq) to (batch, seq, dim)."""
        states = self._embed(ids)
        for block in self.blocks:
            states = block(states, causal=True)
        return self.projection(self.ln_final(states))

    def with_class_attention(self, ids: Tensor, ends: Tensor, way: str) -> tuple[Tensor, Tensor]:
        """States, and the end-of-text token's attention (layers, batch, heads, seq) by `maps` or by its `row`."""
        states, rows = self._embed(ids), []
        for block in self.blocks:
            if way == "maps":
                states, maps = block.with_maps(states)
                rows.append(maps[torch.arange(len(ids), device=ids.device), :, ends].detach())
            else:
                states, row = block.with_row(states, ends)
                rows.append(row)
        return self.projection(self.ln_final(states)), torch.stack(rows)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.words(ids) + self.positions[: ids.shape[1]]


class Fusion(nn.Module):
    """IRRA's interaction encoder: LN of both inputs, a cross-attention, blocks, LN."""

    def __init__(self, config):
        super().__init__()
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.residual = config.cross_attention_residual
        self.ln_pre_t = nn.LayerNorm(width, eps=epsilon)
        self.ln_pre_i = nn.LayerNorm(width, eps=epsilon)
        self.cross_attn = Attention(width, config.num_attention_heads)
        self.blocks = blocks(config, config.num_hidden_layers)
        self.ln_post = nn.LayerNorm(width, eps=epsilon)

    def forward(self, text: Tensor, image: Tensor, inside: Tensor) -> Tensor:
        """(batch, seq, dim), (batch, patches + 1, dim) and bool (batch, seq) to (batch, seq, dim)."""
        states = self.cross_attn(self.ln_pre_t(text), self.ln_pre_i(image))
        if self.residual:
            states = states + text
        for block in self.blocks:
            states = block(states, mask=inside[:, None, None])
        return self.ln_post(states)


class MLMHead(nn.Module):
    """Linear, activation, LN, Linear to the vocabulary."""

    def __init__(self, config, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]()
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc = nn.Linear(config.hidden_size, vocabulary)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc(self.ln(self.activation(self.dense(states))))


def sdm(image: Tensor, text: Tensor, persons: Tensor, scale: float) -> Tensor:
    """IRRA's similarity distribution matching of float32 embeddings (batch, dim), in float32 also under autocast."""
    labels = (persons[:, None] == persons[None]).float()
    log_target = torch.log(labels / labels.sum(dim=1) + 1e-8)
    image, text = (rows / rows.norm(dim=1, keepdim=True) for rows in (image, text))
    with torch.autocast(image.device.type, enabled=False):
        text_to_image = scale * (text @ image.t())
    loss = image.new_zeros(())
    for logits in (text_to_image, text_to_image.t()):
        loss = loss + (F.softmax(logits, 1) * (F.log_softmax(logits, 1) - log_target)).sum(dim=1).mean()
    return loss


class ReferenceModel(nn.Module):
    """
    IRRA's model: towers, interaction encoder, MLM head, identity classifier.

    Args:
        config: of a model of the `clip` family with `num_identities`; gives all sizes.
    """

    def __init__(self, config: AgaConfig):
        super().__init__()
        self.text_config, self.objective = config.text_config, config.objective_config
        self.vision = VisionTower(config.vision_config, config.projection_dim)
        self.text = TextTower(config.text_config, config.projection_dim)
        self.fusion = Fusion(config.cross_modal_config)
        self.mlm_head = MLMHead(config.cross_modal_config, config.text_config.vocab_size)
        self.classifier = nn.Linear(config.projection_dim, self.objective.num_identities)
        self.scale = torch.tensor(config.logit_scale_init_value).exp().item()
        self.policy = AttentionGuidedMasking(self.objective.mask_ratio, self.objective.mask_max_probability)
        self.enrichment = TextEnrichment("sample", 0.0, special_token_ids(config.text_config))

    @torch.no_grad()
    def load_from(self, model: AgaForPreTraining) -> "ReferenceModel":
        """Take over the weights of a model of the same configuration; every weight of both has its counterpart."""
        theirs = {name: value for name, value in model.state_dict().items() if name != "aga.logit_scale"}
        for name, value in self.state_dict().items():
            value.copy_(torch.cat([theirs.pop(key).reshape(-1) for key in counterparts(name)]).view_as(value))
        if theirs:
            raise ValueError(f"weights without a counterpart: {', '.join(sorted(theirs)[:5])}")
        return self

    def losses(self, batch: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """
        SDM, ID and MLM of a batch.

        Args:
            batch: `pixel_values`, `input_ids`, `attention_mask`, `person_ids`, and `masked` and `corrupted` (batch,
                seq), the masks that IRRA's data loader draws; AGM draws its own.
            recipe: how it is computed.
        """
        device = batch["input_ids"].device
        order = torch.rand(len(batch["input_ids"]), device=device).argsort() if recipe.enrichment != "none" else None
        images = self.vision(batch["pixel_values"])
        ids, inside = batch["input_ids"], batch["attention_mask"].bool()
        texts, masked, corrupted = self._masks(batch, recipe)
        logits = self._mlm_logits(corrupted, images, inside, masked, recipe)
        labels = torch.where(masked, ids, -100) if recipe.head_everywhere else ids[masked]
        losses = {"mlm": F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=-100)}
        text, image = self._summary(texts, ids).float(), images[:, 0].float()
        if order is not None:
            text = self._enriched(batch, text, images, masked, corrupted, logits, order, recipe)
        persons = batch["person_ids"]
        losses["sdm"] = sdm(image, text, persons, self.scale)
        image_logits, text_logits = self.classifier(image).float(), self.classifier(text).float()
        losses["id"] = (F.cross_entropy(image_logits, persons) + F.cross_entropy(text_logits, persons)) / 2
        return losses

    def _summary(self, states: Tensor, ids: Tensor) -> Tensor:
        return states[torch.arange(len(ids), device=ids.device), self._ends(ids)]

    def _ends(self, ids: Tensor) -> Tensor:
        return (ids == self.text_config.eos_token_id).int().argmax(dim=-1)

    def _masks(self, batch: dict[str, Tensor], recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
        """Token states of the captions, which tokens are masked, and the captions with these replaced."""
        ids = batch["input_ids"]
        if recipe.class_attention == "none":
            return self.text(ids), batch["masked"], batch["corrupted"]
        states, rows = self.text.with_class_attention(ids, self._ends(ids), recipe.class_attention)
        ordinary = ordinary_tokens(ids, batch["attention_mask"], self.text_config)
        attention = aggregate_class_attention(rows, ordinary, self.objective.attention_decay)
        masked = sample_tokens(self.policy.probabilities(ordinary, attention))
        return states, masked, corrupt_tokens(ids, masked, self.text_config)

    def _mlm_logits(self, corrupted: Tensor, images: Tensor, inside: Tensor, masked: Tensor, recipe: Recipe) -> Tensor:
        fused = self.fusion(self.text(corrupted), images, inside)
        return self.mlm_head(fused if recipe.head_everywhere else fused[masked])

    def _enriched(
        self,
        batch: dict[str, Tensor],
        text: Tensor,
        images: Tensor,
        masked: Tensor,
        corrupted: Tensor,
        logits: Tensor,
        order: Tensor,
        recipe: Recipe,
    ) -> Tensor:
        """TEM: embeddings (batch, dim), those of a share of the captions, the first of an order, after enrichment."""
        ids = batch["input_ids"]
        if recipe.enrichment == "own_pass":
            with torch.no_grad():
                logits = self._mlm_logits(corrupted, images, batch["attention_mask"].bool(), masked, recipe)
        chosen = order[: round(len(ids) * self.objective.enrichment_probability)]
        positions, _ = masked_positions(masked, self.policy.capacity(ids.shape[1] - 1))
        predictions = logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))
        enriched = self.enrichment.enrich(ids, masked, predictions)[chosen]
        text = text.clone()
        text[chosen] = self._summary(self.text(enriched), enriched).to(text.dtype)
        return text


_BLOCK = {
    "ln_1": ["layer_norm1"],
    "attn.in_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.out_proj": ["self_attn.out_proj"],
    "ln_2": ["layer_norm2"],
    "c_fc": ["mlp.fc1"],
    "c_proj": ["mlp.fc2"],
}
_MODULES = {
    "vision.patches": ["aga.vision_model.embeddings.patch_embedding"],
    "vision.ln_pre": ["aga.vision_model.pre_layrnorm"],
    "vision.ln_post": ["aga.vision_model.post_layernorm"],
    "vision.projection": ["aga.visual_projection"],
    "text.words": ["aga.text_model.embeddings.token_embedding"],
    "text.ln_final": ["aga.text_model.final_layer_norm"],
    "text.projection": ["aga.text_projection"],
    "fusion.ln_pre_t": ["fusion.text_layer_norm"],
    "fusion.ln_pre_i": ["fusion.image_layer_norm"],
    "fusion.cross_attn.in_proj": [f"fusion.cross_attn.{part}_proj" for part in "qkv"],
    "fusion.cross_attn.out_proj": ["fusion.cross_attn.out_proj"],
    "fusion.ln_post": ["fusion.final_layer_norm"],
    "mlm_head.dense": ["mlm_head.dense"],
    "mlm_head.ln": ["mlm_head.layer_norm"],
    "mlm_head.fc": ["mlm_head.decoder"],
    "classifier": ["identity_head"],
}
_BLOCK_LISTS = {
    "vision.blocks": "aga.vision_model.encoder.layers",
    "text.blocks": "aga.text_model.encoder.layers",
    "fusion.blocks": "fusion.layers",
}
_PARAMETERS = {
    "vision.class_embedding": "aga.vision_model.embeddings.class_embedding",
    "vision.positions": "aga.vision_model.embeddings.position_embedding.weight",
    "text.positions": "aga.text_model.embeddings.position_embedding.weight",
}


def counterparts(name: str) -> list[str]:
    """The weights of `AgaForPreTraining` that, one under the other, are this weight of [`ReferenceModel`]."""
    if name in _PARAMETERS:
        return [_PARAMETERS[name]]
    module, kind = name.rsplit(".", 1)
    for mine, theirs in _BLOCK_LISTS.items():
        if module.startswith(f"{mine}."):
            index, inner = module.removeprefix(f"{mine}.").split(".", 1)
            return [f"{theirs}.{index}.{part}.{kind}" for part in _BLOCK[inner]]
    if module.startswith("vision.stem."):
        return [f"aga.vision_model.embeddings.{module.removeprefix('vision.')}.{kind}"]
    return [f"{part}.{kind}" for part in _MODULES[module]]
