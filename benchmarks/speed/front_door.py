"""
What starts how fast, beside an earlier version from git: help, a wrong option, the import, a search and a service.

Both versions take turns with the same Python and the same libraries. Measured are the processor time and the largest
memory of each process, given as ratios to the earlier version, and whether a search without PyTorch finds the same
images in the same order as one with it: on drawn people and in a gallery of random embeddings. With --service also the
seconds of `aga search --server`, and how fast the service answers one client and 32, with and without batches.
Prints a table and writes benchmarks/results/front_door.json.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.meters import latency, paired_ratios
from benchmarks.places import RESULTS, ROOT, SMALL_MODEL
from benchmarks.reports import table, write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "front_door.json"
BEFORE = "3452d80"
SENTENCES = ("a woman in a red coat and black trousers", "a man with a blue backpack", "somebody with an umbrella")
CLIENTS = 32


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser("front_door", __doc__)
    parser.add_argument("--before", default=BEFORE, help="earlier version, for git")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000, help="of the gallery of random embeddings")
    parser.add_argument("--seconds", type=float, default=10, help="for which 32 clients ask the service")
    parser.add_argument("--service", action="store_true", help="measure the service, too")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        unpack(options.before, place / "before")
        galleries = make_galleries(place, options.images)
        results: dict[str, Any] = {"commands": measure_commands(place / "before", galleries["drawn"], options.rounds)}
        results["same_hits"] = {name: same_hits(gallery) for name, gallery in galleries.items()}
        if options.service:
            before = place / "before"
            results["service"] = measure_service(before, galleries["random"], options.rounds, options.seconds)
    settings = {"before": options.before, "rounds": options.rounds, "images": options.images}
    write_result(options.out, settings, ("onnxruntime", "torch", "transformers", "lancedb"), results=results)
    print(report(results))
    print(json.dumps({name: found for name, found in results.items() if name != "commands"}, indent=2))
    return 0


def unpack(commit: str, folder: Path) -> None:
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def aga(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "aga_model", *map(str, arguments)]


def make_galleries(place: Path, images: int) -> dict[str, Path]:
    """One of drawn people, and one of random embeddings with the text encoder of the first."""
    people = ["--identities", 60, "--val-identities", 5, "--test-identities", 30, "--seed", 0]
    size = ["--height", 128, "--width", 64]
    quiet: dict[str, Any] = {"cwd": ROOT, "check": True, "capture_output": True}
    subprocess.run(aga("render", place / "people", *people, *size), **quiet)
    drawn, model = place / "drawn", ["--model", SMALL_MODEL]
    subprocess.run(aga("index", place / "people", "--split", "test", *model, "--out", drawn), **quiet)
    from aga_model.gallery import Gallery, GalleryRow

    made = Gallery.open(drawn)
    random = Gallery.create(place / "random", made.model_hash, made.dim, made.model_name)
    generator = np.random.default_rng(0)
    for start in range(0, images, 1000):
        rows = generator.normal(size=(1000, made.dim)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        names = [f"/people/{start + number}.jpg" for number in range(1000)]
        random.add(rows, [GalleryRow(name, f"{hash(name):x}", name, 64, 128, made.model_hash) for name in names])
    os.symlink(drawn / "text_encoder", place / "random" / "text_encoder")
    return {"drawn": drawn, "random": place / "random"}


# A process counts the memory of the one that it was forked from as its own, so a small one starts it.
STARTER = """
import os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, _, used = os.wait4(process.pid, 0)
process.returncode = 0
print(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def measured(command: Sequence[str], tree: Path) -> dict[str, float]:
    """Seconds, processor seconds and MiB of a process that runs in a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    starter = [sys.executable, "-S", "-c", STARTER, *command]
    done = subprocess.run(starter, cwd=tree, env=environment, check=True, capture_output=True, text=True)
    return dict(zip(("seconds", "cpu_seconds", "mib"), map(float, done.stdout.split())))


def measure_commands(before: Path, gallery: Path, rounds: int) -> dict[str, Any]:
    """Of each command the figures of both versions, and their ratios."""
    commands = {
        "aga --help": aga("--help"),
        "a wrong option": aga("search", "gallery", "a man", "--no-such-option"),
        "import aga_model": [sys.executable, "-c", "import aga_model"],
        "from aga_model import AgaModel": [sys.executable, "-c", "from aga_model import AgaModel"],
        "aga search": aga("search", gallery, SENTENCES[0]),
    }
    found: dict[str, Any] = {}
    for name, command in commands.items():
        for tree in (before, ROOT):
            measured(command, tree)  # compiles, and fills the system's cache
        both = [(measured(command, ROOT), measured(command, before)) for _ in range(rounds)]
        found[name] = {
            figure: {
                "now": statistics.median(now[figure] for now, _ in both),
                "before": statistics.median(old[figure] for _, old in both),
                "ratio": paired_ratios([now[figure] for now, _ in both], [old[figure] for _, old in both]),
            }
            for figure in ("cpu_seconds", "mib", "seconds")
        }
    return found


def same_hits(gallery: Path) -> dict[str, int]:
    """Of how many sentences a search without PyTorch has the same 10 images in the same order as one with it."""
    same = 0
    for sentence in SENTENCES:
        ids = []
        for more in ([], ["--device", "cpu"]):
            command = aga("search", gallery, sentence, "--json", *more)
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            ids.append([hit["id"] for hit in json.loads(done.stdout)["hits"]])
        same += ids[0] == ids[1] and len(ids[0]) == 10
    return {"sentences": len(SENTENCES), "same": same}


# --- the service ------------------------------------------------------------------------------------------------


@contextmanager
def serving(gallery: Path, most_together: int | None):
    """The service in a thread of this process, so that both ways share the encoder's settings; gives its port."""
    from aga_model.cli.opening import load_encoder
    from aga_model.gallery import Gallery
    from aga_model.service import GallerySearch
    from aga_model.service.rest import Service, listen, make_server

    opened = Gallery.open(gallery)
    search = GallerySearch(opened, load_encoder(opened, None, "cpu"))
    search.warm_up()
    server = make_server(Service(search, most_together=most_together), None)
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


# Clients in a process of their own: they would else take their turns from the service's threads.
CLIENT = """
import http.client, json, sys, threading, time
port, clients, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
times, failed, until = [], [], time.perf_counter() + seconds
def ask(number):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    count = 0
    while time.perf_counter() < until:
        body = json.dumps({"query": f"a person with {number} red bags and {count} hats"})
        began = time.perf_counter()
        connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        (times if answer.status == 200 else failed).append(time.perf_counter() - began)
        count += 1
threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({"times": times, "failed": len(failed)}))
"""


def ask(port: int, clients: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-c", CLIENT, str(port), str(clients), str(seconds)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"per_second": len(found["times"]) / seconds, "failed": found["failed"], **latency(found["times"])}


def measure_service(before: Path, gallery: Path, rounds: int, seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with serving(gallery, None) as port:
        results["one client"] = ask(port, 1, seconds)
        command = aga("search", "--server", f"http://127.0.0.1:{port}", SENTENCES[0])
        old = aga("search", gallery, SENTENCES[0])
        both = [(measured(command, ROOT)["seconds"], measured(old, before)["seconds"]) for _ in range(rounds)]
        results["aga search --server"] = paired_ratios([now for now, _ in both], [was for _, was in both])
        results["200 clients"] = {name: ask(port, 200, seconds)[name] for name in ("failed", "p95_ms")}
        with_batches = [ask(port, CLIENTS, seconds) for _ in range(2)]
    with serving(gallery, 1) as port:
        without = [ask(port, CLIENTS, seconds) for _ in range(2)]
    results[f"{CLIENTS} clients"] = with_batches[-1]
    results[f"{CLIENTS} clients, each alone"] = without[-1]
    faster = [one["per_second"] / two["per_second"] for one, two in zip(with_batches, without)]
    results["times as many with batches"] = statistics.median(faster)
    return results


def report(results: dict[str, Any]) -> str:
    """The commands' ratios as a table."""
    rows = [
        (
            f"`{name}`",
            *(f"{figures[figure]['ratio']['median']:.3f}" for figure in ("cpu_seconds", "mib")),
            f"{figures['cpu_seconds']['now']:.2f} s, was {figures['cpu_seconds']['before']:.2f}",
            f"{figures['mib']['now']:.0f} MiB, was {figures['mib']['before']:.0f}",
        )
        for name, figures in results["commands"].items()
    ]
    return table(["", "processor time", "memory", "processor time of each", "memory of each"], rows)


if __name__ == "__main__":
    sys.exit(main())
