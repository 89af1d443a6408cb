"""
Put small faults into the code, one at a time, and see whether the tests notice.

    python -m benchmarks mutants                           all of them, also by `make mutants`; an hour or more
    python -m benchmarks mutants --lists model training    those of some lists
    python -m benchmarks mutants --only tal_shares_not_detached --tests tests/test_losses.py

The faults stand in benchmarks/mutants/*.yaml: the file, a text that occurs in it once, what stands there instead, and
why a user would suffer. Each is tried in a copy of the working tree on the tests that execute the changed line. These
are found by measuring the suite once under coverage, which notes each test's name, also for the processes that tests
start; for a line that is executed when its module is imported, they are the tests that execute anything of the file.
The most specific tests come first, those of whose executed lines the greatest share is in the file, and quick ones
before slow ones. A fault counts as noticed if one of them fails or does not end; in the end the tests that failed are
run once more without any fault, and what fails there as well has noticed nothing.

Results go into benchmarks/results/mutants.json one by one, so that a run which was ended goes on. A result is used
again while the fault, its file and the file of the test that noticed it are unchanged; a fault that nothing noticed is
tried again when anything has changed.
Tests run in processes forked from one that has imported the libraries, as many at once as `--workers` says.
"""

import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.places import ROOT
from benchmarks.reliability.faults import Mutant, read_lists
from benchmarks.reliability.mutants_tests import TestMap
from benchmarks.reliability.trials import copy_tree, import_libraries, run_tests, tree_hash
from benchmarks.runner import bench_parser

LISTS, RESULTS = "benchmarks/mutants", "benchmarks/results/mutants.json"
KILLED, SURVIVED, ENDLESS = "killed", "survived", "did not end"
NO_TESTS = "no tests"


# --- one fault --------------------------------------------------------------------------------------------------

_TREE: Path  # this worker's copy


def _begin_worker(build: Path, root: Path, numbers) -> None:
    global _TREE
    _TREE = build / f"worker-{numbers.get()}"
    copy_tree(root, _TREE)


def _try(work: tuple[Mutant, list[str], float]) -> dict[str, Any]:
    """Run tests against a fault in this worker's copy."""
    mutant, tests, limit = work
    path = _TREE / mutant.file
    source = path.read_text(encoding="utf-8")
    log = _TREE.parent / "logs" / f"{mutant.name}.log"
    log.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    path.write_text(mutant.applied(source), encoding="utf-8")
    try:
        code, failed = run_tests(_TREE, tests, log, limit)
    finally:
        path.write_text(source, encoding="utf-8")
    if code is not None and code not in (0, 1, 2, 3, 5):
        raise RuntimeError(f"mutant {mutant.name}: pytest ended with {code}; its output is in {log}")
    status = ENDLESS if code is None else NO_TESTS if code == 5 else KILLED if code else SURVIVED
    by = failed[0] if failed else ""
    return {"status": status, "by": by, "tests": len(tests), "seconds": round(time.monotonic() - started, 1)}


# --- all --------------------------------------------------------------------------------------------------------


