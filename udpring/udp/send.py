"""``SendRing``: sends datagrams on one socket in batches."""

from __future__ import annotations

import errno
import os
import socket
import time
import warnings
from typing import Any, Self, cast

from udpring._native import check, ffi, lib, reason, reason_text
from udpring.errors import ClosedError, RingError
from udpring.udp.address import Address, AddressList, family_of, to_core
from udpring.udp.batch import Batch
from udpring.udp.jobs import (
    Addresses,
    Lengths,
    Payloads,
    SendReport,
    Ticket,
    fill_addresses,
    fill_options,
    fill_payloads,
    make_report,
)
from udpring.udp.loops import BATCHES_A_TURN, LOOK_SECONDS, Watch, give_way, turns_here
from udpring.udp.tiers import counters, tier_name, tier_number
from udpring.udp.train_kernels import train_fault
from udpring.udp.uncopied import Uncopied
from udpring.udp.waiting import nanoseconds, wait_slice

__all__ = ["SendReport", "SendRing", "Ticket"]

CLOSED = "this send ring was closed"
_leaked: list[object] = []
_LET_GO_SECONDS = 10.0

# Whether zero_copy=True has an effect, and why.
_ZERO_COPY = {
    lib.UDPRING_ZC_OFF: ("off", "not requested"),
    lib.UDPRING_ZC_UNTRIED: (
        "untried",
        "it works here. No payload of 4096 bytes or more was sent yet",
    ),
    lib.UDPRING_ZC_TRUE: ("true", "the kernel sends the payloads in place"),
    lib.UDPRING_ZC_COPIES: ("copies", "the kernel copies on this route: loopback, virtual, or no gathering"),
    lib.UDPRING_ZC_BROKEN: ("broken", ""),
    lib.UDPRING_ZC_UNSUPPORTED: ("unsupported", ""),
}


