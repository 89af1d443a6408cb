"""What a worker of the quality bench does: one training run with its test figures and diagnostics, and calibration."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml
from transformers import TrainerCallback

from aga_model.data import NoiseRecord, PairDataset, attribute_words
from aga_model.evaluation import RetrievalEvaluator
from aga_model.evaluation.diagnostics.attention_picture import draw_word_attention
from aga_model.evaluation.diagnostics.language import enrichment_truth, mlm_accuracy, wrong_rows
from aga_model.evaluation.diagnostics.masking import masked_attribute_share
from aga_model.evaluation.metrics import ranking_metrics
from aga_model.files import write_json
from aga_model.search import Reranker
from aga_model.training.arguments import parse_run_arguments
from aga_model.training.run import PreparedRun, fit, pair_collator, prepare, training_figures
from aga_model.training.run_folder import NOISE_FILE
from aga_model.training.trainer import AgaTrainer
from benchmarks.machine import accelerator, device, versions

Values = dict[str, Any]
PACKAGES = ("torch", "transformers", "numpy")
SETTINGS_FILE = "settings.json"
_PICTURE_CAPTIONS = 6
_ROUNDS = 3  # maskings of each caption in the diagnostics of TEM


@dataclass(frozen=True)
class Job:
    """
    One training run.

    Args:
        name: of the result.
        about: what the run is in the comparison; goes into the result.
        settings: everything that the figures depend on but the code; goes into the result. `run` is the run file.
        settings_hash: of `settings`.
        data, base_model: folders.
        work: folder for run folders and kept models.
        result: JSON file to write.
        keep_model: move the model to `work/models/` and draw its word attention beside the results.
        workers: number of processes that run at the same time.
    """

    name: str
    about: Values
    settings: Values
    settings_hash: str
    data: Path
    base_model: str
    work: Path
    result: Path
    keep_model: bool
    workers: int

    @property
    def folder(self) -> Path:
        """Folder of the run while it is not finished."""
        return self.work / "runs" / self.name


def run_on(workers: int) -> Values:
    """The machine, with the threads of this process and the number of processes."""
    return device(accelerator=accelerator(), threads=torch.get_num_threads(), workers=workers)


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _prepare(folder: Path, values: Values, data: Path, base_model: str) -> PreparedRun:
    """Write the run file, as train_hf.py would read it, and prepare the run."""
    values = {**values, "output_dir": str(folder / "run"), "data_root": str(data), "model_name_or_path": base_model}
    run_file = folder / "run.yaml"
    run_file.write_text(yaml.safe_dump(values | {"report_to": "none", "disable_tqdm": True}), encoding="utf-8")
    try:
        return prepare(*parse_run_arguments([str(run_file)]))
    except SystemExit:
        raise ValueError(f"{run_file} is no run file; {folder / 'log.txt'} says why") from None


def _claim_folder(job: Job) -> None:
    """Keep a run folder that the same run began with the same software, so that it is continued; else begin anew."""
    began = {"settings": job.settings, "versions": versions(*PACKAGES)}
    note = job.folder / SETTINGS_FILE
    if job.folder.exists() and not (note.is_file() and json.loads(note.read_text(encoding="utf-8")) == began):
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(note, began)


def _train(job: Job) -> tuple[PreparedRun, Any, Values]:
    """Train: the run, its best model, and the result as far as the training and validation splits tell it."""
    _claim_folder(job)
    began = time.perf_counter()
    with _logged(job.folder):
        run = _prepare(job.folder, job.settings["run"], job.data, job.base_model)
        trainer = fit(run)
    figures = training_figures(trainer)
    result = {
        **job.about,
        "settings": job.settings,
        "settings_hash": job.settings_hash,
        "seconds": {"training": figures.pop("seconds_training"), "wall": time.perf_counter() - began},
        "validation": figures,
        "versions": versions(*PACKAGES),
        "device": run_on(job.workers),
    }
    return run, trainer.accelerator.unwrap_model(trainer.model).eval(), result


def _finish(job: Job, result: Values) -> None:
    """Write the result, then remove the run."""
    job.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(job.result, result)
    shutil.rmtree(job.folder)


def train_trial(job: Job) -> None:
    """A trial of the learning-rate search: its result holds figures of the validation split only."""
    _finish(job, _train(job)[-1])


def train_cell(job: Job) -> None:
    """A cell: training, then the split to measure on with the result of every query, and the diagnostics."""
    run, model, result = _train(job)
    began = time.perf_counter()
    rows = run.splits[job.settings["measured_on"]]
    with _logged(job.folder):
        result["metrics"] = _measure(job, model, run.processor, rows)
        result["diagnostics"] = _diagnose(job, run, model, rows)
        if job.keep_model:
            _keep(job, model, run.processor, rows)
    result["seconds"]["wall"] += time.perf_counter() - began
    _finish(job, result)


def _measure(job: Job, model, processor, rows) -> dict[str, float]:
    """
    Retrieval metrics of a split, those of the re-ranked order with the prefix `reranked_`.

    Rank and AP of every query, by the dual encoder, go into `records` beside the results.
    """
    best = job.settings.get("rerank", 0)
    evaluator = RetrievalEvaluator(rows, processor)
    split = evaluator.embed(model.aga)
    ranking = split.rank_images(top_k=best, device=model.device)
    path = job.result.parent.parent / "records" / f"{job.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        person_ids=split.query_person_ids.astype(np.int32),
        first_rank=ranking.first_rank.astype(np.int32),
        average_precision=ranking.average_precision.astype(np.float32),
    )
    metrics = ranking_metrics(ranking)
    if best:
        reranked = evaluator.rerank(Reranker(model, processor), ranking)
        metrics |= {f"reranked_{name}": value for name, value in ranking_metrics(reranked).items()}
    return metrics


def _diagnose(job: Job, run: PreparedRun, model, held_out) -> Values:
    """What the MLM does; nothing for a recipe without one."""
    if not model.config.has_mlm_head:
        return {}
    count, words = job.settings["diagnostic_captions"], attribute_words()
    rows = held_out.select(_spread(len(held_out), count))
    captions, paths = _captions_and_paths(rows)
    found: Values = {
        "attribute_share": masked_attribute_share(model, run.processor, captions, words),
        "mlm_accuracy": mlm_accuracy(model, run.processor, captions, paths, rows["person_id"][:], words),
    }
    # The truth about attributes is that of the caption's own image, so it is unknown in permuted pairs; and errors are
    # noted by rows of the whole split.
    whole = not (run.data_args.leave_out_wrong_pairs or run.data_args.leave_out_permuted)
    if whole and run.data_args.caption_errors and not run.data_args.noisy_correspondence:
        noise_file = Path(run.args.output_dir) / NOISE_FILE
        record = NoiseRecord.from_json(json.loads(noise_file.read_text(encoding="utf-8")))
        noisy = run.splits["train"]
        places = {int(row): place for place, row in enumerate(_spread(len(noisy), count))}
        chosen = noisy.select(list(places))
        captions, paths = _captions_and_paths(chosen)
        errors = [replace(error, row=places[error.row]) for error in record.errors if error.row in places]
        wrong = [paths[row] for row in wrong_rows(chosen["person_id"][:], seed=0)]
        for name, images in (("enrichment_truth", paths), ("enrichment_truth_wrong_image", wrong)):
            found[name] = enrichment_truth(model, run.processor, captions, images, errors, rounds=_ROUNDS)
    return found


def _spread(length: int, count: int) -> np.ndarray:
    """At most `count` of 0..length - 1 at equal distances."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)


