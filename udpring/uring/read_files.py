"""Many whole files, read ahead into memory that is used again and again."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import AsyncIterator, Iterable

from udpring._native import lib
from udpring.uring.files import FilePath, open_file
from udpring.uring.loops import Gate, Loop, running_loop
from udpring.uring.operations import Flag
from udpring.uring.queueing import path_bytes, place
from udpring.uring.reactor import Reactor
from udpring.uring.ring import Ring

__all__ = ["read_files"]

AHEAD_MAX = 1024
_OPENED, _READ, _CLOSED = range(3)
_LINK, _READ_FLAGS = int(Flag.LINK), Flag.FIXED_FILE | Flag.HARDLINK
_OPENAT2, _CLOSE = lib.UDPRING_OP_OPENAT2, lib.UDPRING_OP_CLOSE
_AT_FDCWD = -100


async def read_files(
    paths: Iterable[FilePath],
    *,
    size: int = 1 << 20,
    ahead: int = 2,
    reactor: Reactor | None = None,
) -> AsyncIterator[tuple[FilePath, memoryview]]:
    """The path and the content of each file, in their order: ``async for path, data in read_files(paths)``.

    ``data`` is valid until the next step, because its memory then gets another file. Fresh memory for each
    file would cost about as much as reading it.

    ``size``: bytes of that memory for a file. Longer files get memory of their own, and are read twice.
    ``ahead``: files on their way at once. Two suffice for the page cache, more help a slow disk.
    ``reactor``: by default the one that the current task is inside of. It says whether io_uring is used, on a
    ring of its own.
    Raises ValueError for an impossible number, ClosedError, OSError with the path of a file that cannot be
    read.
    """
    if size < 1 or not 1 <= ahead <= AHEAD_MAX:
        raise ValueError(f"{ahead} files ahead, in {size} bytes each: 1 to {AHEAD_MAX}, in at least 1")
    reactor = reactor or Reactor.current()
    reactor._opened()
    if reactor.backend != "io_uring":
        for path in paths:
            async with open_file(path, reactor=reactor) as file:
                yield path, memoryview(await file.readall())
        return
    waiting = iter(paths)
    with _Chains(running_loop(), size, ahead) as chains:
        for path in itertools.islice(waiting, ahead):
            chains.begin(path)
        while chains.order:
            reading = chains.order[0]
            await chains.until_closed(reading)
            reading.check()
            data = reading.memory[: reading.length]
            if reading.length > size:  # it did not fit
                async with open_file(reading.path, reactor=reactor) as file:
                    data = memoryview(await file.readall())
            yield reading.path, data
            chains.free(reading)
            for path in itertools.islice(waiting, 1):
                chains.begin(path)


class _Reading:
    """A place for a file: its memory, and its number among the registered files."""

    def __init__(self, ring: Ring, number: int, size: int) -> None:
        self.place = place(number)
        memory = bytearray(size + 1)  # one more shows that a file did not fit
        self.memory = memoryview(memory).toreadonly()
        self.read = ring.prepare("read", number, lengths=size + 1, buffer=memory, count=1, flags=_READ_FLAGS)
        self.path: FilePath = ""
        self.results = [0, 0, 0]
        self.closed = False

    @property
    def length(self) -> int:
        """Bytes read."""
        return self.results[_READ]

    def check(self) -> None:
        """Raises OSError if the file was not opened or not read."""
        for result in self.results:
            if result < 0:
                raise OSError(-result, os.strerror(-result), os.fsdecode(self.path))


class _Chains:
    """A ring on which each file is a chain of three operations: open, read, close."""

    def __init__(self, loop: Loop, size: int, ahead: int) -> None:
        self._loop = loop
        self._ring = ring = Ring(max(8, 4 * ahead))
        ring.register_files(ahead)
        self._done = ring.columns(3 * ahead)
        self._places = [_Reading(ring, number, size) for number in range(ahead)]
        self._steps: dict[int, tuple[_Reading, int]] = {}
        self._turns = 0
        self._gate: Gate | None = None
        self.order: collections.deque[_Reading] = collections.deque()

    def begin(self, path: FilePath) -> None:
        """Queues a file at a free place. There is room for the chains of all places."""
        reading, ring, steps = self._places.pop(), self._ring, self._steps
        reading.path, reading.closed = path, False
        name = path_bytes(path)
        opening = ring._put(_OPENAT2, _LINK, _AT_FDCWD, extra=reading.place, memory=name, size=len(name))
        reading.read.queue()
        closing = ring._put(_CLOSE, 0, 0, extra=reading.place)
        steps[opening] = reading, _OPENED
        steps[reading.read.tickets[0]] = reading, _READ
        steps[closing] = reading, _CLOSED
        self.order.append(reading)

    def free(self, reading: _Reading) -> None:
        """The place may have another file."""
        self.order.remove(reading)
        self._places.append(reading)

    async def until_closed(self, reading: _Reading) -> None:
        """Waits for the end of a file's chain. A file in the page cache is read while it is submitted. The
        loop has a turn for each round of files all the same."""
        self._take()
        self._turns += 1
        if self._turns % (len(self._places) + len(self.order)) == 0:
            await self._loop.turn()
        while not reading.closed:
            self._gate = gate = self._loop.gate()
            self._loop.watch(self._ring.fileno(), self._wake)
            try:
                self._take()
                if not reading.closed:
                    await gate.wait()
            finally:
                self._loop.unwatch(self._ring.fileno())
            self._take()

    def _wake(self) -> None:
        if self._gate is not None:
            self._gate.open()

    def _take(self) -> None:
        done, steps = self._done, self._steps
        for i in range(done.turn(0, 0)):
            reading, step = steps.pop(done.tickets[i])
            reading.results[step] = done.results[i]
            reading.closed |= step == _CLOSED

    def __enter__(self) -> _Chains:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ring.close()
