"""Makes calls of the core fail while its program runs: once, the k-th time, or for ever.

``Faults.make(directory)`` makes a file that the library of faults.c maps in the program. Start the program
with ``environment``. A rule holds from the moment it is set, and the library counts calls and failures. A
program that sets rules for itself uses ``Faults.inherited()``.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from preload import build, preload

__all__ = ["ALLOCATIONS", "CALLS", "FOR_EVER", "Faults", "build_library"]

#: In the order of enum call in faults.c.
CALLS = [
    "io_uring_enter",
    "io_uring_setup",
    "io_uring_register",
    "ppoll",
    "poll",
    "recvmmsg",
    "sendmmsg",
    "recvmsg",
    "sendmsg",
    "sendto",
    "read",
    "write",
    "writev",
    "ioctl",
    "getsockopt",
    "setsockopt",
    "socket",
    "bind",
    "mmap",
    "madvise",
    "eventfd",
    "malloc",
    "calloc",
    "realloc",
    "aligned_alloc",
    "getrandom",
    "pthread_create",
    "fstat",
]
ALLOCATIONS = ("malloc", "calloc", "realloc", "aligned_alloc", "mmap")
FOR_EVER = -1

_RULE = struct.Struct("=iiqqqqq")


class Faults:
    """The rules of one program."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @classmethod
    def make(cls, directory: Path) -> Faults:
        path = directory / "faults"
        path.write_bytes(bytes(len(CALLS) * _RULE.size))
        return cls(path)

    @classmethod
    def inherited(cls) -> Faults:
        """The rules of the calling process, which was started with ``environment``."""
        return cls(Path(os.environ["FAULTS"]))

    def environment(self, library: Path) -> dict[str, str]:
        """Variables for the program. The library comes before the sanitisers, which make its allocations."""
        options = f"{os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0".strip(":")
        return {
            "LD_PRELOAD": preload(library, first=True),
            "FAULTS": str(self._path),
            "ASAN_OPTIONS": options,
        }

    def set(
        self, calls: str | Iterable[str], error: int, *, times: int = 1, skip: int = 0, every: int = 1
    ) -> None:
        """After ``skip`` calls every n-th fails, ``times`` in all. Several names are counted together."""
        names = [calls] if isinstance(calls, str) else list(calls)
        group = CALLS.index(names[0])
        for name in reversed(names):  # the first holds the common count, so it is set last
            self._put(name, (error, group, skip, times, every, 0, 0))

    def clear(self) -> None:
        """Removes the rule. The counts stay."""
        for name in CALLS:
            struct.pack_into("=i", self._map, CALLS.index(name) * _RULE.size, 0)

    def _put(self, name: str, rule: tuple[int, ...]) -> None:
        at = CALLS.index(name) * _RULE.size
        _RULE.pack_into(self._map, at, 0, *rule[1:])
        struct.pack_into("=i", self._map, at, rule[0])

    def _read(self, name: str) -> tuple[int, ...]:
        return _RULE.unpack_from(self._map, CALLS.index(name) * _RULE.size)

    def seen(self, *names: str) -> int:
        """Calls since the rule was set."""
        return sum(self._read(name)[5] for name in names)

    def failed(self, *names: str) -> int:
        """How many of these calls failed."""
        return sum(self._read(name)[6] for name in names)

    def close(self) -> None:
        self._map.close()
        self._path.unlink()


def build_library(directory: Path) -> Path:
    """faults.c, compiled once per test or session."""
    return build(Path(__file__).with_name("faults.c"), directory)
