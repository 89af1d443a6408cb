"""
A service over HTTP to search a gallery with: `aga serve`.

- `batching`: requests that wait are answered together.
- `models`: what goes in and comes out, as OpenAPI describes it.
- `routes`: the application, and what of it the guard lets through.
- `metrics`: figures for Prometheus.
- `server`: the web server, which ends when all has been answered, and reloads the gallery when it is told to.

All of it needs the extra `serve`; nothing outside imports it before the service is started.
"""

from ..connections import address, listen
from .routes import Service
from .server import make_server

__all__ = ["Service", "address", "listen", "make_server"]
