"""Waiting in the program's event loop: asyncio, uvloop, trio, anyio on either. No thread, no dependency.

1. The loop is found at each wait: trio when its module is loaded and this is one of its tasks, else the
   running asyncio loop.
2. What is waited on is a duplicate of the descriptor: the program may poll the original in the same loop.
3. An asyncio loop goes on watching between the waits (reader.py); trio is told at each.
4. One task waits at a time. Nothing is taken off the ring before the task that asked for it runs again, so a
   cancelled wait loses nothing.
5. Closing ends the wait; the duplicate is closed by the last who needs it.
6. Sends that found the socket buffer full wait for room, each task with its own duplicate; whoever moves the
   queue on wakes those whose datagrams have gone.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self

from udpring._native import check, ffi, lib
from udpring.errors import ClosedError
from udpring.udp.waiting import nanoseconds

if TYPE_CHECKING:
    from udpring.udp.batch import Batch
    from udpring.udp.jobs import Addresses, Lengths, Payloads, SendReport, Ticket
    from udpring.udp.reader import LoopReader

__all__ = ["BATCHES_A_TURN", "AsyncReceiving", "AsyncSending", "Watch", "give_way"]

#: Batches that one wake-up of the loop may bring before its timers and other tasks get their turn.
BATCHES_A_TURN = 4

#: A wait looks at the ring this often by itself, in seconds: a socket that somebody closed wakes nobody.
LOOK_SECONDS = 1.0

CLOSED = "closed while a task waited on it"


class Turns:
    """How often asyncio's loops of one thread have resumed a task that waited on a ring."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


_here = threading.local()


def turns_here() -> Turns:
    """Those of this thread."""
    turns: Turns | None = getattr(_here, "turns", None)
    if turns is None:
        turns = _here.turns = Turns()
    return turns


def _trio() -> Any:
    """The trio module when this is one of its tasks, else None."""
    trio = sys.modules.get("trio")
    low = getattr(trio, "lowlevel", None)  # another thread may be importing it
    if low is None:
        return None
    try:
        low.current_task()
    except RuntimeError:
        return None
    return trio


def _asyncio() -> Any:
    """The asyncio module: not imported before somebody waits in it."""
    return importlib.import_module("asyncio")


def _reader_class() -> type[LoopReader]:
    """Likewise: it needs asyncio."""
    made: type[LoopReader] = importlib.import_module("udpring.udp.reader").LoopReader
    return made


def _nothing() -> None:
    return None


async def give_way() -> None:
    """Lets the loop do one turn."""
    trio = _trio()
    await (trio.lowlevel.checkpoint() if trio else _asyncio().sleep(0))


class Watch:
    """A descriptor that one task at a time waits on; a duplicate of ``fd``, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._closed = False
        self._reader: Callable[[], LoopReader | None] = _nothing  # weak: the loop has it, or nobody
        self._end: Callable[[], object] | None = None  # ends the wait of a task of trio, as if in vain

    def wait(self, timeout: float) -> Awaitable[bool]:
        """To be awaited at once. Until it is ready: True; or False: ``timeout`` seconds, one at most, have
        passed, or somebody woke it. ClosedError once closed."""
        if self._closed:
            raise ClosedError(CLOSED)
        trio = _trio() if "trio" in sys.modules else None
        if trio:
            return self._in_trio(trio, timeout)
        loop = _asyncio().get_running_loop()
        reader = self._reader()
        if reader is None or reader.loop is not loop:
            if reader is not None:
                reader.leave()
            reader = _reader_class()(loop, self._fd)
            self._reader = weakref.ref(reader)
        return reader.wait(timeout)

    def wait_again(self) -> Awaitable[bool] | None:
        """The same, when the running loop watches it already; else None, and nothing was done."""
        reader = self._reader()
        if reader is None or ("trio" in sys.modules and _trio()):
            return None
        return reader.wait_again()

    async def _in_trio(self, trio: Any, timeout: float) -> bool:
        low = trio.lowlevel
        token = low.current_trio_token()
        try:
            with trio.move_on_after(timeout) as scope:
                # Soon, for it may be called from outside of trio's tasks.
                self._end = lambda: token.run_sync_soon(scope.cancel)
                await low.wait_readable(self._fd)
        finally:
            self._end = None
            if self._closed:
                os.close(self._fd)
        if self._closed:
            raise ClosedError(CLOSED)
        return not scope.cancelled_caught

    @property
    def waiting(self) -> bool:
        """Whether a task is."""
        reader = self._reader()
        return self._end is not None or (reader is not None and reader.waiting)

    def wake(self) -> None:
        """Ends the wait that is under way, if any."""
        reader = self._reader()
        if self._end is not None:
            self._end()
        elif reader is not None:
            reader.wake()

    def close(self) -> None:
        """Ends the wait that is under way, if any, with ClosedError. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        reader = self._reader()
        if reader is not None:
            reader.close()
        if self._end is None:
            os.close(self._fd)
        else:
            self._end()  # whoever waits closes it: trio still knows its number


