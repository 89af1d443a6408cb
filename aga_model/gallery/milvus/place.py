"""Where a gallery on a Milvus server lies."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ..locations import redacted
from ..rows import GalleryError

_SCHEME = "milvus"
_PORT = 19530


@dataclass(frozen=True)
class Place:
    host: str
    port: int
    collection: str
    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, location: str) -> "Place":
        form = f"a gallery on a server is milvus://[user:password@]host:port/collection, not {redacted(location)}"
        try:
            parts = urlsplit(location)
            port = parts.port or _PORT
        except ValueError:  # its message holds what stands in the place of the port, or the password
            raise GalleryError(f"{form}: write special characters of user and password as %XX") from None
        collection = parts.path.strip("/")
        if parts.scheme != _SCHEME or not parts.hostname or parts.query or parts.fragment:
            raise GalleryError(form)
        if not re.fullmatch(r"[A-Za-z_]\w*", collection, re.ASCII):
            raise GalleryError(f"{form}: the name of a collection has letters, digits and _")
        return cls(parts.hostname, port, collection, unquote(parts.username or ""), unquote(parts.password or ""))

    def __str__(self) -> str:
        """Without the password, for messages."""
        return f"{_SCHEME}://{self.address}/{self.collection}"

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
