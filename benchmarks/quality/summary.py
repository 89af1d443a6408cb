"""The figures of the quality bench from the results of its cells: means, spread, paired differences."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aga_model.evaluation.significance import compare_queries
from benchmarks.quality.settings import Cell, Settings, Values, all_cells, run_values

METRICS = ("rank1", "mAP")
# What the diagnostics table shows: name -> keys in a cell's `diagnostics`.
DIAGNOSTICS = {
    "share_attention": ("attribute_share", "attention"),
    "share_random": ("attribute_share", "random"),
    "attribute_right": ("mlm_accuracy", "attribute", "right_image"),
    "attribute_wrong": ("mlm_accuracy", "attribute", "wrong_image"),
    "attribute_read": ("mlm_accuracy", "attribute", "read_from_image"),
    "stop_right": ("mlm_accuracy", "stop", "right_image"),
    "stop_wrong": ("mlm_accuracy", "stop", "wrong_image"),
    "stop_read": ("mlm_accuracy", "stop", "read_from_image"),
    "repaired": ("enrichment_truth", "repaired"),
    "repairable": ("enrichment_truth", "repairable"),
    "repaired_wrong_image": ("enrichment_truth_wrong_image", "repaired"),
    "spoilt": ("enrichment_truth", "spoilt"),
}
Results = dict[Cell, Values]


def mean_sd(values: Iterable[float]) -> Values:
    """`mean`, `sd` (of a sample; None of one value) and `seeds`, the number of values."""
    found = np.array(list(values), dtype=np.float64)
    sd = float(found.std(ddof=1)) if len(found) > 1 else None
    return {"mean": float(found.mean()), "sd": sd, "seeds": len(found)}


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Values | None:
    """
    Second minus first over the seeds that both have; None without one.

    Returns:
        `mean`; `standard_error`, the sample's sd of the differences over the root of their number; `standard_errors`,
        how many of these the mean is from zero (both None for one seed, the latter also where all are equal);
        `seeds`, their number.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    spread = mean_sd(second[seed] - first[seed] for seed in seeds)
    error = None if spread["sd"] is None else spread["sd"] / len(seeds) ** 0.5
    return {
        "mean": spread["mean"],
        "standard_error": error,
        "standard_errors": spread["mean"] / error if error else None,
        "seeds": len(seeds),
    }


def read_results(settings: Settings, out: Path) -> Results:
    """
    The cells that are finished.

    A recipe that has as many steps at equal time as at equal steps has its cells once, and they count for both.

    Raises:
        ValueError: there is none, they are of different data or base models, or one was made with another recipe,
            learning rate or number of steps than there are now.
    """
    calibration, rates = _read_if_there(out / "calibration.json"), _read_if_there(out / "learning_rates.json")
    found: Results = {}
    for cell in all_cells(settings):
        source = cell
        if cell.budget == "time" and _steps(calibration, cell.recipe) == settings.steps:
            source = Cell(cell.recipe, cell.noise, cell.seed, "steps")
        result = _read_if_there(out / "cells" / f"{source.name}.json")
        if result:
            steps = settings.steps if source.budget == "steps" else _steps(calibration, cell.recipe)
            factor = rates.get(cell.recipe, {}).get("factor", result["learning_rate_factor"])
            run = run_values(settings, cell.recipe, cell.noise, cell.seed, steps or result["steps"], factor)
            if json.loads(json.dumps(run)) != result["settings"]["run"]:
                raise ValueError(
                    f"{out / 'cells' / source.name}.json was made with other settings than {cell.recipe!r} has now; "
                    "delete it to have it made again, or give another --out"
                )
            found[cell] = result
    if not found:
        raise ValueError(f"no result of these settings in {out / 'cells'}")
    for part in ("data", "base_model"):
        if len({json.dumps(result["settings"][part], sort_keys=True) for result in found.values()}) > 1:
            raise ValueError(f"{out / 'cells'}: the results differ in {part}; delete those that are out of date")
    return found


def _read_if_there(path: Path) -> Values:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _steps(calibration: Values, recipe: str) -> int | None:
    return calibration.get("recipes", {}).get(recipe, {}).get("steps")


