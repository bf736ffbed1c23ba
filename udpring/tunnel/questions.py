"""Open questions to a directory: each once, so many at once, so many for one source, for so long.

A question that is not answered in time is cancelled and counts as failed. It takes up its place until it
really ends, because a directory may ignore the cancellation.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Questions"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Questions(Generic[K, T]):
    """Owner: the PeersOnDemand of a node. In the thread of its event loop."""

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop, seconds: float, at_once: int, per_source: int = 0
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._at_once = at_once
        self._per_source = per_source
        self._open: dict[K, asyncio.Task[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()
        self._sources: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        """Questions that take up a place."""
        return len(self._tasks)

    def __contains__(self, subject: K) -> bool:
        return subject in self._open

    def ask(
        self,
        subject: K,
        question: Callable[[], Awaitable[T]],
        answered: Callable[[K, T | BaseException], None],
        source: Hashable = None,
    ) -> bool:
        """Asks, and calls ``answered`` once, with the answer or the error. False: too many are open, in
        all or for this source. The subject must not be open."""
        if len(self._tasks) >= self._at_once:
            return False
        if source is not None and self._sources[source] >= self._per_source:
            return False
        task = self._loop.create_task(_asked(question))
        self._open[subject] = task
        self._tasks.add(task)
        if source is not None:
            self._sources[source] += 1
        late = self._loop.call_later(self._seconds, self._late, subject, task, answered)

        def ended(task: asyncio.Task[T]) -> None:
            late.cancel()
            self._tasks.discard(task)
            if source is not None:
                self._sources[source] -= 1
                if not self._sources[source]:
                    del self._sources[source]
            failure: BaseException | None = None
            failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            if self._open.get(subject) is task:
                del self._open[subject]
                answered(subject, failure or task.result())

        task.add_done_callback(ended)
        return True

    def _late(
        self, subject: K, task: asyncio.Task[T], answered: Callable[[K, T | BaseException], None]
    ) -> None:
        if self._open.get(subject) is task:
            del self._open[subject]
            task.cancel()
            answered(subject, TimeoutError(f"no answer in {self._seconds:g} s"))

    def close(self) -> list[asyncio.Task[T]]:
        """Cancels all. Nothing is answered any more. Returns the tasks, which may take a while to end."""
        self._open.clear()
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)


async def _asked(question: Callable[[], Awaitable[T]]) -> T:
    """An exception before the directory's first await counts too."""
    return await question()
