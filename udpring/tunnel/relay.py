"""Moves the bytes of two TCP connections to each other by splice(2): they stay in the kernel.

A direction holds a pipe only while it holds bytes, so idle connections cost no pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

__all__ = ["Pipes", "relay"]

PIPE_BYTES = 1 << 20
TURN_BYTES = 4 << 20
"""Bytes that one direction moves before others have their turn."""
KEPT = 64
"""Empty pipes that are kept for later."""
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipes:
    """Empty pipes, to use again. ``close`` when no relay runs any more."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """An empty pipe. Raises OSError."""
        if self._free:
            return self._free.pop()
        ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # past the user's limit (pipe(7)) it has 64 KiB or less
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return ends

    def give(self, ends: tuple[int, int]) -> None:
        """Returns an empty pipe."""
        if len(self._free) < KEPT:
            self._free.append(ends)
        else:
            self.drop(ends)

    @staticmethod
    def drop(ends: tuple[int, int]) -> None:
        """Closes a pipe that may hold bytes."""
        for end in ends:
            os.close(end)

    def close(self) -> None:
        """Closes those that are kept."""
        while self._free:
            self.drop(self._free.pop())


class _Direction:
    """From one socket to the other, until the end of the stream, which is passed on. Then ``done`` is called;
    with the error if there is one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipes: Pipes,
        source: socket.socket,
        target: socket.socket,
        done: Callable[[OSError | None], None],
    ) -> None:
        self._loop = loop
        self._pipes = pipes
        self._source = source
        self._target = target
        self._done = done
        self._ends: tuple[int, int] | None = None
        self._held = 0
        self._finished = False
        loop.add_reader(source, self._move)

    def stop(self) -> None:
        """Ends it and closes everything it holds. May be called again."""
        if not self._finished:
            self._finish()
        ends, self._ends = self._ends, None
        if ends is not None:
            self._pipes.drop(ends)

    def _finish(self) -> None:
        self._finished = True
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)

    def _end(self, error: OSError | None) -> None:
        self._finish()
        self._done(error)

    def _move(self) -> None:
        try:
            moved = 0
            while moved < TURN_BYTES:
                if not self._drain():
                    self._loop.remove_reader(self._source)
                    self._loop.add_writer(self._target, self._resume)
                    return
                got = self._fill()
                if got == 0:
                    self._release()
                    with contextlib.suppress(OSError):
                        self._target.shutdown(socket.SHUT_WR)
                    self._end(None)
                    return
                if got < 0:
                    self._release()
                    return
                moved += got
        except OSError as failed:
            self._end(failed)

    def _resume(self) -> None:
        try:
            if self._drain():
                self._loop.remove_writer(self._target)
                self._loop.add_reader(self._source, self._move)
        except OSError as failed:
            self._end(failed)

    def _fill(self) -> int:
        """Bytes taken from the source; 0: its end; -1: there are none now."""
        if self._ends is None:
            self._ends = self._pipes.take()
        try:
            got = os.splice(self._source.fileno(), self._ends[1], PIPE_BYTES, flags=_FLAGS)
        except BlockingIOError:
            return -1
        self._held = got
        return got

    def _drain(self) -> bool:
        """Whether the pipe is empty now."""
        while self._held:
            assert self._ends is not None
            try:
                self._held -= os.splice(self._ends[0], self._target.fileno(), self._held, flags=_FLAGS)
            except BlockingIOError:
                return False
        return True

    def _release(self) -> None:
        ends, self._ends = self._ends, None
        if ends is not None:
            self._pipes.give(ends)


async def relay(one: socket.socket, other: socket.socket, pipes: Pipes) -> None:
    """Moves bytes both ways until both streams have ended, or one fails. The sockets are non-blocking and
    stay the caller's."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    left = 2

    def done(error: OSError | None) -> None:
        nonlocal left
        left -= 1
        if (error is not None or left == 0) and not ended.done():
            ended.set_result(None)

    directions: list[_Direction] = []
    try:
        for source, target in ((one, other), (other, one)):
            directions.append(_Direction(loop, pipes, source, target, done))
        await ended
    finally:
        for direction in directions:
            direction.stop()
