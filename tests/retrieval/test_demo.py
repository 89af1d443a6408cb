"""The demo as a stranger meets it: over HTTP, against a running server, and in a browser."""

import base64
import html
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from demo_site import EVIL, SENTENCE, TOKEN, Place, Site, all_choices, make_place, names, running
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli.main import app as cli
from aga_model.files import read_image
from aga_model.gallery import Gallery
from aga_model.service import GallerySearch, require_token
from aga_model.service.demo import markup
from aga_model.service.demo.server import listen
from aga_model.service.guard import Guard, WrongTokens

pytestmark = pytest.mark.timeout(180)  # servers, which may serve for ever
UPLOAD_LIMIT = 100_000  # bytes
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folder) -> Place:
    return make_place(tmp_path_factory.mktemp("demo"), model_folder)


@pytest.fixture(scope="module")
def site(place, tmp_path_factory):
    """A demo on loopback without a token; Gradio's folder for files must stay empty."""
    files = tmp_path_factory.mktemp("gradio") / "files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(files))
        search = GallerySearch(Gallery.open(place.gallery), place.encoder, max_upload_bytes=UPLOAD_LIMIT)
        with running(search) as running_site:
            yield running_site
    assert not files.exists() or not any(path.is_file() for path in files.rglob("*"))


@pytest.fixture(scope="module")
def locked(place):
    """The same with a token."""
    search = GallerySearch(Gallery.open(place.gallery), place.encoder, max_upload_bytes=UPLOAD_LIMIT)
    with running(search, TOKEN) as running_site:
        yield running_site


def picture(results):
    """The first image in a piece of HTML."""
    return Image.open(io.BytesIO(base64.b64decode(re.search(r'src="data:image/\w+;base64,([^"]+)"', results)[1])))


def upload(content, kind="image/png"):
    return {"image": f"data:{kind};base64,{base64.b64encode(content).decode()}"}


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- searching ---


def test_a_sentence_is_answered_as_by_the_gallery(site, place):
    messages, results = site.search(SENTENCE, 4)
    hits = Gallery.open(place.gallery).search(place.encoder.encode_texts([SENTENCE]), 4)[0]
    assert [name.replace("\ufffd", "\u202e") for name in names(results)] == [hit.path.name for hit in hits]
    scores = re.findall(r"<dt>cosine</dt><dd>(.*?)</dd>", results)
    assert scores == [f"{hit.score:.3f}" for hit in hits]
    assert [f'data-index="{index}"' in results for index in range(5)] == [True] * 4 + [False]
    assert "choose a result" in messages
    first = next(hit for hit in hits if hit.row.person_id)
    assert f"<dt>person</dt><dd>{first.row.person_id}</dd>" in results and "<dt>camera</dt>" in results
    shown = np.asarray(picture(results).convert("RGB")).astype(float).mean(axis=(0, 1))
    assert np.allclose(shown, np.asarray(read_image(hits[0].path)).mean(axis=(0, 1)), atol=8)  # JPEG


def test_no_folder_is_named(site, place):
    everything = [site.get("/")[2].decode(), site.get("/config")[2].decode(), *site.search(SENTENCE)]
    everything += site.ask("explain", [None], {"index": 0})
    for text in everything:
        assert str(place.folder.parent) not in text and str(place.encoder.folder) not in text


def test_an_image_finds_itself(site, place):
    content = (place.folder / "2_c.png").read_bytes()
    _, box, messages = site.ask("upload", [], upload(content), session="image")
    assert messages == "" and picture(box).size == (40, 80)
    _, _, _, results = site.ask("by_image", [None, *all_choices(2)], session="image")
    assert names(results)[0] == "2_c.png" and "<dd>1.000</dd>" in results
    messages, figure = site.ask("explain", [None], {"index": 0}, session="image")
    assert "words of a sentence" in messages and figure == ""
    messages = site.ask("by_image", [None, *all_choices(2)], session="bare")[1]
    assert "choose an image first" in messages


def test_a_result_is_explained(site):
    _, results = site.search(SENTENCE, session="explained")
    messages, figure = site.ask("explain", [None], {"index": 2}, session="explained")
    assert messages == "" and "Result 3: where each word looks" in figure
    assert html.escape(names(results)[2]) in figure
    drawn = picture(figure)
    assert drawn.format == "PNG" and min(drawn.size) > 300


