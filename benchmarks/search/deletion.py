"""
How long does it take to delete one person from a large gallery, beside an earlier version of this package?

    python -m benchmarks deletion --before 0817997

Both versions, the earlier one from git, fill a gallery of 100,000 random embeddings of 512 dimensions, with ten images
a person, with and without an index; then they delete one person after the other, in turn. Prints the seconds of
`Gallery.delete` and of the whole command `aga gallery delete`, and the ratio of the medians, and writes them as JSON.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.meters import in_turns, timed
from benchmarks.places import RESULTS, ROOT
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

WORK = Path(__file__).with_name("deletion_work.py")
OUT = RESULTS / "deletion.json"


def in_version(source: Path, *arguments: object) -> str:
    """What a process of a version prints."""
    # -P: the folder of the script, or this one, must not come before the version's.
    command, environment = [sys.executable, "-P", *map(str, arguments)], os.environ | {"PYTHONPATH": str(source)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}: {run.stderr[-2000:]}")
    return run.stdout


def measure(options: argparse.Namespace, folder: Path) -> dict:
    earlier = folder / "earlier"
    earlier.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", options.before], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", earlier], input=archive.stdout, check=True)
    versions = {"before": earlier, "now": ROOT}
    results: dict = {}
    for indexed in (False, True):
        galleries = {name: folder / f"{name}-{indexed}" for name in versions}
        for name, source in versions.items():
            in_version(source, WORK, "fill", galleries[name], options.rows, options.dim, int(indexed))
        ways_to_delete = {"deletion": seconds_of_deletion, "command": seconds_of_command}
        for first, (kind, one) in zip((0, options.rounds), ways_to_delete.items()):
            ways = {name: deletions(one, source, galleries[name], first) for name, source in versions.items()}
            seconds = in_turns(ways, options.rounds)
            middle = {name: statistics.median(each) for name, each in seconds.items()}
            ratio = middle["now"] / middle["before"]
            row = f"{'with' if indexed else 'without'} index, {kind}"
            results[row] = {"seconds": seconds, "ratio_of_medians": ratio}
            print(
                f"{row:24} before {middle['before']:.2f} s, now {middle['now']:.2f} s: {ratio:.2f} times", flush=True
            )
    return results


def deletions(one: Callable[..., float], source: Path, gallery: Path, first: int) -> Callable[[], float]:
    """Deletes another person each time."""
    people = itertools.count(first)
    return lambda: one(source, gallery, next(people))


def seconds_of_deletion(source: Path, gallery: Path, person: int) -> float:
    """Of the deletion alone, in a process that has opened the gallery."""
    return float(in_version(source, WORK, "delete", gallery, person))


def seconds_of_command(source: Path, gallery: Path, person: int) -> float:
    """Of the whole command."""
    words = ("-m", "aga_model", "gallery", "delete", gallery, "--person", f"{person:06}")
    return timed(lambda: in_version(source, *words))[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--before", default="0817997", help="commit of the earlier version")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    settings = {name: getattr(options, name) for name in ("before", "rows", "dim", "rounds")}
    write_result(options.out, settings, ("lancedb",), results=results)
