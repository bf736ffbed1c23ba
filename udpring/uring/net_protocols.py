"""Protocols in the manner of asyncio on a ``Net``: an object for each connection, with callbacks.

    class Echo(NetProtocol):
        def connection_made(self, transport): self.transport = transport
        def data_received(self, data): self.transport.write(data)

    with ProtocolNet(Echo) as net:
        net.listen("127.0.0.1", 7000)
        net.run()

The names mean what they mean in asyncio, so a subclass of asyncio.Protocol works too, if it uses nothing
else of its loop. One turn of the ring serves all connections.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from udpring._native import check, ffi, lib
from udpring.errors import ClosedError, WrongThreadError
from udpring.uring.net import Net
from udpring.uring.net_turn import Turn

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["NetProtocol", "NetTransport", "ProtocolNet"]

_log = logging.getLogger("udpring.uring")

_POLLS = 8
"""Turns in one wake-up of an event loop."""

_send, _order, _unpack = lib.udpring_net_send, lib.udpring_net_order, ffi.unpack


class NetProtocol:
    """A protocol that does nothing. Any class with these methods serves, as asyncio.Protocol does."""

    def connection_made(self, transport: NetTransport) -> None:
        """The connection is there. The first callback."""

    def data_received(self, data: bytes) -> None:
        """Bytes came. A memoryview with the option ``views``, see ``ProtocolNet``."""

    def eof_received(self) -> object:
        """The peer will send no more. Unless it returns a true value, the transport closes itself."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone. The last callback. ``error``: None if it ended as one side asked."""

    def pause_writing(self) -> None:
        """More than ``high_water`` bytes wait to be sent."""

    def resume_writing(self) -> None:
        """At most ``low_water`` bytes wait to be sent."""


class NetTransport:
    """The sending side of a connection, with the methods of asyncio.Transport. It belongs to the net's
    thread."""

    __slots__ = ("_closing", "_full", "_high", "_id", "_native", "_net", "_protocol", "_shut")

    def __init__(self, net: ProtocolNet, number: int, protocol: Any) -> None:
        self._net, self._id, self._protocol = net, number, protocol
        self._native = net._native
        self._high = net._options["high"]
        self._full = self._closing = self._shut = False

    @property
    def id(self) -> int:
        """The id of the connection in ``Net``."""
        return self._id

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queues a copy. This turn or the next one sends it.

        After ``close`` and when the connection is gone, the data is dropped and counted (``info.unsent``).
        Beyond
        ``queue_bytes`` the connection is aborted, and ``connection_lost`` gets ENOBUFS.
        Raises RuntimeError after ``write_eof``, MemoryError, TypeError, WrongThreadError.
        """
        if type(data) is not bytes:
            data = ffi.from_buffer("uint8_t[]", data)
        queued = _send(self._native, self._id, data, len(data))
        if queued > self._high:
            if not self._full:
                self._full = True
                self._net._call(self, self._protocol.pause_writing)
        elif queued < 0:
            self._unsent(queued)
        if self._net._loop is not None:
            self._net._soon()

    def _unsent(self, code: int) -> None:
        if self._shut and code == -errno.EPIPE:
            raise RuntimeError("write() after write_eof()")
        if code == -errno.ENOMEM:
            raise MemoryError
        if code == -errno.EXDEV:
            raise WrongThreadError("this transport belongs to the thread of its net")

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """``write`` of all pieces."""
        self.write(b"".join(pieces))

    def _do(self, order: int) -> None:
        code = _order(self._native, self._id, order)
        if code not in (0, -errno.ENOENT, -errno.EBADF):
            check(code, f"connection {self._id}")
        if self._net._loop is not None:
            self._net._soon()

    def can_write_eof(self) -> bool:
        """True."""
        return True

    def write_eof(self) -> None:
        """Ends the sending direction when the queue is empty."""
        self._shut = True
        self._do(lib.UDPRING_NET_SHUTDOWN)

    def close(self) -> None:
        """Closes the connection when the queue is empty. No more data is received."""
        self._closing = True
        self._net._receivers.pop(self._id, None)
        self._do(lib.UDPRING_NET_CLOSE)

    def abort(self) -> None:
        """Drops the queue and resets the connection."""
        self._closing = True
        self._net._receivers.pop(self._id, None)
        self._do(lib.UDPRING_NET_ABORT)

    def is_closing(self) -> bool:
        """Whether ``close`` or ``abort`` was called, or the connection is gone."""
        return self._closing

    def pause_reading(self) -> None:
        """Receives no more. What was received before still comes."""
        self._do(lib.UDPRING_NET_PAUSE)

    def resume_reading(self) -> None:
        """Ends ``pause_reading``."""
        self._do(lib.UDPRING_NET_RESUME)

    def get_write_buffer_size(self) -> int:
        """Bytes in the send queue."""
        return max(0, int(lib.udpring_net_queued(self._native, self._id)))

    def get_protocol(self) -> Any:
        """The protocol."""
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        """Replaces the protocol."""
        self._protocol = protocol
        if self._id in self._net._receivers:
            self._net._receivers[self._id] = protocol.data_received

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername`` and ``sockname`` (addresses), ``socket`` (a duplicate, which the caller closes)."""
        fd = lib.udpring_net_fd(self._native, self._id)
        if fd < 0 or name not in ("peername", "sockname", "socket"):
            return default
        if name == "socket":
            return socket.socket(fileno=os.dup(fd))
        sock = socket.socket(fileno=fd)
        try:
            return sock.getpeername() if name == "peername" else sock.getsockname()
        except OSError:
            return default
        finally:
            sock.detach()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id:#x}{' closing' if self._closing else ''}>"


