"""
Training steps and encoding: this package beside the field's way in plain PyTorch, each saving alone.

    python -m benchmarks speed --size vit-b16 --batch 16
    python -m benchmarks speed --size vit-b16 --batch 64 --device cuda --dtype bfloat16 --compile

The field's way is IRRA's training step (speed_reference.py). Weights are random and the same for all ways; images are
noise and captions random words, 24 on average, since the work does not depend on what they show. Every measurement is
a process of its own, the ways in turn, so that memory is a way's own and a change of the machine's pace meets all
alike; ratios are of the same round. Steps include the optimiser's update. FLOPs are those of matrix products,
convolutions and attention that the way executes; the ceiling is the best of several products of large square matrices
of the same precision in the same process. Memory is the peak of the process (Linux) or of the GPU's allocations, with
weights, gradients and the optimiser's state.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from aga_model.files import write_json
from benchmarks.machine import accelerator, device, in_words
from benchmarks.meters import paired_ratios
from benchmarks.places import RESULTS
from benchmarks.processes import json_of
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser
from benchmarks.speed.batches import DATA_WAYS, IMAGE_SIDES, data_throughput, default_workers
from benchmarks.speed.step_meters import PeakMemory, count_flops, labelled, matmul_ceiling, time_by_part
from benchmarks.speed.ways import EPOCHS, STEPS, TRAINING_PAIRS, WAYS, Encoding, Step, prepare

SMOKE = {"size": "tiny", "batch": 4, "rounds": 1, "steps": 1, "warm_up": 1, "encode": 12, "ceiling": 64, "images": 20}
SETTINGS = ("size", "batch", "rounds", "steps", "warm_up", "encode", "ceiling", "images", "dtype", "compile", "seed")


def measure(way: str, options: argparse.Namespace) -> dict:
    """
    One way in this process: seconds of each step, memory, operations and the ceiling.

    With `options.inspect` also losses on given masks and seconds by part; embeddings go to `options.embeddings`.
    """
    run = prepare(way, options)
    batches = [run.batch(number) for number in range(options.steps)]
    found: dict = {}
    if options.inspect and isinstance(run, Step) and run.way.comparable:
        found["losses"] = run.losses_of_given_masks(batches[0])
    memory = PeakMemory(options.device)
    found["flops"] = count_flops(lambda: run.run(batches[0]))
    if options.compile:
        run.compile()
        memory = PeakMemory(options.device)
    for number in range(options.warm_up):
        run.run(batches[number % len(batches)])
    found["seconds"] = [run.seconds(batch) for batch in batches]
    found |= {"peak_mib": memory.mib(), "held_mib": memory.held, "items": options.batch}
    if isinstance(run, Encoding):
        found["items"] = len(run.embeddings)
        torch.save(run.embeddings, options.embeddings)
    elif options.inspect and isinstance(run, Step) and not options.compile:
        with labelled(run.parts()):
            found["parts"] = time_by_part(lambda: run.run(batches[0]), options.device)
    found["ceiling"] = matmul_ceiling(options.device, getattr(torch, options.dtype), options.ceiling)
    return found


def measure_all(ways: list[str], options: argparse.Namespace) -> tuple[dict[str, list[dict]], dict[str, torch.Tensor]]:
    """
    Every way `rounds` times, in turn, each in a process of its own; and the embeddings of the last round.

    What each process found is written down at once, beside `options.out`.
    """
    found: dict[str, list[dict]] = {way: [] for way in ways}
    embeddings = {}
    partial = options.out.with_suffix(".partial.json")
    sizes = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in SETTINGS if name != "compile"]
    sizes += [
        f"--threads={options.threads}",
        f"--device={options.device}",
        *(["--compile"] if options.compile else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(tqdm(ways * options.rounds, desc="measuring", unit="process")):
            path = Path(folder) / f"{way}.pt"
            words = [*sizes, "--way", way, "--embeddings", path, *(["--inspect"] if number < len(ways) else [])]
            found[way].append(json_of("speed", *words, threads=options.threads))
            write_json(partial, found)
            if path.exists():
                embeddings[way] = torch.load(path)
    return found, embeddings


def _median(rounds: list[dict], name: str) -> float | None:
    values = [one[name] for one in rounds if one.get(name) is not None]
    return statistics.median(values) if values else None


def summarise(way: str, found: dict[str, list[dict]]) -> dict:
    """Medians over rounds, shares of the ceiling, and ratios with the way that it is compared with."""
    rounds, against = found[way], found.get(WAYS[way].against)
    seconds = [statistics.median(one["seconds"]) for one in rounds]
    median = statistics.median(seconds)
    summary: dict = {
        "seconds": median,
        "items_per_second": rounds[0]["items"] / median,
        "peak_mib": _median(rounds, "peak_mib"),
        "held_mib": _median(rounds, "held_mib"),
        "gflops": rounds[0]["flops"] / 1e9,
        # Operations are counted on the first batch.
        "share_of_ceiling": statistics.median(one["flops"] / one["seconds"][0] / one["ceiling"] for one in rounds),
        "rounds": rounds,
    }
    if against:
        others = [statistics.median(one["seconds"]) for one in against]
        summary["faster_by"] = paired_ratios(others, seconds)
        if summary["peak_mib"]:
            summary["share_of_memory"] = summary["peak_mib"] / _median(against, "peak_mib")
    if way in STEPS:
        summary["hours_of_training"] = EPOCHS * TRAINING_PAIRS / summary["items_per_second"] / 3600
    return summary


def compare(found: dict[str, list[dict]], embeddings: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of a loss from the reference's on the same masks, of an embedding from the padded one's."""
    differences = {}
    for way, rounds in found.items():
        reference = found.get("reference")
        if reference and "losses" in rounds[0]:
            pairs = [(rounds[0]["losses"][name], value) for name, value in reference[0]["losses"].items()]
            differences[way] = max(abs(own - other) for own, other in pairs)
        if way in embeddings and (other := embeddings.get(WAYS[way].against)) is not None:
            differences[way] = float((embeddings[way] - other).abs().max())
    return differences


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def speed_table(results: dict[str, dict], title: str) -> Table:
    """Times, memory and operations of every way."""
    table = Table(
        "way", "seconds", "items/s", "times as fast", "least", "peak MiB", "share", "GFLOP", "of ceiling", "hours",
        "difference", title=title,
    )  # fmt: skip
    for way, row in results.items():
        ratio = row.get("faster_by", {})
        table.add_row(
            WAYS[way].label, f"{row['seconds']:.3f}", f"{row['items_per_second']:.1f}",
            _figure(ratio.get("median"), ".2f"), _figure(ratio.get("least"), ".2f"), _figure(row["peak_mib"], ".0f"),
            _figure(row.get("share_of_memory"), ".2f"), _figure(row["gflops"], ".1f"),
            _figure(row.get("share_of_ceiling"), ".0%"), _figure(row.get("hours_of_training"), ".1f"),
            _figure(row.get("largest_difference"), ".0e"),
        )  # fmt: skip
    return table


