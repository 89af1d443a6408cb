"""CLIP's BPE vocabulary from where people have it, with IRRA's mask token, and what a conversion returns."""

import gzip
import json
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedModel

from aga_model.configuration_aga import AgaConfig
from aga_model.processing_aga import AgaProcessor, clip_tokenizer

from .state import ConversionError

Model = TypeVar("Model", bound=PreTrainedModel, covariant=True)


class Converted(NamedTuple, Generic[Model]):
    """A converted model and its processor, which is None when no CLIP vocabulary was found or given."""

    model: Model
    processor: AgaProcessor | None


MERGES = 49152 - 256 - 2  # CLIP's vocabulary: 256 bytes twice, the merges, two special tokens


def processor_for(config: AgaConfig, where: str | Path, required: bool) -> AgaProcessor | None:
    """
    The processor of a converted model.

    Args:
        config: of the model.
        where: folder, Hub repository or `bpe_simple_vocab_16e6.txt.gz` to take the vocabulary from.
        required: raise when there is none, instead of returning None.

    Raises:
        ConversionError: no vocabulary although required, or one that does not fit the model.
    """
    try:
        tokenizer = _read_tokenizer(where)
    except (OSError, ValueError, KeyError) as error:
        if not required:
            return None
        raise ConversionError(f"{where}: no CLIP vocabulary there ({' '.join(str(error).split())[:300]})") from error
    try:
        return AgaProcessor.for_config(config, tokenizer)
    except ValueError as error:
        if not required:
            return None
        raise ConversionError(f"{where}: {error}") from error


def _read_tokenizer(where: str | Path) -> CLIPTokenizer:
    path = Path(where)
    if path.is_file() and path.suffix == ".gz":
        return clip_tokenizer(*read_openai_vocabulary(path))
    if path.is_file():  # weights without a vocabulary beside them
        raise ValueError("a single file")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return clip_tokenizer(*_read_vocabulary_files(path))
    backend = json.loads(AutoTokenizer.from_pretrained(str(where)).backend_tokenizer.to_str())["model"]
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
