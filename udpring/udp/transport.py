"""``RingTransport``: a datagram transport of asyncio on a receive ring and a send ring.

1. Each wake-up of the loop hands one batch to the protocol. While datagrams come one at a time, a cheaper
   call receives them without a batch.
2. The first datagram that a turn of the loop sends leaves at once, as long as turns send and receive one
   each. Others queue, and leave as one batch at the end of the turn, or earlier when the queue is long.
3. Datagrams that find the socket buffer full wait until the socket is writable.
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
from collections.abc import Iterator
from threading import get_ident
from typing import Any

from udpring._native import ffi, lib
from udpring.errors import WrongThreadError
from udpring.udp.address import Address, from_core, joined, numeric_to_core
from udpring.udp.alone import ONE_MORE, ONE_OTHER, Alone
from udpring.udp.endpoint_socket import extra_info
from udpring.udp.flow import Datagrams, WriteLimits
from udpring.udp.names import NameQueue
from udpring.udp.polls import Polls, RingPolls
from udpring.udp.receive import RecvRing
from udpring.udp.seat import Seat, Seats
from udpring.udp.send import SendRing
from udpring.udp.tiers import forced_tier

__all__ = ["RingTransport"]

#: Datagrams that one wake-up of the loop hands to the protocol. Timers and other tasks run in between.
DATAGRAMS_A_TURN = 64
#: A queue of this length, or above the high water mark, leaves before the turn ends.
FLUSH_DATAGRAMS = 256
#: After this many wake-ups with a single datagram the next call receives only one, at half the cost.
SINGLES = 2
#: After a turn that sent several datagrams, or a wake-up that brought several, this many turns with one each
#: pass before one is sent at once.
LONE_TURNS = 32

# Measured on both loops: the cheapest tier for single datagrams. It costs no more for many, because the
# protocol is called for each of them anyway.
_TIER = "mmsg"

_NULL = ffi.NULL
_NOTHING: Iterator[Any] = iter(())
_NOBODY = object()  # no address is this one
_receive_one = lib.udpring_recv_one
_answer = lib.udpring_answer
_send_alone = lib.udpring_send_alone
_SENDS_EMPTY = sys.version_info >= (3, 13)  # asyncio sends a datagram of length zero only from there on
_WARN_AFTER = 5  # datagrams sent after closing


class RingTransport(WriteLimits, asyncio.DatagramTransport):
    """The transport that ``open_datagram_endpoint`` returns. It is used in the loop's thread only.

    It has the methods of ``asyncio.DatagramTransport``, and of ``asyncio.Transport`` those for flow control.
    ``write`` is not implemented. CPython's transport is the same from 3.12 on. ``flush`` is udpring's own.
    """

    # It owns the socket and both rings until ``connection_lost`` was called.

    # Slots make a transport small and quick to open. A program may still add attributes.
    # fmt: off
    __slots__ = (
        "__dict__", "__weakref__", "_address", "_again", "_alone", "_answer_to", "_as_uvloop", "_at_once",
        "_blocked", "_bursts", "_closing", "_conn_lost", "_connected", "_delivering", "_dropped", "_family",
        "_fileno", "_flushed", "_inbox", "_interrupted", "_ipv6", "_memory", "_names", "_one", "_packed",
        "_paused", "_payload", "_payloads", "_peer", "_polls", "_reading", "_ring_thread", "_rx",
        "_scheduled", "_sender", "_singles", "_size", "_sock", "_sparse", "_tier", "_to",
    )
    # fmt: on

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: Any,
        address: Any,
        waiter: asyncio.Future[None],
        *,
        tier: str | None,
        send_at_once: bool,
        as_uvloop: bool,
    ) -> None:
        """``address``: the only one that it may send to, or None.

        as_uvloop: ``sendto`` raises what uvloop's raises for a name and for what is no address.
        """
        super().__init__()
        self._sock: socket.socket | None = None  # for the destructor, if this constructor fails
        self._loop = loop
        self._extra = extra_info(sock)
        self._connected = self._extra["peername"] is not None
        self._family = sock.family
        self._address = address
        self._protocol: Datagrams = protocol
        tier = tier or forced_tier() or _TIER
        self._rx, self._polls = _ways(loop, sock, self, tier)
        self._tier = tier
        self._one: Alone | None = None  # made by _has_memory()
        self._sender: SendRing | None = None  # made for the first batch, unless it is that of the seats
        self._ring_thread = get_ident()  # which has the rings
        self._fileno = sock.fileno  # -1 once the program has closed the socket
        self._ipv6 = sock.family == socket.AF_INET6
        self._reading = True  # neither paused nor closing
        self._paused = False
        self._inbox: Iterator[tuple[bytes, Any]] = _NOTHING
        self._interrupted = False  # it may have datagrams
        self._again = False  # one wake-up left datagrams that are read without another one
        self._sparse = False  # datagrams come one at a time: none waits here, and no later turn looks
        self._singles = 0  # wake-ups in a row that brought a single datagram
        self._alone = False  # one such datagram is with the protocol, and the first answer is sent at once
        self._payloads: list[bytes] = []
        self._to: list[bytes] = []  # packed, one each; none on a connected socket
        self._size = 0  # bytes queued
        self._names: NameQueue | None = None  # made for the first name
        self._at_once = send_at_once
        self._as_uvloop = as_uvloop
        self._scheduled = False  # a flush comes with the next turn
        # Turns with a single datagram to come after several were sent or received, until one is sent at once.
        self._bursts = 0
        self._flushed = 0  # datagrams that this turn queued and that have left
        self._delivering = False  # a flush follows when the protocol has the received datagrams
        self._blocked = False  # the loop waits for it
        self._closing = False
        self._conn_lost = False  # connection_lost was scheduled
        self._dropped = 0  # sent after closing
        self._sock = sock
        loop.call_soon(self._protocol.connection_made, self)
        loop.call_soon(self._start_reading)
        loop.call_soon(_opened, waiter)

    # Receiving.

    def _start_reading(self) -> None:
        if self._reading:
            try:
                self._polls.read(self._read_ready)
            except OSError as error:
                self._fatal_error(error, "Fatal read error on datagram transport")

    def is_reading(self) -> bool:
        """Whether it receives: it is not paused and not closing."""
        return self._reading

    def pause_reading(self) -> None:
        """Calls ``datagram_received`` no more until ``resume_reading()``.

        Datagrams wait in the socket as far as it has room. Up to 64 that were received already wait here.
        """
        if self._reading:
            self._paused = True
            self._reading = False
            self._stop_reading()

    def resume_reading(self) -> None:
        """Ends the pause. The datagrams that waited come first, with the next turn of the loop."""
        if self._closing or not self._paused:
            return
        self._paused = False
        self._reading = True
        self._start_reading()
        self._look_again()

    @property
    def _tx(self) -> SendRing:
        """The ring for batches."""
        if self._sender is None and self._sock is not None:
            if isinstance(self._rx, Seat):
                return self._rx.sender(self._sock)
            if get_ident() != self._ring_thread:
                raise WrongThreadError("the rings of this transport belong to another thread")
            self._sender = SendRing(self._sock, tier=self._tier)
        assert self._sender is not None
        return self._sender

    def _read_ready(self) -> None:
        room = DATAGRAMS_A_TURN
        sparse = self._sparse
        if sparse:
            code = _receive_one(self._memory)
            if code >= 0:
                if code >= ONE_MORE:
                    code = self._see_peer(code)
                self._delivering = True
                self._alone = not self._payloads
                try:
                    self._protocol.datagram_received(self._payload[:code], self._peer)
                except Exception as error:
                    self._tell_loop("Exception in callback datagram_received()", error)
                finally:
                    self._delivering = self._alone = False
                    if self._payloads:
                        self._flush()
                if self._sparse or not self._reading:
                    return
                room -= 1
        elif self._again:
            return
        if get_ident() != self._thread:
            self._follow()
        if self._interrupted and self._deliver():
            self._look_again()
            return
        try:
            batch = self._rx.recv_batch(room, 0)
            errors = self._rx._icmp_errors()
        except Exception as error:
            self._fatal_error(error, "Fatal read error on datagram transport")
            return
        for refused in errors:
            if not self._closing:
                self._report_error(refused)
        count = len(batch)
        if count:
            if count > 1:
                self._bursts = LONE_TURNS
            self._singles = self._singles + 1 if count == 1 and not sparse else 0
            self._sparse = self._singles >= SINGLES and self._has_memory()
            self._inbox = batch.addresses.paired_with(batch.payloads())
            batch.release()
            self._deliver()

    def _has_memory(self) -> bool:
        """For single datagrams. Most transports of a program with very many never need it."""
        if self._one is None:
            one = self._rx._alone(self._connected)
            self._memory, self._payload = one.memory, one.payload
            self._peer: Any = None  # the source of the last one
            self._packed: bytes | None = None  # the same, packed
            # What `sendto` is given for the answer: the source, or None on a connected socket.
            self._answer_to: Any = None if self._connected else _NOBODY
            self._one = one
        return True

    def _see_peer(self, code: int) -> int:
        """A single datagram has another source than the one before, or is not the only one. Returns its
        length."""
        if code >= ONE_OTHER:
            code -= ONE_OTHER
            assert self._one is not None
            packed = self._one.source[:]
            self._peer = from_core(packed, self._ipv6)
            self._packed = packed
            self._memory.other = False
            if not self._connected:
                self._answer_to = _NOBODY if self._address else self._peer
        if code >= ONE_MORE:
            code -= ONE_MORE
            self._sparse = False
        return code

    def _look_again(self) -> None:
        """The ring may have datagrams that the descriptor does not signal."""
        if not self._again:
            self._again = True
            self._sparse = False
            self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._again = False
        if self._reading:
            self._read_ready()

    def _report_code(self, code: int) -> None:
        self._report_error(OSError(-code, os.strerror(-code)))

    def _report_error(self, refused: OSError) -> None:
        try:
            self._protocol.error_received(refused)
        except Exception as error:
            self._tell_loop("Exception in callback error_received()", error)

    def _deliver(self) -> bool:
        """Hands received datagrams to the protocol. False when there were none."""
        self._interrupted = not self._reading  # error_received() may have paused or closed
        if self._interrupted:
            self._sparse = False
            return True
        any_ = False
        self._delivering = True
        try:
            for data, address in self._inbox:
                any_ = True
                try:
                    self._protocol.datagram_received(data, address)
                except Exception as error:
                    self._tell_loop("Exception in callback datagram_received()", error)
                if not self._reading:
                    self._interrupted = True
                    self._sparse = False
                    break
        except BaseException:  # KeyboardInterrupt: the others follow in the next turn, if there is one
            self._interrupted = True
            self._sparse = False
            self._loop.call_soon(self._deliver)
            raise
        finally:
            self._delivering = False
            if self._payloads:
                self._flush()
        return any_

    # Sending.

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Sends a datagram at once or queues it, at most until the end of this turn of the loop.

        See ``open_datagram_endpoint``. Raises TypeError (no buffer), ValueError (another address than the one
        that the endpoint was made for).
        """
        if self._alone and addr is self._answer_to and type(data) is bytes and data:
            descriptor = self._fileno()
            if descriptor >= 0:
                self._alone = False
                code = _answer(self._memory, descriptor, data, len(data))
                if code <= 0:
                    if code:
                        self._report_code(code)
                    return
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
        data = bytes(data)
        packed = None
        if not self._connected:
            if self._alone and addr is self._answer_to:
                packed = self._packed
            else:
                try:
                    packed = numeric_to_core(addr, self._family)
                    if packed is None:
                        if self._as_uvloop:
                            self._check_zone(addr)
                        packed = self._name_queue().put(addr, data)
                except OSError as error:
                    self._report_error(error)
                    return
                except Exception as error:
                    if self._as_uvloop:
                        raise
                    self._fatal_error(error, "Fatal write error on datagram transport")
                    return
                if packed is None:  # it waits for its name
                    self._maybe_pause_protocol()
                    return
        alone = self._alone or self._at_once
        if not (alone or self._scheduled or self._delivering or self._bursts):
            alone = self._scheduled = True
            self._loop.call_soon(self._end_turn)
        if alone and not self._payloads:
            self._alone = False
            code = _send_alone(self._fileno(), self._ipv6, data, len(data), packed or _NULL)
            if code > 0 and self._fileno() < 0:
                code = -errno.EBADF
            if code <= 0:
                if code:
                    self._report_code(code)
                return
        if packed is not None:
            self._to.append(packed)
        self._payloads.append(data)
        self._size += len(data)
        if self._blocked:
            self._maybe_pause_protocol()
        elif len(self._payloads) >= FLUSH_DATAGRAMS or self._size > self._high_water:
            self._flush()
        elif not self._scheduled and not self._delivering:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def _check_zone(self, addr: Address) -> None:
        """Raises ValueError unless the address was not numeric for its zone alone (``fe80::1%eth0``)."""
        if self._family != socket.AF_INET6 or "%" not in addr[0]:
            raise ValueError(f"{addr!r}: socket family mismatch or a DNS lookup is required")

    def _name_queue(self) -> NameQueue:
        if self._names is None:
            self._names = NameQueue(self._loop, self._family, self._name_found, self._name_failed)
        return self._names

    def _name_found(self, packed: bytes, datagrams: list[bytes]) -> None:
        self._payloads += datagrams
        self._to += [packed] * len(datagrams)
        self._size += sum(map(len, datagrams))
        self._flush()

    def _name_failed(self, error: Exception, count: int) -> None:
        if not isinstance(error, OSError):
            self._fatal_error(error, "Fatal write error on datagram transport")
            return
        for _ in range(count):
            self._report_error(error)
        self._flush()

    def _end_turn(self) -> None:
        self._scheduled = False
        queued = self._flushed + len(self._payloads)
        if queued > (self._bursts > 0):  # without bursts, one more was sent at once
            self._bursts = LONE_TURNS
        elif self._bursts:
            self._bursts -= 1
        self._flushed = 0
        self._flush()

    def flush(self) -> None:
        """Sends the queue now, as far as the socket has room. The rest leaves when it is writable again."""
        self._flush()

    def _flush(self) -> None:
        """Sends the queue as far as the socket has room."""
        payloads, to = self._payloads, self._to
        if payloads and not self._blocked and not self._conn_lost:
            if get_ident() != self._thread:
                self._follow()
            self._payloads, self._to, self._size = [], [], 0
            if self._scheduled:
                self._flushed += len(payloads)
            try:
                report = self._tx.send_batch(payloads, joined(to, self._family), 0)
                errors = self._keep(payloads, to, report.errors)
            except Exception as error:
                self._fatal_error(error, "Fatal write error on datagram transport")
                return
            for refused in errors:
                if self._conn_lost:
                    break
                self._report_error(refused)
        self._maybe_pause_protocol()
        self._maybe_resume_protocol()
        if self._closing and not self._payloads and not self._names and not self._conn_lost:
            self._lose(None)

    def _keep(
        self, payloads: list[bytes], to: list[bytes], errors: list[tuple[int, OSError]]
    ) -> list[OSError]:
        """Queues datagrams without room again, to wait for a writable socket. Returns other errors."""
        again = [index for index, error in errors if error.errno == errno.EAGAIN]
        if not again:
            return [error for _, error in errors]
        self._payloads = [payloads[index] for index in again]
        self._to = [to[index] for index in again] if to else []
        self._size = sum(map(len, self._payloads))
        self._polls.write(self._write_ready)
        self._blocked = True
        return [error for _, error in errors if error.errno != errno.EAGAIN]

    def _write_ready(self) -> None:
        self._stop_writing()
        self._flush()

    def _stop_writing(self) -> None:
        if self._blocked:
            self._polls.stop_writing()
            self._blocked = False

    def get_write_buffer_size(self) -> int:
        """Bytes that are queued."""
        return self._size if self._names is None else self._size + self._names.size

    # Closing.

    def close(self) -> None:
        """Stops receiving, sends the queue, then calls ``connection_lost(None)``."""
        if self._closing:
            return
        self._closing = True
        self._alone = False
        self._reading = False
        self._stop_reading()
        if not self._payloads and not self._names:
            self._lose(None)

    def abort(self) -> None:
        """As ``close()``, but drops datagrams that the socket does not take at once."""
        self._flush()
        self._force_close(None)

    def _stop_reading(self) -> None:
        self._polls.stop_reading()

    def _lose(self, error: Exception | None) -> None:
        self._conn_lost = True
        self._loop.call_soon(self._call_connection_lost, error)

    def _force_close(self, error: Exception | None) -> None:
        if self._conn_lost:
            return
        self._stop_writing()
        if self._names is not None:
            self._names.close()
        self._payloads, self._to, self._size = [], [], 0
        if not self._closing:
            self._closing = True
            self._alone = False
            self._reading = False
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
        if self._names is not None:
            self._names.close()
        if not isinstance(self._rx, Seat):
            self._follow()
        if self._one is not None:
            self._one.close()
        self._rx.close()
        if self._sender is not None:
            self._sender.close()
        self._polls.close()
        sock.close()

    @property
    def _thread(self) -> int:
        """The thread that has the rings."""
        return self._rx.thread if isinstance(self._rx, Seat) else self._ring_thread

    def _follow(self) -> None:
        """The loop may run in another thread than before. Takes the rings along, where their tier allows it.

        A thread that uses the transport beside its loop gets no rings. They refuse its calls.
        """
        if not self._loop.is_running() or asyncio._get_running_loop() is self._loop:
            with contextlib.suppress(WrongThreadError):
                self._rx._change_thread()
                if self._sender is not None:
                    self._sender._change_thread()
                self._ring_thread = get_ident()

    def is_closing(self) -> bool:
        """Whether ``close()`` or ``abort()`` was called, or the transport failed."""
        return self._closing

    def set_protocol(self, protocol: Any) -> None:
        """Replaces the protocol."""
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


def _ways(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, transport: RingTransport, tier: str
) -> tuple[RecvRing | Seat, Polls]:
    """How a transport receives, and how its loop polls for it."""
    # Tier mmsg has no receives in flight. So the loop can poll the socket, and endpoints share buffers.
    rx: RecvRing | Seat
    if tier == "mmsg" and Seats.fit(loop):
        seats = Seats.hold(loop)
        try:
            rx = Seat(sock, seats)
        finally:
            seats.leave(-1)
    else:  # protocols do not use local addresses and TOS
        rx = RecvRing(sock, tier=tier, local_addresses=False, tos=False)
    try:
        return rx, rx.polls(loop, transport) if isinstance(rx, Seat) else RingPolls(loop, sock, rx.fileno())
    except BaseException:
        rx.close()
        raise


def _opened(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
