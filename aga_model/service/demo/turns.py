"""
Who may wait for the model. It computes one thing at a time, so behind many others a person would wait for long: who
would, is told at once to come again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from ..guard import App, Receive, Refusal, Scope, Send, refuse

MOST_WAIT = 1.0  # seconds that an answer may be away when it is asked for, as it is expected
_FIRST_GUESS = 0.2  # seconds of a computation, before one was measured
_NEWEST = 0.3  # weight of the newest measurement in what is expected of the next


class Pace:
    """How long computations take, by name: a moving mean."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        return self._seconds.get(name, _FIRST_GUESS)

    @property
    def usual(self) -> float:
        """Seconds of a computation of any name."""
        return sum(self._seconds.values()) / len(self._seconds) if self._seconds else _FIRST_GUESS

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        began = perf_counter()
        try:
            yield
        finally:
            taken = perf_counter() - began
            old = self._seconds.get(name, taken)
            self._seconds[name] = old + _NEWEST * (taken - old)


class Turns:
    """
    An ASGI application in front of one that queues computations.

    Args:
        app: answers a request to `path` when its computation has joined the queue.
        path: of these requests.
        waiting: names of the computations in the queue, with the one that runs.
        pace: how long they take.
        most: of them at a time.
    """

    def __init__(self, app: App, path: str, waiting: Callable[[], Sequence[str]], pace: Pace, most: int):
        self.app = app
        self.path = path
        self.waiting = waiting
        self.pace = pace
        self.most = most
        self._joining = 0  # let through, and not in the queue yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        try:
            self._require_soon()
        except Refusal as refusal:
            await refuse(refusal, scope, send)
            return
        self._joining += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._joining -= 1

    def _require_soon(self) -> None:
        """Refusal if too many are before this one. Alone, a computation may take as long as it does."""
        waiting = self.waiting()
        own = self.pace.usual
        before = sum(self.pace[name] for name in waiting) + self._joining * own
        number = len(waiting) + self._joining
        if number and (before + own > MOST_WAIT or number > self.most):
            seconds = max(1, math.ceil(before))
            raise Refusal(
                503, f"This demo is busy, since others are searching at the moment: try again in {seconds} s.", seconds
            )


__all__ = ["MOST_WAIT", "Pace", "Turns"]
