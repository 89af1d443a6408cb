"""What commands tell the person besides their result: notes and errors, on stderr."""

from typing import NoReturn

import typer

RENDERED_NOTE = "this model has only seen rendered drawings: expect mistakes on photographs"


def fail(message: object) -> NoReturn:
    """Print one line and end the command with exit code 2."""
    typer.echo(f"error: {shown(message)}", err=True)
    raise typer.Exit(2)


def note(message: object) -> None:
    """Print one line that is no part of the result."""
    typer.echo(f"note: {shown(message)}", err=True)


def shown(value: object) -> str:
    """Text for one line of a terminal: file names may hold line breaks, control characters and damaged UTF-8."""
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
