"""What random programs of operations work on, each with a model of what must be there.

``Lent``: memory that a ring uses in place, which notices when it dies. ``Words``: a pipe or a pair of sockets
through which numbered words go, each of them once. ``Regions``: parts of a file with known content.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from udpring.uring import Completion

WORD = 8
PATTERN = b"\xa5"


class Lent(bytearray):
    """Memory that a test lends to a ring and then drops. It remembers its last content in ``Memory``."""

    memory: Memory
    number: int

    def __del__(self) -> None:
        # A bytearray that the kernel may write to cannot be resized: what is here is what the kernel left.
        with contextlib.suppress(AttributeError):  # the interpreter ends
            self.memory.dead[self.number] = bytes(self)


class Memory:
    """All lent memory of a program: what lives, and what died with which content."""

    def __init__(self) -> None:
        self.dead: dict[int, bytes] = {}
        self.canaries: list[bytearray] = []
        self._numbers = itertools.count(1)

    def lend(self, content: bytes) -> Lent:
        made = Lent(content)
        made.memory, made.number = self, next(self._numbers)
        return made

    def reuse(self, size: int) -> None:
        """Takes memory of the size of a dropped buffer and fills it. ``check`` looks at it later."""
        self.canaries = self.canaries[-40:] + [bytearray(PATTERN * size) for _ in range(2)]

    def check(self) -> None:
        for canary in self.canaries:
            assert canary == PATTERN * len(canary), "the kernel wrote to memory that is somebody else's"


@dataclass
class Holder:
    """A buffer in use by an operation. The test keeps no reference if it ``drops`` the buffer."""

    memory: Memory
    number: int
    size: int
    look: Callable[[], Lent | None]

    @classmethod
    def of(cls, buffer: Lent, *, drops: bool) -> Holder:
        look: Callable[[], Lent | None] = weakref.ref(buffer) if drops else lambda: buffer
        return cls(buffer.memory, buffer.number, len(buffer), look)

    def content(self) -> bytes:
        alive = self.look()
        return bytes(alive) if alive is not None else self.memory.dead[self.number]

    @property
    def died(self) -> bool:
        return self.number in self.memory.dead


class Words:
    """Two ends of a pipe or of sockets. Writers put numbered words in, and each comes out once."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind = kind
        self.sockets: list[socket.socket] = []
        if kind == "pipe":
            self.reader, self.writer = os.pipe()
        else:
            type_ = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
            self.sockets = list(socket.socketpair(socket.AF_UNIX, type_))
            self.reader, self.writer = (end.fileno() for end in self.sockets)
        self._next = itertools.count(number << 48 | 1)
        self.sent: set[int] = set()
        self.maybe: set[int] = set()
        """Words of a send that has not ended, or that a close cut off."""
        self.got: set[int] = set()
        self.lost = 0
        """The most words that a close may have thrown away, because nobody took their completions."""
        self.full = 0  # bytes in it at most, so that no write blocks

    def make(self, count: int) -> bytes:
        return struct.pack(f"={count}Q", *itertools.islice(self._next, count))

    @staticmethod
    def split(data: bytes) -> tuple[int, ...]:
        assert len(data) % WORD == 0, "a word was cut"
        return struct.unpack(f"={len(data) // WORD}Q", data)

    def put(self, count: int) -> None:
        """Writes by a plain system call."""
        if self.full + count * WORD <= 16384:
            data = self.make(count)
            assert os.write(self.writer, data) == len(data)
            self.sent.update(self.split(data))
            self.full += len(data)

    def began(self, data: bytes) -> None:
        """The ring shall send this."""
        self.maybe.update(self.split(data))
        self.full += len(data)

    def ended(self, data: bytes, result: int) -> None:
        """The ring's send has this result. The rest was never sent."""
        words = self.split(data)
        done = max(0, result) // WORD
        assert result <= len(data)
        self.sent.update(words[:done])
        self.maybe.difference_update(words)
        self.full -= len(data) - done * WORD
        assert not self.got.intersection(words[done:]), "words arrived that the result does not count"

    def take(self, data: bytes) -> None:
        """Words that came out."""
        words = set(self.split(data))
        assert len(words) * WORD == len(data), "a word came twice in one read"
        assert words <= self.sent | self.maybe, "bytes that nobody wrote"
        assert not words & self.got, "a word came twice"
        self.got |= words
        self.full -= len(data)

    def drain(self) -> None:
        """Takes what is left, by plain system calls."""
        os.set_blocking(self.reader, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.reader, 65536):
                self.take(data)
        os.set_blocking(self.reader, True)

    def settle(self) -> None:
        """At the end, each word sent has come out, except words that a close dropped."""
        self.drain()
        assert len(self.sent - self.got) <= self.lost, "words are lost"

    def close(self) -> None:
        if self.sockets:
            for end in self.sockets:
                end.close()
        else:
            os.close(self.reader)
            os.close(self.writer)


class Regions:
    """A file in parts. An operation has a part for itself until it ends."""

    COUNT, SIZE = 16, 512

    def __init__(self, path: Path) -> None:
        self.content: list[bytes | None] = [bytes(self.SIZE)] * self.COUNT
        """None: an operation that a close cut off may have written it."""
        self.busy = [False] * self.COUNT
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        path.unlink()
        os.ftruncate(self.fd, self.COUNT * self.SIZE)
        self._fill = itertools.count(1)

    def take(self, pick: int) -> int | None:
        """A part that no operation uses."""
        for number in range(pick, pick + self.COUNT):
            if not self.busy[number % self.COUNT]:
                self.busy[number % self.COUNT] = True
                return number % self.COUNT
        return None

    def fresh(self) -> bytes:
        """Content that no part has had yet."""
        return struct.pack("=Q", next(self._fill)) * (self.SIZE // 8)

    def wrote(self, number: int, content: bytes, result: int) -> None:
        self.busy[number] = False
        if result >= 0:
            assert result == self.SIZE
            self.content[number] = content

    def read(self, number: int, data: bytes, result: int) -> None:
        self.busy[number] = False
        if result >= 0:
            expected = self.content[number]
            assert result == len(data) == self.SIZE
            assert expected is None or data == expected, "the file has other bytes"

    def settle(self) -> None:
        """The end: the file has what the model has."""
        for number, expected in enumerate(self.content):
            if expected is not None and not self.busy[number]:
                assert os.pread(self.fd, self.SIZE, number * self.SIZE) == expected

    def close(self) -> None:
        os.close(self.fd)


@dataclass
class Operation:
    """An operation of the program that has not ended."""

    name: str
    end: Callable[[Completion], None] = lambda done: None
    """Its last completion."""
    shot: Callable[[Completion], None] | None = None
    """One of those before it."""
    cut: Callable[[], None] = lambda: None
    """It was submitted, and a close cut it off: nobody knows what it did."""
    undone: Callable[[], None] = lambda: None
    """It was taken back before it was submitted."""
    held: list[Holder] = field(default_factory=list)
    """Memory that the ring must hold until it ends."""
    group: int | None = None
    """The group of buffers that it draws from."""
    plain: bool = True
    """Its completion has no more than numbers."""
    data: object = None
    """Of ``set_data``."""
