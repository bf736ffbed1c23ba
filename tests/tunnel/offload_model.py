"""A second implementation of segmentation and coalescing: slow, plain Python, from the specifications.

The oracle for native/tunnel/tun/segment.c and coalesce.c. Sources: virtio 1.2 section 5.1.6, RFC 1071
(checksum), RFC 791, RFC 768, RFC 8200, RFC 9293. Where these leave a choice, it does as Linux does
(net/ipv4/tcp_offload.c, udp_offload.c, af_inet.c, core/dev.c skb_checksum_help).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

HEADER = struct.Struct("=BBHHHH")
NEEDS_CSUM = 1
NONE, TCPV4, TCPV6, UDP_L4, ECN = 0, 1, 4, 5, 0x80
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
#: segment.c copies headers up to this length. Longer ones are refused.
HEADER_MAX = 1024


class Vnet(NamedTuple):
    """struct virtio_net_hdr, host byte order."""

    flags: int = 0
    gso_type: int = NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def pack(self) -> bytes:
        return HEADER.pack(*self)

    @classmethod
    def of(cls, message: bytes) -> tuple[Vnet, bytes]:
        """The header and the packet of one message of a TUN device."""
        return cls(*HEADER.unpack_from(message)), message[HEADER.size :]


def ones_sum(data: bytes) -> int:
    """The folded one's complement sum of 16-bit words. An odd byte is the high half of the last word."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """The Internet checksum."""
    return ~ones_sum(data) & 0xFFFF


def pseudo(packet: bytes, protocol: int, length: int) -> bytes:
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack("!II", length, protocol)


def put16(data: bytearray, at: int, value: int) -> None:
    struct.pack_into("!H", data, at, value & 0xFFFF)


def finish_ip(packet: bytearray) -> None:
    """Sets an IP header's length and, for IPv4, its checksum."""
    if packet[0] >> 4 == 6:
        put16(packet, 4, len(packet) - 40)
        return
    put16(packet, 2, len(packet))
    put16(packet, 10, 0)
    put16(packet, 10, checksum(bytes(packet[: (packet[0] & 15) * 4])))


def finish_transport(packet: bytearray, at: int, protocol: int) -> None:
    """Sets the length of UDP and the checksum of TCP, UDP or ICMPv6 at offset ``at``."""
    field = at + {TCP: 16, UDP: 6, ICMPV6: 2}[protocol]
    if protocol == UDP:
        put16(packet, at + 4, len(packet) - at)
    put16(packet, field, 0)
    value = checksum(pseudo(packet, protocol, len(packet) - at) + bytes(packet[at:]))
    if protocol == UDP and value == 0:
        value = 0xFFFF
    put16(packet, field, value)


def transport_header(vnet: Vnet, packet: bytes) -> int | None:
    """Bytes of all headers of a super-packet. None: its virtio header cannot be right."""
    kind, at = vnet.gso_type & ~ECN, vnet.csum_start
    version = packet[0] >> 4 if len(packet) >= 20 else 0
    if kind not in {TCPV4: (4,), TCPV6: (6,), UDP_L4: (4, 6)} or version not in (
        {TCPV4: (4,), TCPV6: (6,)}.get(kind, (4, 6))
    ):
        return None
    ip = (packet[0] & 15) * 4 if version == 4 else 40
    least = 8 if kind == UDP_L4 else 20
    if not vnet.flags & NEEDS_CSUM or not vnet.gso_size or ip < 20 or at + least > len(packet):
        return None
    if at < ip or (version == 4 and at != ip):
        return None
    size = 8 if kind == UDP_L4 else (packet[at + 12] >> 4) * 4
    if size < least or at + size > min(HEADER_MAX, len(packet)):
        return None
    return at + size


