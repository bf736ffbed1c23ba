"""An eventfd of the core that an asyncio loop watches, and the tasks that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import os

from udpring.errors import ClosedError

__all__ = ["Doorbell"]


class Doorbell:
    """The loop watches ``fd`` from the first wait to ``close()``: to register it at each wait would cost more
    than the wait. The core raises it only after it was asked to, so nothing is called in vain."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = fd
        self._loop = loop
        self._watched = False
        self._closed = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Returns when it has rung, perhaps for another task. Raises ClosedError when it is closed."""
        if self._closed:
            raise ClosedError("the node has ended")
        if not self._watched:
            self._loop.add_reader(self._fd, self._rung)
            self._watched = True
        woken: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(woken)
        try:
            await woken
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(woken)

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        waiting, self._waiting = self._waiting, []
        for woken in waiting:
            if not woken.done():
                woken.set_result(None)

    def close(self) -> None:
        """Ends the watch, and each wait with ClosedError. The descriptor stays open. May be called again."""
        self._closed = True
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)
        waiting, self._waiting = self._waiting, []
        for woken in waiting:
            if not woken.done():
                woken.set_exception(ClosedError("the node ended while a task waited for its packets"))
