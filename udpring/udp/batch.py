"""What one receive brought: packets that stay readable for as long as anything looks at them.

Lifetime: one cdata with a destructor stands for the batch; every view of a packet is a slice of one
memoryview over it. The buffers go back to the ring when the last such view is gone: dropping the batch,
leaving its ``with`` block or ``release()`` drop only the batch's own reference.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, overload

from udpring._native import ffi, lib
from udpring.errors import ClosedError
from udpring.udp.address import Address, from_core, host_from_core

__all__ = ["Batch", "Packet"]

# data, length, segment_size, slot, interface_index, flags, tos, socket_index, source, local
_LAYOUT = struct.Struct("=QIIIIHBB24s24s4x")
_SIZE = _LAYOUT.size
_WORDS = _SIZE // 4  # struct udpring_packet as 32-bit words, for taking a column
_LENGTH_WORD = 2
_SOURCE_OFFSET, _SOURCE_END = 28, 52
_TRUNCATED = int(lib.UDPRING_PACKET_TRUNCATED)
_CONTROL_TRUNCATED = int(lib.UDPRING_PACKET_CONTROL_TRUNCATED)

if (
    ffi.sizeof("struct udpring_packet") != _SIZE
    or ffi.offsetof("struct udpring_packet", "length") != _LENGTH_WORD * 4
    or ffi.offsetof("struct udpring_packet", "source") != _SOURCE_OFFSET
    or ffi.offsetof("struct udpring_packet", "local") != _SOURCE_END
):  # pragma: no cover - a build against another header
    raise ImportError("udpring's compiled module and its Python code disagree about struct udpring_packet")


class Packet:
    """One datagram, or one train of equal datagrams when ``segment_size`` is not 0 (UDP_GRO, udp(7))."""

    __slots__ = ("_ipv6", "_local", "_source", "data", "flags", "interface_index", "segment_size", "tos")

    def __init__(self, data: memoryview, fields: tuple[Any, ...], ipv6_socket: bool) -> None:
        #: Read-only view of the payload, in place.
        self.data = data
        #: Bytes of each datagram of a train, the last may be shorter; 0 for a single datagram.
        self.segment_size: int = fields[2]
        #: Index of the interface it arrived on; 0 unknown.
        self.interface_index: int = fields[4]
        self.flags: int = fields[5]
        #: The TOS or traffic class octet.
        self.tos: int = fields[6]
        self._source: bytes = fields[8]
        self._local: bytes = fields[9]
        self._ipv6 = ipv6_socket

    @property
    def address(self) -> Address | None:
        """Where it came from, as ``recvfrom`` of this socket says it."""
        return from_core(self._source, self._ipv6)

    @property
    def local(self) -> str | None:
        """The address of ours that it was sent to; None unknown."""
        return host_from_core(self._local, self._ipv6)

    @property
    def ecn(self) -> int:
        """The ECN bits: 0 not capable, 1 or 2 capable, 3 congestion experienced (RFC 3168)."""
        return self.tos & 3

    @property
    def truncated(self) -> bool:
        """The datagram was longer than the buffer; the rest is lost."""
        return bool(self.flags & _TRUNCATED)

    @property
    def control_truncated(self) -> bool:
        """More ancillary data came than there was room for: address and flags may be incomplete."""
        return bool(self.flags & _CONTROL_TRUNCATED)

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __repr__(self) -> str:
        return f"<Packet of {len(self.data)} bytes from {self.address}>"


class Batch(Sequence[Packet]):
    """A sequence of packets; empty (and false) when the time was up. Also a context manager.

    After ``release()`` or the end of its ``with`` block the batch itself raises ClosedError, while packets
    and views taken from it stay valid.
    """

    __slots__ = ("_base", "_count", "_ipv6", "_raw", "_view")

    def __init__(self, taken: Any, ipv6_socket: bool) -> None:
        """``taken``: where a ``struct udpring_batch *`` lies; taken from there. NULL gives an empty batch."""
        self._ipv6 = ipv6_socket
        self._view: memoryview | None = memoryview(b"")
        self._count = 0
        self._base = 0
        self._raw = b""
        face = taken[0]
        if face == ffi.NULL:
            return
        taken[0] = ffi.NULL  # from here on it is ours: the caller must not release it, too
        anchor = ffi.gc(ffi.cast("uint8_t *", face.base), lambda _base: lib.udpring_batch_release(face))
        self._count = int(face.count)
        self._base = int(ffi.cast("uintptr_t", face.base))
        self._raw = bytes(ffi.buffer(face.packets, self._count * _SIZE))
        self._view = memoryview(ffi.buffer(anchor, face.bytes)).toreadonly()

    def _live(self) -> memoryview:
        if self._view is None:
            raise ClosedError("this batch was released; keep the packets or their data, not the batch")
        return self._view

    def _packet(self, view: memoryview, index: int) -> Packet:
        fields = _LAYOUT.unpack_from(self._raw, index * _SIZE)
        start = fields[0] - self._base
        return Packet(view[start : start + fields[1]], fields, self._ipv6)

    @overload
    def __getitem__(self, index: int) -> Packet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Packet]: ...
    def __getitem__(self, index: int | slice) -> Packet | list[Packet]:
        view = self._live()
        if isinstance(index, slice):
            return [self._packet(view, i) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"packet {index} of a batch of {self._count}")
        return self._packet(view, index % self._count)

    def __iter__(self) -> Iterator[Packet]:
        view = self._live()
        for index in range(self._count):
            yield self._packet(view, index)

    def __len__(self) -> int:
        return self._count

    def payloads(self) -> list[bytes]:
        """A copy of each payload."""
        view, base = self._live(), self._base
        return [
            bytes(view[start - base : start - base + length])
            for start, length in ((f[0], f[1]) for f in _LAYOUT.iter_unpack(self._raw))
        ]

    @property
    def lengths(self) -> list[int]:
        """The length of each payload in bytes."""
        self._live()
        return memoryview(self._raw).cast("I")[_LENGTH_WORD::_WORDS].tolist()

    @property
    def addresses(self) -> list[Address | None]:
        """Where each came from."""
        self._live()
        raw, ipv6 = self._raw, self._ipv6
        return [
            from_core(raw[at + _SOURCE_OFFSET : at + _SOURCE_END], ipv6) for at in range(0, len(raw), _SIZE)
        ]

    def release(self) -> None:
        """Drops the batch's hold on its buffers; those that nothing else looks at go back to the ring."""
        self._view = None
        self._raw = b""
        self._count = 0

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Batch of {self._count} packets>" if self._view is not None else "<Batch, released>"
