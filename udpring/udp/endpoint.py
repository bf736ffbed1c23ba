"""``open_datagram_endpoint``: asyncio's protocols for datagrams, on a receive ring and a send ring.

1. ``open_datagram_endpoint`` makes the socket as ``loop.create_datagram_endpoint`` does, and a transport.
2. Receiving: the loop sees the receive ring's descriptor; each wake-up hands one batch to the protocol.
3. Sending: ``sendto`` queues; the queue leaves as one batch once per turn of the loop, or at once when it
   is long. What finds the socket buffer full waits for the socket to be writable.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import warnings
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, Protocol, TypeVar

from udpring.udp.address import LAYOUT, Address, AddressList, to_core
from udpring.udp.flow import WriteLimits
from udpring.udp.receive import RecvRing
from udpring.udp.send import SendRing

__all__ = ["open_datagram_endpoint"]

#: Datagrams that one wake-up of the loop hands to the protocol; timers and others run in between.
DATAGRAMS_A_TURN = 64
#: The queue leaves before the turn ends when it has so many datagrams, or is above the high water mark.
FLUSH_DATAGRAMS = 256

_SENDS_EMPTY = sys.version_info >= (3, 13)  # asyncio sends a datagram of length zero only from there on
_WARN_AFTER = 5  # datagrams sent after closing

Pair = tuple[Any, Any]
P = TypeVar("P", bound=asyncio.BaseProtocol)


class _Datagrams(Protocol):
    """What the transport calls of a protocol: ``asyncio.DatagramProtocol``, or anything with its methods."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def datagram_received(self, data: bytes, addr: Any) -> None: ...
    def error_received(self, exc: Exception) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


async def open_datagram_endpoint(
    protocol_factory: Callable[[], P],
    local_addr: tuple[str, int] | None = None,
    remote_addr: tuple[str, int] | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
    tier: str | None = None,
) -> tuple[asyncio.DatagramTransport, P]:
    """``loop.create_datagram_endpoint`` of the running loop (asyncio or uvloop), but on the rings.

    Arguments, results and exceptions are asyncio's (https://docs.python.org/3/library/asyncio-eventloop.html),
    for UDP over IPv4 and IPv6; ``tier`` is that of ``RecvRing`` and ``SendRing``. Different are:

    - ``sendto`` queues. What one turn of the loop sends leaves as one batch at its end, equal datagrams to
      one destination as trains, so ``error_received`` tells of a datagram a moment after ``sendto``
      returned. Order is kept for each destination, not over several.
    - A wake-up of the loop hands over up to 64 datagrams, not one. An exception in ``datagram_received``
      goes to the loop's exception handler, and the next datagram is handed over.
    - After ``close()`` and ``abort()`` what is sent is dropped, also on a socket that is not connected.

    Raises OSError (no such address, the address is in use, ...), ValueError and TypeError (arguments that do
    not go together), RingError (the kernel refused, with the reason).
    """
    loop = asyncio.get_running_loop()
    if sock is None:
        sock, address = await _make_socket(
            loop, (local_addr, remote_addr), family, proto, flags, reuse_port, allow_broadcast
        )
    else:
        address = None
        modifiers = {
            "local_addr": local_addr,
            "remote_addr": remote_addr,
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
        }
        _check_socket(sock, modifiers)
        sock.setblocking(False)
    protocol = protocol_factory()
    waiter: asyncio.Future[None] = loop.create_future()
    try:
        transport = _RingTransport(loop, sock, protocol, address, waiter, tier)
    except BaseException:
        sock.close()
        raise
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol


def _check_socket(sock: socket.socket, modifiers: Mapping[str, object]) -> None:
    if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    problems = ", ".join(f"{name}={value}" for name, value in modifiers.items() if value)
    if problems:
        raise ValueError(
            f"socket modifier keyword arguments can not be used when sock is specified. ({problems})"
        )


async def _resolved(
    loop: asyncio.AbstractEventLoop, address: object, family: int, proto: int, flags: int
) -> list[Any]:
    """getaddrinfo(3), without a thread where the host is an address already."""
    if not (isinstance(address, tuple) and len(address) == 2):
        raise TypeError("2-tuple is expected")
    host, port = address
    kind: Any = {"family": family, "type": socket.SOCK_DGRAM, "proto": proto}
    if isinstance(port, int):
        with contextlib.suppress(socket.gaierror):
            return list(socket.getaddrinfo(host, port, flags=flags | socket.AI_NUMERICHOST, **kind))
    found = await loop.getaddrinfo(host, port, flags=flags, **kind)
    if not found:
        raise OSError("getaddrinfo() returned empty list")
    return list(found)


