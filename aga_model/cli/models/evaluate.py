"""`aga evaluate`: measure a model on a split, with intervals, re-ranking, per-query results and failures."""

import json
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from aga_model.evaluation import (
    CONFIDENCE,
    PERMUTATIONS,
    Difference,
    Interval,
    Ranking,
    Record,
    bootstrap_intervals,
    caption_records,
    chance_rank1,
    compare_queries,
    image_records,
    read_records,
    record_values,
    require_same_queries,
    write_records,
)
from aga_model.files import write_json
from aga_model.gallery import GalleryRow, Hit
from aga_model.search import (
    PersonEncoder,
    Reranker,
    save_picture,
    save_result_picture,
    stack_pictures,
)
from aga_model.version import __version__

from ..messages import fail, note, shown
from ..opening import open_split
from .commands import QUERY_FILES, Direction

if TYPE_CHECKING:
    from aga_model.evaluation import SplitEmbeddings

METRICS_FILE = "metrics.json"
FAILURES_FILE = "failures.png"
RERANKED = "text_to_image_reranked"
RERANKED_QUERY_FILE = "reranked_queries.jsonl"
RERANKED_FAILURES_FILE = "reranked_failures.png"
TOP_K = 10
_FAILURES = 8
_LABELS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}


@dataclass
class _Measured:
    """
    One direction, or one direction re-ranked: its ranking, the record of each query, and what follows from them.

    `others` are the metrics that these are compared with; `differences` are there when intervals are asked for.
    """

    ranking: Ranking
    records: list[Record]
    person_ids: np.ndarray
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    differences: dict[str, Difference]
    others: dict[str, float]