class ProtocolNet(Net):
    """A ``Net`` that calls protocols. ``factory()`` makes the protocol of each accepted connection.

    ``views``: ``data_received`` gets read-only memoryviews in place of bytes. Each stays valid as long as it
    or a slice of it lives, and its buffer cannot receive until then. Worth it for pieces of many KiB.
    The other options are those of ``Net``. A protocol that raises is logged and counted (``failures``), and
    its connection is aborted.
    """

    def __init__(self, factory: Callable[[], Any], *, views: bool = False, **options: Any) -> None:
        super().__init__(**options | {"half_open": True})
        self._factory = factory
        self._views = views
        self._transports: dict[int, NetTransport] = {}
        self._receivers: dict[int, Callable[[Any], object]] = {}
        self._interrupted = False  # by KeyboardInterrupt in a callback. The next step goes on with its turn
        self._new: Iterator[Any] = iter(())
        self._rows: Iterator[Any] = iter(())
        self._late: Iterator[Any] = iter(())
        self._loop: AbstractEventLoop | None = None
        self._scheduled = self._inside = False
        self.failures = 0
        """Exceptions of protocols."""

    # -- running --

    def run(self) -> None:
        """Serves until ``stop``, or until a callback closes the net. The loop of the calling thread."""
        self.open()
        while not self._stopped and not self._closed:
            self.step(None)
        self._stopped = False

    def step(self, timeout: float | None) -> bool:
        """One turn with its callbacks. False: nothing happened."""
        if self._inside:
            raise RuntimeError("a callback of a protocol cannot run the net")
        self._inside = True
        try:
            if not self._interrupted:
                self._begin(self.turn(timeout))
            return self._finish()
        finally:
            self._inside = False

    def _pass(self, timeout: float | None) -> None:
        self.step(timeout)

    def attach(self, loop: AbstractEventLoop | None = None) -> None:
        """Serves inside the running loop of asyncio or uvloop, in place of ``run``."""
        self.open()
        loop = loop or importlib.import_module("asyncio").get_running_loop()
        loop.add_reader(self.fileno(), self._poll)
        self._loop = loop
        self._soon()

    def detach(self) -> None:
        """Ends ``attach``."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self.fileno())

    def _soon(self) -> None:
        if not self._scheduled and not self._inside and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """Turns until one is empty, which submits what the callbacks sent."""
        self._scheduled = False
        for _ in range(_POLLS):
            if self._loop is None or self._closed:
                return
            if not self.step(0) and not self._turn._native.unfinished:
                return
        self._soon()

    def close(self) -> None:
        """Closes all connections. Their protocols get ``connection_lost(None)``."""
        if self._native is not None:
            self.detach()
        super().close()
        self._receivers.clear()
        while self._transports:
            _number, transport = self._transports.popitem()
            self._lose(transport, None)

    def add_connection(self, sock: socket.socket, protocol: Any = None) -> NetTransport:
        """Takes over a connected stream socket, for a protocol (by default one of the factory). Calls
        ``connection_made``. Raises as ``add``."""
        number = self.add(sock)
        transport = self._made(number, protocol)
        self._soon()
        return transport

    # -- callbacks --

    def _begin(self, turn: Turn) -> None:
        native, rows = turn._native, turn.count
        if rows:
            self._rows = zip(
                _unpack(native.ids, rows),
                _unpack(native.starts, rows),
                _unpack(native.lengths, rows),
                strict=True,
            )
        if not turn._noticed:
            return
        self._new = iter(turn.opened)
        self._late = iter(
            [(self._drained, (number,)) for number in turn.drained]
            + [(self._ended, (number,)) for number in turn.ended]
            + [(self._gone, each) for each in turn.closed]
        )

    def _finish(self) -> bool:
        """Calls the protocols. Returns whether there was anything."""
        self._interrupted = True
        happened = False
        for number, _listener in self._new:
            self._made(number, None)
            happened = True
        happened |= self._deliver_views() if self._views else self._deliver()
        for function, arguments in self._late:
            function(*arguments)
            happened = True
        self._interrupted = False
        return happened

    def _deliver(self) -> bool:
        memory, receiver = self._memory, self._receivers.get
        number = None
        for number, start, length in self._rows:
            receive = receiver(number)
            if receive is not None:
                try:
                    receive(memory[start : start + length])
                except Exception:
                    self._failed(number)
        return number is not None

    def _deliver_views(self) -> bool:
        number = None
        for number, start, length in self._rows:
            receive = self._receivers.get(number)
            if receive is not None:
                data = self._claim(start, length)
                try:
                    receive(data)
                except Exception:
                    self._failed(number)
        return number is not None

    def _made(self, number: int, protocol: Any) -> NetTransport:
        try:
            if protocol is None:
                protocol = self._factory()
        except Exception:
            transport = NetTransport(self, number, NetProtocol())
            self._failed(number)
            transport.abort()
            return transport
        transport = NetTransport(self, number, protocol)
        self._transports[number] = transport
        self._receivers[number] = protocol.data_received
        self._call(transport, protocol.connection_made, transport)
        return transport

    def _call(self, transport: NetTransport, callback: Callable[..., object], *arguments: Any) -> object:
        try:
            return callback(*arguments)
        except Exception:
            self._failed(transport._id)
            return None

    def _failed(self, number: int) -> None:
        """In an except clause: a protocol raised."""
        self.failures += 1
        _log.exception("a protocol of a net failed, and its connection is aborted")
        transport = self._transports.get(number)
        if transport is not None:
            transport.abort()

    def _drained(self, number: int) -> None:
        transport = self._transports.get(number)
        if transport is not None and transport._full:
            transport._full = False
            self._call(transport, transport._protocol.resume_writing)

    def _ended(self, number: int) -> None:
        transport = self._transports.get(number)
        if transport is None or transport._closing:
            return
        if not self._call(transport, transport._protocol.eof_received):
            transport.close()

    def _gone(self, number: int, code: int) -> None:
        self._receivers.pop(number, None)
        transport = self._transports.pop(number, None)
        if transport is not None:
            self._lose(transport, OSError(code, os.strerror(code)) if code else None)

    def _lose(self, transport: NetTransport, error: Exception | None) -> None:
        transport._closing = True
        transport._native = ffi.NULL
        try:
            transport._protocol.connection_lost(error)
        except Exception:
            self.failures += 1
            _log.exception("connection_lost() of a protocol failed")

    def _opened(self) -> Any:
        if self._closed:
            raise ClosedError("this net is closed: make a new one")
        return super()._opened()
