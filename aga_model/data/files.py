"""Writing result files."""

import json
from pathlib import Path
from typing import Any


def write_json(path: str | Path, values: Any) -> None:
    """
    Write JSON with sorted keys under a temporary name and rename it, so that the file is there whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    try:
        temporary.write_text(text, encoding="utf-8")
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk
        raise
    temporary.replace(path)
