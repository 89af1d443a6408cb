"""The command `aga`."""

import typer

from .check_data import check_data
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .export import export
from .gallery import gallery_app
from .index import index
from .push import push
from .render import render
from .report import report
from .search import search

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Text-based person search with AGA.")
for command in (render, check_data, evaluate, index, search, demo, report, convert, export, push):
    app.command()(command)
app.add_typer(gallery_app, name="gallery")
