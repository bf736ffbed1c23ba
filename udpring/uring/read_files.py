"""Many whole files, read ahead into memory that is used again and again."""

from __future__ import annotations

import collections
import itertools
import mmap
import os
from collections.abc import AsyncIterator, Iterable
from typing import NoReturn, TypeVar, cast

from udpring._native import lib
from udpring.uring.files import File, FilePath, open_file
from udpring.uring.loops import Gate, Loop, running_loop
from udpring.uring.operations import Flag
from udpring.uring.queueing import place
from udpring.uring.reactor import Reactor
from udpring.uring.ring import Ring

__all__ = ["read_files"]

PathT = TypeVar("PathT", bound=FilePath)
"""The caller gets its own paths back: of str, where it gave str."""

AHEAD_MAX = 1024
_LINK, _READ_FLAGS = int(Flag.LINK), Flag.FIXED_FILE
_OPENAT2 = lib.UDPRING_OP_OPENAT2
_AT_FDCWD = -100
# What is read at most between two turns of the loop, if nothing has to be waited for: about a millisecond.
_TURN_BYTES, _TURN_FILES = 8 << 20, 64
# Where the memory begins in its page, as that of large bytes objects does. The kernel's copy to 16, where
# malloc puts a large bytearray, takes twice as long on AMD Zen 4.
_PAD = 48
_MAPPED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE  # one fault a page would cost more


async def read_files(
    paths: Iterable[PathT],
    *,
    size: int = 1 << 20,
    ahead: int = 2,
    reactor: Reactor | None = None,
) -> AsyncIterator[tuple[PathT, memoryview]]:
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
        memory = _memory(size + 1)
        for path in paths:
            async with open_file(path, reactor=reactor) as file:
                length = await _read_whole(file, memory)
                if length > size:  # it did not fit
                    yield path, memoryview(bytes(memory) + await file.readall())
                    continue
            yield path, memory[:length].toreadonly()
        return
    waiting = iter(paths)
    with _Chains(running_loop(), size, ahead) as chains:
        for path in itertools.islice(waiting, ahead):
            chains.begin(path)
        while chains.order:
            reading = chains.order[0]
            if chains.slow or not reading.ended:
                await chains.until_ended(reading)
            if reading.length < 0:
                chains.fail(reading)
            data = reading.memory[: reading.length]
            if reading.length > size:  # it did not fit
                async with open_file(reading.path, reactor=reactor) as file:
                    data = memoryview(await file.readall())
            yield cast("PathT", reading.path), data
            chains.free()
            for path in itertools.islice(waiting, 1):
                chains.begin(path)


def _memory(length: int) -> memoryview:
    return memoryview(mmap.mmap(-1, _PAD + length, _MAPPED))[_PAD:]


async def _read_whole(file: File, memory: memoryview) -> int:
    """Reads up to the end of the file or of the memory. Returns the number of bytes."""
    expected, done = os.fstat(file.fileno()).st_size, 0
    while done < len(memory):
        count = await file.readinto(memory[done:])
        done += count
        # A file without a length, as in /proc, ends where a read returns nothing.
        if not count or done == expected:
            break
    return done


class _Reading:
    """A place for a file: its memory, and its number among the registered files."""

    def __init__(self, ring: Ring, number: int, size: int) -> None:
        self.place = place(number)
        # One byte more shows that a file did not fit.
        memory = _memory(size + 1)
        self.memory = memory.toreadonly()
        self.batch = ring.prepare("read", number, lengths=size + 1, buffer=memory, count=1, flags=_READ_FLAGS)
        self.path: FilePath = ""
        self.opening = 0  # the ticket
        self.length = 0
        self.ended = False


class _Chains:
    """A ring on which each file is a chain of two operations: open, read. The next file at its place closes
    it."""

    def __init__(self, loop: Loop, size: int, ahead: int) -> None:
        self._loop = loop
        self._ring = ring = Ring(max(8, 2 * ahead))
        ring.register_files(ahead)
        self._done = ring.columns(2 * ahead)
        self._places = [_Reading(ring, number, size) for number in range(ahead)]
        self._by_ticket: dict[int, _Reading] = {}
        self._refused: dict[int, int] = {}  # openings that failed, with their results
        self._without_turn = 0  # bytes
        self.slow = False  # files are not in the page cache
        self._gate: Gate | None = None
        self.order: collections.deque[_Reading] = collections.deque()

    def begin(self, path: FilePath) -> None:
        """Queues a file at a free place. There is room for the chains of all places."""
        reading, ring = self._places.pop(), self._ring
        name = path if type(path) is bytes else os.fsencode(path)
        reading.path, reading.ended = path, False
        reading.opening = ring._put(_OPENAT2, _LINK, _AT_FDCWD, 0, 0, 0, 0, reading.place, name, len(name))
        reading.batch.queue()
        self._by_ticket[reading.batch.tickets[0]] = reading
        self.order.append(reading)

    def free(self) -> None:
        """The oldest file's place may have another file."""
        self._places.append(self.order.popleft())

    def fail(self, reading: _Reading) -> NoReturn:
        """The file was not opened, or not read."""
        error = -self._refused.pop(reading.opening, reading.length)
        raise OSError(error, os.strerror(error), os.fsdecode(reading.path))

    async def until_ended(self, reading: _Reading) -> None:
        """Waits for the end of a file's chain. A file in the page cache is read while it is submitted, so
        that happens when it is needed. The loop has a turn after some of them all the same."""
        self._take()
        self.slow = bool(self._by_ticket)
        self._without_turn += len(self.order) * max(reading.length, _TURN_BYTES // _TURN_FILES)
        if self._without_turn >= _TURN_BYTES:
            self._without_turn = 0
            await self._loop.turn()
        while not reading.ended:
            self._gate = gate = self._loop.gate()
            self._loop.watch(self._ring.fileno(), self._wake)
            try:
                self._take()
                if not reading.ended:
                    await gate.wait()
            finally:
                self._loop.unwatch(self._ring.fileno())
            self._take()

    def _wake(self) -> None:
        if self._gate is not None:
            self._gate.open()

    def _take(self) -> None:
        done = self._done
        for i in range(done.turn(0, 0)):
            reading = self._by_ticket.pop(done.tickets[i], None)
            if reading is not None:
                reading.length, reading.ended = done.results[i], True
            elif done.results[i] < 0:
                self._refused[done.tickets[i]] = done.results[i]

    def __enter__(self) -> _Chains:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ring.close()
