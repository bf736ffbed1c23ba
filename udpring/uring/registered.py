"""What a program registers with a ring: files, buffers, an eventfd, and limits of the kernel's threads."""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Sequence
from typing import Any

from udpring._native import ffi, lib
from udpring.errors import RingError
from udpring.uring.buffer_group import BufferGroup
from udpring.uring.operations import File, descriptor
from udpring.uring.queueing import Queueing
from udpring.uring.special_groups import LegacyGroup, SendGroup

__all__ = ["Registered"]


def worker_limits(workers: tuple[int, int]) -> tuple[int, int]:
    """Numbers of io-wq threads, checked. Raises ValueError if one is below 1 or above 65535."""
    bounded, unbounded = workers
    for number in (bounded, unbounded):
        if not 1 <= number <= 65535:
            raise ValueError(f"{number} worker threads: 1 to 65535")
    return bounded, unbounded


def _memory(buffer: int | Any) -> tuple[Any, memoryview]:
    """New memory of a size, or the caller's: for C, and as a view."""
    memory = mmap.mmap(-1, buffer) if isinstance(buffer, int) else buffer
    held = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
    if not len(held):
        raise ValueError("an empty buffer cannot be registered")
    return held, memoryview(memory).cast("B")


class Registered(Queueing):
    """The registrations of a ring (io_uring_register(2)). Every method raises ClosedError after close, and
    WrongThreadError from another thread or a forked child."""

    _fixed_buffers: list[Any]
    _view_groups: dict[int, BufferGroup]
    _retired: list[tuple[int, list[Any]]]

    def provide_buffers(self, group: int, count: int, size: int, *, views: bool = False) -> BufferGroup:
        """Gives the ring ``count`` (a power of two, at most 32768) buffers of ``size`` bytes for multishot
        operations.

        They return to the kernel as soon as ``completions`` has copied them. With ``views`` nothing is
        copied: ``Completion.view`` shows the buffer, which returns when the last view has ended.

        Raises RingError: EINVAL for a bad count or size, EEXIST if the group exists, ENOBUFS beyond 16
        groups.
        """
        made = BufferGroup(self, group, count, size, views=views)
        if views:
            self._view_groups[group] = made
        return made

    def provide_send_buffers(self, group: int, count: int, size: int) -> SendGroup:
        """Gives the ring ``count`` (a power of two, at most 32768) buffers of ``size`` bytes for data to send
        by ``send_group`` (Linux 6.10). Raises as ``provide_buffers`` does."""
        return SendGroup(self, group, count, size)

    def legacy_buffers(self, group: int, count: int, size: int) -> LegacyGroup:
        """Makes ``count`` (at most 32768) buffers of ``size`` bytes that operations give to the kernel, for
        Linux 5.7 to 5.18 (IORING_OP_PROVIDE_BUFFERS). Raises as ``provide_buffers`` does."""
        return LegacyGroup(self, group, count, size)

    def _unprovide(self, group: BufferGroup) -> None:
        self._unregister_group(group.number)
        self._view_groups.pop(group.number, None)
        self._unpin(group._pin, 1)

    def _unregister_group(self, number: int) -> None:
        code = lib.udpring_ring_unprovide(self._handle(), number)
        if code == -errno.EBUSY:
            raise RingError(
                f"buffer group {number}: an operation draws from it: cancel it and take its last completion "
                "first; or the kernel has buffers of a legacy group: remove them first",
                errno=errno.EBUSY,
            )
        self._check(code, f"buffer group {number}")

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

    def register_buffers(self, buffers: Sequence[int | Any] | int) -> list[memoryview]:
        """Pins buffers for ``read_fixed`` and ``write_fixed``. Returns a view of each.

        An item is a size, for a new buffer of the ring, or an object with writable, contiguous memory
        (``bytearray``, ``mmap``, ``array``, NumPy). The ring holds it until ``unregister_buffers`` or close,
        and until the operations that use it have ended. Do not resize it meanwhile. A number in place of a
        sequence makes a table of so many empty places for ``update_buffers``.

        Raises RingError: EBUSY if there is a table already, EINVAL for none or more than 1024, ENOMEM beyond
        RLIMIT_MEMLOCK. Raises TypeError or BufferError for memory that is not writable or not contiguous,
        ValueError for an empty buffer. See io_uring_register(2), IORING_REGISTER_BUFFERS.
        """
        if isinstance(buffers, int):
            code = lib.udpring_ring_buffers(self._handle(), ffi.NULL, ffi.NULL, max(0, buffers))
            self._check(code, "registering buffers")
            self._fixed_buffers = [None] * buffers
            return []
        pairs = [_memory(buffer) for buffer in buffers]
        held = [pair[0] for pair in pairs]
        pointers = ffi.new("uint8_t *[]", held)
        lengths = ffi.new("uint64_t[]", [len(each) for each in held])
        pin = self._hold(held)  # until the table has it
        code = lib.udpring_ring_buffers(self._handle(), pointers, lengths, len(held))
        if code >= 0:
            self._fixed_buffers = held
        self._unpin(pin, 1)
        self._check(code, "registering buffers")
        return [pair[1] for pair in pairs]

    def update_buffers(self, start: int, buffers: Sequence[int | Any | None]) -> list[memoryview | None]:
        """Replaces registered buffers from index ``start`` on. Items are those of ``register_buffers``, and
        None empties a place. Operations in flight keep the old memory, and so does the ring until they end.

        Raises as ``register_buffers`` does, and RingError: ERANGE for an index outside the table, ENXIO if
        there is none. Places before the one that failed are changed.
        """
        views: list[memoryview | None] = []
        table = self._fixed_buffers
        ffi.new("uint32_t[]", [start, start + len(buffers)])  # OverflowError before any memory is held
        for index, buffer in enumerate(buffers, start):
            held, view = (None, None) if buffer is None else _memory(buffer)
            memory, length = (ffi.NULL, 0) if held is None else (held, len(held))
            pin = self._hold([] if held is None else held)  # until the table has it
            code = lib.udpring_ring_buffer_update(self._handle(), index, memory, length)
            if code >= 0:
                self._retire([table[index]])
                table[index] = held
            self._unpin(pin, 1)
            self._check(code, f"updating registered buffer {index}")
            views.append(view)
        return views

    def unregister_buffers(self) -> None:
        """Unpins the registered buffers. Raises RingError (ENXIO) if there are none.

        Operations in flight keep their memory, and the ring holds it until they have ended.
        """
        self._check(lib.udpring_ring_buffers_clear(self._handle()), "unregistering buffers")
        held, self._fixed_buffers = self._fixed_buffers, []
        self._retire(held)

    def _retire(self, held: list[Any]) -> None:
        """Keeps memory that left the table until no operation can use it any more."""
        ring = self._handle()
        self._retired.append((lib.udpring_ring_fixed_retire(ring), held))
        self._release_retired(ring)

    def _publish_groups(self) -> None:
        """Gives the buffers of ended views to the kernel."""
        for group in list(self._view_groups.values()):
            group.publish()

    def _release_retired(self, ring: Any) -> None:
        """Lets go of memory that left the table and that no operation can use any more."""
        oldest, retired = lib.udpring_ring_fixed_oldest(ring), self._retired
        for each in list(retired):
            if each[0] < oldest:
                with contextlib.suppress(ValueError):  # a signal handler was faster
                    retired.remove(each)

    def busy_poll(self, seconds: float | None, *, prefer: bool = False) -> None:
        """Waits poll the network queues of the ring's sockets for ``seconds``, before they sleep (NAPI, Linux
        6.9). It trades CPU for latency. ``prefer``: interrupts of busy queues stay off. None: no more.

        Raises RingError: EINVAL if the kernel has no NAPI polling for rings, ValueError for a negative time
        or more than a second. See io_uring_register(2), IORING_REGISTER_NAPI.
        """
        if seconds is not None and not 0 <= seconds <= 1:
            raise ValueError(f"busy polling for {seconds} s: 0 to 1")
        code = lib.udpring_ring_napi(self._handle(), -1 if seconds is None else round(seconds * 1e6), prefer)
        self._check(code, "busy polling (IORING_REGISTER_NAPI, Linux 6.9)")

    def resize(self, entries: int, *, cq_entries: int = 0) -> None:
        """Changes the sizes of the queues while operations are in flight (Linux 6.13). ``entries`` and
        ``cq_entries`` mean what they mean to ``Ring``. Submits first. The number of slots stays.

        Raises RingError: EINVAL before Linux 6.13, without DEFER_TASKRUN (``sq_poll``) and for impossible
        sizes, EOVERFLOW if more completions wait than the new queue holds, EAGAIN if the kernel takes no
        submissions. ENOTRECOVERABLE: memory ran out halfway, and the ring is lost. Close it.
        """
        code = lib.udpring_ring_resize(self._handle(), entries, cq_entries or 4 * entries)
        if code == -errno.EINVAL:
            raise RingError(
                f"resizing the queues to {entries} and {cq_entries or 4 * entries} entries: it needs Linux "
                "6.13, a ring with DEFER_TASKRUN, 1 to 32768 entries, and as many completions or more",
                errno=errno.EINVAL,
            )
        self._check(code, "resizing the queues")
