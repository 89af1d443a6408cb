"""What the processes of a run settle together, and how they part."""

import gc
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed as dist

# A client of a network disk may say for so long that a new file is not there.
_DISK_SECONDS = 60
_Result = TypeVar("_Result")


def from_main(work: Callable[[], _Result]) -> _Result:
    """
    What `work` gives in the main process, in all processes, which must all ask at the same point.

    Args:
        work: called in the main process only; its result must go through pickle.

    Raises:
        OSError, ValueError: of `work`; a ValueError of the same text in the other processes.
    """
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = work()
        except (OSError, ValueError) as error:
            failure, outcome[1] = error, str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise failure or ValueError(outcome[1])
    return outcome[0]


def require_shared(file: Path) -> None:
    """
    Make sure that all processes see a file that the main process has written.

    Raises:
        ValueError: in all processes; names the machines that do not see it.
    """
    blind = gather_object([] if _appears(file) else [socket.gethostname()])
    if blind:
        raise ValueError(
            f"{file.parent}: {', '.join(sorted(set(blind)))} cannot see {file.name}, which the first process wrote; "
            "give an output_dir on a disk that all machines share, under the same path on each"
        )


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + _DISK_SECONDS
    while not file.is_file():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def leave_group() -> None:
    """
    Leave gloo's process group at the end of a run, when nothing refers to its trainer any more.

    DDP's reducer holds the group. At Python's own end it would be the last one that does, and free it with the
    interpreter's lock in hand, which a thread of gloo may wait for: the process would never end. Without the reducer,
    the group frees itself without that lock.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
        gc.collect()  # the trainer and what it refers to are cycles
        dist.destroy_process_group()


__all__ = ["from_main", "leave_group", "require_shared"]
