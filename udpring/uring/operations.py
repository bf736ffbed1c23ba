"""The operations that can be queued on a ring. Each returns a ticket, and its completions carry that."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from typing import Any

from udpring._native import ffi, lib
from udpring.uring.batches import Batches
from udpring.uring.file_operations import ANY_PLACE, FileOperations, RWFlag
from udpring.uring.queueing import (
    File,
    Flag,
    Payload,
    SupportsFileno,
    SupportsRing,
    descriptor,
    nanoseconds,
    place,
)
from udpring.uring.rows import row_of
from udpring.uring.socket_operations import SocketOperations

__all__ = [
    "ANY_PLACE",
    "File",
    "Flag",
    "Operations",
    "Payload",
    "RWFlag",
    "SupportsFileno",
    "SupportsRing",
    "descriptor",
    "nanoseconds",
]

_NOP = lib.UDPRING_OP_NOP
_INJECT = lib.UDPRING_NOP_INJECT_RESULT
_CLOCKS = {
    time.CLOCK_MONOTONIC: 0,
    time.CLOCK_BOOTTIME: lib.UDPRING_TIMEOUT_BOOTTIME,
    time.CLOCK_REALTIME: lib.UDPRING_TIMEOUT_REALTIME,
}
# struct nvme_uring_cmd: opcode, flags, rsvd1, nsid, cdw2, cdw3, metadata, addr, metadata_len, data_len,
# cdw10 to cdw15, timeout_ms, rsvd2. The command's number holds its size.
_NVME = struct.Struct("=BBHIIIQQII6III")
_NVME_ADDRESS = 24
_NVME_URING_CMD_IO, _NVME_URING_CMD_ADMIN = 0xC0484E80, 0xC0484E82
_FUTEX2_SIZE_U32, _FUTEX2_PRIVATE = 2, 128


def ring_descriptor(ring: int | SupportsRing) -> int:
    """The number of io_uring_setup(2), given as such or by a ring."""
    return ring if isinstance(ring, int) else ring.ring_fd


def _clock(clock: int) -> int:
    try:
        return int(_CLOCKS[clock])
    except KeyError:
        raise ValueError(f"clock {clock}: CLOCK_MONOTONIC, CLOCK_BOOTTIME or CLOCK_REALTIME") from None


class Operations(FileOperations, SocketOperations, Batches):
    """Queues operations. Nothing reaches the kernel before the ring's ``submit`` or ``wait``.

    Queueing copies what the kernel reads, and the kernel writes to memory of the ring. So the caller may
    change or drop its own memory at once. The methods that work on the caller's memory (``readinto``,
    ``recv_into``, ``readv``, ``send_zc``, ..., or ``copy=False``) hold it until the operation has ended. The
    kernel that first has an operation is given where it is newer than 5.6; an older one answers -EINVAL.

    Every method raises ClosedError after close, WrongThreadError from another thread or a forked child, and
    RingError: ENOBUFS when all operation slots are busy (reap completions), E2BIG when a chain of linked
    operations does not fit (``reserve`` room first), EAGAIN when the kernel has no memory, ERANGE and EINVAL
    for impossible arguments.
    """

    def nop(self, *, result: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Does nothing. ``result`` becomes its result (IORING_NOP_INJECT_RESULT, Linux 6.11; see the
        probe)."""
        if result is None:
            return self._put(_NOP, flags)
        return self._put(_NOP, flags, length=result & 0xFFFFFFFF, bits=_INJECT)

    # -- time --

    def timeout(
        self,
        seconds: float,
        *,
        count: int = 0,
        absolute: bool = False,
        multishot: bool = False,
        success: bool = False,
        clock: int = time.CLOCK_MONOTONIC,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Ends with -ETIME after ``seconds``, or with 0 after ``count`` other completions if that comes
        first.

        ``absolute``: at that time of ``clock``. ``multishot`` (6.4): repeatedly, ``count`` times, 0 for ever.
        ``success``: -ETIME does not break a chain. ``clock`` (5.15): also ``time.CLOCK_BOOTTIME`` and
        ``time.CLOCK_REALTIME``. See io_uring_enter(2).
        """
        kind = (
            lib.UDPRING_TIMEOUT_ABS * absolute
            | lib.UDPRING_TIMEOUT_MULTISHOT * multishot
            | lib.UDPRING_TIMEOUT_ETIME_SUCCESS * success
            | _clock(clock)
        )
        return self._put(lib.UDPRING_OP_TIMEOUT, flags, off=count, addr=nanoseconds(seconds), bits=kind)

    def timeout_update(
        self, ticket: int, seconds: float, *, absolute: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Gives a time-out that waits another time (Linux 5.11). -ENOENT if there is none."""
        return self._put(
            lib.UDPRING_OP_TIMEOUT_UPDATE,
            flags,
            off=nanoseconds(seconds),
            addr=ticket,
            bits=lib.UDPRING_TIMEOUT_ABS * absolute,
        )

    def timeout_remove(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Removes a time-out, which ends with -ECANCELED. -ENOENT if there is none. See io_uring_enter(2)."""
        return self._put(lib.UDPRING_OP_TIMEOUT_REMOVE, flags, addr=ticket)

    def link_timeout(
        self,
        seconds: float,
        *,
        absolute: bool = False,
        clock: int = time.CLOCK_MONOTONIC,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Cancels the previous operation, queued with LINK, after ``seconds``. That one ends with -ECANCELED,
        this one with -ETIME. See io_uring_enter(2).
        """
        kind = lib.UDPRING_TIMEOUT_ABS * absolute | _clock(clock)
        return self._put(lib.UDPRING_OP_LINK_TIMEOUT, flags, addr=nanoseconds(seconds), bits=kind)

    def link_timeout_update(
        self, ticket: int, seconds: float, *, absolute: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Gives a linked time-out that waits another time (Linux 5.15). -ENOENT if there is none."""
        return self._put(
            lib.UDPRING_OP_LINK_TIMEOUT_UPDATE,
            flags,
            off=nanoseconds(seconds),
            addr=ticket,
            bits=lib.UDPRING_TIMEOUT_ABS * absolute,
        )

    # -- cancelling --

    def cancel(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Cancels one operation. 0: cancelled, -ENOENT: not found, -EALREADY: it is being executed.

        The operation itself still ends with its own completion, usually -ECANCELED. See io_uring_enter(2).
        """
        return self._put(lib.UDPRING_OP_CANCEL, flags, addr=ticket)

    def cancel_file(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Cancels all operations on a descriptor (5.19), or on a registered file with ``Flag.FIXED_FILE``.
        The result is their number."""
        kind = lib.UDPRING_CANCEL_FD | lib.UDPRING_CANCEL_ALL
        if flags & Flag.FIXED_FILE:
            kind |= lib.UDPRING_CANCEL_FD_FIXED
        return self._put(lib.UDPRING_OP_CANCEL, flags & ~Flag.FIXED_FILE, descriptor(file), bits=kind)

    def cancel_operation(self, operation: str, file: File | None = None, *, flags: Flag = Flag.NONE) -> int:
        """Cancels all operations of a kind (Linux 6.6), by the name of its method, such as "recv". With
        ``file`` only those on this descriptor. The result is their number."""
        kind = lib.UDPRING_CANCEL_OP | lib.UDPRING_CANCEL_ALL
        if file is not None:
            kind |= lib.UDPRING_CANCEL_FD
        fd = -1 if file is None else descriptor(file)
        return self._put(lib.UDPRING_OP_CANCEL, flags, fd, length=row_of(operation).opcode, bits=kind)

    def cancel_all(self, *, flags: Flag = Flag.NONE) -> int:
        """Cancels everything in flight (5.19). The result is the number of cancelled operations."""
        kind = lib.UDPRING_CANCEL_ANY | lib.UDPRING_CANCEL_ALL
        return self._put(lib.UDPRING_OP_CANCEL, flags, bits=kind)

    # -- other rings, threads and processes --

    def msg_ring(
        self, target: int | SupportsRing, message: int, *, result: int = 0, flags: Flag = Flag.NONE
    ) -> int:
        """Sends ``message`` (56 bits) and ``result`` to another ring, also to one of another thread (Linux
        5.18). ``target``: the ring, or its ``ring_fd``.

        It arrives there as a completion with this ``message`` and ``result``, and ends a ``wait``.
        See io_uring_enter(2).
        """
        return self._put(
            lib.UDPRING_OP_MSG_RING, flags, ring_descriptor(target), message, 0, result & 0xFFFFFFFF
        )

    def msg_ring_fd(
        self,
        target: int | SupportsRing,
        source: int,
        place_there: int,
        message: int,
        *,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Gives registered file ``source`` to another ring, at ``place_there`` of its registered files or at
        ``ANY_PLACE`` (Linux 6.0).

        There ``message`` arrives as by ``msg_ring``. The result of a message with ``ANY_PLACE`` is the place.
        """
        return self._put(
            lib.UDPRING_OP_MSG_RING_FD,
            flags,
            ring_descriptor(target),
            message,
            source,
            extra=place(place_there),
        )

    def futex_wait(
        self,
        word: Any,
        value: int,
        *,
        mask: int = 0xFFFFFFFF,
        private: bool = True,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Waits until ``futex_wake`` for this word (futex(2), Linux 6.7). -EAGAIN: it is not ``value``.

        ``word``: a writable buffer of 4 bytes, aligned to 4. The ring holds it. ``private`` False: the word
        is in memory that processes share.
        """
        size = _FUTEX2_SIZE_U32 | (_FUTEX2_PRIVATE if private else 0)
        return self._put_pinned(lib.UDPRING_OP_FUTEX_WAIT, flags, word, True, size, value, mask)

    def futex_wake(
        self,
        word: Any,
        count: int = 1,
        *,
        mask: int = 0xFFFFFFFF,
        private: bool = True,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Wakes up to ``count`` waiters of this word (Linux 6.7). The result is their number."""
        size = _FUTEX2_SIZE_U32 | (_FUTEX2_PRIVATE if private else 0)
        return self._put_pinned(lib.UDPRING_OP_FUTEX_WAKE, flags, word, True, size, count, mask)

    def waitid(self, idtype: int, number: int, options: int = os.WEXITED, *, flags: Flag = Flag.NONE) -> int:
        """Waits for a child process (waitid(2), Linux 6.7): ``os.P_PID`` and its number, ...
        ``completion.child`` has the state."""
        return self._put(
            lib.UDPRING_OP_WAITID, flags, number, length=idtype, extra=(options & 0xFFFFFFFF) << 32
        )

    def pipe(self, *, pipe_flags: int = 0, direct: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Makes a pipe (pipe2(2), Linux 6.16). ``completion.files`` has its ends, which are not inherited.

        ``direct``: two places of the registered files from this index on, or ``ANY_PLACE``.
        """
        inherited = 0 if direct is not None else os.O_CLOEXEC
        return self._put(lib.UDPRING_OP_PIPE, flags, 0, bits=pipe_flags | inherited, extra=place(direct))

    # -- registered files --

    def files_update(self, start: int, files: Sequence[File | None], *, flags: Flag = Flag.NONE) -> int:
        """Changes registered files from index ``start`` on, as ``update_files`` does, in its turn among the
        operations. None empties a place.

        The result is the number of changes. With ``ANY_PLACE`` as ``start`` the kernel picks free places, and
        ``completion.files`` has them. See io_uring_enter(2).
        """
        numbers = ffi.new("int32_t[]", [-1 if file is None else descriptor(file) for file in files])
        first = 0xFFFFFFFF if start == ANY_PLACE else start
        return self._put_bytes(lib.UDPRING_OP_FILES_UPDATE, flags, ffi.buffer(numbers)[:], off=first)

    def fixed_fd_install(self, index: int, *, flags: Flag = Flag.NONE) -> int:
        """Makes a descriptor for a registered file (Linux 6.8). The result is the descriptor, which is not
        inherited."""
        return self._put(lib.UDPRING_OP_FIXED_FD_INSTALL, flags | Flag.FIXED_FILE, index)

    # -- commands of drivers --

    def uring_cmd(
        self,
        file: File,
        command: int,
        payload: bytes = b"",
        *,
        buffer: Any = None,
        address_at: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """A command of the file's driver (IORING_OP_URING_CMD, Linux 5.19), such as NVMe passthrough.

        ``payload``: up to 16 bytes, or 80 on a ring with large entries. ``buffer``: memory that the command
        names. Its address is written to byte ``address_at`` of the payload, and the ring holds it. The driver
        may use any other address in the payload too, and nothing holds that memory.
        """
        return self._put_message(
            lib.UDPRING_OP_URING_CMD,
            flags,
            descriptor(file),
            off=command,
            addr=address_at,
            payload=buffer,
            pinned=buffer is not None,
            writable=buffer is not None,
            control=payload,
        )

    def nvme_command(
        self,
        file: File,
        command: int,
        *,
        namespace: int = 0,
        buffer: Any = None,
        words: Sequence[int] = (),
        timeout_ms: int = 0,
        admin: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """An NVMe command, past the block layer (``struct nvme_uring_cmd`` of linux/nvme_ioctl.h, Linux
        5.19).

        ``file``: ``/dev/ng0n1`` for a namespace, ``/dev/nvme0`` with ``admin``. ``command``: its opcode, such
        as 2 for read. ``words``: command dwords 10 to 15, such as the low and high half of the first block,
        and the number of blocks less one. ``buffer``: data to read or write, which the ring holds. The ring
        must have ``big_sqe`` and ``big_cqe``. A result above 0 is the NVMe status.
        """
        held = memoryview(buffer).nbytes if buffer is not None else 0
        dwords = (*words, *[0] * (6 - len(words)))
        payload = _NVME.pack(command, 0, 0, namespace, 0, 0, 0, 0, 0, held, *dwords, timeout_ms, 0)
        return self.uring_cmd(
            file,
            _NVME_URING_CMD_ADMIN if admin else _NVME_URING_CMD_IO,
            payload,
            buffer=buffer,
            address_at=_NVME_ADDRESS if buffer is not None else 0,
            flags=flags,
        )
