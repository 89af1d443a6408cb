"""BERT's weights in (NAACL 2019): lower layers to the text tower, upper ones to the fusion encoder, as in ALBEF."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from aga_model.configuration_aga import AgaConfig
from aga_model.pretraining_aga import AgaForPreTraining
from aga_model.remote_code import refusal

from .openai import count_blocks, take_pair
from .state import ConversionError, StateAccount, read_state
from .vocabulary import Converted, bert_tokenizer, special_tokens_of, with_processor

logger = logging.getLogger(__name__)

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WORDS = "aga.text_model.embeddings.word_embeddings.weight"
_MLM_HEAD = "cls.predictions"
_IGNORED = {
    r"(bert\.)?pooler\.": "BERT's pooler; the pooled token is projected instead",
    r"cls\.seq_relationship\.": "the head of next sentence prediction",
    r"(classifier|qa_outputs)\.": "the head of another task",
    r".*position_ids$": "a counter, not a weight",
}
_LAYER_KEYS = (
    "intermediate_size",
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "initializer_range",
)
_EMBEDDING_KEYS = ("vocab_size", "hidden_size", "max_position_embeddings", "type_vocab_size", "pad_token_id")


def load_bert(
    path_or_repo: str | Path,
    text_layers: int | None = None,
    fusion_layers: int | None = None,
    vision_config: dict[str, Any] | None = None,
    projection_dim: int = 256,
    objective_config: dict[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Converted[AgaForPreTraining]:
    """
    Turn BERT into the text side of an [`AgaForPreTraining`] of the BERT family, to train from.

    As in ALBEF's own pre-training, the lower layers become the text tower, the upper ones the fusion encoder, and the
    MLM head stays one. Vision tower, projections, cross-attention, ITM head, and the MLM head of a file without one,
    begin with random weights. The pooler and the heads of other tasks are ignored on purpose; the log lists them.

    Args:
        path_or_repo: folder or Hub repository of one of transformers' BERT models, such as `bert-base-uncased`.
        text_layers: layers of the text tower; half of them, rounded up, when not given. With all of them the fusion
            encoder is random too.
        fusion_layers: layers of a random fusion encoder; 6 when not given.
        vision_config: keys of [`AgaViTConfig`]; ViT-B/16 on 384x384 pixels when not given.
        projection_dim: width of the joint embedding space.
        objective_config: keys of [`AgaObjectiveConfig`]; the losses are ITC, ITM and MLM when they are not given.
        tokenizer: folder or Hub repository with BERT's vocabulary; where the weights lie when not given.
        seed: of the random weights; the caller's random state stays as it is.
        trust_remote_code: run the Python code of a folder or repository that brings a tokenizer of its own.

    Returns:
        (model, processor); the processor is None when no vocabulary is found that fits.

    Raises:
        ConversionError: not BERT, a key is neither used nor known, or the layers cannot be shared out so.
        ValueError: a key or value of `vision_config` or `objective_config` is none.
    """
    name = str(path_or_repo)
    bert = _read_config(name, trust_remote_code)
    layers = bert.num_hidden_layers
    text_layers, fusion_layers = _share_layers(name, layers, text_layers, fusion_layers)
    account = StateAccount(_read_weights(name), name)
    prefix = "bert." if any(account.matching(r"bert\.")) else ""
    for pattern, reason in _IGNORED.items():
        account.ignore(pattern, reason)
    if (found := count_blocks(account, f"{prefix}encoder.layer")) != layers:
        raise ConversionError(f"{name}: config.json says {layers} layers, the weights are of {found}")
    has_mlm = any(account.matching(re.escape(_MLM_HEAD)))
    vocabulary = _find_vocabulary(name, tokenizer, bert.vocab_size, trust_remote_code)
    config = AgaConfig(
        family="bert",
        projection_dim=projection_dim,
        vision_config=vision_config or {},
        text_config=_text_section(bert, text_layers) | special_tokens_of(vocabulary),
        cross_modal_config=_section(bert, _LAYER_KEYS) | {"num_hidden_layers": fusion_layers},
        objective_config={"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}} | (objective_config or {}),
        tie_word_embeddings=decoder_is_tied(account, _MLM_HEAD, f"{prefix}embeddings"),
    )
    model = _random_model(config, seed)
    converted = take_bert_embeddings(account, f"{prefix}embeddings")
    converted |= take_bert_layers(account, f"{prefix}encoder.layer", layers, text_layers)
    if has_mlm:
        converted |= take_bert_mlm_head(account, _MLM_HEAD, converted[WORDS])
    else:
        converted["mlm_head.decoder.weight"] = converted[WORDS]
    account.finish(model, converted, _random_keys(model, has_mlm, text_layers < layers))
    return with_processor(model.eval(), vocabulary)


def _read_config(name: str, trust_remote_code: bool) -> Any:
    """BERT's configuration; an error for another model, and for a BERT that computes something else."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        if config.model_type != "bert":
            raise ValueError(f"it is a {config.model_type!r} model")
    except (OSError, ValueError) as error:
        reason = refusal(error, name, trust_remote_code) or " ".join(str(error).split())[:300]
        raise ConversionError(f"{name}: cannot be loaded as transformers' BERT ({reason})") from error
    # Configurations of transformers 4 may ask for relative positions, which transformers 5 no longer computes.
    positions = getattr(config, "position_embedding_type", "absolute")
    if config.is_decoder or config.add_cross_attention or positions != "absolute":
        raise ConversionError(
            f"{name}: only BERT's encoder with absolute positions can be used; its config.json says is_decoder "
            f"{config.is_decoder}, add_cross_attention {config.add_cross_attention}, positions {positions!r}"
        )
    return config