@pytest.mark.parametrize("index", [-1, 6, 10**30, "0", None, True, 0.5, [0]])
def test_only_a_result_can_be_chosen(site, index):
    site.search(SENTENCE, session="chosen")
    assert "search again" in site.ask("explain", [None], {"index": index}, session="chosen")[0]


def test_results_are_a_sessions_own(site):
    site.search(SENTENCE, session="mine")
    for event in ({"index": 0}, {}, None, "text", [0]):
        assert "search again" in site.ask("explain", [None], event, session="another")[0]


def test_filters(site):
    assert len(names(site.search(SENTENCE)[1])) == 6
    assert len(names(site.search(SENTENCE, 2)[1])) == 2
    messages, results = site.search(SENTENCE, 10, ["camera 1"])
    assert len(names(results)) == 3 and set(re.findall("camera 0|camera 1", results)) == {"camera 1"}
    assert "the filter leaves 3 images" in messages
    _, results = site.search(SENTENCE, 10, [], "", "", "one per person")
    persons = re.findall(r"<dt>person</dt><dd>(.)</dd>", results)
    assert sorted(persons) == ["1", "2", "3"] and len(names(results)) == 4  # of one image the person is not known
    assert len(names(site.search(SENTENCE, 10, [], "2026-01-03T12:00")[1])) < 6
    assert names(site.search(SENTENCE, 10, [], "2030-01-01")[1]) == []


@pytest.mark.parametrize(
    ("sentence", "wanted", "message"),
    [
        ("", (), "the query is empty"),
        (None, (), "the query is empty"),
        (" \n ", (), "the query is empty"),
        ("\U0001f642 ...", (), "holds no word"),
        ("\ud800", (), "not valid Unicode"),
        (SENTENCE, (10, [], "soon"), "from soon: give a date"),
        (SENTENCE, (10, [], "", "<b>"), "until &lt;b&gt;: give a date"),
        (SENTENCE, (10, [], "2026-01-02", "2026-01-01T00:00"), "must be after"),
        (SENTENCE, (10, [], "0001-01-01"), "year|must|range|results wanted"),
    ],
)
def test_what_is_wrong_is_said_in_the_page(site, sentence, wanted, message):
    messages, results = site.search(sentence, *wanted)
    assert re.search(message, messages) and "Traceback" not in messages
    if "aga-wrong" in messages:
        assert results == ""


@pytest.mark.parametrize(
    "wanted", [(0,), (61,), (10**9,), (2.5,), ("many",), (10, ["nowhere"]), (10, [], "", "", "one per table")]
)
def test_choices_that_the_page_does_not_offer(site, wanted):
    success, output = site.start("by_sentence", [SENTENCE, *all_choices(*wanted)])
    assert not success or ("aga-wrong" in output["data"][1] and output["data"][3] == "")
    assert "Traceback" not in json.dumps(output)


def test_long_and_foreign_queries(site):
    messages, results = site.search("word " * 400)
    assert "tokens long" in messages and len(names(results)) == 6
    assert len(names(site.search("穿红色外套的男人")[1])) == 6
    assert "<figure" in site.ask("explain", [None], {"index": 0})[1]
    messages, results = site.search("<script>alert(1)</script>")
    assert "<script" not in site.ask("explain", [None], {"index": 0})[1]


def test_names_are_escaped(site):
    _, results = site.search(SENTENCE)
    assert "&lt;img src=x onerror=alert(1)&gt;" in results and "<img src=x" not in results


def _without_opencv(hit):
    raise ModuleNotFoundError("this needs OpenCV")


