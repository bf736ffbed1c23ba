"""Listening sockets of the awaitable ring."""

from __future__ import annotations

import contextlib
import errno
import socket
import types
import warnings
from collections.abc import AsyncIterator
from typing import Self

from udpring.errors import ClosedError
from udpring.socket_address import SocketName
from udpring.uring.reactor import Reactor
from udpring.uring.shots import Shots
from udpring.uring.streams import Connection

__all__ = ["Listener", "listening_socket"]

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted (listen(2))."""


def listening_socket(
    host: str, port: int, *, backlog: int = BACKLOG, reuse_port: bool = False
) -> socket.socket:
    """A listening TCP socket. ``host`` is numeric, and an IPv6 wildcard takes IPv4 too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        sock.bind((host, port))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts connections: ``async for connection in Listener.bind("127.0.0.1", 0):``. One task at a time.

    ``armed``: the kernel accepts without being asked each time (accept is multishot, Linux 5.19), up to 64
    connections ahead of the program. ``receive_armed``: receiving on each connection is armed too
    (``Reactor.armed_receive``).

    The listener owns ``sock``, which must listen. ``reactor``: by default that of the current task.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        armed: bool = False,
        receive_armed: bool = False,
        reactor: Reactor | None = None,
    ) -> None:
        self._reactor = reactor or Reactor.current()
        self._socket = sock
        self._armed, self._receive_armed = armed, receive_armed
        self._shots = self._accepting(armed)
        self._closed = False

    @classmethod
    def bind(
        cls,
        host: str,
        port: int,
        *,
        backlog: int = BACKLOG,
        reuse_port: bool = False,
        armed: bool = False,
        receive_armed: bool = False,
        reactor: Reactor | None = None,
    ) -> Listener:
        """Listens on a TCP address. Port 0: the kernel chooses one (``address``). Raises OSError."""
        reactor = reactor or Reactor.current()
        sock = listening_socket(host, port, backlog=backlog, reuse_port=reuse_port)
        return cls(sock, armed=armed, receive_armed=receive_armed, reactor=reactor)

    @classmethod
    def unix(
        cls, path: str | bytes, *, backlog: int = BACKLOG, armed: bool = False, reactor: Reactor | None = None
    ) -> Listener:
        """Listens on a Unix socket. The file at ``path`` stays after ``close``. Raises OSError."""
        reactor = reactor or Reactor.current()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.bind(path)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return cls(sock, armed=armed, reactor=reactor)

    def _accepting(self, armed: bool) -> Shots:
        name = "accept_multishot" if armed else "accept"
        return self._reactor.shots(name, self._socket)

    @property
    def address(self) -> SocketName:
        """The address that it listens on."""
        self.fileno()
        return self._socket.getsockname()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def fileno(self) -> int:
        """The descriptor."""
        if self._closed:
            raise ClosedError("this listener is closed")
        return self._socket.fileno()

    async def accept(self, *, timeout: float | None = None) -> Connection:
        """The next connection. Raises TimeoutError, OSError with the error of accept(2), ClosedError after
        ``close``. A cancelled call loses no connection."""
        self.fileno()
        while True:
            try:
                completion = await self._shots.next(timeout)
            except StopAsyncIteration:
                raise ClosedError("this listener was closed") from None
            except OSError as error:
                if error.errno != errno.EINVAL or not self._armed:
                    raise
                self._armed = False  # a kernel before 5.19
                self._shots.close()
                self._shots = self._accepting(False)
                continue
            return self._connection(completion.result)

    def _connection(self, fd: int) -> Connection:
        shots = self._reactor.armed_receive(fd) if self._receive_armed else None
        return Connection(self._reactor, fd, shots=shots)

    async def drain(self) -> list[Connection]:
        """Stops listening, and returns the connections that no task took, so that none is reset."""
        self.fileno()
        found = [self._connection(completion.result) for completion in await self._shots.stop()]
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                found.append(self._connection(self._socket.accept()[0].detach()))
        self.close()
        return found

    def __aiter__(self) -> AsyncIterator[Connection]:
        return self

    async def __anext__(self) -> Connection:
        try:
            return await self.accept()
        except ClosedError:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Stops listening. A task that iterates ends. Connections that no task took are closed.

        A second close does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._shots.close()
        self._socket.close()

    async def __aenter__(self) -> Self:
        self.fileno()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._socket.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closed else self._socket.getsockname()}>"
