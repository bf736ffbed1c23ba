"""Completions as columns of numbers."""

from __future__ import annotations

import errno
import time
from array import array
from threading import get_ident
from typing import Any

from udpring._native import ffi, lib
from udpring.uring.queueing import Queueing, nanoseconds

__all__ = ["Columns"]

_turn = lib.udpring_ring_turn


def results_into(tickets: Any, results: Any, flags: Any) -> tuple[Any, ...]:
    """A ``struct udpring_results`` for columns of the caller, and what keeps them."""
    columns = (
        ffi.from_buffer("uint64_t[]", tickets, require_writable=True),
        ffi.from_buffer("int32_t[]", results, require_writable=True),
        ffi.from_buffer("uint32_t[]", flags, require_writable=True),
    )
    return ffi.new("struct udpring_results *", (*columns, min(map(len, columns)))), columns


class Columns:
    """What ``Ring.columns`` returns: room for completions, which ``turn`` fills in one call into C.

    For operations on the caller's memory, registered buffers or none. The data of others is dropped.
    """

    def __init__(self, ring: Queueing, room: int) -> None:
        if room < 1:
            raise ValueError(f"room for {room} completions: at least 1")
        self._ring, self._room = ring, room
        self.tickets = array("Q", bytes(8 * room))
        self.results = array("i", bytes(4 * room))
        """Bytes, or another result of the operation. -errno when it failed."""
        self.flags = array("I", bytes(4 * room))
        """``CompletionFlag`` bits."""
        self._native = results_into(self.tickets, self.results, self.flags)

    def __len__(self) -> int:
        return self._room

    def turn(self, count: int = 1, timeout: float | None = None) -> int:
        """Submits the queued operations, waits until there are ``count`` completions, and takes the present
        ones, oldest first. Returns how many: they are at the beginning of the columns.

        ``timeout`` in seconds, as of ``Ring.wait``. 0: does not wait. Fewer than ``count`` when the time is
        up. Others stay for the next turn when the columns are full.
        """
        ring = self._ring
        native = ring._native
        if native is None or ring._owner != get_ident():
            native = ring._handle()
        if ring._view_groups:
            ring._publish_groups()
        limit = -1 if timeout is None else nanoseconds(timeout)
        taken: int = _turn(native, count, limit, self._native[0])
        if taken < 0:
            taken = self._after_signals(taken, count, limit)
        if ring._pins:
            ring._release_pins(native)
        if ring._retired:
            ring._release_retired(native)
        if ring._data:
            ring._forget_data(native)
        return taken

    def _after_signals(self, code: int, count: int, limit: int) -> int:
        """Waits again after a signal, whose handler has run by then. Raises the other errors."""
        end = time.monotonic_ns() + limit
        while code == -errno.EINTR:
            if limit > 0:
                limit = max(0, end - time.monotonic_ns())
            code = _turn(self._ring._handle(), count, limit, self._native[0])
        return self._ring._check(code, "waiting for completions")
