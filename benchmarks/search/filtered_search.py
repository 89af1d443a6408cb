"""
Searches with a filter in a gallery of 640,000 images: how many results, how good, how fast, beside an exact search.

    python -m benchmarks filtered_search

The images come from 80 places in the embedding space. Those of the camera `night` (60 of 640) are moved one way along
one direction, all others the other way, so that the two lie the further apart the greater the separation is; the
queries are images of the others. Time, person and order are independent of the embedding. Galleries of 16 dimensions
are held in memory, those of 512 dimensions are not and ask the index.

Each query is asked without a filter, with it, and by numpy with the embeddings in memory (one product with the rows
that pass, and the best 10, without what is known of them), one after the other. Recall is the share of numpy's 10
best; hits are the fewest of any query, which must be as many as asked or as pass.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from aga_model.gallery import EXACT_ROWS, Filter, Gallery, GalleryRow
from aga_model.gallery.lance.store import LanceStore
from benchmarks.machine import device, in_words
from benchmarks.meters import timed
from benchmarks.places import RESULTS
from benchmarks.reports import read_json, write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "filtered_search.json"
TOP_KS = (10, 100, 1000)
SEPARATIONS = {16: (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), 512: (0.0, 1.5, 3.0)}
PLACES = 80
NIGHT = 60 / 640
IMAGES_PER_PERSON = 5
MODEL = "0" * 64
ADDED_AT_ONCE = 40_000
SMOKE = {"rows": 3000, "queries": 3}
SMOKE_SEPARATIONS = {16: (3.0,)}


class Data:
    """Embeddings, float32 (rows, dim) of unit length, and what is known of each row."""

    def __init__(self, rows: int, dim: int, separation: float, seed: int):
        generator = np.random.default_rng(seed)
        places = generator.standard_normal((PLACES, dim), dtype=np.float32)
        places *= 0.8 / np.linalg.norm(places, axis=1, keepdims=True)
        self.night = np.arange(rows) < rows * NIGHT
        self.embeddings = generator.standard_normal((rows, dim), dtype=np.float32)
        self.embeddings *= 0.6 / np.sqrt(dim)
        self.embeddings += places[generator.integers(0, PLACES, rows)]
        self.embeddings[:, 0] += np.where(self.night, -separation, separation)
        self.embeddings /= np.linalg.norm(self.embeddings, axis=1, keepdims=True)
        self.times = generator.random(rows)
        self.persons = generator.integers(0, max(1, rows // IMAGES_PER_PERSON), rows)

    def row(self, number: int) -> GalleryRow:
        path = f"/gallery/image-{number:08}.jpg"
        return GalleryRow(
            path,
            f"{number:064x}",
            path,
            width=128,
            height=384,
            model_hash=MODEL,
            camera="night" if self.night[number] else "day",
            time=float(self.times[number]),
            person_id=str(self.persons[number]),
        )

    def filters(self) -> dict[str, tuple[Filter, np.ndarray]]:
        """Name -> filter, and which rows pass, bool (rows,)."""
        persons = range(int(self.persons.max() + 1) // 1000 + 1)
        found = {
            "camera night": (Filter(cameras=["night"]), self.night),
            "camera day": (Filter(cameras=["day"]), ~self.night),
            f"{len(persons)} persons": (Filter(person_ids=persons), np.isin(self.persons, persons)),
            "night, second half": (Filter(cameras=["night"], since=0.5), self.night & (self.times >= 0.5)),
        }
        for share in (0.001, 0.01, 0.1, 0.5, 0.95):
            found[f"last {100 * share:g}% of the time"] = Filter(since=1 - share), self.times >= 1 - share
        return found


def exact(data: Data, allowed: np.ndarray, query: np.ndarray) -> list[int]:
    scores = data.embeddings[allowed] @ query
    best = np.argpartition(-scores, min(TOP_KS[0], len(scores)) - 1)[: TOP_KS[0]]
    return allowed[best].tolist()


def measure_filter(gallery: Gallery, data: Data, queries: np.ndarray, where: Filter, passing: np.ndarray) -> dict:
    def search(query: np.ndarray, top_k: int, where: Filter | None) -> list[int]:
        return [int(hit.row.source_hash, 16) for hit in gallery.search(query[None], top_k, where)[0]]

    allowed = np.flatnonzero(passing)
    milliseconds: dict[str, list[float]] = {"filtered": [], "unfiltered": [], "numpy": []}
    recalls, hits = [], {top_k: [] for top_k in TOP_KS}
    search(queries[0], TOP_KS[0], where), search(queries[0], TOP_KS[0], None)
    for query in queries:
        asked = {
            "unfiltered": timed(lambda query=query: search(query, TOP_KS[0], None)),
            "filtered": timed(lambda query=query: search(query, TOP_KS[0], where)),
            "numpy": timed(lambda query=query: exact(data, allowed, query)),
        }
        for name, (_, seconds) in asked.items():
            milliseconds[name].append(1000 * seconds)
        found, wanted = asked["filtered"][0], asked["numpy"][0]
        recalls.append(len({*found} & {*wanted}) / len(wanted))
        for top_k in TOP_KS:
            found = search(query, top_k, where)
            assert passing[found].all(), "a row that does not pass"
            hits[top_k].append(len(found))
    return {
        "rows": len(allowed),
        "recall": float(np.mean(recalls)),
        "fewest_hits": {str(top_k): min(numbers) for top_k, numbers in hits.items()},
        "wanted_hits": {str(top_k): min(top_k, len(allowed)) for top_k in TOP_KS},
        "median_ms": {name: float(np.median(values)) for name, values in milliseconds.items()},
    }


def measure(rows: int, dim: int, separation: float, queries: int, seed: int, folder: Path) -> dict:
    data = Data(rows, dim, separation, seed)
    gallery = Gallery.create(folder, MODEL, dim, "synthetic")
    for start in tqdm(range(0, rows, ADDED_AT_ONCE), f"{dim} dimensions, {separation:g} apart: adding", leave=False):
        part = range(start, min(rows, start + ADDED_AT_ONCE))
        gallery.add(data.embeddings[part.start : part.stop], [data.row(number) for number in part])
    report = gallery.build_index()
    day = np.flatnonzero(~data.night)
    asked = data.embeddings[np.random.default_rng(seed).choice(day, queries, replace=False)]
    found = {
        name: measure_filter(gallery, data, asked, where, passing)
        for name, (where, passing) in tqdm(data.filters().items(), "searching", leave=False)
    }
    reported = [{"share": each.share, "recall": each.recall} for each in report.filtered]
    return {
        "dim": dim,
        "separation": separation,
        "held": rows * (4 * dim + 128) <= LanceStore.held_bytes,
        "index": {"kind": report.kind, "recall": report.recall, "filtered": reported},
        "filters": found,
    }


COLUMNS = (
    "dim",
    "apart",
    "filter",
    "pass",
    "recall@10",
    "hits of 10",
    "of 100",
    "of 1000",
    "ms",
    "unfiltered",
    "numpy",
)


def table_rows(results: list[dict]) -> list[list[str]]:
    return [
        [
            str(result["dim"]),
            f"{result['separation']:g}",
            name,
            f"{row['rows']:,}",
            f"{row['recall']:.3f}",
            *(f"{row['fewest_hits'][top_k]:,}" for top_k in row["fewest_hits"]),
            *(f"{row['median_ms'][way]:.1f}" for way in ("filtered", "unfiltered", "numpy")),
        ]
        for result in results
        for name, row in result["filters"].items()
    ]


DOCUMENTED = (
    "dimensions",
    "apart",
    "recall@10",
    "hits of 10, 100, 1,000",
    "ms",
    "without filter",
    "exact (numpy)",
    "other filters: least recall@10",
    "most ms by those without filter",
)


def markdown(results: list[dict]) -> str:
    """The table of docs/search.md: the camera that lies apart, and the worst of the other filters."""
    lines = [DOCUMENTED, ("---",) * len(DOCUMENTED)]
    for result in results:
        night = result["filters"]["camera night"]
        others = [row for name, row in result["filters"].items() if name != "camera night"]
        times = [row["median_ms"] for row in others]
        lines.append(
            (
                str(result["dim"]),
                f"{result['separation']:g}",
                f"{night['recall']:.3f}",
                ", ".join(f"{hits:,}" for hits in night["fewest_hits"].values()),
                *(f"{night['median_ms'][way]:.0f}" for way in ("filtered", "unfiltered", "numpy")),
                f"{min(row['recall'] for row in others):.3f}",
                f"{max(row['filtered'] / row['unfiltered'] for row in times):.1f}",
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--rows", type=int, default=640_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="few rows, to see that it runs; asks the index")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of docs/search.md from --out, and end"
    )
    options = parser.parse_args(arguments)
    if options.markdown:
        print(markdown(read_json(options.out)["results"]))
        return
    separations = SEPARATIONS
    if options.smoke:
        vars(options).update(SMOKE)
        separations, LanceStore.held_bytes = SMOKE_SEPARATIONS, 0
    LanceStore.exact_rows = min(EXACT_ROWS, options.rows // 2)
    cases = [(dim, apart) for dim, values in separations.items() for apart in values]
    results = []
    for dim, apart in tqdm(cases, "galleries"):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "gallery"
            results.append(measure(options.rows, dim, apart, options.queries, options.seed, place))
    ran_on = device()
    table = Table(*COLUMNS, title=f"{options.rows:,} images; median ms; {in_words(ran_on)}")
    for row in table_rows(results):
        table.add_row(*row)
    Console(width=140).print(table)
    settings = {name: getattr(options, name) for name in ("rows", "queries", "seed")}
    settings |= {"exact_rows": LanceStore.exact_rows, "held_bytes": LanceStore.held_bytes}
    write_result(options.out, settings, ("lancedb", "numpy"), ran_on, results=results)
