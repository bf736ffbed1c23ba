"""Many operations in one call, and many completions in one call, as columns."""

from __future__ import annotations

from array import array
from typing import Any

from udpring._native import lib
from udpring.uring.columns import Columns, results_into
from udpring.uring.prepared import PreparedBatch
from udpring.uring.queueing import File, Flag, Queueing

__all__ = ["Batches"]


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
        batch = PreparedBatch(
            self, operation, files, offsets, lengths, buffer, starts, bits, group, count, flags, once=True
        )
        queued = batch.queue()
        return batch.tickets if queued == len(batch) else batch.tickets[:queued]

    def prepare(
        self,
        operation: str,
        files: File | Any,
        *,
        offsets: int | Any = 0,
        lengths: int | Any = 0,
        buffer: Any = None,
        starts: int | Any | None = None,
        bits: int = 0,
        group: int = 0,
        count: int | None = None,
        flags: Flag = Flag.NONE,
    ) -> PreparedBatch:
        """The operations of ``queue_many``, to be queued again and again by ``queue()`` of the result.

        Raises ValueError if the columns do not fit together.
        """
        return PreparedBatch(
            self, operation, files, offsets, lengths, buffer, starts, bits, group, count, flags
        )

    def columns(self, room: int) -> Columns:
        """Columns for ``room`` completions, to be filled again and again by ``turn()`` of the result."""
        return Columns(self, room)

    def completions_into(self, tickets: Any, results: Any, flags: Any) -> int:
        """Writes the present completions into columns, oldest first, and returns how many. At most as many as
        the shortest column has room for.

        ``tickets``: 64 bits, unsigned (``array("Q")``); ``results``: 32 bits, signed; ``flags``: 32 bits,
        unsigned. For operations on the caller's memory, registered buffers or none. The data of others is
        dropped. Does not wait.
        """
        out, columns = results_into(tickets, results, flags)
        room = out.room
        ring = self._handle()
        self._check(lib.udpring_ring_attend(ring), "taking completions")
        self._publish_groups()
        taken = 0
        while taken < room:
            code = lib.udpring_ring_harvest_columns(ring, out)
            count = self._check(code, "taking completions")
            if self._pins:
                self._release_pins(ring)  # C takes no more completions than it has room for ended pins
            if self._retired:
                self._release_retired(ring)
            if not count:
                break
            taken += count
            out.tickets, out.results, out.flags = (column + taken for column in columns)
            out.room = room - taken
            if taken < room and not self._pins:
                break
        else:
            lib.udpring_ring_rouse(ring)  # perhaps some are left
        self._forget_data(ring)
        return taken
