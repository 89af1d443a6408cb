"""
A gallery of 100,000 images in a folder: adding, searching, filtering, deleting, beside brute force in memory.

    python -m benchmarks gallery

Persons are random directions with a decaying spectrum, as of trained embeddings; their images and the queries are the
direction plus noise, and no query is in the gallery. The floor is numpy with all embeddings in memory: one matrix
product and the best 10, without their rows. Queries come one at a time. Recall is the share of the floor's 10 best.
Reopening is measured in a process of its own, with the files in the system's cache.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from aga_model.gallery import EXACT_ROWS, Filter, Gallery, GalleryRow
from aga_model.gallery.lance.store import LanceStore
from aga_model.ingest.pipeline import WRITE_EVERY
from benchmarks.machine import device, in_words
from benchmarks.meters import latency, timed
from benchmarks.places import RESULTS
from benchmarks.processes import json_of
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "gallery.json"
TOP_K = 10
IMAGES_PER_PERSON = 5
CAMERAS = 10
NOISE = 0.5  # beside a direction of length 1, per dimension alike
MODEL = "0" * 64
SMOKE = {"rows": 2000, "dim": 32, "queries": 8}


class Data:
    """Embeddings (rows, dim), queries (queries, dim), both float32 of unit length, and the camera of each row."""

    def __init__(self, rows: int, dim: int, queries: int, seed: int):
        generator = np.random.default_rng(seed)
        spectrum = 1 / np.sqrt(1 + np.arange(dim, dtype=np.float32))
        persons = generator.standard_normal((-(-rows // IMAGES_PER_PERSON), dim), dtype=np.float32)
        self.persons = np.arange(rows) % len(persons)
        self.cameras = generator.integers(0, CAMERAS, rows)
        self.embeddings = self._around(persons[self.persons], spectrum, generator)
        self.queries = self._around(persons[generator.integers(0, len(persons), queries)], spectrum, generator)

    @staticmethod
    def _around(centres: np.ndarray, spectrum: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        rows = (centres + NOISE * generator.standard_normal(centres.shape, dtype=np.float32)) * spectrum
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def row(self, number: int) -> GalleryRow:
        path = f"/gallery/camera-{self.cameras[number]}/image-{number:08}.jpg"
        return GalleryRow(
            path,
            f"{number:064x}",
            path,
            width=128,
            height=384,
            model_hash=MODEL,
            camera=f"camera-{self.cameras[number]}",
            time=1.7e9 + number,
            person_id=str(self.persons[number]),
        )


def best_in_memory(data: Data, allowed: np.ndarray, query: np.ndarray) -> list[int]:
    """Numbers of the best rows among the allowed ones."""
    scores = data.embeddings[allowed] @ query if len(allowed) < len(data.embeddings) else data.embeddings @ query
    best = np.argpartition(-scores, min(TOP_K, len(scores)) - 1)[:TOP_K]
    return allowed[best[np.argsort(-scores[best])]].tolist()


def ask_all(
    queries: np.ndarray, search: Callable[[np.ndarray], list[int]]
) -> tuple[dict[str, float], list[list[int]]]:
    """Latencies of single queries in milliseconds, and what was found; the first query is asked once before."""
    search(queries[0])
    asked = [timed(lambda query=query: search(query)) for query in queries]
    return latency([seconds for _, seconds in asked]), [found for found, _ in asked]


def measure_searches(gallery: Gallery, data: Data, filters: dict[str, list[int]], kind: str) -> dict[str, dict]:
    """Latency and recall of each filter (name -> cameras), of the gallery and of the floor."""
    results = {}
    for name, cameras in filters.items():
        allowed = np.flatnonzero(np.isin(data.cameras, cameras))
        where = None if len(cameras) == CAMERAS else Filter(cameras=[f"camera-{camera}" for camera in cameras])

        def search(query: np.ndarray, where: Filter | None = where) -> list[int]:
            return [int(hit.row.source_hash, 16) for hit in gallery.search(query[None], TOP_K, where)[0]]

        floor, wanted = ask_all(data.queries, lambda query, allowed=allowed: best_in_memory(data, allowed, query))
        took, found = ask_all(data.queries, search)
        recall = np.mean([len({*left} & {*right}) / len(right) for left, right in zip(found, wanted)])
        results[f"{kind}, {name}"] = {"rows": len(allowed), **took, "recall": float(recall), "floor": floor}
    return results


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(options: argparse.Namespace, folder: Path) -> dict:
    data = Data(options.rows, options.dim, options.queries, options.seed)
    gallery = Gallery.create(folder, MODEL, options.dim, "synthetic")
    batches = [range(start, min(start + WRITE_EVERY, options.rows)) for start in range(0, options.rows, WRITE_EVERY)]
    rows = [[data.row(number) for number in batch] for batch in batches]
    embeddings = [data.embeddings[batch.start : batch.stop] for batch in batches]
    _, seconds = timed(lambda: [gallery.add(some, known) for some, known in zip(embeddings, rows)])
    results: dict = {"add": {"seconds": seconds, "batch": WRITE_EVERY}}
    results["add"]["rows_per_second"] = options.rows / results["add"]["seconds"]
    results["mib_after_adding"] = bytes_in(folder) / 2**20
    results["compact"] = {"seconds": timed(gallery.compact)[1], "mib": bytes_in(folder) / 2**20}
    filters = {"all": list(range(CAMERAS)), "one camera": [3], "all but one camera": list(range(1, CAMERAS))}
    results["searches"] = measure_searches(gallery, data, filters, "exact")
    report = gallery.build_index()
    results["index"] = {
        "kind": report.kind,
        "seconds": report.seconds,
        "recall_of_own_images": report.recall,
        "mib": bytes_in(folder) / 2**20 - results["compact"]["mib"],
    }
    held, LanceStore.held_bytes = LanceStore.held_bytes, 0  # as if the gallery did not fit into memory
    results["searches"] |= measure_searches(gallery, data, filters, "index")
    LanceStore.held_bytes = held
    results["reopen"] = reopened(options, folder)
    removed, seconds = timed(lambda: gallery.delete(Filter(person_ids=[0])))
    results["delete"] = {"seconds": seconds, "rows": removed}
    return results


def reopened(options: argparse.Namespace, folder: Path) -> dict:
    """Seconds of a fresh process until it has imported, opened and searched."""
    return json_of("gallery", f"--rows={options.rows}", f"--dim={options.dim}", "--reopen", folder)


def reopen(options: argparse.Namespace) -> dict:
    query = Data(IMAGES_PER_PERSON, options.dim, 1, options.seed).queries
    gallery, opening = timed(lambda: Gallery.open(options.reopen))
    return {"open_seconds": opening, "first_search_seconds": timed(lambda: gallery.search(query, TOP_K))[1]}


def print_tables(results: dict, title: str) -> None:
    table = Table("search", "rows", "p50 ms", "p95 ms", "recall@10", "numpy p50 ms", "numpy p95 ms", title=title)
    for name, row in results["searches"].items():
        latencies = [f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms")]
        floor = [f"{row['floor'][key]:.1f}" for key in ("p50_ms", "p95_ms")]
        table.add_row(name, f"{row['rows']:,}", *latencies, f"{row['recall']:.3f}", *floor)
    console = Console(width=120)
    console.print(table)
    index, reopening = results["index"], results["reopen"]
    console.print(
        f"add {results['add']['rows_per_second']:,.0f} rows/s in batches of {WRITE_EVERY}; on disk "
        f"{results['mib_after_adding']:,.1f} MiB, compacted {results['compact']['mib']:,.1f} MiB in "
        f"{results['compact']['seconds']:.1f} s"
    )
    console.print(
        f"index {index['kind']} in {index['seconds']:.1f} s, {index['mib']:,.1f} MiB, recall "
        f"{index['recall_of_own_images']:.3f} with the gallery's own images as queries"
    )
    console.print(
        f"open {reopening['open_seconds']:.2f} s, first search {reopening['first_search_seconds']:.2f} s; delete "
        f"{results['delete']['rows']} rows in {results['delete']['seconds']:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="few rows, to see that it runs")
    parser.add_argument("--reopen", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    LanceStore.exact_rows = min(EXACT_ROWS, options.rows // 2)  # so that a small run shows the index, too
    if options.reopen:
        print(json.dumps(reopen(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder) / "gallery")
    ran_on = device()
    print_tables(results, f"{options.rows:,} images of {options.dim} dimensions; {in_words(ran_on)}")
    settings = {name: getattr(options, name) for name in (*SMOKE, "seed")}
    settings |= {"top_k": TOP_K, "exact_rows": LanceStore.exact_rows}
    write_result(options.out, settings, ("lancedb", "pyarrow", "numpy"), ran_on, results=results)
