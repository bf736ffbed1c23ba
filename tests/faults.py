"""Makes calls of the core fail while its program runs: once, the k-th time, or for ever.

``Faults(directory)`` has a file that the library of faults.c maps in the program, which is started with
``environment``. A rule holds from the moment it is set; the library counts what came of it.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from preload import build, preload

__all__ = ["ALLOCATIONS", "CALLS", "FOR_EVER", "Faults"]

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
]
ALLOCATIONS = ("malloc", "calloc", "realloc", "aligned_alloc", "mmap")
FOR_EVER = -1

_RULE = struct.Struct("=iiqqqq")


class Faults:
    """The rules of one program. ``library``: as ``build_library`` made it."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._path = directory / "faults"
        self._path.write_bytes(bytes(len(CALLS) * _RULE.size))
        with self._path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.environment = {"LD_PRELOAD": preload(library), "FAULTS": str(self._path)}

    @staticmethod
    def build_library(directory: Path) -> Path:
        return build(Path(__file__).with_name("faults.c"), directory)

    def set(self, call: str, error: int, *, times: int = 1, skip: int = 0) -> None:
        """After ``skip`` calls, ``times`` fail (``FOR_EVER``: all)."""
        self.set_any((call,), error, times=times, skip=skip)

    def set_any(self, calls: tuple[str, ...], error: int, *, times: int = 1, skip: int = 0) -> None:
        """The same of several, counted together."""
        group = CALLS.index(calls[0])
        for call in reversed(calls):  # the first counts for all, so it is set last: with it the rule holds
            self._put(call, (error, group, skip, times, 0, 0))

    def clear(self) -> None:
        for call in CALLS:
            self._put(call, (0, 0, 0, 0, self.seen(call), self.failed(call)))

    def _put(self, call: str, rule: tuple[int, ...]) -> None:
        at = CALLS.index(call) * _RULE.size
        _RULE.pack_into(self._map, at, 0, *rule[1:])
        struct.pack_into("=i", self._map, at, rule[0])

    def _read(self, call: str) -> tuple[int, ...]:
        return _RULE.unpack_from(self._map, CALLS.index(call) * _RULE.size)

    def seen(self, call: str) -> int:
        """Calls since the rule was set."""
        return self._read(call)[4]

    def failed(self, call: str) -> int:
        """Of these, the ones that failed."""
        return self._read(call)[5]

    def close(self) -> None:
        self._map.close()
        self._path.unlink()
