"""
Where a gallery lies, as it may be shown: a location on a server holds a name and a password, which no message, page,
log or file repeats.
"""

import re

HIDDEN = "***"
# `milvus:` without its slashes, and a name and a password without anything before them (but no drive of Windows).
_MISTYPED = re.compile(r"milvus:(?!//)|[^/\\:@]{2,}:.*@", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_IN_TEXT = re.compile(r"\b([a-z][a-z0-9+.-]*)://(\S+)", re.IGNORECASE)
_SERVER = re.compile(r"(?:\[[^\]@]*\]|[^:@/?#]*)(?::\d*)?(?![^/?#])")  # host:port and no more before a path


def is_mistyped(location: str) -> bool:
    """Whether a location without `://` looks like a server's, which may hold a password, and not like a folder."""
    return "://" not in location and _MISTYPED.match(location) is not None


def redacted(location: str) -> str:
    """
    A gallery's location without its password: `milvus://user:***@host:port/collection`.

    It need not be well formed. Everything up to the last `@` counts as name and password, since a password may hold
    any character; a name without a password may be a key, and is hidden too. So is what stands in the place of a port
    and is none, and what follows `?` or `#`.

    ```python
    >>> redacted("milvus://ada:p@ss/word@db.example.org:19530/people")
    'milvus://ada:***@db.example.org:19530/people'
    >>> redacted("galleries/entrance")
    'galleries/entrance'
    ```
    """
    scheme, separator, rest = location.partition("://")
    if separator:
        shown = scheme if _SCHEME.fullmatch(scheme) else HIDDEN
        return f"{shown}://{_without_password(rest)}"
    return _without_password(location) if is_mistyped(location) else location


def redacted_text(text: str) -> str:
    """
    A message without the passwords of the addresses in it, up to the next blank: for messages of others, which may
    hold a location. Where it is known, [`redacted`] is sure and this is not.
    """
    return _IN_TEXT.sub(lambda match: f"{match[1]}://{_shown(match[1], match[2])}", text)


def _shown(scheme: str, rest: str) -> str:
    # An `@` in the path of another address, which has no password, is a part of it.
    is_plain = scheme.lower() != "milvus" and _SERVER.match(rest)
    return rest if is_plain else _without_password(rest)


def _without_password(rest: str) -> str:
    userinfo, at, server = rest.rpartition("@")
    if at:
        user, colon, _ = userinfo.partition(":")
        return f"{user}:{HIDDEN}@{_without_query(server)}" if colon else f"{HIDDEN}@{_without_query(server)}"
    if _SERVER.match(rest):
        return _without_query(rest)
    return f"{rest.partition(':')[0]}:{HIDDEN}" if ":" in rest else HIDDEN


def _without_query(server: str) -> str:
    return re.sub(r"([?#]).+", rf"\1{HIDDEN}", server, count=1, flags=re.DOTALL)


__all__ = ["HIDDEN", "is_mistyped", "redacted", "redacted_text"]
