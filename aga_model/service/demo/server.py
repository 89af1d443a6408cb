"""The web server of the demo: the page behind its guard."""

import math

import fastapi
import gradio as gr
import gradio.queueing
import gradio.routes
import gradio.state_holder
import uvicorn

from ..connections import address, limited_server, listen
from ..guard import Guard
from ..logs import QuietTraceback
from ..searching import GallerySearch
from .page import CSS, QUEUE_SIZE, build_page, knows_session, page_functions, waiting_functions
from .page_rules import JOIN, PageRules
from .turns import Pace, Turns

_REST_OF_A_REQUEST = 64 * 1024  # bytes beside an uploaded image
_SYSTEM_FONTS = ("system-ui", "sans-serif")


def make_server(search: GallerySearch, token: str | None, notices: tuple[str, ...] = ()) -> uvicorn.Server:
    """
    A server for `run(sockets=[...])`, which returns when it is interrupted or `should_exit` is set.

    Args:
        search: of the gallery.
        token: see [`Guard`].
        notices: see [`build_page`].
    """
    _keep_inputs_out_of_gradio()
    pace = Pace()
    page = build_page(search, notices, pace)
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
    turns = Turns(app, JOIN, lambda: waiting_functions(page), pace, QUEUE_SIZE)
    rules = PageRules(page_functions(page), lambda session: knows_session(page, session))
    max_body = math.ceil(search.max_upload_bytes * 4 / 3) + _REST_OF_A_REQUEST  # base64
    return limited_server(Guard(turns, token, max_body, rules))


def _keep_inputs_out_of_gradio() -> None:
    """
    Gradio prints exceptions with their messages, and keeps what each session has sent and was shown for links to a
    state of the page, which this page does not have.
    """
    for module in (gradio.queueing, gradio.routes):
        module.traceback = QuietTraceback()  # type: ignore[attr-defined]
    gradio.state_holder.SessionState._update_value_in_config = _keep_nothing  # type: ignore


def _keep_nothing(*_: object) -> None:
    pass


__all__ = ["address", "listen", "make_server"]
