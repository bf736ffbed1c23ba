"""What a program registers with a ring: files, buffers, an eventfd, and limits of the kernel's threads."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from typing import Any

from udpring._native import ffi, lib, reason
from udpring.errors import RingError
from udpring.uring.operations import File, descriptor

__all__ = ["Registered"]


def worker_limits(workers: tuple[int, int]) -> tuple[int, int]:
    """Numbers of io-wq threads, checked. Raises ValueError if one is below 1 or above 65535."""
    bounded, unbounded = workers
    for number in (bounded, unbounded):
        if not 1 <= number <= 65535:
            raise ValueError(f"{number} worker threads: 1 to 65535")
    return bounded, unbounded


class Registered:
    """The registrations of a ring (io_uring_register(2)). Every method raises ClosedError after close, and
    WrongThreadError from another thread or a forked child."""

    _fixed_buffers: list[Any]

    def _handle(self) -> Any:
        raise AssertionError("the ring has it")  # pragma: no cover

    def _check(self, code: int, what: str, why: Any = None) -> int:
        raise AssertionError("the ring checks")  # pragma: no cover

    def provide_buffers(self, group: int, count: int, size: int) -> None:
        """Gives the ring ``count`` (a power of two, at most 32768) buffers of ``size`` bytes for multishot
        operations.

        They return to the kernel as soon as ``completions`` has copied them. Raises RingError: EINVAL for a
        bad count or size, EEXIST if the group exists, ENOBUFS beyond 16 groups.
        """
        why = reason()
        code = lib.udpring_ring_provide(self._handle(), group, count, size, why)
        self._check(code, f"buffer group {group}", why)

    def register_files(self, files: Sequence[File] | int) -> None:
        """Registers descriptors for use by index with ``Flag.FIXED_FILE``. A number reserves that many
        places."""
        if isinstance(files, int):
            code = lib.udpring_ring_files(self._handle(), ffi.NULL, files)
        else:
            numbers = ffi.new("int32_t[]", [descriptor(file) for file in files])
            code = lib.udpring_ring_files(self._handle(), numbers, len(numbers))
        self._check(code, "registering files")

    def update_files(self, start: int, files: Sequence[File | None]) -> int:
        """Changes registered files from index ``start`` on. None empties a place. Returns the number of
        changes."""
        numbers = ffi.new("int32_t[]", [-1 if file is None else descriptor(file) for file in files])
        code = lib.udpring_ring_files_update(self._handle(), start, numbers, len(numbers))
        return self._check(code, "updating registered files")

    def unregister_files(self) -> None:
        """Unregisters the files. Operations in flight keep theirs."""
        self._check(lib.udpring_ring_files_clear(self._handle()), "unregistering files")

    def register_eventfd(self, file: File | None) -> None:
        """Counts completions on an eventfd(2) of the program. None removes it. ``fileno`` needs no such call.

        Raises RingError: EBUSY if one is registered already, or ``fileno`` was called.
        """
        number = -1 if file is None else descriptor(file)
        code = lib.udpring_ring_eventfd(self._handle(), number)
        if code == -errno.EBUSY:
            raise RingError(
                "registering an eventfd: a ring signals one eventfd, and this one has one already, from "
                "register_eventfd() or fileno()",
                errno=errno.EBUSY,
            )
        self._check(code, "registering an eventfd")

    @property
    def iowq_workers(self) -> tuple[int, int]:
        """The most worker threads (io-wq) of this thread's rings on a NUMA node: for regular files, and for
        all other operations. May be changed at any time (IORING_REGISTER_IOWQ_MAX_WORKERS, Linux 5.15).

        Raises RingError: EINVAL before Linux 5.15. Setting raises ValueError for numbers outside 1 to 65535.
        """
        return self._iowq((0, 0))

    @iowq_workers.setter
    def iowq_workers(self, workers: tuple[int, int]) -> None:
        self._iowq(worker_limits(workers))

    def _iowq(self, workers: tuple[int, int]) -> tuple[int, int]:
        """Sets the limits, 0 for no change. Returns the former ones."""
        limits = ffi.new("uint32_t[2]", workers)
        self._check(lib.udpring_ring_workers(self._handle(), limits), "the limits of worker threads")
        return limits[0], limits[1]

    def register_buffers(self, sizes: Sequence[int]) -> list[memoryview]:
        """Makes and pins buffers for ``read_fixed`` and ``write_fixed``. Returns views of them, which stay
        valid after close.

        Raises RingError: EBUSY if there are some already, EINVAL for none or more than 1024, ENOMEM beyond
        RLIMIT_MEMLOCK.
        """
        maps = [mmap.mmap(-1, size) for size in sizes]
        held = [ffi.from_buffer("uint8_t[]", memory) for memory in maps]
        pointers = ffi.new("uint8_t *[]", held)
        lengths = ffi.new("uint64_t[]", list(sizes))
        code = lib.udpring_ring_buffers(self._handle(), pointers, lengths, len(held))
        self._check(code, "registering buffers")
        self._fixed_buffers = held
        return [memoryview(memory) for memory in maps]

    def unregister_buffers(self) -> None:
        """Unpins the registered buffers. Raises RingError (ENXIO) if there are none."""
        code = lib.udpring_ring_buffers_clear(self._handle())
        self._check(code, "unregistering buffers")
        # Operations in flight hold the pages, not this mapping, so dropping it frees none of theirs.
        self._fixed_buffers = []
