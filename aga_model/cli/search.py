"""`aga search`: rank a gallery for a sentence."""

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging as transformers_logging

from ..retrieval import (
    Filter,
    Gallery,
    Hit,
    ModelLoadError,
    PersonEncoder,
    Reranker,
    TextTruncatedWarning,
    rerank_hits,
    save_result_picture,
)
from .gallery import read_time
from .messages import RENDERED_NOTE, fail, note, shown

_LISTED = 5


def search(
    gallery: Annotated[str, typer.Argument(help="What `aga index` made: a folder or milvus://host:port/collection.")],
    query: Annotated[str, typer.Argument(help="What the person looks like, in a sentence.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Number of results.")] = 10,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", min=1, help="Re-rank the first K images by the model's ITM head and similarity."),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", help="Only images of this camera; repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only images taken then or later: 2026-01-31 or 2026-01-31T18:30.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only images taken before this time, or on this day or before.")
    ] = None,
    person: Annotated[
        list[str] | None, typer.Option("--person", help="Only images of this person id; repeatable.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write a picture of the results, e.g. result.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
) -> None:
    """Find the person that a sentence describes in a gallery of `aga index`."""
    try:
        where = Filter(
            camera or None,
            None if since is None else read_time(since, "--since"),
            None if until is None else read_time(until, "--until", end_of_day=True),
            person or None,
        )
        _search(gallery, query, top_k, rerank, where, save, as_json, model, device)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        fail(error)


def _search(
    location: str,
    query: str,
    top_k: int,
    rerank: int | None,
    where: Filter,
    save: Path | None,
    as_json: bool,
    model: str | None,
    device: str | None,
) -> None:
    if not query.strip():
        raise ValueError("the query is empty: describe the person in a sentence")
    gallery = Gallery.open(location)
    encoder = _load_encoder(gallery, model, device)
    notes = [RENDERED_NOTE] if encoder.rendered_only else []
    reranker = None if rerank is None else Reranker.from_encoder(encoder)
    hits = gallery.search(_encode(encoder, query, notes), max(top_k, rerank or 0), where)[0]
    held = "the gallery holds" if where.is_empty else "the filter leaves"
    if reranker is not None:
        if len(hits) < (rerank or 0):
            notes.append(f"--rerank is {rerank}, but {held} {len(hits)} images: all of them are re-ranked")
        hits = _rerank(reranker, query, hits, rerank or 0, notes)
    if len(hits) < top_k:
        notes.append(f"--top-k is {top_k}, but {held} {len(hits)} images: all of them are listed")
    hits = hits[:top_k]
    if save is not None:
        save_result_picture(query, hits, save)
        notes.append(f"picture written to {save}")
    for line in notes:
        note(line)
    if as_json:
        _print_json(gallery, query, top_k, rerank, hits, notes)
    else:
        _print_table(hits, rerank)


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


def _rerank(reranker: Reranker, query: str, hits: list[Hit], number: int, notes: list[str]) -> list[Hit]:
    """The first `number` hits in the re-ranked order, the rest as it was behind them."""
    first, skipped = rerank_hits(reranker, query, hits[:number])
    for item in skipped[:_LISTED]:
        notes.append(f"behind the re-ranked images, since it cannot be read: {item.path}: {item.reason}")
    if len(skipped) > _LISTED:
        notes.append(f"and {len(skipped) - _LISTED} more images that cannot be read")
    return first + hits[number:]


def _print_json(
    gallery: Gallery, query: str, top_k: int, rerank: int | None, hits: list[Hit], notes: list[str]
) -> None:
    result = {
        "query": query,
        "top_k": top_k,
        "gallery": str(gallery),
        "gallery_count": gallery.count(),
        "model": gallery.model_name,
        "hits": [_json_hit(hit, rerank is not None) for hit in hits],
        "notes": notes,
    }
    if rerank is not None:
        result["rerank"] = rerank
    typer.echo(json.dumps(result, indent=2))


def _json_hit(hit: Hit, reranked: bool) -> dict[str, Any]:
    match = {"itm_score": hit.itm_score} if reranked else {}
    return {"rank": hit.rank, "score": hit.score, **match, **hit.row.to_dict()}


def _print_table(hits: list[Hit], rerank: int | None) -> None:
    table = Table("rank", "score", "file") if rerank is None else Table("rank", "ITM log-odds", "cosine", "file")
    for hit in hits:
        cells = [str(hit.rank), f"{hit.score:.4f}"]
        if rerank is not None:
            cells.insert(1, "" if hit.itm_score is None else f"{hit.itm_score:.3f}")
        # Text, because brackets in a file name are no markup; folded, because half a path finds no file.
        table.add_row(*cells, Text(shown(hit.path), overflow="fold"))
    Console().print(table)
