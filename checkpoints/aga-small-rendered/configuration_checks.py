"""Checks that the sections of a configuration share: unknown keys, sizes, heads, and special tokens."""

import difflib
import math
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# Keys that transformers itself writes into or passes through a configuration besides the declared fields.
LIBRARY_KEYS = {
    "model_type",
    "auto_map",
    "torch_dtype",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "attn_implementation",
    "experts_implementation",
    "use_cache",  # set by transformers' Trainer
    "bos_token_id",  # aligned with the tokenizer by the Trainer
    "eos_token_id",
    "pad_token_id",
}


def reject_unknown_keys(config: PreTrainedConfig, kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a key that is no field of `config`; transformers would silently keep it."""
    known = {field.name for field in fields(config)}
    for key in kwargs:
        if key in known or key in LIBRARY_KEYS or key.startswith("_"):
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"
        raise ValueError(f"{type(config).__name__} has no key {key!r}{hint}")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_choice(owner: str, key: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, f"{owner}.{key} is {value!r}; choose one of {', '.join(choices)}")


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_channels",
          "max_position_embeddings", "type_vocab_size", "encoder_width")  # fmt: skip
_DROPOUTS = ("attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
_NUMBERS = ("layer_norm_eps", "initializer_range", "initializer_factor")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def is_weight(value: Any) -> bool:
    return is_number(value) and not isinstance(value, bool)


def check_layers(owner: str, config: PreTrainedConfig, least_layers: int = 1) -> None:
    """
    What a stack of transformer layers asks for: sizes above zero, heads that divide the width, finite numbers.

    Fields that the section does not have, and sizes that are still to be filled in, are left out.
    """
    for key in _SIZES:
        value = getattr(config, key, None)
        require(value is None or value > 0, f"{owner}.{key} must be positive, got {value}")
    layers = config.num_hidden_layers
    require(layers >= least_layers, f"{owner}.num_hidden_layers must be at least {least_layers}, got {layers}")
    for key in _DROPOUTS:
        value = getattr(config, key, None)
        share = value is None or (is_number(value) and 0 <= value <= 1)
        require(share, f"{owner}.{key} must lie in [0, 1], got {value}")
    for key in _NUMBERS:
        value = getattr(config, key, 0.0)
        require(is_number(value) and value >= 0, f"{owner}.{key} must be a number of 0 or more, got {value}")
    act = config.hidden_act
    near = difflib.get_close_matches(act, ACT2FN, n=1)
    known = f"did you mean {near[0]!r}?" if near else "quick_gelu and gelu are usual"
    require(act in ACT2FN, f"{owner}.hidden_act {act!r} is no activation of transformers; {known}")
    width, heads = config.hidden_size, config.num_attention_heads
    require(
        width is None or heads is None or width % heads == 0,
        f"{owner}.num_attention_heads: {heads} does not divide hidden_size {width}",
    )


def check_special_tokens(owner: str, config: PreTrainedConfig) -> None:
    """Every special token must be an entry of the vocabulary; start, end and mask may not be the same."""
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "mask_token_id")}
    named = ids | {"pad_token_id": config.pad_token_id}
    if config.unk_token_id is not None:
        named["unk_token_id"] = config.unk_token_id
    others = config.other_special_token_ids
    require(isinstance(others, list | tuple), f"{owner}.other_special_token_ids must be a list of ids, got {others!r}")
    for name, value in [*named.items(), *(("other_special_token_ids", value) for value in others)]:
        require(isinstance(value, int), f"{owner}.{name} must be one id, got {value!r}")
        require(
            0 <= value < config.vocab_size,
            f"{owner}.{name} is {value}, outside the vocabulary of {config.vocab_size} entries (vocab_size)",
        )
    require(len(set(ids.values())) == 3, f"{owner}: special tokens must differ, got {ids}")
