"""A general io_uring for Python: queue operations, submit them together, take completions in batches."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from udpring._native import check, ffi, lib, reason, reason_text
from udpring.errors import ClosedError, HostError, RingError, WrongThreadError
from udpring.uring.completion import Completion, from_native
from udpring.uring.operations import File, Operations, descriptor, nanoseconds

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
    """0, or the errno with which the kernel refused to bound its worker threads to 4 and 4."""
    queued: int
    """Operations not submitted yet."""
    ready: int
    """The number of completions that ``completions`` would return."""
    busy_slots: int
    in_flight: int
    """Operations submitted and not ended."""
    stale: int
    """Completions that belonged to no operation. They are counted and ignored."""
    lost: int
    """Completions that the kernel dropped for lack of memory."""


def graveyard() -> tuple[int, int]:
    """(blocks, bytes) of memory that this process leaked on purpose, because operations did not end (see
    ``Ring.close``)."""
    return lib.udpring_graveyard_blocks(), lib.udpring_graveyard_bytes()


class Ring(Operations):
    """One io_uring instance. It belongs to the thread that opened it. A forked child cannot use it.

    ``entries``: operations that can be queued between two submits (8 to 32768, rounded up to a power of two).
    ``cq_entries``: completions that the queue holds, four times as many by default. The kernel keeps
    overflowing ones.
    ``slots``: operations queued or in flight at once, ``cq_entries`` by default, at most 1048576.
    ``disabled``: the ring has no owner yet. The thread that calls ``enable`` becomes its owner.
    ``deny``: IORING_SETUP_* bits to avoid, to test the fallbacks for older kernels.

    Raises HostError with the cause if the host lacks or denies io_uring, RingError for other refusals by the
    kernel.
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
        deny: int = 0,
    ) -> None:
        super().__init__()
        self._process = os.getpid()
        self._owner: int | None = None
        self._closing = threading.Lock()
        self._leaked = 0
        self._fixed_buffers: list[Any] = []
        self._batch = ffi.new(f"struct udpring_completion[{lib.UDPRING_HARVEST_MAX}]")
        out, why = ffi.new("struct udpring_ring **"), reason()
        options = ffi.new(
            "struct udpring_ring_options *",
            {
                "entries": entries,
                "cq_entries": cq_entries,
                "slots": slots,
                "flags_deny": deny,
                "disabled": disabled,
            },
        )
        code = lib.udpring_ring_open(out, options, why)
        if -code in _OF_THE_HOST:
            raise HostError(reason_text(why), errno=-code)
        check(code, "opening a ring", why)
        self._native = out[0]
        self._fd = lib.udpring_ring_fd(self._native)
        if not disabled:
            self._owner = threading.get_ident()

    # -- life --

    def _handle(self) -> Any:
        """The native ring, for its owner. The core checks the thread too, but the owner might close the ring
        during that check, so other threads are refused here."""
        if self._native is None:
            raise ClosedError("this ring is closed: open a new one")
        if self._owner is not None and self._owner != threading.get_ident():
            raise WrongThreadError("this ring belongs to another thread: use one ring per thread")
        return self._native

    def _check(self, code: int, what: str, why: Any = None) -> int:
        if code == -errno.EXDEV and os.getpid() != self._process:
            raise WrongThreadError(
                f"{what}: this ring belongs to process {self._process}; a forked child must open its own"
            )
        if code == -errno.EBADFD:
            raise RingError(f"{what}: this ring is not enabled yet: call enable()", errno=errno.EBADFD)
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
        native, self._native, self._fd, self._eventfd = self._native, None, -1, -1
        lib.udpring_ring_free(native)
        self._leaked = left
        held = [*self._fixed_buffers, self._pins]
        self._fixed_buffers, self._pins = [], {}
        if left:
            _kept.extend(held)
            warnings.warn(
                f"{left} operations did not end within 2 s: their memory is never freed",
                ResourceWarning,
                stacklevel=3,
            )

    def __enter__(self) -> Ring:
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
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        try:
            self.close()
        except WrongThreadError:
            # The owner lives and is another thread: nothing may be touched, so everything is kept and
            # counted.
            _kept.extend([*self._fixed_buffers, self._pins])
            lib.udpring_ring_free(self._native)
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
        return RingInfo(**values | {"iowq_error": -native.iowq_error})

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
        while True:
            taken = lib.udpring_ring_retract(self._handle(), wanted - total)
            total += self._check(taken, "retracting operations")
            if self._pins:
                self._release_pins()
            if not taken or total == wanted:
                return total

    @contextlib.contextmanager
    def batch(self) -> Iterator[Ring]:
        """All or nothing: if the block raises, its unsubmitted operations are retracted."""
        before = self._info().queued
        try:
            yield self
        except BaseException:
            if self._native is not None:
                queued = self._info().queued
                self.retract(max(0, queued - before))
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
        ring, batch = self._handle(), self._batch
        self._check(lib.udpring_ring_attend(ring), "taking completions")
        found: list[Completion] = []
        while limit is None or len(found) < limit:
            room = len(batch) if limit is None else min(len(batch), limit - len(found))
            count = self._check(lib.udpring_ring_harvest(ring, batch, room), "taking completions")
            if not count:
                return found
            found += [from_native(batch[i]) for i in range(count)]
            if self._pins:
                self._release_pins()
        lib.udpring_ring_rouse(ring)
        return found

    def reap(self, count: int = 1, timeout: float | None = None) -> list[Completion]:
        """``wait`` and ``completions`` in one: the completions present when there are ``count``, or when the
        time is up."""
        self.wait(count, timeout)
        return self.completions()

    # -- registering --

    def provide_buffers(self, group: int, count: int, size: int) -> None:
        """Gives the ring ``count`` (a power of two, at most 32768) buffers of ``size`` bytes for multishot
        operations.

        They return to the kernel as soon as ``completions`` has copied them. Raises RingError: EINVAL for a
        bad count or size, EEXIST if the group exists, ENOBUFS beyond 16 groups.
        """
        why = reason()
        code = lib.udpring_ring_provide(self._handle(), group, count, size, why)
        self._check(code, f"buffer group {group}", why)

    def register_files(self, files: Sequence[File] | int) -> None:
        """Registers descriptors for use by index with ``Flag.FIXED_FILE``. A number reserves that many
        places."""
        if isinstance(files, int):
            code = lib.udpring_ring_files(self._handle(), ffi.NULL, files)
        else:
            numbers = ffi.new("int32_t[]", [descriptor(file) for file in files])
            code = lib.udpring_ring_files(self._handle(), numbers, len(numbers))
        self._check(code, "registering files")

    def update_files(self, start: int, files: Sequence[File | None]) -> int:
        """Changes registered files from index ``start`` on. None empties a place. Returns the number of
        changes."""
        numbers = ffi.new("int32_t[]", [-1 if file is None else descriptor(file) for file in files])
        code = lib.udpring_ring_files_update(self._handle(), start, numbers, len(numbers))
        return self._check(code, "updating registered files")

    def unregister_files(self) -> None:
        """Unregisters the files. Operations in flight keep theirs."""
        self._check(lib.udpring_ring_files_clear(self._handle()), "unregistering files")

    def register_eventfd(self, file: File | None) -> None:
        """Counts completions on an eventfd(2) of the program. None removes it. ``fileno`` needs no such call.

        Raises RingError: EBUSY if one is registered already, or ``fileno`` was called.
        """
        number = -1 if file is None else descriptor(file)
        code = lib.udpring_ring_eventfd(self._handle(), number)
        if code == -errno.EBUSY:
            raise RingError(
                "registering an eventfd: a ring signals one eventfd, and this one has one already, from "
                "register_eventfd() or fileno()",
                errno=errno.EBUSY,
            )
        self._check(code, "registering an eventfd")

    def register_buffers(self, sizes: Sequence[int]) -> list[memoryview]:
        """Makes and pins buffers for ``read_fixed`` and ``write_fixed``. Returns views of them, which stay
        valid after close.

        Raises RingError: EBUSY if there are some already, EINVAL for none or more than 1024, ENOMEM beyond
        RLIMIT_MEMLOCK.
        """
        maps = [mmap.mmap(-1, size) for size in sizes]
        held = [ffi.from_buffer("uint8_t[]", memory) for memory in maps]
        pointers = ffi.new("uint8_t *[]", held)
        lengths = ffi.new("uint64_t[]", list(sizes))
        code = lib.udpring_ring_buffers(self._handle(), pointers, lengths, len(held))
        self._check(code, "registering buffers")
        self._fixed_buffers = held
        return [memoryview(memory) for memory in maps]

    def unregister_buffers(self) -> None:
        """Unpins the registered buffers. Raises RingError (ENXIO) if there are none."""
        code = lib.udpring_ring_buffers_clear(self._handle())
        self._check(code, "unregistering buffers")
        # Operations in flight hold the pages, not this mapping, so dropping it frees none of theirs.
        self._fixed_buffers = []