def _share_layers(name: str, layers: int, text: int | None, fusion: int | None) -> tuple[int, int]:
    """Layers of the text tower and of the fusion encoder."""
    text = (layers + 1) // 2 if text is None else text
    if not 1 <= text <= layers:
        raise ConversionError(f"{name}: text_layers must lie between 1 and {layers}, the layers of it, got {text}")
    if text == layers:
        fusion = 6 if fusion is None else fusion
        if fusion < 1:
            raise ConversionError(f"{name}: fusion_layers must be at least 1, got {fusion}")
        return text, fusion
    if fusion not in (None, layers - text):
        raise ConversionError(
            f"{name}: {text} of its {layers} layers are the text tower's, so the fusion encoder has {layers - text}; "
            f"fusion_layers is for text_layers={layers}, got {fusion}"
        )
    return text, layers - text


def _read_weights(name: str) -> dict[str, Tensor]:
    """The state of a folder or repository, with LayerNorm's names of today."""
    state: dict[str, Tensor] = {}
    for path in _find_weights(name):
        state |= read_state(path)
    # The first BERTs, bert-base-uncased among them, still have TensorFlow's.
    names = {"gamma": "weight", "beta": "bias"}
    return {re.sub(r"(?<=\.LayerNorm\.)(gamma|beta)$", lambda m: names[m[0]], key): state[key] for key in state}


def _find_weights(name: str) -> list[Path]:
    for file in WEIGHT_FILES:
        path = _find_file(name, file)
        if path is None:
            continue
        if path.suffix != ".json":
            return [path]
        parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        found = [_find_file(name, part) for part in parts]
        if None in found:
            raise ConversionError(f"{name}: {file} names {parts[found.index(None)]}, which is not there")
        return [part for part in found if part is not None]
    raise ConversionError(f"{name}: no weights there ({', '.join(WEIGHT_FILES)})")


def _find_file(name: str, file: str) -> Path | None:
    try:
        found = cached_file(name, file)
    except OSError:
        return None
    return None if found is None else Path(found)


