"""
Saved crops of videos and photographs: their names, and which files in a gallery's folder are such.

    crops/0123456789abcdef/00000012_10_20_90_180.jpg     a folder for each source, by its hash; frame and box

A gallery names its crops relative to its own folder, so that they are found wherever it lies and by whatever path it
is reached. Nothing that leads out of the folder, by `..` or by a symbolic link, is a crop of the gallery.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

CROPS = "crops"  # folder for saved crops within that of a gallery
_HASH_DIGITS = 16  # of the source, in the names of folders
_FOLDER = re.compile(rf"[0-9a-f]{{{_HASH_DIGITS}}}")
_FILE = re.compile(r"(?:photograph|\d{8,})(?:_\d+){4}\.jpg")
_TEMPORARY = re.compile(rf"{_FILE.pattern}\.\d+\.tmp")  # of a process that was killed while it saved


def crop_name(source_hash: str, frame: int | None, box: Collection[float]) -> str:
    """Where a crop is saved under the folder of crops: the same for the same crop, with `/` between the parts."""
    moment = "photograph" if frame is None else f"{frame:08d}"
    return f"{source_hash[:_HASH_DIGITS]}/{moment}_{'_'.join(str(int(side)) for side in box)}.jpg"


def write_crop(image: Image.Image, path: Path) -> None:
    """
    Write a crop as JPEG, so that it is there whole or not at all.

    Raises:
        OSError: the folder cannot be written; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        # Crops are small: the colours of clothes are worth more than the bytes that coarser colour would save.
        image.save(temporary, "JPEG", quality=95, subsampling="4:4:4")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def is_crop_name(name: str) -> bool:
    """Whether a name under the folder of crops is one that `crop_name` gives."""
    folder, _, file = name.partition("/")
    return _FOLDER.fullmatch(folder) is not None and _FILE.fullmatch(file) is not None


def is_crop_folder(name: str) -> bool:
    """Whether crops of a source are saved under such a name."""
    return _FOLDER.fullmatch(name) is not None


def stored_crop_path(path: str, gallery: Path) -> str | None:
    """
    The path of a saved crop relative to its gallery's folder, None for any other file.

    Args:
        path: absolute, or relative to the gallery as this function gives it.
        gallery: folder, by whatever path it is reached.
    """
    if os.path.isabs(path):
        path = os.path.normpath(path)
        for place in (os.path.abspath(gallery), os.path.realpath(gallery)):
            if Path(path).is_relative_to(place):
                return _within(Path(path).relative_to(place).as_posix())
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        place = os.path.realpath(gallery)
        return _within(Path(real).relative_to(place).as_posix()) if Path(real).is_relative_to(place) else None
    return _within(path)


def _within(path: str) -> str | None:
    parts = PurePosixPath(path).parts
    return path if len(parts) > 1 and parts[0] == CROPS and ".." not in parts else None


def crop_file(stored: str, gallery: Path) -> Path | None:
    """
    The file of a stored path that may be removed with its row: a regular file within the gallery's folder of crops,
    reached through no symbolic link. None for anything else.
    """
    if _within(stored) is None:
        return None
    path = gallery
    for part in PurePosixPath(stored).parts:
        path = path / part
        if path.is_symlink():
            return None
    return path if path.is_file() else None


def saved_crops(gallery: Path) -> Iterator[tuple[str, Path]]:
    """
    Paths relative to the gallery, and files, of all crops that its folder holds; with what a process left that was
    killed while it saved one, whose path is no crop's. Files with other names are not the gallery's.
    """
    for folder in _entries(gallery / CROPS):
        if not (_FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False)):
            continue
        for file in _entries(Path(folder.path)):
            is_own = _FILE.fullmatch(file.name) or _TEMPORARY.fullmatch(file.name)
            if is_own and file.is_file(follow_symlinks=False):
                yield f"{CROPS}/{folder.name}/{file.name}", Path(file.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return list(entries)


def remove_crop(file: Path) -> None:
    """Remove the file of a crop, and its folder when that was the last one in it."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there are others
        file.parent.rmdir()


def has_foreign_crops(gallery: Path) -> bool:
    """Whether a folder `crops` holds anything that no gallery saves there."""
    place = gallery / CROPS
    if place.is_symlink() or not place.is_dir():
        return place.is_symlink() or place.exists()
    found = {path for _, path in saved_crops(gallery)}
    return any(path not in found and not path.is_dir() for path in place.rglob("*"))


__all__ = [
    "CROPS",
    "crop_file",
    "crop_name",
    "has_foreign_crops",
    "is_crop_folder",
    "is_crop_name",
    "remove_crop",
    "saved_crops",
    "stored_crop_path",
    "write_crop",
]
