"""The guard by itself: what it lets through, what it reads, and whom it slows down."""

import asyncio
import json

import pytest

from aga_model.service import is_loopback, require_token
from aga_model.service.demo.page_rules import JOIN, Field, PageRules
from aga_model.service.demo.turns import MOST_WAIT, Pace, Turns
from aga_model.service.guard import Guard, Refusal, WrongTokens

TOKEN = "a-token-of-the-tests_0123"
FUNCTIONS = {
    3: (Field("sentence", 2000), Field("results", 100), Field("cameras", 50, 4)),
    4: (Field("state of the page"),),
    5: (),
}


def request(method="GET", path="/", headers=(), query=b"", client="192.0.2.1"):
    names = {name.lower() for name, _ in headers}
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    if "host" not in names:
        sent.append((b"host", b"localhost"))
    return {
        "type": "http", "method": method, "path": path, "query_string": query, "headers": sent, "client": (client, 1),
    }  # fmt: skip


def ask(guard, scope, pieces=(b"",), more_for_ever=False):
    """Status, headers and content of the answer, and how many bytes of the body were taken."""

    async def run():
        left, sent, taken = list(pieces), [], 0

        async def receive():
            nonlocal taken
            piece = left.pop(0) if left else b""
            taken += len(piece)
            if not left and more_for_ever:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": piece, "more_body": bool(left) or more_for_ever}

        async def send(message):
            sent.append(message)

        await guard(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, content, taken

    return asyncio.run(run())


class App:
    """Answers 200 and keeps what it was given."""

    def __init__(self):
        self.scopes, self.bodies = [], []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["method"] == "POST":
            self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})


def guarded(token=None, known=("known",), max_body=1_000_000, **options):
    app = App()
    return Guard(app, token, max_body, PageRules(FUNCTIONS, lambda session: session in known), **options), app


def join(content, **options):
    guard, app = guarded(**options)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, _, answer, _ = ask(guard, request("POST", JOIN), [body])
    return status, answer.decode(), app.bodies


def body(data, number=3, event=None, session="one"):
    return {"data": data, "event_data": event, "fn_index": number, "session_hash": session}


# --- texts ---


def test_what_the_page_sends_is_passed_on():
    sent = body(["a man", 10, ["door", "yard"]])
    status, _, passed = join({**sent, "trigger_id": 7, "oauth_token": "x", "batched": True})
    assert status == 200 and json.loads(passed[0]) == sent
    assert join(body([None], 4))[0] == join(body([], 5, {"index": 3}))[0] == 200
    assert join(body(["x" * 2000, 10, ["y" * 50] * 4]))[0] == 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (body(["x" * 2001, 10, []]), "The sentence has 2,001 characters: shorten it to at most 2,000."),
        (body(["a", "1" * 101, []]), "The results has 101 characters"),
        (body(["a", 1, ["y" * 51]]), "The cameras has 51 characters"),
        (body(["a", 1, "y" * 51]), "The cameras has 51 characters"),
        (body(["a", 1, ["y"] * 5]), "holds 5 values: give at most 4"),
        (body([["a"], 1, []]), "holds objects"),
        (body([{"path": "/etc/passwd"}, 1, []]), "holds objects"),
        (body(["a", 1, [["y"]]]), "holds objects"),
        (body(["a", 1]), "another length"),
        (body(["a"] * 10_000), "another length"),
        (body(["held"], 4), "state of the page is not sent"),
        (body([], 5, {"a": "z" * 101}), "more than 100 characters"),
        (body([], 5, {"z" * 101: 1}), "more than 100 characters"),
        (body([], 5, "z" * 101), "more than 100 characters"),
        (body([], 5, [1] * 9), "holds 9 values"),
        (body([], 5, {str(number): 1 for number in range(9)}), "holds 9 values"),
        (body([], 5, {"a": {"b": 1}}), "holds objects"),
        (body([], 99), "no such function"),
        (body([], "5"), "no such function"),
        (body([], True), "no such function"),
        (body([], 5.0), "no such function"),
        (body([], 5, session="x" * 65), "names no session"),
        (body([], 5, session="a b"), "names no session"),
        (body([], 5, session="\ud800"), "names no session"),
        (body([], 5, session=7), "names no session"),
        ({"data": [], "fn_index": 5}, "names no session"),
        ({"fn_index": 5, "session_hash": "x"}, "no list of data"),
        ([], "no JSON object"),
        (b'{"data": [NaN], "fn_index": 5, "session_hash": "x"}', "no JSON"),
        (b'{"data": [' + b"9" * 5000 + b'], "fn_index": 5, "session_hash": "x"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"", "no JSON"),
    ],
)
def test_what_the_page_does_not_send_is_refused(content, said):
    status, answer, passed = join(content)
    assert status == 400 and passed == []
    assert said in json.loads(answer)["detail"] and len(answer) < 300  # nothing of the request is repeated


