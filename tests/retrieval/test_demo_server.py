"""The server of the demo as it is put together, without requests: its guard, its limits, its address."""

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

import gradio.queueing
import gradio.routes
import gradio.state_holder

from aga_model.service.demo import server
from aga_model.service.demo.page_rules import PageRules
from aga_model.service.demo.turns import Turns
from aga_model.service.guard import Guard
from aga_model.service.logs import QuietTraceback

TOKEN = "a-token-of-the-tests_0123"


@pytest.mark.parametrize(
    ("host", "token", "shown"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:7860/"),
        ("0.0.0.0", TOKEN, f"http://127.0.0.1:7860/?token={TOKEN}"),
        ("::", TOKEN, f"http://[::1]:7860/?token={TOKEN}"),
        ("fe80::1", TOKEN, f"http://[fe80::1]:7860/?token={TOKEN}"),
        ("demo.example", TOKEN, f"http://demo.example:7860/?token={TOKEN}"),
    ],
)
def test_the_address_can_be_opened(host, token, shown):
    assert server.address(SimpleNamespace(getsockname=lambda: (host, 7860)), host, token) == shown


def test_the_guard_stands_in_front_and_gradio_keeps_nothing(monkeypatch):
    pages, build = [], server.build_page
    monkeypatch.setattr(server, "build_page", lambda *given: pages.append(build(*given)) or pages[0])
    search = SimpleNamespace(max_upload_bytes=1000, explainer=None, asks_purpose=False)
    made = server.make_server(search, TOKEN)
    assert pages[0].state_session_capacity == 200 and pages[0]._queue.max_size == 16 and pages[0].has_launched
    guard = made.config.app
    assert type(guard) is Guard and type(guard.app) is Turns and type(guard.rules) is PageRules
    assert guard.token == TOKEN and guard.app.path == "/gradio_api/queue/join"
    assert guard.max_body == 1334 + 64 * 1024  # 1000 bytes in base64, and the rest of a request
    assert sorted(len(fields) for fields in guard.rules.functions.values()) == [0, 0, 0, 1, 6, 6, 6]
    assert made.config.access_log is False and made.config.ws == "none"
    for module in (gradio.queueing, gradio.routes):
        assert type(module.traceback) is QuietTraceback
    state = object.__new__(gradio.state_holder.SessionState)
    before = dict(vars(state))
    assert state._update_value_in_config("block", "what was asked") is None and vars(state) == before
