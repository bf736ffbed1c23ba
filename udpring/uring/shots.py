"""The completions of a multishot operation as an asynchronous iterator, with a bound."""

from __future__ import annotations

import collections
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from udpring.errors import ClosedError
from udpring.uring.completion import Completion
from udpring.uring.loops import Gate, Loop

if TYPE_CHECKING:
    from udpring.uring.call import Call
    from udpring.uring.reactor import Reactor

__all__ = ["Shots"]


class Shots:
    """``async for completion in reactor.shots(...)``. One task at a time may iterate."""

    def __init__(
        self,
        reactor: Reactor,
        loop: Loop,
        name: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        bound: int,
        discard: Callable[[Completion], object] | None,
    ) -> None:
        if bound < 1:
            raise ValueError(f"bound={bound}: at least 1")
        self._reactor, self._loop = reactor, loop
        self._operation = (name, arguments, options)
        self._bound = bound
        self._discard = discard
        self._waiting: collections.deque[Completion] = collections.deque()
        self._call: Call | None = None
        self._gate: Gate | None = None
        self._closed = False
        self._dropping = False  # nobody will take what still comes
        self._error: Completion | None = None

    @property
    def armed(self) -> bool:
        """Whether the operation is in flight."""
        return self._call is not None

    def __aiter__(self) -> Shots:
        return self

    def arm(self) -> None:
        """Queues the operation, if it is not in flight. Iterating does so too."""
        if self._closed:
            raise ClosedError("these shots are closed")
        if self._call is None and self._error is None:
            name, arguments, options = self._operation
            self._call = self._reactor.start(
                name, *arguments, then=self._take, discard=self._discard, many=True, **options
            )

    def _take(self, completion: Completion) -> None:
        call = self._call
        if not completion.more:
            self._call = None
        stopped = call is not None and call.cancelled
        if completion.result < 0:
            # Without a free buffer it ends too, and is armed again.
            if completion.result != -errno.ENOBUFS and not stopped and not self._closed:
                self._error = completion
        elif self._dropping:
            self._drop(completion)
        else:
            self._waiting.append(completion)
            if len(self._waiting) >= self._bound and completion.more and call is not None:
                call.cancel()
        self._open_gate()

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.open()

    def _drop(self, completion: Completion) -> None:
        if self._discard is not None:
            self._discard(completion)

    async def __anext__(self) -> Completion:
        return await self.next()

    async def next(self, timeout: float | None = None) -> Completion:
        """The next completion. Raises TimeoutError after ``timeout`` seconds, StopAsyncIteration after
        ``close``, OSError with the operation's error. Whatever it raises, no completion is lost."""
        if self._waiting:
            return self._waiting.popleft()
        if timeout is None:
            return await self._wait(lambda: False)
        expired: list[Completion] = []

        def expire(completion: Completion) -> None:
            expired.append(completion)
            self._open_gate()

        timer = self._reactor.start("timeout", timeout, then=expire)
        try:
            return await self._wait(lambda: bool(expired))
        finally:
            if not timer.done:
                timer.cancel()

    async def _wait(self, expired: Callable[[], bool]) -> Completion:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            if self._reactor.closed:
                raise ClosedError("the reactor was closed")
            if self._error is not None:
                error, self._error = self._error, None
                error.check()
            if expired():
                raise TimeoutError(errno.ETIMEDOUT, "nothing came before the deadline")
            if self._gate is not None:
                raise RuntimeError("another task iterates over these shots")
            self.arm()
            gate = self._gate = self._loop.gate()
            try:
                await gate.wait()
            finally:
                if self._gate is gate:
                    self._gate = None
        return self._waiting.popleft()

    async def stop(self) -> list[Completion]:
        """Ends the operation, waits for its end, and returns the completions that nobody took."""
        self._closed = True
        if self._call is not None and not self._reactor.closed:
            self._call.cancel()
        while self._call is not None and not self._reactor.closed:
            gate = self._gate = self._loop.gate()
            await gate.wait()
        left = list(self._waiting)
        self._waiting.clear()
        return left

    def close(self) -> None:
        """Ends the operation. Completions that nobody took go to ``discard``. A waiting task stops."""
        if self._dropping:
            return
        self._closed = self._dropping = True
        if self._call is not None and not self._reactor.closed:
            self._call.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft())
        self._open_gate()
