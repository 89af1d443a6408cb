"""
Kill a training run at random moments until it is done: every resume must work, and the end must be the same.

    python -m benchmarks training_kills --kills 200

A small run with a momentum model is validated and saved after every step. One run is left alone. Others are killed
(SIGKILL) after a random time, started again with the same command, killed again, and so on; a run that comes to its
end is followed by another one, until there were enough kills. After each kill everything that the folder offers must
be whole: each checkpoint is that of the unbroken run after the same step, tensor by tensor, and the saved model is
there with all its files or not at all. At the end of each run metrics and weights must be the unbroken run's, bit for
bit. Attempts are forked from a process that has imported everything, since imports would take most of the time.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from tqdm import tqdm

from aga_model.data.rendered import render_dataset
from aga_model.training.run import main as train
from aga_model.training.run_folder import METRICS_FILE
from aga_model.training.saving import REMOVED, SAVING, checkpoints
from benchmarks.machine import device
from benchmarks.places import RESULTS
from benchmarks.processes import kill, wait_until
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "training_kills.json"
WHOLE = ("model.safetensors", "momentum_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RUN = {
    "model_config": {
        "projection_dim": 16,
        "vision_config": {**TOWER, "image_size": [32, 16], "patch_size": 8},
        "text_config": TOWER,
        "cross_modal_config": {"num_hidden_layers": 1},
        "objective_config": {"loss_weights": {"itc": 1.0, "mlm": 1.0}, "momentum": 0.9, "queue_size": 16},
    },
    "vocab_size": 600,
    "max_steps": 12,
    "per_device_train_batch_size": 8,
    "learning_rate": 1.0e-3,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 1,
    "save_steps": 1,
    "logging_steps": 1,
    "seed": 3,
}


class Broken(RuntimeError):
    """A run did not come to the unbroken run's end."""


@dataclass
class Tally:
    """What the kills met."""

    kills: int = 0
    runs: int = 0
    kills_before_the_first_checkpoint: int = 0
    kills_while_saving: int = 0
    kills_after_the_last_step: int = 0
    checkpoints_compared: int = 0


class Attempt:
    """
    A process that trains, forked from this one.

    Args:
        work: called in the process; its result is the exit status.
        log: file for what it prints.
    """

    def __init__(self, work: Callable[[], int], log: Path):
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
                status = work()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)

    def wait(self, seconds: float = float("inf")) -> int | None:
        """The exit status; None when the process runs longer than that after its start."""
        return wait_until(self.pid, self.started + seconds, pause=0.002)

    def kill(self) -> None:
        """End the process where it is."""
        kill(self.pid)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=False)  # of this bench's own runs


