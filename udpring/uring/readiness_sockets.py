"""Operations on sockets as system calls, each with the arguments and the result of ``Operations``."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

from udpring.uring.call import Payload
from udpring.uring.completion import Completion, MessageAddress
from udpring.uring.operations import File, Flag, descriptor
from udpring.uring.readiness_calls import ReadinessCalls

__all__ = ["ReadinessSockets"]


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """A socket object of the right family on a descriptor that remains the caller's."""
    found = socket.socket(fileno=fd)
    try:
        yield found
    finally:
        found.detach()


@contextlib.contextmanager
def _any_socket(fd: int) -> Iterator[socket.socket]:
    """The same, for calls without addresses. It makes no system call."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        yield found
    finally:
        found.detach()


class ReadinessSockets(ReadinessCalls):
    """See ``ReadinessCalls``."""

    def accept(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Accepts one connection. The result is its descriptor."""
        fd = descriptor(file)
        return self._on_readiness(fd, select.POLLIN, self._accepting(fd), flags)

    def accept_multishot(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Accepts connections until an error, with a completion for each."""
        fd = descriptor(file)
        return self._on_readiness(fd, select.POLLIN, self._accepting(fd), flags, multishot=True)

    def _accepting(self, fd: int) -> Callable[[], Completion]:
        def attempt() -> Completion:
            os.set_blocking(fd, False)
            with _socket(fd) as sock:
                accepted, address = sock.accept()
            return Completion(0, accepted.detach(), 0, address=address)

        return attempt

    def connect(self, file: File, address: MessageAddress, *, flags: Flag = Flag.NONE) -> int:
        """Connects a socket. Ends when the connection stands."""
        fd = descriptor(file)
        started = False

        def attempt() -> Completion:
            nonlocal started
            with _socket(fd) as sock:
                if started:
                    return Completion(0, -sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
                os.set_blocking(fd, False)
                code = sock.connect_ex(address or b"")
            if code == errno.EINPROGRESS:
                started = True
                raise BlockingIOError
            return Completion(0, -code, 0)

        return self._on_readiness(fd, select.POLLOUT, attempt, flags)

    def shutdown(self, file: File, how: int = socket.SHUT_RDWR, *, flags: Flag = Flag.NONE) -> int:
        """Shuts down a connection, or one direction of it."""
        fd = descriptor(file)

        def attempt() -> Completion:
            with _any_socket(fd) as sock:
                sock.shutdown(how)
            return Completion(0, 0, 0)

        return self._on_readiness(fd, 0, attempt, flags)

    def recv(self, file: File, length: int, *, message_flags: int = 0, flags: Flag = Flag.NONE) -> int:
        """Receives up to ``length`` bytes."""
        fd = descriptor(file)

        def attempt() -> Completion:
            with _any_socket(fd) as sock:
                data = sock.recv(length, message_flags | socket.MSG_DONTWAIT)
            return Completion(0, len(data), 0, data)

        return self._on_readiness(fd, select.POLLIN, attempt, flags)

    def recv_into(self, file: File, buffer: Any, *, message_flags: int = 0, flags: Flag = Flag.NONE) -> int:
        """Receives into ``buffer``."""
        fd, view = descriptor(file), memoryview(buffer).cast("B")

        def attempt() -> Completion:
            with _any_socket(fd) as sock:
                return Completion(0, sock.recv_into(view, 0, message_flags | socket.MSG_DONTWAIT), 0)

        return self._on_readiness(fd, select.POLLIN, attempt, flags)

    def send(
        self,
        file: File,
        payload: Payload,
        *,
        message_flags: int = 0,
        copy: bool = True,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Sends ``payload``, or a copy of it. With ``socket.MSG_WAITALL`` it goes on until all is sent."""
        fd, view = descriptor(file), memoryview(bytes(payload) if copy else payload).cast("B")
        how = message_flags & ~socket.MSG_WAITALL | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        sent = 0

        def attempt() -> Completion:
            nonlocal sent
            with _any_socket(fd) as sock:
                sent += sock.send(view[sent:], how)
                while sent < len(view) and message_flags & socket.MSG_WAITALL:
                    sent += sock.send(view[sent:], how)
            return Completion(0, sent, 0)

        return self._on_readiness(fd, select.POLLOUT, attempt, flags)

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
