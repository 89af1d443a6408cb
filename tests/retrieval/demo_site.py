"""A running demo of a small gallery, and a client that sends it whatever it is told."""

import html
import http.client
import json
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aga_model.files import find_images
from aga_model.gallery import Gallery
from aga_model.ingest import ImageFacts, index_images
from aga_model.search import PersonEncoder
from aga_model.service import GallerySearch
from aga_model.service.demo.server import listen, make_server

TOKEN = "a-token-of-the-tests_0123"
NOON = 1_767_265_200.0  # 2026-01-01T11:00Z
# An unescaped name would be a script for the browser, or code for Gradio's two template languages.
EVIL = "<img src=x onerror=alert(1)>${document.title='hacked'}{{value}}`\u202e.png"
SENTENCE = "a man in a red coat"


@dataclass
class Place:
    """A gallery of six images of three persons, and what lies around it."""

    folder: Path
    gallery: Path
    secret: Path
    encoder: PersonEncoder


def make_place(root: Path, model_folder: Path) -> Place:
    folder = root / "people at home"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("1_a.png", "1_b.png", "2_c.png", "2_d.png", "3_e.png", EVIL):
        pixels = generator.integers(0, 256, (4, 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 80), Image.Resampling.NEAREST).save(folder / name)
    order = sorted(os.listdir(folder))

    def facts(path: str) -> ImageFacts:
        number = order.index(Path(path).name)
        person = None if "<" in path else Path(path).name[0]
        return ImageFacts(f"camera {number % 2}", person, NOON + 86_400 * number)

    encoder = PersonEncoder.from_pretrained(model_folder)
    gallery = Gallery.create(root / "gallery", encoder.model_hash, encoder.dim, encoder.name)
    index_images(find_images(folder)[0], encoder, gallery, facts_of=facts)
    secret = root / "secret.png"
    secret.write_bytes(b"\x89PNG\r\n\x1a\n top secret")
    return Place(folder, root / "gallery", secret, encoder)


def all_choices(*first):
    """What the page sends beside the query: the given values, and what it begins with for the others."""
    return [*first, *[10, [], "", "", "every image"][len(first) :]]


class Site:
    """A running demo and a client that sends what it is told, paths and headers as they are."""

    def __init__(self, port: int):
        self.port = port
        self.functions: dict[str, int] = {}

    def request(self, method, path, body=None, headers=None, host=None):
        """Status, headers in lower case, content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": host or f"127.0.0.1:{self.port}", **(headers or {})}
        if isinstance(body, bytes):
            sent.setdefault("Content-Length", str(len(body)))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body, encode_chunked=not isinstance(body, bytes | None))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, content, headers=None, **options):
        return self.request(
            "POST",
            "/gradio_api/queue/join",
            json.dumps(content).encode(),
            {"Content-Type": "application/json", **(headers or {})},
            **options,
        )

    def body(self, name, data, event=None, session="tests"):
        """What the page sends to start a computation."""
        if not self.functions:
            config = json.loads(self.get("/config")[2])
            self.functions = {one["api_name"]: one["id"] for one in config["dependencies"]}
        return {"fn_index": self.functions[name], "data": data, "event_data": event, "session_hash": session}

    def start(self, name, data, event=None, session="tests"):
        status, _, content = self.post(self.body(name, data, event, session))
        assert status == 200, content
        return self.result(session)

    def result(self, session):
        """Whether the computation succeeded, and its output."""
        content = self.get(f"/gradio_api/queue/data?session_hash={session}")[2].decode()
        for line in content.splitlines():
            if line.startswith("data: "):
                message = json.loads(line[6:])
                if message["msg"] == "process_completed":
                    return message["success"], message["output"]
        raise AssertionError(content)

    def ask(self, name, data, event=None, session="tests"):
        """The computation's values."""
        success, output = self.start(name, data, event, session)
        assert success, output
        return output["data"]

    def search(self, sentence, *wanted, session="tests"):
        """Messages and results of a sentence."""
        _, messages, _, results = self.ask("by_sentence", [sentence, *all_choices(*wanted)], session=session)
        return messages, results


@contextmanager
def running(search: GallerySearch, token: str | None = None, guarded: bool = True):
    server = make_server(search, token)
    if not guarded:
        server.config.app = server.config.app.app
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Site(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
    assert not thread.is_alive()


def names(results):
    """File names of result cards, in order."""
    return [html.unescape(name) for name in re.findall(r"<dt>file</dt><dd>(.*?)</dd>", results)]
