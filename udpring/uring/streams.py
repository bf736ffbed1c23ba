"""Connections of the awaitable ring: streams over TCP and Unix sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import types
import warnings
from collections.abc import Callable
from typing import Any, Self

from udpring.errors import ClosedError
from udpring.socket_address import SocketName
from udpring.uring.call import STOPPED, Payload
from udpring.uring.completion import Completion, MessageAddress
from udpring.uring.descriptors import close_descriptor, close_soon
from udpring.uring.operations import File
from udpring.uring.reactor import Reactor
from udpring.uring.resolving import resolve
from udpring.uring.shots import Shots

__all__ = ["Connection", "connect", "connect_unix"]

RECEIVE = 65536
"""Bytes that ``recv`` returns at most by default."""
PIPE_BYTES = 1 << 20
"""Size of the pipe between a file and a socket."""
_FILE_PIECE = 1 << 30
_F_SETPIPE_SZ = 1031


def clock(timeout: float | None) -> Callable[[], float | None]:
    """Returns a function: the seconds that are left. None: no limit."""
    if timeout is None:
        return lambda: None
    end = time.monotonic() + timeout
    return lambda: max(0.0, end - time.monotonic())


class Connection:
    """A stream socket. One task may receive while another one sends.

    ``recv`` and ``send_all`` return when the kernel has taken or given the bytes, so a slow peer slows the
    program down, and nothing is buffered here. Each call takes a ``timeout`` in seconds and raises
    TimeoutError when it is over, OSError with the error of the socket, ClosedError after ``close``.
    """

    def __init__(self, reactor: Reactor, fd: int, *, shots: Shots | None = None) -> None:
        self._reactor, self._fd = reactor, fd
        self._busy = 0  # operations in flight
        self._sending = False
        self._kept: list[bytes] = []  # received for a task that was cancelled
        self._shots = shots
        self.draining = False
        """Whether the server that serves it shuts down."""
        self.on_drain: Callable[[], object] | None = None
        """Called when the server begins to shut down. A handler that waits for further requests sets it, to
        end the wait."""

    # -- life --

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._fd < 0

    def fileno(self) -> int:
        """The descriptor."""
        if self._fd < 0:
            raise ClosedError("this connection is closed")
        return self._fd

    def _stop(self) -> int:
        """Ends operations that wait, and returns the descriptor. -1: closed already."""
        fd, self._fd = self._fd, -1
        self._kept.clear()
        if fd >= 0 and self._shots is not None:
            self._shots.close()
        if fd >= 0 and self._busy and not self._reactor.closed:
            self._reactor.start("cancel_file", fd)
        return fd

    def begin_drain(self) -> None:
        """Sets ``draining`` and calls ``on_drain``. ``Server.shutdown`` does so."""
        self.draining = True
        if self.on_drain is not None:
            self.on_drain()

    async def close(self) -> None:
        """Closes the socket. Waiting tasks get ClosedError. A second close does nothing."""
        fd = self._stop()
        if fd >= 0:
            await close_descriptor(self._reactor, fd)

    def close_soon(self) -> None:
        """``close`` without waiting for its end, for code that is no task."""
        fd = self._stop()
        if fd >= 0:
            close_soon(self._reactor, fd)

    async def __aenter__(self) -> Self:
        self.fileno()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._fd < 0 else self._fd}>"

    # -- the socket --

    def _borrowed(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.fileno()))

    @property
    def local_address(self) -> SocketName:
        """The address of this end (getsockname(2))."""
        with self._borrowed() as sock:
            return sock.getsockname()

    @property
    def peer_address(self) -> SocketName:
        """The address of the other end (getpeername(2))."""
        with self._borrowed() as sock:
            return sock.getpeername()

    def set_option(self, level: int, option: int, value: int | bytes) -> None:
        """Sets a socket option (setsockopt(2))."""
        with self._borrowed() as sock:
            sock.setsockopt(level, option, value)

    # -- receiving --

    async def recv(self, limit: int = RECEIVE, *, timeout: float | None = None) -> bytes:
        """The next bytes, at most ``limit``. Empty: the peer has shut its direction down."""
        if self._kept:
            return self._take_kept(limit)
        if self._shots is not None:
            return await self._recv_armed(limit, timeout)
        completion = await self._do("recv", limit, timeout=timeout, discard=self._keep)
        return completion.data

    async def recv_into(self, buffer: Any, *, timeout: float | None = None) -> int:
        """Receives into ``buffer``. Returns the number of bytes. A cancelled call may have received some."""
        if self._kept or self._shots is not None:
            view = memoryview(buffer).cast("B")
            data = await self.recv(len(view), timeout=timeout)
            view[: len(data)] = data
            return len(data)
        return (await self._do("recv_into", buffer, timeout=timeout)).result

    async def recv_exactly(self, length: int, *, timeout: float | None = None) -> bytes:
        """``length`` bytes. Raises EOFError if the peer's direction ends before. What came is then lost."""
        left, pieces, missing = clock(timeout), [], length
        while missing:
            data = await self.recv(missing, timeout=left())
            if not data:
                raise EOFError(f"the stream ended {missing} bytes early")
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    async def _recv_armed(self, limit: int, timeout: float | None) -> bytes:
        assert self._shots is not None
        self.fileno()
        try:
            completion = await self._shots.next(timeout)
        except StopAsyncIteration:
            raise ClosedError("this connection was closed") from None
        self._keep(completion)
        return self._take_kept(limit) if self._kept else b""

    def _keep(self, completion: Completion) -> None:
        if completion.data:
            self._kept.append(completion.data)

    def _take_kept(self, limit: int) -> bytes:
        data = self._kept.pop(0)
        if len(data) > limit:
            self._kept.insert(0, data[limit:])
        return data[:limit]

    # -- sending --

    async def send_all(self, payload: Payload, *, timeout: float | None = None) -> None:
        """Sends all of ``payload``. It must not change meanwhile. A call that fails may have sent a part.

        Raises RuntimeError while another task sends.
        """
        left, view = clock(timeout), memoryview(payload).cast("B")
        how = socket.MSG_NOSIGNAL | socket.MSG_WAITALL
        self._begin_sending()
        try:
            done = 0
            while done < len(view):
                piece = view[done:] if done else payload
                completion = await self._do(
                    "send", piece, message_flags=how, copy=len(piece) < RECEIVE, timeout=left()
                )
                done += completion.result
        finally:
            self._sending = False

    async def send_file(
        self, file: File, offset: int = 0, length: int | None = None, *, timeout: float | None = None
    ) -> int:
        """Sends a file from ``offset`` on, up to its end or ``length`` bytes, without copies to the program.

        Returns the number of bytes. Raises RuntimeError while another task sends.
        """
        left, sent = clock(timeout), 0
        self._begin_sending()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            _enlarge(writing)
            while length is None or sent < length:
                wanted = PIPE_BYTES if length is None else min(PIPE_BYTES, length - sent)
                filled = await self._reactor.do(
                    "splice", file, writing, wanted, source_offset=offset + sent, timeout=left()
                )
                waiting = filled.check()
                if not waiting:
                    break
                while waiting:
                    moved = (await self._splice_out(reading, waiting, left())).result
                    waiting -= moved
                    sent += moved
            return sent
        finally:
            self._sending = False
            os.close(reading)
            os.close(writing)

    async def _splice_out(self, reading: int, length: int, timeout: float | None) -> Completion:
        fd = self.fileno()
        self._busy += 1
        try:
            completion = await self._reactor.do("splice", reading, fd, length, timeout=timeout)
        finally:
            self._busy -= 1
        return self._checked(completion)

    def _begin_sending(self) -> None:
        self.fileno()
        if self._sending:
            raise RuntimeError("another task sends on this connection")
        self._sending = True

    async def shutdown(self, how: int = socket.SHUT_WR) -> None:
        """Ends a direction (shutdown(2)), by default ours: the peer reads the end of the stream."""
        await self._do("shutdown", how)

    async def _do(self, name: str, *arguments: Any, **options: Any) -> Completion:
        fd = self.fileno()
        self._busy += 1
        try:
            completion = await self._reactor.do(name, fd, *arguments, **options)
        finally:
            self._busy -= 1
        return self._checked(completion)

    def _checked(self, completion: Completion) -> Completion:
        if completion.result < 0:
            if self._fd < 0 and completion.result in STOPPED:
                raise ClosedError("this connection was closed while the operation waited")
            completion.check()
        return completion


