"""``Seat``: receiving for one of the many endpoints of an event loop.

The event loop polls the sockets, so a receive never waits, and its buffers are free again when the endpoint
has copied the payloads. The same holds for a batch that is sent without waiting. So the endpoints of a loop
share one receive handle with its buffers, one send ring, and the epoll instances that some loops need
(``polls.py``). A socket costs no descriptor beyond its own, and a few bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from threading import get_ident
from typing import Any

from udpring._native import check, ffi, lib, reason
from udpring.errors import ClosedError, WrongThreadError
from udpring.udp.alone import Alone
from udpring.udp.batch import Batch
from udpring.udp.origin import SocketOrigin
from udpring.udp.polls import EpollSets, Polls, SocketPolls, polls_sockets
from udpring.udp.send import SendRing
from udpring.udp.tiers import counters
from udpring.udp.uncopied import Uncopied

__all__ = ["Seat", "Seats"]


class Seats(Uncopied):
    """The handle of an event loop, while it has seats. It goes with the loop to another thread."""

    def __init__(self) -> None:
        options = ffi.new("struct udpring_recv_options *")
        options.many = options.passive = True
        options.tier = lib.UDPRING_TIER_MMSG
        options.gro = lib.UDPRING_GRO_TRY
        opened = ffi.new("struct udpring_recv **")
        why = reason()
        check(lib.udpring_recv_open(opened, options, why), "opening the receive ring of an event loop", why)
        self.handle: Any = ffi.gc(opened[0], lib.udpring_recv_free)
        self.call = lib.udpring_recv_call(self.handle)  # part of the handle: valid only while that is held
        self.few = ffi.buffer(self.call.few)  # likewise
        self.sender: SendRing | None = None  # for batches of the endpoint whose socket is `sends_on`
        self.sends_on: socket.socket | None = None
        self.polled: EpollSets | None = None  # made where the loop does not poll sockets
        self.pid = os.getpid()
        self.thread = get_ident()
        self.count = 0
        self.departed: list[int] = []  # numbers of seats that another thread closed
        self.closed = False

    @staticmethod
    def fit(loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop has room for an attribute, as the loops of asyncio and uvloop have."""
        return hasattr(loop, "__dict__")

    @staticmethod
    def hold(loop: asyncio.AbstractEventLoop) -> Seats:
        """Those of this loop, which must ``fit``, kept open until ``leave(-1)``. Call it in the loop's
        thread."""
        of_loop: Any = loop
        seats: Seats | None = getattr(of_loop, "_udpring_seats", None)
        if seats is not None:
            seats.count += 1  # first: a collection may close the loop's last endpoint at any later call
            if seats.closed or seats.pid != os.getpid():
                seats.count -= 1
                seats = None
        if seats is None:
            seats = of_loop._udpring_seats = Seats()
            seats.count = 1
        elif seats.thread != get_ident():
            seats.move()
        return seats

    def polls(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, transport: object) -> Polls:
        """For the socket of an endpoint of the loop. Raises OSError (no descriptor for it)."""
        if polls_sockets(loop):
            return SocketPolls(loop, sock, transport)
        if self.polled is None:
            self.polled = EpollSets()
        return self.polled.polls(loop, sock)

    def move(self) -> None:
        """Makes this thread the owner. The caller knows that the loop runs here or not at all."""
        check(lib.udpring_recv_move(self.handle), "moving the receive ring of an event loop")
        if self.sender is not None:
            self.sender._change_thread()
        self.thread = get_ident()

    def leave(self, number: int) -> None:
        """One seat less. The last one closes the handle."""
        self.count -= 1
        if number >= 0 and lib.udpring_recv_remove(self.handle, number) == -errno.EXDEV:
            self.departed.append(number)
        if self.count:
            return
        self.closed = True
        if self.thread != get_ident() and self.pid == os.getpid():
            with contextlib.suppress(WrongThreadError):
                self.move()
        sender, self.sender = self.sender, None
        if sender is not None:
            sender.close()
        if self.polled is not None:
            self.polled.close()
        lib.udpring_recv_close(self.handle)

    def forget_departed(self) -> None:
        """In the owner's thread."""
        while self.departed:
            lib.udpring_recv_remove(self.handle, self.departed.pop())


