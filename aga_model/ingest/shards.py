"""
Several processes that fill one gallery: who they are, how they share files and how one's failure reaches the others.

The processes are those of `accelerate launch` or `torchrun`. They talk through gloo, on the CPU.
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LONGEST = timedelta(days=20)  # that a process waits for one with longer videos; of one that died it hears at once
_MAKING = timedelta(minutes=10)  # that one process waits for another to do what only the first does
_HASHING_THREADS = 8
_TOLD_EVERY = 0.2  # seconds between what processes tell of their progress
_ENDED = "another process ended before its work was done: see its message"
_Value = TypeVar("_Value")
_Path = TypeVar("_Path", bound=str | os.PathLike)


class ShardError(RuntimeError):
    """The work of several processes failed in one of them; the message says where and why."""


class Progress(Protocol):
    """What is shown while a gallery is filled; a `tqdm` bar fits."""

    def update(self, n: int) -> Any:
        """`n` more are done."""
        ...


def no_progress(total: int | None) -> AbstractContextManager[Progress | None]:
    """Nothing is shown."""
    return nullcontext()


class Shards:
    """
    The processes that fill one gallery, seen from one of them. This class is a single process, to which nothing
    happens: no group is made, nothing waits.

    Attributes:
        rank (`int`): number of this process, from 0.
        count (`int`): of processes.
    """

    rank = 0
    count = 1

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "Shards":
        """
        The processes that `accelerate launch` or `torchrun` started this one among; one alone without these.

        Raises:
            ShardError: the others cannot be reached.
        """
        if int(environment.get("WORLD_SIZE") or 1) == 1 or any(name not in environment for name in _VARIABLES):
            return Shards()
        return _Launched(int(environment["LOCAL_RANK"]))

    @property
    def name(self) -> str:
        """This process in messages; empty for one alone."""
        return ""

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def device(self, name: str | None) -> str | None:
        """The device of this process, where `name` (None for the usual one) leaves open which GPU."""
        return name

    def gather(self, value: _Value) -> list[_Value]:
        """The value of every process, in the order of their ranks. Every process must come here."""
        return [value]

    def of_main(self, make: Callable[[], _Value]) -> _Value:
        """What the main process makes; its failure is everyone's. Every process must come here."""
        return make()

    @contextmanager
    def together(self) -> Iterator[None]:
        """
        Work that fails in all processes if it fails in one, with one message. Every process must come here.

        Raises:
            ShardError: it failed in another process.
        """
        yield

    @contextmanager
    def first(self, task: str) -> Iterator[bool]:
        """Something that whoever comes first does: true there, false in the others, who wait until it is done."""
        yield True

    @contextmanager
    def shared(self, bar: Progress | None) -> Iterator[Progress | None]:
        """What a process tells its progress to, so that the main process's bar shows that of all."""
        yield bar

    def close(self) -> None:
        """End the connection."""


@contextmanager
def _ended() -> Iterator[None]:
    """What torch raises when another process has gone, as a ShardError."""
    try:
        yield
    except RuntimeError as error:
        raise ShardError(_ENDED) from error


class _Launched(Shards):
    """One of several processes."""

    def __init__(self, local_rank: int):
        # Imported here: one process alone needs none of it.
        from torch import distributed

        self._distributed = distributed
        self._local_rank = local_rank
        self._shared = 0
        try:
            self._store, self.rank, self.count = next(distributed.rendezvous("env://"))
            distributed.init_process_group(
                "gloo", store=self._store, rank=self.rank, world_size=self.count, timeout=_LONGEST
            )
        except (RuntimeError, ValueError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise ShardError(f"the other processes cannot be reached at {place}: {error}") from error

    @property
    def name(self) -> str:
        return f"process {self.rank + 1} of {self.count} on {socket.gethostname()}"

    def device(self, name: str | None) -> str | None:
        import torch

        if name not in (None, "cuda") or not torch.cuda.is_available():
            return name
        return f"cuda:{self._local_rank % torch.cuda.device_count()}"

    def gather(self, value: _Value) -> list[_Value]:
        values: list[Any] = [None] * self.count
        with _ended():
            self._distributed.all_gather_object(values, value)
        return values

    def of_main(self, make: Callable[[], _Value]) -> _Value:
        made = None
        with self.together():
            if self.is_main:
                made = make()
        return self.gather(made)[0]  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        failure: Exception | None = None
        try:
            yield
        except ShardError:  # of a call within this one, which all know of
            raise
        except Exception as error:
            failure = error
        told = self.gather(None if failure is None else (self.name, str(failure) or type(failure).__name__))
        failed = [each for each in told if each is not None]
        if not failed:
            return
        name, message = failed[0]
        everywhere = len(failed) == self.count and len({message for _, message in failed}) == 1
        raise ShardError(message if everywhere else f"{name}: {message}") from failure

    @contextmanager
    def first(self, task: str) -> Iterator[bool]:
        with _ended():
            is_first = self._store.add(f"{task}/claimed", 1) == 1
            if not is_first:
                self._store.wait([f"{task}/done"], _MAKING)
        yield is_first
        if is_first:
            with _ended():
                self._store.set(f"{task}/done", "")

    @contextmanager
    def shared(self, bar: Progress | None) -> Iterator[Progress | None]:
        self._shared += 1  # in every process the same
        told = _Told(self._store, self._shared, bar)
        yield told
        told.tell()
        with _ended():
            others = self._distributed.barrier(async_op=True)
        while not others.is_completed():
            time.sleep(_TOLD_EVERY)
            told.tell()
        with _ended():
            others.wait()
        told.tell()

    def close(self) -> None:
        self._distributed.destroy_process_group()


class _Told:
    """Progress of all processes, added up in their common store."""

    def __init__(self, store: Any, number: int, bar: Progress | None):
        self._store = store
        self._key = f"progress/{number}"
        self._bar = bar
        self._own = self._shown = 0
        self._last = time.monotonic()

    def update(self, n: int) -> None:
        self._own += n
        if time.monotonic() - self._last > _TOLD_EVERY:
            self.tell()

    def tell(self) -> None:
        with _ended():
            done = self._store.add(self._key, self._own)
        self._own, self._last = 0, time.monotonic()
        if self._bar is not None:
            self._bar.update(done - self._shown)
        self._shown = done


def own_share(paths: Sequence[_Path], shards: Shards) -> list[_Path]:
    """
    The files of this process: every `count`-th, and with each those of the same content, because only who sees all of
    them can tell which is the first. The shares are disjoint and complete. Every process must come here with the same
    `paths`.

    Raises:
        ShardError: a machine sees none of its files.
    """
    if shards.count == 1:
        return list(paths)
    mine = paths[shards.rank :: shards.count]
    with shards.together():
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            hashes = list(pool.map(_content, mine))
        if mine and not any(map(os.path.exists, mine)):
            raise FileNotFoundError(f"{mine[0]} and all others of its files are missing: each machine needs all files")
    parts = shards.gather(hashes)
    owners: dict[bytes, int] = {}
    own = []
    for number, path in enumerate(paths):
        content = parts[number % shards.count][number // shards.count]
        owner = number if content is None else owners.setdefault(content, number)
        if owner % shards.count == shards.rank:
            own.append(path)
    return own


def _content(path: str | os.PathLike) -> bytes | None:
    """SHA-256 of a file; None if it cannot be read, which is reported when its turn comes."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


__all__ = ["Progress", "ShardError", "Shards", "no_progress", "own_share"]
