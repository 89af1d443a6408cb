"""
Compare recipes: fine-tune each from one base model on rendered data, under label noise, over several seeds.

    python -m benchmarks quality            # settings and recipes: benchmarks/quality/
    python -m benchmarks quality --smoke    # every stage at a tiny size
    python -m benchmarks quality --settings benchmarks/quality/published.yaml

NAME is that of the settings file; of one named bench.yaml, that of its folder.

Writes a JSON file for each run under --out, and from these the tables and the plot of docs/NAME.md. Finished runs
are kept, so that the same command continues what was stopped.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.data import load_benchmark, text_settings, train_tokenizer
from aga_model.data.rendered import render_dataset
from aga_model.files import write_json
from benchmarks.machine import cores
from benchmarks.places import RESULTS, ROOT
from benchmarks.quality.cells import Job, TimingJob, seconds_per_step, train_cell, train_trial
from benchmarks.quality.report import write_report
from benchmarks.quality.settings import Cell, Settings, Values, all_cells, load_settings, run_values
from benchmarks.quality.workers import Failures, Workers
from benchmarks.reports import read_json
from benchmarks.runner import bench_parser

HERE = Path(__file__).resolve().parent
_BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json")


# --- choices ----------------------------------------------------------------------------------------------------


def best_factor(scores: Mapping[float, float]) -> float:
    """The factor with the best validation score; the smaller one of equals."""
    return max(sorted(scores), key=lambda factor: scores[factor])


def choose_factor(scores: Mapping[float, float], prefer: float, near: float) -> float:
    """`prefer` where its validation score is at most `near` below the best one, else the best factor."""
    best = best_factor(scores)
    return prefer if prefer in scores and scores[prefer] >= scores[best] - near else best


def factors_beyond(scores: Mapping[float, float]) -> tuple[float, ...]:
    """The next factor of the geometric grid, where the best one lies at an end; else nothing."""
    best, factors = best_factor(scores), sorted(scores)
    if best not in (factors[0], factors[-1]):
        return ()
    neighbour = factors[1] if best == factors[0] else factors[-2]
    return (best * best / neighbour,)


def equal_time_steps(seconds: Mapping[str, float], budget: float) -> dict[str, int]:
    """
    Steps of each recipe within a time, at least one.

    Args:
        seconds: per step, by recipe.
        budget: seconds.
    """
    return {recipe: max(1, round(budget / each)) for recipe, each in seconds.items()}


# --- results that are there -------------------------------------------------------------------------------------


def settings_hash(settings: Values) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _flat(values: Values, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _require_same_settings(path: Path, there: Values, now: Values) -> None:
    before, after = _flat(there), _flat(now)
    changed = [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise ValueError(
            f"{path} was made with other settings; give another --out, or delete the results that are to be made "
            f"again. Changed: {'; '.join(changed[:8])}"
        )


def unfinished(jobs: list[Job]) -> list[Job]:
    """
    The jobs without a result; run folders that a kill left behind a result are removed.

    Raises:
        ValueError: a result was made with other settings; names them.
    """
    for job in jobs:
        if job.result.is_file():
            there = read_json(job.result)
            if there["settings_hash"] != job.settings_hash:
                _require_same_settings(job.result, there["settings"], job.settings)
            shutil.rmtree(job.folder, ignore_errors=True)
    return [job for job in jobs if not job.result.is_file()]


# --- the bench --------------------------------------------------------------------------------------------------


class Bench:
    """
    All stages up to the report: data, base model, learning rates, calibration, cells.

    Args:
        settings: see there.
        out: folder of the results.
        work: folder of data and runs.
        workers: number of processes.
    """

    def __init__(self, settings: Settings, out: Path, work: Path, workers: int):
        self.settings, self.out, self.work, self.count = settings, out, work.resolve(), workers
        self.data = self.work / "data"

    def run(self, only: str) -> Failures:
        """Do what is not done yet of the cells whose names match; those that failed."""
        cells = [cell for cell in all_cells(self.settings) if fnmatch(cell.name, only)]
        if not cells:
            raise ValueError(f"no cell matches --only {only!r}; the first one is {all_cells(self.settings)[0].name}")
        self._prepare()
        with Workers(self.count, self.work / "failures") as workers:
            searched = list(dict.fromkeys(cell.recipe for cell in cells))
            factors, failed = self._search(workers, searched)
            cells = [cell for cell in cells if cell.recipe in factors]
            steps = {"steps": dict.fromkeys(self.settings.recipes, self.settings.steps)}
            if any(cell.budget == "time" for cell in cells):
                broken = set(searched) - set(factors)
                steps["time"] = self._calibrate(workers, [key for key in self.settings.recipes if key not in broken])
            jobs = {}
            for cell in cells:
                count = steps[cell.budget][cell.recipe]
                if count == self.settings.steps:  # the same run for both budgets
                    cell = replace(cell, budget="steps")
                jobs[cell.name] = self._cell_job(cell, count, factors[cell.recipe])
            return failed | workers.run(train_cell, unfinished(list(jobs.values())), "cells")

    def _prepare(self) -> None:
        """Data and base model, and what tells them from others."""
        render_dataset(self.data, **self.settings.data, processes=self.count)
        arguments = read_json(self.data / "attributes.json")["arguments"]
        base = self.settings.base_model
        if not isinstance(base, str):
            self.base_model = str(self.work / "base")
            _save_random_model(base, self.data, Path(self.base_model))
        else:
            self.base_model = str(ROOT / base) if (ROOT / base).is_dir() else base
        folder = Path(self.base_model)
        if not folder.is_dir():
            raise FileNotFoundError(f"no base model in {folder}; base_model is the folder of a checkpoint")
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in _BASE_FILES}
        self.fixed = {"data": arguments, "base_model": digests}

    def _job(self, name: str, result: Path, about: Values, settings: Values) -> Job:
        settings = json.loads(json.dumps(settings | self.fixed))
        keep = any(fnmatch(name, pattern) for pattern in self.settings.keep_models)
        return Job(
            name=name,
            about=about,
            settings=settings,
            settings_hash=settings_hash(settings),
            result=result.resolve(),
            keep_model=keep,
            workers=self.count,
            **self._folders(),
        )

    def _trial_job(self, recipe: str, factor: float) -> Job:
        search = self.settings.learning_rates
        name = f"{recipe}--x{factor:g}"
        values = run_values(self.settings, recipe, self.settings.clean, search.seed, search.steps, factor)
        about = {"recipe": recipe, "factor": factor}
        return self._job(name, self.out / "search" / f"{name}.json", about, {"run": values})

    def _cell_job(self, cell: Cell, steps: int, factor: float) -> Job:
        values = run_values(self.settings, cell.recipe, cell.noise, cell.seed, steps, factor)
        how = {"measured_on": self.settings.measured_on, "diagnostic_captions": self.settings.diagnostic_captions}
        objective = values.get("model_config", {}).get("objective_config", {})
        if self.settings.rerank and objective.get("loss_weights", {}).get("itm"):
            how["rerank"] = self.settings.rerank
        settings = {"run": values, **how}
        about = {**asdict(cell), "steps": steps, "learning_rate_factor": factor}
        return self._job(cell.name, self.out / "cells" / f"{cell.name}.json", about, settings)

    def _search(self, workers: Workers, recipes: list[str]) -> tuple[dict[str, float], Failures]:
        """Factor on the learning rates of each recipe, of those whose trials all ended well."""
        search = self.settings.learning_rates
        if len(search.factors) == 1:
            return dict.fromkeys(recipes, search.factors[0]), {}
        scores, failed = self._try(workers, dict.fromkeys(recipes, search.factors), "learning rates")
        wider = {recipe: factors_beyond(found) for recipe, found in scores.items() if search.extend}
        beyond = {recipe: factors for recipe, factors in wider.items() if factors}
        more, failed_beyond = self._try(workers, beyond, "learning rates beyond the grid")
        chosen: dict[str, Values] = {}
        for recipe in scores:
            if recipe in beyond and recipe not in more:
                continue
            found = scores[recipe] | more.get(recipe, {})
            best = best_factor(found)
            chosen[recipe] = {
                "validation": {f"{tried:g}": score for tried, score in sorted(found.items())},
                "factor": choose_factor(found, search.prefer, search.near),
                "extended": recipe in beyond,
                "at_end": best in (min(found), max(found)),
            }
        path = self.out / "learning_rates.json"
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, (read_json(path) if path.is_file() else {}) | chosen)
        return {recipe: values["factor"] for recipe, values in chosen.items()}, failed | failed_beyond

    def _try(
        self, workers: Workers, grids: Mapping[str, tuple[float, ...]], label: str
    ) -> tuple[dict[str, dict[float, float]], Failures]:
        """Validation score by recipe and factor, of the recipes of which no trial failed."""
        jobs = {recipe: [self._trial_job(recipe, factor) for factor in grid] for recipe, grid in grids.items()}
        failed = workers.run(train_trial, unfinished([job for own in jobs.values() for job in own]), label)
        whole = {recipe: own for recipe, own in jobs.items() if not any(job.name in failed for job in own)}
        return {recipe: {job.about["factor"]: _score(job) for job in own} for recipe, own in whole.items()}, failed

    def _calibrate(self, workers: Workers, recipes: list[str]) -> dict[str, int]:
        """
        Steps of each recipe at equal time. All recipes are timed, whichever cells are wanted: the slowest one counts.

        The budget is fixed by the first calibration. A recipe that is added later is timed beside the recipe that was
        the slowest then, whose seconds per step carry it over; the cells that are there stay valid.
        """
        settings, path = self.settings, self.out / "calibration.json"
        known = read_json(path) if path.is_file() else {"recipes": {}}
        entries = known["recipes"]
        seed = settings.learning_rates.seed
        runs = {key: run_values(settings, key, settings.clean, seed, settings.steps, 1.0) for key in recipes}
        setup = json.loads(json.dumps({"how": asdict(settings.calibration), "steps": settings.steps, **self.fixed}))
        _require_same_settings(path, known.get("settings", setup), setup)
        for key in entries.keys() & runs.keys():
            _require_same_settings(path, entries[key]["run"], runs[key])
        new = {key: run for key, run in runs.items() if key not in entries}
        if new:
            timed = new | {key: entries[key]["run"] for key in entries if key == known["slowest"]}
            how = settings.calibration
            job = TimingJob(timed, how.rounds, how.steps, how.warm_up, **self._folders())
            seconds = workers.call(seconds_per_step, job)
            slowest = known.setdefault("slowest", max(seconds, key=lambda key: seconds[key]))
            pace = entries[slowest]["seconds_per_step"] / seconds[slowest] if entries else 1.0
            entries |= {key: {"seconds_per_step": pace * seconds[key], "run": run} for key, run in new.items()}
            known |= {"settings": setup, "seconds": settings.steps * entries[slowest]["seconds_per_step"]}
        paces = {key: entry["seconds_per_step"] for key, entry in entries.items()}
        for key, steps in equal_time_steps(paces, known["seconds"]).items():
            near = abs(steps - settings.steps) <= settings.calibration.same_within * settings.steps
            entries[key]["steps"] = settings.steps if near else steps
        write_json(path, known)
        return {key: entries[key]["steps"] for key in runs}

    def _folders(self) -> Values:
        return {"data": self.data, "base_model": self.base_model, "work": self.work}


def _score(job: Job) -> float:
    """What the validation split says about a trial."""
    validation = read_json(job.result)["validation"]
    return next(value for key, value in validation.items() if key.startswith("validation_"))


def _save_random_model(base: Values, data: Path, folder: Path) -> None:
    """A model with random weights and a tokenizer of the training captions."""
    tokenizer = train_tokenizer(load_benchmark("cuhk-pedes", data)["train"]["caption"][:], base["vocab_size"])
    sections = dict(base["model_config"])
    text = {**sections["text_config"], **text_settings(tokenizer)}
    torch.manual_seed(base["seed"])
    config = AgaConfig(**{**sections, "text_config": text})
    AgaProcessor.for_config(config, tokenizer).save_pretrained(folder)
    AgaForPreTraining(config).save_pretrained(folder)


def name_of(settings: Path) -> str:
    """Of the results and the page of a settings file."""
    return settings.resolve().parent.name if settings.stem == "bench" else settings.stem


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when runs failed, 2 for bad settings or results of other settings."""
    parser = bench_parser(__name__, __doc__, whole=True)
    parser.add_argument("--settings", type=Path, help="default: benchmarks/quality/bench.yaml")
    parser.add_argument("--out", type=Path, help="results; default: benchmarks/results/NAME")
    parser.add_argument("--work", type=Path, help="data and run folders; default: runs/NAME")
    parser.add_argument("--doc", type=Path, help="report, with a plot beside it; default: docs/NAME.md")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; all of it goes under runs/quality-smoke")
    parser.add_argument("--workers", type=int, default=cores(), help="processes, a thread each")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cells to run, such as 'irra--clean--*--steps'")
    parser.add_argument("--report-only", action="store_true", help="write the report of the results that are there")
    options = parser.parse_args(arguments)
    path = options.settings or HERE / ("smoke.yaml" if options.smoke else "bench.yaml")
    name = name_of(path)
    work = options.work or ROOT / "runs" / ("quality-smoke" if options.smoke else name)
    out = options.out or (work / "results" if options.smoke else RESULTS / name)
    doc = options.doc or (work / "quality.md" if options.smoke else ROOT / "docs" / f"{name}.md")
    failed: Failures = {}
    try:
        settings = load_settings(path)
        if not options.report_only:
            work.mkdir(parents=True, exist_ok=True)
            with FileLock(work / ".lock", blocking=False):
                failed = Bench(settings, out, work, options.workers).run(options.only)
        for name, reason in failed.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)
        command = "python -m benchmarks quality" + (" --smoke" if options.smoke else "")
        command += f" --settings {options.settings}" if options.settings else ""
        write_report(settings, out, doc, command)
    except Timeout:
        print(f"quality: another bench works in {work}; give another --work", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    print(f"{doc} and {out / 'summary.json'}")
    return 1 if failed else 0