class Seat(Uncopied):
    """What a transport uses of a receive ring, for one socket that its event loop polls. Tier mmsg."""

    __slots__ = ("__dict__", "_call", "_few", "_number", "_origin", "_shared", "_sock")

    tier = "mmsg"

    def __init__(self, sock: socket.socket, seats: Seats) -> None:
        self._number = -1
        self._sock = sock
        self._origin = SocketOrigin(sock, sock.family == socket.AF_INET6)
        self._call, self._few = seats.call, seats.few
        self._shared: Seats | None = seats
        seats.count += 1
        try:
            seats.forget_departed()
            why = reason()
            number = lib.udpring_recv_add(seats.handle, sock.fileno(), why)
            self._number = check(number, "receiving of an endpoint", why)
        except BaseException:
            self.close()
            raise

    @property
    def thread(self) -> int:
        """The thread that owns it."""
        return 0 if self._shared is None else self._shared.thread

    def _change_thread(self) -> None:
        """Makes this thread the owner, also of the loop's other seats."""
        if self._shared is not None:
            self._shared.move()

    def polls(self, loop: asyncio.AbstractEventLoop, transport: object) -> Polls:
        """How ``loop`` polls the socket for the transport. Raises OSError (no descriptor for it)."""
        shared = self._shared
        assert shared is not None
        return shared.polls(loop, self._sock, transport)

    def recv_batch(self, max_packets: int, timeout: float) -> Batch:
        """What is there: whole trains, with about ``max_packets`` datagrams. ``timeout`` is 0.

        Raises RingError (the socket was closed or shut down, ...), ClosedError, WrongThreadError.
        """
        shared = self._shared
        if shared is None:
            raise ClosedError("this endpoint was closed")
        call = self._call
        call.number = self._number
        call.max = max_packets
        code = lib.udpring_recv_batch(call)
        if code == 0:
            return Batch(call, self._few, self._origin)
        if code != -errno.ETIME:
            check(code, "receiving")
        return Batch(None, None, self._origin)

    def _alone(self, connected: bool) -> Alone:
        """For its single datagrams."""
        shared = self._shared
        assert shared is not None
        return Alone(shared.handle, self._number, self._origin.ipv6, connected)

    def _icmp_errors(self) -> list[OSError]:
        """ICMP errors of the last call, oldest first."""
        shared = self._shared
        errors = []
        while shared is not None and (code := lib.udpring_recv_error(shared.handle)):
            errors.append(OSError(code, os.strerror(code)))
        return errors

    def sender(self, sock: socket.socket) -> SendRing:
        """A ring that sends a batch on this socket at once. The seats of a loop take turns with it.

        Raises RingError (the kernel refused), ClosedError, WrongThreadError.
        """
        shared = self._shared
        if shared is None:
            raise ClosedError("this endpoint was closed")
        if shared.thread != get_ident():
            check(-errno.EXDEV, "sending")
        if shared.sends_on is not sock or shared.sender is None:
            shared.sends_on = None
            if shared.sender is None:
                shared.sender = SendRing(sock, tier=self.tier)
            else:
                shared.sender._use(sock)
            shared.sends_on = sock
        return shared.sender

    @property
    def stats(self) -> dict[str, int]:
        """Counters of all seats of the loop."""
        shared = self._shared
        if shared is None:
            raise ClosedError("this endpoint was closed")
        stats = ffi.new("struct udpring_rx_stats *")
        lib.udpring_recv_stats(shared.handle, stats)
        return counters(stats)

    def close(self) -> None:
        """Leaves the socket to its owner. Closing twice is fine.

        Any thread may call it, once the transport is not used any more.
        """
        shared, self._shared = self._shared, None
        if shared is None:
            return
        if shared.sends_on is self._sock:
            shared.sends_on = None
        shared.leave(self._number)
