"""Small faults of the code, as the bench `mutants` puts them there, and the lists that they stand in."""

import ast
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Mutant:
    """
    A fault.

    Args:
        name: what is wrong, in the form of a Python name; the only one of this name.
        file: path from the root of the project.
        old: text that occurs in the file once.
        new: what stands there instead.
        why: how a user would suffer.
    """

    name: str
    file: str
    old: str
    new: str
    why: str

    def applied(self, source: str) -> str:
        """
        The file's text with the fault.

        Raises:
            ValueError: the old text does not occur exactly once, or nothing would change; it names the fault.
        """
        if (found := source.count(self.old)) != 1:
            raise ValueError(f"mutant {self.name}: its old text occurs {found} times in {self.file}, not once")
        changed = source.replace(self.old, self.new)
        try:
            same = ast.dump(ast.parse(changed)) == _tree(source)
        except SyntaxError as error:
            raise ValueError(f"mutant {self.name}: {self.file} would be no Python: {error}") from error
        if same:
            raise ValueError(f"mutant {self.name} changes nothing in {self.file}")
        return changed

    def changed_lines(self, source: str) -> range:
        """Lines of the source, from 1, that the fault changes; where it only adds some, the line before them."""
        old, new = self.old.split("\n"), self.new.split("\n")
        first = source[: source.index(self.old)].count("\n") + 1
        same = _same_from_start(old, new)
        tail = _same_from_start(old[same:][::-1], new[same:][::-1])
        start, end = first + same, first + len(old) - tail
        return range(start, end) if start < end else range(max(start - 1, 1), max(start, 2))


@functools.lru_cache(maxsize=1)
def _tree(source: str) -> str:
    return ast.dump(ast.parse(source))


def _same_from_start(first: Sequence[str], second: Sequence[str]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))


def read_lists(folder: Path, names: Sequence[str] = ()) -> list[Mutant]:
    """
    The faults of all lists of a folder, or of some.

    Raises:
        ValueError: an entry is not one, or a name occurs twice; it names the list and the entry.
    """
    mutants: list[Mutant] = []
    for path in sorted(folder.glob("*.yaml")):
        if names and path.stem not in names:
            continue
        for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")) or [], 1):
            try:
                mutants.append(Mutant(**entry))
            except TypeError as error:
                raise ValueError(f"{path}, entry {number}: {error}") from None
    counted = [mutant.name for mutant in mutants]
    if twice := {name for name in counted if counted.count(name) > 1}:
        raise ValueError(f"mutants of the same name: {', '.join(sorted(twice))}")
    if unknown := set(names) - {path.stem for path in folder.glob("*.yaml")}:
        raise ValueError(f"no list {', '.join(sorted(unknown))} in {folder}")
    return mutants
