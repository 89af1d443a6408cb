"""
Sentences embedded by onnxruntime, from files that lie beside a gallery: a search for a sentence loads neither torch
nor transformers.

`conversion.write_text_encoder` writes the folder and compares it with the model before it is there: `text.onnx`, the
model's `tokenizer.json`, and `text_encoder.json` with what else is needed.
"""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aga_model.errors import ModelLoadError

from .sentences import Piece, QueryWarning, check_sentence

TEXT_ENCODER = "text_encoder"  # folder, within that of a gallery or of a model
TEXT_GRAPH_FILE = "text.onnx"  # the tower and its projection
TEXT_TOKENIZER_FILE = "tokenizer.json"  # the model's
TEXT_INFO_FILE = "text_encoder.json"  # whose text encoder it is, and how it is read
TEXT_ENCODER_FORMAT = 1  # of what is written; a higher one is refused


class OnnxTextEncoder:
    """
    Embeds sentences as the model does whose text encoder was written into a folder.

    ```python
    >>> encoder = OnnxTextEncoder.find(["gallery/text_encoder"], gallery.model_hash)
    >>> embedding, notes = encoder.encode_texts_with_notes(["a woman in a red coat"])  # (1, dim), float32, unit length
    ```

    Args:
        folder: what `write_text_encoder` wrote.

    Raises:
        ModelLoadError: a file is missing or damaged, or of a later version; names it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        info = _read_info(self.folder)
        self.name: str = info["model"]
        self.model_hash: str = info["model_hash"]
        self.dim: int = info["dim"]
        self.max_text_tokens: int = info["max_tokens"]
        self.unknown_token: int | None = info["unknown_token"]
        self.rendered_only: bool = info["rendered_only"]
        self._inputs: list[str] = info["inputs"]
        self._pad_token: int = info["pad_token"]

    @classmethod
    def find(cls, folders: Sequence[str | os.PathLike], model_hash: str) -> "OnnxTextEncoder | None":
        """
        The first of these folders that holds the text encoder of a model; None where none does.

        Args:
            model_hash: of the model's weights, see [`PersonEncoder.model_hash`].

        Raises:
            ModelLoadError: it is damaged.
        """
        for folder in folders:
            if (Path(folder) / TEXT_INFO_FILE).is_file():
                found = cls(folder)
                if found.model_hash == model_hash:
                    return found
        return None

    def encode_texts_with_notes(self, texts: Sequence[str]) -> tuple[np.ndarray, list[QueryWarning]]:
        """
        Embed sentences.

        Returns:
            float32 (n, dim), each row of unit length, and what makes the results of a sentence worse than they might
            be: it was cut, or is in a writing that the model has not learnt.

        Raises:
            ModelLoadError: the files are damaged.
            ValueError: a sentence is empty, holds no letter or digit, or is not valid Unicode.
        """
        notes = [note for text in texts for note in self.examine_text(text)]
        return self.embed_texts(texts), notes

    def examine_text(self, text: str) -> list[QueryWarning]:
        """What makes a sentence's results worse than they might be; ValueError for one that cannot be embedded."""
        return check_sentence(text, self)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """
        Embed sentences that have been examined, to float32 (n, dim) of unit length.

        Raises:
            ModelLoadError: the files are damaged.
        """
        if not texts:
            return np.empty((0, self.dim), np.float32)
        tokens = [self._tokens(text) for text in texts]
        longest = max(map(len, tokens))
        inputs = {
            "input_ids": np.array([row + [self._pad_token] * (longest - len(row)) for row in tokens], np.int64),
            "attention_mask": np.array([[1] * len(row) + [0] * (longest - len(row)) for row in tokens], np.int64),
        }
        try:
            (rows,) = self._session.run(None, {name: inputs[name] for name in self._inputs})
        except Exception as error:  # onnxruntime's errors have no type of their own
            raise self._damaged(TEXT_GRAPH_FILE, error) from error
        if rows.shape != (len(texts), self.dim) or not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3):
            raise self._damaged(TEXT_GRAPH_FILE, "it gives no unit vectors of the gallery's dimension")
        return rows

    def count_tokens(self, text: str) -> int:
        """Tokens of a whole sentence, including the start and end tokens."""
        return len(self._whole.encode(text).ids)

    def pieces(self, text: str) -> list[Piece]:
        """Tokens of a sentence without start and end, with the places that they stand for."""
        read = self._whole.encode(text, add_special_tokens=False)
        return list(zip(read.ids, read.offsets))

    def _tokens(self, text: str) -> list[int]:
        return self._cutting.encode(text).ids

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                os.fspath(self.folder / TEXT_GRAPH_FILE), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no type of their own
            raise self._damaged(TEXT_GRAPH_FILE, error) from error

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer that reads a sentence to its end."""
        return self._tokenizer(None)

    @cached_property
    def _cutting(self) -> Any:
        """The tokenizer that reads as much as the model does."""
        return self._tokenizer(self.max_text_tokens)

    def _tokenizer(self, longest: int | None) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(os.fspath(self.folder / TEXT_TOKENIZER_FILE))
        except Exception as error:  # tokenizers raises the plain class
            raise self._damaged(TEXT_TOKENIZER_FILE, error) from error
        # What the file says of these would overrule.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if longest is not None:
            tokenizer.enable_truncation(longest)
        return tokenizer

    def _damaged(self, file: str, reason: object) -> ModelLoadError:
        return ModelLoadError(_damage(self.folder / file, " ".join(str(reason).split())))


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / TEXT_INFO_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(_damage(path, str(error))) from error
    version = info.get("format_version") if isinstance(info, dict) else None
    if isinstance(version, int) and version > TEXT_ENCODER_FORMAT:
        raise ModelLoadError(f"{path} has format version {version}: update aga-model to read it")
    kinds: dict[str, type | tuple[type, ...]] = {
        "format_version": int,
        "model": str,
        "model_hash": str,
        "dim": int,
        "max_tokens": int,
        "unknown_token": (int, type(None)),
        "pad_token": int,
        "rendered_only": bool,
        "inputs": list,
    }
    for key, kind in kinds.items():
        if not isinstance(info, dict) or not isinstance(info.get(key), kind):
            raise ModelLoadError(_damage(path, f"no {key}"))
    return info


def _damage(path: Path, reason: str) -> str:
    return (
        f"{path} is damaged ({reason}): remove the folder {path.parent}, then searches load the model itself; "
        "`aga index` writes it again"
    )


__all__ = [
    "TEXT_ENCODER",
    "TEXT_ENCODER_FORMAT",
    "TEXT_GRAPH_FILE",
    "TEXT_INFO_FILE",
    "TEXT_TOKENIZER_FILE",
    "OnnxTextEncoder",
]
