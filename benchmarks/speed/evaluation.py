"""
Rank-k, mAP and mINP of 20,000 queries against a gallery of 20,000: streaming ranking beside sorting everything.

    python -m benchmarks evaluation

Each way runs in a process of its own, so that the peak of memory is its own. The embeddings are synthetic and seeded:
persons are random directions, their captions and images the direction plus noise.
"""

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import device, in_words
from benchmarks.meters import clocked
from benchmarks.places import RESULTS
from benchmarks.processes import json_of
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "evaluation.json"
WAYS = {
    "streaming": "streaming ranking, metrics",
    "streaming_top10": "streaming ranking, metrics and top 10",
    "sort": "float32 matrix, full sort, metrics",
}


def synthetic(queries: int, gallery: int, dim: int, persons: int, noise: float, seed: int):
    """Query and gallery embeddings (n, dim) float32 with person ids (n,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(persons, dim, generator=generator)
    found = []
    for count in (queries, gallery):
        ids = torch.arange(count) % persons
        found += [centres[ids] + noise * torch.randn(count, dim, generator=generator), ids]
    query, query_ids, images, gallery_ids = found
    return query, images, query_ids, gallery_ids


def sort_everything(query, gallery, query_ids, gallery_ids) -> dict[str, float]:
    """The metrics as IRRA computes them: the whole matrix, every row sorted, relevance in that order."""
    normalize = torch.nn.functional.normalize
    similarity = normalize(query, dim=1) @ normalize(gallery, dim=1).t()
    order = torch.argsort(similarity, dim=1, descending=True)
    matches = gallery_ids[order].eq(query_ids.view(-1, 1))
    found = matches.cumsum(1)
    metrics = {f"rank{k}": 100 * (found[:, k - 1] > 0).float().mean().item() for k in (1, 5, 10)}
    number = matches.sum(1)
    places = torch.arange(1, len(gallery) + 1)
    precision = torch.zeros(len(query))
    for start in range(0, len(query), 1000):  # in parts, or this step would need more memory than the rest
        part = slice(start, start + 1000)
        precision[part] = (found[part] / places * matches[part]).sum(1) / number[part]
    last = (matches * places).amax(1)
    return metrics | {"mAP": 100 * precision.mean().item(), "mINP": 100 * (number / last).mean().item()}


def stream(query, gallery, query_ids, gallery_ids, top_k: int) -> dict[str, float]:
    from aga_model.evaluation import rank_gallery, ranking_metrics

    return ranking_metrics(rank_gallery(query, gallery, query_ids, gallery_ids, top_k=top_k))


def measure(way: str, options: argparse.Namespace) -> dict:
    """Run one way in this process."""
    torch.set_num_threads(options.threads)
    data = synthetic(options.queries, options.gallery, options.dim, options.persons, options.noise, options.seed)
    top_k = 10 if way.endswith("top10") else 0
    metrics, took = clocked(lambda: sort_everything(*data) if way == "sort" else stream(*data, top_k=top_k))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {**took, "peak_rss_gib": peak, "metrics": metrics}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--gallery", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--persons", type=int, default=5000)
    parser.add_argument("--noise", type=float, default=2.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    settings = {name: getattr(options, name) for name in ("queries", "gallery", "dim", "persons", "noise", "seed")}
    words = [f"--{name}={value}" for name, value in (settings | {"threads": options.threads}).items()]
    found = {way: json_of("evaluation", *words, "--way", way, threads=options.threads) for way in WAYS}
    ran_on = device(threads=options.threads)
    title = f"{options.queries:,} queries, gallery of {options.gallery:,}, dim {options.dim}; "
    table = Table(
        "way", "seconds", "CPU seconds", "peak GiB", "Rank-1", "mAP", "mINP",
        title=f"{title}{in_words(ran_on)}",
    )  # fmt: skip
    for way, label in WAYS.items():
        row = found[way]
        figures = [f"{row[name]:.2f}" for name in ("seconds", "cpu_seconds", "peak_rss_gib")]
        table.add_row(label, *figures, *(f"{row['metrics'][name]:.3f}" for name in ("rank1", "mAP", "mINP")))
    Console(width=130).print(table)
    write_result(options.out, settings, ("torch", "numpy"), ran_on, results=found)
