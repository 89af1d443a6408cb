"""
Processes of benches: the bench once more, for a figure of its own, and those that are killed at a chosen moment.

A helper process imports everything once and forks the ones that are killed, because importing takes longer than their
work. It must not touch a gallery itself: LanceDB starts threads, which would not outlive a fork.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from benchmarks.places import ROOT

SERVE = "--serve"


def bench_command(name: str, *arguments: object, python: Sequence[str] = ()) -> list[str]:
    """The command of a bench, with options of Python's own, for a process that has [`bench_environment`]."""
    return [sys.executable, *python, "-m", "benchmarks", name, *map(str, arguments)]


def bench_environment(threads: int | None = None, **more: str) -> dict[str, str]:
    """This process's environment, in which benches are found from every folder; with a number of threads."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    counts = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))} | counts | more


def json_of(name: str, *arguments: object, threads: int | None = None, python: Sequence[str] = ()) -> Any:
    """What a bench in a process of its own prints last, as JSON."""
    command, environment = bench_command(name, *arguments, python=python), bench_environment(threads)
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


# --- children that are killed -----------------------------------------------------------------------------------


def wait_until(pid: int, moment: float = math.inf, pause: float = 0.001) -> int | None:
    """
    The exit code of a child, negative for a signal; None when it still runs at a moment of `time.monotonic()`.

    Args:
        pause: seconds between two looks.
    """
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= moment:
            return None
        time.sleep(pause)


def kill(pid: int) -> int:
    """End a child where it is, and wait for its end; its exit code, for it may have ended by itself just before."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class KilledProcesses:
    """
    Starts processes for a bench, which is run with `SERVE` as the helper and calls [`serve`] then.

    Args:
        bench: its name.
        environment: of the helper and its processes, beside [`bench_environment`].
    """

    def __init__(self, bench: str, environment: Mapping[str, str] | None = None):
        self._helper = subprocess.Popen(
            bench_command(bench, SERVE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=bench_environment(**(environment or {})),
        )  # fmt: skip

    def run(self, work: list, kill_after: float = math.inf) -> tuple[bool, float]:
        """
        Whether a process was killed before its end, and how many seconds it worked.

        Args:
            work: JSON values that say what it does.
            kill_after: seconds from when it has begun with its work.

        Raises:
            RuntimeError: it ended with an error.
        """
        assert self._helper.stdin is not None and self._helper.stdout is not None
        self._helper.stdin.write(json.dumps([work, kill_after]) + "\n")
        self._helper.stdin.flush()
        code, seconds = json.loads(self._helper.stdout.readline())
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{work} ended with {code}")
        return code != 0, seconds

    def close(self) -> None:
        self._helper.communicate()


def serve(run: Callable[..., NoReturn]) -> None:
    """
    What the helper does.

    Args:
        run: called in a process of its own with the entries of `work`, and `told_by`, a pipe that it writes a byte to
            when its work begins.
    """
    for line in sys.stdin:
        work, kill_after = json.loads(line)
        beginning, told_by = os.pipe()
        if (process := os.fork()) == 0:
            run(*work, told_by=told_by)
        os.close(told_by)
        os.read(beginning, 1)  # its word, or its end
        os.close(beginning)
        began = time.monotonic()
        code = wait_until(process, began + kill_after)
        if code is None:
            code = kill(process)
        print(json.dumps([code, time.monotonic() - began]), flush=True)