def test_ten_million_characters_are_not_read():
    guard, app = guarded(max_body=14_000_000)
    content = json.dumps(body(["x" * 10_000_000, 10, []])).encode()
    pieces = [content[start : start + 65_536] for start in range(0, len(content), 65_536)]
    status, headers, answer, taken = ask(guard, request("POST", JOIN), pieces)
    assert status == 413 and app.bodies == [] and taken < 300_000
    assert "shorten the text" in answer.decode() and headers["connection"] == "close"


def test_only_an_image_is_large():
    image = "data:image/png;base64," + "A" * 500_000
    status, _, passed = join(body([], 5, {"image": image}))
    assert status == 200 and json.loads(passed[0])["event_data"] == {"image": image}
    for content in (
        body(["data:image/png;base64," + "A" * 500_000, 1, []]),
        body([], 5, {"other": image}),
        body([], 5, {"image": image, "other": "B" * 200_000}),
        body([], 5, [image]),
    ):
        status, answer, passed = join(content)
        assert status in (400, 413) and passed == [] and len(answer) < 300
    for piece in ("A\\n", "A\\u0041", "\u00e9"):  # base64 as a page writes it needs no escapes
        written = json.dumps(body([], 5, {"image": image})).encode().replace(b"AAAA", piece.encode(), 1)
        assert join(written)[0] == 400
    # Many small values beside an image would cost more than the image: they are not parsed.
    padded = b'{"event_data": {"image": "data:image/png;base64,AAAA"}, "data": [' + b"1," * 200_000 + b"1]}"
    assert join(padded)[0] == 413


def test_few_large_bodies_at_a_time():
    """The fifth image that begins to arrive is told to come again; small requests go on."""
    guard = guarded()[0]
    image = json.dumps(body([], 5, {"image": "data:image/png;base64," + "A" * 200_000})).encode()
    answers = []

    async def run():
        go_on = asyncio.Event()

        async def one(first, rest):
            pieces = [first, rest]

            async def receive():
                piece = pieces.pop(0)
                if not pieces:
                    await go_on.wait()
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

            async def send(message):
                if "status" in message:
                    answers.append((len(first) + len(rest), message["status"]))

            await guard(request("POST", JOIN), receive, send)

        large = [asyncio.create_task(one(image[:150_000], image[150_000:])) for _ in range(5)]
        while not answers:
            await asyncio.sleep(0)
        assert answers == [(len(image), 503)]
        small = json.dumps(body([], 5)).encode()
        go_on.set()
        await one(small[:5], small[5:])
        await asyncio.gather(*large)
        await one(image[:150_000], image[150_000:])

    asyncio.run(asyncio.wait_for(run(), 60))
    assert sorted(status for _, status in answers) == [200] * 6 + [503]


# --- bodies, headers and routes ---


def test_a_refused_body_is_not_read():
    guard, app = guarded(TOKEN)
    for headers in ((), (("authorization", "Bearer " + TOKEN + "x"),)):
        status, answer, _, taken = ask(guard, request("POST", JOIN, headers), [b"x" * 100] * 10)
        assert status == 401 and taken == 0 and answer["connection"] == "close"
    right = ("authorization", "Bearer " + TOKEN)
    for scope in (
        request("POST", "/elsewhere", [right]),
        request("POST", JOIN, [right, ("origin", "http://evil.example")]),
        request("POST", JOIN, [right, ("content-length", "1000001")]),
        request("GET", "/", [right, ("content-length", "13000000")]),
        request("GET", "/", [right, ("transfer-encoding", "chunked")]),
    ):
        status, answer, _, taken = ask(guard, scope, [b"x" * 100] * 10)
        assert status in (400, 403, 404, 413) and taken == 0 and answer["connection"] == "close"
    assert app.scopes == []


