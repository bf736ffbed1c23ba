"""How an operation is queued: the one call into C, and who holds memory that the kernel uses in place."""

from __future__ import annotations

import enum
import errno
import itertools
import os
from collections.abc import Sequence
from threading import get_ident
from typing import Any, NoReturn, Protocol

from udpring._native import check, ffi, lib, reason
from udpring.uring.rows import NAMES

__all__ = ["Flag", "Payload", "SupportsFileno", "SupportsRing"]

Payload = bytes | bytearray | memoryview
"""Bytes, or any other object with a contiguous buffer, such as ``array.array`` or ``mmap.mmap``."""

CURRENT_POSITION = 0xFFFFFFFFFFFFFFFF
_MAX_NS = 2**63 - 1
_NULL = ffi.NULL
_put, _put_message, _put_vector = (
    lib.udpring_ring_put,
    lib.udpring_ring_put_message,
    lib.udpring_ring_put_vector,
)


class Flag(enum.IntFlag):
    """The relation of an operation to others: ``sqe.flags`` of io_uring_enter(2)."""

    NONE = 0
    FIXED_FILE = lib.UDPRING_SQE_FIXED_FILE
    """``file`` is an index into the registered files."""
    DRAIN = lib.UDPRING_SQE_DRAIN
    """Starts after all earlier submitted operations have ended. Later ones start after it has ended, so it
    does not suit multishot operations. Zero-copy sends refuse it, and are refused on a ring that has used it:
    Linux 6.16 to 6.18 may never start them. The kernel refuses it on a ring that has used SKIP_SUCCESS."""
    LINK = lib.UDPRING_SQE_LINK
    """The next operation starts when this one has succeeded. If it fails, the rest of the chain is
    cancelled. Errors of some operations do not count: see ``OperationRow.breaks_chain``."""
    HARDLINK = lib.UDPRING_SQE_HARDLINK
    """Like LINK, but also if this operation fails."""
    ASYNC = lib.UDPRING_SQE_ASYNC
    """Use a worker thread of the kernel without a first attempt."""
    SKIP_SUCCESS = lib.UDPRING_SQE_SKIP_SUCCESS
    """No completion on success. Only for operations that own no memory and whose errors the kernel reports
    (``OperationRow.skips``)."""


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


def lent(payload: Payload) -> Any:
    """What C takes as a pointer for the length of a call: bytes themselves, or a view of another buffer."""
    return payload if type(payload) is bytes else ffi.from_buffer("uint8_t[]", payload)


