"""
The audit log: who searched for whom, when and why, one JSON object a line, each line chained to the one before.

`previous` of a line is the SHA-256 of the bytes of the line before, so a line that is changed, removed, added or moved
breaks the chain behind it. What a chain cannot show by itself is that its end was cut off: beside the log stands
`FILE.head` with the number of lines and the last line's hash. Who can write both files can still write a whole new
history; only a head that was noted elsewhere proves that it is not ([`verify`] takes one).

A line is written in three steps, under a lock: the head announces it, the line is appended, the head counts it. So a
process that is killed in between leaves a log of which every line is accounted for.

Person ids and file names that a filter names stand in it as HMAC-SHA256 with a key of the log (in its first line): who
knows the name can prove that it was searched for or deleted, and the log does not spell it out. Sentences, purposes
and names of those who search are in clear: the log is personal data itself.
"""

import hashlib
import hmac
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from .rows import Filter

BEGINNING = "0" * 64  # what the first line is chained to
MAX_SENTENCE = 2000  # characters of a sentence that a line holds; of a longer one it holds the hash, too
_HEAD, _LOCK = ".head", ".lock"
_LOCK_SECONDS = 60
_TAIL = 64 * 1024  # bytes that are read to find the last line, at first
_FIRST_LINES = 1024 * 1024  # bytes in which the key of a log stands
_UNFINISHED = "line {} is unfinished: its process was killed before it did what it was to record"
_HEX = frozenset("0123456789abcdef")


class AuditError(OSError):
    """The audit log cannot be read or written. What was to be recorded must not take place."""


@dataclass(frozen=True)
class Head:
    """
    The end of a log.

    Args:
        lines (`int`): number of lines.
        hash (`str`): SHA-256 of the last one, in hexadecimal digits; `BEGINNING` of an empty log.
    """

    lines: int = 0
    hash: str = BEGINNING

    def __str__(self) -> str:
        return f"{self.lines}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """The head that `str` wrote; ValueError for another text."""
        lines, _, digest = text.partition(":")
        if not lines.isascii() or not lines.isdigit() or not _is_hash(digest):
            raise ValueError(f"{text} is no head of an audit log: give LINES:HASH, as `aga gallery audit` prints it")
        return cls(int(lines), digest)


@dataclass(frozen=True)
class AuditReport:
    """
    What [`verify`] found.

    Args:
        head (`Head`): of the lines that hold together, all of them if `ok`.
        broken_at (`int`, *optional*): number of the first line that is not as it was written, counted from 1; one more
            than there are if lines are missing at the end.
        reason (`str`): what is wrong there.
        notes (`tuple[str, ...]`): what is no fault and worth knowing, such as lines of processes that were killed.
    """

    head: Head
    broken_at: int | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every line is as it was written, and none is missing."""
        return self.broken_at is None


