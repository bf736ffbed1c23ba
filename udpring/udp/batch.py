"""``Batch``: the datagrams of one receive, which stay readable as long as anything refers to them.

One cdata with a destructor stands for the batch. Every view of a datagram is a slice of one memoryview over
it. The buffers return to the ring with the last such view. ``release()``, or the end of a ``with`` block,
drops only the batch's own reference. The columns (offsets, addresses, ...) are copies, made at their first
use. They hold no buffer. A batch of few datagrams copies its offsets, lengths and addresses when it is made.
The call has them in one place, so this costs less than reading each from the core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from socket import socket as Socket
from typing import Any, NamedTuple, Self, overload

from udpring._native import ffi, lib
from udpring.errors import ClosedError
from udpring.udp.address import SourceList, host_from_core, sources
from udpring.udp.origin import Origin
from udpring.udp.packet import FIELDS, RECORD, Packet, of_train
from udpring.udp.uncopied import Uncopied

__all__ = ["Batch", "BatchSlice", "Columns", "Packet"]

_NULL = ffi.NULL
_buffer, _gc = ffi.buffer, ffi.gc
_release = lib.udpring_batch_release
_FEW, _FEW_BYTES = int(lib.UDPRING_RECV_FEW), int(lib.UDPRING_RECV_FEW_BYTES)
_COLUMNS_BYTES = int(lib.UDPRING_RECV_COLUMNS_BYTES)
_WORDS = RECORD // 4
_LENGTH_WORD, _SEGMENT_WORD = FIELDS["length"][0] // 4, FIELDS["segment_size"][0] // 4
_ECN = bytes(octet & 3 for octet in range(256))
_OFFSETS, _LENGTHS, _ENDS = 0, 1, 2
_AF_INET, _AF_INET6 = 2, 10


class Columns(NamedTuple):
    """Where the datagrams of a batch lie, for sending them in place."""

    #: Keep this as long as the memory is used.
    anchor: object
    #: Address and bytes of the memory that ``offsets`` count in.
    base: int
    size: int
    #: uint32, contiguous, one each.
    offsets: memoryview
    lengths: memoryview


class Batch(Uncopied, Sequence[Packet]):
    """The datagrams of one receive: a sequence of packets, and columns without an object for each datagram.

    It is empty, and false, when the time was up. It is also a context manager. A slice is a ``BatchSlice``
    with the same columns. After ``release()`` or the end of its ``with`` block the batch raises ClosedError.
    Packets, views, slices and columns that were taken from it stay valid.

    By default trains (UDP_GRO, udp(7)) are split, so each item is one datagram.
    """

    __slots__ = (
        "_anchor",
        "_columns_raw",
        "_count",
        "_face",
        "_few",
        "_origin",
        "_picked",
        "_records_raw",
        "_view",
    )

    _instead = "payloads() are copies of what it holds"

    def __init__(self, call: Any, few: Any, origin: Origin) -> None:
        """``call``: a ``struct udpring_recv_call`` to take the batch from, ``few``: a buffer over its member
        ``few``. None gives an empty batch."""
        self._origin = origin
        self._picked: range | None = None
        self._columns_raw: memoryview | None = None
        self._records_raw: list[bytes] | None = None
        self._view: memoryview | None = None  # made from the anchor at its first use
        self._anchor: Any = None
        self._few: bytes | None = None
        if call is None:
            self._face = None
            self._count = 0
            self._view = memoryview(b"")
            return
        face = self._face = call.batch
        # From here on it belongs to this object. A signal handler may raise in any call, so nothing stands
        # between these two lines. A batch that is still in `call` is returned again by the next receive.
        self._anchor = _gc(call.base, partial(_release, face))
        call.batch = _NULL
        count = self._count = call.count
        if count <= _FEW:
            self._few = few[: count * _FEW_BYTES]

    def _live(self) -> memoryview:
        view = self._view
        if view is None:
            anchor = self._anchor
            if anchor is None or self._face is None:
                raise ClosedError("this batch was released; keep the packets or their data, not the batch")
            view = self._view = memoryview(_buffer(anchor, self._face.bytes)).toreadonly()
        return view

    def _column(self, place: int) -> memoryview:
        """One of the core's columns, for these datagrams."""
        raw = self._columns_raw
        if raw is None:
            raw = self._read_columns()
        if self._picked is None:
            count = self._count
            return raw[place * count : (place + 1) * count]
        count = 0 if self._face is None else self._face.count
        return self._pick(raw[place * count : (place + 1) * count])

    def _read_columns(self) -> memoryview:
        """The core's columns, one after the other. The sources may follow."""
        few, face = self._few, self._face
        if few is None:
            self._live()
            few = b"" if face is None else _buffer(face.columns, _COLUMNS_BYTES * face.count)[:]
        raw = self._columns_raw = memoryview(few).cast("I")
        return raw

    def _pick(self, column: memoryview) -> memoryview:
        picked = self._picked
        if picked is None:
            return column
        column = column[_slice_of(picked)]
        return column if picked.step == 1 else memoryview(column.tobytes()).cast("I")

    def _spread(self, field: str) -> bytes:
        """The bytes of one field of ``struct udpring_packet`` for each datagram, one after the other."""
        face = self._face
        if face is None:
            self._live()
            return b""
        offset, size = FIELDS[field]
        if face.message_count == 1:  # one datagram, or one train
            alone: bytes = _buffer(face.messages, RECORD)[offset : offset + size]
            return alone * self._count
        count = face.count
        out = bytearray(count * size)
        lib.udpring_batch_spread(face, offset, size, ffi.from_buffer(out))
        if self._picked is None:
            return bytes(out)
        if self._picked.step == 1:
            return bytes(out[self._picked.start * size : self._picked.stop * size])
        return b"".join([out[at * size : (at + 1) * size] for at in self._picked])

    def _records(self) -> list[bytes]:
        """The bytes of a ``struct udpring_packet`` for each datagram."""
        records = self._records_raw
        if records is None:
            records = self._records_raw = [] if self._face is None else _read_records(self._face)
        return records if self._picked is None else records[_slice_of(self._picked)]

    @overload
    def __getitem__(self, index: int) -> Packet: ...
    @overload
    def __getitem__(self, index: slice) -> BatchSlice: ...
    def __getitem__(self, index: int | slice) -> Packet | BatchSlice:
        view = self._live()
        if isinstance(index, slice):
            return BatchSlice(self, range(self._count)[index])
        if not -self._count <= index < self._count:
            raise IndexError(f"packet {index} of a batch of {self._count}")
        index %= self._count
        start, end = self._column(_OFFSETS)[index], self._column(_ENDS)[index]
        return Packet(view[start:end], self._records()[index], self._origin)

    def __iter__(self) -> Iterator[Packet]:
        return map(Packet, self.views(), self._records(), repeat(self._origin))

    def __len__(self) -> int:
        return self._count

    @property
    def data(self) -> memoryview:
        """One read-only view of all datagrams: number i is ``data[offsets[i] : offsets[i] + lengths[i]]``.

        The bytes between them are undefined. The view, and each slice of it, holds the buffers.
        """
        view = self._view
        return self._live() if view is None else view

    @property
    def offsets(self) -> memoryview:
        """The position of each in ``data``: a read-only view of uint32 (format "I"), for NumPy, array, ..."""
        raw = self._columns_raw
        if raw is None:
            raw = self._read_columns()
        return raw[: self._count] if self._picked is None else self._column(_OFFSETS)

    @property
    def lengths(self) -> memoryview:
        """The bytes of each datagram, as a read-only view of uint32 (format "I")."""
        raw = self._columns_raw
        if raw is None or self._picked is not None:
            return self._column(_LENGTHS)
        count = self._count
        return raw[count : count + count]

    @property
    def segment_sizes(self) -> memoryview:
        """The bytes of one datagram of each train (``whole_trains=True``); 0: no train (format "I")."""
        self._live()
        whole = self._face is not None and self._face.whole_trains
        return memoryview(self._spread("segment_size") if whole else bytes(4 * self._count)).cast("I")

    @property
    def addresses(self) -> SourceList:
        """The source of each. ``SendRing`` takes this list as it is."""
        few = self._few
        if few is not None:
            return sources(few[_COLUMNS_BYTES * self._count :], self._origin.ipv6)
        return sources(self._spread("source"), self._origin.ipv6)

    @property
    def socket_numbers(self) -> memoryview:
        """The number of the socket that received each (format "I"), as ``RecvRing.add`` returned it.

        0 for a ring with one socket. A number may be another socket's in a later batch.
        """
        return memoryview(self._spread("socket_index")).cast("I")

    @property
    def sockets(self) -> list[Socket]:
        """The socket that received each."""
        numbers = self.socket_numbers.tolist()
        by_number = {number: self._origin.socket(number) for number in set(numbers)}
        return [by_number[number] for number in numbers]

    @property
    def locals(self) -> list[str | None]:
        """The local address that each was sent to (IP_PKTINFO, ip(7)); None: unknown."""
        raw, size, ipv6 = self._spread("local"), FIELDS["local"][1], self._origin.ipv6
        return [host_from_core(raw[at : at + size], ipv6) for at in range(0, len(raw), size)]

    @property
    def tos(self) -> memoryview:
        """The TOS or traffic class octet of each (format "B")."""
        return memoryview(self._spread("tos"))

    @property
    def ecn(self) -> memoryview:
        """The ECN bits of each (format "B"), RFC 3168."""
        return memoryview(self._spread("tos").translate(_ECN))

    @property
    def timestamps(self) -> memoryview:
        """When each arrived: CLOCK_REALTIME in nanoseconds (format "Q"); 0 without ``timestamps=True``.

        All datagrams of a train have the time of the train.
        """
        return memoryview(self._spread("timestamp")).cast("Q")

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the full socket buffer dropped, as reported since the previous batch
        (SO_RXQ_OVFL)."""
        self._live()
        return 0 if self._face is None else int(self._face.kernel_drops)

    def payloads(self) -> list[bytes]:
        """A copy of each payload."""
        face = self._face
        if self._count == 1 and self._picked is None and face is not None:  # the buffer holds nothing else
            return [_buffer(self._anchor, face.bytes)[:]]
        view = self._live()
        return [
            view[start:end].tobytes()
            for start, end in zip(self._column(_OFFSETS), self._column(_ENDS), strict=True)
        ]

    def views(self) -> list[memoryview]:
        """A read-only view of each payload, in place."""
        view = self._live()
        return [
            view[start:end] for start, end in zip(self._column(_OFFSETS), self._column(_ENDS), strict=True)
        ]

    def _columns(self) -> Columns:
        """For ``SendRing``, which sends a batch in place."""
        view = self._live()
        base = 0 if self._face is None else int(ffi.cast("uintptr_t", self._face.base))
        return Columns(view, base, view.nbytes, self._column(_OFFSETS), self._column(_LENGTHS))

    def release(self) -> None:
        """Releases the batch's buffers. Those that no view refers to return to the ring."""
        self._view = self._anchor = self._face = self._few = self._columns_raw = self._records_raw = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # As release(), without the call, which would add a tenth to the time that Python spends on a batch.
        self._view = self._anchor = self._face = self._few = self._columns_raw = self._records_raw = None
        self._count = 0

    def __repr__(self) -> str:
        name = type(self).__name__
        released = self._view is None and self._anchor is None
        return f"<{name}, released>" if released else f"<{name} of {self._count} packets>"


