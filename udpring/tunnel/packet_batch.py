"""``PacketBatch``: IP packets that came out of the tunnel, in one piece of memory.

The memory belongs to the batch and lives as long as any view of it. Nobody else uses it, so a program may
change packets in place and send the batch on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, overload

from udpring._native import ffi, lib
from udpring.udp.uncopied import Uncopied

__all__ = ["PacketBatch", "TunnelPacket"]

_free = lib.udpring_packets_free
_buffer, _gc = ffi.buffer, ffi.gc
_OFFSETS, _LENGTHS, _PEERS = 0, 1, 2


class TunnelPacket(NamedTuple):
    """One IP packet.

    data: a writable view of it, in place.
    peer: the public key of the peer that sent it, in base64. None: the peer was removed since.
    """

    data: memoryview
    peer: str | None


class PacketBatch(Uncopied, Sequence[TunnelPacket]):
    """IP packets in the order of their arrival: a sequence of ``TunnelPacket``, and columns without an
    object for each packet.

    It is empty, and false, when nothing has arrived.
    """

    __slots__ = ("_anchor", "_columns", "_count", "_key_of", "_view")

    _instead = "payloads() are copies of what it holds"

    def __init__(self, raw: Any, key_of: Callable[[int], str | None]) -> None:
        """``raw``: a ``struct udpring_packets *`` to own; NULL gives an empty batch."""
        self._key_of = key_of
        if raw == ffi.NULL:
            self._anchor: Any = None
            self._count = 0
            self._view = memoryview(b"")
            self._columns = memoryview(b"").cast("I")
            return
        self._anchor = _gc(raw.data, partial(_free, raw))
        self._count = raw.count
        self._view = memoryview(_buffer(self._anchor, raw.bytes))
        self._columns = memoryview(bytes(_buffer(raw.offsets, 12 * raw.count))).cast("I")

    def _column(self, place: int) -> memoryview:
        return self._columns[place * self._count : (place + 1) * self._count]

    @property
    def data(self) -> memoryview:
        """One writable view of all packets: number i is ``data[offsets[i] : offsets[i] + lengths[i]]``.

        The bytes between them are undefined.
        """
        return self._view

    @property
    def offsets(self) -> memoryview:
        """The position of each in ``data``: a read-only view of uint32 (format "I"), for NumPy, array, ..."""
        return self._column(_OFFSETS)

    @property
    def lengths(self) -> memoryview:
        """The bytes of each packet, as a read-only view of uint32 (format "I")."""
        return self._column(_LENGTHS)

    @property
    def peers(self) -> memoryview:
        """The number of the peer that sent each, as a read-only view of uint32 (format "I").

        A number stands for one peer of this node as long as the node runs. ``public_key()`` names it.
        """
        return self._column(_PEERS)

    def public_key(self, peer: int) -> str | None:
        """The public key of the peer with this number, in base64; None: it was removed."""
        return self._key_of(peer)

    def views(self) -> list[memoryview]:
        """A writable view of each packet, in place."""
        view = self._view
        return [
            view[start : start + length] for start, length in zip(self.offsets, self.lengths, strict=True)
        ]

    def payloads(self) -> list[bytes]:
        """A copy of each packet."""
        view = self._view
        return [
            view[start : start + length].tobytes()
            for start, length in zip(self.offsets, self.lengths, strict=True)
        ]

    @overload
    def __getitem__(self, index: int) -> TunnelPacket: ...
    @overload
    def __getitem__(self, index: slice) -> list[TunnelPacket]: ...
    def __getitem__(self, index: int | slice) -> TunnelPacket | list[TunnelPacket]:
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        if not -self._count <= index < self._count:
            raise IndexError(f"packet {index} of a batch of {self._count}")
        index %= self._count
        start = self.offsets[index]
        return TunnelPacket(self._view[start : start + self.lengths[index]], self._key_of(self.peers[index]))

    def __iter__(self) -> Iterator[TunnelPacket]:
        return map(TunnelPacket, self.views(), map(self._key_of, self.peers))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<PacketBatch of {self._count} packets>"