def _find_vocabulary(
    name: str, asked: str | Path | None, entries: int, trust_remote_code: bool
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that was asked for, or the one beside the weights when it fits."""
    if asked is not None:
        return bert_tokenizer(asked, trust_remote_code)
    try:
        found = bert_tokenizer(name, trust_remote_code)
        if len(found) != entries:
            raise ConversionError(f"{name}: the vocabulary has {len(found)} entries, the weights {entries}")
    except ConversionError as error:
        logger.warning("%s; the model comes without a processor", error)
        return None
    return found


def _section(bert: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: getattr(bert, key) for key in keys}


def _text_section(bert: Any, layers: int) -> dict[str, Any]:
    section = _section(bert, (*_EMBEDDING_KEYS, *_LAYER_KEYS))
    return section | {"num_hidden_layers": layers, "caption_length": min(64, bert.max_position_embeddings)}


def _random_model(config: AgaConfig, seed: int) -> AgaForPreTraining:
    """A model whose random weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed accelerators too.
        torch.default_generator.manual_seed(seed)
        return AgaForPreTraining(config)


def _random_keys(model: AgaForPreTraining, has_mlm: bool, has_fusion: bool) -> tuple[str, ...]:
    """Weights that BERT does not bring."""
    patterns = [
        r"aga\.(vision_model\.|visual_projection\.|text_projection\.|logit_scale)",
        r"(itm|identity)_head\.",
        r"fusion\.layers\.\d+\.crossattention\." if has_fusion else r"fusion\.",
    ]
    patterns += [] if has_mlm else [r"mlm_head\."]
    return tuple(key for key in model.state_dict() if re.match("|".join(patterns), key))


def take_bert_embeddings(account: StateAccount, source: str) -> dict[str, Tensor]:
    """BERT's embeddings to the text tower; the names are ours."""
    target = "aga.text_model.embeddings"
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    converted = {f"{target}.{name}.weight": account.take(f"{source}.{name}.weight") for name in tables}
    return converted | take_pair(account, f"{source}.LayerNorm", f"{target}.LayerNorm")


def take_bert_layers(account: StateAccount, source: str, layers: int, text_layers: int) -> dict[str, Tensor]:
    """BERT's lower layers to the text tower, its upper ones to the fusion encoder."""
    converted: dict[str, Tensor] = {}
    for index in range(layers):
        here, upper = f"{source}.{index}", index - text_layers
        there = f"aga.text_model.encoder.layer.{index}" if upper < 0 else f"fusion.layers.{upper}"
        # With the cross-attention where there is one; the names are ours.
        for key in [match.string for match in account.matching(rf"{re.escape(here)}\.")]:
            converted[f"{there}{key.removeprefix(here)}"] = account.take(key)
    return converted


def decoder_is_tied(account: StateAccount, source: str, embeddings: str) -> bool:
    """Whether the last matrix of BERT's MLM head is the word embedding, or left out as such."""
    key = f"{source}.decoder.weight"
    return key not in account or torch.equal(account.peek(key), account.peek(f"{embeddings}.word_embeddings.weight"))


def take_bert_mlm_head(account: StateAccount, source: str, words: Tensor) -> dict[str, Tensor]:
    """
    BERT's MLM head.

    Args:
        account: of the checkpoint.
        source: name of the head.
        words: word embedding (vocabulary, dim), the last matrix where the head does not hold it again.
    """
    converted = take_pair(account, f"{source}.transform.dense", "mlm_head.transform.dense")
    converted |= take_pair(account, f"{source}.transform.LayerNorm", "mlm_head.transform.LayerNorm")
    weight = f"{source}.decoder.weight"
    converted["mlm_head.decoder.weight"] = account.take(weight) if weight in account else words
    # Files hold the output bias under one of two names, or under both.
    bias, copy = f"{source}.bias", f"{source}.decoder.bias"
    converted["mlm_head.decoder.bias"] = account.take(copy if bias not in account and copy in account else bias)
    if copy in account:
        if not torch.equal(account.peek(copy), converted["mlm_head.decoder.bias"]):
            raise ConversionError(f"{account.source}: {bias} and {copy} should be the same and differ")
        account.ignore(f"{re.escape(copy)}$", f"the same as {bias}")
    return converted
