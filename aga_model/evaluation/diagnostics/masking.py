"""What AGM masks and what TEM writes: attribute words against filler, and examples to look at."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aga_model.masking import MASKING_POLICIES, ordinary_tokens

from .probing import encode_image_files, enrich_once, undisturbed

_WORD = re.compile(r"[a-z]+")


def attribute_tokens(captions: Sequence[str], processor, words: frozenset[str]) -> list[list[bool]]:
    """
    Which tokens belong to an attribute word (colour, garment, ...).

    A token counts when the letters that it covers lie in a word of `words`; hyphenated words count piece by piece.

    Args:
        captions: sentences.
        processor: AgaProcessor.
        words: lower-case attribute words.

    Returns:
        one flag per token of each caption, special tokens included (False).
    """
    offsets = processor.tokenizer(list(captions), truncation=True, return_offsets_mapping=True)["offset_mapping"]
    flags = []
    for caption, spans in zip(captions, offsets):
        inside = np.zeros(len(caption) + 1, dtype=bool)
        for match in _WORD.finditer(caption.lower()):
            inside[match.start() : match.end()] = match.group() in words
        flags.append([bool(inside[start:end].any()) for start, end in spans])
    return flags


def _batches(captions: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    for start in range(0, len(captions), batch_size):
        yield list(captions[start : start + batch_size])


@torch.no_grad()
def masking_probabilities(model, processor, captions: Sequence[str], strategy: str) -> list[np.ndarray]:
    """
    Masking probability of each token under a policy, whatever the model was trained with.

    Args:
        model: AgaForPreTraining.
        strategy: `attention` (AGM) or `random`.

    Returns:
        one (tokens,) array per caption.
    """
    objective = model.config.objective_config
    policy = MASKING_POLICIES[strategy](objective.mask_ratio, objective.mask_max_probability)
    model.eval()
    found: list[np.ndarray] = []
    for batch in _batches(captions, 256):
        inputs = processor(text=batch, return_tensors="pt").to(model.device)
        ordinary = ordinary_tokens(inputs["input_ids"], inputs["attention_mask"], model.config.text_config)
        _, attention = model.aga.get_text_features_with_attention(inputs["input_ids"])
        probabilities = policy.probabilities(ordinary, attention).cpu().numpy()
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        found += [row[:length] for row, length in zip(probabilities, lengths)]
    return found


def masked_attribute_share(model, processor, captions: Sequence[str], words: frozenset[str]) -> dict[str, float]:
    """
    Expected share (percent) of masked tokens that are attribute words, for AGM and for uniform masking.

    Computed from the masking probabilities themselves, so without sampling error.

    Returns:
        {"attention": ..., "random": ...}.
    """
    flags = attribute_tokens(captions, processor, words)
    shares = {}
    for strategy in MASKING_POLICIES:
        rows = masking_probabilities(model, processor, captions, strategy)
        on_attributes = sum(float(row[np.asarray(flag, dtype=bool)].sum()) for row, flag in zip(rows, flags))
        shares[strategy] = 100.0 * on_attributes / sum(float(row.sum()) for row in rows)
    return shares


@dataclass
class Token:
    """A piece of a caption to show: its text, its masking probability and, when masked, what TEM wrote."""

    text: str
    probability: float
    masked: bool
    written: str


def _pieces(tokenizer, ids: Sequence[int]) -> list[str]:
    """Token texts, each with the space that follows it when it ends a word."""
    return [tokenizer.decode([index]) + (" " if _ends_word(tokenizer, index) else "") for index in ids]


def _ends_word(tokenizer, index: int) -> bool:
    return tokenizer.convert_ids_to_tokens(int(index)).endswith("</w>")


def enrichment_examples(
    model, processor, captions: Sequence[str], image_paths: Sequence[str], seed: int = 0
) -> list[list[Token]]:
    """
    Run AGM and TEM once on some captions, as a training step would, and report every token.

    Args:
        model: AgaForPreTraining.
        captions, image_paths: equally many; caption i describes image i.
        seed: of the sampling; the global random state is left as it was.
    """
    inputs = processor(text=list(captions), return_tensors="pt").to(model.device)
    with undisturbed(model, seed):
        draw = enrich_once(model, inputs, encode_image_files(model, processor, image_paths))
    ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(dim=1)
    rows = zip(ids, draw.enriched, draw.probabilities, draw.masked, lengths)
    return [_tokens(processor.tokenizer, *row) for row in rows]


def _tokens(
    tokenizer, ids: Tensor, enriched: Tensor, probabilities: Tensor, masked: Tensor, length: Tensor
) -> list[Token]:
    inner = slice(1, int(length) - 1)  # without start-of-text and end-of-text
    texts, written = _pieces(tokenizer, ids[inner].tolist()), _pieces(tokenizer, enriched[inner].tolist())
    return [
        Token(text, float(probability), bool(hidden), new)
        for text, new, probability, hidden in zip(texts, written, probabilities[inner], masked[inner])
    ]
