"""ALBEF's and RaSa's checkpoints in (NeurIPS 2021, IJCAI 2023): ViT, BERT in two halves, ITM and MLM heads."""

import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from aga_model.pretraining_aga import AgaForPreTraining

from .bert import WORDS, decoder_is_tied, take_bert_embeddings, take_bert_layers, take_bert_mlm_head
from .openai import HEAD_DIM, count_blocks, resize_position_table, square_grid, take_pair
from .state import ConversionError, StateAccount, read_config, read_state
from .vocabulary import Converted, bert_tokenizer, special_tokens_of, with_processor

_MLM_HEAD = "text_encoder.cls.predictions"
_POSITIONS = "aga.vision_model.embeddings.position_embedding.weight"
_MOMENTUM = "the momentum model's copy, training state"
_IGNORED = {
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\.": _MOMENTUM,
    r"(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$": "queue of past embeddings, training state",
    r"(prd_head|mrtd_head)\.": "RaSa's heads for its relation-aware and sensitivity-aware losses",
    r"text_encoder\..*position_ids$": "a counter, not a weight",
}


def load_albef(
    path: str | Path,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Converted[AgaForPreTraining]:
    """
    Turn an ALBEF or RaSa checkpoint into an [`AgaForPreTraining`] of the BERT family with the losses ITC, ITM, MLM.

    Momentum copies, queues and RaSa's extra heads are ignored on purpose; the log lists them.

    Args:
        path: the checkpoint.
        num_heads: attention heads of all parts, which the weights don't tell; 64 wide when not given.
        image_size: (height, width) in pixels, multiples of the patch size; the checkpoint's own, a square, when not
            given. The table of position embeddings is interpolated once (bicubic, class token kept), as RaSa does to
            fine-tune ALBEF's 256x256 weights on 384x384.
        tokenizer: folder or Hub repository with BERT's vocabulary, such as `bert-base-uncased`. Without it the special
            tokens are taken to have the ids that they have there.
        trust_remote_code: run the Python code of a folder or repository that brings a tokenizer of its own.

    Returns:
        (model, processor); the processor is None without `tokenizer`.

    Raises:
        ConversionError: not ALBEF's, or a key is neither used nor known.
        ValueError: `image_size` does not fit the patches.
    """
    account = StateAccount(read_state(path), path)
    for pattern, reason in _IGNORED.items():
        account.ignore(pattern, reason)
    # With an MLM head BERT is one level down; ALBEF's own fine-tuned retrieval checkpoints have no such head.
    prefix = "text_encoder.bert." if any(account.matching(r"text_encoder\.bert\.")) else "text_encoder."
    has_mlm = any(account.matching(re.escape(_MLM_HEAD)))
    vocabulary = None if tokenizer is None else bert_tokenizer(tokenizer, trust_remote_code)
    layers = count_blocks(account, f"{prefix}encoder.layer")
    crossing = {int(m[1]) for m in account.matching(rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.crossattention\.")}
    if crossing != set(range(layers - len(crossing), layers)) or not 0 < len(crossing) < layers:
        raise ConversionError(
            f"{path}: of its {layers} text layers {sorted(crossing)} attend to the image; ALBEF's are the upper ones"
        )
    text_layers = layers - len(crossing)
    temperature = float(account.take_number("temp"))
    if temperature <= 0:
        raise ConversionError(f"{path}: temp is {temperature}, expected a temperature above zero")
    losses = {"itc": 1.0, "itm": 1.0} | ({"mlm": 1.0} if has_mlm else {})
    config = read_config(
        path,
        family="bert",
        projection_dim=account.peek("vision_proj.weight", dims=2).shape[0],
        vision_config=_vision_section(account, num_heads, image_size),
        text_config=_bert_section(account, prefix, num_heads)
        | {"num_hidden_layers": text_layers}
        | special_tokens_of(vocabulary),
        cross_modal_config=_fusion_section(account, prefix, num_heads, text_layers)
        | {"num_hidden_layers": len(crossing)},
        objective_config={"loss_weights": losses, "mask_strategy": "random", "enrichment": "none"},
        logit_scale_init_value=-math.log(temperature),
        tie_word_embeddings=decoder_is_tied(account, _MLM_HEAD, f"{prefix}embeddings"),
    )
    model = AgaForPreTraining(config)
    converted = _take_vision(account)
    table = converted[_POSITIONS]
    converted[_POSITIONS] = resize_position_table(table, square_grid(table, path), config.vision_config.grid_size)
    converted |= take_bert_embeddings(account, f"{prefix}embeddings")
    converted |= take_bert_layers(account, f"{prefix}encoder.layer", layers, text_layers)
    converted |= take_pair(account, "vision_proj", "aga.visual_projection")
    converted |= take_pair(account, "text_proj", "aga.text_projection")
    converted |= take_pair(account, "itm_head", "itm_head")
    may_miss = ["aga.logit_scale"]
    if has_mlm:
        converted |= take_bert_mlm_head(account, _MLM_HEAD, converted[WORDS])
    else:
        may_miss += [key for key in model.state_dict() if key.startswith("mlm_head.")]
    account.finish(model, converted, tuple(may_miss))
    return with_processor(model.eval(), vocabulary)


def _heads(width: int, num_heads: int | None, source: str | Path) -> int:
    heads = max(1, width // HEAD_DIM) if num_heads is None else num_heads
    if heads < 1 or width % heads:
        raise ConversionError(f"{source}: num_heads {heads} does not divide the width {width}; give num_heads")
    return heads


def _vision_section(
    account: StateAccount, num_heads: int | None, image_size: tuple[int, int] | None
) -> dict[str, Any]:
    projection = account.peek("visual_encoder.patch_embed.proj.weight", dims=4)
    width, patch = projection.shape[0], projection.shape[-1]
    rows, columns = square_grid(account.peek("visual_encoder.pos_embed", dims=3)[0], account.source)
    return {
        "image_size": list(image_size or (rows * patch, columns * patch)),
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": account.peek("visual_encoder.blocks.0.mlp.fc1.weight", dims=2).shape[0],
        "num_hidden_layers": count_blocks(account, "visual_encoder.blocks"),
        "num_attention_heads": _heads(width, num_heads, account.source),
    }


def _bert_section(account: StateAccount, prefix: str, num_heads: int | None) -> dict[str, Any]:
    words = account.peek(f"{prefix}embeddings.word_embeddings.weight", dims=2)
    positions = account.peek(f"{prefix}embeddings.position_embeddings.weight", dims=2).shape[0]
    return {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "max_position_embeddings": positions,
        "caption_length": min(64, positions),
        "type_vocab_size": account.peek(f"{prefix}embeddings.token_type_embeddings.weight", dims=2).shape[0],
        "intermediate_size": account.peek(f"{prefix}encoder.layer.0.intermediate.dense.weight", dims=2).shape[0],
        "num_attention_heads": _heads(words.shape[1], num_heads, account.source),
    }


def _fusion_section(account: StateAccount, prefix: str, num_heads: int | None, first: int) -> dict[str, Any]:
    intermediate = account.peek(f"{prefix}encoder.layer.{first}.intermediate.dense.weight", dims=2)
    return {
        "intermediate_size": intermediate.shape[0],
        "num_attention_heads": _heads(intermediate.shape[1], num_heads, account.source),
    }


def _take_vision(account: StateAccount) -> dict[str, Tensor]:
    """timm's ViT to the vision tower."""
    there = "aga.vision_model"
    converted = take_pair(account, "visual_encoder.patch_embed.proj", f"{there}.embeddings.patch_embedding")
    converted |= take_pair(account, "visual_encoder.norm", f"{there}.post_layernorm")
    converted[f"{there}.embeddings.class_embedding"] = account.take("visual_encoder.cls_token").flatten()
    converted[_POSITIONS] = account.take("visual_encoder.pos_embed", dims=3)[0]
    names = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for index in range(count_blocks(account, "visual_encoder.blocks")):
        block, layer = f"visual_encoder.blocks.{index}", f"{there}.encoder.layers.{index}"
        for kind in ("weight", "bias"):
            parts = account.take_thirds(f"{block}.attn.qkv.{kind}")
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts):
                converted[f"{layer}.self_attn.{name}.{kind}"] = part
        for name, ours in names.items():
            converted |= take_pair(account, f"{block}.{name}", f"{layer}.{ours}")
    return converted
