"""The result of every query as a record, written and read as JSON lines."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aga_model.files import whole_file

from .metrics import RANKS
from .ranking import Ranking

if TYPE_CHECKING:  # it needs the libraries of the extra `train`, which records do not
    from .retrieval import SplitEmbeddings

Record = dict[str, Any]  # of one query: what it was, its metrics and its first results
_KEY = ("image_id", "person_id", "caption")


def caption_records(split: "SplitEmbeddings", ranking: Ranking) -> list[Record]:
    """
    What each caption found among the images.

    Returns:
        one record per query: `caption`, `person_id`, `image_id` (of the image that the caption describes),
        `relevant` (number of images of the person), `first_rank`, `last_rank`, `AP` and `INP` in percent, and `top`:
        the best images from rank 1 on with `image_id`, `person_id` and `score` (cosine).
    """
    queries = [
        {"caption": caption, "person_id": int(person), "image_id": int(image)}
        for caption, person, image in zip(split.captions, split.query_person_ids, split.query_image_ids)
    ]
    gallery = [
        {"image_id": int(image), "person_id": int(person)}
        for image, person in zip(split.gallery_image_ids, split.gallery_person_ids)
    ]
    return _records(queries, gallery, ranking)


def image_records(split: "SplitEmbeddings", ranking: Ranking) -> list[Record]:
    """
    What each image found among the captions.

    Returns:
        as [`caption_records`] without `caption`, which the entries of `top` have instead.
    """
    queries = [
        {"person_id": int(person), "image_id": int(image)}
        for image, person in zip(split.gallery_image_ids, split.gallery_person_ids)
    ]
    gallery = [
        {"caption": caption, "image_id": int(image), "person_id": int(person)}
        for caption, image, person in zip(split.captions, split.query_image_ids, split.query_person_ids)
    ]
    return _records(queries, gallery, ranking)


def _records(queries: Sequence[Record], gallery: Sequence[Record], ranking: Ranking) -> list[Record]:
    results = zip(
        ranking.number_relevant.tolist(),
        ranking.first_rank.tolist(),
        ranking.last_rank.tolist(),
        (100.0 * ranking.average_precision).tolist(),
        (100.0 * ranking.inverse_negative_penalty).tolist(),
        ranking.top_indices.tolist(),
        ranking.top_scores.tolist(),
    )
    return [
        {
            **query,
            "relevant": relevant,
            "first_rank": first,
            "last_rank": last,
            "AP": precision,
            "INP": penalty,
            "top": [{**gallery[index], "score": score} for index, score in zip(top, scores)],
        }
        for query, (relevant, first, last, precision, penalty, top, scores) in zip(queries, results)
    ]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, so that the file is there whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_records(path: str | Path) -> list[Record]:
    """
    Read what [`write_records`] wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no record of a query (names it).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give a folder that `aga evaluate --out` wrote")
    records = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                complete = all(isinstance(record[key], int | float) for key in ("image_id", "first_rank", "AP", "INP"))
            except (json.JSONDecodeError, KeyError, TypeError):
                complete = False
            if not complete:
                raise ValueError(f"{path}: line {number} is no result of a query; evaluate again with --out")
            records.append(record)
    return records


def record_values(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The values of [`query_values`] from records."""
    first_rank = np.array([record["first_rank"] for record in records])
    values = {f"rank{k}": 100.0 * (first_rank <= k) for k in RANKS}
    for name, key in (("mAP", "AP"), ("mINP", "INP")):
        values[name] = np.array([record[key] for record in records], dtype=np.float64)
    return values


def require_same_queries(records: Sequence[Record], others: Sequence[Record], where: str | Path) -> None:
    """Raise ValueError, naming the first difference, when `others` (from `where`) are not of the same queries."""
    if len(records) != len(others):
        raise ValueError(
            f"{where} holds {len(others)} queries, this evaluation {len(records)}: compare the same split"
        )
    for number, (record, other) in enumerate(zip(records, others), start=1):
        for key in _KEY:
            if record.get(key) != other.get(key):
                raise ValueError(
                    f"{where}: query {number} has {key} {other.get(key)!r}, here it is {record.get(key)!r}: compare "
                    "evaluations of the same split"
                )
