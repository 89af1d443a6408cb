"""
What each version of the package does for the bench `deletion`: fill a gallery, and delete a person from it.

Run by its path with the version on Python's path, so it imports nothing of the benches.
"""

import sys
import time
from pathlib import Path

import numpy as np

import aga_model

# Not by trying: an editable installation would lend the earlier version the room that it lacks.
if Path(aga_model.__path__[0], "gallery").is_dir():
    from aga_model.gallery import Filter, Gallery, GalleryRow
else:
    from aga_model.retrieval import Filter, Gallery, GalleryRow

PER_PERSON = 10


def fill(folder: Path, rows: int, dim: int, indexed: bool) -> None:
    """A gallery of random embeddings."""
    generator = np.random.default_rng(0)
    gallery = Gallery.create(folder, "m" * 64, dim, "none")
    for first in range(0, rows, 10_000):
        numbers = range(first, min(first + 10_000, rows))
        embeddings = generator.normal(size=(len(numbers), dim)).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        paths = [f"/people/{number:07}.jpg" for number in numbers]
        people = [f"{number // PER_PERSON:06}" for number in numbers]
        gallery.add(
            embeddings,
            [
                GalleryRow(path, f"{number:064x}", path, 20, 40, "m" * 64, person_id=person)
                for number, path, person in zip(numbers, paths, people)
            ],
        )
    if indexed:
        gallery.build_index()


def delete(folder: Path, person: int) -> float:
    """Seconds of the deletion alone."""
    gallery = Gallery.open(folder)
    began = time.perf_counter()
    removed = gallery.delete(Filter(person_ids=[f"{person:06}"]))
    seconds = time.perf_counter() - began
    if removed != PER_PERSON:
        raise RuntimeError(f"{removed} images of person {person} were deleted")
    return seconds


if __name__ == "__main__":
    work, place, *numbers = sys.argv[1:]
    if work == "fill":
        fill(Path(place), int(numbers[0]), int(numbers[1]), numbers[2] == "1")
    else:
        print(delete(Path(place), int(numbers[0])))
