"""What a turn of a ``Net`` returns, and the counters of a net."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from udpring._native import ffi, lib

if TYPE_CHECKING:
    from udpring.uring.net import Net

__all__ = ["NetInfo", "Turn"]


@dataclass(frozen=True, slots=True)
class NetInfo:
    """Counters of a net."""

    connections: int
    """At present."""
    lent: int
    """Buffers that hold the data of the last turn."""
    claimed: int
    """Buffers that views hold."""
    queued_bytes: int
    """In the send queues of all connections, at present."""
    opened: int
    closed: int
    failed: int
    """Connections that an error ended."""
    overfull: int
    """Connections aborted because their send queue would have exceeded ``queue_bytes``."""
    unsent: int
    """Pieces that were not sent, because their connection was gone or closing."""
    refused: int
    """Connections that were accepted and closed, because all places were taken."""
    shortages: int
    """Failures of accept(2), for lack of descriptors or memory. Accepting goes on after 50 ms."""
    starved: int
    """Receives that found no free buffer. They go on when there are some again."""
    sends: int
    short_sends: int
    """Sends that found the socket's buffer full."""
    waits: int
    """Calls of io_uring_enter(2) or epoll_wait(2)."""
    stale: int
    """Completions of no operation: counted and ignored."""
    setup_flags: int
    """IORING_SETUP_* as the kernel granted them. 0 on epoll."""


def _column(column: Any) -> memoryview:
    return memoryview(ffi.buffer(column)).toreadonly().cast("B")


class Turn:
    """What happened since the turn before. The same object is used again: it is valid until the next turn.

    Row ``i`` says that connection ``ids[i]`` received ``lengths[i]`` bytes at ``starts[i]`` of the receive
    memory. The columns are memoryviews of integers (format ``Q``, ``Q``, ``I``). All data of a connection is
    in order.
    """

    __slots__ = (
        "_columns",
        "_held",
        "_native",
        "_net",
        "_noticed",
        "closed",
        "count",
        "drained",
        "ended",
        "opened",
    )

    def __init__(self, net: Net, rows: int) -> None:
        self._net = net
        data = [ffi.new(f"{kind}[]", rows) for kind in ("uint64_t", "uint64_t", "uint32_t")]
        notices = [
            ffi.new(f"{kind}[]", lib.UDPRING_NET_NOTICES_MAX) for kind in ("uint64_t", "uint32_t", "int32_t")
        ]
        self._held = (*data, *notices)
        self._native = ffi.new("struct udpring_net_events *", (*data, *notices, net._pinned))
        self._columns = (_column(data[0]).cast("Q"), _column(data[1]).cast("Q"), _column(data[2]).cast("I"))
        self._noticed = 0
        self.count = 0
        """The number of rows."""
        self.opened: list[tuple[int, int]] = []
        """New connections: id and number of the listener. Their data may be in the rows already."""
        self.ended: list[int] = []
        """Connections whose peer will send no more (EOF). Unless ``half_open``, the next turn closes them
        when their send queue is empty, so the program can still answer."""
        self.drained: list[int] = []
        """Connections whose send queue was full and holds at most ``low_water`` bytes now."""
        self.closed: list[tuple[int, int]] = []
        """Connections that are gone: id, and 0 or the errno that ended them."""

    def _refresh(self) -> None:
        native = self._native
        self.count = native.rows
        if self._noticed:
            self.opened, self.ended, self.drained, self.closed = [], [], [], []
        self._noticed = rows = native.notice_rows
        if rows:
            self._take_notices(rows)

    def _take_notices(self, rows: int) -> None:
        native = self._native
        for number, kind, value in zip(
            ffi.unpack(native.notice_ids, rows),
            ffi.unpack(native.notices, rows),
            ffi.unpack(native.values, rows),
            strict=True,
        ):
            if kind == lib.UDPRING_NET_OPENED:
                self.opened.append((number, value))
            elif kind == lib.UDPRING_NET_CLOSED:
                self.closed.append((number, value))
            elif kind == lib.UDPRING_NET_ENDED:
                self.ended.append(number)
            else:
                self.drained.append(number)

    @property
    def ids(self) -> memoryview:
        """Which connection."""
        return self._columns[0][: self.count]

    @property
    def starts(self) -> memoryview:
        """Where in the receive memory. ``send_many`` takes this as it is."""
        return self._columns[1][: self.count]

    @property
    def lengths(self) -> memoryview:
        """How many bytes."""
        return self._columns[2][: self.count]

    def data(self, row: int) -> bytes:
        """A copy of the data of a row. Raises IndexError."""
        start, length = self._place(row)
        copied: bytes = self._net._memory[start : start + length]
        return copied

    def view(self, row: int) -> memoryview:
        """The data of a row, read-only and in place.

        It, and each slice of it, stays valid as long as it lives. Until then its buffer cannot receive: drop
        views soon, or raise ``buffers``. Raises IndexError, WrongThreadError.
        """
        start, length = self._place(row)
        return self._net._claim(start, length)

    def items(self) -> Iterator[tuple[int, bytes]]:
        """The rows: id, and a copy of the data."""
        memory = self._net._memory
        for number, start, length in zip(
            *(column[: self.count].tolist() for column in self._columns), strict=True
        ):
            yield number, memory[start : start + length]

    def _place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        return self._columns[1][row], self._columns[2][row]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.count} rows, {len(self.opened)} opened, {len(self.ended)} ended, "
            f"{len(self.closed)} closed>"
        )
