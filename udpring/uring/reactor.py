"""An awaitable ring: tasks of asyncio, uvloop, trio or anyio wait for operations of one io_uring.

1. ``do`` queues an operation and waits for it. The first one of a loop turn schedules a flush, which submits
   all operations of the turn with one system call.
2. The loop watches the ring's ``fileno()``. A wake-up handles a bounded number of completions, then the
   loop's other work has its turn.
3. Cancelling a task cancels its operation. The task goes on after the operation's last completion, so the
   kernel no longer uses its memory. A result that came anyway goes to ``discard``.
4. Where io_uring is denied, a ``ReadinessRing`` takes the ring's place, with the same calls.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import errno
import os
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, Self

from udpring.errors import ClosedError, HostError, RingError, WrongThreadError
from udpring.uring.call import Call
from udpring.uring.completion import Completion
from udpring.uring.loops import Gate, Loop, running_loop
from udpring.uring.operations import Flag
from udpring.uring.readiness import ReadinessRing
from udpring.uring.ring import Ring
from udpring.uring.shots import Shots

__all__ = ["Reactor"]

TURN_LIMIT = 256
"""Completions that one turn of the loop handles. The rest waits for the next turn."""

RECEIVE_GROUP, RECEIVE_BUFFERS, RECEIVE_BYTES = 0xFFFF, 256, 8192
"""The buffers of ``armed_receive``."""

CLOSE_SECONDS = 2.0
_ROUND_SECONDS = 0.02

# These results are descriptors. A result that nobody takes is closed.
_OPENING = frozenset({"accept", "accept_multishot", "openat2", "socket"})

_current: contextvars.ContextVar[Reactor] = contextvars.ContextVar("udpring_reactor")


def _close_result(completion: Completion) -> None:
    if completion.result >= 0:
        with contextlib.suppress(OSError):
            os.close(completion.result)


class Reactor:
    """Awaitable operations on one ring, in the event loop of one thread.

    ``async with Reactor() as reactor:`` opens it in the running loop. ``open_file``, ``connect`` and
    ``Listener`` use the reactor that the current task is inside of.

    ``entries``, ``slots``: of the ring. ``slots`` bounds the operations in flight.
    ``fallback``: where io_uring is denied, use readiness and threads. ``backend`` says which one works.
    ``backend``: "io_uring" or "readiness" forces one.

    Raises RuntimeError outside an event loop, HostError if io_uring is denied and must be used.
    """

    def __init__(
        self,
        entries: int = 256,
        *,
        slots: int = 16384,
        fallback: bool = True,
        backend: str | None = None,
    ) -> None:
        if backend not in (None, "io_uring", "readiness"):
            raise ValueError(f"backend {backend!r}: io_uring or readiness")
        self._entries, self._slots = entries, slots
        self._fallback = fallback and backend is None
        self._wanted = backend
        self._ring: Any = None  # Ring or ReadinessRing: operations by name
        self._loop: Loop | None = None
        self._thread = 0
        self._wake_fd = -1
        self._calls: dict[int, Call] = {}
        self._deadlines: dict[int, Call] = {}
        self._backlog: collections.deque[Completion] = collections.deque()
        self._scheduled = False
        self._receives = False  # it has provided the buffers of armed_receive
        self._closed = False
        self._token: contextvars.Token[Reactor] | None = None
        self.backend = backend or ""
        """After opening: "io_uring" or "readiness"."""
        self.reason = "chosen by the caller" if backend else ""
        """Why readiness is used: the error of the ring. Empty with io_uring."""

    # -- life --

    def open(self) -> Self:
        """Opens the ring in the running loop. ``async with`` does so too."""
        if self._closed:
            raise ClosedError("this reactor is closed: make a new one")
        if self._ring is not None:
            raise RuntimeError("this reactor is open already")
        loop = running_loop()
        self._ring = self._open_ring()
        self._thread = threading.get_ident()
        self._loop = loop
        try:
            self._wake_fd = self._ring.fileno()
            loop.watch(self._wake_fd, self._flush)
        except BaseException:
            self._ring.close()
            self._ring = None
            raise
        return self

    def _open_ring(self) -> Any:
        if self._wanted != "readiness":
            try:
                ring = Ring(self._entries, slots=self._slots)
            except HostError as error:
                if not self._fallback:
                    raise
                self.reason = str(error)
            else:
                self.backend = "io_uring"
                return ring
        self.backend = "readiness"
        return ReadinessRing(slots=self._slots)

    async def __aenter__(self) -> Self:
        self.open()
        self._token = _current.set(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left in another context
                _current.reset(token)
        self.close()

    @classmethod
    def current(cls) -> Reactor:
        """The reactor that the current task is inside of. Raises RuntimeError without one."""
        reactor = _current.get(None)
        if reactor is None:
            raise RuntimeError("no reactor here: enter one with `async with Reactor():`, or pass reactor=")
        return reactor

    @contextlib.contextmanager
    def as_current(self) -> Iterator[Reactor]:
        """Makes it the reactor that ``current`` returns, in this task and in those that it starts."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def in_flight(self) -> int:
        """Operations that have not ended."""
        return len(self._calls)

    def close(self) -> None:
        """Cancels everything, waits for it (at most 2 s), and closes the ring. Waiting tasks get ClosedError.

        A second close does nothing. Raises WrongThreadError in another thread.
        """
        if self._closed or self._ring is None:
            self._closed = True
            return
        if threading.get_ident() != self._thread:
            raise WrongThreadError("this reactor belongs to the thread of its event loop: close it there")
        self._closed = True
        ring, loop = self._ring, self._loop
        assert loop is not None
        loop.unwatch(self._wake_fd)
        try:
            self._drain(ring)
        finally:
            ring.close()
            for call in [*self._calls.values(), *self._deadlines.values()]:
                if call.completion is None:
                    call.finish(Completion(call.ticket, -errno.ECANCELED, 0))
            self._calls.clear()
            self._deadlines.clear()

    def _drain(self, ring: Any) -> None:
        end = time.monotonic() + CLOSE_SECONDS
        self._take([])
        while self._calls and time.monotonic() < end:
            for ticket in list(self._calls):
                with contextlib.suppress(RingError):
                    ring.cancel(ticket, flags=Flag.SKIP_SUCCESS)
            with contextlib.suppress(RingError):
                ring.wait(1, _ROUND_SECONDS)
            self._take(ring.completions())

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._ring is None else self.backend
        return f"<{type(self).__name__} {state}, {len(self._calls)} in flight>"

    # -- operations --

    def start(
        self,
        name: str,
        *arguments: Any,
        then: Callable[[Completion], object] | None = None,
        timeout: float | None = None,
        discard: Callable[[Completion], object] | None = None,
        many: bool = False,
        **options: Any,
    ) -> Call:
        """Queues the operation ``name`` of ``Operations`` and returns without waiting. ``then`` gets its
        completion.

        ``timeout``: seconds until it is cancelled, by a linked time-out.
        ``discard`` gets a completion that nobody takes. By default a new descriptor is closed.
        ``many``: a multishot operation. ``then`` gets each completion.

        Raises what the operation raises, ClosedError after close, WrongThreadError in another thread.
        """
        ring = self._opened()
        call = Call(self, then, discard or (_close_result if name in _OPENING else None), many)
        queue = getattr(ring, name)
        if timeout is None:
            call.ticket = queue(*arguments, **options)
        else:
            self._queue_with_deadline(call, queue, arguments, options, timeout)
        self._calls[call.ticket] = call
        if not self._scheduled:
            self._schedule()
        return call

    def _queue_with_deadline(
        self, call: Call, queue: Any, arguments: tuple[Any, ...], options: dict[str, Any], timeout: float
    ) -> None:
        ring = self._ring
        ring.reserve(2)
        options["flags"] = options.get("flags", Flag.NONE) | Flag.LINK
        call.ticket = queue(*arguments, **options)
        try:
            call.deadline = ring.link_timeout(max(timeout, 0.0))
        except BaseException:
            ring.retract(1)
            raise
        self._deadlines[call.deadline] = call

    async def do(
        self,
        name: str,
        *arguments: Any,
        timeout: float | None = None,
        discard: Callable[[Completion], object] | None = None,
        **options: Any,
    ) -> Completion:
        """Queues the operation ``name`` of ``Operations`` and waits for its completion.

        ``await reactor.do("read", file, 4096, offset=0, timeout=1.0)``. The arguments are those of ``start``.
        Raises TimeoutError when the time is up. The completion's ``check()`` raises the operation's error.

        Cancelling the task cancels the operation. The task goes on when the operation has ended. If it
        succeeded nevertheless, ``discard`` gets the completion.
        """
        call = self.start(name, *arguments, timeout=timeout, discard=discard, **options)
        loop = self._loop
        assert loop is not None
        call.gate = gate = loop.gate()
        try:
            await gate.wait()
        except loop.cancelled:
            await self._cancelled(call, loop)
            raise
        except BaseException:  # the coroutine was closed
            call.abandon()
            raise
        return call.outcome()

    async def _cancelled(self, call: Call, loop: Loop) -> None:
        """Ends the operation of a cancelled task."""

        def fresh_gate() -> Gate | None:
            call.gate = None if call.done else loop.gate()
            return call.gate

        try:
            self.cancel(call)
            await loop.insist(fresh_gate)
        except BaseException:
            call.abandon()
            raise
        assert call.completion is not None
        call.drop(call.completion)

    def shots(self, name: str, *arguments: Any, bound: int = 64, **options: Any) -> Shots:
        """An asynchronous iterator over the completions of a multishot operation.

        It keeps the operation armed. When ``bound`` completions wait for the task, the operation is cancelled
        and armed again once they are taken. It raises the operation's error. ``close()`` ends it.
        """
        loop = self._loop
        self._opened()
        assert loop is not None
        discard = options.pop("discard", _close_result if name in _OPENING else None)
        return Shots(self, loop, name, arguments, options, bound, discard)

    def armed_receive(self, fd: int) -> Shots | None:
        """Keeps receiving on a connection (Linux 6.0), into buffers that all its connections share. None
        without io_uring."""
        ring = self._opened()
        if self.backend != "io_uring":
            return None
        if not self._receives:
            ring.provide_buffers(RECEIVE_GROUP, RECEIVE_BUFFERS, RECEIVE_BYTES)
            self._receives = True
        return self.shots("recv_multishot", fd, RECEIVE_GROUP)

    # -- the ring's side --

    def _opened(self) -> Any:
        if self._closed:
            raise ClosedError("this reactor is closed: make a new one")
        if self._ring is None:
            raise ClosedError("this reactor is not open yet: enter it with `async with`")
        return self._ring

    def _schedule(self) -> None:
        assert self._loop is not None
        self._scheduled = True
        self._loop.soon(self._flush)

    def _flush(self) -> None:
        """Submits, and handles a bounded number of completions."""
        self._scheduled = False
        if self._closed:
            return
        ring = self._ring
        try:
            again = not ring.wait(0, 0)
        except RingError as error:
            if error.errno not in (errno.EAGAIN, errno.EBUSY):
                raise
            again = True  # the kernel lacks memory
        found = ring.completions(TURN_LIMIT)
        self._take(found)
        if (again or len(found) == TURN_LIMIT) and not self._scheduled and not self._closed:
            self._schedule()

    def _take(self, found: list[Completion]) -> None:
        """Handles completions. A callback may close the reactor, which then handles the others."""
        backlog = self._backlog
        backlog.extend(found)
        while backlog:
            self._dispatch(backlog.popleft())

    def _dispatch(self, completion: Completion) -> None:
        ticket = completion.ticket
        call = self._calls.get(ticket)
        if call is not None:
            if not completion.more:
                del self._calls[ticket]
            call.take(completion)
            return
        call = self._deadlines.pop(ticket, None)
        if call is not None:
            call.expire(completion.result)

    def cancel(self, call: Call) -> None:
        """Asks the kernel to end an operation. Its last completion still comes."""
        if call.completion is not None or call.cancelled or self._closed:
            return
        call.cancelled = True
        self._opened().cancel(call.ticket, flags=Flag.SKIP_SUCCESS)
        if not self._scheduled:
            self._schedule()

    def cancel_from_any_thread(self, call: Call) -> None:
        """The same, from any thread, as the collector of a coroutine does."""
        loop = self._loop
        if self._closed or loop is None:
            return
        if threading.get_ident() == self._thread:
            with contextlib.suppress(RingError, RuntimeError):  # a closed loop cannot schedule
                self.cancel(call)
        else:
            loop.soon_from_any_thread(lambda: self.cancel(call))
