"""
The exported encoders beside PyTorch: what int8 costs in ranks, and how fast each way encodes.

    python -m benchmarks export
    python -m benchmarks export --model runs/my_model/model --data CUHK-PEDES --dataset cuhk-pedes

PyTorch, onnxruntime in float32 and onnxruntime in int8 (`aga export --int8`) encode the same test split, which without
--data is of 300 rendered people whom checkpoints/aga-small-rendered was not trained on. Every caption is a query; int8
is compared with float32 query by query (paired, over persons). Speed is that of the encoders alone, images read and
captions tokenised before, in rounds in which the ways take turns; the figures are medians over rounds.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from aga_model.conversion import export_onnx
from aga_model.conversion.onnx_export import TEXT_FILE, TEXT_INT8_FILE, VISION_FILE, VISION_INT8_FILE, open_session
from aga_model.data import load_benchmark, read_crop, to_pixel_values
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import RetrievalEvaluator, bootstrap_intervals, compare_queries, query_values
from aga_model.search import PersonEncoder
from benchmarks.machine import device, in_words
from benchmarks.meters import in_turns, timed
from benchmarks.places import RESULTS, SMALL_MODEL
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "export.json"
PYTORCH, FLOAT32, INT8 = "pytorch", "onnxruntime", "onnxruntime_int8"
WAYS = {PYTORCH: "PyTorch", FLOAT32: "onnxruntime, float32", INT8: "onnxruntime, int8"}
FILES = {FLOAT32: (VISION_FILE, TEXT_FILE), INT8: (VISION_INT8_FILE, TEXT_INT8_FILE)}
METRICS = ("rank1", "mAP")
RENDERED_SEED = 12345  # another than that of the people whom the checkpoint was trained on
SMOKE = {"identities": 8, "timed": 16, "rounds": 1}


class OnnxModel(torch.nn.Module):
    """Exported encoders in the form in which an evaluation uses a model."""

    device = torch.device("cpu")

    def __init__(self, folder: Path, files: tuple[str, str], threads: int):
        super().__init__()
        self.vision, self.text = (open_session(folder / name, threads) for name in files)
        self.text_inputs = [one.name for one in self.text.get_inputs()]

    def get_image_features(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        (embeds,) = self.vision.run(None, {"pixel_values": pixel_values.numpy()})
        return SimpleNamespace(pooler_output=torch.from_numpy(embeds))

    def get_text_features(self, **inputs: torch.Tensor) -> SimpleNamespace:
        (embeds,) = self.text.run(None, {name: inputs[name].numpy() for name in self.text_inputs})
        return SimpleNamespace(pooler_output=torch.from_numpy(embeds))


def ranks(split: Any) -> dict[str, np.ndarray]:
    """Rank-1 and AP of each query, (queries,) in percent."""
    values = query_values(split.rank_images())
    return {name: values[name] for name in METRICS}


def least_cosine(split: Any, reference: Any) -> dict[str, float]:
    """Least cosine of an embedding with the reference's, of images and captions."""
    pairs = {"image": (split.image_embeds, reference.image_embeds), "text": (split.text_embeds, reference.text_embeds)}
    return {kind: float(torch.nn.functional.cosine_similarity(*pair).min()) for kind, pair in pairs.items()}


def compare(splits: dict[str, Any]) -> dict[str, Any]:
    """Metrics of each way with intervals, and the paired difference of int8 from float32."""
    persons = splits[FLOAT32].query_person_ids
    values = {way: ranks(split) for way, split in splits.items()}
    quality = {
        way: {
            name: {"value": float(row.mean()), "interval": asdict(bootstrap_intervals({name: row}, persons)[name])}
            for name, row in of_queries.items()
        }
        | {"least_cosine_with_pytorch": least_cosine(splits[way], splits[PYTORCH])}
        for way, of_queries in values.items()
    }
    differences = compare_queries(values[FLOAT32], values[INT8], persons)
    return {"quality": quality, "int8_minus_float32": {name: asdict(one) for name, one in differences.items()}}


def work_of(model: Any, processor: Any, evaluator: RetrievalEvaluator, options: argparse.Namespace) -> dict[str, Any]:
    """What is timed: batches of pixels and of tokens, ready to be encoded."""
    size = processor.image_processor.size
    paths, captions = evaluator.gallery_paths[: options.timed], evaluator.captions[: options.timed]
    crops = [read_crop(path, size["height"], size["width"]) for path in paths]
    pixels = torch.from_numpy(to_pixel_values(crops, processor.image_processor))
    step = options.batch_size
    texts = [captions[start : start + step] for start in range(0, len(captions), step)]
    return {
        "images": [{"pixel_values": part} for part in pixels.split(step)],
        "captions": [dict(processor(text=part, return_tensors="pt")) for part in texts],
    }