def parts_table(results: dict[str, dict]) -> Table:
    """Seconds of a step by part, forward and backward together, in the profiler's pace; of the first round."""
    parts = {way: row["rounds"][0]["parts"] for way, row in results.items() if "parts" in row["rounds"][0]}
    names = sorted({name for seconds in parts.values() for name in seconds})
    table = Table("way", *names, title="seconds of a step by part, forward and backward, under the profiler")
    for way, seconds in parts.items():
        table.add_row(WAYS[way].label, *(_figure(seconds.get(name), ".3f") for name in names))
    return table


def data_table(rows: list[dict]) -> Table:
    """Pairs that the data loader alone gives a second."""
    table = Table(
        "images", "pixels", "workers", "the field's way, pairs/s", "this package, pairs/s", "times as fast",
        title="data alone: decode, augment, batch; medians (least to most)",
    )  # fmt: skip
    for row in rows:
        size, faster = f"{row['height']}x{row['width']}", row["faster_by"]
        paces = [f"{statistics.median(row['pairs_per_second'][way]):.1f}" for way in DATA_WAYS]
        ratio = f"{faster['median']:.2f} ({faster['least']:.2f} to {faster['most']:.2f})"
        table.add_row(row["images"], size, str(row["workers"]), *paces, ratio)
    return table


def measure_data(options: argparse.Namespace) -> list[dict]:
    """The data loader's throughput in this process alone and with workers, on small and large originals."""
    size = (64, 32) if options.smoke else (384, 128)
    numbers = sorted({0, options.workers})
    return [
        data_throughput(kind, workers, size, options.batch, options.images, options.rounds)
        for kind in IMAGE_SIDES
        for workers in numbers
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--size", choices=("vit-b16", "small", "tiny"), default="vit-b16")
    parser.add_argument("--batch", type=int, default=16, help="pairs of a step")
    parser.add_argument("--rounds", type=int, default=3, help="processes of every way, and rounds of the data loader")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process")
    parser.add_argument("--warm-up", type=int, help="steps before them; default: 3 on a GPU, 1 to compile, else 0")
    parser.add_argument("--encode", type=int, default=256, help="captions to encode")
    parser.add_argument("--images", type=int, default=512, help="pairs that the data loader is timed with")
    parser.add_argument("--ceiling", type=int, default=2048, help="side of the matrices that give the ceiling")
    parser.add_argument(
        "--ways",
        nargs="*",
        default=list(WAYS),
        metavar="WAY",
        help=f"{', '.join(WAYS)}; without any, the data loader alone",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile for this package's ways")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=default_workers(), help="of the data loader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: results/speed_SIZE_DEVICE_DTYPE[_compile].json")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--embeddings", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--inspect", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.ways) - set(WAYS)):
        parser.error(f"--ways: {', '.join(unknown)} is none of {', '.join(WAYS)}")
    if options.smoke:
        vars(options).update(SMOKE)
    if options.warm_up is None:
        options.warm_up = 3 if options.device == "cuda" else int(options.compile)
    if options.out is None:
        names = ["speed", options.size, options.device, options.dtype, *(["compile"] if options.compile else [])]
        options.out = RESULTS / f"{'_'.join(names)}.json"
    return options


def report(
    found: dict[str, list[dict]], embeddings: dict[str, torch.Tensor], data: list[dict], options: argparse.Namespace
) -> None:
    """Write the JSON and print the tables."""
    results = {way: summarise(way, found) for way in found}
    for way, difference in compare(found, embeddings).items():
        results[way]["largest_difference"] = difference
    ran_on = device(accelerator=accelerator() if options.device == "cuda" else None, threads=options.threads)
    title = f"{options.size}, batch {options.batch}, {options.dtype}{', compiled' if options.compile else ''}; "
    title += in_words(ran_on)
    settings = {name: getattr(options, name) for name in SETTINGS}
    write_result(options.out, settings, ("torch", "transformers"), ran_on, results=results, data=data)
    options.out.with_suffix(".partial.json").unlink(missing_ok=True)
    console = Console(width=170)
    for table in (*([speed_table(results, title), parts_table(results)] if results else []), data_table(data)):
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.way:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(options.way, options)))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = measure_data(options)
    found, embeddings = measure_all(options.ways, options)
    report(found, embeddings, data, options)
