"""The command `aga`."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aga_model.version import __version__

from .datasets.commands import check_data, render, wrong_pairs
from .galleries.commands import demo, index, search, serve
from .galleries.gallery_commands import gallery_app
from .messages import extra_of, fail
from .models.commands import convert, evaluate, export, push, report


class _Commands(TyperGroup):
    """The commands; one that asks for a library of an extra that is not installed ends with the extra's name."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if extra_of(error) is None:  # no library to install, but a fault
                raise
            fail(error)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aga {__version__}")
        raise typer.Exit()


app = typer.Typer(cls=_Commands, no_args_is_help=True)


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Text-based person search with AGA."""


for command in (render, check_data, wrong_pairs, evaluate, index, search, demo, serve, report, convert, export, push):
    app.command()(command)
app.add_typer(gallery_app, name="gallery")
