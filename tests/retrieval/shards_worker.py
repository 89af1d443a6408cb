"""
Runs `aga index` in several processes, for the tests. Each line of its input is a launch in JSON: `count` of
processes, `arguments`, how many images they write at a time, and the number of the one that is killed after its second
writing, or null. Each line of its output is what the processes returned and printed.

It imports everything once and forks, since importing takes longer than the tests. Videos are searched by a detector
that finds a person in each half of every frame.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import torch

torch.set_num_threads(1)

from aga_model.cli import index as index_module  # noqa: E402
from aga_model.cli.main import app  # noqa: E402
from aga_model.retrieval import Gallery, indexing, scenes  # noqa: E402
from aga_model.retrieval.detection import Detection  # noqa: E402


class Halves:
    """The left and the right half of every frame are people."""

    def detect(self, images):
        halves = [(0.0, 0.0, 80.0, 64.0), (80.0, 0.0, 160.0, 64.0)]
        return [[Detection(box, 0.9) for box in halves] for _ in images]


def die_after_two_writings():
    add, written = Gallery.add, []

    def dying(self, embeddings, rows):
        add(self, embeddings, rows)
        written.append(len(rows))
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Gallery.add = dying


def child(arguments, writes, dying, environment, output, errors):
    """Never returns."""
    code = 1
    try:
        for number, path in enumerate((output, errors), start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(environment)
        indexing.WRITE_EVERY = scenes.WRITE_EVERY = writes
        if dying:
            die_after_two_writings()
        app(arguments)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launch(folder, count, arguments, writes, dying, port):
    files = [(folder / f"{rank}.out", folder / f"{rank}.err") for rank in range(count)]
    children = []
    for rank, (output, errors) in enumerate(files):
        environment = {}
        if count > 1:
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            environment["MASTER_ADDR"] = "127.0.0.1"
        if (process := os.fork()) == 0:
            texts = {name: str(value) for name, value in environment.items()}
            child(arguments, writes, rank == dying, texts, output, errors)
        children.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children]
    return [(code, output.read_text(), errors.read_text()) for code, (output, errors) in zip(codes, files)]


if __name__ == "__main__":
    index_module.load_detector = lambda name, device: Halves()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(launch(Path(folder), **json.loads(line))), flush=True)
