"""
One process of test_shards: `shards_worker.py WRITES DEATH ARGUMENT ...` runs `aga ARGUMENT ...`, which writes WRITES
images at a time, and kills itself after its writing number DEATH where that is not 0. Videos are searched by a
detector that finds a person in each half of every frame.
"""

import os
import signal
import sys

import torch

from aga_model.cli.galleries import index as index_module
from aga_model.cli.main import app
from aga_model.gallery import Gallery
from aga_model.ingest import Detection, pipeline


class Halves:
    """The left and the right half of every frame are people."""

    def detect(self, images):
        halves = [(0.0, 0.0, 80.0, 64.0), (80.0, 0.0, 160.0, 64.0)]
        return [[Detection(box, 0.9) for box in halves] for _ in images]


def die_after(writings):
    add, written = Gallery.add, []

    def dying(self, embeddings, rows):
        add(self, embeddings, rows)
        written.append(len(rows))
        if len(written) == writings:
            os.kill(os.getpid(), signal.SIGKILL)

    Gallery.add = dying


if __name__ == "__main__":
    torch.set_num_threads(1)
    index_module.load_detector = lambda name, device: Halves()
    pipeline.WRITE_EVERY = int(sys.argv[1])
    if int(sys.argv[2]):
        die_after(int(sys.argv[2]))
    app(sys.argv[3:])
