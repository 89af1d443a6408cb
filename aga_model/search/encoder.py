"""A trained dual encoder as retrieval uses it: images and sentences in, unit vectors out."""

import hashlib
import os
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from aga_model.data import says_rendered
from aga_model.errors import ModelLoadError
from aga_model.loading import first_line, local_folder, place, read_model, require_weights
from aga_model.remote_code import refusal, tell_of_code_left_out

from .sentences import Piece, QueryWarning, check_sentence

_READ_SIZE = 1024**2  # bytes
# A tokenizer keeps how it cuts and pads between calls: of two threads, one would read with what the other has set.
TOKENIZING = threading.Lock()


class PersonEncoder:
    """
    Encodes person images and sentences into the joint space of a dual encoder.

    ```python
    >>> encoder = PersonEncoder.from_pretrained("runs/my_model")
    >>> images = encoder.encode_images([read_image("someone.jpg")])  # (1, dim), float32, unit length
    >>> images @ encoder.encode_texts(["a woman in a red coat"]).T  # cosine similarity (1, 1)
    ```

    Args:
        model: a model with `get_image_features` and `get_text_features`, such as `AgaModel`.
        processor: its processor.
        name (`str`): what the model is called in messages and in galleries: the folder or Hub name.
        folder (`Path`, *optional*): the folder it was loaded from.
        device (`str`, *optional*): a torch device; the first GPU when there is one, otherwise the CPU.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        name: str,
        folder: Path | None = None,
        device: str | None = None,
    ):
        self.processor = processor
        self.name = name
        self.folder = folder
        self.device, self.model = place(model, device)
        self.dim = _projection_dim(model, name)

    @classmethod
    def from_pretrained(
        cls, folder_or_repo: str | os.PathLike, device: str | None = None, trust_remote_code: bool = False
    ) -> "PersonEncoder":
        """
        Load a model from a folder or from the Hub.

        Args:
            folder_or_repo: a saved model's folder, or owner/name on the Hub.
            device: as of the constructor.
            trust_remote_code: run the Python code that the model brings along; read it first. A model of this package
                needs none, and its own classes are taken either way.

        Raises:
            ModelLoadError: there is no such folder or repository, it holds no dual encoder with its processor, its
                weights are damaged, incomplete or others than its configuration's, it needs code of its own that is
                not trusted, or the device cannot be used.
        """
        folder = local_folder(folder_or_repo, trust_remote_code)
        name = os.path.abspath(folder_or_repo) if Path(folder_or_repo).is_dir() else str(folder_or_repo)
        model = _load_model(folder, name, trust_remote_code)
        processor = _load_processor(folder, name, trust_remote_code)
        tell_of_code_left_out(folder, name, trust_remote_code)
        _require_same_vocabulary(model, processor, name)
        return cls(model, processor, name, folder, device)

    @cached_property
    def model_hash(self) -> str:
        """
        SHA-256 of the weights in hexadecimal: of the safetensors files one after the other in the order of their
        names, which is `cat *.safetensors | sha256sum`; of the weights in memory for a model without such files.
        """
        files = sorted(self.folder.glob("*.safetensors")) if self.folder else []
        return _hash_files(files) if files else _hash_state(self.model)

    @property
    def max_text_tokens(self) -> int:
        """Tokens of a sentence that the model reads, including the start and end tokens."""
        text_config: Any = self.model.config.text_config  # type: ignore[union-attr]
        # BERT has more positions than its family reads.
        return int(getattr(text_config, "caption_length", text_config.max_position_embeddings))

    @cached_property
    def rendered_only(self) -> bool:
        """Whether the model card says that the model has seen rendered drawings only."""
        return says_rendered(self.folder / "README.md" if self.folder else None)

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images to the model's input (batch, 3, height, width) on the CPU. May be called from several threads."""
        return self.processor(images=list(images), return_tensors="pt")["pixel_values"]

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        """
        Embed RGB images.

        Returns:
            float32 (n, dim), each row of unit length.
        """
        batches = [
            self.encode_pixels(self.preprocess(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate([np.empty((0, self.dim), np.float32), *batches])

    def encode_pixels(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Embed preprocessed images (batch, 3, height, width) to float32 (batch, dim) of unit length."""
        with torch.inference_mode():
            features = self.model.get_image_features(pixel_values=pixel_values.to(self.device))  # type: ignore[operator]
        return self._unit_rows(features.pooler_output)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """
        Embed sentences. One that is longer than the model reads is cut, with a warning that says by how much. Another
        warning tells of a writing that the vocabulary does not have; it knows scripts, not languages.

        Returns:
            float32 (n, dim), each row of unit length.

        Raises:
            ValueError: a sentence is empty, holds no letter or digit, or is not valid Unicode.
        """
        embeddings, notes = self.encode_texts_with_notes(texts, batch_size)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return embeddings

    def encode_texts_with_notes(
        self, texts: Sequence[str], batch_size: int = 32
    ) -> tuple[np.ndarray, list[QueryWarning]]:
        """
        Embed sentences and return what [`PersonEncoder.encode_texts`] warns of, for programs that answer several
        people: warnings belong to the whole process, so one person's could be taken for another's.

        Returns:
            float32 (n, dim), each row of unit length, and the notes about these sentences in their order.

        Raises:
            ValueError: a sentence is empty, holds no letter or digit, or is not valid Unicode.
        """
        notes = [note for text in texts for note in self.examine_text(text)]
        return self.embed_texts(texts, batch_size), notes

    def examine_text(self, text: str) -> list[QueryWarning]:
        """What makes a sentence's results worse than they might be; ValueError for one that cannot be embedded."""
        return check_sentence(text, self)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Embed sentences that have been examined, to float32 (n, dim) of unit length."""
        batches = [
            self._encode_text_batch(list(texts[start : start + batch_size]))
            for start in range(0, len(texts), batch_size)
        ]
        return np.concatenate([np.empty((0, self.dim), np.float32), *batches])

    @property
    def unknown_token(self) -> int | None:
        """The token that stands for what the vocabulary does not have; None of a tokenizer without one."""
        return self.processor.tokenizer.unk_token_id

    def count_tokens(self, text: str) -> int:
        """Tokens of a whole sentence, including the start and end tokens."""
        with TOKENIZING:
            return len(self.processor.tokenizer(text, verbose=False)["input_ids"])

    def pieces(self, text: str) -> list[Piece] | None:
        """Tokens of a sentence with the places that they stand for; None where the tokenizer does not tell them."""
        tokenizer = self.processor.tokenizer
        if not tokenizer.is_fast:
            return None
        with TOKENIZING:
            read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(zip(read["input_ids"], read["offset_mapping"]))

    def _encode_text_batch(self, texts: list[str]) -> np.ndarray:
        with TOKENIZING:
            inputs = self.processor(
                text=texts, padding=True, truncation=True, max_length=self.max_text_tokens, return_tensors="pt"
            )
        inputs = inputs.to(self.device)
        with torch.inference_mode():
            features = self.model.get_text_features(  # type: ignore[operator]
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            )
        return self._unit_rows(features.pooler_output)

    def _unit_rows(self, features: torch.Tensor) -> np.ndarray:
        rows = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
        if not np.isfinite(rows).all() or not rows.any(axis=-1).all():
            raise ValueError(
                f"model {self.name} gave an embedding that is zero or not finite: its weights are unusable"
            )
        return rows


def _load_model(folder: Path, name: str, trust_remote_code: bool) -> torch.nn.Module:
    model, missing = read_model(AutoModel, folder, name, trust_remote_code)
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ModelLoadError(f"model {name} is a {type(model).__name__}, not a dual encoder of images and text")
    require_weights(missing, name)
    return model


def _load_processor(folder: Path, name: str, trust_remote_code: bool) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise ModelLoadError(
                f"model {name} lacks the files of its processor (preprocessor and tokenizer): save them into its "
                "folder with `processor.save_pretrained`"
            )
    except Exception as error:
        # Also of a processor without its parts: transformers leaves out those that would need code.
        if reason := refusal(error, folder, trust_remote_code):
            raise ModelLoadError(f"the processor of model {name} cannot be loaded: {reason}") from error
        if isinstance(error, ModelLoadError):
            raise
        raise ModelLoadError(f"the processor of model {name} cannot be loaded: {first_line(error)}") from error
    return processor


def _require_same_vocabulary(model: torch.nn.Module, processor: Any, name: str) -> None:
    # transformers makes an empty tokenizer when the vocabulary's file is missing, which reads every word as unknown.
    entries, expected = len(processor.tokenizer), model.config.text_config.vocab_size  # type: ignore[union-attr]
    if entries != expected:
        raise ModelLoadError(
            f"the tokenizer of model {name} has {entries} entries, its text tower {expected}: the tokenizer's files "
            "are missing or another model's"
        )


def _projection_dim(model: torch.nn.Module, name: str) -> int:
    dim = getattr(model.config, "projection_dim", None)
    if dim is None:
        raise ModelLoadError(f"the configuration of model {name} has no projection_dim: it is no dual encoder")
    return int(dim)


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_READ_SIZE):
                digest.update(block)
    return digest.hexdigest()


def _hash_state(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
