"""``RecvRing``: receives datagrams from one socket in batches."""

from __future__ import annotations

import errno
import os
import socket
import time
import warnings
from collections.abc import Awaitable, Coroutine, Iterable
from threading import get_ident
from typing import Any, Self

from udpring._native import check, ffi, lib, reason
from udpring.errors import ClosedError, RingError
from udpring.udp.address import family_of
from udpring.udp.alone import Alone
from udpring.udp.batch import Batch
from udpring.udp.loops import BATCHES_A_TURN, LOOK_SECONDS, Watch, give_way
from udpring.udp.origin import Members, Origin, SocketOrigin
from udpring.udp.tiers import counters, tier_name, tier_number
from udpring.udp.uncopied import Uncopied
from udpring.udp.waiting import WAIT_SLICE_NS, nanoseconds, wait_slice

__all__ = ["RecvRing"]

_MOST = 1 << 30  # datagrams per call; far more than possible
_SOL_UDP, _UDP_GRO = 17, 104
_recv_batch = lib.udpring_recv_batch


class RecvRing(Uncopied):
    """Receives datagrams in batches from ``sock``, a UDP socket of AF_INET or AF_INET6, or from many.

    For many sockets ``sock`` is an iterable of them, which may be empty. They share one io_uring (tier mmsg:
    one epoll instance) and one pool of buffers. Sockets come and go with ``add`` and ``remove``. Each packet
    has its ``socket``, and each batch the columns ``sockets`` and ``socket_numbers``. If one of them is
    closed or shut down, ``recv_batch`` raises RingError once and has left that socket. The others go on.

    The ring belongs to the thread that made it. In another thread or a forked child ``recv_batch`` raises
    WrongThreadError. The socket stays the caller's and must live as long as the ring. The ring switches on
    pktinfo, TOS and the drop counter of the socket (ip(7), ipv6(7)); they stay on.

    The ring also empties the socket's error queue (IP_RECVERR errors, timestamps of sent datagrams) and
    counts its messages as ``icmp_errors``. Tier uring-multishot does so only when a receive reports an error.
    To read that queue yourself, send from another socket.

    buffers: receive buffers, 1 to 2048. 0 = 64, or 256 for many sockets.
    buffer_size: payload bytes per buffer, up to 65536. 0 = 65536. Only touched pages use memory.
    tier: "uring-multishot", "uring-pool" or "mmsg". None: UDPRING_TIER, or the best that works here.
    gro: let the kernel join datagrams of one flow to trains (UDP_GRO, udp(7)), which makes bulk traffic much
        cheaper. None: yes where the kernel can (5.0) and ``buffer_size`` is 65536, which holds any train. A
        train that is longer than its buffer is cut. ``close`` restores the socket option.
    whole_trains: return a train as one packet with its ``segment_size``, instead of splitting it in place.
    timestamps: the kernel notes when each datagram arrived (SO_TIMESTAMPNS, socket(7)). ``close`` restores
        the option.
    local_addresses: False leaves IP_PKTINFO off. ``locals``, ``packet.local`` and ``interface_index`` are
        unknown then, unless the program has switched it on for the socket.
    tos: False leaves IP_RECVTOS off. ``tos`` and ``ecn`` are 0 then, with the same exception. Single
        datagrams are cheaper without these two (docs/performance.md).
    lease_limit: buffers that batches may hold. Datagrams beyond it are copied, so that kept packets never
        leave the kernel without a buffer. 0 = half of ``buffers``. With more than three quarters the kernel
        may run out of buffers (``stats["starved"]``).
    copy_limit: bytes of such copies that batches may hold. At the limit ``recv_batch`` raises RingError with
        ENOBUFS and datagrams wait in the socket, until the program releases some packets. 0 = 256 MiB.
    cq_entries: room in the completion queue of an io_uring tier, at most 65536. 0 = for every buffer. A
        smaller queue loses nothing but costs more calls.

    Raises RingError (the kernel refused, with the reason), ValueError (no such tier).
    """

    _instead = "each thread or process makes its own, on a socket of its own"

    # The arguments that the call struct holds. Most programs repeat them.
    _max: int | None = None
    _timeout: float | None = None
    _left = -1

    def __init__(
        self,
        sock: socket.socket | Iterable[socket.socket],
        buffers: int = 0,
        buffer_size: int = 65536,
        tier: str | None = None,
        *,
        gro: bool | None = None,
        whole_trains: bool = False,
        timestamps: bool = False,
        local_addresses: bool = True,
        tos: bool = True,
        lease_limit: int = 0,
        copy_limit: int = 0,
        cq_entries: int = 0,
    ) -> None:
        # The core's handle lives as long as a reference to it. A call that races a close in another thread
        # finds it closed, never freed, so no lock is needed here.
        self._handle: Any = None
        self._closing = False
        self._busy = False
        self._watch: Watch | None = None  # made when a task first waits
        self._awaited = False
        self._burst = 0  # batches since the loop's last turn
        self._lone = False  # the last wait brought a single datagram
        several = list(sock) if isinstance(sock, Iterable) else []
        self._members = Members() if isinstance(sock, Iterable) else None
        self._family = 0  # of the first socket; 0: none yet
        self._thread = get_ident()
        options = ffi.new("struct udpring_recv_options *")
        if not isinstance(sock, Iterable):
            self._family = family_of(sock)
            options.fd = sock.fileno()
            self._sock: socket.socket | None = sock
            self._origin: Origin = SocketOrigin(sock, self._family == socket.AF_INET6)
        elif self._members is not None:
            self._sock = None
            self._origin = self._members.origin(False)
        options.many = self._members is not None
        options.tier = tier_number(tier)
        options.slots = _bounded("buffers", buffers)
        options.slot_bytes = _bounded("buffer_size", buffer_size)
        options.lease_limit = _bounded("lease_limit", lease_limit)
        options.copy_limit = _bounded("copy_limit", copy_limit, 1 << 63)
        options.cq_entries = _bounded("cq_entries", cq_entries)
        options.whole_trains, options.timestamps = whole_trains, timestamps
        options.locals, options.tos = local_addresses, tos
        if gro is None:
            options.gro = lib.UDPRING_GRO_OFF if 0 < buffer_size < 65536 else lib.UDPRING_GRO_TRY
        else:
            options.gro = lib.UDPRING_GRO_ON if gro else lib.UDPRING_GRO_OFF
        opened = ffi.new("struct udpring_recv **")
        why = reason()
        check(lib.udpring_recv_open(opened, options, why), "opening a receive ring", why)
        self._handle = ffi.gc(opened[0], lib.udpring_recv_free)
        self._call = lib.udpring_recv_call(self._handle)  # part of the handle: valid only while that is held
        self._few = ffi.buffer(self._call.few)  # likewise
        self._tier = tier_name(lib.udpring_recv_tier(self._handle))
        self._tier_reason: str = ffi.string(lib.udpring_recv_reason(self._handle)).decode("utf-8", "replace")
        try:
            for each in several:
                self.add(each)
        except BaseException:
            self.close()
            raise

    def add(self, sock: socket.socket) -> int:
        """Receives from one more socket, with the options of the ring. Returns its number.

        ``batch.socket_numbers`` has that number for each of its datagrams. Numbers stay small.

        Only for a ring that was made with an iterable of sockets, and from its thread. All sockets have the
        family of the first one. Remove a socket before closing it.

        Raises RingError (EINVAL: a ring of one socket; EEXIST: it is there already; ENOSPC: more than 65536;
        or the kernel refused), ValueError (another family), ClosedError, WrongThreadError.
        """
        members = self._several()
        family = family_of(sock)
        if self._family not in (0, family):
            raise ValueError(f"all sockets of a ring have one family, which is not that of {sock!r}")
        handle, why = self._usable(), reason()
        members.expect(sock)
        code = lib.udpring_recv_add(handle, sock.fileno(), why)
        if code < 0:
            members.expect(None)
        number = check(code, "adding a socket to a receive ring", why)
        if not self._family:
            self._family = family
            self._origin = members.origin(family == socket.AF_INET6)
        members.add(number, sock)
        return number

    def remove(self, sock: socket.socket) -> None:
        """Receives no more from this socket, which stays the caller's. It may be closed already.

        Its datagrams that the ring had received and no batch has are lost, and counted as ``removed``. Those
        that wait in the socket stay there. Batches that have some stay valid.

        Raises ValueError (the ring does not receive from it), ClosedError, WrongThreadError.
        """
        members = self._several()
        number = members.number(sock)
        check(lib.udpring_recv_remove(self._usable(), number), "removing a socket from a receive ring")
        self._forget(number)

    def _several(self) -> Members:
        if self._members is None:
            raise RingError(
                "this receive ring has one socket. One for several is made with a list of them",
                errno=errno.EINVAL,
            )
        return self._members

    def _forget(self, number: int) -> socket.socket | None:
        members = self._several()
        sock = members.remove(number)
        self._origin = members.origin(self._family == socket.AF_INET6)
        return sock

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that the ring receives from."""
        if self._members is not None:
            return self._members.sockets()
        return () if self._sock is None else (self._sock,)

    def recv_batch(self, max_packets: int = 256, timeout: float | None = None) -> Batch:
        """Waits for the first datagram, then returns all that have arrived, up to ``max_packets``.

        A train may hold more than fit. The rest of it comes with the next call.
        timeout: seconds. None waits for ever, 0 or less polls. The batch is empty when the time is up.
        Signals are handled while waiting (Ctrl-C raises KeyboardInterrupt).

        Raises ClosedError (also when another thread closes the ring meanwhile), WrongThreadError, and
        RingError: EBADF when the socket was closed, even if another socket has its number now; ESHUTDOWN when
        it was shut down for reading; ENOBUFS when the program keeps more packets than ``copy_limit`` allows.
        A wait notices the first two within a fifth of a second.
        """
        handle = self._handle
        if self._busy or self._closing or handle is None or get_ident() != self._thread:
            self._refuse()
        self._busy = True
        try:
            if max_packets != self._max or timeout != self._timeout:
                self._ask(max_packets, timeout)
            code = _recv_batch(self._call)
            return self._wait_on(code) if code else Batch(self._call, self._few, self._origin)
        finally:
            self._busy = False
            del handle  # keep it until here: `call` is part of it

    def _ask(self, max_packets: int, timeout: float | None) -> None:
        """Writes the arguments into the call struct."""
        if max_packets < 1:
            raise ValueError(f"max_packets must be at least 1: {max_packets}")
        left = -1 if timeout is None else nanoseconds(timeout)
        self._max = None  # a signal handler may raise in the middle
        self._call.max = max_packets if max_packets < _MOST else _MOST
        self._call.timeout_ns = wait_slice(left)
        self._timeout, self._left, self._max = timeout, left, max_packets

    def _wait_on(self, code: int) -> Batch:
        """Continues after a call that returned this code and no batch."""
        call, left = self._call, self._left
        deadline = (call.began_ns or time.monotonic_ns()) + left if left > 0 else 0
        while code:
            if code == -errno.ETIME and 0 <= left <= WAIT_SLICE_NS:
                return Batch(None, None, self._origin)
            if code not in (-errno.EINTR, -errno.ECANCELED, -errno.ETIME):
                self._fail(code)
            if deadline:
                left = max(0, deadline - time.monotonic_ns())
            self._usable()
            self._max = None  # the next call writes the arguments again
            call.timeout_ns = wait_slice(left)
            code = _recv_batch(call)
        return Batch(call, self._few, self._origin)

    def _poll(self, max_packets: int) -> Batch | None:
        """``recv_batch`` without a wait. None stands for an empty batch."""
        handle = self._handle
        if self._busy or self._closing or handle is None or get_ident() != self._thread:
            self._refuse()
        self._busy = True
        try:
            if max_packets != self._max or self._timeout != 0:
                self._ask(max_packets, 0)
            if not (code := _recv_batch(self._call)):
                return Batch(self._call, self._few, self._origin)
            return None if code == -errno.ETIME else self._wait_on(code) or None
        finally:
            self._busy = False
            del handle  # keep it until here: `call` is part of it

    def _alone(self, connected: bool) -> Alone:
        """For single datagrams, of a caller that polls the socket itself."""
        return Alone(self._usable(), 0, self._origin.ipv6, connected)

    def _change_thread(self) -> None:
        """Makes this thread the owner, of tier mmsg. The caller knows that no other thread uses the ring."""
        check(lib.udpring_recv_move(self._handle), "moving a receive ring to another thread")
        self._thread = get_ident()

    def _refuse(self) -> None:
        """Raises the reason why the ring cannot receive now."""
        self._usable()
        if get_ident() != self._thread:
            check(-errno.EXDEV, "receiving")
        raise RuntimeError("recv_batch was called from a signal handler while it runs on the same ring")

    def _fail(self, code: int) -> None:
        if code == -errno.ENOLINK:
            why = ffi.new("int32_t *")
            number = lib.udpring_recv_ended(self._usable(), why)
            if number < 0:
                return
            sock = self._forget(number)
            what = "was closed" if why[0] == errno.EBADF else f"failed ({os.strerror(why[0])})"
            raise RingError(f"receiving: {sock!r} {what}. The ring has left it", errno=why[0])
        if code == -errno.ENOBUFS:
            usage = self._usage()
            raise RingError(
                f"receiving: batches hold {usage['leased']} buffers and {usage['copies']} bytes of copies. "
                "Release batches and views (keep bytes(packet) instead), or raise copy_limit",
                errno=errno.ENOBUFS,
            )
        check(code, "receiving")

    def _usable(self) -> Any:
        if self._closing:
            self.close()
        if self._handle is None:
            raise ClosedError("this receive ring was closed")
        return self._handle

    def fileno(self) -> int:
        """A descriptor for event loops: readable while ``recv_batch(timeout=0)`` would return datagrams.

        It is level-triggered: it stays readable until everything is fetched. Poll it for reading with
        select(2), poll(2), epoll(7) or any loop. Do not read, write or close it. It is not the socket's
        descriptor. It may also be readable for an ICMP error or for buffers that were released; the batch is
        empty then.

        It does not signal when the program closes the socket. The next call on the ring reports that, so
        close the ring or call ``recv_batch`` now and then. The waits of this class check once a second.

        Raises ClosedError, WrongThreadError (the first call must be the owner's), RingError.
        """
        return check(lib.udpring_recv_fileno(self._usable()), "polling a receive ring")

    async def recv_batch_async(self, max_packets: int = 256, timeout: float | None = None) -> Batch:
        """``recv_batch`` that waits in the running loop: asyncio, uvloop, trio, anyio on either. No thread.

        timeout: seconds. None waits for ever. The batch is empty when the time is up.
        A cancelled call loses no datagram: it comes with the next call. After a few batches without a wait
        the loop gets a turn, so that timers run under a flood.

        Raises ClosedError (also when the ring is closed meanwhile), WrongThreadError, RingError, RuntimeError
        when another task is waiting on this ring already.
        """
        return await self._receive(max_packets, timeout)

    async def _receive(self, max_packets: int, timeout: float | None, iterating: bool = False) -> Batch:
        if self._awaited:
            raise RuntimeError("another task is waiting on this ring. Let one task receive and distribute")
        deadline = None
        if timeout is not None and nanoseconds(timeout) >= 0:
            deadline = time.monotonic() + timeout
        wait: Awaitable[bool] | None = None
        self._awaited = True
        try:
            if self._burst >= BATCHES_A_TURN:
                self._burst = 0
                await give_way()
            if self._lone and self._watch is not None and timeout is None and max_packets > 0:
                # Datagrams come one at a time, so the next one has hardly arrived. Wait for the loop at once.
                wait = self._watch.wait_again()
            while True:
                if wait is not None:
                    self._burst = 0
                    await wait
                batch = self._poll(max_packets)
                if batch is not None:
                    self._burst += 1
                    self._lone = wait is not None and batch._count == 1
                    return batch
                left = LOOK_SECONDS
                if deadline is not None:
                    left = min(left, deadline - time.monotonic())
                    if left <= 0:
                        break
                wait = self._watched().wait(left)
            if wait is None:
                self._burst = 0
                await give_way()  # a loop of polls must not starve other tasks
            return self.recv_batch(max_packets, 0)
        except ClosedError:
            if iterating:
                raise StopAsyncIteration from None
            raise
        finally:
            self._awaited = False

    def __aiter__(self) -> Self:
        self._usable()
        return self

    def __anext__(self) -> Coroutine[Any, Any, Batch]:
        """The next batch. The iteration ends when the ring is closed."""
        return self._receive(256, None, True)

    def _icmp_errors(self) -> list[OSError]:
        """ICMP errors since the last call, oldest first. The last 16 are kept."""
        errors = []
        while code := lib.udpring_recv_error(self._usable()):
            errors.append(OSError(code, os.strerror(code)))
        return errors

    def _watched(self) -> Watch:
        if self._watch is None:
            self._watch = Watch(self.fileno())
        return self._watch

    def _end_wait(self) -> None:
        """After closing: ends the wait of the task."""
        if self._watch is not None:
            self._watch.close()

    @property
    def tier(self) -> str:
        """The tier in use."""
        return self._tier

    @property
    def tier_reason(self) -> str:
        """Why no better tier was taken. Empty for the best tier and for one that was given by name."""
        return self._tier_reason

    @property
    def gro(self) -> bool:
        """Whether the kernel joins datagrams to trains for this ring's sockets (UDP_GRO, udp(7))."""
        try:
            return bool(self.sockets) and all(each.getsockopt(_SOL_UDP, _UDP_GRO) for each in self.sockets)
        except OSError:  # before kernel 5.0, or a socket was closed
            return False

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the ring was opened (``struct udpring_rx_stats``).

        ``packets`` counts datagrams: a train of 64 adds 64, also with ``whole_trains``. ``trains`` counts the
        trains themselves. ``copied`` counts datagrams that were copied. Two values also fall: batches hold
        ``leased`` of ``lease_limit`` buffers and ``copies`` of ``copy_limit`` bytes now. Any thread may read
        this. Raises ClosedError after close.
        """
        handle = self._handle
        if handle is None:
            raise ClosedError("this receive ring was closed")
        stats = ffi.new("struct udpring_rx_stats *")
        lib.udpring_recv_stats(handle, stats)
        return counters(stats) | self._usage()

    def _usage(self) -> dict[str, int]:
        handle = self._handle
        usage = ffi.new("struct udpring_recv_usage *")
        if handle is not None:
            lib.udpring_recv_usage(handle, usage)
        return counters(usage)

    @property
    def leased(self) -> int:
        """Buffers that batches hold, as of the last ``recv_batch``. Any thread."""
        return self._usage()["leased"]

    @property
    def closed(self) -> bool:
        """Whether the ring is closed."""
        return self._closing or self._handle is None

    def close(self) -> None:
        """Cancels the receives in flight, waits for them, and closes the ring. Packets in use stay valid.

        Datagrams that the ring had received and nobody fetched are lost. UDP_GRO is off again, but a train
        that is already in the socket remains one: a plain ``recv`` returns its datagrams as one.

        Called from another thread, it only wakes the owner, whose ``recv_batch`` then closes the ring and
        raises ClosedError. Closing twice is fine.
        """
        handle = self._handle
        if handle is None:
            return
        self._closing = True
        code = lib.udpring_recv_close(handle)
        if code == -errno.EXDEV:
            lib.udpring_recv_wake(handle)
            return
        self._handle = None
        self._end_wait()
        check(code, "closing a receive ring")

    def __enter__(self) -> Self:
        if self.closed:
            raise ClosedError("this receive ring was closed")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and not self._closing:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<RecvRing {'closed' if self.closed else self._tier}>"


def _bounded(name: str, value: int, end: int = 1 << 31) -> int:
    if not 0 <= value < end:
        raise ValueError(f"{name} must be 0 to {end - 1}: {value}")
    return value
