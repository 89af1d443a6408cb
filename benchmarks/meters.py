"""Time, memory, and ratios of ways that took turns."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work returns, and its seconds."""
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


def clocked(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What some work returns, and its `seconds` and `cpu_seconds`, those of all threads of this process."""
    began = time.process_time()
    found, seconds = timed(work)
    return found, {"seconds": seconds, "cpu_seconds": time.process_time() - began}


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 0) -> dict[str, list[float]]:
    """
    A figure of each way in each round. The ways take turns, so that a change of the machine's pace meets them alike.

    Args:
        ways: measure once.
        warm_up: rounds before, which are not counted.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(-warm_up, rounds):
        for way, measure in ways.items():
            figure = measure()
            if number >= 0:
                found[way].append(figure)
    return found


def paired_ratios(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """`median`, `least` and `most` of first / second, of the same round each."""
    ratios = [one / other for one, other in zip(first, second)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """`p50_ms` and `p95_ms`, milliseconds."""
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {"p50_ms": float(p50), "p95_ms": float(p95)}


# --- memory (Linux) ---------------------------------------------------------------------------------------------


def memory_mib(name: str, pid: int | str = "self") -> float:
    """MiB of a process: `VmRSS` is held now, `VmHWM` was held at most since [`forget_peak`]."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**10


def knows_peak() -> bool:
    """Whether this system tells the peak of a process."""
    return Path("/proc/self/clear_refs").exists()


def forget_peak(pid: int | str = "self") -> None:
    """Let `VmHWM` start again from what is held now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
