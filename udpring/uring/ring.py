"""A general io_uring for Python: queue operations, submit them at once, take completions in batches."""

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

# Registered buffers of rings that could not be drained: the kernel may still write to them (see Ring.close).
_kept: list[Any] = []

# Why a ring cannot be opened at all: not permitted, no io_uring, too old, no memory.
_OF_THE_HOST = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class RingInfo:
    """The state of a ring, as it is now."""

    sq_entries: int
    cq_entries: int
    slots: int
    setup_flags: int
    """IORING_SETUP_* as the kernel granted them."""
    features: int
    """IORING_FEAT_* of io_uring_setup(2)."""
    halvings: int
    """How often the queues were halved for want of memory."""
    iowq_error: int
    """0, or the errno with which the kernel refused to bound its worker threads to 4 and 4."""
    queued: int
    """Operations not submitted yet."""
    ready: int
    """Completions that ``completions`` would return."""
    busy_slots: int
    in_flight: int
    """Operations submitted and not ended."""
    stale: int
    """Completions that belonged to no operation: counted, otherwise ignored."""
    lost: int
    """Completions the kernel dropped because it had no memory for them."""


def graveyard() -> tuple[int, int]:
    """(blocks, bytes) of memory leaked on purpose by this process, because operations would not end (see
    ``Ring.close``).
    """
    return lib.udpring_graveyard_blocks(), lib.udpring_graveyard_bytes()