@pytest.mark.parametrize(("pieces", "status"), [(2, 200), (3, 413), (9, 413)])
def test_a_body_of_unstated_length_is_bounded(pieces, status):
    """Also one that may be large; it is read no further than just beyond the limit."""
    app = App()
    found, _, _, taken = ask(Guard(app, None, 400_000), request("POST", JOIN), [b"x" * 200_000] * pieces)
    assert found == status and taken == 200_000 * min(pieces, 3) and len(app.bodies) == (status == 200)


def test_a_body_is_passed_on_with_its_length_and_what_follows():
    """The rules take keys out of it; an application that listens for the end of the connection hears of it."""
    heard = []

    async def app(scope, receive, send):
        heard.append([value for name, value in scope["headers"] if name == b"content-length"])
        heard.extend([await receive(), await receive()])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = Guard(app, None, 1000, PageRules(FUNCTIONS, lambda session: True))
    sent = json.dumps({**body([], 5), "trigger_id": 7}).encode()
    passed = json.dumps({"data": [], "event_data": None, "fn_index": 5, "session_hash": "one"}).encode()
    ask(guard, request("POST", JOIN, [("content-length", str(len(sent)))]), [sent[:9], sent[9:]])
    first = {"type": "http.request", "body": passed, "more_body": False}
    assert heard == [[str(len(passed)).encode()], first, {**first, "body": b""}]


def test_a_body_that_does_not_come():
    guard, app = guarded(body_seconds=0.05)
    status, headers, answer, _ = ask(guard, request("POST", JOIN), [b'{"data"'], more_for_ever=True)
    assert status == 408 and b"0.05 seconds" in answer and headers["connection"] == "close" and app.bodies == []


