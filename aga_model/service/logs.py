"""
What the demo writes to its terminal: that something failed, and where, never what somebody asked for.

Messages of exceptions hold the values that caused them. So of libraries that handle requests only the kind of an
exception and its place in the code are written; what this package says itself, it says without inputs.
"""

import logging
import sys
import traceback
from collections.abc import Iterable
from typing import Any

_SHOWN_FRAMES = 6
_SHORTEST = 3  # characters of an input that a message is searched for
_LIBRARIES = ("uvicorn", "asyncio", "gradio", "starlette", "fastapi", "anyio")


class FormatterWithoutInputs(logging.Formatter):
    """Writes a record as its level, its logger, the text that stands in the code, and where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        # asyncio puts exceptions into the text itself.
        text = str(record.msg).strip() if record.name.startswith("uvicorn") else "something failed"
        error = record.exc_info[1] if record.exc_info else None
        where = "" if error is None else f": {described(error)}"
        return f"{record.levelname.lower()}: {record.name}: {text}{where}"


def log_config() -> dict[str, Any]:
    """For `logging.config`: errors of the libraries that handle requests go to the terminal without inputs."""
    handled = {"handlers": ["terminal"], "level": "ERROR", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"without_inputs": {"()": FormatterWithoutInputs}},
        "handlers": {"terminal": {"class": "logging.StreamHandler", "formatter": "without_inputs"}},
        "loggers": {name: handled for name in _LIBRARIES},
    }


def described(error: BaseException) -> str:
    """The kind of an exception and the places in the code that it came through, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-_SHOWN_FRAMES:]
    places = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return f"{type(error).__name__}{places}"


def without_inputs(error: BaseException, inputs: Iterable[str]) -> str:
    """The message of an exception; its kind alone if any of the texts that were asked with stands in it."""
    message = str(error)
    given = [text for text in inputs if len(text) >= _SHORTEST]
    return type(error).__name__ if any(text in message for text in given) else message


class QuietTraceback:
    """In the place of the module `traceback` in libraries that print exceptions past every logger."""

    @staticmethod
    def print_exc(*_: Any, **__: Any) -> None:
        """Log the exception that is being handled, without its message."""
        logging.getLogger("gradio").error("", exc_info=sys.exc_info())

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)


__all__ = ["FormatterWithoutInputs", "QuietTraceback", "described", "log_config", "without_inputs"]
