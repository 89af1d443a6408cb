"""
The demo under load: whether all who may search are answered or told to come again within 2 s, and its memory.

    python -m benchmarks demo_load

`aga demo` runs with a token in a process of its own, with checkpoints/aga-small-rendered and rendered pictures of
people. It is measured idle. Then strangers open connections and leave them: one half sends nothing, the other half of
a header. Round after round the clients, who have the token, ask for a sentence each, all at the same moment, as a page
does: they join the queue and wait for the result. In each round another one with the token sends a sentence of
10 MB. A query's time goes from its first byte to the end of its answer, which is a result or a refusal with a status
and the advice to come again. The memory is what the process has in use (VmRSS), and its highest since the load began
(VmHWM), both as Linux counts them. Everything stays on this machine.
"""

import argparse
import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import device, in_words
from benchmarks.meters import forget_peak, memory_mib
from benchmarks.places import RESULTS, SMALL_MODEL
from benchmarks.processes import bench_environment
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "demo_load.json"
TOKEN = "the-token-of-this-bench-0"
LIMIT_SECONDS = 2.0
LIMIT_MEMORY = 1.2  # times that of the idle demo
GIVE_UP_SECONDS = 60
TOP_K = 10
SENTENCES = (
    "a woman in a red coat and black trousers",
    "a man with a blue backpack",
    "somebody with an umbrella",
    "a girl in a yellow dress and white shoes",
    "an old man with a grey hat",
)
SMOKE = {"persons": 8, "strangers": 30, "clients": 4, "rounds": 1, "megabytes": 1}


@dataclass(frozen=True)
class Asked:
    """How a query ended, after how many seconds: `answered`, `refused` with a status, or `failed`."""

    end: str
    status: int
    seconds: float


class Site:
    """A running demo as a client with the token sees it."""

    def __init__(self, port: int):
        self.port = port
        config = json.loads(self.request("GET", "/config")[1])
        self.functions = {one["api_name"]: one["id"] for one in config["dependencies"]}

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and content, also where the demo answers before it has read all of the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GIVE_UP_SECONDS)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            try:
                if body is not None:
                    connection.send(body)
            except (BrokenPipeError, ConnectionResetError):
                pass
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, sentence: str, session: str) -> Asked:
        """One query, as the page sends it."""
        data = [sentence, TOP_K, [], "", "", "every image"]
        request = {
            "data": data,
            "event_data": None,
            "fn_index": self.functions["by_sentence"],
            "session_hash": session,
        }
        began = time.perf_counter()
        status = 0
        try:
            status, content = self.request("POST", "/gradio_api/queue/join", json.dumps(request).encode())
            if status == 200:
                status, content = self.request("GET", f"/gradio_api/queue/data?session_hash={session}")
            end = _end(status, content)
        except (OSError, http.client.HTTPException):
            end = "failed"
        return Asked(end, status, time.perf_counter() - began)


def _end(status: int, content: bytes) -> str:
    if status == 200:
        return "answered" if b"data-index" in content and b"process_completed" in content else "failed"
    return "refused" if 400 <= status < 500 or status == 503 else "failed"


def fill(folder: Path, persons: int) -> int:
    """Draw people and index them into `folder / "gallery"`; the number of images."""
    _aga("render", folder / "data", "--identities", max(persons, 3), "--val-identities", 1,
         "--test-identities", max(persons, 3) - 2, "--seed", 0, "--height", 128, "--width", 64)  # fmt: skip
    images = folder / "data" / "imgs"
    _aga("index", images, "--model", SMALL_MODEL, "--out", folder / "gallery")
    return sum(path.is_file() for path in images.rglob("*"))


def _aga(*arguments: object) -> None:
    command = [sys.executable, "-m", "aga_model", *map(str, arguments)]
    run = subprocess.run(command, env=bench_environment(), capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr[-2000:])


@contextmanager
def demo(gallery: Path) -> Iterator[tuple[int, int]]:
    """Process id and port of a running demo."""
    command = [sys.executable, "-m", "aga_model", "demo", "--gallery", str(gallery), "--port", "0", "--device", "cpu"]
    environment = bench_environment(AGA_DEMO_TOKEN=TOKEN, PYTHONUNBUFFERED="1")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        if found is None:
            raise RuntimeError("the demo did not start")
        yield process.pid, int(found[1])
    finally:
        process.kill()
        process.wait()