def test_the_token_goes_no_further_than_the_guard():
    guard, app = guarded(TOKEN)
    headers = [("authorization", "Bearer " + TOKEN), ("cookie", f"aga_demo_token={TOKEN}"), ("x-forwarded-host", "x"),
               ("accept-language", "eo")]  # fmt: skip
    query = b"deep_link=x&token=" + TOKEN.encode()
    assert ask(guard, request(path="/config", headers=headers, query=query))[0] == 200
    assert TOKEN not in str(app.scopes) and app.scopes[0]["query_string"] == b""
    assert dict(app.scopes[0]["headers"]) == {b"host": b"localhost", b"accept-language": b"eo"}


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/gradio_api/queue/data", "session_hash=known", 200),
        ("/gradio_api/queue/data", "session_hash=unknown", 404),
        ("/gradio_api/queue/data", "session_hash=known&x=1", 404),
        ("/gradio_api/queue/data", "", 404),
        ("/gradio_api/heartbeat/" + "x" * 64, "", 200),
        ("/gradio_api/heartbeat/" + "x" * 65, "", 404),
        ("/gradio_api/heartbeat/a b", "", 404),
        ("/assets/index-DphvyggB.js", "", 200),
        ("/static/js/a/b.min.js", "", 200),
        ("/assets/../x", "", 404),
        ("/assets/.hidden", "", 404),
        ("/assets//etc/passwd", "", 404),
        ("/assets/a\x00b", "", 404),
        ("/assets/a\\b", "", 404),
        ("/assets/" + "a" * 300, "", 404),
    ],
)
def test_routes(path, query, status):
    assert ask(guarded()[0], request(path=path, query=query.encode()))[0] == status


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "headers", [[], [("authorization", "Bearer " + TOKEN)], [("cookie", f"aga_demo_token={TOKEN}")]]
)
def test_web_sockets_are_closed_and_reach_nothing(token, headers):
    """Nothing behind the guard has one, so not even the token opens one."""
    sent = []

    async def never(*_):
        raise AssertionError("a web socket was let through")

    async def send(message):
        sent.append(message)

    scope = request(path=JOIN, headers=headers) | {"type": "websocket"}
    del scope["method"]
    asyncio.run(Guard(never, token, 1000)(scope, never, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(("scheme", "secure"), [("https", True), ("http", False), (None, False)])
def test_the_cookie_is_secure_over_https(scheme, secure):
    """Without `Secure` a browser also sends it over http; with it, it would not keep one that came over http."""
    scope = request(query=b"token=" + TOKEN.encode()) | ({} if scheme is None else {"scheme": scheme})
    status, headers, _, _ = ask(guarded(TOKEN)[0], scope)
    parts = headers["set-cookie"].split("; ")
    assert status == 200 and parts[0] == f"aga_demo_token={TOKEN}" and headers["cache-control"] == "no-store"
    assert sorted(parts[1:]) == sorted(["HttpOnly", "SameSite=Strict", "Path=/", *["Secure"] * secure])


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://demo.example", 200),
        ("http://DEMO.example", 200),
        ("https://demo.example.evil.net", 403),
        ("https://demo.example:8443", 403),
        ("https://demo.exampl", 403),
        ("https://evil.net", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_only_the_pages_own_site_may_ask(origin, status):
    headers = [("authorization", "Bearer " + TOKEN), ("host", "demo.example"), ("origin", origin)]
    assert ask(guarded(TOKEN)[0], request("POST", JOIN, headers), [json.dumps(body([], 5)).encode()])[0] == status


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("LocalHost", True), ("10.0.0.5", False),
     ("192.168.1.5", False), ("fe80::1", False), ("0.0.0.0", False), ("::", False), ("localhost.evil.net", False)],
)  # fmt: skip
def test_this_machine_is_no_network(host, ours):
    assert is_loopback(host) is ours and (require_token(host, None) is None) is ours


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:7860", 200), ("127.0.0.1", 200), ("[::1]:7860", 200), ("evil.example", 403), ("0.0.0.0:7860", 403),
     ("192.168.1.5", 403), ("[fe80::1]", 403), ("localhost.evil.example", 403)],
)  # fmt: skip
def test_without_a_token_only_names_of_this_machine_are_answered(host, status):
    guard, app = guarded()
    found, headers, _, _ = ask(guard, request(headers=[("host", host)]))
    assert found == status and len(app.scopes) == (status == 200)
    # A framework that answers gets them, too.
    assert headers["referrer-policy"] == "no-referrer" and headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self';" in headers["content-security-policy"]


