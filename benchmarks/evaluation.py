"""
Rank-k, mAP and mINP of 20,000 queries against a gallery of 20,000: streaming ranking beside sorting everything.

    python benchmarks/evaluation.py

Each way runs in a process of its own, so that the peak of memory is its own. The embeddings are synthetic and seeded:
persons are random directions, their captions and images the direction plus noise.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
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
    before = time.perf_counter(), time.process_time()
    metrics = sort_everything(*data) if way == "sort" else stream(*data, top_k=10 if way.endswith("top10") else 0)
    seconds, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_rss_gib": peak, "metrics": metrics}


def processor() -> str:
    """Name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--gallery", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--persons", type=int, default=5000)
    parser.add_argument("--noise", type=float, default=2.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    found = {}
    for way in WAYS:
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = json.loads(run.stdout.splitlines()[-1])
    settings = {name: getattr(options, name) for name in ("queries", "gallery", "dim", "persons", "noise", "seed")}
    device = {"processor": processor(), "threads": options.threads}
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    title = f"{options.queries:,} queries, gallery of {options.gallery:,}, dim {options.dim}; "
    table = Table(
        "way", "seconds", "CPU seconds", "peak GiB", "Rank-1", "mAP", "mINP",
        title=f"{title}{device['processor']}, {options.threads} threads",
    )  # fmt: skip
    for way, label in WAYS.items():
        row = found[way]
        figures = [f"{row[name]:.2f}" for name in ("seconds", "cpu_seconds", "peak_rss_gib")]
        table.add_row(label, *figures, *(f"{row['metrics'][name]:.3f}" for name in ("rank1", "mAP", "mINP")))
    Console(width=130).print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "device": device, "versions": versions, "results": found}
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
