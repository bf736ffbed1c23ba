"""Waiting in the program's event loop: asyncio, uvloop, trio, anyio on either. No thread, no dependency.

1. The loop is found at each wait: trio when its module is loaded and this is one of its tasks, else the
   running asyncio loop.
2. What is waited on is a duplicate of the descriptor: the program may poll the original in the same loop.
3. One task waits at a time. Nothing is taken off the ring before the task that asked for it runs again, so a
   cancelled wait loses nothing.
4. Closing ends the wait; the duplicate is closed by the last who needs it.
5. Sends that found the socket buffer full wait for room, each task with its own duplicate; whoever moves the
   queue on wakes those whose datagrams have gone.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from udpring._native import check, ffi, lib
from udpring.errors import ClosedError

if TYPE_CHECKING:
    import asyncio

    from udpring.udp.batch import Batch
    from udpring.udp.jobs import Addresses, Lengths, Payloads, SendReport, Ticket

__all__ = ["BATCHES_A_TURN", "AsyncReceiving", "AsyncSending", "Watch", "give_way"]

#: Batches that one wake-up of the loop may bring before its timers and other tasks get their turn.
BATCHES_A_TURN = 4

# A wait looks at the ring this often by itself, in seconds: a socket that somebody closed wakes nobody.
_LOOK_SECONDS = 1.0


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


async def give_way() -> None:
    """Lets the loop do one turn."""
    trio = _trio()
    await (trio.lowlevel.checkpoint() if trio else _asyncio().sleep(0))


class Watch:
    """A descriptor that one task at a time waits on; a duplicate of ``fd``, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._closed = False
        self._end: Callable[[], object] | None = None  # ends the wait that is under way, as if in vain

    async def wait(self, timeout: float | None) -> bool:
        """Until it is ready: True; or ``timeout`` seconds have passed or somebody woke it: False. ClosedError
        once closed."""
        if self._closed:
            raise ClosedError("closed while a task waited on it")
        trio = _trio()
        try:
            ready = await (self._in_trio(trio, timeout) if trio else self._in_asyncio(timeout))
        finally:
            self._end = None
            if self._closed:
                os.close(self._fd)
        if self._closed:
            raise ClosedError("closed while a task waited on it")
        return ready

    async def _in_asyncio(self, timeout: float | None) -> bool:
        loop: asyncio.AbstractEventLoop = _asyncio().get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()

        def wake(ready: bool) -> None:
            if not future.done():
                future.set_result(ready)

        self._end = lambda: wake(False)
        timer = None if timeout is None else loop.call_later(timeout, wake, False)
        loop.add_reader(self._fd, wake, True)
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            if not loop.is_closed():
                loop.remove_reader(self._fd)

    async def _in_trio(self, trio: Any, timeout: float | None) -> bool:
        low = trio.lowlevel
        token = low.current_trio_token()
        with trio.move_on_after(float("inf") if timeout is None else timeout) as scope:
            # Soon, for it may be called from outside of trio's tasks.
            self._end = lambda: token.run_sync_soon(scope.cancel)
            await low.wait_readable(self._fd)
        return not scope.cancelled_caught

    def wake(self) -> None:
        """Ends the wait that is under way, if any."""
        if self._end is not None:
            self._end()

    def close(self) -> None:
        """Ends the wait that is under way, if any, with ClosedError. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._end is None:
            os.close(self._fd)
        else:
            self._end()  # whoever waits closes it: the loop still knows its number


class AsyncReceiving:
    """The part of ``RecvRing`` that works in event loops."""

    _watch: Watch | None = None
    _awaited = False
    _burst = 0  # batches taken since the loop last had its turn

    if TYPE_CHECKING:

        def _usable(self) -> Any: ...
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
        if self._awaited:
            raise RuntimeError("another task is waiting on this ring: let one receive and share out")
        deadline = None if timeout is None else time.monotonic() + timeout
        self._awaited = True
        try:
            if self._burst >= BATCHES_A_TURN:
                self._burst = 0
                await give_way()
            batch = self.recv_batch(max_packets, 0)
            if not batch and timeout is not None and timeout <= 0:
                self._burst = 0
                await give_way()  # a loop of polls must not stop all others
            while not batch:
                self._burst = 0
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return batch
                await self._watched().wait(_LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS))
                batch = self.recv_batch(max_packets, 0)
            self._burst += 1
            return batch
        finally:
            self._awaited = False

    def __aiter__(self) -> Self:
        self._usable()
        return self

    async def __anext__(self) -> Batch:
        """The next batch; the iteration ends when the ring is closed."""
        try:
            return await self.recv_batch_async()
        except ClosedError:
            raise StopAsyncIteration from None

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

    if TYPE_CHECKING:
        _tickets: list[Ticket]  # those that reap() gives
        _awaited: dict[Ticket, Watch]  # those that tasks wait for
        submit: Any

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
        if self._burst >= BATCHES_A_TURN:
            self._burst = 0
            await give_way()
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
                await watch.wait(_LOOK_SECONDS)
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
