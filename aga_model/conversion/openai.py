"""The weight layout of OpenAI's CLIP, which IRRA, RDE and others share, in this project's names."""

import math
import re

import torch
from torch import Tensor
from torch.nn import functional as F

from .state import ConversionError, StateAccount

HEAD_DIM = 64  # CLIP's attention heads are 64 wide, whatever the size of the model


def count_blocks(account: StateAccount, prefix: str) -> int:
    """Number of transformer blocks under `prefix`."""
    indices = {int(match[1]) for match in account.matching(rf"{re.escape(prefix)}\.(\d+)\.")}
    if indices != set(range(len(indices))) or not indices:
        raise ConversionError(f"{account.source}: no transformer blocks under {prefix!r}, or with gaps")
    return len(indices)


def take_attention(account: StateAccount, source: str, target: str) -> dict[str, Tensor]:
    """torch.nn.MultiheadAttention to q, k, v and output projections."""
    converted: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        parts = account.take_thirds(f"{source}.in_proj_{kind}")
        for name, part in zip(("q_proj", "k_proj", "v_proj"), parts):
            converted[f"{target}.{name}.{kind}"] = part
        converted[f"{target}.out_proj.{kind}"] = account.take(f"{source}.out_proj.{kind}")
    return converted


def take_pair(account: StateAccount, source: str, target: str) -> dict[str, Tensor]:
    """A weight and a bias."""
    return {f"{target}.{kind}": account.take(f"{source}.{kind}") for kind in ("weight", "bias")}


def take_blocks(account: StateAccount, source: str, target: str) -> dict[str, Tensor]:
    """Residual attention blocks to CLIP encoder layers."""
    converted: dict[str, Tensor] = {}
    for index in range(count_blocks(account, source)):
        here, there = f"{source}.{index}", f"{target}.{index}"
        converted |= take_attention(account, f"{here}.attn", f"{there}.self_attn")
        names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
        for name, ours in names.items():
            converted |= take_pair(account, f"{here}.{name}", f"{there}.{ours}")
    return converted


def tower_sections(account: StateAccount, prefix: str = "") -> dict:
    """Sections of an AgaConfig, without the image size, read from the shapes of a CLIP state."""
    convolution = account.peek(f"{prefix}visual.conv1.weight", dims=4)
    tokens = account.peek(f"{prefix}token_embedding.weight", dims=2)
    context = account.peek(f"{prefix}positional_embedding", dims=2).shape[0]
    return {
        "projection_dim": account.peek(f"{prefix}text_projection", dims=2).shape[1],
        "vision_config": _tower(convolution.shape[0], count_blocks(account, f"{prefix}visual.transformer.resblocks"))
        | {"patch_size": convolution.shape[-1]},
        "text_config": _tower(tokens.shape[1], count_blocks(account, f"{prefix}transformer.resblocks"))
        | {"vocab_size": tokens.shape[0], "max_position_embeddings": context},
    }


def _tower(width: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD_DIM),
    }


def take_towers(account: StateAccount, prefix: str, target: str) -> dict[str, Tensor]:
    """Both towers and projections of a CLIP state to the keys of AgaModel under `target`."""
    vision, text = f"{target}vision_model", f"{target}text_model"
    converted = take_blocks(account, f"{prefix}visual.transformer.resblocks", f"{vision}.encoder.layers")
    converted |= take_blocks(account, f"{prefix}transformer.resblocks", f"{text}.encoder.layers")
    converted |= take_pair(account, f"{prefix}visual.ln_pre", f"{vision}.pre_layrnorm")
    converted |= take_pair(account, f"{prefix}visual.ln_post", f"{vision}.post_layernorm")
    converted |= take_pair(account, f"{prefix}ln_final", f"{text}.final_layer_norm")
    single = {
        "visual.class_embedding": f"{vision}.embeddings.class_embedding",
        "visual.conv1.weight": f"{vision}.embeddings.patch_embedding.weight",
        "visual.positional_embedding": f"{vision}.embeddings.position_embedding.weight",
        "token_embedding.weight": f"{text}.embeddings.token_embedding.weight",
        "positional_embedding": f"{text}.embeddings.position_embedding.weight",
    }
    converted |= {ours: account.take(f"{prefix}{name}") for name, ours in single.items()}
    # CLIP multiplies from the left, torch.nn.Linear from the right.
    for theirs, ours in (("visual.proj", "visual_projection"), ("text_projection", "text_projection")):
        converted[f"{target}{ours}.weight"] = account.take(f"{prefix}{theirs}", dims=2).t().contiguous()
    return converted


def resize_position_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """
    Interpolate a table of position embeddings to another patch grid, class token kept.

    Bicubic, as CLIP's own code and transformers' `interpolate_pos_encoding`.

    Args:
        table: (old rows * old columns + 1, dim).
        old, new: grids as (rows, columns).

    Returns:
        (new rows * new columns + 1, dim).
    """
    if old == new:
        return table
    grid = table[1:].t().reshape(1, -1, *old)
    resized = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], resized.flatten(2)[0].t()])


def square_grid(table: Tensor, source) -> tuple[int, int]:
    """The square patch grid of a position table (patches + 1, dim)."""
    side = math.isqrt(table.shape[0] - 1)
    if side * side != table.shape[0] - 1:
        raise ConversionError(f"{source}: {table.shape[0] - 1} patch positions are no square grid")
    return side, side