class Ring(Operations):
    """One io_uring instance. It belongs to the thread that opened it; a forked child cannot use it.

    ``entries``: operations that can be queued between two submits (8 to 32768, rounded up to a power of two).
    ``cq_entries``: completions the kernel can store; by default four times as many. When they overflow none
    is lost.
    ``slots``: operations at once, queued or in flight; by default ``cq_entries``.
    ``disabled``: nobody's yet; the thread that calls ``enable`` becomes the owner.
    ``deny``: IORING_SETUP_* bits not to be used, to try the fallbacks of older kernels.

    Raises HostError when the host has or allows no io_uring, with the cause; RingError for what else the
    kernel refuses.
    """

    _native: Any = None
    _fd: int = -1

    def __init__(
        self,
        entries: int = 256,
        *,
        cq_entries: int = 0,
        slots: int = 0,
        disabled: bool = False,
        deny: int = 0,
    ) -> None:
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
        self._fd = lib.udpring_ring_fileno(self._native)
        if not disabled:
            self._owner = threading.get_ident()

    # -- its life --

    def _handle(self) -> Any:
        """The native ring, for its owner. The core checks the thread too; but while it looks, the owner might
        close the ring under it, so others are turned away here.
        """
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
        """Makes this thread the owner of a ring opened with ``disabled``. RingError (EINVAL) when it is
        enabled already.
        """
        self._check(lib.udpring_ring_enable(self._handle()), "enabling the ring")
        self._owner = threading.get_ident()

    def close(self) -> None:
        """Cancels what is in flight, waits for it (at most 2 s), then gives everything back. A second close
        does nothing.

        Operations that do not end within the bound keep their memory for ever: ``leaked`` says how many, a
        ResourceWarning tells of them, ``graveyard()`` counts the bytes. What was queued and not submitted is
        dropped. Raises WrongThreadError from another thread while the owner lives.
        """
        if self._native is None or not self._closing.acquire(blocking=False):
            return  # closed, or being closed below us (by a signal handler's caller)
        try:
            self._finish()
        finally:
            self._closing.release()

    def _finish(self) -> None:
        left = self._check(lib.udpring_ring_close(self._native), "closing the ring")
        native, self._native, self._fd = self._native, None, -1
        lib.udpring_ring_free(native)
        self._leaked = left
        fixed, self._fixed_buffers = self._fixed_buffers, []
        if left:
            _kept.extend(fixed)
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
        # A child of fork() must not touch the ring: neither is it mapped there, nor is the descriptor surely
        # still ours.
        if self._native is None or os.getpid() != self._process:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        try:
            self.close()
        except WrongThreadError:
            # The owner lives and we are not it: nothing may be touched, so all of it is kept and counted.
            _kept.extend(self._fixed_buffers)
            lib.udpring_ring_free(self._native)
            self._native = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._native is None else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._native is None

    @property
    def leaked(self) -> int:
        """After close: how many operations did not end within its bound."""
        return self._leaked

    @property
    def info(self) -> RingInfo:
        """The state of the ring as it is now."""
        native = self._info()
        values = {name: getattr(native, name) for name in RingInfo.__dataclass_fields__}
        return RingInfo(**values | {"iowq_error": -native.iowq_error})

    def _info(self) -> Any:
        native = ffi.new("struct udpring_ring_info *")
        self._check(lib.udpring_ring_info(self._handle(), native), "the state of the ring")
        return native

    def fileno(self) -> int:
        """The ring's descriptor, readable while completions wait (poll(2)): for event loops, and for
        ``msg_ring``.

        May be asked for by any thread.
        """
        if self._fd < 0:
            raise ClosedError("this ring is closed: open a new one")
        return self._fd

    # -- submitting and waiting --

    def _queue(self, called: str, operation: Any) -> int:
        why = reason()
        return self._check(lib.udpring_ring_queue(self._handle(), operation, why), called, why)

    def reserve(self, count: int) -> None:
        """Submits if need be, so that ``count`` operations can be queued in one go: a chain must not be cut
        in two.

        RingError: E2BIG when the submission queue is smaller, EAGAIN when the kernel has no memory.
        """
        self._check(lib.udpring_ring_reserve(self._handle(), count), f"room for {count} operations")

    def retract(self, count: int | None = None) -> int:
        """Takes back the newest ``count`` operations that are not submitted (all: None), as if never queued;
        how many.
        """
        wanted = 0xFFFFFFFF if count is None else count
        return self._check(lib.udpring_ring_retract(self._handle(), wanted), "retracting operations")

    @contextlib.contextmanager
    def batch(self) -> Iterator[Ring]:
        """All or nothing: when the block raises, what it queued and did not submit is retracted."""
        before = self._info().queued
        try:
            yield self
        except BaseException:
            if self._native is not None:
                queued = self._info().queued
                self.retract(max(0, queued - before))
            raise

    def submit(self) -> int:
        """Submits what is queued; returns how many operations the kernel took. The rest, for want of memory,
        stays queued.
        """
        return self._check(lib.udpring_ring_submit(self._handle()), "submitting")

    def wait(self, count: int = 1, timeout: float | None = None) -> bool:
        """Submits what is queued and waits until ``count`` completions are there, without the GIL.

        ``timeout`` in seconds; None: no limit; 0: looks, without waiting. Returns whether ``count`` are
        there. Signal handlers run while it waits, and what they raise (KeyboardInterrupt) ends it.
        """
        limit = None if timeout is None else nanoseconds(timeout)
        deadline = None if limit is None else time.monotonic_ns() + limit
        while True:
            left = -1 if limit is None else limit
            code = lib.udpring_ring_wait(self._handle(), count, left)
            if code == -errno.ETIME:
                return False
            if code in (-errno.EAGAIN, -errno.EBUSY) and self._info().ready:
                return False  # the completions that are there have to be taken first
            if code != -errno.EINTR:
                self._check(code, "waiting for completions")
                return True
            if deadline is not None:
                limit = max(0, deadline - time.monotonic_ns())

    def completions(self) -> list[Completion]:
        """All completions that are there, oldest first. Does not enter the kernel: ``wait`` does."""
        ring, batch = self._handle(), self._batch
        found: list[Completion] = []
        while True:
            count = self._check(lib.udpring_ring_harvest(ring, batch, len(batch)), "taking completions")
            if not count:
                return found
            found += [from_native(batch[i]) for i in range(count)]

    def reap(self, count: int = 1, timeout: float | None = None) -> list[Completion]:
        """``wait`` and ``completions`` in one: those that are there when ``count`` are, or when the time is
        over.
        """
        self.wait(count, timeout)
        return self.completions()

    # -- registering --

    def provide_buffers(self, group: int, count: int, size: int) -> None:
        """Gives the ring ``count`` (a power of two, at most 32768) buffers of ``size`` bytes for multishot
        operations.

        They go back to the kernel as soon as ``completions`` has copied them. RingError: EINVAL for a bad
        count or size, EEXIST when the group exists, ENOBUFS beyond 16 groups.
        """
        why = reason()
        code = lib.udpring_ring_provide(self._handle(), group, count, size, why)
        self._check(code, f"buffer group {group}", why)

    def register_files(self, files: Sequence[File] | int) -> None:
        """Registers descriptors, to be used by index with ``Flag.FIXED_FILE``; a number: so many places."""
        if isinstance(files, int):
            code = lib.udpring_ring_files(self._handle(), ffi.NULL, files)
        else:
            numbers = ffi.new("int32_t[]", [descriptor(file) for file in files])
            code = lib.udpring_ring_files(self._handle(), numbers, len(numbers))
        self._check(code, "registering files")

    def update_files(self, start: int, files: Sequence[File | None]) -> int:
        """Changes registered files from index ``start`` on; None empties a place. Returns how many were
        changed.
        """
        numbers = ffi.new("int32_t[]", [-1 if file is None else descriptor(file) for file in files])
        code = lib.udpring_ring_files_update(self._handle(), start, numbers, len(numbers))
        return self._check(code, "updating registered files")

    def unregister_files(self) -> None:
        """Forgets the registered files; operations in flight keep theirs."""
        self._check(lib.udpring_ring_files_clear(self._handle()), "unregistering files")

    def register_eventfd(self, file: File | None) -> None:
        """Counts completions on an eventfd(2), for event loops; None takes it away."""
        number = -1 if file is None else descriptor(file)
        self._check(lib.udpring_ring_eventfd(self._handle(), number), "registering an eventfd")

    def register_buffers(self, sizes: Sequence[int]) -> list[memoryview]:
        """Makes and pins buffers for ``read_fixed`` and ``write_fixed``; returns views of them, valid also
        after close.

        RingError: EBUSY when there are some already, ENOMEM beyond RLIMIT_MEMLOCK.
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
        """Unpins the registered buffers. RingError (ENXIO) when there are none."""
        code = lib.udpring_ring_buffers(self._handle(), ffi.NULL, ffi.NULL, 0)
        self._check(code, "unregistering buffers")
        # Operations still in flight hold the pages, not our mapping: dropping it here frees nothing of
        # theirs.
        self._fixed_buffers = []
