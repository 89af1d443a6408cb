"""Python code that a model's folder brings along: it runs only where the user says so, and nothing asks for it."""

import json
import logging
from pathlib import Path
from typing import Any

from .configuration_aga import AgaConfig

logger = logging.getLogger(__name__)

OPTION = "--trust-remote-code (in Python trust_remote_code=True)"
_CONFIG_FILE = "config.json"
# Where transformers looks for an `auto_map`, which names classes in Python files of the folder or of a repository.
_SETTINGS_FILES = (
    _CONFIG_FILE,
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)


def files_naming_code(folder: Path) -> list[str]:
    """The settings files of a folder that name Python code."""
    return [name for name in _SETTINGS_FILES if _names_code(_read(folder / name))]


def _is_own(folder: Path) -> bool:
    """A model of this package, whose installed classes are taken in place of the copies that it brings."""
    return _read(folder / _CONFIG_FILE).get("model_type") == AgaConfig.model_type


def refusal(error: Exception, where: str | Path, trusted: bool) -> str | None:
    """
    What to tell where a model's parts cannot be loaded because its Python code was not run; None for another reason.

    Args:
        error: of transformers.
        where: folder, or repository on the Hub.
        trusted: the code was allowed to run.
    """
    folder = Path(where)
    named = files_naming_code(folder) if folder.is_dir() else []
    asks = "trust_remote_code" in str(error)
    if trusted or not (asks or (named and not _is_own(folder))):
        return None
    files = f" ({', '.join(named)})" if named else ""
    without = "" if asks else f"; without it: {' '.join(str(error).split())[:300]}"
    return f"it names Python code of its own{files}, which was not run: read that code, and give {OPTION}{without}"


def tell_of_code_left_out(folder: Path, name: str, trusted: bool) -> None:
    """Log that a model was loaded by transformers' own classes, although it names others."""
    if not trusted and not _is_own(folder) and (named := files_naming_code(folder)):
        logger.warning(
            "%s names Python code of its own (%s), which was not run: transformers' classes were taken; %s runs it",
            name,
            ", ".join(named),
            OPTION,
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever needs the file says what is wrong with it
        return {}
    return values if isinstance(values, dict) else {}


def _names_code(values: dict[str, Any]) -> bool:
    """Whether there is an `auto_map`, also of a part: a processor's file holds the settings of its image processor."""
    return bool(values.get("auto_map")) or any(_names_code(part) for part in values.values() if isinstance(part, dict))