class Run:
    """
    Faults tried on a tree, with what is known already.

    Args:
        root: the project's root.
        names: of the faults of all lists; what is known of others is forgotten.
        build: folder for copies, the map of tests and results.
        tests: run these files in the place of those that the map gives; such results are not kept.
        budget: of the tests that execute a fault's line, run those that take at most so many seconds together.
        workers: how many faults are tried at once.
        minutes: begin with no other fault after this time.
    """

    def __init__(
        self,
        root: Path,
        names: Iterable[str],
        build: Path,
        tests: Sequence[str] = (),
        budget: float = 150.0,
        workers: int = 2,
        minutes: float = math.inf,
    ):
        self.root, self.build, self.tests, self.budget, self.workers = root, build, list(tests), budget, workers
        self.end = time.monotonic() + 60 * minutes
        self.kept_path = root / RESULTS
        kept = json.loads(self.kept_path.read_text(encoding="utf-8")) if self.kept_path.exists() else {}
        self.kept = {name: kept[name] for name in names if name in kept}
        self.tree = tree_hash(root, "aga_model", "tests", "benchmarks")

    def results(self, mutants: Iterable[Mutant]) -> dict[str, dict[str, Any]]:
        """What became of each fault, by its name; tries those of which nothing valid is known, while there is time."""
        mutants = list(mutants)
        sources = {file: (self.root / file).read_text(encoding="utf-8") for file in {one.file for one in mutants}}
        for mutant in mutants:
            mutant.applied(sources[mutant.file])
        known = {} if self.tests else {one.name: result for one in mutants if (result := self._known(one))}
        self.build.mkdir(parents=True, exist_ok=True)
        import_libraries(self.root, self.build)
        test_map = None if self.tests else TestMap.of(self.root, self.build, copy_tree)
        refused = set() if self.tests else self._take_back(known)  # a run that was ended has not checked its kills
        while missing := [mutant for mutant in mutants if mutant.name not in known] if self._has_time() else []:
            work = [self._work(mutant, test_map, sources[mutant.file], refused) for mutant in missing]
            # In an order of no meaning, so that a run that is ended has tried a sample of all lists.
            work.sort(key=lambda one: hashlib.sha256(one[0].name.encode()).digest())
            tried = self._try_all([one for one in work if one[1]])
            for mutant, tests, _ in work:
                if not tests:
                    tried[mutant.name] = {"status": NO_TESTS, "by": "", "tests": 0, "seconds": 0.0}
            known.update(tried)
            if not self.tests:
                self._keep({one.name: one for one in mutants}, tried)
            failing = self._take_back(known, tried)
            if self.tests and failing:
                raise RuntimeError(f"these fail without any fault: {', '.join(sorted(failing))}")
            refused |= failing
        return {mutant.name: known[mutant.name] for mutant in mutants if mutant.name in known}

    def _has_time(self) -> bool:
        return time.monotonic() < self.end

    def _work(self, mutant: Mutant, test_map, source: str, refused: set[str]) -> tuple[Mutant, list[str], float]:
        if test_map is None:
            return mutant, self.tests, 600.0
        tests = test_map.tests(mutant.file, mutant.old, mutant.changed_lines(source), self.budget)
        if (before := self.kept.get(mutant.name, {}).get("by")) in tests:
            tests.insert(0, tests.pop(tests.index(before)))
        tests = [test for test in tests if test not in refused]
        return mutant, tests, 60 + 4 * sum(map(test_map.seconds, tests))

    def _try_all(self, work) -> dict[str, dict[str, Any]]:
        tried = {}
        if not work:
            return tried
        context = multiprocessing.get_context("fork")
        numbers = context.Queue()
        for number in range(self.workers):
            numbers.put(number)
        progress = tqdm(total=len(work), unit="fault", desc="trying")
        with context.Pool(self.workers, _begin_worker, (self.build, self.root, numbers)) as pool, progress:
            jobs, waiting = {}, list(reversed(work))
            while jobs or (waiting and self._has_time()):
                while waiting and len(jobs) < self.workers and self._has_time():
                    one = waiting.pop()
                    jobs[one[0]] = pool.apply_async(_try, (one,))
                for mutant in [mutant for mutant, job in jobs.items() if job.ready()]:
                    tried[mutant.name] = jobs.pop(mutant).get()
                    if not self.tests:  # checked without the fault in the end; until then a kill is worth keeping
                        self._keep({mutant.name: mutant}, {mutant.name: tried[mutant.name]})
                    if tried[mutant.name]["status"] == SURVIVED:
                        progress.write(f"survived: {mutant.name} ({mutant.file})")
                    progress.update()
                time.sleep(0.1)
        return tried

    def _take_back(self, known: dict[str, dict[str, Any]], names: Iterable[str] | None = None) -> set[str]:
        """Forget what tests noticed that fail without any fault as well, of some faults or all; gives these tests."""
        by = {name: known[name]["by"] for name in (known if names is None else names) if known[name]["by"]}
        if not by:
            return set()
        tree = self.build / "without"
        copy_tree(self.root, tree)
        there = [test for test in sorted(set(by.values())) if (tree / test.split("::")[0]).is_file()]
        _, failed = run_tests(tree, there, self.build / "without.log", 3600, every=True)
        for name in [name for name, test in by.items() if test in failed]:
            del known[name]
            self.kept.pop(name, None)
        if not self.tests:
            self._write()
        return set(failed) & set(by.values())

    # --- what is known already ---

    def _key(self, mutant: Mutant, by: str) -> str:
        """Of what a result depends on: the fault, its file, and the noticing test's file or else all files."""
        parts = [json.dumps(asdict(mutant), sort_keys=True), (self.root / mutant.file).read_text(encoding="utf-8")]
        test = self.root / by.split("::")[0]
        parts.append(test.read_text(encoding="utf-8") if by and test.is_file() else self.tree)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _known(self, mutant: Mutant) -> dict[str, Any] | None:
        kept = self.kept.get(mutant.name)
        if kept is None or kept["key"] != self._key(mutant, kept["by"]):
            return None
        return {name: value for name, value in kept.items() if name != "key"}

    def _keep(self, mutants: dict[str, Mutant], results: dict[str, dict[str, Any]]) -> None:
        for name, result in results.items():
            self.kept[name] = {"key": self._key(mutants[name], result["by"]), **result}
        self._write()

    def _write(self) -> None:
        partial = self.kept_path.with_suffix(".partial")
        partial.write_text(json.dumps(self.kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(self.kept_path)


def by_file(mutants: Sequence[Mutant], results: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """For each file, in alphabetical order, how many of its faults were noticed, and how many there are."""
    counts: dict[str, tuple[int, int]] = {}
    for mutant in sorted((one for one in mutants if one.name in results), key=lambda one: one.file):
        noticed, of = counts.get(mutant.file, (0, 0))
        counts[mutant.file] = noticed + (results[mutant.name]["status"] in (KILLED, ENDLESS)), of + 1
    return counts


def report(mutants: Sequence[Mutant], results: dict[str, dict[str, Any]], console: Console) -> None:
    """Print a table with a row for each file, and the faults that nothing noticed."""
    table = Table("file", "faults", "noticed", "rate")
    counts = by_file(mutants, results)
    noticed = sum(count[0] for count in counts.values())
    for name, (count, of) in [*counts.items(), ("all", (noticed, len(results)))]:
        table.add_row(name, str(of), str(count), f"{count / of:.0%}")
    console.print(table)
    if len(results) < len(mutants):
        console.print(f"{len(mutants) - len(results)} faults were not tried")
    for mutant in (one for one in mutants if one.name in results):
        if results[mutant.name]["status"] not in (KILLED, ENDLESS):
            console.print(
                f"{results[mutant.name]['status']}: {mutant.name}, {mutant.file}: {mutant.why}", markup=False
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--lists", nargs="+", default=(), help="names of files of benchmarks/mutants, without .yaml")
    parser.add_argument("--only", nargs="+", default=(), help="names of faults, or files of the package")
    parser.add_argument("--tests", nargs="+", default=(), help="run these tests, not those that execute the line")
    parser.add_argument("--seconds", type=float, default=150, help="of tests for each fault, the most specific first")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin with no other fault after this time")
    parser.add_argument("--workers", type=int, default=2, help="faults that are tried at once")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    mutants = read_lists(root / LISTS, options.lists)
    if options.only:
        mutants = [mutant for mutant in mutants if {mutant.name, mutant.file} & set(options.only)]
    if not mutants:
        parser.error("no fault is of these names")
    # As the tests have it, before any library is imported; a compiled file must not outlive a fault.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
    names = [mutant.name for mutant in read_lists(root / LISTS)]
    run = Run(root, names, root / "build/mutants", options.tests, options.seconds, options.workers, options.minutes)
    report(mutants, run.results(mutants), Console())