def _captions_and_paths(rows) -> tuple[list[str], list[str]]:
    return list(rows["caption"]), [image["path"] for image in rows["image"]]


def _keep(job: Job, model, processor, rows) -> None:
    """Keep the model, and draw what it attends to in some captions."""
    captions, paths = _captions_and_paths(rows.select(_spread(len(rows), _PICTURE_CAPTIONS)))
    picture = job.result.parent.parent / "pictures" / f"{job.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_word_attention(model, processor, captions, paths, picture)
    kept = job.work / "models" / job.name
    shutil.rmtree(kept, ignore_errors=True)
    model.save_pretrained(kept)
    processor.save_pretrained(kept)


class _Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


@dataclass(frozen=True)
class TimingJob:
    """Runs to time, by name, and how; see `settings.Calibration`."""

    runs: dict[str, Values]
    rounds: int
    steps: int
    warm_up: int
    data: Path
    base_model: str
    work: Path


def seconds_per_step(job: TimingJob) -> dict[str, float]:
    """
    Median over rounds of the mean seconds of a whole step: batch, losses, gradients, update.

    The recipes take turns, so that a change of the machine's pace meets them alike.
    """
    folder = job.work / "calibration"
    shutil.rmtree(folder, ignore_errors=True)
    length = job.warm_up + job.steps
    timing = {"max_steps": length, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    prepared: dict[str, tuple[PreparedRun, PairDataset]] = {}
    times: dict[str, list[float]] = {name: [] for name in job.runs}
    for name, values in job.runs.items():
        (folder / name).mkdir(parents=True)
        with _logged(folder / name):
            run = _prepare(folder / name, {**values, **timing}, job.data, job.base_model)
        rows = run.splits["train"]
        rows = rows.select(range(min(len(rows), length * run.args.per_device_train_batch_size)))
        data = PairDataset(
            rows, run.processor, run.data_args.augmentation(), run.args.seed, run.data_args.cache_images
        )
        prepared[name] = run, data
    for _ in range(job.rounds):
        for name, (run, data) in prepared.items():
            clock = _Clock()
            with _logged(folder / name):
                AgaTrainer(
                    model=run.model,
                    args=run.args,
                    train_dataset=data,
                    data_collator=pair_collator(run),
                    processing_class=run.processor,
                    callbacks=[clock],
                ).train()
            times[name].append((clock.ends[-1] - clock.ends[job.warm_up - 1]) / job.steps)
    shutil.rmtree(folder)
    return {name: median(found) for name, found in times.items()}
