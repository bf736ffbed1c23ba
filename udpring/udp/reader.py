"""A descriptor that an asyncio loop (or uvloop) keeps watching between the waits of a task.

1. The descriptor is registered once, because registering it for each wait would be the largest cost. It is
   removed when it is readable and no task waits (the loop would call the reader endlessly), or when a check,
   once a second, finds no waiting task.
2. A task awaits the reader itself, which is a future for ``asyncio.isfuture``. When the descriptor is
   readable, the loop resumes the task at once. ``Future.set_result`` would do so one turn later.
3. Other ends of a wait (time-out, cancellation, another task) take effect in the loop's next turn.

The reader does not use the ring. Only the loop keeps it alive, and a task while it waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable, Generator
from typing import Any

from udpring.errors import ClosedError
from udpring.udp.loops import CLOSED, LOOK_SECONDS, turns_here

__all__ = ["LoopReader"]

_CANCELLED = "cancelled"
_running_loop = asyncio.get_running_loop


class LoopReader:
    """Lets ``loop`` watch ``fd`` until ``leave()``. For one task at a time, in the loop's thread."""

    __slots__ = (
        "__weakref__",
        "_asyncio_future_blocking",  # this attribute of the class makes it a future
        "_closed",
        "_context",
        "_fd",
        "_look",
        "_message",
        "_outcome",
        "_pid",
        "_resume",
        "_scheduled",
        "_timer",
        "_turns",
        "loop",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self.loop: asyncio.AbstractEventLoop | None = loop  # None: it has stopped watching
        self._fd = fd
        self._pid = os.getpid()
        self._look: asyncio.TimerHandle | None = None  # serves successive waits
        self._timer: asyncio.TimerHandle | None = None  # of a wait that ends earlier
        self._asyncio_future_blocking = False
        self._outcome: bool | str | None = None  # ready, without event, _CANCELLED; None: not yet known
        self._message: Any = None
        self._resume: Callable[[LoopReader], object] | None = None  # runs the waiting task in its context
        self._context: contextvars.Context | None = None
        self._scheduled = False  # the loop's next turn ends the wait
        self._closed = False
        self._turns = turns_here()
        # In an empty context: the task's would live as long as this object.
        contextvars.Context().run(loop.add_reader, fd, self._readable)

    @property
    def waiting(self) -> bool:
        """Whether a task waits."""
        return self._resume is not None

    def leave(self) -> None:
        """Removes the descriptor from the loop. Calling it twice is fine."""
        loop, self.loop = self.loop, None
        look, self._look = self._look, None
        if loop is None or loop.is_closed():
            return
        if look is not None:
            look.cancel()
        if os.getpid() == self._pid:  # a forked child shares the epoll instance with its parent
            loop.remove_reader(self._fd)

    def close(self) -> None:
        """Leaves, and ends the present wait, if any, with ClosedError."""
        self._closed = True
        self._end(False)
        self.leave()

    def wake(self) -> None:
        """Ends the present wait, if any, as after a time-out."""
        self._end(False)

    def wait(self, timeout: float) -> LoopReader:
        """Await it at once. True: it is readable. False: ``timeout`` seconds have passed, a check is due, or
        ``wake()`` was called. Raises ClosedError when it is closed meanwhile."""
        loop = self.loop
        assert loop is not None
        if timeout < LOOK_SECONDS:
            self._timer = loop.call_later(timeout, self.wake)
        if self._look is None:
            self._look = contextvars.Context().run(loop.call_later, LOOK_SECONDS, self._looked)
        return self

    def wait_again(self) -> LoopReader | None:
        """The same without a time limit, if the running loop watches it. Otherwise None."""
        loop = self.loop
        if loop is None or loop is not _running_loop():
            return None
        return self if self._look is not None else self.wait(LOOK_SECONDS)

    def __await__(self) -> Generator[LoopReader, None, bool]:
        self._outcome = None
        self._scheduled = False
        self._asyncio_future_blocking = True
        try:
            yield self
        finally:
            self._resume = self._context = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._closed:
            raise ClosedError(CLOSED)
        return self._outcome is True

    # Called by the loop.

    def _readable(self) -> None:
        self._turns.count += 1
        if self._resume is None:
            self.leave()  # no task will fetch the datagrams
            return
        if self._outcome is None:
            self._outcome = True
        assert self._context is not None
        self._context.run(self._resume, self)

    def _looked(self) -> None:
        self._look = None
        if self._resume is None:
            self.leave()
        else:
            self._end(False)

    def _end(self, outcome: bool | str) -> bool:
        """Ends the wait in the loop's next turn. Returns whether it does: the wait may have ended before."""
        ours = self._outcome is None
        if ours:
            self._outcome = outcome
        loop = self.loop
        if self._resume is not None and not self._scheduled and loop is not None and not loop.is_closed():
            loop.call_soon(self._run)
            # set afterwards: a signal may come in between, and a superfluous call does no harm
            self._scheduled = True
        return ours

    def _run(self) -> None:
        """Resumes the task, unless it was resumed or the wait has not ended."""
        if self._resume is not None and self._outcome is not None:
            assert self._context is not None
            self._context.run(self._resume, self)

    # Called by a task on the future that it awaits.

    def get_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the task."""
        return self.loop

    def add_done_callback(
        self, resume: Callable[[LoopReader], object], *, context: contextvars.Context | None = None
    ) -> None:
        """``resume`` belongs to the task."""
        self._context = contextvars.copy_context() if context is None else context
        self._resume = resume

    def result(self) -> None:
        """Raises CancelledError if the wait was cancelled."""
        if self._outcome is _CANCELLED:
            message, self._message = self._message, None
            raise asyncio.CancelledError(*(() if message is None else (message,)))

    def cancel(self, msg: Any = None) -> bool:
        """Whether this cancels the wait. If the wait has ended, the task handles the cancellation itself."""
        if self._outcome is None:
            self._message = msg
        return self._end(_CANCELLED)
