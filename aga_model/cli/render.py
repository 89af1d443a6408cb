"""`aga render`: draws a data set in CUHK-PEDES's layout."""

from pathlib import Path
from typing import Annotated

import typer

from aga_model.data import render_dataset

from .messages import fail


def render(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    identities: Annotated[int, typer.Option(help="Number of people, at least 3.")],
    seed: Annotated[int, typer.Option(help="Seed of all chance: the same seed draws the same set.")],
    world: Annotated[
        str, typer.Option(help="Look and captions: target, or base, which the base model is trained on.")
    ] = "target",
    val_identities: Annotated[
        int | None, typer.Option(help="People of the validation split.", show_default="about 5%")
    ] = None,
    test_identities: Annotated[
        int | None, typer.Option(help="People of the test split.", show_default="about 10%")
    ] = None,
    height: Annotated[int, typer.Option(help="Height of each picture in pixels.")] = 384,
    width: Annotated[int, typer.Option(help="Width of each picture in pixels.")] = 128,
    images_per_identity: Annotated[
        str, typer.Option(help="Pictures of each person: fewest-most, or one number.")
    ] = "2-4",
    captions_per_image: Annotated[int, typer.Option(help="Captions of each picture.")] = 2,
    lookalikes: Annotated[
        int, typer.Option(help="People come in groups of so many who differ in two things only.")
    ] = 1,
    processes: Annotated[int | None, typer.Option(help="Worker processes.", show_default="one per processor")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another rendering in the folder.")] = False,
) -> None:
    """Draw pedestrians with captions, laid out on disk as CUHK-PEDES.

    The pictures are drawings, not photographs of people. They let every other command run where no real data set is
    at hand.
    """
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