def segment(vnet: Vnet, packet: bytes) -> list[bytes] | None:
    """The packets on the wire. None: the virtio header cannot be right."""
    if vnet.gso_type & ~ECN == NONE:
        if not vnet.flags & NEEDS_CSUM:
            return [packet]
        field = vnet.csum_start + vnet.csum_offset
        if vnet.csum_start >= len(packet) or field + 2 > len(packet):
            return None
        whole = bytearray(packet)
        put16(whole, field, checksum(packet[vnet.csum_start :]) or 0xFFFF)
        return [bytes(whole)]
    header = transport_header(vnet, packet)
    if header is None:
        return None
    at = vnet.csum_start
    protocol = UDP if vnet.gso_type & ~ECN == UDP_L4 else TCP
    payload = packet[header:]
    starts = range(0, max(len(payload), 1), vnet.gso_size)
    made = []
    for number, start in enumerate(starts):
        piece = bytearray(packet[:header] + payload[start : start + vnet.gso_size])
        if piece[0] >> 4 == 4:
            put16(piece, 4, int.from_bytes(packet[4:6]) + number)
        finish_ip(piece)
        if protocol == TCP:
            sequence = int.from_bytes(packet[at + 4 : at + 8]) + start
            struct.pack_into("!I", piece, at + 4, sequence & 0xFFFFFFFF)
            if number:
                piece[at + 13] &= ~CWR & 0xFF
            if start != starts[-1]:
                piece[at + 13] &= ~(FIN | PSH) & 0xFF
        finish_transport(piece, at, protocol)
        made.append(bytes(piece))
    return made


@dataclass
class Flow:
    """Makes the packets of one flow as a sender does: IP identification and sequence number count up."""

    source: str
    target: str
    protocol: int = TCP
    sport: int = 40000
    dport: int = 443
    ip_id: int = 0
    sequence: int = 0
    acknowledgement: int = 1
    window: int = 500
    tos: int = 0
    ttl: int = 64
    dont_fragment: bool = True
    options: bytes = b""
    label: int = 0

    @property
    def v6(self) -> bool:
        return ":" in self.source

    def ip(self, rest: bytes, protocol: int, options: bytes = b"", fragment: int | None = None) -> bytearray:
        """The IP packet around ``rest``. ``options``: of IPv4; ``fragment``: its flags and offset."""
        ends = ip_address(self.source).packed + ip_address(self.target).packed
        if self.v6:
            first = 6 << 28 | self.tos << 20 | self.label
            return bytearray(struct.pack("!IHBB", first, len(rest), protocol, self.ttl) + ends + rest)
        if fragment is None:
            fragment = 0x4000 if self.dont_fragment else 0
        words = 5 + len(options) // 4
        head = struct.pack(
            "!BBHHHBBH", 4 << 4 | words, self.tos, 0, self.ip_id, fragment, self.ttl, protocol, 0
        )
        packet = bytearray(head + ends + options + rest)
        finish_ip(packet)
        self.ip_id = self.ip_id + 1 & 0xFFFF
        return packet

    def transport(self, payload: bytes, flags: int = ACK, urgent: int = 0) -> bytes:
        if self.protocol == UDP:
            return struct.pack("!HHHH", self.sport, self.dport, 0, 0) + payload
        words = 5 + len(self.options) // 4
        head = struct.pack(
            "!HHIIBBHHH",
            self.sport,
            self.dport,
            self.sequence,
            self.acknowledgement,
            words << 4,
            flags,
            self.window,
            0,
            urgent,
        )
        self.sequence = self.sequence + len(payload) + bool(flags & (SYN | FIN)) & 0xFFFFFFFF
        return head + self.options + payload

    def packet(
        self,
        payload: bytes,
        flags: int = ACK,
        *,
        urgent: int = 0,
        ip_options: bytes = b"",
        before: bytes = b"",
        before_type: int = 0,
        twist: Callable[[bytearray, int], None] | None = None,
    ) -> bytes:
        """One packet. ``before``: IPv6 extension headers; the first one has the type ``before_type``.

        ``twist(packet, offset of the transport header)`` changes the packet before its checksum is computed.
        """
        rest = before + self.transport(payload, flags, urgent)
        packet = self.ip(rest, before_type if before else self.protocol, ip_options)
        at = len(packet) - len(rest) + len(before)
        if twist:
            twist(packet, at)
        finish_transport(packet, at, self.protocol)
        return bytes(packet)

    def super_packet(self, payload: bytes, size: int, flags: int = ACK, **more: object) -> tuple[Vnet, bytes]:
        """The super-packet that a kernel makes for a send of ``payload`` in segments of ``size``."""
        packet = bytearray(self.packet(payload, flags, **more))  # type: ignore[arg-type]
        rest = len(payload) + (8 if self.protocol == UDP else 20 + len(self.options))
        at = len(packet) - rest
        offset = 6 if self.protocol == UDP else 16
        put16(packet, at + offset, ones_sum(pseudo(packet, self.protocol, rest)))
        kind = UDP_L4 if self.protocol == UDP else TCPV6 if self.v6 else TCPV4
        if self.protocol == TCP and flags & CWR:
            kind |= ECN
        return Vnet(NEEDS_CSUM, kind, len(packet) - len(payload), size, at, offset), bytes(packet)