def summarise(settings: Settings, out: Path) -> Values:
    """
    Everything that the report shows, as JSON values.

    Args:
        out: folder of the results. p-values are None where `records` in it lacks a cell.
    """
    results = read_results(settings, out)
    first = next(iter(results.values()))
    unique = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/*.json"))}
    return {
        "title": settings.title,
        "findings": settings.findings,
        "seeds": list(settings.seeds),
        "noise": settings.noise,
        "steps": settings.steps,
        "measured_on": settings.measured_on,
        "rerank": settings.rerank,
        "same_within": settings.calibration.same_within,
        "reference": settings.reference,
        "data": first["settings"]["data"],
        "base_model": {"name": settings.base_model, "sha256": first["settings"]["base_model"]},
        "cells": {"finished": len(results), "of": len(all_cells(settings))},
        "learning_rate_rule": {"prefer": settings.learning_rates.prefer, "near": settings.learning_rates.near},
        "recipes": _recipes(settings, out, results),
        "results": _results(settings, results),
        "reranking": _reranking(settings, results),
        "differences": _differences(settings, results, out / "records"),
        "diagnostics": _diagnostics(settings, results),
        "devices": _distinct(result["device"] for result in unique.values()),
        "versions": _distinct(result["versions"] for result in unique.values()),
        "runs": len(unique),
        "run_seconds": sum(result["seconds"]["wall"] for result in unique.values()),
        "elapsed_seconds": sum(result["seconds"]["wall"] / result["device"]["workers"] for result in unique.values()),
    }


def _distinct(values: Iterable[Values]) -> list[Values]:
    return [json.loads(text) for text in sorted({json.dumps(value, sort_keys=True) for value in values})]


def _training_seconds(settings: Settings, results: Results, recipe: str) -> dict[str, float]:
    """budget -> mean over the finished cells."""
    seconds = {
        budget: [
            result["seconds"]["training"]
            for cell, result in results.items()
            if (cell.recipe, cell.budget) == (recipe, budget)
        ]
        for budget in settings.budgets
    }
    return {budget: float(np.mean(found)) for budget, found in seconds.items() if found}


def _recipes(settings: Settings, out: Path, results: Results) -> Values:
    rates, calibration = _read_if_there(out / "learning_rates.json"), _read_if_there(out / "calibration.json")
    factors = settings.learning_rates.factors
    unsearched = factors[0] if len(factors) == 1 else None
    return {
        key: {
            "name": recipe.name,
            "description": recipe.description,
            "base_learning_rates": {
                name: recipe.run[name] for name in ("learning_rate", "muon_learning_rate") if recipe.run.get(name)
            },
            "learning_rate_search": rates.get(key),
            "learning_rate_factor": rates.get(key, {}).get("factor", unsearched),
            "seconds_per_step": calibration.get("recipes", {}).get(key, {}).get("seconds_per_step"),
            "steps_at_equal_time": _steps(calibration, key),
            "training_seconds": _training_seconds(settings, results, key),
        }
        for key, recipe in settings.recipes.items()
    }


def _by_seed(settings: Settings, results: Results, recipe: str, noise: str, budget: str, metric: str):
    """seed -> metric, of the finished cells."""
    cells = [cell for seed in settings.seeds if (cell := Cell(recipe, noise, seed, budget)) in results]
    return {cell.seed: found for cell in cells if (found := results[cell]["metrics"].get(metric)) is not None}


def _results(settings: Settings, results: Results) -> Values:
    """budget -> recipe -> noise -> metric -> mean, sd."""
    found: Values = {}
    for budget in settings.budgets:
        for recipe in settings.recipes:
            for noise in settings.noise:
                for metric in METRICS:
                    values = _by_seed(settings, results, recipe, noise, budget, metric)
                    if values:
                        at = found.setdefault(budget, {}).setdefault(recipe, {}).setdefault(noise, {})
                        at[metric] = mean_sd(values.values())
    return found


def _reranking(settings: Settings, results: Results) -> list[Values]:
    """Of recipes with an ITM head: the re-ranked figures and how far they are from the dual encoder's, by seed."""
    rows = []
    for budget in settings.budgets:
        for noise in settings.noise:
            for recipe in settings.recipes:
                row: Values = {"budget": budget, "noise": noise, "recipe": recipe, "metrics": {}}
                for metric in METRICS:
                    before, after = (_by_seed(settings, results, recipe, noise, budget, name)
                                     for name in (metric, f"reranked_{metric}"))  # fmt: skip
                    if after:
                        difference = paired_difference(before, after)
                        row["metrics"][metric] = {**mean_sd(after.values()), "difference": difference}
                if row["metrics"]:
                    rows.append(row)
    return rows


def _differences(settings: Settings, results: Results, records: Path) -> list[Values]:
    """
    Each recipe against the reference: paired by seed, and query by query with the seeds' mean.

    `change` is the difference less the difference of the same seed at the first noise setting.
    """
    rows = []
    for budget in settings.budgets:
        for noise in settings.noise:
            for recipe in settings.recipes:
                if recipe == settings.reference:
                    continue
                row: Values = {"budget": budget, "noise": noise, "recipe": recipe, "metrics": {}}
                p_values = _p_values(settings, results, records, recipe, noise, budget)
                for metric in METRICS:
                    here, clean = (_seed_differences(settings, results, recipe, at, budget, metric)
                                   for at in (noise, settings.clean))  # fmt: skip
                    difference = paired_difference(dict.fromkeys(here, 0.0), here)
                    if difference:
                        difference["p_value"] = p_values.get(metric)
                        difference["change"] = None if noise == settings.clean else paired_difference(clean, here)
                        row["metrics"][metric] = difference
                if row["metrics"]:
                    rows.append(row)
    return rows


def _seed_differences(settings: Settings, results: Results, recipe: str, noise: str, budget: str, metric: str):
    """seed -> recipe minus reference, of the seeds that both have."""
    first, second = (_by_seed(settings, results, key, noise, budget, metric) for key in (settings.reference, recipe))
    return {seed: second[seed] - first[seed] for seed in sorted(first.keys() & second.keys())}


def _p_values(
    settings: Settings, results: Results, records: Path, recipe: str, noise: str, budget: str
) -> dict[str, float]:
    """Of the paired test over persons, with each query's mean over the seeds; empty without the records."""
    values: dict[str, list[dict[str, np.ndarray]]] = {settings.reference: [], recipe: []}
    persons = None
    for seed in settings.seeds:
        cells = {key: Cell(key, noise, seed, budget) for key in values}
        if not all(cell in results for cell in cells.values()):
            continue
        for key, cell in cells.items():
            path = records / f"{_source(cell, results).name}.npz"
            if not path.is_file():
                return {}
            with np.load(path) as found:
                persons = found["person_ids"]
                ranks, precision = found["first_rank"], found["average_precision"]
            values[key].append({"rank1": 100.0 * (ranks <= 1), "mAP": 100.0 * precision})
    if persons is None:
        return {}
    means = {
        key: {metric: np.mean([row[metric] for row in rows], axis=0) for metric in METRICS}
        for key, rows in values.items()
    }
    compared = compare_queries(means[settings.reference], means[recipe], persons)
    return {metric: difference.p_value for metric, difference in compared.items()}


def _source(cell: Cell, results: Results) -> Cell:
    """The cell that was run for this one."""
    return Cell(cell.recipe, cell.noise, cell.seed, results[cell]["budget"])


def _diagnostics(settings: Settings, results: Results) -> list[Values]:
    """Means over seeds of what the cells of the first budget found; recipes without an MLM are left out."""
    rows = []
    for noise in settings.noise:
        for recipe in settings.recipes:
            cells = [Cell(recipe, noise, seed, settings.budgets[0]) for seed in settings.seeds]
            found = [results[cell]["diagnostics"] for cell in cells if cell in results]
            values = {name: [at for own in found if (at := _nested(own, keys)) is not None]
                      for name, keys in DIAGNOSTICS.items()}  # fmt: skip
            figures = {name: mean_sd(listed) for name, listed in values.items() if listed}
            if figures:
                rows.append({"noise": noise, "recipe": recipe, "figures": figures})
    return rows


def _nested(values: Values, keys: tuple[str, ...]) -> float | None:
    at: Any = values
    for key in keys:
        at = at.get(key) if isinstance(at, dict) else None
    return at
