"""The operations that can be queued on a ring. Each returns a ticket, and its completions carry that."""

from __future__ import annotations

import enum
import select
from collections.abc import Iterable
from typing import Any, Protocol

from udpring._native import ffi, lib
from udpring.uring.completion import ControlMessage, MessageAddress, encode_address, encode_control

__all__ = ["Flag", "Operations", "SupportsFileno", "SupportsRing"]

Payload = bytes | bytearray | memoryview

CURRENT_POSITION = 0xFFFFFFFFFFFFFFFF
_MAX_NS = 2**63 - 1


class Flag(enum.IntFlag):
    """The relation of an operation to others: ``sqe.flags`` of io_uring_enter(2)."""

    NONE = 0
    FIXED_FILE = lib.UDPRING_SQE_FIXED_FILE
    """``file`` is an index into the registered files."""
    DRAIN = lib.UDPRING_SQE_DRAIN
    """Starts after all earlier submitted operations have ended."""
    LINK = lib.UDPRING_SQE_LINK
    """The next operation starts when this one has succeeded. If it fails, the rest of the chain is
    cancelled."""
    HARDLINK = lib.UDPRING_SQE_HARDLINK
    """Like LINK, but also if this operation fails."""
    ASYNC = lib.UDPRING_SQE_ASYNC
    """Use a worker thread of the kernel without a first attempt."""
    SKIP_SUCCESS = lib.UDPRING_SQE_SKIP_SUCCESS
    """No completion on success. Only for operations that own no memory."""


class SupportsFileno(Protocol):
    """Objects with a descriptor: sockets, files, rings."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class SupportsRing(Protocol):
    """Objects that are an io_uring."""

    @property
    def ring_fd(self) -> int:
        """The descriptor of io_uring_setup(2)."""
        ...


File = int | SupportsFileno


def descriptor(file: File) -> int:
    """The descriptor's number, given as such or by an object that has one."""
    return file if isinstance(file, int) else file.fileno()


def nanoseconds(seconds: float) -> int:
    """Seconds as whole nanoseconds. Raises ValueError if negative or beyond 292 years."""
    value = round(seconds * 1e9)
    if not 0 <= value <= _MAX_NS:
        raise ValueError(f"a time of {seconds} s: 0 to {_MAX_NS // 10**9}")
    return value


