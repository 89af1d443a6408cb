"""The web server of the demo: the page behind its guard."""

import math
import socket

import fastapi
import gradio as gr
import uvicorn

from .guard import Guard
from .page import CSS, build_page
from .service import DemoSearch

_REST_OF_A_REQUEST = 64 * 1024  # bytes beside an uploaded image
_SYSTEM_FONTS = ("system-ui", "sans-serif")
_CLOSE_SECONDS = 1  # for answers that are under way when the server is stopped


def listen(host: str, port: int) -> socket.socket:
    """
    A listening socket.

    Args:
        host: name or address.
        port: 0 for any free one.

    Raises:
        OSError: the port is in use or not allowed, or the host is no address of this machine; says what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"the demo cannot listen on {host} port {port} ({reason}): give another --port (0 takes a free one), or "
            "an address of this machine as --host"
        ) from error


def address(listening: socket.socket, host: str, token: str | None = None) -> str:
    """The URL of the page, on this machine where it listens on all addresses."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    name = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={token}"
    return f"http://{name}:{listening.getsockname()[1]}/{query}"


def make_server(search: DemoSearch, token: str | None, notices: tuple[str, ...] = ()) -> uvicorn.Server:
    """
    A server for `run(sockets=[...])`, which returns when it is interrupted or `should_exit` is set.

    Args:
        search: of the gallery.
        token: see [`Guard`].
        notices: see [`build_page`].
    """
    page = build_page(search, notices)
    # Gradio trusts a mounted page's requests with any path; the guard lets none through, and this is the second lock.
    page.has_launched = True
    app = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        "/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=search.max_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=_SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")),
        css=CSS,
    )
    max_body = math.ceil(search.max_upload_bytes * 4 / 3) + _REST_OF_A_REQUEST  # base64
    config = uvicorn.Config(
        Guard(app, token, max_body),
        log_level="warning",
        access_log=False,  # its lines would hold the token
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    return uvicorn.Server(config)


__all__ = ["address", "listen", "make_server"]
