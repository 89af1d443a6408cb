"""
Processes that are killed at a chosen moment, for the benches that ask what they leave.

A helper process imports everything once and forks them, because importing takes longer than their work. It must not
touch a gallery itself: LanceDB starts threads, which would not outlive a fork.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

SERVE = "--serve"


class KilledProcesses:
    """
    Starts processes for a program, which runs itself with `SERVE` as the helper and calls [`serve`] then.

    Args:
        program: path of the script.
        environment: of the helper and its processes.
    """

    def __init__(self, program: str, environment: Mapping[str, str] = os.environ):
        command = [sys.executable, program, SERVE]
        self._helper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment)
        )

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
        ended: tuple[Any, int]
        while not (ended := os.waitpid(process, os.WNOHANG))[0]:
            if time.monotonic() >= began + kill_after:
                os.kill(process, signal.SIGKILL)
                ended = os.waitpid(process, 0)
                break
            time.sleep(0.001)
        print(json.dumps([os.waitstatus_to_exitcode(ended[1]), time.monotonic() - began]), flush=True)
