"""Record what is done with a gallery in its audit log, before its result is shown."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .audit import AuditLog
from .rows import Filter
from .store import GallerySettings

if TYPE_CHECKING:
    from .gallery import Gallery

MAX_PURPOSE = 500  # characters


@dataclass(frozen=True)
class Recorder:
    """
    Writes what somebody does with a gallery into its audit log; without a log, nothing.

    The methods that write return when the line is on the disk, and raise AuditError if it cannot be written: they are
    called before results are shown or images are removed.

    ```python
    >>> recorder = Recorder.of(gallery, "audit.jsonl").for_purpose("missing child")
    >>> recorder.removes(where, gallery.count(where))
    >>> gallery.delete(where)
    ```

    Args:
        log: None where nothing is recorded.
        gallery: which one, without its password.
        actor: who.
        purpose: why.
        purpose_required: whether the gallery asks for a purpose.
    """

    log: AuditLog | None
    gallery: str
    actor: str
    purpose: str | None = None
    purpose_required: bool = False

    @classmethod
    def of(cls, gallery: "Gallery", audit: str | os.PathLike | None, actor: str | None = None) -> "Recorder":
        """
        The recorder of a gallery, in the file that its settings name or in `audit`.

        Args:
            actor: the user of the operating system, unless it is another.

        Raises:
            AuditError: the log cannot be written.
            ValueError: the gallery keeps its log in another file.
        """
        settings = gallery.settings
        if audit is not None and settings.audit is not None and not _same(audit, settings.audit):
            raise ValueError(f"the audit log of gallery {gallery} is {settings.audit}: leave --audit out")
        file = audit if settings.audit is None else settings.audit
        if file is not None:
            require_outside(gallery, file)
        log = None if file is None else AuditLog(file)
        name = str(gallery) if gallery.folder is None else os.path.realpath(gallery.folder)
        return cls(log, name, actor or os_user(), purpose_required=settings.purpose_required)

    def following(self, settings: GallerySettings) -> "Recorder":
        """
        The same recorder where the gallery's settings may have changed since it was made.

        Raises:
            AuditError: the log that they name cannot be written.
        """
        log = self.log
        if settings.audit is not None and (log is None or not _same(log.path, settings.audit)):
            log = AuditLog(settings.audit)
        return replace(self, log=log, purpose_required=settings.purpose_required)

    def for_purpose(self, purpose: str | None) -> "Recorder":
        """
        The recorder of what is done for a purpose.

        Raises:
            ValueError: there is no purpose and the gallery asks for one, it is too long, or nothing would keep it.
        """
        purpose = (purpose or "").strip() or None
        if purpose is None and self.purpose_required:
            raise ValueError("this gallery asks for the purpose of each search, export and deletion: give --purpose")
        if purpose is not None and len(purpose) > MAX_PURPOSE:
            raise ValueError(f"the purpose has {len(purpose):,} characters: give {MAX_PURPOSE} at most")
        if purpose is not None and self.log is None and not self.purpose_required:
            raise ValueError("a purpose is kept in an audit log, and there is none: give --audit FILE, too")
        return replace(self, purpose=purpose)

    def searched_for_sentence(self, sentence: str, where: Filter, results: int) -> None:
        """A sentence was answered with so many images."""
        self._append("search", results, {"sentence": sentence}, where)

    def searched_for_image(self, sha256: str, where: Filter, results: int) -> None:
        """An image, whose file has this hash, was answered with so many images."""
        self._append("search", results, {"image_sha256": sha256}, where)

    def exports(self, files: Sequence[str | os.PathLike], results: int) -> None:
        """So many images, or facts of them, are about to be written to files."""
        self._append("export", results, files=[os.path.abspath(file) for file in files])

    def removes(self, where: Filter, results: int, action: str = "delete") -> None:
        """So many images are about to be removed; see [`Gallery.before_removal`]."""
        self._append(action, results, where=where)

    def changes_settings(self, settings: GallerySettings) -> None:
        """The gallery's settings are about to be these."""
        self._append("settings", 0, {"settings": json.dumps(asdict(settings))})

    def _append(
        self,
        action: str,
        results: int,
        query: dict[str, str] | None = None,
        where: Filter | None = None,
        files: Sequence[str] = (),
    ) -> None:
        if self.log is not None:
            self.log.append(action, self.gallery, self.actor, self.purpose, results, query, where, files)


def require_outside(gallery: "Gallery", file: str | os.PathLike) -> None:
    """ValueError for an audit log in the gallery's own folder, where a deletion could remove it."""
    if gallery.folder is None:
        return
    if Path(os.path.realpath(file)).is_relative_to(os.path.realpath(gallery.folder)):
        raise ValueError(f"the audit log {file} would lie in the folder of gallery {gallery}: give a file elsewhere")


def os_user() -> str:
    """Who runs this process, by the operating system and not by variables that anybody can set."""
    try:
        import pwd
    except ImportError:  # Windows
        import getpass

        return getpass.getuser()
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # as in containers
        return str(user)


def _same(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


__all__ = ["MAX_PURPOSE", "Recorder", "os_user"]
