"""CLIP's weights in: transformers' folders and repositories, and OpenAI's files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, CLIPModel

from aga_model.configuration_aga import AgaConfig
from aga_model.modeling_aga import AgaModel
from aga_model.remote_code import refusal

from .openai import resize_position_table, square_grid, take_towers, tower_sections
from .state import ConversionError, StateAccount, read_config, read_state
from .vocabulary import Converted, processor_for

POSITION_TABLE = "vision_model.embeddings.position_embedding.weight"


def load_clip(
    path_or_repo: str | Path,
    image_size: tuple[int, int] = (384, 128),
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Converted[AgaModel]:
    """
    Turn CLIP into an [`AgaModel`] for images of another size.

    The square table of position embeddings is interpolated once (bicubic, class token kept); at the table's own size
    nothing changes. The end-of-text id that old configurations give as 2 is set right.

    Args:
        path_or_repo: a folder or Hub repository of transformers' CLIP, or OpenAI's `.pt` file.
        image_size: (height, width) in pixels, multiples of the patch size.
        tokenizer: folder or Hub repository with CLIP's vocabulary, or OpenAI's `bpe_simple_vocab_16e6.txt.gz`; where
            the weights lie when not given.
        trust_remote_code: run the Python code of a folder or repository that brings a tokenizer of its own.

    Returns:
        (model, processor); the processor is None when no vocabulary is found.

    Raises:
        ConversionError: not CLIP, or a key of the file is neither used nor known.
        ValueError: `image_size` does not fit the patches.
    """
    path = Path(path_or_repo)
    if path.is_file():
        config, converted, account = _from_openai(path, image_size)
    else:
        config, converted, account = _from_transformers(str(path_or_repo), image_size, trust_remote_code)
    model = AgaModel(config)
    table = converted[POSITION_TABLE]
    converted[POSITION_TABLE] = resize_position_table(
        table, square_grid(table, path_or_repo), config.vision_config.grid_size
    )
    account.finish(model, converted)
    where = tokenizer if tokenizer is not None else path_or_repo
    processor = processor_for(config, where, tokenizer is not None, trust_remote_code)
    return Converted(model.eval(), processor)


def _config(
    source: str | Path, sections: dict[str, Any], image_size: tuple[int, int], logit_scale: float
) -> AgaConfig:
    sections["vision_config"]["image_size"] = list(image_size)
    return read_config(source, **sections, logit_scale_init_value=logit_scale)


def _from_openai(path: Path, image_size: tuple[int, int]) -> tuple[AgaConfig, dict[str, Tensor], StateAccount]:
    account = StateAccount(read_state(path), path)
    account.ignore(r"(input_resolution|context_length|vocab_size)$", "a number, not a weight")
    logit_scale = account.take_number("logit_scale")
    config = _config(path, tower_sections(account), image_size, float(logit_scale))
    return config, {**take_towers(account, "", ""), "logit_scale": logit_scale}, account


def _load_transformers_clip(name: str, trust_remote_code: bool) -> Any:
    """CLIPModel of a folder or repository with exactly CLIP's keys, which transformers itself does not insist on."""
    try:
        kind = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).model_type
        if kind != "clip":
            raise ValueError(f"it is a {kind!r} model")
        loaded: Any = CLIPModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = refusal(error, name, trust_remote_code) or " ".join(str(error).split())[:300]
        raise ConversionError(f"{name}: cannot be loaded as transformers' CLIP ({reason})") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := sorted(map(str, loaded[1][what])):
            raise ConversionError(f"{name}: {len(found)} {what.replace('_', ' ')}, first: {', '.join(found[:3])}")
    return loaded[0]


def _from_transformers(
    name: str, image_size: tuple[int, int], trust_remote_code: bool
) -> tuple[AgaConfig, dict[str, Tensor], StateAccount]:
    clip = _load_transformers_clip(name, trust_remote_code)
    text, vision = clip.config.text_config, clip.config.vision_config
    shared = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
              "layer_norm_eps")  # fmt: skip
    sections: dict[str, Any] = {
        "projection_dim": clip.config.projection_dim,
        "text_config": {key: getattr(text, key) for key in (*shared, "vocab_size", "max_position_embeddings")},
        "vision_config": {key: getattr(vision, key) for key in (*shared, "patch_size", "num_channels")},
    }
    # Old configurations say 2, 0 and 1 whatever the vocabulary; the true ids are its last two.
    if text.eos_token_id != 2:
        sections["text_config"] |= {"eos_token_id": text.eos_token_id, "bos_token_id": text.bos_token_id}
    state = {key: value for key, value in clip.state_dict().items() if not key.endswith("position_ids")}
    account = StateAccount(state, name)
    config = _config(name, sections, image_size, float(state["logit_scale"]))
    # transformers names its weights as we do.
    return config, {key: account.take(key) for key in state}, account
