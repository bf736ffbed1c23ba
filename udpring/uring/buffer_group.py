"""A group of provided buffers whose contents are read in place."""

from __future__ import annotations

import errno
import mmap
from collections import deque
from functools import partial
from typing import Any

from udpring._native import ffi, lib, reason
from udpring.errors import RingError

__all__ = ["BufferGroup"]


def _give_back(released: deque[int], number: int, _memory: Any, _anchor: Any) -> None:
    """The last view of a buffer is gone. May run in any thread, so it only notes the number."""
    released.append(number)


class BufferGroup:
    """Provided buffers (io_uring_register(2), IORING_REGISTER_PBUF_RING) of a ring, for multishot operations.

    ``Ring.provide_buffers`` makes one. With ``views``, ``Completion.view`` is a read-only memoryview of the
    buffer. It, and each slice of it, holds the buffer and stays valid as long as it lives, also after
    ``unregister`` and the close of the ring. The end of the last one (``view.release()``, ``del``) pushes
    the buffer. ``publish`` gives all pushed buffers to the kernel with one store. ``completions`` does so at
    its start. A group without free buffers ends a multishot operation with -ENOBUFS: publish, then queue it
    again.
    """

    def __init__(self, ring: Any, number: int, count: int, size: int, *, views: bool) -> None:
        self.number = number
        """The group's number, which operations take."""
        self.count = count
        self.size = size
        self.views = views
        self._ring = ring
        self._released: deque[int] = deque()
        self._claimed = 0
        self._published = 0
        memory, why = ffi.NULL, reason()
        ffi.new("uint32_t[]", [number, count, size])  # OverflowError before any memory is held
        if views and 0 < count * size <= lib.UDPRING_OPERATION_BYTES_MAX:
            memory = ffi.from_buffer("uint8_t[]", mmap.mmap(-1, count * size), require_writable=True)
        self._memory = memory
        native = ring._handle()
        # The ring holds it as pinned memory, also if an exception of a signal handler ends this call.
        self._pin = ring._hold(memory) if memory else 0
        kind = lib.UDPRING_GROUP_VIEWS if views else lib.UDPRING_GROUP_COPIES
        code = lib.udpring_ring_provide(native, number, count, size, kind, memory, why)
        if code < 0:
            ring._unpin(self._pin, 1)
        ring._check(code, f"buffer group {number}", why)

    def __repr__(self) -> str:
        return f"<BufferGroup {self.number}: {self.count} x {self.size} bytes, {self.lent} lent>"

    @property
    def lent(self) -> int:
        """The number of buffers that live views hold."""
        return self._claimed - self._published - len(self._released)

    @property
    def pushed(self) -> int:
        """The number of buffers whose views are gone, and that are not published yet."""
        return len(self._released)

    def publish(self) -> int:
        """Gives the pushed buffers to the kernel. Returns their number.

        Raises ClosedError after the close of the ring, WrongThreadError from another thread, RingError
        (ENOENT) after ``unregister``.
        """
        ring = self._ring._handle()
        if self.views and self._ring._view_groups.get(self.number) is not self:
            self._ring._handle()  # it was closed meanwhile
            raise RingError(f"buffer group {self.number} was unregistered", errno=errno.ENOENT)
        ids = []
        while self._released:
            ids.append(self._released.popleft())
        if ids:
            code = lib.udpring_ring_recycle(ring, self.number, ffi.new("uint16_t[]", ids), len(ids))
            self._ring._check(code, f"buffer group {self.number}")
            self._published += len(ids)
        return len(ids)

    def unregister(self) -> None:
        """Takes the group from the ring, so that its number is free. Views stay valid.

        Raises RingError: EBUSY while an operation draws from it (cancel it and take its last completion
        first), ENOENT if it was unregistered before.
        """
        self._ring._unprovide(self)

    def _view(self, ring: Any, native: Any) -> memoryview:
        """The bytes of a completion that has just been harvested, in their buffer."""
        lib.udpring_ring_claim(ring, native.lent)
        self._claimed += 1
        back = partial(_give_back, self._released, native.flags >> 16, self._memory)
        anchor = ffi.gc(native.data, back, self.size)
        return memoryview(ffi.buffer(anchor, native.length)).toreadonly()