async def _candidates(
    loop: asyncio.AbstractEventLoop, addresses: Pair, family: int, proto: int, flags: int
) -> list[tuple[tuple[int, int], list[Any]]]:
    """(family, protocol) and the local and remote address for it, best first."""
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family is AF_INET or AF_INET6, not {family!r}")
    if not any(addresses):
        if family == socket.AF_UNSPEC:
            raise ValueError("unexpected address family")
        return [((family, proto), [None, None])]
    found: dict[tuple[int, int], list[Any]] = {}
    for place, address in enumerate(addresses):
        if address is not None:
            for kind, _, protocol, _, resolved in await _resolved(loop, address, family, proto, flags):
                pair = found.setdefault((kind, protocol), [None, None])
                if pair[place] is None:
                    pair[place] = resolved
    whole = [
        (key, pair)
        for key, pair in found.items()
        if all(pair[place] is not None for place in (0, 1) if addresses[place])
    ]
    if not whole:
        raise ValueError("can not get address information")
    return whole


async def _make_socket(
    loop: asyncio.AbstractEventLoop,
    addresses: Pair,
    family: int,
    proto: int,
    flags: int,
    reuse_port: bool | None,
    allow_broadcast: bool | None,
) -> tuple[socket.socket, Any]:
    """The socket, and the only address that it may send to, or None."""
    failed: OSError | None = None
    for (kind, protocol), (local, remote) in await _candidates(loop, addresses, family, proto, flags):
        made = None
        try:
            made = socket.socket(kind, socket.SOCK_DGRAM, protocol)
            if reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if allow_broadcast:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setblocking(False)
            if local:
                made.bind(local)
            if remote and not allow_broadcast:
                made.connect(remote)  # of UDP: never waits
            return made, remote
        except BaseException as error:
            if made is not None:
                made.close()
            if not isinstance(error, OSError):
                raise
            failed = failed or error
    assert failed is not None
    raise failed