def evaluate(
    model: str,
    data_root: Path,
    dataset: str,
    split: str,
    direction: Direction,
    out: Path | None,
    compare: Path | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool,
    rerank: int | None,
    rerank_memory: int,
    rerank_similarity: float,
    bootstrap: int,
    seed: int,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        _evaluate(
            model,
            data_root,
            dataset,
            split,
            direction,
            out,
            compare,
            batch_size,
            device,
            trust_remote_code,
            rerank,
            rerank_memory,
            rerank_similarity,
            bootstrap,
            seed,
        )
    except torch.OutOfMemoryError:
        remedy = "--batch-size" if rerank is None else "--batch-size or --rerank-memory"
        fail(f"a batch of {batch_size} does not fit into the GPU's memory: give a smaller {remedy}")
    except (ValueError, OSError) as error:
        fail(error)


def _evaluate(
    model: str,
    data_root: Path,
    dataset: str,
    split: str,
    direction: Direction,
    out: Path | None,
    compare: Path | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool,
    rerank: int | None,
    rerank_memory: int,
    rerank_similarity: float,
    bootstrap: int,
    seed: int,
) -> None:
    _check_out(out, compare)
    if compare is not None and bootstrap == 0:
        raise ValueError("--compare needs --bootstrap above 0 for the interval of the difference")
    if rerank is not None and Direction.TEXT_TO_IMAGE not in direction.single:
        raise ValueError(f"--rerank re-ranks the images of captions, which --direction {direction} does not measure")
    others = {} if compare is None else {each: read_records(compare / QUERY_FILES[each]) for each in direction.single}
    # Imported here, so that the other commands run without the libraries of the extra `train`.
    from aga_model.evaluation import RetrievalEvaluator

    rows, encoder = open_split(model, data_root, dataset, split, device, trust_remote_code)
    reranker = None if rerank is None else Reranker.from_encoder(encoder, rerank_memory, batch_size, rerank_similarity)
    evaluator = RetrievalEvaluator(rows, encoder.processor, batch_size)
    embedded = evaluator.embed(encoder.model)
    candidates = min(rerank or 0, len(embedded.gallery_paths))
    rankings = {each: _rank(embedded, each, encoder.device, max(TOP_K, candidates)) for each in direction.single}
    measured = {
        each: _measure(embedded, each, ranking, others.get(each), compare, bootstrap, seed)
        for each, ranking in rankings.items()
    }
    report = _describe(encoder, embedded, dataset, split, batch_size, bootstrap, seed)
    for each, found in measured.items():
        report[each.value.replace("-", "_")] = _summary(found)
        _print_table(each.value, found, embedded)
    if compare is not None:
        report["compared_with"] = _other_model(compare)
    reranked = None
    if reranker is not None:
        to_images = Direction.TEXT_TO_IMAGE
        ranking = evaluator.rerank(reranker, rankings[to_images].best(candidates))
        reranked = _measure(embedded, to_images, ranking, measured[to_images].records, None, bootstrap, seed)
        report[RERANKED] = _describe_reranking(reranker, candidates) | _summary(reranked, "difference_to_dual_encoder")
        title = f"text-to-image, first {candidates} images of each caption re-ranked by ITM"
        _print_table(title, reranked, embedded, other="dual encoder")
    if out is not None:
        _write(out, report, measured, reranked, embedded)


def _check_out(out: Path | None, compare: Path | None) -> None:
    if out is None:
        return
    if (out / "run.json").exists():
        raise ValueError(f"--out {out} is the folder of a training run, whose metrics.json stays: give another one")
    if compare is not None and out.resolve() == compare.resolve():
        raise ValueError(f"--out and --compare are the same folder {out}: give another --out")


def _rank(embedded: "SplitEmbeddings", direction: Direction, device: torch.device, top_k: int) -> Ranking:
    to_images = direction is Direction.TEXT_TO_IMAGE
    return embedded.rank_images(top_k, device) if to_images else embedded.rank_captions(top_k, device)


def _measure(
    embedded: "SplitEmbeddings",
    direction: Direction,
    ranking: Ranking,
    others: list[Record] | None,
    where: Path | None,
    bootstrap: int,
    seed: int,
) -> _Measured:
    ranking = ranking.best(TOP_K)
    if direction is Direction.TEXT_TO_IMAGE:
        records = caption_records(embedded, ranking)
        query_ids, gallery_ids = embedded.query_person_ids, embedded.gallery_person_ids
    else:
        records = image_records(embedded, ranking)
        query_ids, gallery_ids = embedded.gallery_person_ids, embedded.query_person_ids
    values = record_values(records)
    metrics = {name: float(row.mean()) for name, row in values.items()}
    metrics["chance_rank1"] = chance_rank1(query_ids, gallery_ids)
    intervals = bootstrap_intervals(values, query_ids, bootstrap, seed=seed) if bootstrap else {}
    differences: dict[str, Difference] = {}
    before: dict[str, float] = {}
    if others is not None:
        require_same_queries(records, others, str(where))
        theirs = record_values(others)
        before = {name: float(row.mean()) for name, row in theirs.items()}
        differences = compare_queries(theirs, values, query_ids, bootstrap, seed=seed) if bootstrap else {}
    return _Measured(ranking, records, query_ids, metrics, intervals, differences, before)


def _describe(
    encoder: PersonEncoder,
    embedded: "SplitEmbeddings",
    dataset: str,
    split: str,
    batch_size: int,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """What was measured with what, as JSON values."""
    size = encoder.processor.image_processor.size
    lengths = map(len, encoder.processor.tokenizer(embedded.captions, verbose=False)["input_ids"])
    return {
        "model": {"name": encoder.name, "sha256": encoder.model_hash},
        "dataset": {
            "name": dataset,
            "split": split,
            "identities": len(np.unique(embedded.gallery_person_ids)),
            "images": len(embedded.gallery_paths),
            "captions": len(embedded.captions),
        },
        "image_size": [size["height"], size["width"]],
        "max_text_tokens": encoder.max_text_tokens,
        "captions_cut": sum(length > encoder.max_text_tokens for length in lengths),
        "ties": "pessimistic: among equal scores irrelevant ones come first",
        "batch_size": batch_size,
        "device": str(encoder.device),
        "bootstrap": {"samples": bootstrap, "confidence": CONFIDENCE, "unit": "person"},
        "permutations": PERMUTATIONS,
        "seed": seed,
        "versions": {
            "aga_model": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _describe_reranking(reranker: Reranker, candidates: int) -> dict[str, Any]:
    """How the candidates were re-ranked, as JSON values."""
    return {
        "candidates": candidates,
        "score": "log-odds of the ITM head + similarity_weight * cosine similarity / temperature",
        "similarity_weight": reranker.similarity_weight,
        "memory_mib": reranker.memory_mib,
    }


def _summary(found: _Measured, difference: str = "difference") -> dict[str, Any]:
    """Figures as JSON values; `difference` is the key of the comparison."""
    summary: dict[str, Any] = {
        "metrics": found.metrics,
        "intervals": {name: [interval.low, interval.high] for name, interval in found.intervals.items()},
        "queries": len(found.records),
    }
    if found.differences:
        summary[difference] = {name: asdict(value) for name, value in found.differences.items()}
    return summary


def _other_model(folder: Path) -> dict[str, Any]:
    """The model of another evaluation, as far as its metrics.json says."""
    try:
        return {"folder": str(folder), **json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["model"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"folder": str(folder)}


def _print_table(title: str, found: _Measured, embedded: "SplitEmbeddings", other: str = "other") -> None:
    persons = len(np.unique(embedded.gallery_person_ids))
    heading = f"{title}, {persons} persons, {len(embedded.gallery_paths)} images, "
    table = Table(title=heading + f"{len(embedded.captions)} captions", title_justify="left")
    columns = ["metric", "percent"] + (["95% interval"] if found.intervals else [])
    columns += [other, "difference"] if found.others else []
    columns += ["95% interval", "p"] if found.differences else []
    for column in columns:
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, label in _LABELS.items():
        value = found.metrics[name]
        cells = [label, f"{value:.2f}"]
        if name in found.intervals:
            cells.append(_shown_interval(found.intervals[name]))
        if name in found.others:
            cells += [f"{found.others[name]:.2f}", f"{value - found.others[name]:+.2f}"]
        if name in found.differences:
            difference = found.differences[name]
            cells += [_shown_interval(difference.interval, "+"), f"{difference.p_value:.4f}"]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(f"Rank-1 of a random order: {found.metrics['chance_rank1']:.2f}%")


def _shown_interval(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.2f} to {interval.high:{sign}.2f}"


def _write(
    out: Path,
    report: dict[str, Any],
    measured: Mapping[Direction, _Measured],
    reranked: _Measured | None,
    embedded: "SplitEmbeddings",
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    records = {QUERY_FILES[direction]: found for direction, found in measured.items()}
    failures = {}
    if Direction.TEXT_TO_IMAGE in measured:
        failures[FAILURES_FILE] = measured[Direction.TEXT_TO_IMAGE]
    if reranked is not None:
        records[RERANKED_QUERY_FILE] = failures[RERANKED_FAILURES_FILE] = reranked
    # What an earlier evaluation left would be compared with, or looked at, as if it were of this model.
    for name in {*QUERY_FILES.values(), RERANKED_QUERY_FILE, FAILURES_FILE, RERANKED_FAILURES_FILE} - set(records):
        (out / name).unlink(missing_ok=True)
    for name, found in records.items():
        write_records(out / name, found.records)
    written = [*records]
    for name, found in failures.items():
        picture = _failures(found, embedded)
        if picture is None:
            which = "query" if name == FAILURES_FILE else "re-ranked query"
            note(f"every {which} found its person at rank 1: there are no failures to draw")
        else:
            save_picture(picture, out / name, "PNG")
            written.append(name)
    write_json(out / METRICS_FILE, report)
    typer.echo(f"written to {shown(out)}: {', '.join([METRICS_FILE, *written])}")


def _worst_queries(found: _Measured) -> list[int]:
    """Queries whose first result is wrong, the worst of each person, from the worst on."""
    ranking = found.ranking
    chosen: dict[int, int] = {}
    for index in np.lexsort((ranking.average_precision, -ranking.first_rank)).tolist():
        if ranking.first_rank[index] > 1:
            chosen.setdefault(int(found.person_ids[index]), index)
    return list(chosen.values())[:_FAILURES]


def _failures(found: _Measured, embedded: "SplitEmbeddings") -> Image.Image | None:
    """The worst queries with their best images, right ones framed green and wrong ones red; None without a failure."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for index in _worst_queries(found):
            record = found.records[index]
            indices = found.ranking.top_indices[index].tolist()
            hits = [
                Hit(rank, entry["score"], GalleryRow(embedded.gallery_paths[row]))
                for rank, (row, entry) in enumerate(zip(indices, record["top"]), start=1)
            ]
            correct = [entry["person_id"] == record["person_id"] for entry in record["top"]]
            sentence = (
                f"{record['caption']} [person {record['person_id']}: first at rank {record['first_rank']} of "
                f"{len(embedded.gallery_paths)}]"
            )
            pictures.append(save_result_picture(sentence, hits, Path(folder) / "query.png", correct))
    return stack_pictures(pictures) if pictures else None
