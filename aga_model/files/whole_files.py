"""Writing result files: each is there whole or not at all, and an error says which one and what to do."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_NAME_CHARACTERS = 50  # of a file's name in that of the temporary one: names have a limit
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP}  # file systems without fsync


class UnwritableFileError(OSError):
    """A file that cannot be written; the message names it and says what to do."""


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary file beside `path` that takes its place when the block has ended without an error. Otherwise the
    temporary file is removed, and what was at `path` stays.

    A symbolic link stays, and the file that it leads to is replaced. A device or a pipe is written to directly.

    Args:
        path: file to write.

    Yields:
        Where to write.

    Raises:
        UnwritableFileError: it cannot be written: no folder, no permission, a full disk.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            yield path
            return
        target = Path(os.path.realpath(path))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        temporary = target.with_name(f"{target.name[:_NAME_CHARACTERS]}.{os.getpid()}.tmp")
        try:
            yield temporary
            write_through(temporary)
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UnwritableFileError(f"{path} cannot be written: {_reason(path, error)}") from error


def write_through(path: Path) -> None:
    """
    Wait until the content of a file, or the names in a folder, are on the disk. File systems that cannot tell, as some
    on a network, are taken at their word.

    Raises:
        OSError: the content is not there; on some disks, that they are full shows only now.
    """
    if path.is_dir():
        if os.name != "nt":  # folders cannot be opened there
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        return
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NOT_SYNCED:
                raise


def _reason(path: Path, error: OSError) -> str:
    """What is wrong, and what to do."""
    folder = path.absolute().parent
    if error.errno == errno.EISDIR:
        return "it is a folder; give the name of a file"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no folder {folder}; make it, or give another one"
    if error.errno in _FORBIDDEN:
        what = "it" if path.exists() and not os.access(path, os.W_OK) else f"the folder {folder}"
        return f"{what} is write-protected; give another file, or get the permission"
    if error.errno in _NO_ROOM:
        return "the disk is full; make room, or give a file on another one"
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long; give a shorter one"
    return error.strerror or str(error) or type(error).__name__


def write_json(path: str | Path, values: Any) -> None:
    """
    Write JSON with sorted keys, so that the file is there whole or not at all.

    Raises:
        UnwritableFileError: see [`whole_file`].
    """
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    with whole_file(path) as file:
        file.write_text(text, encoding="utf-8")
