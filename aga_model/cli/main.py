"""The command `aga`."""

from typing import Any

import typer
from typer.core import TyperGroup

from .check_data import check_data
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .export import export
from .gallery import gallery_app
from .index import index
from .messages import extra_of, fail
from .push import push
from .render import render
from .report import report
from .search import search
from .wrong_pairs import wrong_pairs


class _Commands(TyperGroup):
    """The commands; one that asks for a library of an extra that is not installed ends with the extra's name."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if extra_of(error) is None:  # no library to install, but a fault
                raise
            fail(error)


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, help="Text-based person search with AGA.")
for command in (render, check_data, wrong_pairs, evaluate, index, search, demo, report, convert, export, push):
    app.command()(command)
app.add_typer(gallery_app, name="gallery")
