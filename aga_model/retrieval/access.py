"""What a gallery asks of those who search it: a log, a purpose, hidden faces."""

from dataclasses import dataclass
from typing import Any, Protocol


class AccessSettings(Protocol):
    """
    The settings of a gallery that bind everybody who opens it by a command or the demo.

    Args:
        audit (`str`, *optional*): file of its audit log.
        purpose_required (`bool`): whether each search, export and deletion must name its purpose.
        hide_faces (`bool`): whether faces are hidden in what is shown and saved.
    """

    @property
    def audit(self) -> str | None: ...

    @property
    def purpose_required(self) -> bool: ...

    @property
    def hide_faces(self) -> bool: ...


@dataclass(frozen=True)
class _NothingAsked:
    audit: str | None = None
    purpose_required: bool = False
    hide_faces: bool = False


NOTHING_ASKED: AccessSettings = _NothingAsked()


def settings_of(gallery: Any) -> AccessSettings:
    """The settings that a gallery is kept with; those that ask for nothing if it has none."""
    return getattr(gallery, "settings", NOTHING_ASKED)


__all__ = ["NOTHING_ASKED", "AccessSettings", "settings_of"]
