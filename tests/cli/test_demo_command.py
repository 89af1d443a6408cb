"""`aga demo`: whom it lets in, what it hides and records, and what it tells; without a server."""

import re
from types import SimpleNamespace

import command_line
import pytest

from aga_model.cli.galleries import demo as command
from aga_model.cli.galleries import serving
from aga_model.gallery import GallerySettings

TOKEN = "a-token-of-the-tests_0123"


@pytest.fixture
def asked(monkeypatch):
    """Stand-ins for what is served, and what they were given."""
    asked = SimpleNamespace(order=[], rendered_only=False, failing=None)

    class Search:
        def __init__(self, gallery, encoder, rerank, max_upload_bytes, recorder, purpose, hide_faces=False):
            asked.search = SimpleNamespace(**{name: value for name, value in locals().items() if name != "self"})

        def warm_up(self):
            asked.order.append("warm")

    def load(gallery, model, device, trust_remote_code):
        asked.order.append("model")
        asked.model = (model, device, trust_remote_code)
        return SimpleNamespace(rendered_only=asked.rendered_only)

    def listen(host, port):
        asked.order.append("socket")
        if asked.failing is not None:
            raise asked.failing
        return host, port

    def make_server(search, token, notices):
        asked.token, asked.notices = token, notices
        return SimpleNamespace(run=lambda sockets: asked.order.append(("served", sockets)))

    web = SimpleNamespace(
        listen=listen, make_server=make_server, address=lambda listening, host, token: f"http://{host}/{token}"
    )
    shelf = SimpleNamespace(settings=GallerySettings(), folder=None)
    monkeypatch.delenv("AGA_DEMO_TOKEN", raising=False)
    for name, stand_in in {
        "_web_server": lambda: web,
        "Gallery": SimpleNamespace(open=lambda location: shelf),
        "load_encoder": load,
        "GallerySearch": Search,
    }.items():
        monkeypatch.setattr(command if name == "_web_server" else serving, name, stand_in)
    return asked


def aga(*arguments, code=0):
    return command_line.aga("demo", "--gallery", "shelf", *arguments, code=code)


def test_on_this_machine_nobody_is_asked_for_a_token(asked):
    result = aga()
    assert asked.token is None and "http://127.0.0.1/None" in result.stdout and "others can reach" not in result.stderr
    assert asked.order == ["socket", "model", "warm", ("served", [("127.0.0.1", 7860)])]  # a port in use is told first
    assert asked.model == (None, None, False) and asked.notices == ()
    wanted = asked.search
    assert (wanted.rerank, wanted.max_upload_bytes, wanted.purpose, wanted.hide_faces) == (None, 10 * 2**20, "", False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "demo.example"])
def test_elsewhere_everybody_is(asked, host):
    result = aga("--host", host, "--port", 0)
    assert len(asked.token) >= 32 and f"http://{host}/{asked.token}" in result.stdout
    assert "others can reach this demo" in result.stderr and asked.order[-1] == ("served", [(host, 0)])
    aga("--host", host, "--token", TOKEN)
    assert asked.token == TOKEN
    served = len(asked.order)
    assert "at least 16" in aga("--host", host, "--token", TOKEN[:15], code=2).stderr and len(asked.order) == served


def test_options_arrive(asked, tmp_path):
    asked.rendered_only = True
    log = ("--audit", tmp_path / "audit.jsonl", "--token-name", "front desk", "--purpose", "lost children")
    model = ("--model", "moved", "--device", "cpu", "--trust-remote-code")
    aga("--token", TOKEN, "--rerank", 7, "--max-upload-mb", 2.5, "--hide-faces", *log, *model)
    wanted = asked.search
    assert (wanted.rerank, wanted.max_upload_bytes, wanted.purpose, wanted.hide_faces) == (
        7, 2_621_440, "lost children", True,
    )  # fmt: skip
    assert wanted.recorder.actor == "front desk" and wanted.recorder.log.path == tmp_path / "audit.jsonl"
    assert asked.model == ("moved", "cpu", True) and asked.token == TOKEN
    assert len(asked.notices) == 1 and re.search("rendered drawings", asked.notices[0])


def test_what_cannot_be_served_is_told_before_the_model_is_loaded(asked):
    assert "give --audit" in aga("--purpose", "x", code=2).stderr and asked.order == []
    asked.failing = OSError("the demo cannot listen on port 7860")
    assert "cannot listen" in aga(code=2).stderr and asked.order == ["socket"]