def encoders(model: Any) -> dict[str, Callable[..., Any]]:
    return {"images": model.get_image_features, "captions": model.get_text_features}


@torch.inference_mode()
def measure(models: dict[str, Any], work: dict[str, Any], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Images and captions per second of each way in each round, after one round that is not counted."""

    def pace(encode: Callable[..., Any], batches: list[dict[str, torch.Tensor]]) -> float:
        _, seconds = timed(lambda: [encode(**batch) for batch in batches])
        return sum(len(next(iter(batch.values()))) for batch in batches) / seconds

    paces = {
        f"{way} {kind}": partial(pace, encode, work[kind])
        for way, model in models.items()
        for kind, encode in encoders(model).items()
    }
    found = in_turns(paces, rounds, warm_up=1)
    return {way: {kind: found[f"{way} {kind}"] for kind in work} for way in models}


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    encoder = PersonEncoder.from_pretrained(options.model, device="cpu")
    model: Any = encoder.model
    report = export_onnx(model, encoder.processor, folder / "onnx", encoder.model_hash, int8=True)
    data = options.data
    if data is None:
        data, people = folder / "people", options.identities
        render_dataset(
            data,
            people + 2,
            RENDERED_SEED,
            world="base",
            val_identities=1,
            test_identities=people,
            height=128,
            width=64,
        )
    rows = load_benchmark(options.dataset, data)["test"]
    evaluator = RetrievalEvaluator(rows, encoder.processor, options.batch_size)
    models = {PYTORCH: model} | {
        way: OnnxModel(folder / "onnx", names, options.threads) for way, names in FILES.items()
    }
    results = compare({way: evaluator.embed(one) for way, one in models.items()})
    speed = measure(models, work_of(model, encoder.processor, evaluator, options), options.rounds)
    results["per_second"] = {
        way: {kind: {"median": statistics.median(rates), "rounds": rates} for kind, rates in kinds.items()}
        for way, kinds in speed.items()
    }
    results["files"] = report.image.files | report.text.files
    results["largest_difference"] = {"image": report.image.largest_difference, "text": report.text.largest_difference}
    results["queries"], results["gallery"] = len(evaluator.captions), len(evaluator.gallery_paths)
    results["model_hash"] = encoder.model_hash
    return results


def show(results: dict[str, Any], title: str) -> None:
    table = Table("way", "MB", "images/s", "captions/s", "Rank-1", "mAP", "least cosine (image, text)", title=title)
    sizes = {way: sum(results["files"][name] for name in names) / 1e6 for way, names in FILES.items()}
    for way, label in WAYS.items():
        speed, quality = results["per_second"][way], results["quality"][way]
        cosines = ", ".join(f"{value:.5f}" for value in quality["least_cosine_with_pytorch"].values())
        table.add_row(
            label,
            f"{sizes[way]:.1f}" if way in sizes else "",
            *(f"{speed[kind]['median']:,.0f}" for kind in ("images", "captions")),
            *(f"{quality[name]['value']:.2f}" for name in METRICS),
            cosines,
        )
    console = Console(width=120)
    console.print(table)
    for name, one in results["int8_minus_float32"].items():
        low, high = one["interval"]["low"], one["interval"]["high"]
        console.print(
            f"{name}: int8 less float32 {one['value']:+.2f} [{low:+.2f}, {high:+.2f}], p = {one['p_value']:.3f}, "
            f"{one['better']} queries better, {one['worse']} worse"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--model", default=str(SMALL_MODEL), help="folder of a saved model, or its name on the Hub")
    parser.add_argument("--data", type=Path, help="a data set on disk; rendered people without it")
    parser.add_argument("--dataset", default="cuhk-pedes", help="layout of the data set")
    parser.add_argument("--identities", type=int, default=300, help="rendered people, without --data")
    parser.add_argument("--timed", type=int, default=512, help="images and captions of a timed round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="a few people, to see that it runs")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    with tempfile.TemporaryDirectory() as folder:
        results = run(options, Path(folder))
    ran_on = device(threads=options.threads, vnni=_has_vnni())
    show(results, f"{results['queries']:,} captions, {results['gallery']:,} images; {in_words(ran_on)}")
    settings = {name: getattr(options, name) for name in ("dataset", "identities", "timed", "rounds", "batch_size")}
    settings["model"] = Path(options.model).name
    settings["data"] = options.data.name if options.data else "rendered, world=base"
    write_result(options.out, settings, ("torch", "onnxruntime", "transformers"), ran_on, results=results)


def _has_vnni() -> bool:
    """Whether the CPU multiplies int8 in one instruction, which much of int8's speed comes from (Linux)."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