class SendRing(Uncopied):
    """Sends datagrams in batches on ``sock``, a UDP socket of AF_INET or AF_INET6, connected or not.

    Datagrams to one destination leave in the order given, also when the socket buffer is full. Those of equal
    size leave as UDP_SEGMENT trains (udp(7)), or singly where the route refuses trains. The ring belongs to
    the thread that made it. The socket stays the caller's and must live as long as the ring.

    entries: pending sends (datagrams or trains), 1 to 4096. 0 = 256. A batch may be longer.
    tier: "uring-multishot" or "uring-pool" (both send alike), or "mmsg". None: UDPRING_TIER, or the best that
        works here.
    gso: False sends every datagram by itself, True uses trains. None: trains, unless this kernel is known to
        damage them (``udpring doctor`` says so).
    zero_copy: the kernel reads payloads of 4096 bytes and more in place (IORING_OP_SENDMSG_ZC,
        io_uring_enter(2)). A train counts as a whole. The property ``zero_copy`` says whether that works. A
        batch ends, and a ticket is done, when the kernel no longer reads the payloads. It pays for big trains
        on a network card. Loopback and virtual devices copy.
    helpers: threads, 0 to 15, that send together with the caller's. They help with batches of 128 datagrams
        or more that have an address each. Single datagrams to many destinations each pass through the whole
        kernel, so only more CPUs make them faster. ``stats["helped"]`` counts their datagrams. Helpers do
        nothing for one destination, or with ``ordered``.

    Raises RingError (the kernel refused, with the reason), ValueError (no such tier; too many helpers).
    """

    _instead = "each thread or process makes its own, on the same socket or another"

    def __init__(
        self,
        sock: socket.socket,
        entries: int = 256,
        tier: str | None = None,
        *,
        gso: bool | None = None,
        zero_copy: bool = False,
        helpers: int = 0,
    ) -> None:
        # The core's handle lives as long as a reference to it. A call that races a close in another thread
        # finds it closed, never freed, so no lock is needed here.
        self._handle: Any = None
        self._closing = False
        self._sock = sock
        self._family = family_of(sock)
        self._busy = False
        self._tickets: list[Ticket] = []  # tickets that reap() returns
        self._awaited: dict[Ticket, Watch] = {}  # tickets that tasks wait for
        self._job = ffi.new("struct udpring_send_job *")  # of send_batch
        self._one = ffi.new("struct udpring_address *")
        self._results = ffi.NULL
        self._room = 0
        self._plain = True  # the job has no options
        self._copies = not zero_copy
        self._turns = turns_here()
        self._turn = -1  # the loop's turn of the last send by a task, if known
        self._burst = 0  # batches sent in that turn
        self._held: tuple[Any, ...] = ()
        if not 0 <= entries < 1 << 31:
            raise ValueError(f"entries must not be negative: {entries}")
        if not 0 <= helpers <= lib.UDPRING_SEND_HELPERS_MAX:
            raise ValueError(f"helpers must be 0 to {lib.UDPRING_SEND_HELPERS_MAX}: {helpers}")
        opened = ffi.new("struct udpring_send **")
        options = ffi.new("struct udpring_send_options *")
        options.fd = sock.fileno()
        options.tier = tier_number(tier)
        options.slots = entries
        options.gso = train_fault() is None if gso is None else gso
        options.zero_copy = zero_copy
        options.helpers = helpers
        why = reason()
        code = lib.udpring_send_open(opened, options, why)
        check(code, "opening a send ring", why)
        self._handle = ffi.gc(opened[0], lib.udpring_send_free)
        self._tier = tier_name(lib.udpring_send_tier(self._handle))
        self._tier_reason: str = ffi.string(lib.udpring_send_reason(self._handle)).decode("utf-8", "replace")

    def send_batch(
        self,
        payloads: Payloads,
        address: Addresses | None = None,
        timeout: float | None = None,
        *,
        lengths: Lengths | None = None,
        source: str | None = None,
        interface_index: int = 0,
        tos: int | None = None,
        ttl: int | None = None,
        ordered: bool = False,
    ) -> SendReport:
        """Sends every payload. Returns when each has its result. A failed datagram does not stop the others.

        payloads: buffers; or a received Batch, which is sent in place; or one buffer with ``lengths``.
        address: one for all; a sequence with one each; an AddressList (packed once; ``Batch.addresses`` is
            one); or None on a connected socket. A name is looked up, which blocks, and again 60 s later. A
            wrong address in a sequence (IPv6 on an IPv4 socket, an unknown name) is an error of its datagram
            in the report.
        timeout: seconds to wait for room in the socket buffer. None waits for ever, 0 or less does not wait.
            Datagrams that were not sent by then are reported with BlockingIOError.
        lengths: cuts one buffer into datagrams. An int: that many bytes each, the last may be shorter. A
            sequence or a uint32 buffer: their lengths, which must use up the buffer.
        source: the local address to send from, a host string (IP_PKTINFO, ip(7); IPV6_PKTINFO, ipv6(7)).
        interface_index: the interface to send by. 0: as routed.
        tos: TOS or traffic class octet; ECN is its low two bits (RFC 3168). None: the socket's.
        ttl: hop limit, 1 to 255. None: the socket's.
        ordered: keep the order across destinations. Otherwise order is kept per destination, and datagrams of
            equal size to one destination become UDP_SEGMENT trains (udp(7)), even if the batch interleaves
            destinations.

        The report has the errors of single datagrams, as sendmsg(2) describes them: EMSGSIZE, ENETUNREACH,
        ECONNREFUSED (an ICMP error of an earlier datagram, on a connected socket; it ends a whole train),
        EPERM (a filter), EINVAL (a foreign source), EAFNOSUPPORT (address or source of another family), ...
        The payloads may be changed afterwards.

        Raises ClosedError, WrongThreadError, TypeError, OverflowError, ValueError (as many addresses as
        payloads are needed; lengths that do not fit the buffer), ``socket.gaierror`` where the one address
        for all is an unknown name.
        """
        left = -1 if timeout is None else nanoseconds(timeout)
        if lengths is None and source is None and tos is None and ttl is None and not interface_index:
            alone = self._send_alone(payloads, address)
            if alone is not None:
                return alone
        handle = self._usable()
        if self._busy:
            raise RuntimeError("the send ring was used by a signal handler while it was busy")
        job = self._job
        if job.taken and job.ended != job.count:  # a second Ctrl-C interrupted its abandoning
            self._let_go(handle, job, None)
            job = self._job
        job.taken = 0
        self._busy = True
        try:
            held = fill_payloads(job, payloads, lengths)
            count: int = job.count
            to, unknown = fill_addresses(job, address, self._family, self._one)
            if source is not None or interface_index or tos is not None or ttl is not None or ordered:
                self._plain = False
                fill_options(job, self._family, source, interface_index, tos, ttl, ordered)
            elif not self._plain:
                fill_options(job, self._family, None, 0, None, None, False)
                self._plain = True
            if count > self._room:
                self._results = ffi.new("int32_t[]", count)
                self._room = count
                job.results = self._results
            self._held = held, to
            try:
                code = lib.udpring_send_submit(handle, job)
                if code:
                    raise _refused(code)
                if job.ended != count:
                    self._wait(handle, job, left)
            finally:
                # Also after KeyboardInterrupt: parked datagrams still point into this batch's memory. A ring
                # that a signal handler closed no longer uses it.
                if job.taken and job.ended != count:
                    self._let_go(handle, job, None)
            self._held = ()
            if self._awaited:
                self._wake_sent()
            return make_report(job, unknown) if job.failed else SendReport(count)
        finally:
            self._busy = False

    def _change_thread(self) -> None:
        """Makes this thread the owner, of tier mmsg. The caller knows that no other thread uses the ring."""
        check(lib.udpring_send_move(self._handle), "moving a send ring to another thread")
        self._turns = turns_here()

    def _use(self, sock: socket.socket) -> None:
        """From now on it sends on this socket. Not while datagrams are pending."""
        check(lib.udpring_send_use(self._usable(), sock.fileno()), "sending on the socket of an endpoint")
        self._family = sock.family

    def _send_alone(self, payloads: Payloads, address: Addresses | None) -> SendReport | None:
        """Sends a single datagram without options directly, if the queue is empty. None: send it as a batch,
        which also reports the error."""
        handle = self._handle
        if handle is None or self._busy or self._closing or not self._copies:
            return None
        if type(payloads) is Batch:
            face: Any = payloads._face
            if payloads._count != 1 or face.whole_trains:
                return None
            data: Any = face.base
            size: int = face.bytes
        elif type(payloads) is list and len(payloads) == 1 and type(payloads[0]) is bytes:
            data = payloads[0]
            size = len(data)
        else:
            return None
        packed: Any
        if type(address) is tuple and len(address) == 2 and type(address[0]) is str:
            packed = to_core(cast(Address, address), self._family)
        elif isinstance(address, AddressList) and len(address) == 1:
            packed = address.packed
        elif address is None:
            packed = ffi.NULL
        else:
            return None
        code: int = lib.udpring_send_one(handle, data, size, packed)
        if code == 0:
            return SendReport(1)
        return None if code > 0 else SendReport(0, [(0, OSError(-code, os.strerror(-code)))])

    def _wait(self, handle: Any, job: Any, left: int) -> None:
        """``left``: nanoseconds, -1 for ever."""
        deadline = None if left < 0 else time.monotonic_ns() + left
        code = -errno.EINTR
        while code == -errno.EINTR or (code == -errno.ETIME and left != 0):
            code = lib.udpring_send_run(handle, job, 0, wait_slice(left))
            if deadline is not None:
                left = max(0, deadline - time.monotonic_ns())
        if code not in (0, -errno.ETIME):
            self._usable()  # closes if another thread requested it
            raise _refused(code)

    def _let_go(self, handle: Any, job: Any, held: object) -> None:
        """Abandons unsent datagrams of the job. Waits for those that the kernel still reads."""
        give_up = time.monotonic() + _LET_GO_SECONDS
        code = -errno.EBUSY
        while code == -errno.EBUSY and lib.udpring_send_check(handle) == 0:
            code = lib.udpring_send_abandon(handle, job)
            if code != -errno.EBUSY:
                check(code, "abandoning a send")
            elif time.monotonic() < give_up:
                lib.udpring_send_run(handle, job, 0, wait_slice(-1))
            else:
                _leaked.append((job, held, self._held, self._results, self._one, handle))
                self._job, self._one = (
                    ffi.new("struct udpring_send_job *"),
                    ffi.new("struct udpring_address *"),
                )
                self._results, self._room, self._plain, self._held = ffi.NULL, 0, True, ()
                raise RingError(
                    "sending: the kernel still uses the payloads (zero copy). They stay in memory",
                    errno=errno.EBUSY,
                )

    def submit(
        self,
        payloads: Payloads,
        address: Addresses | None = None,
        *,
        lengths: Lengths | None = None,
        source: str | None = None,
        interface_index: int = 0,
        tos: int | None = None,
        ttl: int | None = None,
        ordered: bool = False,
    ) -> Ticket:
        """Accepts the datagrams, sends as many as possible without waiting, and returns.

        Arguments are those of ``send_batch``. The datagrams leave after those submitted earlier. An iterable
        of payloads is copied, so they may be changed at once. One buffer with ``lengths``, or a Batch, is not
        copied. It is held until the ticket is done and must not be changed before. Raises as ``send_batch``.
        """
        handle = self._usable()
        if self._busy:
            raise RuntimeError("the send ring was used by a signal handler while it was busy")
        job = ffi.new("struct udpring_send_job *")
        held = fill_payloads(job, payloads, lengths)
        to, unknown = fill_addresses(job, address, self._family, ffi.new("struct udpring_address *"))
        if source is not None or interface_index or tos is not None or ttl is not None or ordered:
            fill_options(job, self._family, source, interface_index, tos, ttl, ordered)
        results = ffi.new("int32_t[]", job.count)
        job.results = results
        ticket = Ticket(job, (held, to, results), unknown)
        self._tickets.append(ticket)  # first, so that the core's memory lives whatever happens
        try:
            code = lib.udpring_send_submit(handle, job)
            if code:
                raise _refused(code)
        finally:
            if not job.taken:
                self._tickets.remove(ticket)
        if self._awaited:
            self._wake_sent()
        return ticket

    def reap(self, wait: int = 0, timeout: float | None = None) -> list[Ticket]:
        """Returns the tickets that are done and were not returned before, in the order of submission.

        wait: waits until that many are done, or all that are pending.
        timeout: seconds to wait for them. None waits for ever. Fewer are returned when the time is up.
        Raises ClosedError, WrongThreadError, RingError (the socket is gone).
        """
        handle = self._usable()
        whole = -1 if timeout is None else nanoseconds(timeout)
        deadline = None if whole < 0 else time.monotonic_ns() + whole
        left = 0
        while True:
            finished = lib.udpring_send_finished(handle)
            code = lib.udpring_send_run(handle, ffi.NULL, finished + 1, wait_slice(left))
            if code not in (0, -errno.ETIME, -errno.EINTR):
                self._usable()
                raise _refused(code)
            ready = sum(ticket.done for ticket in self._tickets)
            if ready >= min(wait, len(self._tickets)):
                break
            left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
            if not left:
                break
        if self._awaited:
            self._wake_sent()
        done = [ticket for ticket in self._tickets if ticket.done]
        if done:
            self._tickets = [ticket for ticket in self._tickets if not ticket.done]
            for ticket in done:
                _ = ticket.report  # releases the payloads
        return done

    def drain(self, timeout: float | None = None) -> list[Ticket]:
        """Waits until nothing is pending, then reaps. Returns fewer tickets when the time is up.

        Raises as ``reap``.
        """
        return self.reap(len(self._tickets), timeout)

    def fileno(self) -> int:
        """A descriptor for event loops: readable while ``reap()`` could send or finish pending datagrams.

        It is level-triggered. It is quiet when nothing is pending, or when all pending datagrams wait for the
        notifications of zero copy. Poll it for reading, not for writing, with select(2), poll(2), epoll(7) or
        any loop. Do not read, write or close it. It is not the socket's descriptor. It also becomes readable
        when another thread closes the ring, but not when the program closes the socket: ``reap`` reports
        that.

        Raises ClosedError, WrongThreadError (the first call must be the owner's), RingError.
        """
        return check(lib.udpring_send_fileno(self._usable()), "polling a send ring")

    async def send_batch_async(
        self,
        payloads: Payloads,
        address: Addresses | None = None,
        *,
        lengths: Lengths | None = None,
        source: str | None = None,
        interface_index: int = 0,
        tos: int | None = None,
        ttl: int | None = None,
        ordered: bool = False,
    ) -> SendReport:
        """``send_batch`` that waits in the running loop: asyncio, uvloop, trio, anyio on either. No thread.

        It sends as much as the socket buffer has room for and waits with the rest. Several tasks may send.
        Their datagrams leave in the order of the calls. After a few batches without a wait the loop gets a
        turn. Arguments and report are those of ``send_batch``. Payloads are held as by ``submit``. A
        cancelled call abandons the unsent datagrams and notes their number on the exception (``__notes__``).
        A name is looked up as by ``send_batch``, which blocks the loop: give addresses.

        Raises as ``submit``, and ClosedError also when the ring is closed meanwhile.
        """
        turn = self._turns.count
        if turn != self._turn:
            self._turn, self._burst = turn, 0
        elif self._burst >= BATCHES_A_TURN:
            self._burst = 0
            await give_way()
        if lengths is None and source is None and tos is None and ttl is None and not interface_index:
            alone = self._send_alone(payloads, address)
            if alone is not None:
                self._burst += 1
                return alone
        ticket = self.submit(
            payloads,
            address,
            lengths=lengths,
            source=source,
            interface_index=interface_index,
            tos=tos,
            ttl=ttl,
            ordered=ordered,
        )
        self._burst += 1
        if ticket.done:
            self._tickets.remove(ticket)
        else:
            self._burst = 0
            await self._sent(ticket)
        return ticket.report

    async def _sent(self, ticket: Ticket) -> None:
        """Waits until every datagram of the ticket has its result."""
        watch: Watch | None = None
        try:
            watch = self._awaited[ticket] = Watch(self.fileno())
            self._tickets.remove(ticket)
            while not ticket.done:
                await watch.wait(LOOK_SECONDS)
                if not ticket.done:
                    self._move()
        except BaseException as error:
            left = self._abandon(ticket)
            if left:
                error.add_note(f"{left} of {ticket.count} datagrams were not sent")
            raise
        finally:
            self._awaited.pop(ticket, None)
            if watch is not None:
                watch.close()

    def _abandon(self, ticket: Ticket) -> int:
        """Abandons the ticket. Returns how many of its datagrams are unsent."""
        if not ticket.done:
            self._let_go(self._usable(), ticket._job, ticket)
        return len(ticket.report.errors)

    def _move(self) -> None:
        """Sends pending datagrams while there is room, without a wait."""
        handle = self._usable()
        code = lib.udpring_send_run(handle, ffi.NULL, lib.udpring_send_finished(handle) + 1, 0)
        if code == -errno.ECANCELED:
            self._usable()
        if code not in (0, -errno.ETIME, -errno.EINTR):
            check(code, "sending")
        self._wake_sent()

    def _wake_sent(self) -> None:
        """Wakes the tasks whose datagrams have left."""
        for ticket, watch in self._awaited.items():
            if ticket.done:
                watch.wake()

    def _end_waits(self) -> None:
        """After closing: ends the waits of all tasks."""
        for watch in self._awaited.values():
            watch.close()

    def _usable(self) -> Any:
        """The handle, for the owner's thread. Closes the ring if another thread requested that."""
        if self._closing:
            self.close()
        handle = self._handle
        if handle is None:
            raise ClosedError(CLOSED)
        code = lib.udpring_send_check(handle)
        if code:
            raise _refused(code)
        return handle

    @property
    def pending(self) -> int:
        """Datagrams without a result, those of tickets too, as of the owner's last call. Any thread."""
        handle = self._handle
        return 0 if handle is None else int(lib.udpring_send_pending(handle))

    @property
    def tier(self) -> str:
        """The tier in use."""
        return self._tier

    @property
    def tier_reason(self) -> str:
        """Why no better tier was taken. Empty for the best tier and for one that was given by name."""
        return self._tier_reason

    @property
    def zero_copy(self) -> str:
        """Whether ``zero_copy=True`` has an effect. ``zero_copy_reason`` says why. Any thread.

        "off", "unsupported", "broken" (the kernel never reports the end), "untried", "copies", "true".
        """
        return _ZERO_COPY[self._zero_copy()][0]

    @property
    def zero_copy_reason(self) -> str:
        """The reason for the value of ``zero_copy``."""
        outcome = self._zero_copy()
        if _ZERO_COPY[outcome][1]:
            return _ZERO_COPY[outcome][1]
        if self._tier == "mmsg":
            return "tier mmsg copies; an io_uring tier is needed"
        why = reason()
        found = lib.udpring_zero_copy(why)
        return reason_text(why) if found == outcome else "the kernel refused it for this socket"

    def _zero_copy(self) -> int:
        handle = self._handle
        return int(lib.UDPRING_ZC_OFF if handle is None else lib.udpring_send_zero_copy(handle))

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the ring was opened (``struct udpring_tx_stats``, and ``helped``: datagrams that
        helpers sent); each only grows. Any thread. Raises ClosedError after close."""
        handle = self._handle
        if handle is None:
            raise ClosedError("this send ring was closed")
        stats = ffi.new("struct udpring_tx_stats *")
        lib.udpring_send_stats(handle, stats)
        return counters(stats) | {"helped": int(lib.udpring_send_helped(handle))}

    @property
    def closed(self) -> bool:
        """Whether the ring is closed."""
        return self._closing or self._handle is None

    def close(self) -> None:
        """Closes the ring. Unsent datagrams are reported with ECANCELED. Closing twice is fine.

        Called from another thread, it only wakes the owner, whose ``send_batch`` or ``reap`` then closes the
        ring and raises ClosedError. Datagrams that the kernel has not taken by then are not sent.
        """
        handle = self._handle
        if handle is None:
            return
        self._closing = True
        code = lib.udpring_send_close(handle)
        if code == -errno.EXDEV:
            lib.udpring_send_wake(handle)
            return
        self._handle = None
        if code > 0:  # the kernel may still read them, so they are never freed
            _leaked.append((self._job, self._held, self._tickets, list(self._awaited)))
        self._tickets = []
        self._end_waits()
        check(code, "closing a send ring")

    def __enter__(self) -> Self:
        if self.closed:
            raise ClosedError(CLOSED)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and not self._closing:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<SendRing {'closed' if self.closed else self._tier}>"


def _refused(code: int) -> Exception:
    """The exception for a failed call of the core."""
    if code == -errno.EINVAL:
        return ValueError("lengths must cover the buffer exactly")
    if code == -errno.ECANCELED:  # by a signal handler between two steps
        return ClosedError(CLOSED)
    if code == -errno.ENOMEM:
        return MemoryError("no memory to queue a batch")
    try:
        check(code, "sending")
    except Exception as error:
        return error
    raise AssertionError(code)