def test_what_has_gone_meanwhile(model_folder, tmp_path, monkeypatch):
    place = make_place(tmp_path, model_folder)
    with running(GallerySearch(Gallery.open(place.gallery), place.encoder)) as site:
        _, results = site.search(SENTENCE)
        (place.folder / "1_a.png").unlink()
        _, results = site.search(SENTENCE)
        cards = results.split("<li>")[1:]
        gone = [index for index, card in enumerate(cards) if "1_a.png" in card]
        assert len(cards) == 6 and "cannot be read: no such file" in cards[gone[0]]
        assert "cannot be read" in site.ask("explain", [None], {"index": gone[0]})[0]
        with monkeypatch.context() as patch:  # a crop that is cut out of its video again, without OpenCV
            patch.setattr(markup, "shown_image", _without_opencv)
            messages, results = site.search(SENTENCE)
            assert "needs OpenCV" in messages and results == ""
        shutil.rmtree(place.gallery)
        messages, results = site.search(SENTENCE)
        assert "the gallery cannot be read" in messages and results == ""
        assert str(tmp_path) not in messages


def test_re_ranking(make_model, processor, tmp_path):
    make_model(loss_weights={"itc": 1.0, "itm": 1.0}).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    place = make_place(tmp_path, tmp_path / "model")
    (place.folder / "1_a.png").unlink()
    with running(GallerySearch(Gallery.open(place.gallery), place.encoder, rerank=6)) as site:
        messages, results = site.search(SENTENCE)
        assert results.count("<dt>ITM</dt>") == 5 and names(results)[5] == "1_a.png"
        assert "1_a.png: no such file" in messages and str(tmp_path) not in messages
        _, figure = site.ask("explain", [None], {"index": 0})
        assert " ITM " in figure


# --- no path of a request is opened ---


def test_no_file_is_served(site, place):
    image = next(place.folder.glob("1_*.png"))
    targets = [place.secret, image, place.gallery / "gallery.json", "/etc/passwd", Path.cwd() / "setup.cfg"]
    up = "../" * 12
    for target in map(str, targets):
        relative = os.path.relpath(target)
        for form in (target, quote(target), quote(target, safe=""), relative, up + target[1:], f"file://{target}"):
            for route in (
                "/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/", "/static/", "/assets/", "/svelte/", "/",
                "/gradio_api/proxy=", "/gradio_api/custom_component/x/client/y/", "/assets/" + up, "/static/" + up,
            ):  # fmt: skip
                status, _, content = site.get((route + form).replace(" ", "%20"))
                assert status in (400, 403, 404), (route, form, status)
                assert b"secret" not in content and b"root:" not in content and b"PNG" not in content


def test_other_routes_are_not_there(site):
    for path in (
        "/gradio_api/info", "/gradio_api/openapi.json", "/docs", "/openapi.json", "/monitoring", "/gradio_api/app_id",
        "/gradio_api/run-history/buckets", "/gradio_api/runs", "/gradio_api/token", "/gradio_api/deep_link?x=1",
        "/gradio_api/file=http://127.0.0.1/", "/gradio_api/vibe-code", "/login",
    ):  # fmt: skip
        assert site.get(path)[0] == 404, path
    for path in (
        "/gradio_api/upload", "/gradio_api/run/by_sentence", "/gradio_api/api/by_sentence", "/login",
        "/gradio_api/call/by_sentence", "/gradio_api/component_server", "/gradio_api/process_recording", "/",
        "/gradio_api/vibe-edit", "/gradio_api/stream/x", "/gradio_api/cancel",
    ):  # fmt: skip
        assert site.request("POST", path, b"{}", {"Content-Type": "application/json"})[0] == 404, path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert site.request(method, "/", b"")[0] in (400, 404, 405), method


def test_a_request_cannot_name_a_file(site, place):
    """In the place of every input, as a value, within a list, and with an event."""
    row = str(next(place.folder.glob("1_*.png")))
    for path in ("/etc/passwd", str(place.secret), row, "http://127.0.0.1:9/x.png"):
        file = {**FILE, "path": path}
        for value in (file, [file], [[file]], {"value": file}):
            for position in range(6):
                data = [SENTENCE, *all_choices()]
                data[position] = value
                assert site.post(site.body("by_sentence", data))[0] == 400
            assert site.post(site.body("by_image", [value, *all_choices()]))[0] == 400
            assert site.post(site.body("upload", [], {"image": value}))[0] == 400
            assert site.post(site.body("upload", [], value))[0] in (200, 400)
    for image in ("/etc/passwd", f"file://{place.secret}", row, "http://127.0.0.1:9/x.png"):
        assert "no image file" in site.ask("upload", [], {"image": image})[2]