def _enlarge(pipe: int) -> None:
    """A larger pipe needs fewer operations. The user's limit on pipes may refuse it."""
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        return


async def connect(
    host: str,
    port: int,
    *,
    timeout: float | None = None,
    local: tuple[str, int] | None = None,
    reactor: Reactor | None = None,
) -> Connection:
    """Connects to a TCP server. Tries the addresses of ``host`` one after the other.

    ``timeout``: seconds for all of it. ``local``: the address to connect from.
    Raises OSError with the error of the last address, TimeoutError, RuntimeError without a reactor.
    """
    reactor, left = reactor or Reactor.current(), clock(timeout)
    failure: OSError = OSError(errno.EADDRNOTAVAIL, f"{host}: no address")
    for family, address in await resolve(reactor, host, port, left()):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if local is not None:
                sock.bind(local)
            return await _connected(reactor, sock, address, left())
        except TimeoutError:
            raise
        except OSError as error:
            failure = error
        finally:
            sock.close()
    raise failure


async def connect_unix(
    path: str | bytes, *, timeout: float | None = None, reactor: Reactor | None = None
) -> Connection:
    """Connects to a Unix stream socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        return await _connected(reactor or Reactor.current(), sock, path, timeout)


async def _connected(
    reactor: Reactor, sock: socket.socket, address: MessageAddress, timeout: float | None
) -> Connection:
    completion = await reactor.do("connect", sock, address, timeout=timeout)
    if completion.result < 0:
        raise OSError(-completion.result, f"{address!r}: {os.strerror(-completion.result)}")
    return Connection(reactor, sock.detach())
