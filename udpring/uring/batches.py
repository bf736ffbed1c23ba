"""Many operations in one call, and many completions in one call, as columns."""

from __future__ import annotations

from array import array
from typing import Any

from udpring._native import ffi, lib
from udpring.uring.queueing import File, Flag, Queueing, descriptor
from udpring.uring.rows import row_of

__all__ = ["Batches"]

# Operations whose memory the kernel writes. The caller's buffer must be writable.
_WRITES = {"read", "recv"}


class Batches(Queueing):
    """See ``Operations``."""

    def queue_many(
        self,
        operation: str,
        files: File | Any,
        *,
        offsets: int | Any = 0,
        lengths: int | Any = 0,
        buffer: Any = None,
        starts: int | Any = None,
        bits: int = 0,
        group: int = 0,
        count: int | None = None,
        flags: Flag = Flag.NONE,
    ) -> array[int]:
        """Queues many operations of one kind in one call into C. Returns their tickets, in order.

        ``operation``: the name of its row, such as "nop", "read", "write", "read_fixed", "recv", "send",
        "poll_add", "fsync", "timeout". Each other argument is one value for all, or a column: an object with
        a buffer, one number an operation.

        ``files``: descriptors (signed 32 bits, ``array("i")``) or one file. ``offsets``: (64 bits, unsigned).
        ``lengths``: bytes of each operation, or ``sqe.len`` of one without memory (32 bits, unsigned).
        ``buffer``: memory for all of them, which the ring holds until all have ended. ``starts``: where each
        one's part begins (64 bits, unsigned), by default one length behind the other. ``starts`` without a
        buffer is ``sqe.addr``: the start in a registered buffer, nanoseconds, a ticket to cancel. ``bits`` is
        ``sqe.op_flags``. ``group``: a group of buffers, or the registered buffer. ``count``: how many, if no
        column says it.

        Fewer tickets than asked: slots or entries ran out, so reap and queue the rest. Submits if the
        submission queue is full. Raises as the single operations do if none was queued, and ValueError if the
        columns do not fit together.
        """
        row = row_of(operation)
        columns = ffi.new("struct udpring_columns *", {"file": -1, "op_flags": bits})
        keep: list[Any] = []
        sizes = [] if count is None else [count]

        def column(value: Any, kind: str, single: str, name: str) -> None:
            if isinstance(value, int):
                setattr(columns, single, value)
                return
            native = ffi.from_buffer(f"{kind}[]", value)
            keep.append(native)
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
        columns.count = sizes[0]
        tickets = array("Q", bytes(8 * sizes[0]))
        pin = 0
        native = self._handle()
        if buffer is not None:
            held = ffi.from_buffer("uint8_t[]", buffer, require_writable=operation in _WRITES)
            columns.memory, columns.size = held, len(held)
            pin = self._hold(held, sizes[0])
        queued = lib.udpring_ring_put_many(
            native, row.number, flags, group << 16, columns, pin, ffi.from_buffer("uint64_t[]", tickets)
        )
        if queued < 0:
            self._refused(queued, row.number, pin)
        if pin:
            self._unpin(pin, sizes[0] - queued)
        del tickets[queued:]
        return tickets

    def completions_into(self, tickets: Any, results: Any, flags: Any) -> int:
        """Writes the present completions into columns, oldest first, and returns how many. At most as many as
        the shortest column has room for.

        ``tickets``: 64 bits, unsigned (``array("Q")``); ``results``: 32 bits, signed; ``flags``: 32 bits,
        unsigned. For operations on the caller's memory, registered buffers or none. The data of others is
        dropped. Does not wait.
        """
        columns = (
            ffi.from_buffer("uint64_t[]", tickets, require_writable=True),
            ffi.from_buffer("int32_t[]", results, require_writable=True),
            ffi.from_buffer("uint32_t[]", flags, require_writable=True),
        )
        room = min(len(column) for column in columns)
        ring = self._handle()
        self._check(lib.udpring_ring_attend(ring), "taking completions")
        taken = 0
        while taken < room:
            rest = [column + taken for column in columns]
            code = lib.udpring_ring_harvest_columns(ring, *rest, room - taken)
            count = self._check(code, "taking completions")
            if self._pins:
                self._release_pins()  # C takes no more completions than it has room for ended pins
            if not count:
                break
            taken += count
        else:
            lib.udpring_ring_rouse(ring)  # perhaps some are left
        self._forget_data()
        return taken
