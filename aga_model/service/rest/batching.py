"""Requests that wait for the model are answered together, by one thread that does one thing at a time."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Generic, TypeVar

from ..guard import Refusal

MOST_TOGETHER = 32  # more make a batch slower without making the sum of them faster
MOST_WAITING = 512
_NEWEST = 0.3  # weight of the newest batch in how long one is expected to take
_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")
_Value = TypeVar("_Value")


class Batches(Generic[_Question, _Answer]):
    """
    Answers questions of several callers together. What waits while the thread is busy makes the next batch, so that a
    single caller waits for nobody, and many share the work.

    ```python
    >>> batches = Batches(search.by_sentences)
    >>> answer = await batches.ask(("a woman in a red coat", Wanted()))
    ```

    Args:
        answer: questions to their answers, in order; called in the one thread.
        most_together: questions of a batch.
        most_waiting: questions and other work that may wait; more is refused, with the seconds after which there is
            room.
        on_batch: told how many questions each batch had.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[_Question]], Sequence[_Answer]],
        most_together: int = MOST_TOGETHER,
        most_waiting: int = MOST_WAITING,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self._answer = answer
        self._most_together = most_together
        self._most_waiting = most_waiting
        self._on_batch = on_batch
        self._thread = ThreadPoolExecutor(1, "search")
        self._waiting: deque[tuple[_Question, asyncio.Future[_Answer]]] = deque()
        self._other = 0  # work that waits or is under way beside the questions
        self._worker: asyncio.Task[None] | None = None
        self._seconds = 0.0  # that a batch is expected to take

    async def ask(self, question: _Question) -> _Answer:
        """
        The answer to one question.

        Raises:
            Refusal: too many wait.
        """
        self._require_room()
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def run(self, function: Callable[..., _Value], *arguments: Any) -> _Value:
        """
        Something else in the same thread, between two batches.

        Raises:
            Refusal: too many wait.
        """
        self._require_room()
        self._other += 1
        try:
            return await self.in_thread(function, *arguments)
        finally:
            self._other -= 1

    async def in_thread(self, function: Callable[..., _Value], *arguments: Any) -> _Value:
        """Something that nobody asked for and that is not refused, such as a reload."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._other and (self._worker is None or self._worker.done())

    def close(self) -> None:
        """End the thread; what is under way is finished."""
        self._thread.shutdown()

    def _require_room(self) -> None:
        waiting = len(self._waiting) + self._other
        if waiting >= self._most_waiting:
            batches = math.ceil(len(self._waiting) / self._most_together) + self._other
            seconds = max(1, math.ceil(batches * self._seconds))
            raise Refusal(503, f"too many requests wait at the moment: try again in {seconds} s", seconds)

    async def _work(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._most_together, len(self._waiting)))]
            batch = [
                (question, future) for question, future in taken if not future.cancelled()
            ]  # whose caller is there
            if batch:
                await self._answer_batch(batch)

    async def _answer_batch(self, batch: list[tuple[_Question, "asyncio.Future[_Answer]"]]) -> None:
        began = perf_counter()
        try:
            answers = await self.in_thread(self._answer, [question for question, _ in batch])
        except Exception as error:  # of the whole batch: each of its callers is told
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            taken = perf_counter() - began
            self._seconds = taken if not self._seconds else self._seconds + _NEWEST * (taken - self._seconds)
        self._on_batch(len(batch))
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


__all__ = ["MOST_TOGETHER", "MOST_WAITING", "Batches"]
