"""Libraries that others import on the way although nothing here needs them."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Refusing(MetaPathFinder):
    def __init__(self, package: str):
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"{fullname} is left out here", name=fullname)
        return None


@contextmanager
def left_out(package: str) -> Iterator[None]:
    """
    Imports within this block find no such package, unless it has been imported already.

    For pyarrow, which imports pandas where it is installed, to recognise its tables: a fifth of a second and 40 MB
    that a short command can do without. It remembers that there is none, so this is for a process of its own.
    """
    refusing = _Refusing(package)
    sys.meta_path.insert(0, refusing)
    try:
        yield
    finally:
        sys.meta_path.remove(refusing)
