"""`aga gallery`: look after a gallery."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ..retrieval import Filter, Gallery
from ..retrieval.times import read_time
from .index import shown_index
from .messages import fail, note, shown

gallery_app = typer.Typer(no_args_is_help=True, help="Look after a gallery: what it holds, deletion, its files.")
Location = Annotated[
    str, typer.Argument(metavar="GALLERY", help="The gallery, a folder or milvus://host:port/collection.")
]
_AGE = re.compile(r"(\d+)([dhw])")
_AGE_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@gallery_app.command()
def info(location: Location) -> None:
    """What the gallery holds and how it is searched."""
    try:
        gallery = Gallery.open(location)
        count, index = gallery.count(), gallery.vector_index()
        typer.echo(f"gallery {shown(gallery)}: {count:,} images, {_dated(gallery):,} of them with a time")
        typer.echo(f"model {shown(gallery.model_name)}, weights {gallery.model_hash}, {gallery.dim} dimensions")
        if index.kind == "FLAT":
            typer.echo("search: exact, every image is compared with")
        else:
            until = ", once its embeddings outgrow what is held in memory; until then exact" if index.held else ""
            typer.echo(f"search: approximate by a vector index {index.kind} of {index.rows:,} images{until}")
        if gallery.folder is not None:
            typer.echo(f"size: {_bytes_in(gallery.folder) / 2**20:,.1f} MiB")
    except (ValueError, OSError) as error:
        fail(error)


@gallery_app.command()
def delete(
    location: Location,
    person: Annotated[list[str] | None, typer.Option("--person", help="Images of this person id; repeatable.")] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Images from this image or video file; repeatable.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option("--camera", help="Images of this camera; repeatable.")] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="Images taken before this date (2026-01-31) or longer ago (12h, 30d, 8w)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
) -> None:
    """
    Remove images from the gallery, without asking; the image files themselves stay.

    Several options narrow it down: images that fulfil all of them. Of a gallery in a folder no trace stays in its
    files.
    """
    try:
        until = None if older_than is None else _oldest(older_than, datetime.now())
        where = Filter(camera or None, None, until, person or None, source or None)
        if where.is_empty:
            raise ValueError("say which images: --person, --source, --camera or --older-than")
        gallery = Gallery.open(location)
        if until is not None and (undated := gallery.count() - _dated(gallery)):
            note(f"{undated} images have no time and are not touched by --older-than")
        if dry_run:
            typer.echo(f"{gallery.count(where)} images would be removed, the gallery holds {gallery.count()}")
            return
        removed = gallery.delete(where)
        typer.echo(f"{removed} images removed, the gallery holds {gallery.count()}")
        if removed and gallery.folder is None:
            note("no search finds them any more; `aga gallery compact` asks the server to drop their bytes")
    except (ValueError, OSError) as error:
        fail(error)


@gallery_app.command()
def compact(location: Location) -> None:
    """Write the gallery's files anew, without what was replaced or deleted."""
    try:
        gallery = Gallery.open(location)
        before = _bytes_in(gallery.folder) if gallery.folder is not None else 0
        gallery.compact()
        typer.echo(f"gallery {shown(gallery)}: {gallery.count()} images")
        if gallery.folder is not None:
            typer.echo(f"size: {_bytes_in(gallery.folder) / 2**20:,.1f} MiB, was {before / 2**20:,.1f}")
    except (ValueError, OSError) as error:
        fail(error)


@gallery_app.command("build-index")
def build_index(location: Location) -> None:
    """Build the vector index of a large gallery and measure what a search by it finds of the exact result."""
    try:
        typer.echo(shown_index(Gallery.open(location).build_index()))
    except (ValueError, OSError) as error:
        fail(error)


def _oldest(text: str, now: datetime) -> datetime:
    """The time before which images are older than an age (30d) or a date."""
    if (age := _AGE.fullmatch(text)) is None:
        return read_time(text, "--older-than")
    try:
        return now - timedelta(**{_AGE_UNITS[age[2]]: int(age[1])})
    except OverflowError as error:
        raise ValueError(f"--older-than {text} is before the calendar begins") from error


def _dated(gallery: Gallery) -> int:
    """Images with a time."""
    return gallery.count(Filter(since=0.0)) + gallery.count(Filter(until=0.0))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