class AuditLog:
    """
    A log to append to, by several threads and processes at a time.

    ```python
    >>> log = AuditLog("people.jsonl")
    >>> log.append("search", "gallery", "anna", "missing child", 10, query={"sentence": "a girl in a red coat"})
    >>> verify("people.jsonl").ok
    True
    ```

    Beside it lie `FILE.head` and `FILE.lock`. The files are for their owner only, and for the group of a folder that
    its group may write to.

    Args:
        path: of the log, which is made if it is not there; its folder must be.

    Raises:
        AuditError: it cannot be written, or the file is something else.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(os.path.realpath(path))
        with self._opened() as file:
            begun = os.fstat(file.fileno()).st_size > 0
            if begun and _key_of(file) is None and not _beside(self.path, _HEAD).exists():
                raise AuditError(f"{self.path} is no audit log, and nothing is written to it: give another file")
            if not begun and _beside(self.path, _HEAD).exists() and _read_heads(self.path) is None:
                head = _beside(self.path, _HEAD)
                raise AuditError(f"{head} is a file of something else, and would be replaced: give another log")

    def append(
        self,
        action: str,
        gallery: str,
        actor: str,
        purpose: str | None,
        results: int,
        query: Mapping[str, str] | None = None,
        where: Filter | None = None,
        files: Sequence[str] = (),
    ) -> Head:
        """
        Add a line. When this returns, it is on the disk.

        Args:
            action: `search`, `export`, `delete` or `purge`.
            gallery: which one, without its password.
            actor: who.
            purpose: why.
            results: number of images that were found, are exported or are to be removed.
            query: `{"sentence": ...}`, or `{"image_sha256": ...}` of an image.
            where: among which images; names of persons and files are hashed.
            files: to which results are written.

        Returns:
            The head of the log with this line.

        Raises:
            AuditError: it cannot be written.
        """
        entry: dict[str, Any] = {"action": action, "actor": actor, "gallery": gallery, "purpose": purpose}
        entry |= {"results": results, "time": datetime.now(UTC).isoformat(timespec="microseconds")}
        if query is not None:
            entry["query"] = _bounded(query)
        if files:
            entry["files"] = list(files)
        with self._opened() as file:
            end, heads, key = _end_of(file), _read_heads(self.path), _key_of(file)
            if key is None:
                entry["key"] = key = secrets.token_hex(32)
            if where is not None and not where.is_empty:
                entry["filters"] = _hashed(where, key)
            if not end.accounted_for(heads):  # the log goes on, and its chain tells of this for ever
                entry["head_was"] = None if heads is None else str(heads.written)
            line = _canonical(entry | {"number": end.whole.lines + 1, "previous": end.whole.hash})
            head = Head(end.whole.lines + 1, _digest(line))
            _write_heads(self.path, _Heads(end.whole, head))
            _write(file, (b"\n" if end.unfinished else b"") + line + b"\n")
            _write_heads(self.path, _Heads(head))
        return head

    @contextmanager
    def _opened(self) -> Iterator[io.FileIO]:
        """The log for reading and appending, while no other thread or process has it."""
        from filelock import FileLock, Timeout

        def opener(path: str, flags: int) -> int:
            return os.open(path, flags, mode)

        try:
            mode = _mode_in(self.path.parent)
            with (
                FileLock(_beside(self.path, _LOCK), timeout=_LOCK_SECONDS, mode=mode),
                open(self.path, "a+b", buffering=0, opener=opener) as file,
            ):
                yield file
        except Timeout as error:
            raise AuditError(f"audit log {self.path} is held by another process: try again later") from error
        except AuditError:
            raise
        except OSError as error:
            raise AuditError(
                f"audit log {self.path} cannot be written ({error.strerror or error}), and nothing is done "
                "unrecorded: mend that, or have another file as the log"
            ) from error


def verify(path: str | os.PathLike, noted: Head | None = None) -> AuditReport:
    """
    Read a log from its beginning, and see whether each line is as it was written.

    Args:
        path: of the log.
        noted: a head that was noted earlier, elsewhere: the log must go on from it.

    Raises:
        AuditError: the log is not there or cannot be read.
    """
    path = Path(os.path.realpath(path))
    try:
        if path.is_file():
            with _held_still(path), path.open("rb") as file:
                return _verified(file, _read_heads(path), noted)
        heads = _read_heads(path)
    except AuditError:
        raise
    except OSError as error:
        raise AuditError(f"audit log {path} cannot be read ({error.strerror or error})") from error
    if heads is None and noted is None:
        raise AuditError(f"there is no audit log {path}")
    return AuditReport(Head(), 1, "the log is gone")


# --- the end of a log ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Heads:
    """What stands beside the log: the head that is written, and the next one while a line is appended."""

    written: Head
    announced: Head | None = None


@dataclass(frozen=True)
class _End:
    """
    How a log ends.

    Args:
        whole: with a last line that lacks its line break.
        finished: without it.
    """

    whole: Head
    finished: Head

    @classmethod
    def of(cls, number: int, line: bytes | None, rest: bytes) -> "_End":
        """Of the number and text of the last line, and what stands behind its line break."""
        finished = Head() if line is None else Head(number, _digest(line))
        return cls(Head(finished.lines + 1, _digest(rest)) if rest else finished, finished)

    @property
    def unfinished(self) -> bool:
        return self.whole != self.finished

    def accounted_for(self, heads: _Heads | None) -> bool:
        """Whether it is one of the ends that a process leaves that is killed at any moment."""
        if heads is None:
            return self.whole == Head()
        if self.whole in (heads.written, heads.announced):
            return True
        return self.unfinished and self.finished == heads.written and heads.announced is not None


def _end_of(file: io.FileIO) -> _End:
    """Read backwards, as far as the last line that tells its number."""
    size = os.fstat(file.fileno()).st_size
    length = min(size, _TAIL)
    while True:
        *lines, last = _read(file, size - length, length).split(b"\n")  # the last is empty unless it is unfinished
        if length < size:
            lines = lines[1:]  # it begins before what was read
        for back, line in enumerate(reversed(lines)):
            if (entry := _entry(line)) is not None:
                return _End.of(entry["number"] + back, lines[-1], last)
        if length == size:  # no line that was finished
            return _End.of(len(lines), lines[-1] if lines else None, last)
        length = min(size, 4 * length)


def _read_heads(path: Path) -> _Heads | None:
    """None if they are missing or damaged."""
    try:
        values = json.loads(_beside(path, _HEAD).read_bytes())
        announced = values["announced"]
        return _Heads(Head.parse(values["written"]), None if announced is None else Head.parse(announced))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None


def _write_heads(path: Path, heads: _Heads) -> None:
    """
    Replace the file at once. A head that announces a line is durable before the line is written; of one that does not,
    a machine that loses power may keep the one before, which announces it.
    """
    announced = None if heads.announced is None else str(heads.announced)
    temporary = _beside(path, _HEAD + ".tmp")
    mode = _mode_in(path.parent)
    with open(temporary, "wb", buffering=0, opener=lambda name, flags: os.open(name, flags, mode)) as file:
        _write(file, _canonical({"written": str(heads.written), "announced": announced}) + b"\n")
    os.replace(temporary, _beside(path, _HEAD))
    if announced is not None and os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# --- verification -------------------------------------------------------------------------------------------------


@contextmanager
def _held_still(path: Path) -> Iterator[None]:
    """Keep others from appending, where the reader may write to the folder."""
    from filelock import FileLock, Timeout

    lock = FileLock(_beside(path, _LOCK), timeout=_LOCK_SECONDS, mode=_mode_in(path.parent))
    try:
        lock.acquire()
    except Timeout as error:
        raise AuditError(f"audit log {path} is held by another process: try again later") from error
    except OSError:  # the auditor may only read
        pass
    try:
        yield
    finally:
        lock.release()


def _verified(file: BinaryIO, heads: _Heads | None, noted: Head | None) -> AuditReport:
    head = before = Head()  # of the last line and the one before
    notes: list[str] = []
    unfinished = ""
    ended = True
    for number, raw in enumerate(file, start=1):
        line = raw.removesuffix(b"\n")
        here, entry, ended = Head(number, _digest(line)), _entry(line), line != raw
        if entry is not None and (fault := _fault(entry, here, head, before)) is not None:
            return AuditReport(head, *fault, tuple(notes))
        if noted is not None and noted.lines == number and noted != here:
            return AuditReport(head, number, "it is another line than the one that was noted", tuple(notes))
        if unfinished:  # the chain goes on behind it
            notes.append(unfinished)
        unfinished = "" if entry is not None else _UNFINISHED.format(number)
        before, head = head, here
    if noted is not None and noted.lines > head.lines:
        reason = f"the log had {noted.lines:,} lines when its head was noted: lines are missing at the end"
        return AuditReport(head, head.lines + 1, reason, tuple(notes))
    if noted is not None and heads is None:
        notes.append("the head file is missing: whether lines behind the noted one are missing is unknown")
    elif (fault := _fault_at_end(_End(head, head if ended else before), heads)) is not None:
        return AuditReport(head, *fault, tuple(notes))
    return AuditReport(head, notes=(*notes, unfinished) if unfinished else tuple(notes))


def _fault(entry: dict[str, Any], here: Head, head: Head, before: Head) -> tuple[int, str] | None:
    """
    What is wrong between a line and those before it, and at which line.

    Args:
        entry, here: the line.
        head, before: the line before it, and the one before that.
    """
    number = here.lines
    if entry["previous"] == head.hash and entry["number"] == number:
        if "head_was" not in entry:
            return None
        was = "missing or damaged" if entry["head_was"] is None else entry["head_was"]
        return number, f"when it was written, the log before it was not what its head said, which was {was}"
    if here.hash == head.hash:
        return number, "it repeats the line before it"
    if entry["number"] > number:
        return number, f"it was written as line {entry['number']:,}: lines before it are missing or were moved"
    if entry["number"] < number:
        if number > 1 and entry["previous"] == before.hash:
            return number - 1, "it was added: the line behind it follows the one before it"
        return number, f"it was written as line {entry['number']:,}: lines were added before it, or it was moved"
    if number == 1:
        return 1, "it is chained to something before it: it was changed, or is the first of what is left"
    return number - 1, "it was changed: the line behind it holds another hash of it"


def _fault_at_end(end: _End, heads: _Heads | None) -> tuple[int, str] | None:
    """What is wrong between the log's end and its head, and at which line."""
    if end.accounted_for(heads):
        return None
    if heads is None:
        return (
            end.whole.lines + 1,
            "the head file is missing or damaged: whether lines are missing at the end is unknown",
        )
    lines = heads.written.lines
    if end.whole.lines < lines or (end.unfinished and end.whole.lines == lines):
        return end.finished.lines + 1, f"the head counts {lines:,} lines: lines are missing at the end"
    if end.whole.lines > lines:
        return lines + 1, f"the head counts {lines:,} lines: it was added"
    return lines, "it was changed: the head holds another hash of it"


