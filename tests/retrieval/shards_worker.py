"""
One of several processes of `aga index`, for the tests: `shards_worker.py WRITES [DYING] -- index ...`.

It writes WRITES images at a time, and process number DYING is killed after its second writing. Videos are searched by a
detector that finds a person in each half of every frame.
"""

import os
import signal
import sys

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


def main():
    own, arguments = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    indexing.WRITE_EVERY = scenes.WRITE_EVERY = int(own[0])
    index_module.load_detector = lambda name, device: Halves()
    if own[1:] == [os.environ.get("RANK")]:
        add, written = Gallery.add, []

        def dying(self, embeddings, rows):
            add(self, embeddings, rows)
            written.append(len(rows))
            if len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        Gallery.add = dying
    app(arguments)


if __name__ == "__main__":
    main()
