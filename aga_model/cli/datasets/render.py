"""`aga render`: draws a data set in CUHK-PEDES's layout."""

from pathlib import Path

import typer

from aga_model.data import render_dataset

from ..messages import fail


def render(
    out: Path,
    identities: int,
    seed: int,
    world: str,
    val_identities: int | None,
    test_identities: int | None,
    height: int,
    width: int,
    images_per_identity: str,
    captions_per_image: int,
    lookalikes: int,
    processes: int | None,
    overwrite: bool,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        summary = render_dataset(
            out,
            identities,
            seed,
            world=world,
            val_identities=val_identities,
            test_identities=test_identities,
            height=height,
            width=width,
            images_per_identity=_parse_range(images_per_identity),
            captions_per_image=captions_per_image,
            lookalikes=lookalikes,
            processes=processes,
            overwrite=overwrite,
        )
    except (ValueError, OSError) as error:
        fail(error)
    if summary.skipped:
        typer.echo(f"{out} already holds this set ({summary.images} images); nothing to do.")
        return
    rate = summary.images / summary.seconds
    typer.echo(f"{out}: {summary.images} images in {summary.seconds:.1f} s ({rate:.0f} images/s)")
    for split, counts in summary.splits.items():
        typer.echo(f"  {split}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _parse_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise ValueError(f"images_per_identity must look like 2-4 or 3, got {text!r}") from None
