"""Folders that are there whole or not at all, whatever ends the process that writes them."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from aga_model.files import write_through

from .errors import TrainingStopped

# Names of what is being written or removed. Uploads to the Hub leave out what begins with an underscore.
SAVING = "_saving"
REMOVED = "_removed"


def put_in_place(written: Path, final: Path) -> None:
    """
    Give a folder that has been written to its end its name; what has the name goes first.

    All of it is on the disk before that, so that a power cut too leaves no name without content.

    Args:
        written: on the same file system as `final`.
        final: a reader finds the old folder, none, or the new one, and never a part of both.
    """
    for path in written.rglob("*"):
        write_through(path)
    write_through(written)
    if final.exists():
        discard(final)
    written.rename(final)
    write_through(final.parent)


def discard(folder: Path) -> None:
    """Remove a folder: its name is gone before the first of its files."""
    gone = folder.with_name(f"{REMOVED}-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(run_folder: Path) -> None:
    """Remove what a killed process was writing or removing."""
    for left in (*run_folder.glob(f"{SAVING}*"), *run_folder.glob(f"{REMOVED}*")):
        shutil.rmtree(left, ignore_errors=True)


def checkpoints(run_folder: Path) -> dict[int, Path]:
    """Step -> checkpoint folder, in the order of the steps."""
    found = {}
    for folder in run_folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)
        if match and folder.is_dir():
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def discard_older(run_folder: Path, limit: int | None, best_step: int | None) -> None:
    """
    Remove the oldest checkpoints beyond a number; the newest and the best one always stay.

    Args:
        run_folder: of the checkpoints, all whole.
        limit: checkpoints to keep, the best one among them; None or 0 for all.
        best_step: of the best checkpoint by validation, if there is one.
    """
    found = checkpoints(run_folder)
    if not limit or limit < 0:
        return
    kept = {max(found, default=None), best_step} & found.keys()
    removable = [step for step in found if step not in kept]
    for step in removable[: max(0, len(found) - max(limit, len(kept)))]:
        discard(found[step])


@contextmanager
def saving(folder: Path, temporary: Path) -> Iterator[None]:
    """
    Turn any failure to write `folder` into one line, and free the space of what was written.

    Args:
        folder: that is to be there in the end.
        temporary: where it is written.

    Raises:
        TrainingStopped: names the folder and the reason.
    """
    try:
        yield
    # A full disk is an OSError, torch's RuntimeError, safetensors' own error or the tokenizers' plain Exception.
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        whole = checkpoints(folder.parent)
        there = f"{whole[max(whole)].name} is whole" if whole else "there is no checkpoint yet"
        raise TrainingStopped(
            f"{folder}: could not be saved ({_reason(error)}); nothing of it was kept. Free space there or see that "
            f"it can be written; {there}, and the same command continues the run"
        ) from error


@contextmanager
def tidying(folder: Path) -> Iterator[None]:
    """
    Turn any failure in what comes once `folder` has its name into one line; the folder stays.

    Raises:
        TrainingStopped: names the folder and the reason.
    """
    try:
        yield
    except Exception as error:  # as in `saving`
        raise TrainingStopped(
            f"{folder} is saved, but what comes after it failed ({_reason(error)}). Free space in {folder.parent} or "
            "see that it can be written; the same command continues the run"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


__all__ = ["SAVING", "checkpoints", "discard", "discard_older", "put_in_place", "saving", "sweep", "tidying"]
