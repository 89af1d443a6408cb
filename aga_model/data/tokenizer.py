"""A CLIP tokenizer with an own, small vocabulary, for models that are trained from random weights."""

import json
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from aga_model.processing_aga import MASK_TOKEN

BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"


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
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = _byte_alphabet()
    smallest = 2 * len(alphabet) + len(specials)
    if vocab_size <= smallest:
        raise ValueError(f"vocab_size must be above {smallest} (the bytes and special tokens), got {vocab_size}")
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(specials) - len(alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    entries = alphabet + [byte + "</w>" for byte in alphabet]
    known = {*entries, *specials}
    entries += [entry for entry in _ordered_vocab(backend) if entry not in known]
    entries = entries[: vocab_size - len(specials)] + specials
    vocab = {entry: index for index, entry in enumerate(entries)}
    merges = [pair for pair in _merges(backend) if "".join(pair) in vocab and all(part in vocab for part in pair)]
    return CLIPTokenizer(vocab=vocab, merges=merges, mask_token=MASK_TOKEN, model_max_length=max_length)


def _byte_alphabet() -> list[str]:
    return sorted(ByteLevel.alphabet())


def _ordered_vocab(backend) -> list[str]:
    vocab = backend.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def _merges(backend) -> list[tuple[str, str]]:
    merges = json.loads(backend.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]
