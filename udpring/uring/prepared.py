"""Operations that are queued together again and again, without new columns each time."""

from __future__ import annotations

from array import array
from threading import get_ident
from typing import Any

from udpring._native import ffi, lib
from udpring.uring.queueing import File, Flag, Queueing, descriptor
from udpring.uring.rows import row_of

__all__ = ["PreparedBatch"]

# Operations whose memory the kernel writes. The caller's buffer must be writable.
_WRITES = {"read", "recv"}
_put_many = lib.udpring_ring_put_many


class PreparedBatch:
    """What ``Ring.prepare`` returns: many operations of one kind, ready to be queued.

    Its columns and its buffer are the caller's. ``queue`` reads the columns anew, so change them in between.
    They keep their lengths.
    """

    def __init__(
        self,
        ring: Queueing,
        operation: str,
        files: File | Any,
        offsets: int | Any,
        lengths: int | Any,
        buffer: Any,
        starts: int | Any | None,
        bits: int,
        group: int,
        count: int | None,
        flags: Flag,
        *,
        once: bool = False,
    ) -> None:
        row = row_of(operation)
        self._ring, self._operation = ring, row.number
        self._once = once  # it is not queued again after a refusal
        fixed = {"operation": row.number, "flags": flags, "extra": group << 16, "file": -1, "op_flags": bits}
        self._columns = columns = ffi.new("struct udpring_columns *", fixed)
        self._keep: list[Any] = []
        sizes = [] if count is None else [count]

        def column(value: Any, kind: str, single: str, name: str) -> None:
            if isinstance(value, int):
                setattr(columns, single, value)
                return
            native = ffi.from_buffer(f"{kind}[]", value)
            self._keep.append(native)
            sizes.append(len(native))
            setattr(columns, name, native)

        if isinstance(files, int) or hasattr(files, "fileno"):
            columns.file = descriptor(files)
        else:
            column(files, "int32_t", "file", "files")
        column(offsets, "uint64_t", "off", "offs")
        column(lengths, "uint32_t", "length", "lengths")
        if starts is not None:
            column(starts, "uint64_t", "addr", "starts")
        if not sizes or min(sizes) != max(sizes):
            raise ValueError(f"{operation}: columns of {sizes} values, not of one number of them")
        self._count = self._asked = columns.count = sizes[0]
        self.tickets = array("Q", bytes(8 * self._count))
        """The tickets of the operations that ``queue`` queued last, in order."""
        self._keep.append(ffi.from_buffer("uint64_t[]", self.tickets))
        columns.tickets = self._keep[-1]
        self._held: Any = None
        if buffer is not None:
            self._held = ffi.from_buffer("uint8_t[]", buffer, require_writable=operation in _WRITES)
            columns.memory, columns.size = self._held, len(self._held)

    def __len__(self) -> int:
        return self._count

    def queue(self, count: int | None = None) -> int:
        """Queues the first ``count`` operations, by default all, in one call into C. Returns how many.

        Fewer than asked for: slots or entries ran out, so take completions and queue the rest. Submits if the
        submission queue is full. Raises as the single operations do if none was queued, and ValueError for
        a ``count`` beyond the columns.
        """
        ring = self._ring
        native = ring._native
        if native is None or ring._owner != get_ident():
            native = ring._handle()
        if count is None:
            count = self._count
        elif not 0 <= count <= self._count:
            raise ValueError(f"{count} operations of a batch of {self._count}")
        if count != self._asked:
            self._asked = self._columns.count = count
        if self._held is None:
            queued: int = _put_many(native, self._columns, 0)
            if queued < 0:
                ring._refused(native, queued, self._operation)
            return queued
        keep = not self._once
        pin = ring._hold(self._held, count, keep=keep)
        try:
            queued = _put_many(native, self._columns, pin)
            if queued < 0:
                ring._refused(native, queued, self._operation, pin, keep=keep)
        except BaseException:
            ring._let_go_unless_queued(pin, keep=keep)
            raise
        ring._unpin(pin, count - queued)
        return queued
