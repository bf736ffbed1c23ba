"""``Packet``: one datagram of a batch, with the kernel's reports about it."""

from __future__ import annotations

import struct
from socket import socket as Socket

from udpring._native import ffi, lib
from udpring.udp.address import Address, from_core, host_from_core
from udpring.udp.origin import Origin
from udpring.udp.uncopied import Uncopied

__all__ = ["FIELDS", "RECORD", "Packet", "of_train"]

RECORD = int(ffi.sizeof("struct udpring_packet"))
#: Offset and size of each field of ``struct udpring_packet``.
FIELDS = {
    name: (int(field.offset), int(ffi.sizeof(field.type)))
    for name, field in ffi.typeof("struct udpring_packet").fields
}
_SEGMENT_SIZE, _INTERFACE = FIELDS["segment_size"][0], FIELDS["interface_index"][0]
_SOCKET = FIELDS["socket_index"][0]
_FLAGS, _TOS, _TIMESTAMP = FIELDS["flags"][0], FIELDS["tos"][0], FIELDS["timestamp"][0]
_SOURCE = slice(FIELDS["source"][0], sum(FIELDS["source"]))
_LOCAL = slice(FIELDS["local"][0], sum(FIELDS["local"]))
_TRUNCATED = int(lib.UDPRING_PACKET_TRUNCATED)
_CONTROL_TRUNCATED = int(lib.UDPRING_PACKET_CONTROL_TRUNCATED)
_u16, _u32, _u64 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")


class Packet(Uncopied):
    """One datagram, or one train of equal datagrams when ``segment_size`` is not 0 (UDP_GRO, udp(7))."""

    __slots__ = ("_origin", "_record", "data")

    _instead = "bytes(packet) is a copy of its payload"

    def __init__(self, data: memoryview, record: bytes, origin: Origin) -> None:
        """``record``: the bytes of its ``struct udpring_packet``."""
        #: Read-only view of the payload in place, valid as long as it is held.
        self.data = data
        self._record = record
        self._origin = origin

    @property
    def socket(self) -> Socket:
        """The socket that received it, also after the ring has left that socket."""
        return self._origin.socket(_u32.unpack_from(self._record, _SOCKET)[0])

    @property
    def address(self) -> Address:
        """The source, as ``recvfrom`` of this socket returns it. A datagram of a UDP socket always has one
        (udp(7))."""
        nowhere: Address = ("::", 0, 0, 0) if self._origin.ipv6 else ("0.0.0.0", 0)
        return from_core(self._record[_SOURCE], self._origin.ipv6) or nowhere

    @property
    def local(self) -> str | None:
        """The local address that it was sent to (IP_PKTINFO, ip(7)); None: unknown."""
        return host_from_core(self._record[_LOCAL], self._origin.ipv6)

    @property
    def tos(self) -> int:
        """The TOS or traffic class octet."""
        return self._record[_TOS]

    @property
    def ecn(self) -> int:
        """The ECN bits: 0 not capable, 1 or 2 capable, 3 congestion experienced (RFC 3168)."""
        return self._record[_TOS] & 3

    @property
    def timestamp(self) -> int:
        """When it arrived, CLOCK_REALTIME in nanoseconds; 0 without ``timestamps=True``.

        All datagrams of a train have the time of the train.
        """
        return int(_u64.unpack_from(self._record, _TIMESTAMP)[0])

    @property
    def interface_index(self) -> int:
        """Index of the interface it arrived on (if_nametoindex(3)); 0 unknown."""
        return int(_u32.unpack_from(self._record, _INTERFACE)[0])

    @property
    def segment_size(self) -> int:
        """Bytes of each datagram of a train, the last may be shorter; 0 for a single datagram."""
        return int(_u32.unpack_from(self._record, _SEGMENT_SIZE)[0])

    @property
    def flags(self) -> int:
        """``UDPRING_PACKET_*`` bits; see ``truncated`` and ``control_truncated``."""
        return int(_u16.unpack_from(self._record, _FLAGS)[0])

    @property
    def truncated(self) -> bool:
        """It was longer than the buffer: the rest is lost, and in a train all datagrams after it."""
        return bool(self.flags & _TRUNCATED)

    @property
    def control_truncated(self) -> bool:
        """There was more ancillary data than room for it. Address and flags may be incomplete."""
        return bool(self.flags & _CONTROL_TRUNCATED)

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __repr__(self) -> str:
        return f"<Packet of {len(self.data)} bytes from {self.address}>"


def of_train(record: bytes, *, last: bool) -> bytes:
    """The record of one datagram of a train. Only the last one of a truncated train is truncated."""
    out = bytearray(record)
    _u32.pack_into(out, _SEGMENT_SIZE, 0)
    if not last:
        _u16.pack_into(out, _FLAGS, _u16.unpack_from(out, _FLAGS)[0] & ~_TRUNCATED)
    return bytes(out)
