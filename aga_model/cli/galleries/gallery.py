"""`aga gallery`: look after a gallery."""

import os
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from aga_model.files import UnreadableVideoError, hash_video
from aga_model.gallery import (
    AuditLog,
    Filter,
    Gallery,
    GallerySettings,
    Head,
    Recorder,
    absolute_source,
    read_time,
    require_outside,
    verify,
)

from ..messages import fail, note, shown
from .index import shown_index

_AGE = re.compile(r"([0-9]{1,6})([dhw])")
_AGE_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def info(location: str) -> None:
    """What the command does; `commands` declares it."""
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
        for line in _shown_settings(gallery.settings):
            typer.echo(line)
        _tell_unfinished(gallery)
    except (ValueError, OSError) as error:
        fail(error)


def delete(
    location: str,
    person: list[str] | None,
    source: list[str] | None,
    camera: list[str] | None,
    older_than: str | None,
    dry_run: bool,
    audit: Path | None,
    purpose: str | None,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        until = None if older_than is None else _oldest(older_than, datetime.now())
        where = Filter(camera or None, None, until, person or None, source or None)
        if where.is_empty:
            raise ValueError("say which images: --person, --source, --camera or --older-than")
        gallery = Gallery.open(location)
        _tell_unfinished(gallery)
        if source:
            where = replace(where, sources=_known_sources(gallery, source))
        if until is not None and (undated := gallery.count() - _dated(gallery)):
            note(f"{undated} images have no time and are not touched by --older-than")
        if dry_run:
            typer.echo(f"{gallery.count(where)} images would be removed, the gallery holds {gallery.count()}")
            return
        gallery.before_removal = Recorder.of(gallery, audit).for_purpose(purpose).removes
        removed = gallery.delete(where)
        typer.echo(f"{removed} images removed, the gallery holds {gallery.count()}")
        if not removed:
            note("ids and names are compared letter by letter, and --source takes files, not folders")
        if gallery.expired:
            typer.echo(f"{gallery.expired} more were older than the gallery keeps its images, and are erased")
        if gallery.folder is None:
            note(f"no search finds them any more, but {_server_keeps()}")
    except (ValueError, OSError) as error:
        fail(error)


def compact(location: str) -> None:
    """What the command does; `commands` declares it."""
    try:
        gallery = Gallery.open(location)
        before = _bytes_in(gallery.folder) if gallery.folder is not None else 0
        gallery.compact()
        typer.echo(f"gallery {shown(gallery)}: {gallery.count()} images")
        if gallery.folder is not None:
            typer.echo(f"size: {_bytes_in(gallery.folder) / 2**20:,.1f} MiB, was {before / 2**20:,.1f}")
    except (ValueError, OSError) as error:
        fail(error)


def retention(location: str, keep: str | None, forever: bool, audit: Path | None, purpose: str | None) -> None:
    """What the command does; `commands` declares it."""
    try:
        if keep is not None and forever:
            raise ValueError("give --keep or --forever, not both")
        gallery = Gallery.open(location)
        if keep is not None or forever:
            seconds = None if keep is None else _age(keep, "--keep").total_seconds()
            _change_settings(gallery, replace(gallery.settings, keep_seconds=seconds), audit, purpose)
        typer.echo(_shown_settings(gallery.settings)[0])
        if gallery.expired:
            typer.echo(f"{gallery.expired} images erased, the gallery holds {gallery.count()}")
    except (ValueError, OSError) as error:
        fail(error)


def purge(location: str, audit: Path | None, purpose: str | None) -> None:
    """What the command does; `commands` declares it."""
    try:
        gallery = Gallery.open(location)
        if gallery.settings.keep_seconds is None:
            raise ValueError(f"gallery {gallery} keeps its images for ever: see `aga gallery retention --keep`")
        gallery.before_removal = Recorder.of(gallery, audit).for_purpose(purpose).removes
        typer.echo(f"{gallery.purge()} images erased, the gallery holds {gallery.count()}")
        if gallery.folder is None:
            note(f"no search finds them any more, but {_server_keeps()}")
    except (ValueError, OSError) as error:
        fail(error)


def settings(
    location: str, audit: Path | None, no_audit: bool, purpose: bool | None, faces: bool | None, why: str | None
) -> None:
    """What the command does; `commands` declares it."""
    try:
        if audit is not None and no_audit:
            raise ValueError("give --audit or --no-audit, not both")
        gallery = Gallery.open(location)
        changes: dict[str, Any] = {}
        if audit is not None or no_audit:
            changes["audit"] = None if audit is None else os.path.abspath(audit)
        if audit is not None:
            require_outside(gallery, audit)
            AuditLog(audit)  # AuditError where nothing could be written to it
        if purpose is not None:
            changes["purpose_required"] = purpose
        if faces is not None:
            changes["hide_faces"] = faces
        if changes:
            wanted = replace(gallery.settings, **changes)
            if wanted.purpose_required and wanted.audit is None:
                raise ValueError("a purpose is kept in an audit log, and there is none: give --audit FILE, too")
            _change_settings(gallery, wanted, None, why)
        for line in _shown_settings(gallery.settings):
            typer.echo(line)
    except (ValueError, OSError) as error:
        fail(error)


def audit(location: str, noted: str | None) -> None:
    """What the command does; `commands` declares it."""
    try:
        report = verify(_log_of(location), None if noted is None else Head.parse(noted))
    except (ValueError, OSError) as error:
        fail(error)
    for line in report.notes:
        note(line)
    if report.broken_at is not None:
        typer.echo(f"broken at line {report.broken_at}: {report.reason}")
        raise typer.Exit(1)
    typer.echo(f"{report.head.lines:,} lines, every one as it was written\nhead {report.head}")


def build_index(location: str) -> None:
    """What the command does; `commands` declares it."""
    try:
        typer.echo(shown_index(Gallery.open(location).build_index()))
    except (ValueError, OSError) as error:
        fail(error)


def _log_of(location: str) -> str | Path:
    """The audit log that is meant: a file, or that of a gallery."""
    if "://" not in location and not Path(location).is_dir():
        return Path(location)
    gallery = Gallery.open(location)
    if (log := gallery.settings.audit) is None:
        raise ValueError(
            f"the settings of gallery {gallery} name no audit log: give its file, `aga gallery audit FILE`"
        )
    return log


def _oldest(text: str, now: datetime) -> datetime:
    """The time before which images are older than an age (30d) or a date."""
    if _AGE.fullmatch(text) is None:
        try:
            return read_time(text, "--older-than")
        except ValueError as error:
            raise ValueError(f"{error}, or an age such as 12h, 30d or 8w") from error
    try:
        return now - _age(text, "--older-than")
    except OverflowError as error:
        raise ValueError(f"--older-than {text} is before the calendar begins") from error


def _age(text: str, option: str) -> timedelta:
    """An age such as 12h, 30d or 8w."""
    age = _AGE.fullmatch(text)
    try:
        found = timedelta(**{_AGE_UNITS[age[2]]: int(age[1])}) if age is not None else None
    except OverflowError as error:
        raise ValueError(f"{option} {text} is before the calendar begins") from error
    if not found:
        raise ValueError(f"{option} {text}: give a time such as 12h, 30d or 8w")
    return found


def _change_settings(gallery: Gallery, settings: GallerySettings, audit: Path | None, purpose: str | None) -> None:
    """Change them; a log that the gallery keeps, or kept until now, tells of it and of what is erased by it."""
    recorder = replace(Recorder.of(gallery, audit), purpose=purpose or "change of settings")
    (recorder if recorder.log is not None else recorder.following(settings)).changes_settings(settings)
    gallery.before_removal = recorder.following(settings).removes
    gallery.change_settings(settings)


def _shown_settings(settings: GallerySettings) -> list[str]:
    """A line on each setting, retention first."""
    keep = settings.keep_seconds
    kept = (
        "until they are deleted" if keep is None else f"for {_shown_age(keep)} from when they were taken, else added"
    )
    shown_audit = "no" if settings.audit is None else f"into {shown(settings.audit)}"
    return [
        f"images are kept {kept}",
        f"searches, exports and deletions are written down: {shown_audit}",
        f"a purpose is asked for: {'yes' if settings.purpose_required else 'no'}",
        f"faces are hidden: {'yes' if settings.hide_faces else 'no'}",
    ]


def _shown_age(seconds: float) -> str:
    for unit, length in (("week", 7 * 86_400), ("day", 86_400), ("hour", 3600)):
        if seconds % length == 0:
            number = seconds / length
            return f"{number:,.0f} {unit}{'' if number == 1 else 's'}"
    return f"{seconds:,.0f} seconds"


def _tell_unfinished(gallery: Gallery) -> None:
    if unfinished := gallery.unfinished:
        note(unfinished)


def _server_keeps() -> str:
    from aga_model.gallery import SERVER_KEEPS

    return SERVER_KEEPS


def _known_sources(gallery: Gallery, names: list[str]) -> list[str]:
    """
    The paths by which a gallery names these files: as they are given, and whichever others lead to the same file,
    since the gallery may have been filled through a link, or hold the same content, since a copy has no own row.
    """
    given = [absolute_source(name) for name in names]
    places, contents = {os.path.realpath(name) for name in given}, {_content(name) for name in given} - {None}
    same = {
        row.source for row in gallery.rows() if row.source_hash in contents or os.path.realpath(row.source) in places
    }
    return [*given, *sorted(same)]


def _content(path: str) -> str | None:
    """SHA-256 of a file in hexadecimal; None of one that cannot be read."""
    try:
        return hash_video(path)
    except UnreadableVideoError:
        return None


def _dated(gallery: Gallery) -> int:
    """Images with a time."""
    return gallery.count(Filter(since=0.0)) + gallery.count(Filter(until=0.0))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
