"""A CLIP tokenizer with an own, small vocabulary, for models that are trained from random weights."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from aga_model.processing_aga import MASK_TOKEN, special_token_settings

BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def train_tokenizer(captions: Iterable[str], vocab_size: int, max_length: int = 77) -> CLIPTokenizer:
    """
    Learn a byte-level BPE vocabulary in CLIP's form: same normalisation and word splitting, every text encodable.

    Special tokens have CLIP's and IRRA's places: mask, start-of-text and end-of-text are the last three ids.

    Args:
        captions: training captions.
        vocab_size: entries including 512 for the bytes (each with and without the end-of-word mark) and 3 special
            tokens; fewer when the captions have fewer merges to learn.
        max_length: `model_max_length` of the tokenizer.

    Raises:
        ValueError: `vocab_size` leaves no entry for a merge.
    """
    specials = [MASK_TOKEN, BOS_TOKEN, EOS_TOKEN]
    alphabet = _byte_alphabet()
    entries = alphabet + [byte + _WORD_END for byte in alphabet]
    if vocab_size <= len(entries) + len(specials):
        raise ValueError(
            f"vocab_size must be above {len(entries) + len(specials)} (the bytes and special tokens), got {vocab_size}"
        )
    merges = _learn_merges(_count_words(captions), vocab_size - len(entries) - len(specials))
    entries += ["".join(pair) for pair in merges] + specials
    vocab = {entry: index for index, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=merges, mask_token=MASK_TOKEN, model_max_length=max_length)


def _count_words(captions: Iterable[str]) -> Counter[str]:
    """Words in the form that CLIP's tokenizer splits captions into, with how often they occur."""
    backend = CLIPTokenizer().backend_tokenizer
    return Counter(
        word
        for caption in captions
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption))
    )


def _learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """
    Up to `count` merges by byte-pair encoding (arXiv 1508.07909): the most frequent pair first, of equals the one that
    sorts first. The trainer of `tokenizers` breaks ties by the order of a hash table, so that two runs differ.
    """
    splits = {word: [*word[:-1], word[-1] + _WORD_END] for word in sorted(words)}
    counts: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for word, pieces in splits.items():
        for pair in pairwise(pieces):
            counts[pair] += words[word]
            holders[pair].add(word)
    merges: list[tuple[str, str]] = []
    known: set[str] = set()
    while len(merges) < count:
        candidates = [pair for pair, number in counts.items() if number and "".join(pair) not in known]
        if not candidates:
            break
        best = min(candidates, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        known.add("".join(best))
        for word in holders.pop(best):
            for pair in pairwise(splits[word]):
                counts[pair] -= words[word]
            splits[word] = _merge(splits[word], best)
            for pair in pairwise(splits[word]):
                counts[pair] += words[word]
                holders[pair].add(word)
    return merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word with every occurrence of the pair joined, from left to right."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def text_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a tokenizer decides about a `text_config`: the size of the vocabulary, and the special tokens' ids."""
    return {"vocab_size": len(tokenizer), **special_token_settings(tokenizer)}


def _byte_alphabet() -> list[str]:
    return sorted(ByteLevel.alphabet())
