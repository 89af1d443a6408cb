"""Vocabularies from where people have them, CLIP's with IRRA's mask token, and what a conversion returns."""

import gzip
import json
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from transformers import AutoTokenizer, BertTokenizer, CLIPTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from aga_model.configuration_aga import AgaConfig
from aga_model.processing_aga import AgaProcessor, clip_tokenizer, special_token_settings
from aga_model.remote_code import refusal

from .state import ConversionError

Model = TypeVar("Model", bound=PreTrainedModel)


class Converted(NamedTuple, Generic[Model]):
    """A converted model and its processor, which is None when no vocabulary was found or given."""

    model: Model
    processor: AgaProcessor | None


MERGES = 49152 - 256 - 2  # CLIP's vocabulary: 256 bytes twice, the merges, two special tokens


def processor_for(
    config: AgaConfig, where: str | Path, required: bool, trust_remote_code: bool = False
) -> AgaProcessor | None:
    """
    The processor of a converted model.

    Args:
        config: of the model.
        where: folder, Hub repository or `bpe_simple_vocab_16e6.txt.gz` to take the vocabulary from.
        required: raise when there is none, instead of returning None.
        trust_remote_code: run the Python code of a folder or repository that brings a tokenizer of its own.

    Raises:
        ConversionError: no vocabulary although required, or one that does not fit the model.
    """
    try:
        tokenizer = _read_tokenizer(where, trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if not required:
            return None
        reason = refusal(error, where, trust_remote_code) or " ".join(str(error).split())[:300]
        raise ConversionError(f"{where}: no CLIP vocabulary there ({reason})") from error
    try:
        return AgaProcessor.for_config(config, tokenizer)
    except ValueError as error:
        if not required:
            return None
        raise ConversionError(f"{where}: {error}") from error


def _read_tokenizer(where: str | Path, trust_remote_code: bool) -> CLIPTokenizer:
    path = Path(where)
    if path.is_file() and path.suffix == ".gz":
        return clip_tokenizer(*read_openai_vocabulary(path))
    if path.is_file():  # weights without a vocabulary beside them
        raise ValueError("a single file")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return clip_tokenizer(*_read_vocabulary_files(path))
    loaded = AutoTokenizer.from_pretrained(str(where), trust_remote_code=trust_remote_code)
    backend = json.loads(loaded.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in backend["merges"]]
    return clip_tokenizer(backend["vocab"], merges)


def _read_vocabulary_files(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    return vocab, _merges(line for line in lines if not line.startswith("#version"))


def _merges(lines) -> list[tuple[str, str]]:
    pairs = (tuple(line.split()) for line in lines)
    return [pair for pair in pairs if len(pair) == 2]


def read_openai_vocabulary(path: str | Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of OpenAI's `bpe_simple_vocab_16e6.txt.gz`, which CLIP's and IRRA's code carry."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = _merges(file.read().split("\n")[1 : MERGES + 1])
    letters = _byte_letters()
    entries = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    return {entry: index for index, entry in enumerate(entries)}, merges


def _byte_letters() -> list[str]:
    """The printable letter of each byte, in the order of CLIP's vocabulary: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def bert_tokenizer(where: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """
    BERT's WordPiece tokenizer from a folder or Hub repository; of a folder `vocab.txt` alone is enough.

    Python code that the folder or repository brings along runs only with `trust_remote_code`.

    Raises:
        ConversionError: there is none, or it is not BERT's.
    """
    words = Path(where) / "vocab.txt"
    try:
        tokenizer = _read_bert_tokenizer(str(where), words, trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = refusal(error, where, trust_remote_code) or " ".join(str(error).split())[:300]
        raise ConversionError(f"{where}: no BERT vocabulary there ({reason})") from error
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id)
    if None in special:
        raise ConversionError(f"{where}: not BERT's vocabulary, which has [CLS], [SEP], [MASK] and [PAD]")
    # Where the files are missing transformers makes a tokenizer of the special tokens alone.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ConversionError(f"{where}: no BERT vocabulary there (neither tokenizer.json nor vocab.txt)")
    return tokenizer


def _read_bert_tokenizer(where: str, words: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
    except ValueError:  # no configuration beside it that says whose vocabulary it is
        if not words.is_file():
            raise
        return BertTokenizer(vocab=str(words))


def special_tokens_of(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """The special tokens as keys of AgaBertTextConfig; none without a tokenizer."""
    return {} if tokenizer is None else dict(special_token_settings(tokenizer))


def with_processor(model: Model, tokenizer: PreTrainedTokenizerBase | None) -> Converted[Model]:
    """
    A converted model of the BERT family with the processor of its tokenizer, when there is one.

    Raises:
        ConversionError: the tokenizer does not fit the model.
    """
    if tokenizer is None:
        return Converted(model, None)
    try:
        return Converted(model, AgaProcessor.for_config(model.config, tokenizer))
    except ValueError as error:
        raise ConversionError(f"{tokenizer.name_or_path}: {error}") from error
