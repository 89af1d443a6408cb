"""The HTML report of a run: one self-contained page with curves, metrics, AGM, TEM and searches."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from aga_model.files import whole_file, write_json

from .diagnostics.masking import Token, enrichment_examples, masked_attribute_share

TEMPLATE = Path(__file__).with_name("report.html.j2")
LOSS_NAMES = ("loss", "itc_loss", "sdm_loss", "mlm_loss", "id_loss")


@dataclass
class SearchSection:
    """One search of the report: the sentence and the picture of its results."""

    query: str
    picture: Image.Image


@dataclass
class _Example:
    image: str
    tokens: list[Token]


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw_curves(log_history: list[dict[str, Any]]) -> Image.Image:
    """Losses and validation metrics over steps, from a trainer's log history."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    for name in LOSS_NAMES:
        points = [(entry["step"], float(entry[name])) for entry in log_history if name in entry]
        if points:
            left.plot(*zip(*points), label=name.replace("_", " "))
    left.set(xlabel="step", ylabel="training loss", title="Losses")
    for name, label in (("eval_rank1", "Rank-1"), ("eval_rank10", "Rank-10"), ("eval_mAP", "mAP")):
        points = [(entry["step"], float(entry[name])) for entry in log_history if name in entry]
        if points:
            right.plot(*zip(*points), marker="o", label=label)
    right.set(xlabel="step", ylabel="percent", title="Validation, text-to-image", ylim=(0, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    buffer.seek(0)
    return Image.open(buffer).copy()


def _examples(
    model, processor, rows, count: int, shown: Callable[[Image.Image], Image.Image] | None
) -> list[_Example]:
    """Captions spread evenly over a split, of different images; the images as `shown` makes them."""
    chosen = rows.select(np.linspace(0, len(rows) - 1, count).astype(int))
    paths = [image["path"] for image in chosen["image"]]
    tokens = enrichment_examples(model, processor, list(chosen["caption"]), paths)
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(_data_uri(image if shown is None else shown(image)))
    return [_Example(picture, pieces) for picture, pieces in zip(pictures, tokens)]


def write_report(
    run_folder: str | Path,
    model,
    processor,
    test_rows,
    attribute_words: frozenset[str],
    searches: list[SearchSection],
    gallery_count: int,
    next_steps: str,
    shown: Callable[[Image.Image], Image.Image] | None = None,
) -> Path:
    """
    Write `run_folder/report.html` from a finished run.

    Also adds the share of attribute words among the masked tokens to `metrics.json`.

    Args:
        run_folder: with run.json, metrics.json and trainer_state.json.
        model, processor: AgaForPreTraining and AgaProcessor of the run.
        test_rows: test split of `load_benchmark`.
        attribute_words: lower-case words that name attributes.
        searches: to show, in order.
        gallery_count: images in the gallery that was searched.
        next_steps: commands for the reader to go on with.
        shown: what is put in the place of an image of the split, such as the image with faces hidden.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    folder = Path(run_folder)
    files = {}
    for name in ("run.json", "metrics.json", "trainer_state.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: {folder} holds no finished run; train first")
        files[name] = json.loads((folder / name).read_text(encoding="utf-8"))
    run, metrics = files["run.json"], files["metrics.json"]
    shares = masked_attribute_share(model, processor, list(test_rows["caption"]), attribute_words)
    metrics["masked_attribute_share"] = {name: round(share, 2) for name, share in shares.items()}
    write_json(folder / "metrics.json", metrics)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Run {folder.resolve().name}",
        run=run,
        rendered=run["rendered_data"],
        metrics=metrics,
        shares=shares,
        curves=_data_uri(draw_curves(files["trainer_state.json"]["log_history"])),
        examples=_examples(model, processor, test_rows, 6, shown),
        searches=[{"query": search.query, "picture": _data_uri(search.picture)} for search in searches],
        gallery_count=gallery_count,
        next_steps=next_steps,
    )
    path = folder / "report.html"
    with whole_file(path) as file:
        file.write_text(page, encoding="utf-8")
    return path
