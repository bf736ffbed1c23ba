"""The completions of a multishot operation as an asynchronous iterator, with a bound."""

from __future__ import annotations

import collections
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
            if not stopped and not self._closed:
                self._error = completion
        elif self._closed:
            self._drop(completion)
        else:
            self._waiting.append(completion)
            if len(self._waiting) >= self._bound and completion.more and call is not None:
                call.cancel()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.open()

    def _drop(self, completion: Completion) -> None:
        if self._discard is not None:
            self._discard(completion)

    async def __anext__(self) -> Completion:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            if self._reactor.closed:
                raise ClosedError("the reactor was closed")
            if self._error is not None:
                error, self._error = self._error, None
                error.check()
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

    def close(self) -> None:
        """Ends the operation. Completions that nobody took go to ``discard``. A waiting task stops."""
        if self._closed:
            return
        self._closed = True
        if self._call is not None and not self._reactor.closed:
            self._call.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft())
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.open()
