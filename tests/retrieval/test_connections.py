"""Connections of strangers and guests, counted alone and at a real server."""

import asyncio
import http.client
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `demo` is not installed")

import uvicorn

from aga_model.service.connections import ConnectionLimits, Connections, limited_protocol, limited_server
from aga_model.service.guard import Guard
from aga_model.service.logs import log_config

pytestmark = pytest.mark.timeout(180)  # servers, which may serve for ever

TOKEN = "a-token-of-the-tests_0123"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
PATIENCE = 60  # seconds, for a machine that is busy


@dataclass(eq=False)
class Fake:
    address: str
    is_idle: bool = True
    dropped: list = field(default_factory=list)

    def drop(self):
        self.dropped.append(self)


def fakes(registry, address, number):
    made = [Fake(address) for _ in range(number)]
    for one in made:
        registry.arrive(one)
    return made


def dropped(connections):
    return [index for index, one in enumerate(connections) if one.dropped]


def test_the_stranger_who_waits_longest_has_to_go():
    registry = Connections(ConnectionLimits(strangers=6, strangers_per_address=4))
    here = fakes(registry, "a", 6)
    assert dropped(here) == [0, 1] and registry.strangers == 4
    there = fakes(registry, "b", 2)
    assert dropped(here) == [0, 1] and dropped(there) == [] and registry.strangers == 6
    fakes(registry, "c", 1)  # one too many of all: of those of the address with most
    assert dropped(here) == [0, 1, 2] and dropped(there) == [] and registry.strangers == 6
    for one in here:
        registry.leave(one)
        registry.leave(one)
    assert registry.strangers == 3


def test_a_guest_is_no_stranger():
    registry = Connections(ConnectionLimits(strangers=2, strangers_per_address=2, guests=3, guests_per_address=2))
    guests = fakes(registry, "a", 2)
    assert all(map(registry.let_in, guests)) and registry.let_in(guests[0])
    assert (registry.strangers, registry.guests) == (0, 2)
    fakes(registry, "a", 50)
    assert dropped(guests) == [] and registry.strangers == 2
    third, other, last = fakes(registry, "a", 1) + fakes(registry, "b", 1) + fakes(registry, "c", 1)
    guests[0].is_idle = guests[1].is_idle = False
    assert not registry.let_in(third)  # all of this address are being answered
    assert registry.let_in(other)
    other.is_idle = False
    assert not registry.let_in(last) and dropped([*guests, other]) == []
    guests[1].is_idle = True
    assert registry.let_in(last) and dropped([*guests, other]) == [1] and registry.guests == 3
    for one in (*guests, other, last):
        registry.leave(one)
    assert registry.guests == 0


def test_limits_leave_descriptors_to_the_rest(monkeypatch):
    for soft in (64, 256, 1024, 10**6):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        limits = ConnectionLimits.of_this_process()
        assert limits.strangers + limits.guests <= max(soft / 2, 24)
        assert limits.strangers_per_address <= limits.strangers and limits.guests_per_address <= limits.guests
    assert limits == ConnectionLimits()


@pytest.mark.parametrize(
    ("descriptors", "limits"),
    [
        (1024, ConnectionLimits(128, 64, 384, 128)),
        (512, ConnectionLimits(64, 32, 192, 64)),
        (256, ConnectionLimits(32, 16, 96, 32)),
        (8, ConnectionLimits(8, 4, 16, 16)),
        (resource.RLIM_INFINITY, ConnectionLimits(128, 64, 384, 128)),
    ],
)
def test_half_of_the_descriptors_are_for_connections(monkeypatch, descriptors, limits):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert ConnectionLimits.of_this_process() == limits


# --- at a server ---


class Answering:
    """An application that says how much of a body it was given, and takes its time."""

    def __init__(self):
        self.taken, self.seconds = 0, 0.0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["method"] == "POST":
            self.taken += len((await receive())["body"])
        await asyncio.sleep(self.seconds)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"fine"})


@contextmanager
def serving(limits=ConnectionLimits(), body_seconds=PATIENCE):
    """Port and application of a running server."""
    app = Answering()
    config = uvicorn.Config(
        Guard(app, TOKEN, 20_000_000, body_seconds=body_seconds),
        http=limited_protocol(limits), ws="none", lifespan="off", log_config=log_config(), access_log=False,
        timeout_keep_alive=1, timeout_graceful_shutdown=1,
    )  # fmt: skip
    with run(uvicorn.Server(config)) as port:
        yield port, app


