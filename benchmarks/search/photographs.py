"""
How well a model finds people in photographs with captions written by hand.

    python -m benchmarks photographs --images FOLDER --queries benchmarks/search/street_crops.yaml

Prints the average precision of each sentence beside that of a random order, writes both as JSON, and a picture of the
first results of each sentence (green frame: shows what the sentence says).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from aga_model.evaluation.metrics import retrieval_metrics
from aga_model.files import read_image
from aga_model.gallery import GalleryRow, Hit
from aga_model.search import PersonEncoder, save_result_picture
from benchmarks.places import SMALL_MODEL
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser


@dataclass
class QueryResult:
    """One sentence: average precision (percent), that of a random order, and the first results with their truth."""

    text: str
    relevant: int
    images: int
    average_precision: float
    chance: float
    first: list[str]
    first_relevant: list[bool]


def chance_average_precision(relevant: int, images: int) -> float:
    """Expected average precision (percent) of a random order."""
    harmonic = sum(1 / rank for rank in range(1, images + 1))
    rest = (relevant - 1) / (images - 1) * (images - harmonic) if images > 1 else 0.0
    return 100 * (harmonic + rest) / images


def read_queries(path: Path, folder: Path) -> list[tuple[str, dict[Path, bool]]]:
    """
    Each sentence with the images that count and whether they are relevant.

    Raises:
        FileNotFoundError: an image that the file names is not in the folder.
    """
    description = yaml.safe_load(path.read_text(encoding="utf-8"))
    suffix = description["suffix"]
    images = sorted(folder.glob(f"*{suffix}"))
    queries = []
    for query in description["queries"]:
        named = {folder / f"{name}{suffix}" for name in [*query["relevant"], *query.get("unclear", [])]}
        if missing := sorted(str(name) for name in named - set(images)):
            raise FileNotFoundError(f"{path}, query {query['text']!r}: no image {missing[0]}")
        unclear = {folder / f"{name}{suffix}" for name in query.get("unclear", [])}
        relevant = named - unclear
        queries.append((query["text"], {image: image in relevant for image in images if image not in unclear}))
    return queries


def rank_all(encoder: PersonEncoder, queries: list[tuple[str, dict[Path, bool]]], out: Path) -> list[QueryResult]:
    """The result of each sentence; pictures of the first hits go into a folder."""
    paths = sorted({path for _, judged in queries for path in judged})
    embeds = dict(zip(paths, encoder.encode_images([read_image(path) for path in paths])))
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for number, (text, judged) in enumerate(queries, start=1):
        shown = list(judged)
        scores = encoder.encode_texts([text]) @ np.stack([embeds[path] for path in shown]).T
        order = np.argsort(-scores[0], kind="stable")[:10]
        hits = [Hit(rank, float(scores[0, i]), GalleryRow(str(shown[i]))) for rank, i in enumerate(order, start=1)]
        correct = [judged[shown[i]] for i in order]
        save_result_picture(text, hits, out / f"{number:02d}.png", correct)
        relevant = sum(judged.values())
        average_precision = retrieval_metrics(scores, [1], [int(judged[path]) for path in shown])["mAP"]
        chance = chance_average_precision(relevant, len(shown))
        names = [hit.path.name for hit in hits]
        results.append(
            QueryResult(text, relevant, len(shown), round(average_precision, 2), round(chance, 2), names, correct)
        )
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__, whole=True)
    parser.add_argument("--model", default=str(SMALL_MODEL))
    parser.add_argument("--images", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--queries", type=Path, default=Path(__file__).with_name("street_crops.yaml"))
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"), help="folder for JSON and pictures")
    args = parser.parse_args(arguments)

    results = rank_all(PersonEncoder.from_pretrained(args.model), read_queries(args.queries, args.images), args.out)
    table = Table("sentence", "relevant", "AP %", "random %", "first five")
    for result in results:
        marks = "".join("x" if right else "." for right in result.first_relevant[:5])
        table.add_row(
            result.text,
            f"{result.relevant} of {result.images}",
            f"{result.average_precision:.1f}",
            f"{result.chance:.1f}",
            marks,
        )
    means = [float(np.mean([getattr(result, name) for result in results])) for name in ("average_precision", "chance")]
    table.add_row("mean", "", f"{means[0]:.1f}", f"{means[1]:.1f}", "")
    Console().print(table)
    write_result(
        args.out / "photographs.json",
        {"model": args.model, "queries": args.queries.name},
        ("torch",),
        mean_average_precision=round(means[0], 2),
        mean_random=round(means[1], 2),
        queries=[asdict(result) for result in results],
    )
