"""`aga gallery`: what its commands can be asked for."""

from pathlib import Path
from typing import Annotated

import typer

from ..deferred import deferred
from ..options import AuditOption, GalleryLocation, PurposeOption

gallery_app = typer.Typer(no_args_is_help=True, help="Look after a gallery: what it holds, deletion, its files.")
_GALLERY = "aga_model.cli.galleries.gallery"


@gallery_app.command()
@deferred(_GALLERY)
def info(location: GalleryLocation) -> None:
    """What the gallery holds and how it is searched."""


@gallery_app.command()
@deferred(_GALLERY)
def delete(
    location: GalleryLocation,
    person: Annotated[list[str] | None, typer.Option("--person", help="Images of this person id; repeatable.")] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Images from this file, or stream by its address; repeatable.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option("--camera", help="Images of this camera; repeatable.")] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="Images taken before this date (2026-01-31) or longer ago (12h, 30d, 8w)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
) -> None:
    """
    Remove images from the gallery, without asking; the image files themselves stay.

    Several options narrow it down: images that fulfil all of them. Of a gallery in a folder no trace stays in its
    files.
    """


@gallery_app.command()
@deferred(_GALLERY)
def compact(location: GalleryLocation) -> None:
    """Write the gallery's files anew, without what was replaced or deleted."""


@gallery_app.command()
@deferred(_GALLERY)
def retention(
    location: GalleryLocation,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="Keep images for so long (12h, 30d, 8w): from when they were taken, else added."),
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep images until they are deleted.")] = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
) -> None:
    """
    How long the gallery keeps its images; without an option, say how long it is.

    Older images are found by no search from this moment on. They are erased now, and later ones by the next write to
    the gallery or by `aga gallery purge`.
    """


@gallery_app.command()
@deferred(_GALLERY)
def purge(location: GalleryLocation, audit: AuditOption = None, purpose: PurposeOption = None) -> None:
    """Erase the images that are older than the gallery keeps them; for a daily job."""


@gallery_app.command()
@deferred(_GALLERY)
def settings(
    location: GalleryLocation,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="Write every search, export and deletion into this file.")
    ] = None,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="Write no such file.")] = False,
    purpose: Annotated[
        bool | None,
        typer.Option("--purpose-required/--no-purpose-required", help="Each of these must say what it is for."),
    ] = None,
    faces: Annotated[
        bool | None,
        typer.Option("--hide-faces/--show-faces", help="Hide faces in everything that is shown or saved."),
    ] = None,
    why: PurposeOption = None,
) -> None:
    """What holds for everyone who uses the gallery; without an option, say what does."""


@gallery_app.command()
@deferred(_GALLERY)
def audit(
    location: Annotated[
        str,
        typer.Argument(metavar="GALLERY", help="The gallery, whose settings name its audit log; or the log itself."),
    ],
    noted: Annotated[
        str | None,
        typer.Option("--noted", help="What this command printed earlier, LINES:HASH: the log must go on from it."),
    ] = None,
) -> None:
    """
    See whether an audit log is as it was written: nothing changed, removed or added. Exit code 1 if not.

    It prints the number of lines and the last one's hash. Keep them elsewhere: who can write the log and its head file
    can write another history, but not one that goes on from these.
    """


@gallery_app.command("build-index")
@deferred(_GALLERY)
def build_index(location: GalleryLocation) -> None:
    """Build the vector index of a large gallery and measure what a search by it finds of the exact result."""
