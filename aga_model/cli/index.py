"""`aga index`: encode a folder of images into a gallery."""

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from ..data.annotations import detect_dataset
from ..data.files import write_json
from ..retrieval import (
    Gallery,
    GalleryError,
    IndexReport,
    PersonEncoder,
    Skipped,
    find_images,
    index_images,
)
from .messages import RENDERED_NOTE, fail, note, shown

SKIPPED_FILE = "skipped.json"
_LISTED = 20


def index(
    image_dir: Annotated[Path, typer.Argument(help="Folder with person images, searched at any depth.")],
    model: Annotated[str, typer.Option("--model", help="Folder of a saved model, or its name on the Hub.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the gallery: a new one, or one of the same model.")],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per forward pass.")] = 32,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="IMAGE_DIR is a data set: take only this split, e.g. test.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the gallery instead of adding to it.")
    ] = False,
) -> None:
    """
    Encode a folder of person images into a gallery for `aga search`.

    A gallery of the same model is added to: files that it holds unchanged are not encoded again, changed files are.
    """
    try:
        _index(image_dir, model, out, batch_size, device, split, overwrite)
    except torch.OutOfMemoryError:
        fail(f"a batch of {batch_size} images does not fit into the GPU's memory: give a smaller --batch-size")
    except (ValueError, OSError) as error:
        fail(error)


def _index(
    image_dir: Path, model: str, out: Path, batch_size: int, device: str | None, split: str | None, overwrite: bool
) -> None:
    images, skipped = _find(image_dir, out) if split is None else (_find_split(image_dir, split), [])
    gallery = _existing_gallery(out, overwrite)
    transformers_logging.disable_progress_bar()
    encoder = PersonEncoder.from_pretrained(model, device)
    if encoder.rendered_only:
        note(RENDERED_NOTE)
    if gallery is None:
        gallery = Gallery.create(out, encoder.model_hash, encoder.dim, encoder.name, overwrite=overwrite)
    else:
        gallery.require_model(encoder.model_hash, encoder.name)
        note(f"adding to the gallery {out}, which holds {gallery.count()} images")
    track = partial(tqdm, desc="indexing", unit="image", dynamic_ncols=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # files that matter are reported as skipped
        report = index_images(images, encoder, gallery, batch_size, track)
    skipped = sorted([*skipped, *report.skipped], key=lambda item: item.path)
    removed = gallery.delete(item.path for item in skipped)
    write_json(out / SKIPPED_FILE, [{"path": str(item.path), "reason": item.reason} for item in skipped])
    _print_summary(gallery, report, skipped, removed)


def _find(image_dir: Path, out: Path) -> tuple[list[Path], list[Skipped]]:
    """Images and skipped files with absolute paths; the gallery itself may lie among the images."""
    folder, gallery = Path(os.path.abspath(image_dir)), Path(os.path.abspath(out))
    images, skipped = find_images(folder)
    images = [path for path in images if not path.is_relative_to(gallery)]
    skipped = [item for item in skipped if not item.path.is_relative_to(gallery)]
    if not images:
        first = f"; the first, {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise GalleryError(f"no image in {image_dir} ({len(skipped)} other files{first})")
    return images, skipped


def _find_split(image_dir: Path, split: str) -> list[Path]:
    """Absolute paths of a data set's images of one split, each once."""
    # Imported here: only this option needs the libraries of the extra `train`.
    from ..data.benchmarks import load_benchmark

    splits = load_benchmark(detect_dataset(image_dir), image_dir)
    if split not in splits:
        raise ValueError(f"--split {split}: {image_dir} has the splits {', '.join(splits)}")
    return sorted({Path(os.path.abspath(image["path"])) for image in splits[split]["image"]})


def _existing_gallery(out: Path, overwrite: bool) -> Gallery | None:
    if overwrite or not (out / "gallery.json").exists():
        return None
    return Gallery.open(out)


def _print_summary(gallery: Gallery, report: IndexReport, skipped: Sequence[Skipped], removed: int) -> None:
    typer.echo(
        f"{report.encoded} images indexed ({report.added} new, {report.replaced} changed), {report.unchanged} "
        f"unchanged, {len(skipped)} files skipped; {report.seconds:.1f} s, {report.images_per_second:.1f} images/s"
    )
    for item in skipped[:_LISTED]:
        typer.echo(f"  skipped {shown(item.path)}: {shown(item.reason)}")
    if len(skipped) > _LISTED:
        typer.echo(f"  and {len(skipped) - _LISTED} more, see {shown(gallery.path / SKIPPED_FILE)}")
    if removed:
        typer.echo(f"{removed} images removed from the gallery: their files can no longer be read")
    typer.echo(f"gallery {shown(gallery.path)}: {gallery.count()} images, model {shown(gallery.model_name)}")
