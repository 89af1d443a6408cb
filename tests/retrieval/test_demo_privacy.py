"""What a demo keeps to itself: its log holds nothing of what is asked, and who was deleted is not shown again."""

import base64
import gc
import json
import logging
import shutil
import socket
import threading
from contextlib import suppress
from urllib.parse import quote

import pytest
from demo_site import SENTENCE, all_choices, make_place, names, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aga_model.gallery import Filter, Gallery, GalleryError
from aga_model.service import GallerySearch
from aga_model.service import searching as service
from aga_model.service.logs import FormatterWithoutInputs, without_inputs
from aga_model.service.searching import SearchError, Wanted

pytestmark = pytest.mark.timeout(180)  # servers, which may serve for ever

MARKER = "Zwiebelkuchen"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
JOIN = "/gradio_api/queue/join"


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folder):
    return make_place(tmp_path_factory.mktemp("privacy"), model_folder)


@pytest.fixture
def search(place):
    return GallerySearch(Gallery.open(place.gallery), place.encoder)


@pytest.fixture
def site(search, capfd):
    """With the outputs captured before the server takes hold of them."""
    with running(search) as running_site:
        yield running_site


def written(capfd, caplog):
    """All that the process has written or logged."""
    output, errors = capfd.readouterr()
    return output + errors + caplog.text


