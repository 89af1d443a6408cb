"""Processes of the quality bench: long-lived, one thread each; a failed or dead one does not end the others."""

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.quality.cells import Job

Failures = dict[str, str]


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A worker whose bench was killed must not write into folders that the next bench uses."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Workers:
    """
    Processes that live as long as the bench, so that imports are paid once.

    Args:
        count: number of processes, each with one thread.
        failures: folder for the tracebacks of failed jobs.
    """

    def __init__(self, count: int, failures: Path):
        self.count = count
        self.failures = failures
        # For the workers only: this process has read them.
        os.environ.update(TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_start_worker)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """
        The result of one call in a worker, with nothing else of the bench running.

        Raises:
            ValueError: the call failed; says why.
        """
        try:
            return self.pool.submit(function, argument).result()
        except Exception as error:
            if isinstance(error, BrokenProcessPool):
                self._start()
            raise ValueError(f"{function.__name__} failed: {type(error).__name__}: {error}") from error

    def run(self, function: Callable[[Job], None], jobs: list[Job], label: str) -> Failures:
        """
        Do all jobs; those that failed, with the last line of their error.

        One dead worker breaks the whole pool, whichever job killed it. So the jobs that were running are done again,
        one at a time, and one whose worker dies then has failed.
        """
        failed: Failures = {}
        waiting, suspects, running = deque(jobs), deque[Job](), dict[Future[None], Job]()
        with tqdm(total=len(jobs), desc=label, unit="run", disable=not jobs, dynamic_ncols=True) as bar:
            while waiting or suspects or running:
                alone = bool(suspects) and not running
                if alone:
                    job = suspects.popleft()
                    running[self.pool.submit(function, job)] = job
                while waiting and not alone and not suspects and len(running) < self.count:
                    job = waiting.popleft()
                    running[self.pool.submit(function, job)] = job
                done = wait(running, return_when=FIRST_COMPLETED).done
                broken = any(isinstance(future.exception(), BrokenProcessPool) for future in done)
                if broken:
                    done = wait(running).done
                    self.pool.shutdown()
                    self._start()
                for future in done:
                    job, error = running.pop(future), future.exception()
                    if isinstance(error, BrokenProcessPool) and not alone:
                        suspects.append(job)
                        continue
                    if error is not None:
                        failed[job.name] = self._record(job, error)
                    bar.update()
        return failed

    def _record(self, job: Job, error: BaseException) -> str:
        self.failures.mkdir(parents=True, exist_ok=True)
        path = self.failures / f"{job.name}.txt"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({path})"
