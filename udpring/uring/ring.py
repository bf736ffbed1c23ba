"""A general io_uring for Python: queue operations, submit them together, take completions in batches."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from udpring._native import check, ffi, lib, reason, reason_text
from udpring.errors import ClosedError, HostError, RingError, WrongThreadError
from udpring.uring.buffer_group import BufferGroup
from udpring.uring.completion import Completion, Harvest
from udpring.uring.operations import Operations, SupportsRing, nanoseconds
from udpring.uring.registered import Registered, worker_limits

__all__ = ["Ring", "RingInfo", "graveyard"]

# Memory of rings that could not be drained: registered buffers, and what operations use in place. The kernel
# may still write to it (see Ring.close).
_kept: list[Any] = []

# Reasons why no ring can be opened: not permitted, no io_uring, too old, no memory.
_OF_THE_HOST = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class RingInfo:
    """The present state of a ring."""

    sq_entries: int
    cq_entries: int
    slots: int
    setup_flags: int
    """IORING_SETUP_* as the kernel granted them."""
    features: int
    """IORING_FEAT_* of io_uring_setup(2)."""
    halvings: int
    """How often the queues or the slots were halved for lack of memory."""
    iowq_error: int
    """0, or the errno with which the kernel refused to bound its worker threads (``iowq_workers``)."""
    queued: int
    """Operations not submitted yet."""
    ready: int
    """The number of completions that ``completions`` would return."""
    busy_slots: int
    in_flight: int
    """Operations submitted and not ended."""
    needs_wakeup: bool
    """Whether the thread of ``sq_poll`` sleeps. The next ``submit`` or ``wait`` wakes it."""
    stale: int
    """Completions that belonged to no operation. They are counted and ignored."""
    lost: int
    """Completions that the kernel dropped for lack of memory."""


def _milliseconds(seconds: float) -> int:
    """The idle time of ``sq_poll``. Rounded up, because 0 stands for the kernel's default."""
    if not 0 <= seconds <= 3600:
        raise ValueError(f"sq_poll after {seconds} s without work: 0 to 3600")
    return math.ceil(seconds * 1000)


def graveyard() -> tuple[int, int]:
    """(blocks, bytes) of memory that this process leaked on purpose, because operations did not end (see
    ``Ring.close``)."""
    return lib.udpring_graveyard_blocks(), lib.udpring_graveyard_bytes()