def test_the_second_lock_holds_alone(place):
    """Without the guard Gradio itself must refuse a path, which it does not for a page that is merely mounted."""
    search = GallerySearch(Gallery.open(place.gallery), place.encoder)
    with running(search, guarded=False) as site:
        for path in ("/etc/passwd", str(place.secret)):
            success, output = site.start("by_sentence", [{**FILE, "path": path}, *all_choices()])
            assert not success, output
            assert site.get(f"/gradio_api/file={path}")[0] == 403
        assert len(names(site.search(SENTENCE)[1])) == 6


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"null", b"{", b'{"data": 1}', b"\xff", b"[" * 100_000, b'{"data": [], "session_hash": 1}',
     b'{"data": [], "session_hash": "' + b"x" * 65 + b'"}', b'{"data": []}'],
)  # fmt: skip
def test_requests_that_are_not_the_pages(site, body):
    status, _, content = site.request("POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
    assert status == 400 and b"Traceback" not in content


# --- uploads ---


def test_a_large_request_is_refused(site):
    limit = UPLOAD_LIMIT * 4 // 3 + 64 * 1024
    headers = {"Content-Type": "application/json"}
    for size in (limit + 2, 3 * limit):
        body = b'{"data": ["' + b"x" * size + b'"]}'
        status, _, content = site.request("POST", "/gradio_api/queue/join", body, headers)
        assert status == 413 and b"smaller image" in content
        pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
        status = site.request("POST", "/gradio_api/queue/join", pieces, {**headers, "Transfer-Encoding": "chunked"})[0]
        assert status == 413


def test_a_body_without_end_is_cut_off():
    """The guard stops reading some way behind the limit, and never passes any of it on."""
    import asyncio

    taken, sent = 0, []

    async def never(scope, receive, send):
        raise AssertionError("the body was let through")

    async def receive():
        nonlocal taken
        taken += 10_000
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/gradio_api/queue/join", "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    asyncio.run(Guard(never, None, 100_000)(scope, receive, send))
    assert sent[0]["status"] == 413 and taken < 1_000_000


def test_a_large_file_is_refused(site):
    noise = np.random.default_rng(0).integers(0, 256, (250, 250, 3), dtype=np.uint8)
    content = png(Image.fromarray(noise))
    assert UPLOAD_LIMIT < len(content) < UPLOAD_LIMIT * 2
    # It fits into a request only where the limit of requests leaves room; a larger one is refused as a whole.
    body = site.body("upload", [], upload(content[: UPLOAD_LIMIT + 1]))
    assert site.post(body)[0] == 200
    success, output = site.result("tests")
    assert success and "larger than" in output["data"][2] and "MiB" in output["data"][2]
    assert site.post(site.body("upload", [], upload(content * 2)))[0] == 413


def test_a_pixel_bomb_is_refused(site):
    bomb = png(Image.new("1", (9000, 9000)))
    assert len(bomb) < UPLOAD_LIMIT
    _, box, messages = site.ask("upload", [], upload(bomb))
    assert "9000x9000" in messages and "pixels" in messages and "<img" not in box


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg></svg>",
     png(Image.new("RGB", (40, 80)))[:-30], png(Image.new("RGB", (4, 4)))],
)  # fmt: skip
def test_what_is_no_image_is_refused(site, content):
    _, box, messages = site.ask("upload", [], upload(content))
    assert "the image cannot be read" in messages and "<img" not in box and "Traceback" not in messages


@pytest.mark.parametrize(
    "image", ["data:text/html;base64,eA==", "data:image/png,x", "data:image/png;base64,$", "", 7, None]
)
def test_what_is_no_upload_is_refused(site, image):
    messages = site.ask("upload", [], {"image": image})[2]
    assert "aga-wrong" in messages and "Traceback" not in messages


# --- who may ask ---


def routes(site):
    asset = re.search(rb'(?:src|href)="\./(assets/[^"]+)"', site.get("/", headers=bearer())[2])[1].decode()
    return ["/", "/config", "/theme.css", "/favicon.ico", f"/{asset}", "/gradio_api/startup-events", "/no-such-route"]


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}"}


