"""Commands that make, measure and publish models: what they can be asked for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aga_model.defaults import RERANK_MEMORY_MIB, SIMILARITY_WEIGHT

from ..deferred import deferred
from ..options import AuditOption, HideFacesOption, PurposeOption, TrustRemoteCode
from .convert import AUTO, FORMATS


class Direction(StrEnum):
    """What is searched with what."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_TEXT = "image-to-text"
    BOTH = "both"

    @property
    def single(self) -> "list[Direction]":
        """The directions to measure."""
        return [Direction.TEXT_TO_IMAGE, Direction.IMAGE_TO_TEXT] if self is Direction.BOTH else [self]


QUERY_FILES = {Direction.TEXT_TO_IMAGE: "queries.jsonl", Direction.IMAGE_TO_TEXT: "image_queries.jsonl"}


@deferred("aga_model.cli.models.convert")
def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint file; for clip also, for bert only a folder or Hub repository.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    kind: Annotated[
        str, typer.Option("--format", help=f"What it is: {', '.join(FORMATS)}; {AUTO} tells by its weights.")
    ] = AUTO,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            help="CLIP's vocabulary (a folder, Hub repository or bpe_simple_vocab_16e6.txt.gz), or BERT's for albef, "
            "rasa and bert (a folder or Hub repository).",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size", help="Height x width in pixels.", show_default="384x128 for clip, 384x384 for bert"
        ),
    ] = None,
    stride: Annotated[int | None, typer.Option("--stride", help="Of the patches in pixels (irra, rde).")] = None,
    num_heads: Annotated[
        int | None, typer.Option("--num-heads", help="Attention heads (albef, rasa).", show_default="64 wide")
    ] = None,
    text_layers: Annotated[
        int | None,
        typer.Option("--text-layers", help="Of BERT, for the text tower (bert).", show_default="half of them"),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    Turn a checkpoint of CLIP, IRRA, RDE, TBPS-CLIP, ALBEF, RaSa or BERT into a folder for AutoModel and every command.

    Every key of the checkpoint is used, or listed as ignored on purpose; anything else is an error.
    """


@deferred("aga_model.cli.models.export")
def export(
    model: Annotated[str, typer.Argument(help="Folder of a saved model, or its name on the Hub.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write both encoders with weights in int8, for CPUs.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    Write both encoders of a model as ONNX files, checked against PyTorch.

    vision.onnx and text.onnx take any number of images or sentences and give vectors of unit length. The processor's
    files and export.json, which describes the inputs, are written beside them.
    """


@deferred("aga_model.cli.models.push")
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of the model: RUN/model, or one that `aga convert` wrote.")],
    repo: Annotated[
        str, typer.Option("--repo", help="Repository on the Hub, owner/name; created if it is not there.")
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private/--public",
            help="Who can read it. Private unless told otherwise: what is public once cannot be called back, and the "
            "terms of the data may forbid it. A repository that is there keeps its visibility.",
        ),
    ] = True,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to push to, which must be there.", show_default="main")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", help="Of the commit.", show_default="Upload FOLDER")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it as a pull request instead, also to somebody else.")
    ] = False,
) -> None:
    """
    Publish a model on the Hub: check the folder, then upload it in one commit.

    Weights in safetensors, configuration, processor, code and card are uploaded, nothing else. Needs a token that may
    write: `hf auth login`, or HF_TOKEN.
    """


@deferred("aga_model.cli.models.evaluate")
def evaluate(
    model: Annotated[str, typer.Option("--model", help="Folder of a saved model, or its name on the Hub.")],
    data_root: Annotated[Path, typer.Option("--data-root", help="Folder of the dataset.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Layout of the dataset, e.g. cuhk-pedes.")] = "cuhk-pedes",
    split: Annotated[str, typer.Option("--split", help="Split to measure: test, val or train.")] = "test",
    direction: Annotated[
        Direction, typer.Option("--direction", help="Search images by captions, captions by images, or both.")
    ] = Direction.TEXT_TO_IMAGE,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for metrics.json, the result of each query and failures.png.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Compare with another model: the folder of its --out.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images or captions per forward pass.")] = 128,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    rerank: Annotated[
        int | None, typer.Option("--rerank", min=1, help="Also re-rank the first K images of each caption by ITM.")
    ] = None,
    rerank_memory: Annotated[
        int, typer.Option("--rerank-memory", min=1, help="MiB for the states that re-ranking keeps.")
    ] = int(RERANK_MEMORY_MIB),
    rerank_similarity: Annotated[
        float,
        typer.Option(
            "--rerank-similarity",
            help="Weight of the dual encoder's similarity beside the ITM head; 0 for ITM alone, as in ALBEF and RaSa.",
        ),
    ] = SIMILARITY_WEIGHT,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=0, help="Resamplings of the intervals; 0 for none.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of resampling and permutation.")] = 0,
) -> None:
    """
    Measure Rank-1, Rank-5, Rank-10, mAP and mINP with 95% intervals over persons.

    Every caption of the split is a query and every image of the split is in the gallery.
    """


@deferred("aga_model.cli.models.report")
def report(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    gallery: Annotated[str, typer.Option(help="gallery to search, made by `aga index` with the run's model")],
    query: Annotated[list[str], typer.Option(help="sentence to search for; repeat for more")],
    top_k: Annotated[int, typer.Option(min=1, help="results per search")] = 8,
    hide_faces: HideFacesOption = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write RUN/report.html: curves, metrics, AGM's and TEM's view of captions, searches."""