class Queueing:
    """Queues operations by their rows. The ring has the native handle and the owner."""

    _native: Any = None
    _owner: int | None = None
    _view_groups: dict[int, Any]
    _retired: list[Any]

    def __init__(self) -> None:
        # The caller's memory that the kernel may use: by pin, the views that hold it and the number of
        # operations. C says when an operation has ended (udpring_ring_released).
        self._pins: dict[int, list[Any]] = {}
        self._data: dict[int, object] = {}  # of Ring.set_data, by ticket
        self._pin_numbers = itertools.count(1)
        self._ended_pins = ffi.new(f"uint64_t[{lib.UDPRING_HARVEST_MAX}]")
        self._ended_counts = ffi.new(f"uint32_t[{lib.UDPRING_HARVEST_MAX}]")

    def _handle(self) -> Any:
        raise AssertionError("the ring has it")  # pragma: no cover

    def _refused(
        self, native: Any, code: int, operation: int, pin: int = 0, *, keep: bool = False
    ) -> NoReturn:
        """Raises the exception for a call that queued nothing, and lets go of its memory. ``keep``: the views
        of it are still needed."""
        self._let_go(pin, keep=keep)
        why = reason()
        if code not in (-errno.EXDEV, -errno.EBADF, -errno.EBADFD):
            why.text = ffi.string(lib.udpring_ring_why(native))
        self._check(code, NAMES[operation], why)
        raise AssertionError(f"{NAMES[operation]}: {code} is no error")  # pragma: no cover

    def _check(self, code: int, what: str, why: Any = None) -> int:
        return check(code, what, why)  # pragma: no cover

    def _put(
        self,
        operation: int,
        flags: int,
        fd: int = -1,
        off: int = 0,
        addr: int = 0,
        length: int = 0,
        bits: int = 0,
        extra: int = 0,
        memory: Any = _NULL,
        size: int = 0,
        pin: int = 0,
    ) -> int:
        """``udpring_ring_put``, with arguments named as there."""
        native = self._native
        if native is None or self._owner != get_ident():
            native = self._handle()
        ticket: int = _put(native, operation, flags, fd, off, addr, length, bits, extra, memory, size, pin)
        if ticket < 0:
            self._refused(native, ticket, operation, pin)
        return ticket

    def _put_bytes(
        self,
        operation: int,
        flags: int,
        payload: Payload,
        fd: int = -1,
        off: int = 0,
        addr: int = 0,
        length: int = 0,
        bits: int = 0,
        extra: int = 0,
    ) -> int:
        """With bytes that C copies before the call returns."""
        memory = lent(payload)
        return self._put(operation, flags, fd, off, addr, length, bits, extra, memory, len(memory))

    def _put_pinned(
        self,
        operation: int,
        flags: int,
        buffer: Any,
        writable: bool,
        fd: int = -1,
        off: int = 0,
        addr: int = 0,
        bits: int = 0,
        extra: int = 0,
    ) -> int:
        """With memory of the caller that the kernel uses in place."""
        held = ffi.from_buffer("uint8_t[]", buffer, require_writable=writable)
        pin = self._hold(held)
        try:
            return self._put(operation, flags, fd, off, addr, 0, bits, extra, held, len(held), pin)
        except BaseException:
            self._let_go_unless_queued(pin)
            raise

    def _put_vector(
        self,
        operation: int,
        flags: int,
        buffers: Sequence[Any],
        writable: bool,
        fd: int,
        off: int,
        bits: int = 0,
        extra: int = 0,
    ) -> int:
        """With several pieces of the caller's memory."""
        held = [ffi.from_buffer("uint8_t[]", buffer, require_writable=writable) for buffer in buffers]
        pieces = ffi.new("uint8_t *[]", held)
        sizes = ffi.new("uint64_t[]", [len(piece) for piece in held])
        native, pin = self._handle(), self._hold(held)
        try:
            ticket: int = _put_vector(
                native, operation, flags, fd, off, bits, extra, pieces, sizes, len(held), pin
            )
            if ticket < 0:
                self._refused(native, ticket, operation, pin)
        except BaseException:
            self._let_go_unless_queued(pin)
            raise
        return ticket

    def _put_message(
        self,
        operation: int,
        flags: int,
        fd: int,
        *,
        off: int = 0,
        addr: int = 0,
        length: int = 0,
        bits: int = 0,
        extra: int = 0,
        payload: Any = None,
        pinned: bool = False,
        writable: bool = False,
        name: Any = b"",
        control: Any = b"",
        control_room: int = 0,
    ) -> int:
        """With a msghdr, or with a command. Payload, name and control data are copied, or the payload is
        used in place."""
        native, pin, memory, size = self._handle(), 0, _NULL, 0
        if payload is not None:
            memory = (
                ffi.from_buffer("uint8_t[]", payload, require_writable=writable) if pinned else lent(payload)
            )
            size = len(memory)
        control_size = control_room or len(control)
        if pinned:
            pin = self._hold(memory)
        try:
            ticket: int = _put_message(
                native, operation, flags, fd, off, addr, length, bits, extra, memory, size, pin,
                name, len(name), control if control else _NULL, control_size,
            )  # fmt: skip
            if ticket < 0:
                self._refused(native, ticket, operation, pin)
        except BaseException:
            self._let_go_unless_queued(pin)
            raise
        return ticket

    def _publish_groups(self) -> None:
        raise AssertionError("the ring has groups")  # pragma: no cover

    def _release_retired(self, ring: Any) -> None:
        raise AssertionError("the ring has registered buffers")  # pragma: no cover

    def _forget_data(self, native: Any) -> None:
        """Drops the objects of operations that are neither queued nor in flight."""
        for ticket in list(self._data):
            if not lib.udpring_ring_holds(native, ticket):
                self._data.pop(ticket, None)

    # -- memory that the kernel uses in place --

    def _hold(self, held: Any, operations: int = 1, *, keep: bool = False) -> int:
        """A pin for memory that the kernel may use from now on. The entry is made before the operation is
        queued."""
        pin = next(self._pin_numbers)
        self._pins[pin] = [held, operations]
        try:
            self._handle()
        except BaseException:  # also if it was closed since the caller asked
            self._let_go(pin, keep=keep)
            raise
        return pin

    def _let_go(self, pin: int, *, keep: bool = False) -> None:
        """Releases memory that no operation uses. The traceback of an exception may keep the views alive."""
        held = self._pins.pop(pin, [[]])[0]
        for view in [] if keep else held if isinstance(held, list) else [held]:
            ffi.release(view)

    def _let_go_unless_queued(self, pin: int, *, keep: bool = False) -> None:
        """After an exception that may have come before or after the operation was queued: a number out of
        range, a signal handler."""
        native = self._native
        if pin in self._pins and (native is None or not lib.udpring_ring_pinned(native, pin)):
            self._let_go(pin, keep=keep)

    def _release_pins(self, native: Any) -> None:
        """Lets go of the memory of operations that have ended."""
        pins, counts = self._ended_pins, self._ended_counts
        for i in range(lib.udpring_ring_released(native, pins, counts)):
            self._unpin(pins[i], counts[i])

    def _unpin(self, pin: int, operations: int) -> None:
        entry = self._pins.get(pin)
        if entry is None:
            return
        entry[1] -= operations
        if entry[1] <= 0:
            self._pins.pop(pin, None)


def place(index: int | None) -> int:
    """The ``extra`` argument for a new file's place among the registered files. None: a descriptor."""
    return 0 if index is None else index + 1 << 32


def path_bytes(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """A path as the kernel takes it."""
    return os.fsencode(path)
