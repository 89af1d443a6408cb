"""What the quality bench compares: settings and recipes from YAML, and the cells that follow from them."""

from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

Values = dict[str, Any]
BUDGETS = ("steps", "time")
# Sections that a recipe adds its keys to; every other value of a recipe replaces the common one.
_SECTIONS = ("model_config", "objective_config")
# Keys that may be missing, and that belong to one file alone.
_OWN = ("title", "findings")
# What the bench itself decides about a run.
_DECIDED = (
    "output_dir", "data_root", "model_name_or_path", "seed", "max_steps", "eval_steps", "save_steps",
    "eval_strategy", "save_strategy", "save_total_limit", "noisy_correspondence", "caption_errors", "noise_seed",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """
    One way to fine-tune.

    Args:
        key: stem of its file, which names its cells.
        name: for the tables.
        description: one sentence for the report.
        order: place in the tables.
        run: complete run file without what the bench decides.
    """

    key: str
    name: str
    description: str
    order: int
    run: Values


@dataclass(frozen=True)
class LearningRateSearch:
    """
    The same search for every recipe.

    Args:
        factors: on the recipe's `learning_rate` and `muon_learning_rate`, increasing; a single one means no search.
        seed: none of the seeds that are compared.
        prefer: factor that is taken where its score is at most `near` below the best one, so that recipes differ in
            their learning rates only by what one seed can tell.
        near: as the validation score.
        extend: where the best factor is at an end of the grid, the one beyond it is tried too.
        steps: length of a trial.
    """

    factors: tuple[float, ...]
    seed: int
    prefer: float
    near: float
    extend: bool
    steps: int


@dataclass(frozen=True)
class Calibration:
    """
    How seconds per step are measured, and what counts as equal.

    Args:
        rounds: how often each recipe is timed, in turn.
        steps: steps that are timed each time, after `warm_up` steps.
        same_within: a recipe whose steps at equal time differ by no more than this share from those at equal steps
            is not run twice: its cells count for both budgets.
    """

    rounds: int
    steps: int
    warm_up: int
    same_within: float


@dataclass(frozen=True)
class Settings:
    """
    A settings file.

    Args:
        base_model: folder of the checkpoint that every run starts from, or a mapping with
            `model_config`, `vocab_size` and `seed` for random weights.
        data: arguments of `render_dataset`.
        run: what all runs have in common, as in a run file.
        evaluations: how often a run is validated and saved, at equal distances.
        seeds: of the cells.
        noise: name -> `noisy_correspondence` and `caption_errors` of the training data; the first is the one that
            the others are compared with, and that learning rates are searched on.
        budgets: of `steps` and `time`.
        learning_rates, calibration: see there.
        reference: recipe that the others are compared with.
        measured_on: `test`, or `val` for settling the defaults of a method.
        diagnostic_captions: number of captions that each diagnostic reads.
        rerank: images of each query that a recipe with the loss `itm` also re-ranks; 0 for none.
        keep_models: patterns of cell names whose models are kept and whose word attention is drawn.
        only_recipes: recipes to take of those in the folder; all when empty.
        title: of the report.
        findings: what we read from the results, Markdown for the report; neither is taken over by `extends`.
        recipes: by key, in the order of the tables; from the folder `recipes` beside the file.
    """

    base_model: str | Values
    data: Values
    run: Values
    evaluations: int
    seeds: tuple[int, ...]
    noise: dict[str, dict[str, float]]
    budgets: tuple[str, ...]
    learning_rates: LearningRateSearch
    calibration: Calibration
    reference: str
    measured_on: str
    diagnostic_captions: int
    rerank: int
    keep_models: tuple[str, ...]
    only_recipes: tuple[str, ...]
    title: str
    findings: str
    recipes: dict[str, Recipe]

    @property
    def steps(self) -> int:
        """Steps of the budget of equal steps."""
        return int(self.run["max_steps"])

    @property
    def clean(self) -> str:
        """Name of the first noise setting."""
        return next(iter(self.noise))


@dataclass(frozen=True)
class Cell:
    """One training run of the comparison."""

    recipe: str
    noise: str
    seed: int
    budget: str

    @property
    def name(self) -> str:
        return f"{self.recipe}--{self.noise}--seed{self.seed}--{self.budget}"


def _read_yaml(path: Path) -> Values:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values")
    return values


def _require_keys(path: Path, values: Values, known: set[str], where: str = "") -> None:
    unknown, missing = sorted(values.keys() - known), sorted(known - values.keys())
    if unknown or missing:
        parts = [f"unknown key {key!r}" for key in unknown] + [f"missing key {key!r}" for key in missing]
        raise ValueError(f"{path}{where}: {', '.join(parts)}")


def merge(common: Values, own: Values) -> Values:
    """`common` with the values of `own`; the sections of the model's configuration are merged key by key."""
    merged = deepcopy(common)
    for key, value in own.items():
        if key in _SECTIONS and isinstance(merged.get(key), dict) and isinstance(value, dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _load_recipe(path: Path, common: Values) -> Recipe:
    values = _read_yaml(path)
    if "--" in path.stem:
        raise ValueError(f"{path}: '--' separates the parts of a cell's name, so it cannot be in a recipe's")
    try:
        name, description = str(values.pop("name")), str(values.pop("description"))
    except KeyError as error:
        raise ValueError(f"{path}: missing key {error}") from None
    decided = sorted(values.keys() & set(_DECIDED))
    if decided:
        raise ValueError(f"{path}: {', '.join(decided)} is set by the bench for all recipes alike")
    return Recipe(path.stem, name, description, int(values.pop("order", 100)), merge(common, values))


def _read_settings(path: Path) -> Values:
    """A file on top of the one that it extends: `run` and `learning_rates` key by key, the rest as a whole."""
    own = _read_yaml(path)
    if "extends" not in own:
        return own
    values = _read_settings(path.parent / own.pop("extends"))
    for key in ("run", "learning_rates"):
        if isinstance(own.get(key), dict):
            own[key] = {**values[key], **own[key]}
    return {**values, **dict.fromkeys(_OWN), **own}


def load_settings(path: str | Path) -> Settings:
    """
    Read a settings file and the recipes beside it.

    The key `extends` names another settings file whose values hold where this one has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a key or value that cannot be; names it.
    """
    path = Path(path)
    values = dict.fromkeys(_OWN) | _read_settings(path)
    _require_keys(path, values, {field.name for field in fields(Settings)} - {"recipes"})
    for key, section in (("learning_rates", LearningRateSearch), ("calibration", Calibration)):
        _require_keys(path, values[key], {field.name for field in fields(section)}, f": {key}")
    search = values.pop("learning_rates")
    search["factors"] = tuple(float(factor) for factor in search["factors"])
    only = tuple(values.pop("only_recipes") or ())
    found = (_load_recipe(file, values["run"]) for file in sorted((path.parent / "recipes").glob("*.yaml")))
    recipes = sorted((recipe for recipe in found if not only or recipe.key in only), key=lambda recipe: recipe.order)
    settings = Settings(
        **{
            **values,
            "seeds": tuple(values["seeds"]),
            "budgets": tuple(values["budgets"]),
            "keep_models": tuple(values["keep_models"] or ()),
            "title": values["title"] or "Quality bench",
            "findings": (values["findings"] or "").strip(),
            "noise": {name: dict(noise or {}) for name, noise in values["noise"].items()},
            "calibration": Calibration(**values["calibration"]),
        },
        learning_rates=LearningRateSearch(**search),
        only_recipes=only,
        recipes={recipe.key: recipe for recipe in recipes},
    )
    _check(path, settings)
    return settings


def _check(path: Path, settings: Settings) -> None:
    factors, tried = settings.learning_rates.factors, settings.learning_rates.seed
    wrong = [name for name in (*settings.only_recipes, settings.reference) if name not in settings.recipes]
    for condition, message in (
        (not wrong, f"no recipe {', '.join(wrong)} in {path.parent / 'recipes'}"),
        (bool(settings.seeds), "seeds: give at least one"),
        (tried not in settings.seeds, "learning_rates.seed: one of the seeds that are compared"),
        (factors == tuple(sorted(set(factors))) and len(factors) > 0, "learning_rates.factors: rising, at least one"),
        (bool(settings.budgets) and set(settings.budgets) <= set(BUDGETS), f"budgets: choose of {', '.join(BUDGETS)}"),
        (bool(settings.noise), "noise: give at least one setting"),
        (all("--" not in name for name in settings.noise), "noise: '--' cannot be in a name"),
        ("max_steps" in settings.run, "run.max_steps: give the steps of every run"),
        (settings.measured_on in ("test", "val"), "measured_on: test or val"),
        (settings.evaluations > 0, "evaluations: at least one"),
    ):
        if not condition:
            raise ValueError(f"{path}: {message}")
    for name, noise in settings.noise.items():
        unknown = noise.keys() - {"noisy_correspondence", "caption_errors"}
        if unknown:
            raise ValueError(f"{path}: noise: {name}: unknown key {', '.join(sorted(unknown))}")


def all_cells(settings: Settings) -> list[Cell]:
    """Every cell, so ordered that the first ones give a whole table of one seed."""
    return [
        Cell(recipe, noise, seed, budget)
        for budget in settings.budgets
        for seed in settings.seeds
        for noise in settings.noise
        for recipe in settings.recipes
    ]


def run_values(settings: Settings, recipe: str, noise: str, seed: int, steps: int, factor: float) -> Values:
    """
    The run file of one training, without its folders.

    Args:
        factor: on the learning rates.
    """
    values = deepcopy(settings.recipes[recipe].run)
    for key in ("learning_rate", "muon_learning_rate"):
        if values.get(key):
            values[key] = float(values[key]) * factor
    interval = -(-steps // settings.evaluations)
    values |= {"seed": seed, "max_steps": steps, "eval_steps": interval, "save_steps": interval}
    values |= {"eval_strategy": "steps", "save_strategy": "steps", "save_total_limit": 1}
    if settings.noise[noise]:  # the seed of the cell, so that all recipes see the same noise
        values |= settings.noise[noise] | {"noise_seed": seed}
    return values