class _RingTransport(WriteLimits, asyncio.DatagramTransport):
    """Lives in the loop's thread. Owns the socket and both rings until ``connection_lost`` was called."""

    _sock: socket.socket | None = None  # also for a destructor after a failed constructor

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: Any,
        address: Any,
        waiter: asyncio.Future[None],
        tier: str | None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._extra: dict[str, Any] = {"socket": TransportSocket(sock), "sockname": sock.getsockname()}
        try:
            self._extra["peername"] = sock.getpeername()
        except OSError:
            self._extra["peername"] = None
        self._connected = self._extra["peername"] is not None
        self._family = sock.family
        self._address = address
        self._protocol: _Datagrams = protocol
        self._rx = RecvRing(sock, tier=tier)
        try:
            self._tx = SendRing(sock, tier=tier)
        except BaseException:
            self._rx.close()
            raise
        self._sock = sock
        self._inbox: Iterator[tuple[bytes, Any]] = iter(())
        self._payloads: list[bytes] = []
        self._to: list[bytes] = []  # packed, as many; none on a connected socket
        self._size = 0  # bytes queued
        self._scheduled = False  # a flush comes with the next turn
        self._delivering = False  # a flush comes when the protocol has what was received
        self._writable = -1  # a duplicate of the socket's descriptor, to wait on
        self._blocked = False  # the loop waits for it
        self._closing = False
        self._conn_lost = False  # connection_lost was scheduled
        self._dropped = 0  # sent after closing
        loop.call_soon(self._protocol.connection_made, self)
        loop.call_soon(self._start_reading)
        loop.call_soon(_opened, waiter)

    # Receiving.

    def _start_reading(self) -> None:
        if not self._closing:
            self._loop.add_reader(self._rx.fileno(), self._read_ready)

    def _read_ready(self) -> None:
        if self._deliver():
            return
        try:
            batch = self._rx.recv_batch(DATAGRAMS_A_TURN, 0)
            errors = self._rx._icmp_errors()
        except Exception as error:
            self._fatal_error(error, "Fatal read error on datagram transport")
            return
        for told in errors:
            if not self._closing:
                self._tell_protocol(told)
        if batch:
            self._inbox = _pairs(batch.payloads(), batch.addresses)
            batch.release()
            self._deliver()

    def _tell_protocol(self, told: OSError) -> None:
        try:
            self._protocol.error_received(told)
        except Exception as error:
            self._tell_loop("Exception in callback error_received()", error)

    def _deliver(self) -> bool:
        """Hands over what was received. False when there was nothing."""
        any_ = False
        self._delivering = True
        try:
            for data, address in self._inbox:
                any_ = True
                if self._closing:
                    return True
                try:
                    self._protocol.datagram_received(data, address)
                except Exception as error:
                    self._tell_loop("Exception in callback datagram_received()", error)
        except BaseException:  # KeyboardInterrupt: the others come with the next turn, if there is one
            self._loop.call_soon(self._deliver)
            raise
        finally:
            self._delivering = False
            if self._payloads:
                self._flush()
        return any_

    # Sending.

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Queues a datagram; it leaves at the end of this turn of the loop. See open_datagram_endpoint."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not data and not _SENDS_EMPTY:
            return
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._closing:
            self._dropped += 1
            if self._dropped > _WARN_AFTER:
                logger.warning("socket.send() raised exception.")
            return
        if not self._connected:
            try:
                self._to.append(to_core(addr, self._family))
            except OSError as error:
                self._tell_protocol(error)
                return
            except Exception as error:
                self._fatal_error(error, "Fatal write error on datagram transport")
                return
        self._payloads.append(bytes(data))
        self._size += len(data)
        if self._blocked:
            self._maybe_pause_protocol()
        elif len(self._payloads) >= FLUSH_DATAGRAMS or self._size > self._high_water:
            self._flush()
        elif not self._scheduled and not self._delivering:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        """Sends what is queued; what the socket has no room for stays."""
        payloads, to = self._payloads, self._to
        if payloads and not self._blocked and not self._conn_lost:
            self._payloads, self._to, self._size = [], [], 0
            try:
                report = self._tx.send_batch(payloads, self._destinations(to), 0)
            except Exception as error:
                self._fatal_error(error, "Fatal write error on datagram transport")
                return
            for told in self._keep(payloads, to, report.errors):
                if self._conn_lost:
                    break
                self._tell_protocol(told)
        self._maybe_pause_protocol()
        self._maybe_resume_protocol()
        if self._closing and not self._payloads and not self._conn_lost:
            self._lose(None)

    def _destinations(self, to: list[bytes]) -> Address | AddressList | None:
        if not to:
            return None
        if to.count(to[0]) == len(to):
            to = to[:1]
        packed = AddressList.of_packed(b"".join(to), self._family)
        return packed if len(to) > 1 else packed[0]

    def _keep(
        self, payloads: list[bytes], to: list[bytes], errors: list[tuple[int, OSError]]
    ) -> list[OSError]:
        """Queues what found no room again, and has the loop wait for some. Returns the other errors."""
        again = [index for index, error in errors if error.errno == errno.EAGAIN]
        if not again:
            return [error for _, error in errors]
        self._payloads = [payloads[index] for index in again]
        self._to = [to[index] for index in again] if to else []
        self._size = sum(map(len, self._payloads))
        assert self._sock is not None
        if self._writable < 0:
            self._writable = os.dup(self._sock.fileno())
        self._loop.add_writer(self._writable, self._write_ready)
        self._blocked = True
        return [error for _, error in errors if error.errno != errno.EAGAIN]

    def _write_ready(self) -> None:
        self._stop_writing()
        self._flush()

    def _stop_writing(self) -> None:
        if self._blocked:
            self._loop.remove_writer(self._writable)
            self._blocked = False

    def get_write_buffer_size(self) -> int:
        """Bytes that are queued."""
        return self._size

    # Closing.

    def close(self) -> None:
        """No more is received; what was queued is sent, and then ``connection_lost(None)`` called."""
        if self._closing:
            return
        self._closing = True
        self._stop_reading()
        if not self._payloads:
            self._lose(None)

    def abort(self) -> None:
        """As ``close()``, but what the socket does not take at once is dropped."""
        self._flush()
        self._force_close(None)

    def _stop_reading(self) -> None:
        self._loop.remove_reader(self._rx.fileno())

    def _lose(self, error: Exception | None) -> None:
        self._conn_lost = True
        self._loop.call_soon(self._call_connection_lost, error)

    def _force_close(self, error: Exception | None) -> None:
        if self._conn_lost:
            return
        self._stop_writing()
        self._payloads, self._to, self._size = [], [], 0
        if not self._closing:
            self._closing = True
            self._stop_reading()
        self._lose(error)

    def _fatal_error(self, error: Exception, message: str) -> None:
        if isinstance(error, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._tell_loop(message, error)
        self._force_close(error)

    def _call_connection_lost(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._rx.close()
        self._tx.close()
        if self._writable >= 0:
            os.close(self._writable)
            self._writable = -1
        sock.close()

    def is_closing(self) -> bool:
        """Whether ``close()`` or ``abort()`` was called, or the transport failed."""
        return self._closing

    def set_protocol(self, protocol: Any) -> None:
        """Has another protocol called from now on."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol that is called."""
        return self._protocol

    def __del__(self) -> None:
        if self._sock is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._let_go()

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else "closing" if self._closing else self._rx.tier
        return f"<udpring datagram transport {state} {self._extra['sockname']}>"


def _opened(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _pairs(payloads: list[bytes], addresses: AddressList) -> Iterator[tuple[bytes, Any]]:
    packed = addresses.packed
    if packed == packed[: LAYOUT.size] * len(payloads):  # one flow: a train, often
        return zip(payloads, repeat(addresses[0]), strict=False)
    return zip(payloads, addresses, strict=True)
