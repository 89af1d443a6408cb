"""
docs/migration.md from `aga_model.moved`: prints the page, or with --write writes it. A test holds the page against it.
"""

import importlib.util
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "migration.md"
INTRODUCTION = """\
# Old import paths

The package was sorted into rooms: what reads files, what keeps a gallery, what fills it, what searches it, what serves
it. Each old path below keeps working for one version and is gone in the next. Until then an import from it gives a
`DeprecationWarning` that names the new path; Python's option `-W error::DeprecationWarning` makes an error of it, and
pytest shows them all at its end.

Import a name from its room where the room lists it, `from aga_model.search import PersonEncoder`; the
[reference](reference/index.md) says which do. This page is written by `docs/_site/migration.py` from
`aga_model/moved.py`.
"""


def page() -> str:
    """The page as it should be."""
    moved = _moved()
    lines = [INTRODUCTION, "## Modules", "", "| old | new |", "| --- | --- |"]
    for old, new in sorted(moved.MOVED.items()):
        shown = ", ".join(f"`aga_model.{name}`" for name in new) or "none: it held modules only"
        lines.append(f"| `aga_model.{old}` | {shown} |")
    lines += [
        "",
        "Where there are several, a name is in one of them.",
        "",
        "## Names",
        "",
        "| old | new |",
        "| --- | --- |",
    ]
    for (module, old), new in sorted(moved.RENAMED.items()):
        holder = next(name for name in moved.MOVED[module] if _has(name, new))
        lines.append(f"| `aga_model.{module}.{old}` | `aga_model.{holder}.{new}` |")
    return "\n".join(lines) + "\n"


def _has(module: str, name: str) -> bool:
    """Whether a name stands in a module, or in the list of a room; read without importing it."""
    place = REPOSITORY / "aga_model" / module.replace(".", "/")
    file = place / "__init__.pyi" if place.is_dir() else place.with_suffix(".py")
    return re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None


def _moved():
    """The tables, without importing the package and what it needs."""
    spec = importlib.util.spec_from_file_location("aga_model.moved", REPOSITORY / "aga_model" / "moved.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
