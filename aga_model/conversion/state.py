"""Reading checkpoints safely and accounting for each of their keys."""

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor, nn

from aga_model.configuration_aga import AgaConfig
from aga_model.files import Unread, read_tensors

logger = logging.getLogger(__name__)


class ConversionError(ValueError):
    """A checkpoint that does not fit: unreadable, keys missing or left over, sizes that contradict each other."""


def read_state(path: str | Path) -> dict[str, Tensor]:
    """
    State dict of a .pt, .pth, .bin or .safetensors file, in float32, without running code from it.

    Pickles are read with `weights_only=True`, and where objects of other classes stand beside the weights, as in the
    files that TBPS-CLIP's training writes, by [`read_tensors`], which makes none of them. OpenAI's CLIP files are
    TorchScript archives, whose parameters are taken and whose code is not called. A dict that nests the state under
    `model` or `state_dict` is unwrapped, and `module.` taken off the keys, however often it stands there.

    Raises:
        ConversionError: the file is missing or no checkpoint, or what stands among the weights is no tensor.
    """
    state, unread = _read_state(Path(path))
    if unread:
        logger.warning("%s: nothing was made of its objects of %s", path, ", ".join(unread))
    return state


def read_keys(path: str | Path) -> list[str]:
    """The names of the weights that [`read_state`] gives; raises as it does."""
    return list(_read_state(Path(path))[0])


def _read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state, and the classes of which nothing was made."""
    if not path.is_file():
        raise ConversionError(f"{path}: no such file")
    try:
        content, unread = _read(path)
    except Exception as error:  # pickle, zip, safetensors and torch raise almost anything on a damaged file
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(f"{path}: cannot be read as a checkpoint of tensors ({reason})") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    bad = [key for key, value in content.items() if not isinstance(value, Tensor)] if isinstance(content, dict) else []
    unmade = content if isinstance(content, Unread) and not content else content[bad[0]] if bad else None
    if isinstance(unmade, Unread):
        named = f"{bad[0]} is an object" if bad else "it is an object"
        raise ConversionError(
            f"{path}: cannot be read as a checkpoint of tensors ({named} of {unmade.of}, of which nothing is made)"
        )
    if not isinstance(content, dict) or not content:
        raise ConversionError(f"{path}: holds no state dict")
    if bad:
        raise ConversionError(f"{path}: {len(bad)} entries are no tensors, first: {bad[0]}")
    state = {re.sub(r"^(module\.)+", "", key): value for key, value in content.items()}
    if len(state) < len(content):
        raise ConversionError(f"{path}: keys that differ in `module.` alone: which weights are meant cannot be told")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, unread


def _read(path: Path) -> tuple[Any, list[str]]:
    if path.suffix == ".safetensors":
        return load_file(path), []
    # A TorchScript archive is a zip with a code folder, which torch.load refuses under weights_only.
    if zipfile.is_zipfile(path) and _is_torchscript(path):
        return torch.jit.load(str(path), map_location="cpu").state_dict(), []
    try:
        return torch.load(path, map_location="cpu", weights_only=True), []
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):  # the format before PyTorch 1.6
            raise
    return read_tensors(path)


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_config(source: str | Path, **settings: Any) -> AgaConfig:
    """
    The configuration that a checkpoint's sizes give.

    Raises:
        ConversionError: they do not fit together; names the source and the key.
    """
    try:
        return AgaConfig(**settings)
    except (ValueError, StrictDataclassError) as error:
        raise ConversionError(f"{source}: {' '.join(str(error).split())}") from error


class StateAccount:
    """
    A state dict of which every key must be used once or ignored on purpose.

    Args:
        state: key -> tensor.
        source: named in errors.
    """

    def __init__(self, state: dict[str, Tensor], source: str | Path):
        self.state = dict(state)
        self.source = source
        self.ignored: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.state

    def peek(self, key: str, dims: int | None = None) -> Tensor:
        """
        The tensor of a key, which stays to be used.

        Args:
            key: of the source.
            dims: number of dimensions that it must have, none of them empty.
        """
        if key not in self.state:
            raise ConversionError(f"{self.source}: key {key!r} is missing; is it a checkpoint of this kind?")
        tensor = self.state[key]
        if dims is not None and (tensor.ndim != dims or not tensor.numel()):
            raise ConversionError(
                f"{self.source}: {key} has the shape {tuple(tensor.shape)}, expected {dims} dimensions"
            )
        return tensor

    def take(self, key: str, dims: int | None = None) -> Tensor:
        """The tensor of a key, as [`peek`], which counts as used; it must hold finite floating point numbers."""
        tensor = self.peek(key, dims)
        if not tensor.is_floating_point():
            raise ConversionError(f"{self.source}: {key} is of {tensor.dtype}, expected floating point numbers")
        if not tensor.isfinite().all():
            raise ConversionError(f"{self.source}: {key} holds NaN or infinity: the checkpoint is broken")
        del self.state[key]
        return tensor

    def take_number(self, key: str) -> Tensor:
        """The only number of a key, a scalar, which counts as used."""
        tensor = self.take(key)
        if tensor.numel() != 1:
            raise ConversionError(f"{self.source}: {key} has the shape {tuple(tensor.shape)}, expected one number")
        return tensor.reshape(())

    def take_thirds(self, key: str) -> tuple[Tensor, Tensor, Tensor]:
        """The equal parts for queries, keys and values of a key, which counts as used."""
        tensor = self.take(key)
        if not tensor.ndim or not tensor.numel() or len(tensor) % 3:
            shape = tuple(tensor.shape)
            raise ConversionError(f"{self.source}: {key} has the shape {shape}, expected queries, keys and values")
        queries, keys, values = (part.contiguous() for part in tensor.chunk(3))
        return queries, keys, values

    def matching(self, pattern: str) -> Iterator[re.Match[str]]:
        """Matches of the keys that are left, in their order."""
        for key in list(self.state):
            if match := re.match(pattern, key):
                yield match

    def ignore(self, pattern: str, reason: str) -> None:
        """Leave out the keys that begin with a pattern, on purpose."""
        for match in self.matching(pattern):
            self.ignored[match.string] = reason
            del self.state[match.string]

    def finish(self, model: nn.Module, converted: dict[str, Tensor], may_miss: tuple[str, ...] = ()) -> None:
        """
        Load the converted state into a model, once every key is accounted for.

        Args:
            model: to load into.
            converted: our key -> tensor.
            may_miss: keys of ours that the source does not have and that keep their initial value.

        Raises:
            ConversionError: keys of the source are left over, or keys of the model are not filled, or a shape differs.
        """
        if self.state:
            named = ", ".join(list(self.state)[:5])
            raise ConversionError(f"{self.source}: {len(self.state)} keys are not known, first: {named}")
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        other = [
            f"{key} is {tuple(value.shape)}, expected {wanted[key]}"
            for key, value in converted.items()
            if key in wanted and tuple(value.shape) != wanted[key]
        ]
        if other:
            raise ConversionError(
                f"{self.source}: {len(other)} weights of another shape, first: {'; '.join(other[:3])}"
            )
        result = model.load_state_dict(converted, strict=False)
        missing = sorted(set(result.missing_keys) - set(may_miss))
        wrong = [
            f"{what}: {len(keys)}, first: {', '.join(keys[:5])}"
            for what, keys in (("weights not filled", missing), ("unknown weights", result.unexpected_keys))
            if keys
        ]
        if wrong:
            raise ConversionError(f"{self.source}: {'; '.join(wrong)}")
        for key, reason in self.ignored.items():
            logger.info("%s: %s ignored on purpose (%s)", self.source, key, reason)
