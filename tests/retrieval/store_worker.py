"""
What another process does with a gallery, for the tests of several processes: `store_worker.py ROLE LOCATION ...`.

    write LOCATION FIRST      adds batches of rows from number FIRST on for ever, and prints each number when it is in
    search LOCATION           searches until its input ends, and prints the sizes that it saw

It imports the stores alone, since importing the whole package takes longer than the tests.
"""

import sys
import time

import numpy as np

DIM = 16
MODEL = "a" * 64


def unit(number, seed=0, dim=DIM):
    rows = np.random.default_rng(seed).normal(size=(number, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def numbered(number):
    """Embedding (dim,) and row number `number`, the same in every process."""
    from aga_model.gallery import GalleryRow

    path = f"/people/{number:05}.jpg"
    return unit(1, seed=number)[0], GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL)


def open_store(location):
    if "://" in location:
        from aga_model.gallery.milvus.store import MilvusStore

        return MilvusStore.open(location)
    from aga_model.gallery.lance.store import LanceStore

    return LanceStore.open(location)


def write(store, first, batch=3):
    while True:
        embeddings, rows = zip(*map(numbered, range(first, first + batch)))
        store.add(np.stack(embeddings), rows)
        print(first + batch, flush=True)
        first += batch


def search(store):
    import threading

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    while not ended.is_set():
        count = store.count()
        # A server that hands its segments over may leave rows out of its answers for a while; a folder never does.
        last = time.monotonic() + (60 if type(store).__name__ == "MilvusStore" else 0)
        while len((found := store.search(unit(2, seed=99), 100))[0]) < count and time.monotonic() < last:
            pass
        scores = [[scored.score for scored in hits] for hits in found]
        assert all(each == sorted(each, reverse=True) for each in scores)
        assert len({scored.row.id for scored in found[0]}) == len(found[0]), "a row twice"
        assert len(found[0]) >= count, f"{len(found[0])} of {count} rows"
        print(len(found[0]), flush=True)


if __name__ == "__main__":
    opened = open_store(sys.argv[2])
    if sys.argv[1] == "write":
        sys.stdin.readline()  # imported and opened: wait for the word
        write(opened, int(sys.argv[3]))
    else:
        search(opened)