def send(site, content):
    """Status and answer of a request to compute something, with the result where there is one."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, _, answer = site.request("POST", JOIN, body, {"Content-Type": "application/json"})
    if status == 200:
        success, output = site.result(json.loads(body)["session_hash"])
        assert success, output
        answer = json.dumps(output).encode()
    return status, answer


# --- the log ---

texts = st.sampled_from([MARKER, MARKER + "\ud800", f"<{MARKER}>", f"/{MARKER}/../x", MARKER * 3000, "", "2026-01-01"])
numbers = st.sampled_from([0, 1, -1, 10, 10**30, 10**300, -(10**400), 1e308, 0.5, True])
scalars = st.one_of(st.none(), texts, numbers)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["path", MARKER, "meta"]), inner),
    max_leaves=6,
)
requests = st.fixed_dictionaries(
    {
        "fn_index": st.one_of(st.integers(-1, 12), values),
        "data": st.one_of(st.lists(scalars, min_size=6, max_size=6), st.lists(values, max_size=7), values),
        "session_hash": st.one_of(st.just("fuzz"), values),
    },
    optional={
        "event_data": st.one_of(
            st.dictionaries(st.sampled_from(["index", "image", "size", MARKER]), values), values
        ),
        "trigger_id": values,
        "batched": values,
        MARKER: values,
    },
)  # fmt: skip


def test_no_request_gets_into_the_log(site, capfd, caplog):
    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(requests)
    def ask(content):
        status, answer = send(site, content)
        assert status in (200, 400, 413, 503), (status, answer)
        assert b"Traceback" not in answer and len(answer) < 200_000

    ask()
    site.search(SENTENCE, session="afterwards")
    assert MARKER not in written(capfd, caplog)


def test_malformed_requests_do_not_get_into_the_log(site, capfd, caplog):
    fine = site.body("by_sentence", [MARKER, *all_choices()], session="wrong")
    explain = site.body("explain", [None], {"index": 0}, session="wrong")
    for changes in (
        {"fn_index": 999}, {"fn_index": MARKER}, {"fn_index": None}, {"fn_index": -1}, {"data": None},
        {"data": [MARKER]}, {"data": [MARKER] * 7}, {"data": [[MARKER], *all_choices()]},
        {"data": [MARKER, 10**400, [], "", "", ""]}, {"data": [MARKER, MARKER, MARKER, MARKER, MARKER, MARKER]},
        {"data": [MARKER, 10, [MARKER + "\ud800"], "", "", ""]}, {"data": [True, True, True, True, True, True]},
        {"data": [MARKER + "\ud800", *all_choices()]}, {"data": [12, 10, [1, 2.5, None, ""], 3, 4, 5]},
        {"event_data": MARKER}, {"event_data": [MARKER]}, {"session_hash": None}, {"session_hash": MARKER + " "},
        {"session_hash": MARKER * 10},
    ):  # fmt: skip
        status, answer = send(site, {**fine, **changes})
        assert status in (200, 400) and b"Traceback" not in answer, changes
    for event in (MARKER, {"index": MARKER}, {"index": [MARKER]}, {MARKER: MARKER}, {"index": 10**4000}, None):
        assert send(site, {**explain, "event_data": event})[0] == 200
    upload = site.body("upload", [], session="wrong")
    for image in (MARKER, f"data:image/png;base64,{MARKER}", "data:image/png;base64," + "A" * 200_000, 5):
        assert send(site, {**upload, "event_data": {"image": image}})[0] == 200
    for body in (b'{"data": [NaN, "%s"]}', b'{"data": ["%s", Infinity]}', b'{"%s', b"%s", b'["%s"]', b'"%s"'):
        assert send(site, body % MARKER.encode())[0] == 400
    for path in ("/gradio_api/queue/data?session_hash=" + MARKER, "/gradio_api/heartbeat/" + quote(f"{MARKER} x"),
                 "/assets/" + MARKER, f"/static/{MARKER}%00", "/assets/" + MARKER * 100, f"/{MARKER}",
                 f"/config?deep_link={MARKER}", f"/?deep_link={MARKER}&token={MARKER}",
                 f"/?__theme={MARKER}"):  # fmt: skip
        assert site.get(path, headers={"X-Header": MARKER, "Cookie": f"a={MARKER}"})[0] in (200, 400, 404), path
    for raw in (f"{MARKER}\r\n\r\n", f"GET /{MARKER} HTTP/9\r\n\r\n", f"GET / HTTP/1.1\r\n{MARKER}\r\n\r\n",
                f"GET /{MARKER} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                "Connection: upgrade\r\n\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
            connection.sendall(raw.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 4")
    assert MARKER not in written(capfd, caplog)


@pytest.mark.parametrize(
    "error", [RuntimeError(f"about {MARKER}"), OSError(f"in /{MARKER}"), GalleryError(f"camera = '{MARKER}'"),
              KeyError(MARKER), TypeError(f"{MARKER} is wrong"), MemoryError(MARKER)]
)  # fmt: skip
def test_faults_are_logged_without_what_was_asked(site, search, capfd, caplog, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(search.gallery, "search", fail)
    _, messages, _, results = site.ask("by_sentence", [MARKER, *all_choices(10)])
    assert "aga-wrong" in messages and "whoever started" in messages and "Traceback" not in messages + str(results)
    log = written(capfd, caplog)
    assert type(error).__name__ in log and MARKER not in log


def test_a_long_sentence_is_explained_without_a_warning(site, capfd, caplog):
    """Python prints warnings, and this one would quote the sentence."""
    site.search(f"{MARKER} " * 100, session="long")
    assert "<figure" in site.ask("explain", [None], {"index": 0}, session="long")[1]
    assert MARKER not in written(capfd, caplog)


def test_what_is_logged_of_libraries():
    formatter = FormatterWithoutInputs()
    try:
        raise ValueError(MARKER)
    except ValueError as error:
        for name, text in (("uvicorn.error", "Exception in ASGI application\n"), ("asyncio", f"task {MARKER}")):
            record = logging.LogRecord(name, logging.ERROR, "x.py", 1, text, None, (ValueError, error, None))
            shown = formatter.format(record)
            assert MARKER not in shown and "ValueError" in shown and __file__ in shown
    assert "ASGI" in formatter.format(logging.LogRecord("uvicorn", logging.ERROR, "", 1, "ASGI %s", (MARKER,), None))
    assert without_inputs(ValueError(f"no {MARKER} here"), ["a", MARKER]) == "ValueError"
    assert without_inputs(ValueError("a folder is missing"), ["a", MARKER]) == "a folder is missing"


def test_a_session_keeps_no_inputs_and_no_cards(site):
    from gradio.state_holder import SessionState

    site.search(f"{SENTENCE} {MARKER}", session="kept")
    states = [one for one in gc.get_objects() if type(one) is SessionState]
    kept = [entry["props"].get("value") for state in states for entry in state.config_values.values()]
    assert kept and not [value for value in kept if MARKER in str(value) or "data-index" in str(value)]


# --- texts ---


def test_long_texts_are_told_to_the_person(search):
    with pytest.raises(SearchError, match="has 2,001 characters: shorten it to at most 2,000"):
        search.by_sentence("x" * 2001, Wanted())
    for wanted in (Wanted(since="2" * 41), Wanted(until="2" * 41), Wanted(cameras=["x" * 1001]),
                   Wanted(cameras=["x"] * 1001), Wanted(one_per="x" * 10_000)):  # fmt: skip
        with pytest.raises(SearchError) as caught:
            search.by_sentence("a man", wanted)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("more", [1, 2, 3, 1000])
def test_a_file_that_is_too_large(place, more):
    search = GallerySearch(Gallery.open(place.gallery), place.encoder, max_upload_bytes=1000)
    url = "data:image/png;base64," + base64.b64encode(b"x" * (1000 + more)).decode()
    with pytest.raises(SearchError, match="larger than"):
        search.read_upload(url)
    with pytest.raises(SearchError, match="cannot be read"):  # it is none, but not too large
        search.read_upload("data:image/png;base64," + base64.b64encode(b"x" * 1000).decode())


def test_ten_megabytes_are_refused_at_once(site):
    for data in (["x" * 10_000_000, *all_choices()], ["a", 10, ["x" * 10_000_000], "", "", ""],
                 ["a", 10, [], "x" * 10_000_000, "", ""], ["a", 10, [], "", "", "x" * 10_000_000]):  # fmt: skip
        connection = socket.create_connection(("127.0.0.1", site.port), timeout=60)
        body = json.dumps(site.body("by_sentence", data)).encode()
        head = f"POST {JOIN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode())
        with suppress(ConnectionError):
            connection.sendall(body)
        answer = connection.recv(65536)
        connection.close()
        assert answer.startswith(b"HTTP/1.1 413 ") and len(answer) < 2000
    assert len(names(site.search(SENTENCE)[1])) == 6


# --- load ---


def test_who_would_wait_too_long_is_told_at_once(site, search, monkeypatch):
    """One computation takes as long as the test wants; of those behind it, most are told to come again."""
    go_on = threading.Event()
    by_sentence = search.by_sentence

    def slow(*given):
        go_on.wait(120)
        return by_sentence(*given)

    site.search(SENTENCE)
    monkeypatch.setattr(search, "by_sentence", slow)
    answers = [
        site.post(site.body("by_sentence", [SENTENCE, *all_choices()], session=f"busy{number}"))
        for number in range(40)
    ]
    statuses = [status for status, _, _ in answers]
    let_in = statuses.count(200)
    assert 1 <= let_in <= 17 and statuses == [200] * let_in + [503] * (40 - let_in)
    _, headers, content = answers[-1]
    assert int(headers["retry-after"]) >= 1 and "try again in" in json.loads(content)["detail"]
    go_on.set()
    for number in range(let_in):
        success, output = site.result(f"busy{number}")
        assert success and "data-index" in output["data"][3]
    assert site.search(SENTENCE)[1]


# --- deletions ---


@pytest.fixture
def changing(tmp_path, model_folder, monkeypatch):
    """A running demo of a gallery that the test changes."""
    monkeypatch.setattr(service, "_RESCAN_SECONDS", 0.0)
    monkeypatch.setattr(service, "_RESCAN_SHARE", 0)
    place = make_place(tmp_path, model_folder)
    with running(GallerySearch(Gallery.open(place.gallery), place.encoder)) as site:
        yield site, place


def test_who_was_deleted_is_not_shown_on_a_click(changing):
    site, place = changing
    _, results = site.search(SENTENCE, session="before")
    shown = names(results)
    assert "<figure" in site.ask("explain", [None], {"index": shown.index("2_c.png")}, session="before")[1]
    assert Gallery.open(place.gallery).delete(Filter(person_ids=["2"])) == 2  # by another process, as it were
    assert (place.folder / "2_c.png").is_file()  # it could still be drawn
    messages, figure = site.ask("explain", [None], {"index": shown.index("2_c.png")}, session="before")
    assert "this image is no longer in the gallery: search again" in messages
    assert "<img" not in figure and "2_c" not in figure and SENTENCE not in figure
    # The results as a whole are dropped, with the deleted person's other image.
    for index in range(6):
        assert "search again" in site.ask("explain", [None], {"index": index}, session="before")[0]
    left = names(site.search(SENTENCE, session="before")[1])
    assert sorted(left) == sorted(name for name in shown if not name.startswith("2_"))
    assert "<figure" in site.ask("explain", [None], {"index": 0}, session="before")[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_takes_the_results_away(changing):
    """In a browser: the cards of a search go, with the deleted person's picture, once one of them is clicked."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    site, place = changing
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=300_000)
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(f"http://127.0.0.1:{site.port}/")
        page.wait_for_selector("text=6 images are searched")
        assert page.get_attribute("#sentence textarea", "maxlength") == "2000"
        page.fill("#sentence textarea", SENTENCE)
        page.click("#find")
        page.wait_for_selector("#results button")
        Gallery.open(place.gallery).delete(Filter(person_ids=["2"]))
        page.click("#results button >> text=2_c.png")
        page.wait_for_selector("text=no longer in the gallery")
        page.wait_for_selector("#results button", state="detached")
        assert "2_c.png" not in page.content()
        page.click("#find")
        page.wait_for_selector("#results button")
        assert page.locator("#results button").count() == 4
        browser.close()