@contextmanager
def run(server):
    """The port of a server that runs meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def get(port, source=None, headers=RIGHT):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=source)
    connection.request("GET", "/", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def stranger(port, sent=b"", source=None):
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=source)
    connection.sendall(sent)
    return connection


def rest(connection):
    """What is received until the other side closes."""
    pieces = []
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionError:
            piece = b""
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def test_guests_get_in_through_strangers():
    with serving(ConnectionLimits(strangers=8, strangers_per_address=4)) as (port, _):
        half = b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: "
        strangers = [stranger(port, half if number % 2 else b"") for number in range(20)]
        assert get(port) == 200 and get(port, headers={}) == 401
        for one in strangers[:16]:  # closed to make room for those behind them
            assert rest(one) == b""
        for one in strangers:
            one.close()


def test_slow_headers_end_a_connection():
    with serving(ConnectionLimits(header_seconds=0.3)) as (port, _):
        assert rest(stranger(port)) == b""
        assert rest(stranger(port, b"GET / HTTP/1.1\r\nHost: x\r\n")).startswith(b"HTTP/1.1 408 ")
        whole = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        answers = rest(stranger(port, whole + whole[:30]))
        assert answers.startswith(b"HTTP/1.1 200 ") and answers.count(b"HTTP/1.1") <= 2
        # A connection that drips goes, too: it answers long before the drops are too many.
        dripping = stranger(port, b"GET / HTTP/1.1\r\n")
        dripping.settimeout(0.05)
        answer = None
        for _ in range(1000):
            try:
                answer = dripping.recv(100)
                break
            except TimeoutError:
                dripping.sendall(b"X: y\r\n")
        assert answer is not None and answer.startswith(b"HTTP/1.1 408 ")


def test_half_a_second_request_ends_a_connection():
    with serving(ConnectionLimits(header_seconds=0.2)) as (port, _):
        whole = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        connection = stranger(port, whole)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.settimeout(5)  # seconds
        connection.sendall(whole[:30])
        assert b"HTTP/1.1 408 " in rest(connection)


def test_an_answer_may_take_longer_than_headers():
    with serving(ConnectionLimits(header_seconds=0.1)) as (port, app):
        app.seconds = 0.4
        assert get(port) == 200


def test_a_page_that_does_nothing_makes_room_for_another():
    """One guest at a time: who was answered goes, who waits for an answer stays."""
    with serving(ConnectionLimits(guests=1)) as (port, app):
        first = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        first.request("GET", "/", headers=RIGHT)
        assert first.getresponse().read() == b"fine"
        app.seconds = 0.5
        second = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        second.request("GET", "/", headers=RIGHT)
        assert rest(first.sock) == b""
        assert get(port) == 503
        assert second.getresponse().read() == b"fine"
        first.close()
        second.close()


def test_who_leaves_in_the_middle_of_an_answer_makes_room():
    with serving(ConnectionLimits(guests=1)) as (port, app):
        app.seconds = 0.3
        visitor = stranger(port, f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert poll(lambda: get(port) == 503)  # the one place is taken
        visitor.close()
        assert poll(lambda: get(port) == 200)


def poll(holds, seconds=5):
    """Whether something is so before the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
    return False


def test_long_headers_are_not_kept():
    """The demo's own server, whose headers may have sixteen kilobytes; half of them have to come in ten seconds."""
    with run(limited_server(Guard(Answering(), TOKEN, 1000))) as port:
        connection = stranger(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 20_000)
        connection.settimeout(5)
        assert rest(connection).startswith(b"HTTP/1.1 4")
        assert get(port) == 200


def test_slow_bodies_end_a_connection():
    with serving(body_seconds=0.3) as (port, app):
        head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
        answer = rest(stranger(port, head.encode() + b"half"))
        assert answer.startswith(b"HTTP/1.1 408 ") and b"took more than" in answer and app.taken == 0


@pytest.mark.parametrize("size", [10, 300_000, 13_000_000])
def test_a_refused_request_is_not_read_and_gets_its_answer(size):
    """Without a token; the sender of little sends all of it, the sender of much is stopped. Both get the answer."""
    with serving(ConnectionLimits(linger_seconds=PATIENCE)) as (port, app):
        connection = stranger(port, f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        sent = 0
        try:
            while sent < size:
                sent += connection.send(b"x" * min(65536, size - sent))
        except ConnectionError:
            assert size > 2**20
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 401 ") and b"connection: close" in answer.lower() and b"token" in answer
        assert app.taken == 0 and (sent == size or size > 2**20)
        assert sent < 13_000_000
        assert get(port) == 200


def test_who_stays_after_a_refusal_is_dropped():
    """Without sending what was announced, and without closing."""
    with serving(ConnectionLimits(linger_seconds=0.2)) as (port, _):
        connection = stranger(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 401 ")
        end = time.monotonic() + 5
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                connection.send(b"x")
                time.sleep(0.05)


def test_what_is_let_in_is_read():
    with serving() as (port, app):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for _ in range(3):  # over one connection
            connection.request("POST", "/", b"x" * 500_000, RIGHT)
            assert connection.getresponse().read() == b"fine"
        assert app.taken == 1_500_000


SERVER = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from aga_model.service.connections import limited_server
from aga_model.service.guard import Guard

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"fine"})

listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
limited_server(Guard(app, sys.argv[1], 1000)).run(sockets=[listening])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_1500_idle_strangers_at_1024_descriptors(python, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2500:
        pytest.skip("this process may not open enough connections")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [python, "-c", SERVER, TOKEN], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    strangers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
        port = int(re.search(r"\d+", process.stdout.readline())[0])
        for number in range(1500):
            strangers.append(stranger(port))
            if number % 300 == 299:
                assert get(port) == 200
        began = time.monotonic()
        assert [get(port) for _ in range(10)] == [200] * 10
        assert time.monotonic() - began < 20  # with all descriptors taken, the first would wait for the strangers
        opened = len(os.listdir(f"/proc/{process.pid}/fd"))
        assert opened < 300
    finally:
        for one in strangers:
            one.close()
        process.kill()
        errors = process.communicate()[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "out of system resource" not in errors