@pytest.mark.parametrize("given", ["", TOKEN[:1], TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\u00e9"])
def test_only_the_whole_token_is_right(given):
    for headers, query in (
        ([("authorization", f"Bearer {given}")], b""),
        ([("authorization", f"Basic {TOKEN}")], b""),
        ([("cookie", f"aga_demo_token={given}")], b""),
        ([], b"token=" + given.encode()),
    ):
        status, answer, _, _ = ask(guarded(TOKEN)[0], request(headers=headers, query=query))
        assert status == 401 and "set-cookie" not in answer and answer["www-authenticate"] == "Bearer"


def test_strangers_are_sent_away():
    """Their connections end with the refusal, those of people who may ask do not."""
    locked, right = guarded(TOKEN)[0], ("authorization", "Bearer " + TOKEN)
    full = request(headers=[right]) | {"extensions": {"aga.let_in": lambda: False}}
    opening = request(query=b"token=" + TOKEN.encode()) | {"extensions": full["extensions"]}
    for scope, wanted in ((request(), 401), (full, 503), (opening, 503)):
        status, headers, _, _ = ask(locked, scope)
        assert (status, headers.get("connection")) == (wanted, "close")
    assert headers["retry-after"] == "5"
    for scope, wanted in ((request(headers=[right]), 200), (request(path="/no", headers=[right]), 404)):
        status, headers, _, _ = ask(locked, scope)
        assert (status, headers.get("connection")) == (wanted, None)


def test_a_host_that_is_none():
    for host in ("", "a b", "a/b", "[::1", "a:b:c", "<script>", "a" + "\u00e9"):
        assert ask(guarded(TOKEN)[0], request(headers=[("host", host)]))[0] == 400


# --- wrong tokens ---


def test_wrong_tokens_wait_longer_and_longer():
    now = [0.0]
    tokens = WrongTokens(lambda: now[0])
    waits = [tokens.wait("192.0.2.1") for _ in range(20)]
    assert waits[: tokens.FREE] == [0.0] * tokens.FREE and waits == sorted(waits)
    assert waits[tokens.FREE] > 0 and waits[-1] == tokens.MOST
    assert tokens.wait("192.0.2.2") == 0.0  # another address
    now[0] += 20 * tokens.FORGET
    assert tokens.wait("192.0.2.1") == 0.0
    for number in range(20):  # one network, as one customer has it
        last = tokens.wait(f"2001:db8::{number:x}")
    assert last == tokens.MOST and tokens.wait("2001:db8:0:1::1") == 0.0


@pytest.mark.parametrize(
    "wrong", [{"query": b"token=x"}, {"headers": [("authorization", "Bearer x")]},
              {"headers": [("cookie", "aga_demo_token=x")]}, {"path": "/config", "query": b"a=1&token=x"}]
)  # fmt: skip
def test_every_way_to_guess_waits(monkeypatch, wrong):
    """After mistakes that cost nothing 0.1 s, then twice as long each time, up to 1 s; a missing token never."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("aga_model.service.guard.asyncio.sleep", sleep)
    guard = Guard(App(), TOKEN, 1000)
    guard._wrong_tokens = WrongTokens(lambda: 0.0)
    for _ in range(10):
        assert ask(guard, request(**wrong))[0] == 401
        assert ask(guard, request())[0] == 401
    assert waits == pytest.approx([0] * 5 + [0.1, 0.2, 0.4, 0.8, 1.0])


def test_mistakes_are_forgotten_one_by_one():
    """One in two seconds: somebody who mistypes now and then never waits."""
    now = [0.0]
    tokens = WrongTokens(lambda: now[0])
    for _ in range(20):
        assert tokens.wait("192.0.2.1") == 0.0
        now[0] += 2.0
    assert [tokens.wait("192.0.2.1") for _ in range(5)] == [0.0] * 5
    now[0] += 1.0  # forgets half a mistake
    assert tokens.wait("192.0.2.1") == pytest.approx(0.05 * 2**0.5)


def test_who_guesses_now_is_remembered_and_who_was_silent_longest_is_not():
    tokens = WrongTokens(lambda: 0.0)
    tokens.wait("192.0.2.1")
    for number in range(tokens.ADDRESSES):
        tokens.wait(f"10.0.{number >> 8}.{number & 255}")
    waits = [tokens.wait("192.0.2.2") for _ in range(8)]
    assert waits[:5] == [0.0] * 5 and waits[5:] == pytest.approx([0.1, 0.2, 0.4])
    assert "192.0.2.1" not in tokens._counts and len(tokens) == tokens.ADDRESSES


def test_addresses_are_forgotten():
    tokens = WrongTokens(lambda: 0.0)
    for number in range(3 * tokens.ADDRESSES):
        tokens.wait(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(tokens) == tokens.ADDRESSES


def test_nobody_who_guesses_keeps_another_one_out():
    """All from one address: wrong tokens wait while the right one is answered."""
    guard, app = guarded(TOKEN)
    ends = []

    async def one(token):
        async def send(message):
            if "status" in message:
                ends.append(message["status"])

        await guard(request(headers=[("authorization", f"Bearer {token}")]), None, send)

    async def run():
        guesses = [asyncio.create_task(one(f"{number:030}")) for number in range(30)]
        await asyncio.sleep(0)  # all of them begin
        await one(TOKEN)
        before = list(ends)
        await asyncio.gather(*guesses)
        return before

    before = asyncio.run(run())
    assert before.count(401) <= WrongTokens.FREE and before[-1] == 200
    assert ends.count(401) == 30 and len(app.scopes) == 1


# --- turns ---


def at_once(turns, number, path=JOIN):
    """Statuses and headers of requests that come at the same moment."""
    answers = []

    async def one():
        async def send(message):
            if "status" in message:
                answers.append((message["status"], dict(message["headers"])))

        await turns(request("POST", path), None, send)

    async def run():
        await asyncio.gather(*(one() for _ in range(number)))

    asyncio.run(run())
    return answers


class Queueing:
    """Lets requests join its queue, which is never worked off."""

    def __init__(self, name="search"):
        self.name, self.queue = name, []

    async def __call__(self, scope, receive, send):
        await asyncio.sleep(0)
        self.queue.append(self.name)
        await send({"type": "http.response.start", "status": 200, "headers": []})


def pace_of(**seconds):
    pace = Pace()
    pace._seconds.update(seconds)
    return pace


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.3])
def test_who_would_wait_too_long_is_told_at_once(seconds):
    app = Queueing()
    turns = Turns(app, JOIN, lambda: app.queue, pace_of(search=seconds), 16)
    answers = at_once(turns, 40)
    let_in = [status for status, _ in answers].count(200)
    assert let_in == len(app.queue) == min(17, int(MOST_WAIT / seconds + 1e-9))
    refused = [headers for status, headers in answers if status == 503]
    assert len(refused) == 40 - let_in and all(int(headers[b"retry-after"]) >= 1 for headers in refused)
    assert at_once(turns, 3, "/elsewhere")[0][0] == 200


def test_alone_a_computation_may_take_long():
    app = Queueing()
    turns = Turns(app, JOIN, lambda: app.queue, pace_of(search=30.0), 16)
    assert [status for status, _ in at_once(turns, 2)].count(200) == 1
    assert at_once(turns, 1)[0][0] == 503
    app.queue.clear()
    assert at_once(turns, 1)[0][0] == 200


def test_the_pace_follows_what_is_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("aga_model.service.demo.turns.perf_counter", lambda: now[0])
    pace = Pace()
    for _ in range(30):
        with pace.measured("search"):
            now[0] += 2.0
    assert pace["search"] == pytest.approx(2.0) == pace.usual
    with pytest.raises(Refusal), pace.measured("explain"):
        now[0] += 4.0
        raise Refusal(400, "x")
    assert pace["explain"] == pytest.approx(4.0) and pace.usual == pytest.approx(3.0)


def test_the_newest_measurement_counts_three_tenths(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("aga_model.service.demo.turns.perf_counter", lambda: now[0])
    pace, means = Pace(), []
    assert pace["search"] == pace.usual == 0.2  # before anything was measured
    for seconds in (1.0, 2.0, 0.5):
        with pace.measured("search"):
            now[0] += seconds
        means.append(pace["search"])
    assert means == pytest.approx([1.0, 0.7 * 1.0 + 0.3 * 2.0, 0.7 * 1.3 + 0.3 * 0.5])


@pytest.mark.parametrize(
    ("waiting", "retry"),
    [([], None), (["explain"], None), (["search", "explain"], 1), (["search"] * 4 + ["explain"], 3),
     (["new"] * 2, None), (["new"] * 17, 4)],
)  # fmt: skip
def test_the_wait_is_the_sum_of_those_before(waiting, retry):
    """0.6 s a search and 0.2 s an explanation, so 0.4 s for the new one, of 1 s that it may take."""
    turns = Turns(Queueing(), JOIN, lambda: waiting, pace_of(search=0.6, explain=0.2), 16)
    ((status, headers),) = at_once(turns, 1)
    assert (status, headers.get(b"retry-after")) == ((200, None) if retry is None else (503, str(retry).encode()))


def test_a_queue_that_is_full_is_full_for_fast_computations_too():
    for number, status in ((16, 200), (17, 503)):
        turns = Turns(Queueing(), JOIN, lambda number=number: ["search"] * number, pace_of(search=1e-4), 16)
        assert at_once(turns, 1)[0][0] == status


def test_a_request_that_fails_gives_its_turn_back():
    async def failing(*_):
        raise ConnectionError

    turns = Turns(failing, JOIN, list, pace_of(search=30.0), 16)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            at_once(turns, 1)
