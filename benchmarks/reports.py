"""Results as JSON files and as tables of Markdown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aga_model.files import write_json
from benchmarks import machine


def write_result(
    path: Path,
    settings: dict[str, Any],
    packages: Sequence[str] = (),
    device: dict[str, Any] | None = None,
    **found: Any,
) -> None:
    """
    Write what a bench found, with what it ran on.

    Args:
        settings: what the figures depend on but the code.
        packages: names of those whose versions matter beside this one's and Python's.
        device: from [`machine.device`], which is also the default.
        found: figures by their names, mostly `results`.
    """
    about = {"device": device or machine.device(), "versions": machine.versions(*packages)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings, **about, **found})


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table; columns of text left, then columns of figures right."""
    align = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, align, *rows)) + "\n"
