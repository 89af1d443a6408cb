"""The files of a gallery folder: its own ones, the record that names the table, and locks."""

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lancedb
import pyarrow as pa
from filelock import FileLock, Timeout

from aga_model.files import write_through

from ..crops import (
    CROPS,
    has_foreign_crops,
)
from ..rows import GalleryError
from ..store import (
    FORMAT_VERSION,
    GallerySettings,
    Manifest,
)
from .rows import OLD_COLUMNS, schema_of

MANIFEST = "gallery.json"
SKIPPED = "skipped.json"  # of `aga index`
ERASING = ".erasing"
BUILDING = ".building"
_TABLE = re.compile(r"images-(\d+)")
_OWN_FILES = re.compile(
    r"gallery\.json(\.tmp)?|skipped\.json(\.\d+)?(\.tmp)?|\.lock|\.erasing(\.tmp)?|\.building|images-\d+\.lance(\.removed)?"
)
_FIRST_FORMAT_FILES = re.compile(r"embeddings-\d+\.safetensors(\.tmp)?|rows-\d+\.jsonl(\.tmp)?")
_LANCE_FOLDERS = {"data", "_versions", "_transactions", "_deletions", "_indices", "_latest.manifest", "_refs"}
READS = 10  # a read fails for good when others tidied up during as many
_LOCK_SECONDS = 600  # as long as another process may build an index
REMEDY = "make the gallery again with `aga index --overwrite`"
LANCE_ERRORS = (RuntimeError, OSError, ValueError)  # what lancedb raises, without a type of its own
_temporary_folder = threading.Lock()  # the environment is the whole process's


