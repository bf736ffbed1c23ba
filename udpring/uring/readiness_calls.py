"""The operations of a ring as system calls: each with the arguments and the result of ``Operations``."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Callable
from typing import Any

from udpring.errors import RingError
from udpring.uring.completion import Completion, MessageAddress
from udpring.uring.operations import File, Flag, Payload, descriptor

__all__ = ["ReadinessCalls"]

_NO_FAMILY = 0


def _blocks_in_threads(fd: int) -> bool:
    """Whether reading waits for a disk instead of a peer. Such a descriptor has no readiness."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False  # the attempt reports it
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)


@contextlib.contextmanager
def _socket(fd: int, family: int = _NO_FAMILY) -> Any:
    """A socket object on a descriptor that remains the caller's."""
    found = socket.socket(family or -1, socket.SOCK_STREAM if family else -1, 0 if family else -1, fileno=fd)
    try:
        yield found
    finally:
        found.detach()


class ReadinessCalls:
    """Operations of ``ReadinessRing``. Every method raises RingError, ClosedError and WrongThreadError, as
    ``Operations`` does."""

    def _on_readiness(
        self, fd: int, events: int, attempt: Callable[[], Completion], flags: Flag, *, multishot: bool = False
    ) -> int:
        raise AssertionError("the ring waits")  # pragma: no cover

    def _on_thread(self, call: Callable[[], Completion], flags: Flag) -> int:
        raise AssertionError("the ring has threads")  # pragma: no cover

    def nop(self, *, result: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Does nothing. ``result`` becomes its result."""
        return self._on_readiness(-1, 0, lambda: Completion(0, result or 0, 0), flags)

    def poll_add(
        self, file: File, events: int = select.POLLIN, *, multishot: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Ends with the events that are ready."""
        if multishot:
            raise RingError("a multishot poll needs io_uring", errno=errno.EOPNOTSUPP)
        fd = descriptor(file)

        def attempt() -> Completion:
            poll = select.poll()
            poll.register(fd, events)
            found = poll.poll(0)
            if not found:
                raise BlockingIOError
            if found[0][1] & select.POLLNVAL:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return Completion(0, found[0][1], 0)

        return self._on_readiness(fd, events, attempt, flags)

    # -- bytes --

    def read(self, file: File, length: int, *, offset: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Reads up to ``length`` bytes at the current position, or at ``offset``."""
        fd = descriptor(file)
        at = -1 if offset is None else offset

        def attempt(how: int) -> Completion:
            data = bytearray(length)
            count = os.preadv(fd, [data], at, how)
            return Completion(0, count, 0, bytes(memoryview(data)[:count]))

        return self._transfer(fd, select.POLLIN, attempt, flags)

    def write(
        self, file: File, payload: Payload, *, offset: int | None = None, flags: Flag = Flag.NONE
    ) -> int:
        """Writes a copy of ``payload``."""
        fd, data = descriptor(file), bytes(payload)
        at = -1 if offset is None else offset

        def attempt(how: int) -> Completion:
            return Completion(0, os.pwritev(fd, [data], at, how), 0)

        return self._transfer(fd, select.POLLOUT, attempt, flags)

    def _transfer(self, fd: int, events: int, attempt: Callable[[int], Completion], flags: Flag) -> int:
        if _blocks_in_threads(fd):
            return self._on_thread(lambda: attempt(0), flags)

        def now() -> Completion:
            try:
                return attempt(os.RWF_NOWAIT)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            os.set_blocking(fd, False)
            return attempt(0)

        return self._on_readiness(fd, events, now, flags)

    def sendmsg(
        self,
        file: File,
        payload: Payload,
        address: MessageAddress = None,
        *,
        control: Any = (),
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Sends a copy of ``payload``."""
        fd, data, ancillary = descriptor(file), bytes(payload), list(control)
        how = message_flags | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

        def attempt() -> Completion:
            with _socket(fd) as sock:
                to = () if address is None else (address,)
                return Completion(0, sock.sendmsg([data], ancillary, how, *to), 0)

        return self._on_readiness(fd, select.POLLOUT, attempt, flags)

    def recvmsg(
        self,
        file: File,
        length: int,
        *,
        control_length: int = 0,
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Receives one message of up to ``length`` bytes."""
        fd = descriptor(file)

        def attempt() -> Completion:
            with _socket(fd) as sock:
                data, control, found, address = sock.recvmsg(
                    length, control_length, message_flags | socket.MSG_DONTWAIT
                )
            made = {"data": data, "address": address, "control": tuple(control), "message_flags": found}
            return Completion(0, len(data), 0, **made)

        return self._on_readiness(fd, select.POLLIN, attempt, flags)