def open_strangers(port: int, number: int) -> list[socket.socket]:
    """Connections that send nothing, or half of a header, by turns."""
    strangers = []
    for index in range(number):
        stranger = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_SECONDS)
        if index % 2:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
        strangers.append(stranger)
    return strangers


def still_open(strangers: list[socket.socket]) -> int:
    """How many connections the demo has not closed."""
    number = 0
    for stranger in strangers:
        stranger.setblocking(False)
        try:
            number += stranger.recv(1000) != b""
        except BlockingIOError:
            number += 1
        except OSError:
            pass
    return number


def one_round(site: Site, clients: int, megabytes: int, number: int) -> tuple[list[Asked], Asked]:
    """What all clients met who asked at the same moment, and what the long sentence met."""
    barrier = threading.Barrier(clients + 1)
    asked: dict[int, Asked] = {}

    def client(index: int) -> None:
        sentence = SENTENCES[index % len(SENTENCES)] if index else "word " * (megabytes * 200_000)
        barrier.wait()
        asked[index] = site.ask(sentence, f"client{number}x{index}")

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [asked[index] for index in range(1, clients + 1)], asked[0]


def measure(options: argparse.Namespace) -> dict:
    """All numbers of one demo."""
    with tempfile.TemporaryDirectory() as folder:
        images = fill(Path(folder), options.persons)
        with demo(Path(folder) / "gallery") as (pid, port):
            idle = memory_mib("VmRSS", pid)
            forget_peak(pid)
            site = Site(port)
            strangers = open_strangers(port, options.strangers)
            asked: list[Asked] = []
            long: list[Asked] = []
            for number in range(options.rounds):
                found, long_one = one_round(site, options.clients, options.megabytes, number)
                asked += found
                long.append(long_one)
            kept = still_open(strangers)
            highest = memory_mib("VmHWM", pid)
            for stranger in strangers:
                stranger.close()
    return {
        "images": images,
        "queries": summary(asked),
        "long_sentences": summary(long),
        "strangers_still_connected": kept,
        "memory_mib": {"idle": idle, "highest": highest, "ratio": highest / idle},
    }


def summary(asked: list[Asked]) -> dict:
    """How many queries ended how, and their seconds."""
    seconds = [one.seconds for one in asked]
    return {
        "number": len(asked),
        "ends": dict(sorted(Counter(one.end for one in asked).items())),
        "statuses": {str(status): count for status, count in sorted(Counter(one.status for one in asked).items())},
        "p50_seconds": float(np.percentile(seconds, 50)),
        "p95_seconds": float(np.percentile(seconds, 95)),
        "max_seconds": max(seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--persons", type=int, default=100)
    parser.add_argument("--strangers", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=10, help="of the long sentence")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="few of all, to see that it runs")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    results = measure(options)
    ran_on = device()
    print(f"{results['images']} images, {options.strangers} idle strangers, {options.clients} clients at once, "
          f"{options.rounds} rounds; {in_words(ran_on)}")  # fmt: skip
    for name in ("queries", "long_sentences"):
        row = results[name]
        ends = ", ".join(f"{count} {end}" for end, count in row["ends"].items())
        print(f"{name:15} {ends}; p50 {row['p50_seconds']:.2f} s, p95 {row['p95_seconds']:.2f} s, "
              f"max {row['max_seconds']:.2f} s (limit {LIMIT_SECONDS:g})")  # fmt: skip
    used = results["memory_mib"]
    print(f"memory: idle {used['idle']:.0f} MiB, highest {used['highest']:.0f} MiB, {used['ratio']:.3f} times "
          f"(limit {LIMIT_MEMORY:g})")  # fmt: skip
    settings = {name: getattr(options, name) for name in SMOKE} | {"top_k": TOP_K, "model": SMALL_MODEL.name}
    write_result(options.out, settings, ("gradio", "uvicorn", "torch", "lancedb"), ran_on, results=results)
