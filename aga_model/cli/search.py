"""`aga search`: rank a gallery for a sentence."""

import json
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging as transformers_logging

from ..retrieval import Gallery, Hit, ModelLoadError, PersonEncoder, TextTruncatedWarning, save_result_picture
from .messages import RENDERED_NOTE, fail, note, shown


def search(
    gallery: Annotated[Path, typer.Argument(help="Folder that `aga index` wrote.")],
    query: Annotated[str, typer.Argument(help="What the person looks like, in a sentence.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Number of results.")] = 10,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write a picture of the results, e.g. result.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
) -> None:
    """Find the person that a sentence describes in a gallery of `aga index`."""
    try:
        _search(gallery, query, top_k, save, as_json, model, device)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        fail(error)


def _search(
    path: Path, query: str, top_k: int, save: Path | None, as_json: bool, model: str | None, device: str | None
) -> None:
    if not query.strip():
        raise ValueError("the query is empty: describe the person in a sentence")
    gallery = Gallery.open(path)
    encoder = _load_encoder(gallery, model, device)
    notes = [RENDERED_NOTE] if encoder.rendered_only else []
    hits = gallery.search(_encode(encoder, query, notes), top_k)[0]
    if top_k > gallery.count():
        notes.append(f"--top-k is {top_k}, but the gallery holds {gallery.count()} images: all of them are listed")
    if save is not None:
        save_result_picture(query, hits, save)
        notes.append(f"picture written to {save}")
    for line in notes:
        note(line)
    if as_json:
        _print_json(gallery, query, top_k, hits, notes)
    else:
        _print_table(hits)


def _load_encoder(gallery: Gallery, model: str | None, device: str | None) -> PersonEncoder:
    transformers_logging.disable_progress_bar()
    try:
        encoder = PersonEncoder.from_pretrained(model or gallery.model_name, device)
    except ModelLoadError as error:
        if model is None:
            raise ModelLoadError(f"{error} (the gallery names this model; give --model if it has moved)") from error
        raise
    gallery.require_model(encoder.model_hash, encoder.name)
    return encoder


def _encode(encoder: PersonEncoder, query: str, notes: list[str]) -> np.ndarray:
    """Embed the query (1, dim); a warning about its length becomes a note."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        embedding = encoder.encode_texts([query])
    notes.extend(str(warning.message) for warning in caught if issubclass(warning.category, TextTruncatedWarning))
    return embedding


def _print_json(gallery: Gallery, query: str, top_k: int, hits: list[Hit], notes: list[str]) -> None:
    result = {
        "query": query,
        "top_k": top_k,
        "gallery": str(gallery.path),
        "gallery_count": gallery.count(),
        "model": gallery.model_name,
        "hits": [{"rank": hit.rank, "score": hit.score, **hit.row} for hit in hits],
        "notes": notes,
    }
    typer.echo(json.dumps(result, indent=2))


def _print_table(hits: list[Hit]) -> None:
    table = Table("rank", "score", "file")
    for hit in hits:
        # Text, because brackets in a file name are no markup; folded, because half a path finds no file.
        table.add_row(str(hit.rank), f"{hit.score:.4f}", Text(shown(hit.path), overflow="fold"))
    Console().print(table)
