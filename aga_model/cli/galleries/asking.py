"""`aga search --server`: the same question, answered by `aga serve`."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aga_model.service import Client

from ..messages import note, shown


def ask(
    server: str,
    sentences: list[str],
    image: Path | None,
    options: dict[str, Any],
    as_json: bool,
    many: bool,
) -> None:
    """
    Print what a service answers, in the form of a search without one.

    Args:
        sentences: to search for; none with an image.
        options: of /v1/search.
        many: whether a list was asked for, also of one sentence.

    Raises:
        ServerError: it cannot be reached, or does not answer; says why.
        OSError: the image cannot be read.
    """
    client = Client(server)
    if image is not None:
        answers = [client.search_image(image, **options)]
    else:
        answers = [client.search(sentence, **options) for sentence in sentences]
    if as_json:
        values = [{"query": answer["query"], "server": server, **options, **answer} for answer in answers]
        typer.echo(json.dumps(values if many else values[0], indent=2))
    for answer in answers:
        if not as_json and many:
            typer.echo(shown(answer["query"]))
        if not as_json:
            print_hits(answer["hits"], any("itm_score" in hit for hit in answer["hits"]))
    for line in dict.fromkeys(line for answer in answers for line in answer["notes"]):
        note(line)


def print_hits(hits: list[dict[str, Any]], reranked: bool) -> None:
    """
    Print hits as a table.

    Args:
        hits: as [`hit_values`] gives them.
        reranked: whether there is a column for what the ITM head says.
    """
    table = Table("rank", "ITM log-odds", "cosine", "file") if reranked else Table("rank", "score", "file")
    for hit in hits:
        cells = [str(hit["rank"]), f"{hit['score']:.4f}"]
        if reranked:
            cells.insert(1, "" if hit.get("itm_score") is None else f"{hit['itm_score']:.3f}")
        # Text, because brackets in a file name are no markup; folded, because half a path finds no file.
        table.add_row(*cells, Text(shown(hit["path"] or hit["source"]), overflow="fold"))
    Console().print(table)