class Ring(Operations, Registered):
    """One io_uring instance. It belongs to the thread that opened it. A forked child cannot use it.

    ``entries``: operations that can be queued between two submits (8 to 32768, rounded up to a power of two).
    ``cq_entries``: completions that the queue holds, four times as many by default. The kernel keeps
    overflowing ones.
    ``slots``: operations queued or in flight at once, ``cq_entries`` by default, at most 1048576.
    ``disabled``: the ring has no owner yet. The thread that calls ``enable`` becomes its owner.
    ``sq_poll``: a thread of the kernel takes submissions, without a system call while it is awake. It sleeps
    after that many seconds without work (0: 1 s), and ``submit`` wakes it. It needs a core of its own.
    ``sq_poll_cpu``: the CPU on which that thread runs.
    ``attach``: another ring, or its ``ring_fd``, whose ``sq_poll`` thread this ring shares. Without
    ``sq_poll`` it shares the workers before Linux 5.12. Later kernels keep workers per thread anyway.
    ``iowq_workers``: the most worker threads for files and for other operations (see the property).
    ``big_sqe``: entries of 128 bytes, for ``uring_cmd`` with 80 bytes. ``big_cqe``: completions of 32 bytes,
    with ``Completion.extra``. ``mixed_cqe``: completions of 16 bytes, and of 32 for operations that need them
    (Linux 6.18). The latter take two entries of the queue. Not together with ``big_cqe``.
    ``deny``: IORING_SETUP_* bits to avoid, to test the fallbacks for older kernels.

    Raises HostError with the cause if the host lacks or denies io_uring, RingError for other refusals by the
    kernel, which name the option, ValueError for impossible options. See io_uring_setup(2).
    """

    _fd: int = -1
    _eventfd: int = -1

    def __init__(
        self,
        entries: int = 256,
        *,
        cq_entries: int = 0,
        slots: int = 0,
        disabled: bool = False,
        sq_poll: float | None = None,
        sq_poll_cpu: int | None = None,
        attach: int | SupportsRing | None = None,
        iowq_workers: tuple[int, int] = (4, 4),
        big_sqe: bool = False,
        big_cqe: bool = False,
        mixed_cqe: bool = False,
        deny: int = 0,
    ) -> None:
        super().__init__()
        self._process = os.getpid()
        self._owner: int | None = None
        self._closing = threading.Lock()
        self._leaked = 0
        self._fixed_buffers: list[Any] = []
        self._retired: list[tuple[int, list[Any]]] = []
        self._view_groups: dict[int, BufferGroup] = {}
        self._harvest = Harvest(extra=big_cqe or mixed_cqe)
        if sq_poll is None and sq_poll_cpu is not None:
            raise ValueError("sq_poll_cpu needs sq_poll, the thread that it pins")
        if big_cqe and mixed_cqe:
            raise ValueError("big_cqe or mixed_cqe, not both: the kernel refuses them together")
        wanted = {
            lib.UDPRING_SETUP_R_DISABLED: disabled,
            lib.UDPRING_SETUP_SQPOLL: sq_poll is not None,
            lib.UDPRING_SETUP_SQ_AFF: sq_poll_cpu is not None,
            lib.UDPRING_SETUP_ATTACH_WQ: attach is not None,
            lib.UDPRING_SETUP_SQE128: big_sqe,
            lib.UDPRING_SETUP_CQE32: big_cqe,
            lib.UDPRING_SETUP_CQE_MIXED: mixed_cqe,
        }
        out, why = ffi.new("struct udpring_ring **"), reason()
        options = ffi.new(
            "struct udpring_ring_options *",
            {
                "entries": entries,
                "cq_entries": cq_entries,
                "slots": slots,
                "flags_deny": deny,
                "flags_want": sum(flag for flag, asked in wanted.items() if asked),
                "sq_thread_idle": _milliseconds(sq_poll or 0),
                "sq_thread_cpu": sq_poll_cpu or 0,
                "wq_fd": 0 if attach is None else attach if isinstance(attach, int) else attach.ring_fd,
                "workers": worker_limits(iowq_workers),
            },
        )
        code = lib.udpring_ring_open(out, options, why)
        if -code in _OF_THE_HOST:
            raise HostError(reason_text(why), errno=-code)
        check(code, "opening a ring", why)
        # Freed with its last reference. A call that a signal handler interrupts to close the ring has one.
        self._native = ffi.gc(out[0], lib.udpring_ring_free)
        self._fd = lib.udpring_ring_fd(self._native)
        if not disabled:
            self._owner = threading.get_ident()

    # -- life --

    @classmethod
    def create_many(cls, count: int, entries: int = 256, *, workers: int = 0, **options: Any) -> list[Ring]:
        """Opens ``count`` rings. The first ``workers`` of them (0: all) have workers of their own, and the
        others attach to these in turn. ``options`` are those of ``Ring``.

        With ``sq_poll`` there are only ``workers`` polling threads. All rings belong to this thread unless
        ``disabled``. If one cannot be opened, those before it are closed. Raises as ``Ring`` does, and
        ValueError for impossible numbers.
        """
        if count < 1 or not 0 <= workers <= count:
            raise ValueError(
                f"{count} rings with {workers} workers: 1 or more rings, and at most as many workers"
            )
        if "attach" in options:
            raise ValueError("attach is what create_many chooses: open such rings one by one")
        pools = workers or count
        rings: list[Ring] = []
        try:
            for number in range(count):
                other = rings[number % pools] if number >= pools else None
                rings.append(cls(entries, attach=other, **options))
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        return rings

    def _handle(self) -> Any:
        """The native ring, for its owner. The core checks the thread too, but the owner might close the ring
        during that check, so other threads are refused here."""
        native = self._native
        if native is None:
            raise ClosedError("this ring is closed: open a new one")
        if self._owner is not None and self._owner != threading.get_ident():
            raise WrongThreadError("this ring belongs to another thread: use one ring per thread")
        return native

    def _check(self, code: int, what: str, why: Any = None) -> int:
        if code == -errno.EXDEV and os.getpid() != self._process:
            raise WrongThreadError(
                f"{what}: this ring belongs to process {self._process}; a forked child must open its own"
            )
        if code == -errno.EBADFD:
            raise RingError(f"{what}: this ring is not enabled yet: call enable()", errno=errno.EBADFD)
        if code == -errno.EBADF and self._native is None:
            raise ClosedError(f"{what}: this ring was closed meanwhile")
        return check(code, what, why)

    def enable(self) -> None:
        """Makes this thread the owner of a ring opened with ``disabled``. Raises RingError (EINVAL) if it is
        already enabled."""
        self._check(lib.udpring_ring_enable(self._handle()), "enabling the ring")
        self._owner = threading.get_ident()

    def close(self) -> None:
        """Cancels everything in flight, waits for it (at most 2 s), then frees all memory. A second close
        does nothing.

        Operations that do not end in that time keep their memory for ever. ``leaked`` has their number, a
        ResourceWarning reports them, and ``graveyard()`` counts the bytes. Operations that were queued but
        not submitted are dropped. Raises WrongThreadError from another thread while the owner lives.
        """
        if self._native is None or not self._closing.acquire(blocking=False):
            return  # closed, or being closed by the caller of a signal handler
        try:
            self._finish()
        finally:
            self._closing.release()

    def _finish(self) -> None:
        left = self._check(lib.udpring_ring_close(self._native), "closing the ring")
        self._native, self._fd, self._eventfd = None, -1, -1
        self._leaked = left
        self._data.clear()
        held = [self._fixed_buffers, self._retired, self._pins, self._view_groups]
        self._fixed_buffers, self._retired, self._pins, self._view_groups = [], [], {}, {}
        if left:
            _kept.extend(held)
            warnings.warn(
                f"{left} operations did not end within 2 s: their memory is never freed",
                ResourceWarning,
                stacklevel=3,
            )

    def __enter__(self) -> Self:
        self._handle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A forked child must not touch the ring: it is not mapped there, and the descriptor may belong to
        # another file.
        if self._native is None or os.getpid() != self._process:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a program may make errors of warnings
            self._close_collected()

    def _close_collected(self) -> None:
        try:
            self.close()
        except WrongThreadError:
            # The owner lives and is another thread: nothing may be touched, so everything is kept and
            # counted.
            _kept.extend([self._fixed_buffers, self._retired, self._pins, self._view_groups])
            self._native = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._native is None else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether the ring was closed."""
        return self._native is None

    @property
    def leaked(self) -> int:
        """After close: the number of operations that did not end in time."""
        return self._leaked

    @property
    def info(self) -> RingInfo:
        """The present state of the ring."""
        native = self._info()
        values = {name: getattr(native, name) for name in RingInfo.__dataclass_fields__}
        return RingInfo(
            **values | {"iowq_error": -native.iowq_error, "needs_wakeup": bool(native.needs_wakeup)}
        )

    @property
    def pending(self) -> int:
        """The number of queued operations that are not submitted."""
        return int(self._info().queued)

    @property
    def sq_needs_wakeup(self) -> bool:
        """Whether the thread of ``sq_poll`` sleeps. ``submit`` and ``wait`` wake it when they submit."""
        return bool(self._info().needs_wakeup)

    def _info(self) -> Any:
        native = ffi.new("struct udpring_ring_info *")
        self._check(lib.udpring_ring_info(self._handle(), native), "the state of the ring")
        return native

    def fileno(self) -> int:
        """A descriptor for event loops. It is readable from the moment when a completion exists, or can be
        produced, until ``completions`` or ``reap`` has taken all of them (poll(2), eventfd(2)).

        The first call makes it and must come from the owner. Later calls may come from any thread. Wait for
        reading only, and leave the descriptor open. The ring's own descriptor is ``ring_fd``.
        Raises RingError: EBUSY after ``register_eventfd``, which then serves the same purpose.
        """
        if self._fd < 0:
            raise ClosedError("this ring is closed: open a new one")
        if self._eventfd < 0:
            code = lib.udpring_ring_fileno(self._handle())
            if code == -errno.EBUSY:
                raise RingError(
                    "a descriptor for event loops: the ring signals the eventfd of register_eventfd(): poll "
                    "that one, or call register_eventfd(None) first",
                    errno=errno.EBUSY,
                )
            self._eventfd = self._check(code, "a descriptor for event loops")
        return self._eventfd

    @property
    def ring_fd(self) -> int:
        """The descriptor of io_uring_setup(2), for ``msg_ring`` and ``attach``. Any thread may read it.

        Do not poll it: on the default flags completions do not make it readable. See ``fileno``.
        """
        if self._fd < 0:
            raise ClosedError("this ring is closed: open a new one")
        return self._fd

    # -- submitting and waiting --

    def reserve(self, count: int) -> None:
        """Submits if necessary, so that ``count`` operations can be queued together. A chain must not be cut
        in two.

        Raises RingError: E2BIG if the submission queue is smaller or a chain has begun, EAGAIN if the kernel
        has no memory.
        """
        why = reason()
        code = lib.udpring_ring_reserve(self._handle(), count, why)
        self._check(code, f"room for {count} operations", why)

    def retract(self, count: int | None = None) -> int:
        """Takes back the newest ``count`` unsubmitted operations (None: all), as if they were never queued.
        Returns their number."""
        wanted, total = 0xFFFFFFFF if count is None else count, 0
        ring = self._handle()
        while True:
            taken = lib.udpring_ring_retract(ring, wanted - total)
            total += self._check(taken, "retracting operations")
            if self._pins:
                self._release_pins(ring)
            if not taken or total == wanted:
                break
        self._forget_data(ring)
        return total

    @contextlib.contextmanager
    def batch(self) -> Iterator[Ring]:
        """All or nothing: if the block raises, its unsubmitted operations are retracted."""
        before = self._info().queued
        try:
            yield self
        except BaseException:
            with contextlib.suppress(ClosedError):
                self.retract(max(0, self._info().queued - before))
            raise

    def submit(self) -> int:
        """Submits the queued operations. Returns how many the kernel took. If it lacks memory, the others
        stay queued."""
        return self._check(lib.udpring_ring_submit(self._handle()), "submitting")

    def wait(self, count: int = 1, timeout: float | None = None) -> bool:
        """Submits the queued operations and waits, without the GIL, until there are ``count`` completions.

        ``timeout`` in seconds. None: no limit. 0: does not wait. Returns whether there are ``count``. Signal
        handlers run during the wait, and their exceptions (KeyboardInterrupt) end it.
        """
        limit = None if timeout is None else nanoseconds(timeout)
        deadline = None if limit is None else time.monotonic_ns() + limit
        while True:
            left = -1 if limit is None else limit
            code = lib.udpring_ring_wait(self._handle(), count, left)
            if code == -errno.ETIME:
                return False
            if code in (-errno.EAGAIN, -errno.EBUSY) and self._info().ready:
                return False  # the present completions must be taken first
            if code != -errno.EINTR:
                self._check(code, "waiting for completions")
                return True
            if deadline is not None:
                limit = max(0, deadline - time.monotonic_ns())

    def completions(self, limit: int | None = None) -> list[Completion]:
        """The present completions, oldest first, at most ``limit``. Does not wait.

        Runs work that the kernel deferred, if there is some. That is the only case in which it enters the
        kernel. Completions beyond ``limit`` stay, and ``fileno`` stays readable for them.
        Raises ValueError for a negative limit.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"a limit of {limit} completions: 0 or more")
        ring, batch, groups = self._handle(), self._harvest.native, self._view_groups
        self._check(lib.udpring_ring_attend(ring), "taking completions")
        self._publish_groups()
        found: list[Completion] = []
        while limit is None or len(found) < limit:
            room = len(batch) if limit is None else min(len(batch), limit - len(found))
            count = self._check(lib.udpring_ring_harvest(ring, batch, room), "taking completions")
            if self._retired:
                self._release_retired(ring)
            if not count:
                return found
            found += self._read(ring, count, groups)
            if self._pins:
                self._release_pins(ring)
        lib.udpring_ring_rouse(ring)
        return found

    def peek(self, limit: int = 1) -> list[Completion]:
        """The oldest completions, at most ``limit`` (1 to 256), as copies. They stay, and ``peek`` and
        ``completions`` return them again. Of a bundle it shows the first buffer. Runs deferred work, as
        ``completions`` does. Does not wait.

        Raises ValueError for another limit.
        """
        ring, batch = self._handle(), self._harvest.native
        if not 1 <= limit <= len(batch):
            raise ValueError(f"a look at {limit} completions: 1 to {len(batch)}")
        self._check(lib.udpring_ring_attend(ring), "looking at completions")
        count = self._check(lib.udpring_ring_peek(ring, batch, limit), "looking at completions")
        if count:
            lib.udpring_ring_rouse(ring)
        return self._read(ring, count, {}, keep=True)

    def set_data(self, ticket: int, data: object) -> int:
        """Attaches any object to an operation. Its completions have it as ``user_data``. The ring holds it
        until the last of them is taken, the operation is retracted, or the ring is closed.

        Returns the ticket.

        Raises ValueError if the operation has ended, or was queued with SKIP_SUCCESS.
        """
        if not lib.udpring_ring_holds(self._handle(), ticket):
            raise ValueError(f"ticket {ticket:#x}: no operation of this ring that is queued or in flight")
        self._data[ticket] = data
        return ticket

    def _read(
        self, ring: Any, count: int, groups: dict[int, BufferGroup], *, keep: bool = False
    ) -> list[Completion]:
        """The harvested completions, with their objects. ``ring`` holds the memory that they point to."""
        found = self._harvest.take(count)
        if groups:
            for i, done in enumerate(found):
                native = self._harvest.native[i]
                if native.lent:
                    done.view = groups[native.group]._view(ring, native)
        if self._data:
            for done in found:
                take = self._data.get if keep or done.more else self._data.pop
                done.user_data = take(done.ticket, None)
        return found

    def reap(self, count: int = 1, timeout: float | None = None) -> list[Completion]:
        """``wait`` and ``completions`` in one: the completions present when there are ``count``, or when the
        time is up."""
        self.wait(count, timeout)
        return self.completions()