def same(first: Any, second: Any) -> bool:
    """Whether two loaded files hold the same values, tensors bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor | np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and bool((first == second).all())
    return first == second


class Unbroken:
    """
    The run that nothing interrupts, with all of its checkpoints, and what others must agree with.

    Args:
        folder: of the run.
        seconds: that it took.
    """

    def __init__(self, folder: Path, seconds: float):
        self.folder = folder
        self.seconds = seconds
        self.metrics = _metrics(folder)
        self.states = {
            step: {name: _load(checkpoint / name) for name in WHOLE}
            for step, checkpoint in checkpoints(folder).items()
        }
        self.model = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}

    def check_left(self, folder: Path) -> int:
        """
        Compare what a killed process has left, and count its checkpoints.

        Raises:
            Broken: a checkpoint or the saved model is there and is not what it should be.
        """
        found = checkpoints(folder)
        for step, checkpoint in found.items():
            for name, wanted in self.states[step].items():
                try:
                    equal = same(_load(checkpoint / name), wanted)
                except Exception as error:  # whatever a damaged file makes the library raise
                    raise Broken(f"{checkpoint / name} cannot be read: {error}") from error
                if not equal:
                    raise Broken(f"{checkpoint / name} differs from the unbroken run's")
        if (folder / "model").exists():
            self.check_model(folder)
        return len(found)

    def check_model(self, folder: Path) -> None:
        """Compare the saved model; its card holds the training time and the name of the run."""
        left = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
        for name in self.model.keys() | left.keys():
            if name != "README.md" and left.get(name) != self.model.get(name):
                raise Broken(f"{folder / 'model' / name} is missing, too much, or not the unbroken run's")

    def check_end(self, folder: Path) -> None:
        """Compare a run that came to its end."""
        if (metrics := _metrics(folder)) != self.metrics:
            raise Broken(f"{folder}: metrics {metrics}, unbroken {self.metrics}")
        self.check_model(folder)


def _metrics(folder: Path) -> dict[str, Any]:
    """metrics.json without the time, which no two runs share."""
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return {key: value for key, value in metrics.items() if key != "seconds_training"}


def _start(work: Path, name: str, *arguments: str) -> Attempt:
    command = [str(work / "run.yaml"), "--output_dir", str(work / name), "--use_cpu", "true", *arguments]
    return Attempt(lambda: train(command), work / f"{name}.log")


def leave_alone(work: Path) -> Unbroken:
    """
    Render the data and train once.

    Raises:
        Broken: the training failed.
    """
    sizes = {"val_identities": 3, "test_identities": 3, "height": 64, "width": 32, "processes": 1}
    render_dataset(work / "data", 14, 0, **sizes)
    (work / "run.yaml").write_text(yaml.safe_dump({**RUN, "data_root": str(work / "data")}), encoding="utf-8")
    began = time.monotonic()
    status = _start(work, "unbroken", "--save_total_limit", "1000").wait()
    if status != 0:
        raise Broken(f"the unbroken run ended with status {status}; see {work / 'unbroken.log'}")
    return Unbroken(work / "unbroken", time.monotonic() - began)


def kill_until_done(work: Path, unbroken: Unbroken, kills: int, seed: int) -> Tally:
    """
    Kill runs at random moments, `kills` times in all, and let the last one come to its end.

    Raises:
        Broken: a run could not be resumed, or came to another end.
    """
    draw, tally = random.Random(seed), Tally()
    with tqdm(total=kills, desc="kills", unit="kill") as progress:
        while tally.kills < kills:
            name = f"killed-{tally.runs}"
            while (status := _attempt(work, name, unbroken, tally, kills, draw)) is None:
                progress.update()
            if status != 0:
                raise Broken(f"{name}: the resumed run ended with status {status}; see {work / f'{name}.log'}")
            unbroken.check_end(work / name)
            shutil.rmtree(work / name)
            tally.runs += 1
    return tally


def _attempt(work: Path, name: str, unbroken: Unbroken, tally: Tally, kills: int, draw: random.Random) -> int | None:
    """Start or resume a run; its exit status, or None when it was killed."""
    folder = work / name
    attempt = _start(work, name)
    try:
        status = attempt.wait(draw.uniform(0, unbroken.seconds) if tally.kills < kills else float("inf"))
    except BaseException:
        attempt.kill()
        raise
    if status is not None:
        return status
    attempt.kill()
    tally.kills += 1
    found = checkpoints(folder)
    tally.kills_before_the_first_checkpoint += not found
    tally.kills_while_saving += any(left for kind in (SAVING, REMOVED) for left in folder.glob(f"{kind}*"))
    tally.kills_after_the_last_step += RUN["max_steps"] in found
    tally.checkpoints_compared += unbroken.check_left(folder)
    return None


def _report(tally: Tally, unbroken: Unbroken, options: argparse.Namespace) -> None:
    ran_on = device(threads=1)
    settings = {"kills": options.kills, "seed": options.seed, "steps": RUN["max_steps"]}
    results = asdict(tally) | {
        "resumes_that_failed": 0,
        "ends_that_differ": 0,
        "seconds_unbroken": round(unbroken.seconds, 2),
    }
    packages = ("torch", "transformers")
    write_result(options.out, settings, packages, ran_on, results=results, metrics=unbroken.metrics)
    table = Table(title=f"Training killed at random moments ({ran_on['processor']})")
    table.add_column("what")
    table.add_column("times", justify="right")
    for key, value in results.items():
        table.add_row(key.replace("_", " "), str(value))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a run was not resumed or came to another end."""
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments, which the machine's pace shifts")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        parser.error("this bench needs os.fork, which only Linux and macOS have")
    torch.set_num_threads(1)
    # Not tqdm's own lock, which forked runs share: one that is killed while it holds the lock would keep it for ever.
    tqdm.set_lock(threading.RLock())
    work = Path(tempfile.mkdtemp(prefix="training-kills-"))
    try:
        unbroken = leave_alone(work)
        tally = kill_until_done(work, unbroken, options.kills, options.seed)
    except Broken as error:
        print(f"training_kills: {error} (everything is kept in {work})", file=sys.stderr)
        return 1
    _report(tally, unbroken, options)
    shutil.rmtree(work)
    return 0
