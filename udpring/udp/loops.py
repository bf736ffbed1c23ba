"""Waiting in the program's event loop: asyncio, uvloop, trio, anyio on either. No thread, no dependency.

1. Each wait finds the loop: trio when its module is loaded and this is one of its tasks, else the running
   asyncio loop.
2. A task waits on a duplicate of the descriptor, so the program may poll the original in the same loop.
4. One task at a time waits on a receive ring. Nothing is taken from the ring before that task runs again, so
   a cancelled wait loses nothing.
   cancelled wait loses nothing.
5. Closing the ring ends the wait. The last user of the duplicate closes it.
6. Sends that found the socket buffer full wait for room, each with its own duplicate. The call that moves
   the queue wakes the tasks whose datagrams have left.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from udpring.errors import ClosedError

if TYPE_CHECKING:
    from udpring.udp.reader import LoopReader

__all__ = ["BATCHES_A_TURN", "LOOK_SECONDS", "Watch", "give_way", "turns_here"]

#: Batches per wake-up of the loop, before its timers and other tasks get their turn.
BATCHES_A_TURN = 4

#: A wait checks the ring this often, in seconds, because a closed socket causes no wake-up.
LOOK_SECONDS = 1.0

CLOSED = "closed while a task waited on it"


class Turns:
    """How often the asyncio loops of one thread have resumed a task that waited on a ring."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


_here = threading.local()


def turns_here() -> Turns:
    """The counter of this thread."""
    turns: Turns | None = getattr(_here, "turns", None)
    if turns is None:
        turns = _here.turns = Turns()
    return turns


def _trio() -> Any:
    """The trio module, if this is one of its tasks; otherwise None."""
    trio = sys.modules.get("trio")
    low = getattr(trio, "lowlevel", None)  # another thread may be importing it
    if low is None:
        return None
    try:
        low.current_task()
    except RuntimeError:
        return None
    return trio


def _asyncio() -> Any:
    """The asyncio module, imported when a task first waits."""
    return importlib.import_module("asyncio")


def _reader_class() -> type[LoopReader]:
    """The reader module, which needs asyncio."""
    made: type[LoopReader] = importlib.import_module("udpring.udp.reader").LoopReader
    return made


def _nothing() -> None:
    return None


async def give_way() -> None:
    """Lets the loop run one turn."""
    trio = _trio()
    await (trio.lowlevel.checkpoint() if trio else _asyncio().sleep(0))


class Watch:
    """A descriptor for one waiting task at a time: a duplicate of ``fd``, which remains the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._closed = False
        self._reader: Callable[[], LoopReader | None] = _nothing  # weak: only the loop refers to it
        self._end: Callable[[], object] | None = None  # ends the wait of a trio task without an event

    def wait(self, timeout: float) -> Awaitable[bool]:
        """Await it at once. True: it is ready. False: ``timeout`` seconds (at most one) have passed, or the
        wait was woken. Raises ClosedError once closed."""
        if self._closed:
            raise ClosedError(CLOSED)
        trio = _trio() if "trio" in sys.modules else None
        if trio:
            return self._in_trio(trio, timeout)
        loop = _asyncio().get_running_loop()
        reader = self._reader()
        if reader is None or reader.loop is not loop:
            if reader is not None:
                reader.leave()
            reader = _reader_class()(loop, self._fd)
            self._reader = weakref.ref(reader)
        return reader.wait(timeout)

    def wait_again(self) -> Awaitable[bool] | None:
        """The same, if the running loop watches it already. Otherwise None, without an effect."""
        reader = self._reader()
        if reader is None or ("trio" in sys.modules and _trio()):
            return None
        return reader.wait_again()

    async def _in_trio(self, trio: Any, timeout: float) -> bool:
        low = trio.lowlevel
        token = low.current_trio_token()
        try:
            with trio.move_on_after(timeout) as scope:
                # Later, because the caller may be outside trio's tasks.
                self._end = lambda: token.run_sync_soon(scope.cancel)
                await low.wait_readable(self._fd)
        finally:
            self._end = None
            if self._closed:
                os.close(self._fd)
        if self._closed:
            raise ClosedError(CLOSED)
        return not scope.cancelled_caught

    @property
    def waiting(self) -> bool:
        """Whether a task waits."""
        reader = self._reader()
        return self._end is not None or (reader is not None and reader.waiting)

    def wake(self) -> None:
        """Ends the present wait, if any."""
        reader = self._reader()
        if self._end is not None:
            self._end()
        elif reader is not None:
            reader.wake()

    def close(self) -> None:
        """Ends the present wait, if any, with ClosedError. Calling it twice is fine."""
        if self._closed:
            return
        self._closed = True
        reader = self._reader()
        if reader is not None:
            reader.close()
        if self._end is None:
            os.close(self._fd)
        else:
            self._end()  # the waiting task closes it, because trio still uses the number