# --- lines --------------------------------------------------------------------------------------------------------


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _entry(line: bytes) -> dict[str, Any] | None:
    """The values of a line of a log; None for anything else, such as an unfinished line."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or type(values.get("number")) is not int or not _is_hash(values.get("previous")):
        return None
    return values


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value)


def _key_of(file: io.FileIO) -> str | None:
    """The key of the log, which stands in the first line that was finished."""
    for line in _read(file, 0, _FIRST_LINES).split(b"\n"):
        if (entry := _entry(line)) is not None:
            return key if _is_hash(key := entry.get("key")) else None
    return None


def _bounded(query: Mapping[str, str]) -> dict[str, str]:
    """A query whose sentence is not too long for a line; of one that is, the beginning and the hash of all."""
    sentence = query.get("sentence", "")
    if len(sentence) <= MAX_SENTENCE:
        return dict(query)
    digest = _digest(sentence.encode("utf-8", "surrogatepass"))
    return {**query, "sentence": sentence[:MAX_SENTENCE], "sentence_sha256": digest}


def hashed_name(name: str, key: str) -> str:
    """What stands in a log in the place of a person id or file name: HMAC-SHA256 with the log's key, hexadecimal."""
    return hmac.new(bytes.fromhex(key), name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _hashed(where: Filter, key: str) -> dict[str, Any]:
    """The conditions of a filter, without the names of persons and files; times in ISO 8601, UTC."""
    conditions: dict[str, Any] = {}
    for name in ("cameras", "tracks"):
        if (values := getattr(where, name)) is not None:
            conditions[name] = list(values)
    for name in ("person_ids", "sources", "paths"):
        if (values := getattr(where, name)) is not None:
            conditions[f"{name}_hmac"] = [hashed_name(str(value), key) for value in values]
    for name, seconds in zip(("since", "until"), where.times()):
        if seconds is not None:
            conditions[name] = _iso(seconds)
    return conditions


def _iso(seconds: float) -> str | float:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return seconds


# --- files --------------------------------------------------------------------------------------------------------


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _mode_in(folder: Path) -> int:
    """Permissions of a file: its owner's, and the group's in a folder that the group may write to."""
    return 0o660 if os.stat(folder).st_mode & 0o020 else 0o600


def _read(file: io.FileIO, begin: int, length: int) -> bytes:
    file.seek(begin)
    pieces = []
    while length and (piece := file.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _write(file: io.FileIO, data: bytes) -> None:
    """Write all of it, to the disk."""
    while data:
        data = data[file.write(data) or 0 :]
    os.fsync(file.fileno())


__all__ = ["BEGINNING", "AuditError", "AuditLog", "AuditReport", "Head", "hashed_name", "verify"]