class Record(NamedTuple):
    """
    What gallery.json says.

    Attributes:
        manifest: see there.
        version: of the format.
        table: name of the table.
        lineage: the same for as long as it is one gallery; another when it was overwritten.
        settings: see there.
    """

    manifest: Manifest
    version: int
    table: str
    lineage: str
    settings: GallerySettings


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """
    LanceDB writes its temporary files into a folder, and not to the system's place for them: building an index it
    writes vectors there, and what a process leaves that is killed meanwhile is found by nobody.
    """
    with _temporary_folder:
        before = os.environ.get("TMPDIR")
        folder.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = os.path.abspath(folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
            shutil.rmtree(folder, ignore_errors=True)


def connect(folder: Path) -> Any:
    # Without an interval, what other processes have written would not be seen.
    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


@contextlib.contextmanager
def locked(lock: FileLock, folder: Path) -> Iterator[None]:
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise GalleryError(f"gallery {folder} is being written by another process: try again later") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise GalleryError(
            f"gallery {folder} cannot be written ({reason.lower()}): make its folder writable, or copy the gallery to "
            "one that is"
        ) from error
    try:
        yield
    finally:
        lock.release()


def require_place(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise GalleryError(f"gallery {folder} cannot be made: {parent} is no folder that can be written")
        return
    if not folder.is_dir():
        raise GalleryError(f"gallery {folder} is a file: give a folder")
    if not os.access(folder, os.W_OK):
        raise GalleryError(f"gallery {folder} cannot be written")
    has_gallery = (folder / MANIFEST).exists()
    foreign = [] if has_gallery else sorted(name for name in os.listdir(folder) if not _is_own(folder, name))
    foreign = [name for name in foreign if name != CROPS]
    if not foreign and has_foreign_crops(folder):
        foreign = [CROPS]
    if foreign and not has_gallery:
        raise GalleryError(f"{folder} holds other files ({foreign[0]}): give a new or empty folder for the gallery")
    if has_gallery and not overwrite:
        raise GalleryError(f"{folder} holds a gallery already: open it or overwrite it")


FileMark = tuple[int, int, int]


def real_folder(location: str | os.PathLike) -> Path:
    """
    The folder by one name: LanceDB takes `link/..` for nothing, where the operating system follows the link first.

    Raises:
        GalleryError: LanceDB cannot open a folder of this name.
    """
    folder = os.path.realpath(location)
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise GalleryError(f"the name of gallery {location!s} is not valid UTF-8: rename its folder") from error
    if any(not character.isprintable() for character in folder):
        raise GalleryError(f"the name of gallery {location!s} holds a character that no file name should: rename it")
    return Path(folder)


def _is_own(folder: Path, name: str) -> bool:
    """Whether a file has a name of the gallery's, and is no folder of somebody else's with the name of a table."""
    return bool(_OWN_FILES.fullmatch(name)) and (not name.startswith("images-") or _is_table(folder / name))


def _is_table(place: Path) -> bool:
    """Whether a folder looks like one of LanceDB's."""
    return place.is_symlink() or (place.is_dir() and set(os.listdir(place)) <= _LANCE_FOLDERS)


def mark_of(folder: Path) -> FileMark | None:
    """What tells one gallery.json from the next; None where there is none."""
    try:
        found = os.stat(folder / MANIFEST)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read_record(folder: Path) -> Record:
    file = folder / MANIFEST
    if folder.exists() and not folder.is_dir():
        raise GalleryError(f"gallery {folder} is a file: give the folder that `aga index` wrote")
    if not file.is_file():
        raise GalleryError(f"{folder} holds no gallery ({MANIFEST} is missing): make one with `aga index`")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GalleryError(f"{file} is damaged ({error}): {REMEDY}") from error
    manifest = Manifest.from_json(text, str(file))
    content = json.loads(text)
    name = content.get("table")
    if not isinstance(name, str) or not _TABLE.fullmatch(name):
        raise GalleryError(f"{file} is damaged (table is {name!r}): {REMEDY}")
    settings = GallerySettings.from_dict(content.get("settings", {}), str(file))
    # Format version 2 has no lineage; its table was made once and stayed.
    return Record(manifest, content["format_version"], name, str(content.get("lineage", name)), settings)


def write_record(folder: Path, record: Record) -> None:
    content = record.manifest.to_dict() | {
        "table": record.table,
        "lineage": record.lineage,
        "settings": asdict(record.settings),
    }
    replace_file(folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())


def settings_of(folder: Path) -> GallerySettings:
    """
    Of a gallery that is overwritten, also of one that cannot be read otherwise; none where there is none.

    Raises:
        GalleryError: it has settings that this version does not know.
    """
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_text(encoding="utf-8")).get("settings", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return GallerySettings()
    return GallerySettings.from_dict(values, str(file))


def open_table(folder: Path) -> tuple[Record, FileMark | None, Any]:
    """What gallery.json says, and its table, while others may write it anew."""
    for attempt in range(READS):
        mark = mark_of(folder)
        record = _read_record(folder)
        place = folder / f"{record.table}.lance"
        try:
            if not place.is_dir():
                raise GalleryError(f"{place} is missing: {REMEDY}")
            table = connect(folder).open_table(record.table)
            schema = table.schema
        except LANCE_ERRORS as error:
            if attempt < READS - 1 and mark_of(folder) != mark:
                continue
            if isinstance(error, GalleryError):
                raise
            raise GalleryError(f"{place} is damaged ({first_line_of(error)}): {REMEDY}") from error
        wanted = schema_of(record.manifest.dim)
        if record.version < FORMAT_VERSION:
            wanted = pa.schema([wanted.field(name) for name in OLD_COLUMNS])
        if schema != wanted:
            raise GalleryError(f"{place} does not hold what {folder / MANIFEST} says: {REMEDY}")
        return record, mark, table
    raise AssertionError("the last attempt returns or raises")


def names_table(folder: Path, table: str) -> bool:
    """Whether gallery.json names a table, or may do so."""
    try:
        return _read_record(folder).table == table
    except GalleryError:
        return True


def of_overwritten(folder: Path, table: str) -> list[Path]:
    """What is left of the gallery in whose place this table comes, also of one of the first format."""
    first = [folder / name for name in os.listdir(folder) if _FIRST_FORMAT_FILES.fullmatch(name)]
    return [*leftovers(folder, table), *first, folder / SKIPPED, folder / ERASING]


def is_empty(file: Path) -> bool:
    """Whether a file is there and holds nothing."""
    try:
        return file.stat().st_size == 0
    except OSError:
        return False


def next_table(folder: Path) -> str:
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := _TABLE.match(name))]
    return f"images-{max(numbers, default=0) + 1}"


def leftovers(folder: Path, table: str) -> list[Path]:
    """What a process has left that was killed while it wrote the gallery, or deleted from it."""
    kept = {MANIFEST, SKIPPED, ".lock", ERASING, f"{table}.lance"}
    return [folder / name for name in os.listdir(folder) if name not in kept and _is_own(folder, name)]


def remove_all(places: Iterable[Path]) -> None:
    """Remove files and folders; of a link the link."""
    for path in places:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it has its whole content from the moment it bears its name, even over a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # a link of this name would lead elsewhere
    try:
        with temporary.open("xb") as file:
            file.write(content)
        write_through(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk
        raise
    write_through(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a table's files to the disk, before what they replace is removed."""
    for path in (*folder.rglob("*"), folder):
        write_through(path)


def first_line_of(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # LanceDB ends with the line of its own source.
    return re.sub(r", \S+\.rs:\d+:\d+", "", lines[0]) if lines else type(error).__name__
