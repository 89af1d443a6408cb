"""The report of the quality bench: tables in Markdown and a plot."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from aga_model.files import write_json
from benchmarks.quality.settings import Settings, Values
from benchmarks.quality.summary import METRICS, summarise
from benchmarks.reports import table

LABELS = {"rank1": "Rank-1", "mAP": "mAP"}
SPLITS = {
    "test": "the test split, whose persons no run has seen",
    "val": "the validation split itself, which also chose checkpoints and learning rates",
}
BUDGET_TITLES = {"steps": "Equal steps", "time": "Equal time"}
PANELS = {"noisy_correspondence": "Captions of other persons", "caption_errors": "Wrong attribute words"}
# Okabe and Ito's colours, which people with any kind of colour vision tell apart, with a mark each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OPTIMIZERS = {"learning_rate": "AdamW", "muon_learning_rate": "Muon"}
_EQUAL_TIME = (
    "At equal time every recipe has the steps that fit into the time of the one that was slowest at the first "
    "calibration; where they are within {same_within:.0%} of those at equal steps, the same runs count for both. "
)
_MANY = 2.0  # standard errors from which a difference is marked
_NONE = "-"


def write_report(settings: Settings, out: Path, doc: Path, command: str) -> None:
    """
    Write `out/summary.json`, the Markdown file and the plot beside it.

    Raises:
        ValueError: there are no results.
    """
    summary = summarise(settings, out)
    write_json(out / "summary.json", summary)
    doc.parent.mkdir(parents=True, exist_ok=True)
    draw(summary, doc.with_suffix(".png"))
    doc.write_text(page(summary, out, doc, command), encoding="utf-8")


def page(summary: Values, out: Path, doc: Path, command: str) -> str:
    """The Markdown file of results, as it stands at `doc` with its plot beside it."""
    pictures = [Path(os.path.relpath(path, doc.parent)) for path in sorted((out / "pictures").glob("*.png"))]
    return markdown(summary, command, doc.with_suffix(".png").name, pictures)


def _spread(figure: Values | None, seeds: int, digits: int = 1) -> str:
    """`mean ± sd`, with the number of seeds where it is not the whole."""
    if figure is None:
        return _NONE
    sd = "" if figure["sd"] is None else f" ± {figure['sd']:.{digits}f}"
    number = "" if figure["seeds"] == seeds else f" ({figure['seeds']} of {seeds} seeds)"
    return f"{figure['mean']:.{digits}f}{sd}{number}"


def _difference(figure: Values | None) -> str:
    """`+mean ± standard error (how many)`, bold beyond two standard errors."""
    if figure is None:
        return _NONE
    if figure["standard_errors"] is None:
        return f"{figure['mean']:+.2f}"
    text = f"{figure['mean']:+.2f} ± {figure['standard_error']:.2f} ({abs(figure['standard_errors']):.1f})"
    return f"**{text}**" if abs(figure["standard_errors"]) > _MANY else text


def _p_value(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def markdown(summary: Values, command: str, plot: str, pictures: Sequence[Path]) -> str:
    """The report."""
    budgets = summary["results"]
    return "\n".join(
        [
            f"<!-- Written by `{command}`; changes by hand are lost. -->",
            f"# {summary['title']}",
            "",
            *_setup(summary, command),
            *(["## What it shows", "", summary["findings"], ""] if summary["findings"] else []),
            "## Recipes",
            "",
            _recipe_table(summary),
            *_search_notes(summary),
            *[line for budget in budgets for line in _budget(summary, budget)],
            *_plot(summary, plot),
            *_diagnostics(summary),
            *_pictures(pictures),
        ]
    )


def _setup(summary: Values, command: str) -> list[str]:
    data, cells = summary["data"], summary["cells"]
    held_out = data["val_identities"] + data["test_identities"]
    base = summary["base_model"]["name"]
    machines = [
        f"{device['processor']}" + (f" with {device['accelerator']}" if device["accelerator"] else "")
        + f", {device['workers']} processes of {device['threads']} thread"
        for device in summary["devices"]
    ]  # fmt: skip
    versions = [", ".join(f"{name} {version}" for name, version in found.items()) for found in summary["versions"]]
    hours, elapsed = summary["run_seconds"] / 3600, summary["elapsed_seconds"] / 3600
    rows = [
        ("Command", f"`{command}`"),
        ("Base model", f"`{base}`" if isinstance(base, str) else "random weights"),
        (
            "Data",
            f"rendered, world `{data['world']}`, seed {data['seed']}: {data['identities'] - held_out} "
            f"identities to train on, {data['val_identities']} to validate, {data['test_identities']} to test, "
            "all different",
        ),
        ("Seeds", ", ".join(map(str, summary["seeds"]))),
        ("Cells", f"{cells['finished']} of {cells['of']}"),
        ("Hardware", "; ".join(dict.fromkeys(machines))),
        ("Wall time", f"{elapsed:.2f} h of training and testing; {hours:.2f} h summed over {summary['runs']} runs"),
        ("Versions", "; ".join(versions)),
    ]
    return [
        "Every recipe is fine-tuned from the same base model on the same rendered data, with the same seeds and the "
        "same noise in the training captions. The best checkpoint is chosen on the validation split; figures are of "
        f"{SPLITS[summary['measured_on']]}, and its captions have no noise. "
        f"{_EQUAL_TIME.format(**summary) if 'time' in summary['results'] else ''}Percentages throughout.",
        "",
        table(("", ""), rows, text_columns=2),
    ]


def _recipe_table(summary: Values) -> str:
    rows = []
    for key, recipe in summary["recipes"].items():
        factor = recipe["learning_rate_factor"]
        rates = recipe["base_learning_rates"].items()
        chosen = ", ".join(f"{OPTIMIZERS[name]} {rate * factor:g}" for name, rate in rates) if factor else _NONE
        seconds, steps = recipe["seconds_per_step"], recipe["steps_at_equal_time"]
        rows.append(
            (
                f"{recipe['name']} (`{key}`)",
                recipe["description"],
                chosen,
                _NONE if seconds is None else f"{1000 * seconds:.1f}",
                str(summary["steps"]),
                _NONE if steps is None else str(steps),
                " / ".join(f"{recipe['training_seconds'][budget]:.0f}" for budget in recipe["training_seconds"]),
            )
        )
    taken = "measured seconds of training, " + " / ".join(
        BUDGET_TITLES[budget].lower() for budget in summary["results"]
    )
    header = ("recipe", "what it is", "learning rates", "ms per step", "steps", "steps at equal time", taken)
    return table(header, rows, text_columns=3)


def _search_notes(summary: Values) -> list[str]:
    """How the learning rates were chosen."""
    rows, rule = [], summary["learning_rate_rule"]
    for recipe in summary["recipes"].values():
        search = recipe["learning_rate_search"]
        if search:
            tried = ", ".join(f"x{factor}: {score:.1f}" for factor, score in search["validation"].items())
            best = max(search["validation"], key=lambda factor: search["validation"][factor])
            remarks = [f"preferred: x{best} is hardly better"] * (float(best) != search["factor"])
            remarks += ["grid extended by one factor"] * search["extended"]
            remarks += ["the best is at the grid's end"] * search["at_end"]
            rows.append((recipe["name"], tried, f"x{search['factor']:g}", "; ".join(remarks)))
    header = ("recipe", "validation score by factor", "chosen", "remark")
    preferred = (
        f"x{rule['prefer']:g} is taken where its score is at most {rule['near']:g} below the best one, so that "
        "recipes differ in their rates only by what one seed can tell; else the best."
    )
    lines = [
        "Learning rates: the same search for every recipe, on validation with a seed that is not compared. "
        + (preferred if rule["near"] else "The best is taken."),
        "",
        table(header, rows, text_columns=4),
    ]
    return lines if rows else []


def _budget(summary: Values, budget: str) -> list[str]:
    results, noises, recipes = summary["results"][budget], list(summary["noise"]), summary["recipes"]
    seeds = len(summary["seeds"])
    lines = [f"## {BUDGET_TITLES[budget]}", ""]
    for metric in METRICS:
        rows = [
            (recipes[key]["name"], *(_spread(by_noise.get(noise, {}).get(metric), seeds) for noise in noises))
            for key, by_noise in results.items()
        ]
        lines += [f"{LABELS[metric]}, mean ± standard deviation over seeds:", "", table(("recipe", *noises), rows)]
    rows = []
    for row in summary["differences"]:
        if row["budget"] == budget:
            figures = [row["metrics"].get(metric) for metric in METRICS]
            changes = [figure and figure["change"] for figure in figures]
            p_values = [_p_value(figure and figure["p_value"]) for figure in figures]
            rows.append(
                (recipes[row["recipe"]]["name"], row["noise"], _difference(figures[0]), p_values[0],
                 _difference(changes[0]), _difference(figures[1]), p_values[1], _difference(changes[1]))
            )  # fmt: skip
    if rows:
        header = ["recipe", "noise"]
        header += [column for metric in METRICS for column in (f"Δ {LABELS[metric]}", "p", f"less Δ at {noises[0]}")]
        reference = recipes[summary["reference"]]["name"]
        lines += [
            f"Differences from {reference}, paired by seed: mean ± standard error (how many standard errors); those "
            "of more than two standard errors are bold. p is of the paired test over persons, with each query's mean "
            "over seeds, so it leaves out what another training would change. The third column of each metric is the "
            f"difference less that at {noises[0]}, paired by seed."
            + (
                f" With {seeds} seeds pure chance exceeds two standard errors in {chance_beyond(2.0, seeds):.0%} of "
                "such differences."
                if seeds > 1
                else ""
            ),
            "",
            table(header, rows, text_columns=2),
        ]
    return lines + _reranking(summary, budget)


def _reranking(summary: Values, budget: str) -> list[str]:
    recipes, seeds = summary["recipes"], len(summary["seeds"])
    rows = []
    for row in summary["reranking"]:
        if row["budget"] == budget:
            figures = [row["metrics"].get(metric) for metric in METRICS]
            columns = [text for at in figures for text in (_spread(at, seeds), _difference(at and at["difference"]))]
            rows.append((recipes[row["recipe"]]["name"], row["noise"], *columns))
    if not rows:
        return []
    header = ["recipe", "noise"] + [text for metric in METRICS for text in (LABELS[metric], f"Δ {LABELS[metric]}")]
    return [
        f"Re-ranked: the first {summary['rerank']} images of each query ordered by ITM head and similarity, and the "
        "differences from the same model's dual encoder, paired by seed:",
        "",
        table(header, rows, text_columns=2),
    ]


def chance_beyond(errors: float, seeds: int) -> float:
    """Probability that the mean of `seeds` differences of pure chance is that many of its standard errors from 0."""
    degrees = seeds - 1
    t = np.linspace(0.0, errors, 2001)
    constant = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    return float(1 - 2 * np.trapezoid(constant * (1 + t * t / degrees) ** (-(degrees + 1) / 2), t))


def _diagnostics(summary: Values) -> list[str]:
    recipes, seeds = summary["recipes"], len(summary["seeds"])
    if not summary["diagnostics"]:
        return []
    names = (
        "share_attention", "share_random", "attribute_right", "attribute_wrong", "attribute_read",
        "stop_right", "stop_wrong", "stop_read", "repaired", "repairable", "repaired_wrong_image", "spoilt",
    )  # fmt: skip
    header = (
        "recipe", "noise", "attribute share, AGM", "attribute share, random",
        "attribute words, right image", "wrong image", "read from image",
        "stop words, right image", "wrong image", "read from image",
        "TEM repaired", "repairable", "repaired, wrong image", "TEM spoilt",
    )  # fmt: skip
    rows = [
        (recipes[row["recipe"]]["name"], row["noise"], *(_spread(row["figures"].get(name), seeds) for name in names))
        for row in summary["diagnostics"]
    ]
    return [
        "## Diagnostics",
        "",
        f"Of the models at {BUDGET_TITLES[next(iter(summary['results']))].lower()}, mean ± standard deviation over "
        "seeds. *Attribute share*: expected share of the masked tokens of captions that belong to attribute words, "
        "when the model's own attention chooses (AGM) and when all tokens are alike (random). *Right image, wrong "
        "image*: share of hidden words that the MLM names rightly beside the caption's image and beside another "
        "person's; the difference is what it reads from the image. *TEM*, on training captions with errors, also for "
        "recipes that train without it: of the masked wrong attribute phrases the share that it would repair, the "
        "share that one masking could repair at all, and what it repairs beside another person's image; of the masked "
        "right ones the share that it would spoil.",
        "",
        table(header, rows, text_columns=2),
    ]


def _pictures(pictures: Sequence[Path]) -> list[str]:
    if not pictures:
        return []
    lines = ["## Word attention", ""]
    for path in pictures:
        lines += [f"`{path.stem}`:", "", f"![Masking probability of each word]({path.as_posix()})", ""]
    return lines


def _plot(summary: Values, plot: str) -> list[str]:
    lines = _draws_lines(summary)
    what = "Rank-1 of each recipe against the rate of noise" if lines else "Metrics of each recipe"
    hollow = "; hollow ones are re-ranked" if summary["reranking"] and not lines else ""
    points = f"Points are means over seeds, bars their standard deviation{hollow}."
    return [f"## {'Rank-1 against noise' if lines else 'Plot'}", "", f"![{what}]({plot})", "", points, ""]


def _panels(summary: Values) -> dict[str, dict[str, float]]:
    """Of each kind of noise with more than one rate: noise setting -> rate."""
    return {kind: found for kind in PANELS if len(found := _rates(summary["noise"], kind)) > 1}


def _draws_lines(summary: Values) -> bool:
    """Whether there are rates to draw against, and no more recipes than can be told apart."""
    return bool(_panels(summary)) and len(summary["recipes"]) <= len(COLOURS)


def draw(summary: Values, path: Path) -> None:
    """Rank-1 against the rate of each kind of noise, or the metrics of each recipe."""
    figure = _draw_noise(summary) if _draws_lines(summary) else _draw_recipes(summary)
    figure.savefig(path, dpi=110)


def _draw_recipes(summary: Values) -> Figure:
    """
    Means with their deviation, re-ranked ones hollow: a panel for each metric, in a row for each budget; with several
    noise settings a panel for each of them, in a row for each budget and metric.
    """
    budgets, noises, recipes = list(summary["results"]), list(summary["noise"]), list(summary["recipes"])
    several = len(noises) > 1
    grid = [
        [(budget, metric, noise) for noise in noises for metric in ([own] if several else METRICS)]
        for budget in budgets
        for own in (METRICS if several else METRICS[:1])
    ]
    figure = Figure(figsize=(2.4 + 3.6 * len(grid[0]), (1.1 + 0.42 * len(recipes)) * len(grid)), layout="constrained")
    axes = figure.subplots(len(grid), len(grid[0]), squeeze=False, sharey=True, sharex="row" if several else False)
    for row, panels in zip(axes, grid):
        for axis, (budget, metric, noise) in zip(row, panels):
            _draw_recipe_panel(axis, summary, budget, metric, noise)
            axis.set_title(f"{LABELS[metric]}, {noise if several else BUDGET_TITLES[budget].lower()}")
            if several and len(budgets) > 1:
                axis.set_xlabel(f"%, {BUDGET_TITLES[budget].lower()}")
        row[0].set_yticks(range(len(recipes)), [summary["recipes"][key]["name"] for key in recipes])
        row[0].set_ylim(len(recipes) - 0.5, -0.5)
    return figure


def _draw_recipe_panel(axis, summary: Values, budget: str, metric: str, noise: str) -> None:
    reranked = {one["recipe"]: one["metrics"] for one in summary["reranking"]
                if (one["budget"], one["noise"]) == (budget, noise)}  # fmt: skip
    for place, key in enumerate(summary["recipes"]):
        colour = COLOURS[place % len(COLOURS)]
        of_key = (summary["results"][budget].get(key, {}).get(noise), reranked.get(key))
        for figures, aside, face in zip(of_key, (-0.1, 0.15), (colour, "white")):
            if figures:
                one = figures[metric]
                how = {"color": colour, "markerfacecolor": face, "marker": "o", "capsize": 3}
                axis.errorbar(one["mean"], place + aside, xerr=one["sd"] or 0.0, **how)
    axis.set_xlabel("%")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_noise(summary: Values) -> Figure:
    """Rank-1 against the rate, a panel for each kind of noise, a row of panels for each budget."""
    panels, budgets = _panels(summary), list(summary["results"])
    figure = Figure(figsize=(5.2 * len(panels), 3.9 * len(budgets)), layout="constrained")
    axes = figure.subplots(len(budgets), len(panels), squeeze=False, sharey="row")
    for row, budget in zip(axes, budgets):
        for axis, (kind, noises) in zip(row, panels.items()):
            _draw_panel(axis, summary, budget, noises)
            axis.set(title=f"{PANELS[kind]}, {BUDGET_TITLES[budget].lower()}", xlabel="rate")
        row[0].set_ylabel("Rank-1 (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)
    return figure


def _rates(noises: Values, kind: str) -> dict[str, float]:
    """The noise settings that have this kind of noise only, or none, with its rate."""
    alone = (name for name, noise in noises.items() if not any(rate for key, rate in noise.items() if key != kind))
    return {name: noises[name].get(kind, 0.0) for name in alone}


def _draw_panel(axis, summary: Values, budget: str, noises: dict[str, float]) -> None:
    results, recipes = summary["results"][budget], list(summary["recipes"])
    width = 0.012 * max(noises.values())  # side by side, so that the bars can be read
    for place, key in enumerate(recipes):
        at = [(rate, results[key][noise]["rank1"]) for noise, rate in noises.items() if noise in results.get(key, {})]
        if at:
            axis.errorbar(
                [rate + width * (place - (len(recipes) - 1) / 2) for rate, _ in at],
                [figure["mean"] for _, figure in at],
                yerr=[figure["sd"] or 0.0 for _, figure in at],
                label=summary["recipes"][key]["name"],
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place % len(MARKERS)],
                capsize=3,
                linewidth=1.6,
            )
    axis.set_xticks(sorted(noises.values()))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