class AsyncReceiving:
    """The part of ``RecvRing`` that works in event loops."""

    _watch: Watch | None = None
    _awaited = False
    _burst = 0  # batches taken since the loop last had its turn
    _lone = False  # the last wait brought a single datagram

    if TYPE_CHECKING:

        def _usable(self) -> Any: ...
        def _poll(self, max_packets: int) -> Batch | None: ...
        def recv_batch(self, max_packets: int = ..., timeout: float | None = ...) -> Batch: ...

    def fileno(self) -> int:
        """A descriptor for event loops: readable while ``recv_batch(timeout=0)`` would not come back empty.

        Level-triggered: it stays readable until everything is fetched, also what one call left over. Poll
        it for reading with select(2), poll(2), epoll(7) or any loop; do not read, write or close it. It is
        not the socket's. Now and then it is readable for something that is no datagram (an ICMP error,
        buffers that came back): the batch is empty then.
        It need not tell of a socket that was closed under the ring: close the ring instead, or call
        ``recv_batch`` once in a while, which raises then. The waits of this class look once a second.
        Raises ClosedError, WrongThreadError (the first call must be the owner's), RingError.
        """
        return check(lib.udpring_recv_fileno(self._usable()), "polling a receive ring")

    async def recv_batch_async(self, max_packets: int = 256, timeout: float | None = None) -> Batch:
        """``recv_batch`` that waits in the running loop: asyncio, uvloop, trio, anyio on either. No thread.

        timeout: seconds; None waits for ever. An empty batch when the time is up.
        Cancelling loses no datagram: it comes with the next call. After a few batches without a wait the loop
        gets a turn, so that timers run under a flood.
        Raises ClosedError (also when the ring is closed meanwhile), WrongThreadError, RingError, RuntimeError
        when another task is waiting on this ring already.
        """
        return await self._receive(max_packets, timeout)

    async def _receive(self, max_packets: int, timeout: float | None, iterating: bool = False) -> Batch:
        if self._awaited:
            raise RuntimeError("another task is waiting on this ring: let one receive and share out")
        never = timeout is None or nanoseconds(timeout) < 0
        deadline = None if never or timeout is None else time.monotonic() + timeout
        wait: Awaitable[bool] | None = None
        self._awaited = True
        try:
            if self._burst >= BATCHES_A_TURN:
                self._burst = 0
                await give_way()
            if self._lone and self._watch is not None and timeout is None and max_packets > 0:
                # Datagrams come one at a time: the next is hardly there yet, and the loop is told when it is.
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
                await give_way()  # a loop of polls must not stop all others
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
        """The next batch; the iteration ends when the ring is closed."""
        return self._receive(256, None, True)

    def _icmp_errors(self) -> list[OSError]:
        """What ICMP brought since the last call, oldest first, of which the last 16 are kept."""
        errors = []
        while code := lib.udpring_recv_error(self._usable()):
            errors.append(OSError(code, os.strerror(code)))
        return errors

    def _watched(self) -> Watch:
        if self._watch is None:
            self._watch = Watch(self.fileno())
        return self._watch

    def _end_wait(self) -> None:
        """After closing: the task that waits is told."""
        if self._watch is not None:
            self._watch.close()


class AsyncSending:
    """The part of ``SendRing`` that works in event loops."""

    _burst = 0  # batches sent since the loop last had its turn
    _turn = -1  # which that was, as far as known

    if TYPE_CHECKING:
        _turns: Turns  # of the thread that made the ring
        _tickets: list[Ticket]  # those that reap() gives
        _awaited: dict[Ticket, Watch]  # those that tasks wait for
        submit: Any
        _send_alone: Any

        def _usable(self) -> Any: ...
        def _let_go(self, handle: Any, job: Any, held: object) -> None: ...

    def fileno(self) -> int:
        """A descriptor for event loops: readable while ``reap()`` would move on what is pending.

        Level-triggered, and quiet when nothing is pending, or all of it waits for the kernel to let go of
        payloads (zero copy). Poll it for reading (sic) with select(2), poll(2),
        epoll(7) or any loop; do not read, write or close it. It is not the socket's. Closing the ring in
        another thread makes it readable too. A socket that was closed under the ring need not: call
        ``reap`` once in a while, which reports it.
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

        What goes leaves at once; for the rest it waits until the socket buffer has room. Several tasks may
        send: their datagrams leave in the order of the calls. After a few batches without a wait the loop
        gets a turn.
        Arguments and the report are those of ``send_batch``; payloads are held as those of ``submit``.
        Cancelled, it abandons what has not left yet, and notes on the exception (``__notes__``) how much that
        was.
        Raises as ``submit``, and ClosedError also when the ring is closed meanwhile.
        """
        turn = self._turns.count
        if turn != self._turn:
            self._turn, self._burst = turn, 0
        elif self._burst >= BATCHES_A_TURN:
            self._burst = 0
            await give_way()
        if lengths is None and source is None and tos is None and ttl is None and not interface_index:
            alone: SendReport | None = self._send_alone(payloads, address)
            if alone is not None:
                self._burst += 1
                return alone
        ticket: Ticket = self.submit(
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
        """Until every datagram of it has its result."""
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
        """How many of its datagrams are not going to be sent."""
        if not ticket.done:
            self._let_go(self._usable(), ticket._job, ticket)
        return len(ticket.report.errors)

    def _move(self) -> None:
        """Sends what goes without waiting."""
        handle = self._usable()
        code = lib.udpring_send_run(handle, ffi.NULL, lib.udpring_send_finished(handle) + 1, 0)
        if code == -errno.ECANCELED:
            self._usable()
        if code not in (0, -errno.ETIME, -errno.EINTR):
            check(code, "sending")
        self._wake_sent()

    def _wake_sent(self) -> None:
        """The queue has moved: tasks whose datagrams have gone are woken."""
        for ticket, watch in self._awaited.items():
            if ticket.done:
                watch.wake()

    def _end_waits(self) -> None:
        """After closing: the tasks that wait are told."""
        for watch in self._awaited.values():
            watch.close()