def test_who_was_deleted_is_not_shown_after_a_search_by_image(changing):
    site, place = changing
    image = base64.b64encode((place.folder / "3_e.png").read_bytes()).decode()
    site.ask("upload", [], {"image": f"data:image/png;base64,{image}"}, session="image")
    site.ask("by_image", [None, *all_choices()], session="image")
    assert "words of a sentence" in site.ask("explain", [None], {"index": 0}, session="image")[0]
    Gallery.open(place.gallery).delete(Filter(person_ids=["3"]))
    assert "no longer in the gallery" in site.ask("explain", [None], {"index": 0}, session="image")[0]


def test_what_a_deletion_left_is_what_the_page_offers(changing):
    site, place = changing
    number, collapse, cameras, times = site.ask("held", [])
    assert "6 images are searched" in number
    assert cameras["choices"] == [["camera 0", "camera 0"], ["camera 1", "camera 1"]] and cameras["visible"]
    assert [choice[0] for choice in collapse["choices"]] == ["every image", "one per person"] and times["visible"]
    for path in ("/", "/config"):  # these are made once
        assert b"camera 0" not in site.get(path)[2]
    Gallery.open(place.gallery).delete(Filter(cameras=["camera 0"]))
    number, _, cameras, _ = site.ask("held", [])
    assert "3 images are searched" in number and cameras["choices"] == [["camera 1", "camera 1"]]
    assert "reload the page" in site.search(SENTENCE, 10, ["camera 0"])[0]
    Gallery.open(place.gallery).delete(Filter(cameras=["camera 1"]))
    number, collapse, cameras, times = site.ask("held", [])
    assert "0 images are searched" in number and cameras["choices"] == []
    assert not (cameras["visible"] or collapse["visible"] or times["visible"])


def test_a_gallery_is_not_looked_through_all_the_time(search, place, monkeypatch):
    looks = []
    rows = Gallery.rows
    monkeypatch.setattr(Gallery, "rows", lambda *given: looks.append(1) or rows(*given))
    now = [1000.0]
    monkeypatch.setattr(service, "monotonic", lambda: now[0])
    search = GallerySearch(Gallery.open(place.gallery), place.encoder)
    for _ in range(10):
        search.refreshed()
    assert len(looks) == 1
    now[0] += 5.1
    search.refreshed()
    assert len(looks) == 2
