"""What commands tell the person besides their result: notes and errors, on stderr."""

import sys
from typing import NoReturn

import typer

from aga_model.gallery import redacted_text

RENDERED_NOTE = "this model has only seen rendered drawings: expect mistakes on photographs"
# Modules that an installation without extras does not bring -> the extra that does.
EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "evaluate": "train",
    "jinja2": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "yaml": "train",
    "cv2": "search",
    "filelock": "search",
    "lancedb": "search",
    "pyarrow": "search",
    "pymilvus": "milvus",
    "fastapi": "serve",
    "gradio": "demo",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "prometheus_client": "serve",
    "uvicorn": "serve",
}
_ADVICE = "pip install"


def extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra that brings the module which was not found; None for a module of no extra."""
    return EXTRAS.get((error.name or "").partition(".")[0])


def fail(message: object) -> NoReturn:
    """Print one line and end the command with exit code 2; a module of an extra is named with its extra."""
    if isinstance(message, ModuleNotFoundError) and (extra := extra_of(message)) and _ADVICE not in str(message):
        message = f"this needs {message.name}: {_ADVICE} 'aga-model[{extra}]'"
    typer.echo(f"error: {redacted_text(shown(message))}", err=True)
    raise typer.Exit(2)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU is full; asked without importing torch, since only a torch that is there can raise it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def note(message: object) -> None:
    """Print one line that is no part of the result."""
    typer.echo(f"note: {redacted_text(shown(message))}", err=True)


def shown(value: object) -> str:
    """Text for one line of a terminal: file names may hold line breaks, control characters and damaged UTF-8."""
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
