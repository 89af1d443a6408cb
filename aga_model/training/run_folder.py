"""The folder of a training run: who may work in it, whether a start continues the run in it, and from where."""

import json
import platform
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME

from aga_model.data import NoiseRecord, is_rendered
from aga_model.files import write_json
from aga_model.pretraining_aga import AgaForPreTraining
from aga_model.version import __version__

from .arguments import AgaTrainingArguments, DataArguments
from .finite import NONFINITE_FILE
from .release.contents import CONFIG_FILE, MODEL_FOLDER
from .saving import checkpoints, sweep

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
NOISE_FILE = "noise.json"
WRONG_PAIRS_FILE = "wrong_pairs.json"
LOCK_FILE = ".lock"  # held by the main process while the run lasts
# What a run that was killed as it began may leave; `write_json` names its temporary files by its process.
_BEGINNING = re.compile(
    rf"{re.escape(LOCK_FILE)}|{re.escape(WRONG_PAIRS_FILE)}"
    rf"|(?:{re.escape(RUN_FILE)}|{re.escape(WRONG_PAIRS_FILE)})(?:\.\d+)?\.tmp"
)
# A killed process holds its lock until it is gone, and older versions of filelock until its data loaders are.
_LOCK_SECONDS = 15
# What a run is continued from, beside its trainer state; FSDP has an own name for the optimiser's.
_CHECKPOINT_PARTS = ("model*.safetensors", "optimizer*", "scheduler.pt", "rng_state*.pth")
# Arguments that may differ when a run is continued: they change where and how often, not what is computed.
_FREE_ARGUMENTS = {
    "output_dir",
    "logging_dir",
    "logging_steps",
    "save_total_limit",
    "report_to",
    "disable_tqdm",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_pin_memory",
    "resume_from_checkpoint",
    "local_rank",
    "logging_nan_inf_filter",
    "non_blocking",
    "run_name",
    "hub_token",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_always_push",
}


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """
    The newest checkpoint that was saved to its end; None without one.

    A checkpoint has its name once it is whole. All the same its parts are looked for: transformers goes on without the
    state of the optimiser where that is missing, and versions before 0.2 wrote under the name itself.
    """
    for step, folder in reversed(checkpoints(Path(output_dir)).items()):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        parts = all(any(folder.glob(part)) for part in _CHECKPOINT_PARTS)
        if parts and isinstance(state, dict) and state.get("global_step") == step:
            return folder
    return None


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def check_same_run(started: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError, naming the differences, when a run folder was started with other settings or data."""
    compared = ("start", "model", "data", "data_counts", "training", "processes")
    before, after = (_flatten({key: run[key] for key in compared if key in run}) for run in (started, now))
    changed = _changed_images(started, now) + [
        f"{key}: {before[key]!r} -> {after[key]!r}"
        for key in sorted(before.keys() & after.keys())  # an argument of a later version has its default
        if before[key] != after[key] and key.split(".")[-1] not in _FREE_ARGUMENTS
    ]
    if changed:
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise ValueError(
            "the run folder was started with other settings or data; continue with the same ones, or give another "
            f"output_dir, or remove the folder. Changed: {'; '.join(changed[:8])}{more}"
        )


def _changed_images(started: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Images that one of two starts of a run left out and the other one does not."""
    left_out, leaves_out = (set(run.get("skipped_images", ())) for run in (started, now))
    mended = [f"{path}: was left out and can be decoded now" for path in sorted(left_out - leaves_out)]
    return mended + [f"{path}: can no longer be decoded" for path in sorted(leaves_out - left_out)]


def _check_same_noise(folder: Path, noise: dict[str, Any] | None, checkpoint: Path | None) -> None:
    """Raise ValueError when a run folder was started with other noise; other captions give other noise."""
    noise_file = folder / NOISE_FILE
    if noise_file.is_file():
        same = json.loads(noise_file.read_text(encoding="utf-8")) == noise
    else:
        same = noise is None or checkpoint is None
    if not same:
        raise ValueError(
            f"{noise_file}: the run was started with other noise in its training captions; continue with the same "
            "data, noise and version, or give another output_dir, or remove the folder"
        )


def _finished_metrics(folder: Path) -> dict[str, Any] | None:
    """Content of metrics.json, which a run writes last, if the model is there too; None for a run with work left."""
    if not (folder / MODEL_FOLDER / CONFIG_FILE).is_file():
        return None
    try:
        return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _lock_folder(folder: Path, lock: FileLock) -> None:
    """Make a run's folder unless it is there, and keep other starts of the run out of it."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if RUN_FILE not in there and not all(_BEGINNING.fullmatch(name) for name in there):
        raise ValueError(f"{folder} is not empty and holds no run ({RUN_FILE}); give another output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise ValueError(
            f"{folder}: another process is at work there and holds {lock.lock_file}; when it has ended, the same "
            "command continues the run"
        ) from None


def claim_run_folder(
    folder: Path,
    run: dict[str, Any],
    noise: NoiseRecord | None,
    lock: FileLock,
    wrong_pairs: dict[str, Any] | None = None,
) -> tuple[Path | None, dict[str, Any] | None]:
    """
    Lock a run's folder, and record the settings of a new run or check them against those of the run to continue.

    Args:
        wrong_pairs: content of `wrong_pairs.json`, of a run that leaves pairs out.

    Returns:
        the checkpoint to continue from, and the metrics of a run that is finished.
    """
    _lock_folder(folder, lock)
    run_file = folder / RUN_FILE
    if run_file.is_file():
        check_same_run(json.loads(run_file.read_text(encoding="utf-8")), run)
    checkpoint, metrics = last_complete_checkpoint(folder), _finished_metrics(folder)
    noise_values = noise.to_json() if noise else None
    _check_same_noise(folder, noise_values, checkpoint)
    for cut_off in checkpoints(folder).values():
        if not (cut_off / TRAINER_STATE_NAME).is_file():
            shutil.rmtree(cut_off)
    sweep(folder)
    (folder / NONFINITE_FILE).unlink(missing_ok=True)
    if checkpoint is None and metrics is None:
        if wrong_pairs:
            write_json(folder / WRONG_PAIRS_FILE, wrong_pairs)  # first: a run that has begun reads it again
        write_json(run_file, run)
        if noise_values:
            write_json(folder / NOISE_FILE, noise_values)
    return checkpoint, metrics


def describe_run(
    model: AgaForPreTraining, data_args: DataArguments, args: AgaTrainingArguments, splits: dict[str, Dataset]
) -> dict[str, Any]:
    """Everything needed to repeat the run, as JSON values."""
    counts = {
        split: {
            "identities": len(np.unique(rows["person_id"])),
            "images": len(np.unique(rows["image_id"])),
            "captions": len(rows),
        }
        for split, rows in splits.items()
    }
    return {
        "model": json.loads(model.config.to_json_string(use_diff=False)),
        "data": asdict(data_args),
        "data_counts": counts,
        "rendered_data": is_rendered(data_args.data_root),
        "training": json.loads(args.to_json_string()),
        "processes": PartialState().num_processes,
        "versions": {
            "aga_model": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


__all__ = [
    "LOCK_FILE",
    "METRICS_FILE",
    "NOISE_FILE",
    "RUN_FILE",
    "WRONG_PAIRS_FILE",
    "check_same_run",
    "claim_run_folder",
    "describe_run",
    "last_complete_checkpoint",
]
