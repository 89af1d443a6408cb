from .client import Client, ServerError
from .guard import TOKEN_VARIABLE, is_loopback, require_token
from .searching import GallerySearch

__all__ = [
    "TOKEN_VARIABLE",
    "Client",
    "GallerySearch",
    "ServerError",
    "is_loopback",
    "require_token",
]