class Operations:
    """Queues operations. Nothing reaches the kernel before the ring's ``submit`` or ``wait``.

    Queueing copies everything that the kernel reads. The kernel writes to memory of the ring. So the caller
    may change or drop its own memory at once. Every method raises ClosedError after close, WrongThreadError
    from another thread or a forked child, and RingError: ENOBUFS when all operation slots are busy (reap
    completions), E2BIG when a chain of linked operations does not fit (``reserve`` room first), EAGAIN when
    the kernel has no memory, ERANGE and EINVAL for impossible arguments.
    """

    def _queue(self, called: str, operation: Any) -> int:
        raise AssertionError("the ring queues")  # pragma: no cover

    def _put(self, called: str, opcode: int, keep: tuple[Any, ...] = (), **fields: Any) -> int:
        operation = ffi.new("struct udpring_operation *", {"opcode": opcode, "fd": -1, **fields})
        ticket = self._queue(called, operation)
        del keep  # the buffers that `fields` points to must live until here
        return ticket

    def nop(self, *, result: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Does nothing. ``result`` becomes its result (IORING_NOP_INJECT_RESULT, Linux 6.11; see the
        probe)."""
        inject = 0 if result is None else lib.UDPRING_NOP_INJECT_RESULT
        return self._put(
            "nop", lib.UDPRING_OP_NOP, op_flags=inject, length=(result or 0) & 0xFFFFFFFF, flags=flags
        )

    def timeout(
        self,
        seconds: float,
        *,
        count: int = 0,
        absolute: bool = False,
        multishot: bool = False,
        success: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Ends with -ETIME after ``seconds``, or with 0 after ``count`` other completions if that comes
        first.

        ``absolute``: at that time of CLOCK_MONOTONIC. ``multishot`` (6.4): repeatedly, ``count`` times, 0 for
        ever.
        ``success``: -ETIME does not break a chain.
        """
        kind = (
            lib.UDPRING_TIMEOUT_ABS * absolute
            | lib.UDPRING_TIMEOUT_MULTISHOT * multishot
            | lib.UDPRING_TIMEOUT_ETIME_SUCCESS * success
        )
        return self._put(
            "timeout",
            lib.UDPRING_OP_TIMEOUT,
            target=nanoseconds(seconds),
            offset=count,
            op_flags=kind,
            flags=flags,
        )

    def link_timeout(self, seconds: float, *, flags: Flag = Flag.NONE) -> int:
        """Cancels the previous operation, queued with LINK, after ``seconds``. That one ends with -ECANCELED,
        this one with -ETIME.
        """
        return self._put(
            "link_timeout", lib.UDPRING_OP_LINK_TIMEOUT, target=nanoseconds(seconds), flags=flags
        )

    def timeout_remove(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Removes a time-out, which ends with -ECANCELED. -ENOENT if there is none."""
        return self._put("timeout_remove", lib.UDPRING_OP_TIMEOUT_REMOVE, target=ticket, flags=flags)

    def poll_add(
        self, file: File, events: int = select.POLLIN, *, multishot: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Ends with the events that are ready (``select.POLLIN``, ...). ``multishot``: reports them
        repeatedly."""
        return self._put(
            "poll_add",
            lib.UDPRING_OP_POLL_ADD,
            fd=descriptor(file),
            op_flags=events,
            offset=int(multishot),
            flags=flags,
        )

    def poll_remove(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Removes a poll, which ends with -ECANCELED. -ENOENT if there is none."""
        return self._put("poll_remove", lib.UDPRING_OP_POLL_REMOVE, target=ticket, flags=flags)

    def read(self, file: File, length: int, *, offset: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Reads up to ``length`` bytes at the current position, or at ``offset``. ``completion.data`` has
        them."""
        position = CURRENT_POSITION if offset is None else offset
        return self._put(
            "read", lib.UDPRING_OP_READ, fd=descriptor(file), length=length, offset=position, flags=flags
        )

    def write(
        self, file: File, payload: Payload, *, offset: int | None = None, flags: Flag = Flag.NONE
    ) -> int:
        """Writes a copy of ``payload``. The result is the number of bytes written, which may be less."""
        data = ffi.from_buffer("uint8_t[]", payload)
        return self._put(
            "write",
            lib.UDPRING_OP_WRITE,
            (data,),
            fd=descriptor(file),
            payload=data,
            payload_length=len(data),
            offset=CURRENT_POSITION if offset is None else offset,
            flags=flags,
        )

    def read_multishot(self, file: File, group: int, *, flags: Flag = Flag.NONE) -> int:
        """Reads repeatedly (Linux 6.7) into the buffers of ``group``. The last completion lacks ``more``.

        The descriptor must support polling: a pipe, an eventfd, a TUN device. -ENOBUFS: all buffers were full
        at once.
        """
        return self._put(
            "read_multishot",
            lib.UDPRING_OP_READ_MULTISHOT,
            fd=descriptor(file),
            group=group,
            offset=CURRENT_POSITION,
            flags=flags,
        )

    def read_fixed(
        self,
        file: File,
        buffer: int,
        length: int,
        *,
        start: int = 0,
        offset: int | None = None,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads into registered buffer ``buffer``, at its offset ``start``."""
        return self._by_index(
            "read_fixed", lib.UDPRING_OP_READ_FIXED, file, buffer, length, start, offset, flags
        )

    def write_fixed(
        self,
        file: File,
        buffer: int,
        length: int,
        *,
        start: int = 0,
        offset: int | None = None,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Writes from registered buffer ``buffer``. Its bytes must not change until the completion."""
        return self._by_index(
            "write_fixed", lib.UDPRING_OP_WRITE_FIXED, file, buffer, length, start, offset, flags
        )

    def _by_index(
        self,
        called: str,
        opcode: int,
        file: File,
        buffer: int,
        length: int,
        start: int,
        offset: int | None,
        flags: Flag,
    ) -> int:
        return self._put(
            called,
            opcode,
            fd=descriptor(file),
            group=buffer,
            length=length,
            target=start,
            offset=CURRENT_POSITION if offset is None else offset,
            flags=flags,
        )

    def sendmsg(
        self,
        file: File,
        payload: Payload,
        address: MessageAddress = None,
        *,
        control: Iterable[ControlMessage] = (),
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Sends a copy of ``payload`` (sendmsg(2)). ``address`` None: the socket is connected.

        Operations without a link may overtake each other when one waits for room in the socket.
        """
        data = ffi.from_buffer("uint8_t[]", payload)
        name = ffi.from_buffer("uint8_t[]", encode_address(address))
        ancillary = ffi.from_buffer("uint8_t[]", encode_control(control))
        return self._put(
            "sendmsg",
            lib.UDPRING_OP_SENDMSG,
            (data, name, ancillary),
            fd=descriptor(file),
            payload=data,
            payload_length=len(data),
            name=name,
            name_length=len(name),
            control=ancillary,
            control_length=len(ancillary),
            op_flags=message_flags,
            flags=flags,
        )

    def recvmsg(
        self,
        file: File,
        length: int,
        *,
        control_length: int = 0,
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Receives one message of up to ``length`` bytes, with its address and up to ``control_length`` bytes
        of control data."""
        return self._put(
            "recvmsg",
            lib.UDPRING_OP_RECVMSG,
            fd=descriptor(file),
            length=length,
            control_room=control_length,
            op_flags=message_flags,
            flags=flags,
        )

    def cancel(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Cancels one operation. 0: cancelled, -ENOENT: not found, -EALREADY: it is being executed.

        The operation itself still ends with its own completion, usually -ECANCELED.
        """
        return self._put("cancel", lib.UDPRING_OP_ASYNC_CANCEL, target=ticket, flags=flags)

    def cancel_file(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Cancels all operations on a descriptor (5.19). The result is their number."""
        kind = lib.UDPRING_CANCEL_FD | lib.UDPRING_CANCEL_ALL
        return self._put(
            "cancel_file", lib.UDPRING_OP_ASYNC_CANCEL, fd=descriptor(file), op_flags=kind, flags=flags
        )

    def cancel_all(self, *, flags: Flag = Flag.NONE) -> int:
        """Cancels everything in flight (5.19). The result is the number of cancelled operations."""
        kind = lib.UDPRING_CANCEL_ANY | lib.UDPRING_CANCEL_ALL
        return self._put("cancel_all", lib.UDPRING_OP_ASYNC_CANCEL, op_flags=kind, flags=flags)

    def msg_ring(
        self, target: int | SupportsRing, message: int, *, result: int = 0, flags: Flag = Flag.NONE
    ) -> int:
        """Sends ``message`` (56 bits) and ``result`` to another ring, also to one of another thread (Linux
        5.18). ``target``: the ring, or its ``ring_fd``.

        It arrives there as a completion with this ``message`` and ``result``, and ends a ``wait``.
        """
        return self._put(
            "msg_ring",
            lib.UDPRING_OP_MSG_RING,
            fd=target if isinstance(target, int) else target.ring_fd,
            target=message,
            length=result & 0xFFFFFFFF,
            flags=flags,
        )
