from .demo.searching import DemoSearch
from .guard import TOKEN_VARIABLE, is_loopback, require_token

__all__ = [
    "TOKEN_VARIABLE",
    "DemoSearch",
    "is_loopback",
    "require_token",
]
