"""The calls of a ring without io_uring: readiness (epoll) for sockets and pipes, threads for files.

``ReadinessRing`` has those methods of ``Ring`` that reactors, files, streams and servers use. A queued
operation is tried at the next submit. If it would block, it waits in the ring's epoll instance, and is tried
again when its descriptor is ready. Operations on files run on threads. ``fileno()`` is readable when ``wait``
has something to do.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import heapq
import importlib
import itertools
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from udpring.errors import ClosedError, RingError, WrongThreadError
from udpring.uring.completion import Completion, CompletionFlag
from udpring.uring.operations import File, Flag, descriptor
from udpring.uring.readiness_sockets import ReadinessSockets
from udpring.uring.timerfd import Timer

__all__ = ["Job", "ReadinessRing"]

SHOTS_AT_ONCE = 16
"""Completions of a multishot operation before other operations have their turn."""
THREADS = 8
"""Threads for operations on files."""

Attempt = Callable[[], Completion]


class Job:
    """One operation: what to call, and when it may be called."""

    __slots__ = ("attempt", "deadline", "events", "fd", "flags", "future", "multishot", "ticket")

    def __init__(self, ticket: int, flags: Flag) -> None:
        self.ticket = ticket
        self.flags = flags
        self.fd = -1
        self.events = 0  # 0: does not wait for readiness
        self.attempt: Attempt | None = None
        self.future: Any = None  # of a thread
        self.deadline = 0  # the ticket of the linked time-out
        self.multishot = False


class _Waiters:
    """The jobs that wait for one descriptor."""

    __slots__ = ("jobs", "mask")

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.mask = 0


class ReadinessRing(ReadinessSockets):
    """A stand-in for ``Ring`` that needs no io_uring. It belongs to the thread that opened it."""

    def __init__(self, *, slots: int = 16384) -> None:
        self._process, self._owner = os.getpid(), threading.get_ident()
        self._slots = slots
        self._tickets = itertools.count(1)
        self._queued: list[tuple[Job, Callable[[Job], None]]] = []
        self._jobs: dict[int, Job] = {}
        self._done: collections.deque[Completion] = collections.deque()
        self._from_threads: collections.deque[tuple[Job, Completion]] = collections.deque()
        self._waiters: dict[int, _Waiters] = {}
        self._timers: list[tuple[float, int]] = []
        self._timed: dict[int, Callable[[], None]] = {}
        self._pool: Any = None
        self._closed = False
        self._epoll = select.epoll()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timer = Timer()
        self._epoll.register(self._event, select.EPOLLIN)
        self._epoll.register(self._timer.fileno(), select.EPOLLIN)

    # -- life --

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("this ring is closed: open a new one")
        if threading.get_ident() != self._owner or os.getpid() != self._process:
            raise WrongThreadError("this ring belongs to another thread or process: use one ring per thread")

    @property
    def closed(self) -> bool:
        """Whether the ring was closed."""
        return self._closed

    def fileno(self) -> int:
        """The descriptor for an event loop to watch."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Forgets what waits, and waits for the threads. A second close does nothing."""
        if self._closed:
            return
        self._check()
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._epoll.close()
        self._timer.close()
        os.close(self._event)
        self._jobs.clear()
        self._waiters.clear()

    # -- queueing --

    def _queue(self, run: Callable[[Job], None], flags: Flag = Flag.NONE) -> Job:
        """Queues a job that ``run`` starts at the next submit."""
        self._check()
        if self._queued and self._queued[-1][0].flags & (Flag.LINK | Flag.HARDLINK):
            raise RingError("a chain of operations needs io_uring", errno=errno.EOPNOTSUPP)
        if flags & (Flag.FIXED_FILE | Flag.DRAIN):
            raise RingError("registered files and DRAIN need io_uring", errno=errno.EOPNOTSUPP)
        silent = bool(flags & Flag.SKIP_SUCCESS)
        if not silent and len(self._jobs) >= self._slots:
            raise RingError(f"all {self._slots} operation slots are busy", errno=errno.ENOBUFS)
        job = Job(next(self._tickets), flags)
        self._queued.append((job, run))
        if not silent:
            self._jobs[job.ticket] = job
        return job

    def reserve(self, count: int) -> None:
        """There is always room."""
        self._check()

    def retract(self, count: int | None = None) -> int:
        """Takes back the newest ``count`` operations that are not submitted."""
        wanted = len(self._queued) if count is None else min(count, len(self._queued))
        for _ in range(wanted):
            job, _run = self._queued.pop()
            self._jobs.pop(job.ticket, None)
        return wanted

    def link_timeout(self, seconds: float, *, flags: Flag = Flag.NONE) -> int:
        """Cancels the previous operation, queued with LINK, after ``seconds``."""
        if not self._queued or not self._queued[-1][0].flags & Flag.LINK:
            raise RingError("link_timeout: queue an operation with LINK first", errno=errno.EINVAL)
        linked = self._queued[-1][0]
        linked.flags &= ~Flag.LINK

        def expire() -> None:
            self._end(job, Completion(job.ticket, -errno.ETIME, 0))
            self._stop(linked)

        def start(job: Job) -> None:
            if linked.ticket in self._jobs:
                self._at(time.monotonic() + seconds, job.ticket, expire)
            else:
                self._end(job, Completion(job.ticket, -errno.ECANCELED, 0))

        job = self._queue(start, flags)
        linked.deadline = job.ticket
        return job.ticket

    def timeout(self, seconds: float, *, absolute: bool = False, flags: Flag = Flag.NONE) -> int:
        """Ends with -ETIME after ``seconds``, or at that time of CLOCK_MONOTONIC."""

        def start(job: Job) -> None:
            when = seconds if absolute else time.monotonic() + seconds
            self._at(when, job.ticket, lambda: self._end(job, Completion(job.ticket, -errno.ETIME, 0)))

        return self._queue(start, flags).ticket

    def cancel(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Cancels one operation. 0: cancelled, -ENOENT: not found, -EALREADY: a thread executes it."""

        def start(job: Job) -> None:
            target = self._jobs.get(ticket)
            result = -errno.ENOENT if target is None else 0 if self._stop(target) else -errno.EALREADY
            self._end(job, Completion(job.ticket, result, 0))

        return self._queue(start, flags).ticket

    def cancel_file(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Cancels all operations that wait for a descriptor. The result is their number."""
        fd = descriptor(file)

        def start(job: Job) -> None:
            waiters = self._waiters.get(fd)
            stopped = sum(self._stop(other) for other in list(waiters.jobs if waiters else ()))
            self._end(job, Completion(job.ticket, stopped, 0))

        return self._queue(start, flags).ticket

    # -- running --

    def submit(self) -> int:
        """Tries each queued operation once. Returns their number."""
        self._check()
        queued, self._queued = self._queued, []
        for job, run in queued:
            run(job)
        return len(queued)

    def wait(self, count: int = 1, timeout: float | None = None) -> bool:
        """Submits, and waits until there are ``count`` completions. Returns whether there are."""
        self.submit()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            enough = len(self._done) >= count
            left = 0.0 if enough else None if end is None else max(0.0, end - time.monotonic())
            self._collect(left)
            if len(self._done) >= count:
                return True
            if left == 0.0:
                return False

    def completions(self, limit: int | None = None) -> list[Completion]:
        """The present completions, oldest first, at most ``limit``."""
        self._check()
        count = len(self._done) if limit is None else min(limit, len(self._done))
        return [self._done.popleft() for _ in range(count)]

    def _collect(self, timeout: float | None) -> None:
        for fd, events in self._epoll.poll(timeout):
            if fd == self._event:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                while self._from_threads:
                    self._end(*self._from_threads.popleft())
            elif fd == self._timer.fileno():
                self._expire()
            else:
                self._ready(fd, events)

    def _ready(self, fd: int, events: int) -> None:
        waiters = self._waiters.get(fd)
        for job in list(waiters.jobs) if waiters is not None else []:
            if job.ticket in self._jobs and events & (job.events | select.EPOLLERR | select.EPOLLHUP):
                self._try(job)

    def _try(self, job: Job) -> None:
        """One attempt, of a multishot operation several. The job then has ended, or it waits."""
        assert job.attempt is not None
        for _ in range(SHOTS_AT_ONCE):
            try:
                completion = job.attempt()
            except (BlockingIOError, InterruptedError):
                self._park(job)
                return
            except OSError as error:
                completion = Completion(0, -(error.errno or errno.EIO), 0)
            more = job.multishot and completion.result >= 0
            fields = {name: getattr(completion, name) for name in ("data", "address", "control")}
            flags = int(CompletionFlag.MORE) if more else 0
            message = completion.message_flags
            made = Completion(job.ticket, completion.result, flags, **fields, message_flags=message)
            if not more:
                self._end(job, made)
                return
            self._done.append(made)
        self._park(job)

    def _park(self, job: Job) -> None:
        waiters = self._waiters.get(job.fd)
        if waiters is None:
            waiters = self._waiters[job.fd] = _Waiters()
        if job in waiters.jobs:
            return
        waiters.jobs.append(job)
        mask = waiters.mask | job.events
        try:
            if not waiters.mask:
                self._epoll.register(job.fd, mask)
            elif mask != waiters.mask:
                self._epoll.modify(job.fd, mask)
            waiters.mask = mask
        except OSError as error:
            waiters.jobs.remove(job)
            if not waiters.jobs:
                del self._waiters[job.fd]
            self._end(job, Completion(job.ticket, -(error.errno or errno.EIO), 0))

    def _unpark(self, job: Job) -> None:
        waiters = self._waiters.get(job.fd)
        if waiters is None or job not in waiters.jobs:
            return
        waiters.jobs.remove(job)
        mask = 0
        for other in waiters.jobs:
            mask |= other.events
        if mask != waiters.mask:
            with contextlib.suppress(OSError):  # the program closed the descriptor
                if mask:
                    self._epoll.modify(job.fd, mask)
                else:
                    self._epoll.unregister(job.fd)
            waiters.mask = mask
        if not mask:
            del self._waiters[job.fd]

    def _end(self, job: Job, completion: Completion) -> None:
        """The last completion of a job, and of its linked time-out."""
        if job.flags & Flag.SKIP_SUCCESS and completion.result >= 0:
            return
        if self._jobs.pop(job.ticket, None) is None and not job.flags & Flag.SKIP_SUCCESS:
            return
        self._unpark(job)
        self._done.append(completion)
        deadline = self._jobs.get(job.deadline)
        if deadline is not None and self._timed.pop(job.deadline, None) is not None:
            self._end(deadline, Completion(deadline.ticket, -errno.ECANCELED, 0))

    def _stop(self, job: Job) -> bool:
        if job.future is not None and not job.future.cancel():
            return False
        self._timed.pop(job.ticket, None)
        self._end(job, Completion(job.ticket, -errno.ECANCELED, 0))
        return True

    # -- time and threads --

    def _at(self, when: float, ticket: int, call: Callable[[], None]) -> None:
        self._timed[ticket] = call
        heapq.heappush(self._timers, (when, ticket))
        if self._timers[0][1] == ticket:
            self._timer.set(when)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._timers and (self._timers[0][0] <= now or self._timers[0][1] not in self._timed):
            call = self._timed.pop(heapq.heappop(self._timers)[1], None)
            if call is not None:
                call()
        self._timer.set(self._timers[0][0] if self._timers else None)

    def _on_readiness(
        self, fd: int, events: int, attempt: Attempt, flags: Flag, *, multishot: bool = False
    ) -> int:
        """Queues an operation that raises BlockingIOError until ``events`` are ready."""
        job = self._queue(self._try, flags)
        job.fd, job.events, job.attempt, job.multishot = fd, events, attempt, multishot
        return job.ticket

    def _on_thread(self, call: Attempt, flags: Flag) -> int:
        """Queues an operation that may block."""

        def run() -> Completion:
            try:
                return call()
            except OSError as error:
                return Completion(0, -(error.errno or errno.EIO), 0)

        def ended(future: Any, job: Job) -> None:
            if future.cancelled():
                return  # the cancellation ended the job
            made = future.result()
            self._from_threads.append((job, Completion(job.ticket, made.result, 0, made.data)))
            with contextlib.suppress(OSError):  # closed
                os.eventfd_write(self._event, 1)

        def start(job: Job) -> None:
            if self._pool is None:
                futures = importlib.import_module("concurrent.futures")
                self._pool = futures.ThreadPoolExecutor(THREADS, "udpring-files")
            job.future = self._pool.submit(run)
            job.future.add_done_callback(lambda future: ended(future, job))

        return self._queue(start, flags).ticket
