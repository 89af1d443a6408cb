"""Commands that draw and examine data sets: what they can be asked for."""

from pathlib import Path
from typing import Annotated

import typer

from ..deferred import deferred
from ..options import TrustRemoteCode


@deferred("aga_model.cli.datasets.render")
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


@deferred("aga_model.cli.datasets.check_data")
def check_data(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset, or the one above it.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="cuhk-pedes, icfg-pedes, rstp-reid, ufine6926 or own.",
            show_default="told by the annotation file",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Write everything that was found as JSON.")] = None,
) -> None:
    """
    Compare a dataset with what was published, examine every record and decode every image.

    Ends with 0 where nothing is wrong (there may be remarks), 1 where there are problems, 2 where it cannot be read.
    """


@deferred("aga_model.cli.datasets.wrong_pairs")
def wrong_pairs(
    model: Annotated[str, typer.Option("--model", help="Folder of a saved model, or its name on the Hub.")],
    data_root: Annotated[Path, typer.Option("--data-root", help="Folder of the dataset.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Layout of the dataset, e.g. cuhk-pedes.")] = "cuhk-pedes",
    split: Annotated[str, typer.Option("--split", help="Split to look at: train, val or test.")] = "train",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for wrong_pairs.json, which lists all, and wrong_pairs.png.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images or captions per forward pass.")] = 128,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the pairs of strangers to compare with.")] = 0,
) -> None:
    """
    Find captions that describe another person than their image shows, as far as the model can tell.

    A caption is named when it is more likely wrong than right. Mend or remove what really is; a run with
    --leave_out_wrong_pairs leaves them out by itself.
    """
