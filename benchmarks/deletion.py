"""
How long does it take to delete one person from a large gallery, beside an earlier version of this package?

    python benchmarks/deletion.py --before 0817997

Both versions, the earlier one from git, fill a gallery of 100,000 random embeddings of 512 dimensions, with ten images
a person, with and without an index; then they delete one person after the other, in turn. Prints the seconds of
`Gallery.delete` and of the whole command `aga gallery delete`, and the ratio of the medians, and writes them as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from evaluation import processor as name_of_cpu

from aga_model.files import write_json

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "deletion.json"
PER_PERSON = 10


def fill(folder: Path, rows: int, dim: int, indexed: bool) -> None:
    """Run by each version."""
    import numpy as np

    from aga_model.gallery import Gallery, GalleryRow

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
    """Run by each version: seconds of the deletion alone."""
    from aga_model.gallery import Filter, Gallery

    gallery = Gallery.open(folder)
    began = time.perf_counter()
    removed = gallery.delete(Filter(person_ids=[f"{person:06}"]))
    seconds = time.perf_counter() - began
    if removed != PER_PERSON:
        raise RuntimeError(f"{removed} images of person {person} were deleted")
    return seconds


def in_version(source: Path, *arguments: object) -> str:
    """What a process of a version prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), str(Path(__file__).parent)])}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def measure(options: argparse.Namespace, folder: Path) -> dict:
    earlier = folder / "earlier"
    earlier.mkdir()
    archive = subprocess.run(["git", "-C", REPOSITORY, "archive", options.before], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", earlier], input=archive.stdout, check=True)
    versions = {"before": earlier, "now": REPOSITORY}
    results: dict = {}
    for indexed in (False, True):
        for name, source in versions.items():
            arguments = [folder / f"{name}-{indexed}", options.rows, options.dim, int(indexed)]
            in_version(source, __file__, "--fill", *arguments)
        for kind in ("deletion", "command"):
            seconds: dict[str, list[float]] = {name: [] for name in versions}
            for number in range(options.rounds):
                for name, source in versions.items():
                    place = folder / f"{name}-{indexed}"
                    person = number + (1000 if kind == "command" else 0)
                    began = time.perf_counter()
                    if kind == "deletion":
                        seconds[name].append(float(in_version(source, __file__, "--delete", place, person)))
                    else:
                        in_version(source, "-m", "aga_model", "gallery", "delete", place, "--person", f"{person:06}")
                        seconds[name].append(time.perf_counter() - began)
            middle = {name: statistics.median(each) for name, each in seconds.items()}
            ratio = middle["now"] / middle["before"]
            row = f"{'with' if indexed else 'without'} index, {kind}"
            results[row] = {"seconds": seconds, "ratio_of_medians": ratio}
            print(
                f"{row:24} before {middle['before']:.2f} s, now {middle['now']:.2f} s: {ratio:.2f} times", flush=True
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--before", default="0817997", help="commit of the earlier version")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    content = {
        "settings": {name: getattr(options, name) for name in ("before", "rows", "dim", "rounds")},
        "device": {"processor": name_of_cpu(), "cores": os.cpu_count()},
        "versions": {"lancedb": version("lancedb")},
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, content)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        place, rows, dim, indexed = sys.argv[2:]
        fill(Path(place), int(rows), int(dim), indexed == "1")
    elif sys.argv[1:2] == ["--delete"]:
        print(json.dumps(delete(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
