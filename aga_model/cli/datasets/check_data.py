"""`aga check-data`: says what is wrong with a dataset on disk."""

import warnings
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from aga_model.data import Problem, SplitSize
from aga_model.files import write_json

from ..messages import fail, shown

_LISTED = 5


def check_data(root: Path, dataset: str | None, report: Path | None) -> None:
    """What the command does; `commands` declares it."""
    # Imported here, so that the other commands do not wait for it.
    from aga_model.data import check_dataset

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # what matters is reported
            result = check_dataset(root, dataset)
        if report is not None:
            write_json(report, result.to_json())
    except (OSError, ValueError) as error:
        fail(error)
    found = result.examination
    typer.echo(f"{found.format.title}: {shown(found.annotation)}, images in {shown(found.image_folder)}")
    Console().print(_table(found.sizes, result.published))
    for problem in found.problems:
        _print_problem(problem)
    verdict = "nothing is wrong" if result.ok else "there are problems"
    typer.echo(f"{verdict}; {result.images:,} image files decoded")
    raise typer.Exit(0 if result.ok else 1)


def _table(sizes: dict[str, SplitSize], published: dict[str, SplitSize]) -> Table:
    """One row per split, with every published figure that there is."""
    figures = ("identities", "images", "captions")
    table = Table("split", *figures)
    for split in dict.fromkeys([*published, *sizes]):
        found, wanted = sizes.get(split), published.get(split)
        table.add_row(split, *(_figure(getattr(found, what, 0), getattr(wanted, what, None)) for what in figures))
    return table


def _figure(found: int, published: int | None) -> str:
    if published is None:
        return f"{found:,}"
    return f"{found:,} as published" if found == published else f"{found:,}, published {published:,}"


def _print_problem(problem: Problem) -> None:
    if problem.count == 1 and problem.places[0].record is None:
        typer.echo(f"{problem.severity} {problem.kind}: {shown(problem.places[0].detail)}")
    else:
        typer.echo(f"{problem.severity} {problem.kind}: {problem.counted}: {problem.count:,}")
        for place in problem.places[:_LISTED]:
            typer.echo(f"  {shown(place)}")
        if len(problem.places) > _LISTED:
            typer.echo("  and more")
    if problem.advice:
        typer.echo(f"  {shown(problem.advice)}")
