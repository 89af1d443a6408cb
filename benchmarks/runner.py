"""The benches by their names. Finding them imports none, and running one imports no other."""

import argparse
import ast
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOMS = ("quality", "speed", "search", "reliability")
HERE = Path(__file__).resolve().parent


def benches() -> dict[str, Path]:
    """Name -> file of each bench, room by room; a bench is a module of a room with a function `main`."""
    files = (path for room in ROOMS for path in sorted((HERE / room).glob("*.py")))
    return {path.stem: path for path in files if "\ndef main(" in path.read_text(encoding="utf-8")}


def import_bench(name: str) -> ModuleType:
    """
    The module of a bench.

    Raises:
        ValueError: there is none of this name; it names the nearest.
    """
    found = benches()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`python -m benchmarks` lists them"
        raise ValueError(f"no bench {name!r}; {hint}")
    return importlib.import_module(f"benchmarks.{found[name].parent.name}.{name}")


def bench_parser(name: str, description: str | None, whole: bool = False) -> argparse.ArgumentParser:
    """
    The parser of a bench's options.

    Args:
        name: `__name__` of its module.
        description: `__doc__` of its module, of which the help shows the first line.
        whole: the help shows all of it.
    """
    shown = (description or "").strip() if whole else _first_line(description)
    how = argparse.RawDescriptionHelpFormatter if whole else argparse.HelpFormatter
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {name.rpartition('.')[2]}", description=shown, formatter_class=how
    )


def main(arguments: Sequence[str] | None = None) -> int | None:
    """The command: the exit status of the bench, 2 where there is none of the name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _print_list()
        return 0
    try:
        module = import_bench(words[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return module.main(words[1:])


def _print_list() -> None:
    print("python -m benchmarks NAME [OPTIONS], with --help for the options")
    room = ""
    for name, path in benches().items():
        if path.parent.name != room:
            room = path.parent.name
            print(f"\n{room}")
        print(f"  {name:16} {_first_line(ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))))}")


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