def test_without_the_token_nothing_is_answered(locked, monkeypatch):
    monkeypatch.setattr(WrongTokens, "MOST", 0.0)  # seconds; that refusals wait is tested with the guard
    wrong = [
        {}, bearer("a-token-of-the-tests_0124"), bearer(TOKEN[:-1]), bearer(TOKEN + "x"), bearer(""), bearer("\u00e9"),
        {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}, {"Cookie": f"aga_demo_token={TOKEN}x"},
        {"Cookie": f"token={TOKEN}"}, {"Cookie": ";;=,"}, {"X-Token": TOKEN},
    ]  # fmt: skip
    for path in routes(locked):
        for headers in wrong:
            status, answer, content = locked.get(path, headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert status == 401 and b"token" in content and "set-cookie" not in answer, (path, headers)
            assert TOKEN.encode() not in content
    assert locked.post({"data": [], "session_hash": "x"})[0] == 401
    assert locked.request("POST", "/gradio_api/upload", b"x")[0] == 401
    for path in ("/?token=", f"/?token={TOKEN}x", f"/config?token={TOKEN}", f"/?token={TOKEN}&token=x"):
        status, answer, _ = locked.get(path)
        assert status == 401 and "set-cookie" not in answer


def test_the_token_opens_the_demo(locked):
    for path in routes(locked)[:-1]:
        assert locked.get(path, headers=bearer())[0] == 200, path
    assert locked.get("/gradio_api/file=x", headers=bearer())[0] == 404
    status, answer, content = locked.get(f"/?token={TOKEN}")
    assert status == 200 and b'http-equiv="refresh"' in content and TOKEN.encode() not in content
    cookie = answer["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/")) and "Secure" not in cookie
    assert answer["cache-control"] == "no-store" and answer["referrer-policy"] == "no-referrer"
    sent = {"Cookie": f"other=1; {cookie.partition(';')[0]}"}
    for path in routes(locked)[:-1]:
        assert locked.get(path, headers=sent)[0] == 200, path
    assert locked.get("/", headers=sent, host="demo.example.org")[0] == 200  # the token keeps others out, not the name
    assert TOKEN.encode() not in locked.get("/", headers=sent)[2] + locked.get("/config", headers=sent)[2]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "0.0.0.0",
        "[::]",
        "x y",
    ],
)
def test_foreign_names_of_this_machine_are_refused(site, host):
    for path in ("/", "/config", "/gradio_api/startup-events"):
        assert site.get(path, host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:9", "[::1]:7860", "127.8.9.1"])
def test_loopback_names_are_answered(site, host):
    assert site.get("/config", host=host)[0] == 200


def test_other_sites_pages_are_refused(site):
    body = site.body("by_sentence", [SENTENCE, *all_choices()], session="origin")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"):
        assert site.post(body, {"Origin": origin})[0] == 403
    assert site.post(body, {"Origin": f"http://127.0.0.1:{site.port}"})[0] == 200
    assert site.result("origin")[0]


def test_answers_stay_within_the_page(site):
    answer = site.get("/")[1]
    assert "frame-ancestors 'none'" in answer["content-security-policy"]
    assert re.findall(r"https?:", answer["content-security-policy"]) == []
    assert answer["x-content-type-options"] == "nosniff"
    theme = site.get("/theme.css")[2].decode()
    assert "fonts.googleapis" not in theme and "system-ui" in theme


def test_when_a_token_is_needed():
    assert all(require_token(host, None) is None for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"))
    made = {require_token(host, None) for host in ("0.0.0.0", "::", "192.168.1.5", "demo.example.org", "")}
    assert len(made) == 5 and all(len(token) >= 32 for token in made)
    assert require_token("127.0.0.1", TOKEN) == require_token("0.0.0.0", TOKEN) == TOKEN


# --- the command ---


def fails(*arguments, **environment):
    result = CliRunner().invoke(cli, ["demo", *map(str, arguments)], env=environment)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.stderr


def test_errors_of_the_command(place, tmp_path, monkeypatch):
    gallery = ("--gallery", place.gallery)
    assert "at least 16" in fails(*gallery, "--host", "0.0.0.0", "--token", "short")
    assert "at least 16" in fails(*gallery, "--token", "")
    assert "at least 16" in fails(*gallery, AGA_DEMO_TOKEN="with a space in it")
    assert "holds no gallery" in fails("--gallery", tmp_path)
    assert "does not exist" in fails(*gallery, "--port", 0, "--model", tmp_path / "none")
    with listen("127.0.0.1", 0) as taken:
        message = fails(*gallery, "--port", taken.getsockname()[1])
        assert "in use" in message and "--port" in message
    assert "--host" in fails(*gallery, "--host", "203.0.113.1", "--port", 0)
    assert "'/'" not in fails(*gallery, "--port", 70_000)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "aga_model.service.demo.server")
    monkeypatch.delitem(sys.modules, "aga_model.service.demo.page")
    monkeypatch.delattr("aga_model.service.demo.server")
    assert "pip install 'aga-model[demo]'" in fails(*gallery)


def test_the_command_serves_until_it_is_interrupted(python, place, tmp_path):
    """On all addresses a token is made; nothing is left behind in the working folder."""
    command = "from aga_model.cli.main import app; app()"
    arguments = ["demo", "--gallery", str(place.gallery), "--host", "0.0.0.0", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "AGA_DEMO_TOKEN"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [python, "-c", command, *arguments],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port, token = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline()).groups()
        site = Site(int(port))
        assert site.get("/")[0] == site.get("/", headers=bearer())[0] == 401
        assert site.get("/", headers=bearer(token))[0] == 200
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0 and "has ended" in output
    assert "not encrypted" in errors and "Traceback" not in errors and token not in errors
    assert list(tmp_path.iterdir()) == []


# --- in a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser(place):
    """Typing, a click on a result, its explanation; an image. Nothing comes from elsewhere, no name is code."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    search = GallerySearch(Gallery.open(place.gallery), place.encoder)
    with running(search, TOKEN) as site, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=300_000)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        errors, foreign = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda one: foreign.append(one.url) if is_foreign(one.url, site.port) else None)

        page.goto(f"http://127.0.0.1:{site.port}/?token={TOKEN}")
        page.wait_for_selector("#sentence textarea")
        assert page.url == f"http://127.0.0.1:{site.port}/"
        assert page.get_by_text("never who somebody is").is_visible()

        page.type("#sentence textarea", SENTENCE)
        page.click("#find")
        page.wait_for_selector("#results button")
        expected = Gallery.open(place.gallery).search(place.encoder.encode_texts([SENTENCE]), 10)[0]
        shown = [button.get_attribute("data-index") for button in page.query_selector_all("#results button")]
        assert shown == [str(index) for index in range(len(expected))]
        assert page.evaluate("[...document.querySelectorAll('#results img')].every(i => i.complete && i.naturalWidth)")
        evil = page.inner_text(f"#results button >> nth={[hit.path.name for hit in expected].index(EVIL)}")
        assert "<img src=x onerror=alert(1)>${document.title='hacked'}{{value}}`" in evil

        page.click("#results button >> nth=1")
        page.wait_for_selector("#explanation img")
        assert "Result 2" in page.inner_text("#explanation")
        assert page.evaluate("document.querySelector('#explanation img').naturalWidth") > 300
        assert page.get_attribute("#results button >> nth=1", "aria-pressed") == "true"

        page.click("role=tab[name='By an image']")
        page.set_input_files("#upload input", place.folder / "3_e.png")
        page.wait_for_selector("#upload img")
        page.click("#find_like")
        page.wait_for_selector("#results button:first-child >> text=1.000")
        assert "3_e.png" in page.inner_text("#results button >> nth=0")

        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.title() == "Person search"
        browser.close()
    assert errors == [] and foreign == []


def is_foreign(url, port):
    return not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))


def test_a_busy_server_stops(place):
    """With an open answer, as every page in a browser holds one."""
    search = GallerySearch(Gallery.open(place.gallery), place.encoder)
    with running(search) as site:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=300)
        connection.request("GET", "/gradio_api/heartbeat/x")
        assert connection.getresponse().status == 200
        began = time.monotonic()
    assert time.monotonic() - began < 60
    connection.close()
