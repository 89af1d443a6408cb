"""`aga convert`: other people's checkpoints in."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .messages import fail

FORMATS = ("clip", "irra", "rde", "tbps-clip")
WITH_STRIDE = ("irra", "rde")


def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint file; for clip also a folder or Hub repository.")],
    kind: Annotated[str, typer.Option("--format", help=f"What it is: {', '.join(FORMATS)}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", help="CLIP's vocabulary: a folder, Hub repository or bpe_simple_vocab_16e6.txt.gz."
        ),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option("--image-size", help="Height x width in pixels.", show_default="384x128 for clip")
    ] = None,
    stride: Annotated[int | None, typer.Option("--stride", help="Of the patches in pixels (irra, rde).")] = None,
) -> None:
    """
    Turn a checkpoint of CLIP, IRRA, RDE or TBPS-CLIP into a folder for AutoModel and every command here.

    Every key of the checkpoint is used, or listed as ignored on purpose; anything else is an error.
    """
    # Imported here, so that the other commands do not wait for it.
    from aga_model.conversion import load_clip, load_irra, load_rde, load_tbps_clip

    loaders: dict[str, Callable[..., Any]] = dict(zip(FORMATS, (load_clip, load_irra, load_rde, load_tbps_clip)))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("aga_model.conversion").setLevel(logging.INFO)
    try:
        if kind not in loaders:
            raise ValueError(f"unknown --format {kind!r}; known: {', '.join(FORMATS)}")
        if stride is not None and kind not in WITH_STRIDE:
            raise ValueError(f"--stride belongs to --format {' and '.join(WITH_STRIDE)}")
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty")
        options: dict[str, Any] = {"tokenizer": tokenizer}
        if image_size is not None:
            options["image_size"] = _parse_size(image_size)
        if stride is not None:
            options["stride"] = stride
        model, processor = loaders[kind](source, **options)
        if processor is None:
            raise ValueError(
                f"{source}: no CLIP vocabulary beside the weights; give --tokenizer a folder with vocab.json and "
                "merges.txt, a Hub repository, or bpe_simple_vocab_16e6.txt.gz of the method's code"
            )
    except (OSError, ValueError) as error:
        fail(error)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    vision = model.config.vision_config
    height, width = vision.image_height_width
    count = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(f"{out}: {type(model).__name__}, {count / 1e6:.1f} M parameters, images {height}x{width}")


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--image-size must look like 384x128 (height x width), got {text!r}")
    return int(height), int(width)