class BatchSlice(Batch):
    """Some datagrams of a batch, with the same columns. It holds the batch's buffers, as a view does."""

    __slots__ = ()

    def __init__(self, batch: Batch, picked: range) -> None:
        """``picked``: which, by their index in ``batch``."""
        self._origin = batch._origin
        self._face = batch._face
        self._anchor = None
        self._view = batch._live()
        self._few = None
        self._columns_raw = batch._columns_raw
        self._records_raw = batch._records_raw
        self._picked = picked if batch._picked is None else batch._picked[_slice_of(picked)]
        self._count = len(picked)


def _slice_of(picked: range) -> slice:
    """The slice for a range of indices, none of which is negative."""
    if not picked:
        return slice(0, 0)  # its begin may be -1
    return slice(picked.start, picked.stop if picked.stop >= 0 else None, picked.step)


def _read_records(face: Any) -> list[bytes]:
    raw = bytes(_buffer(face.messages, face.message_count * RECORD))
    records = [raw[at : at + RECORD] for at in range(0, len(raw), RECORD)]
    words = memoryview(raw).cast("I")
    sizes = words[_SEGMENT_WORD::_WORDS].tolist()
    if face.whole_trains or not any(sizes):
        return records
    spread: list[bytes] = []
    for record, length, size in zip(records, words[_LENGTH_WORD::_WORDS].tolist(), sizes, strict=True):
        if not size:
            spread.append(record)
            continue
        spread += [of_train(record, last=False)] * ((length + size - 1) // size - 1)
        spread.append(of_train(record, last=True))
    return spread
