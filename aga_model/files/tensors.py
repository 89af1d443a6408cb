"""Tensors of a PyTorch checkpoint beside which objects of any class stand, none of which is made."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_TORCH = ("torch", "torch.storage")


class Unread(dict[Any, Any]):
    """
    Stands where an object of an unknown class stood: whatever the pickle does with it has no effect, but for entries
    of a dictionary, which are kept.

    Attributes:
        of (`str`): module and name of the class or function.
    """

    of = ""

    def __new__(cls, *args: Any, **named: Any) -> "Unread":
        return super().__new__(cls)

    def __init__(self, *args: Any, **named: Any):
        super().__init__()

    def __call__(self, *args: Any, **named: Any) -> "Unread":
        return type(self)()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]  # dict has none, and any object may have been a key

    def __eq__(self, other: object) -> bool:
        return self is other


def read_tensors(path: str | Path) -> tuple[Any, list[str]]:
    """
    What `torch.save` wrote: tensors on the CPU, numbers, texts and containers of them as they are, [`Unread`] for
    anything else, and the names of the classes and functions of which nothing was made. No code of the file runs and
    none is imported for it: the names in it are looked up in a list of a few that rebuild tensors, and nowhere else.

    Raises:
        ValueError: the file is not of PyTorch's zip format (since 1.6), or of another byte order, or a tensor reaches
            beyond its storage.
        Whatever pickle and zip raise on a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        [entry] = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")] or [""]
        if not entry:
            raise ValueError("no PyTorch checkpoint of the zip format: data.pkl is missing")
        folder = entry.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are in another byte order than this machine's")
        reader = _Reader(archive, folder)
        return reader.load(), list(reader.unread)


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, bytearray] = {}
        self.unread: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in _TORCH and (name in _STORAGES or name == "UntypedStorage"):
            return _Storage(name)
        # Functions of this reader's own, which a pickle may call but has no way to change for others.
        return {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _rebuilt(*given[:4]),
            ("torch._utils", "_rebuild_tensor_v3"): lambda *given: _rebuilt(*given[:4], *given[6:7]),
            ("torch._utils", "_rebuild_parameter"): lambda *given: given[0],
            ("torch._utils", "_rebuild_parameter_with_state"): lambda *given: given[0],
            ("torch", "Size"): lambda *given: tuple(*given),
        }.get((module, name)) or self._unread(module, name)

    def _unread(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        of = f"{module}.{name}"
        self.unread[of] = None
        return type("Unread", (Unread,), {"of": of})

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key = pid[:3]
        if kind != "storage" or not isinstance(storage, _Storage):
            raise ValueError(f"tensors of a kind that is not read: {getattr(storage, 'of', kind)}")
        if key not in self._storages:
            self._storages[key] = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return storage.dtype, self._storages[key]


class _Storage(str):
    """Name of a kind of storage."""

    @property
    def dtype(self) -> torch.dtype:
        return _STORAGES.get(self, torch.uint8)


def _rebuilt(
    storage: tuple[torch.dtype, bytearray], offset: int, size: Any, stride: Any, dtype: torch.dtype | None = None
) -> Tensor:
    kind, content = storage
    values = torch.frombuffer(content, dtype=dtype or kind) if content else torch.empty(0, dtype=dtype or kind)
    try:
        return torch.as_strided(values, tuple(size), tuple(stride), offset)
    except RuntimeError as error:
        raise ValueError(f"a tensor of {tuple(size)} reaches beyond its storage") from error


__all__ = ["Unread", "read_tensors"]
