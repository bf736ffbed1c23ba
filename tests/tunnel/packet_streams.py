"""Streams of packets as hosts send them, some that no host would send, and the order they must keep."""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from offload_model import (
    ACK,
    CWR,
    ECE,
    FIN,
    ICMP,
    ICMPV6,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Flow,
    checksum,
    finish_ip,
    ones_sum,
    pseudo,
    put16,
)

TIMESTAMPS = bytes.fromhex("0101080a0001020304050607")


def ends(packet: bytes) -> tuple[bytes, bytes | None]:
    """The addresses, and the full flow. None: the packet may belong to any flow of these addresses."""
    if packet[0] >> 4 == 4:
        addresses, protocol, at = packet[12:20], packet[9], 20
        plain = packet[0] == 0x45 and not int.from_bytes(packet[6:8]) & 0x3FFF
    else:
        addresses, protocol, at = packet[8:40], packet[6], 40
        plain = True
    flow = None
    if plain and protocol in (TCP, UDP) and len(packet) >= at + 4:
        flow = bytes([protocol]) + packet[at : at + 4]
    return addresses, flow


def ports(packet: bytes) -> bytes | None:
    """Protocol and ports of an unfragmented packet, which distinguish flows of the same addresses."""
    if packet[0] >> 4 == 4:
        protocol, at = packet[9], (packet[0] & 15) * 4
        if int.from_bytes(packet[6:8]) & 0x3FFF:
            return None
    else:
        protocol, at = packet[6], 40
    known = protocol in (TCP, UDP) and len(packet) >= at + 4
    return bytes([protocol]) + packet[at : at + 4] if known else None


def is_echo(packet: bytes) -> bool:
    """Echoes may pass all other packets."""
    v6 = packet[0] >> 4 == 6
    protocol, at = (packet[6], 40) if v6 else (packet[9], (packet[0] & 15) * 4)
    if len(packet) < at + 8 or (not v6 and int.from_bytes(packet[6:8]) & 0x3FFF):
        return False
    return protocol == (ICMPV6 if v6 else ICMP) and packet[at] in ((128, 129) if v6 else (8, 0))


def check_order(before: list[bytes], after: list[bytes], *, barriers: bool = True) -> None:
    """No packet passed another one of its flow. With ``barriers``, a packet without a flow passed none of its
    addresses. The queues of a node keep order within a flow, and among packets without one but for echoes."""

    def strands(packets: list[bytes]) -> dict[object, list[bytes]]:
        found: dict[object, list[bytes]] = defaultdict(list)
        seen: dict[bytes, list[bytes]] = defaultdict(list)
        for packet in packets:
            addresses, flow = ends(packet)
            if not barriers:
                if not is_echo(packet):
                    found[addresses, ports(packet)].append(packet)
                continue
            seen[addresses].append(packet)
            if flow is None:
                # Packets of these addresses between two that belong to no flow.
                found[addresses, "between"].append(b"".join(sorted(seen.pop(addresses))))
                found[addresses, "barrier"].append(packet)
            else:
                found[addresses, flow].append(packet)
        for addresses, rest in seen.items():
            found[addresses, "between"].append(b"".join(sorted(rest)))
        return found

    arrived, sent = strands(after), strands(before)
    for strand, packets in sent.items():
        at = [packets.index(packet) if packet in packets else -1 for packet in arrived.get(strand, [])]
        assert arrived.get(strand) == packets, f"{strand}: {len(packets)} were sent, and these arrived: {at}"
    assert arrived == sent


def v4(**more: object) -> Flow:
    return replace(Flow("10.1.0.1", "10.1.0.2"), **more)  # type: ignore[arg-type]


def v6(**more: object) -> Flow:
    return replace(Flow("fd00::1", "fd00::2", label=0x12345), **more)  # type: ignore[arg-type]


def with_(flow: Flow, **changes: object) -> bytes:
    """A packet of the flow with these fields. The counters advance."""
    other = replace(flow, **changes)  # type: ignore[arg-type]
    made = other.packet(bytes(100))
    flow.ip_id, flow.sequence = flow.ip_id + 1 & 0xFFFF, flow.sequence + 100 & 0xFFFFFFFF
    return made


def corrupt(flow: Flow, at: int) -> bytes:
    made = bytearray(flow.packet(bytes(100)))
    made[at] ^= 0x10
    return bytes(made)


def reserved_bit(flow: Flow) -> bytes:
    def twist(packet: bytearray, at: int) -> None:
        packet[at + 12] |= 0x08

    return flow.packet(bytes(100), twist=twist)


def evil_bit(flow: Flow) -> bytes:
    def twist(packet: bytearray, _: int) -> None:
        packet[6] |= 0x80
        finish_ip(packet)

    return flow.packet(bytes(100), twist=twist)


DIFFERENT = {
    "ECN mark": lambda flow: with_(flow, tos=flow.tos | 3),
    "DSCP": lambda flow: with_(flow, tos=0xB8),
    "TTL": lambda flow: with_(flow, ttl=63),
    "wrong transport checksum": lambda flow: corrupt(flow, -1),
}
DIFFERENT_V4 = {
    "identification stays": lambda flow: with_(flow, ip_id=flow.ip_id - 1 & 0xFFFF),
    "identification jumps": lambda flow: with_(flow, ip_id=flow.ip_id + 1 & 0xFFFF),
    "don't fragment": lambda flow: with_(flow, dont_fragment=not flow.dont_fragment),
    "reserved fragment bit": evil_bit,
    "wrong header checksum": lambda flow: corrupt(flow, 10),
}
DIFFERENT_V6 = {"flow label": lambda flow: with_(flow, label=1)}
DIFFERENT_TCP = {
    "sequence": lambda flow: with_(flow, sequence=flow.sequence + 1),
    "acknowledgement": lambda flow: with_(flow, acknowledgement=9),
    "window": lambda flow: with_(flow, window=9),
    "options' content": lambda flow: with_(flow, options=TIMESTAMPS[:-1] + b"\xff"),
    "options' length": lambda flow: with_(flow, options=b""),
    "urgent pointer": lambda flow: flow.packet(bytes(100), urgent=7),
    "reserved bit": reserved_bit,
    **{
        f"flags {flags:#x}": lambda flow, flags=flags: flow.packet(bytes(100), flags)
        for flags in (0, PSH, FIN | ACK, SYN | ACK, RST | ACK, URG | ACK, ECE | ACK, CWR | ACK, 0xFF)
    },
}


def zero_checksum(flow: Flow) -> bytes:
    made = bytearray(flow.packet(bytes(100)))
    put16(made, (40 if flow.v6 else 20) + 6, 0)
    return bytes(made)


def udp_length(flow: Flow, summed: int = -2) -> bytes:
    """The length field is two bytes short. The checksum is right over the shorter length."""
    made = bytearray(flow.packet(bytes(100)))
    at = 40 if flow.v6 else 20
    put16(made, at + 4, len(made) - at - 2)
    put16(made, at + 6, 0)
    end = len(made) + summed
    put16(made, at + 6, checksum(pseudo(bytes(made), UDP, end - at) + bytes(made[at:end])))
    return bytes(made)


def udp_length_summed_whole(flow: Flow) -> bytes:
    """The length field is two bytes short. The checksum is right over all bytes."""
    return udp_length(flow, 0)


UDP_ONLY = {"no checksum": zero_checksum, "length": udp_length, "length, all summed": udp_length_summed_whole}


def zeroed(flow: Flow, field: int) -> bytes:
    """A packet whose payload makes the transport checksum zero, written as ``field``."""
    length = 100

    def build(tail: bytes) -> bytearray:
        return bytearray(replace(flow).packet(bytes(length - 2) + tail))

    made = build(b"\0\0")
    at = 40 if flow.v6 else 20
    where = at + (6 if flow.protocol == UDP else 16)
    put16(made, where, 0)
    tail = checksum(pseudo(bytes(made), flow.protocol, len(made) - at) + bytes(made[at:])).to_bytes(2)
    made = bytearray(flow.packet(bytes(length - 2) + tail))
    put16(made, where, field)
    assert ones_sum(pseudo(bytes(made), flow.protocol, len(made) - at) + bytes(made[at:])) == 0xFFFF
    return bytes(made)


def other_packet(kind: str, flow: Flow, data: bytes) -> bytes:
    """A packet with the flow's addresses, but of no flow that the coalescer knows."""
    if kind == "icmp":
        protocol = ICMPV6 if flow.v6 else ICMP
        rest = b"\x80\0\0\0\0\1\0\1" + data
        return bytes(flow.ip(rest, protocol))
    if kind == "fragment" and not flow.v6:
        return bytes(flow.ip(flow.transport(data), flow.protocol, fragment=0x2000))
    if kind == "later fragment" and not flow.v6:
        return bytes(flow.ip(data, flow.protocol, fragment=185))
    if kind == "options" and not flow.v6:
        return flow.packet(data, ip_options=bytes.fromhex("94040000"))
    if kind == "empty":
        return bytes(flow.ip(b"", 59))
    if kind == "cut":
        return bytes(flow.ip(flow.transport(data)[: len(data) % 28], flow.protocol))
    if kind == "header length" and not flow.v6:
        made = bytearray(flow.packet(data))
        made[0] = 0x40 | len(data) % 16
        return bytes(made)
    if kind == "data offset":
        made = bytearray(flow.packet(data))
        if flow.protocol == TCP:
            made[(40 if flow.v6 else 20) + 12] ^= len(data) % 16 << 4
        return bytes(made)
    if flow.v6:
        before = bytes([flow.protocol, 0, 1, 4, 0, 0, 0, 0])
        if kind in ("fragment", "later fragment"):
            before = struct.pack("!BBHI", flow.protocol, 0, 185 << 3 | (kind == "fragment"), 7)
            return flow.packet(data, before=before, before_type=44)
        return flow.packet(data, before=before, before_type=60)
    return bytes(flow.ip(data, 132))


ONES = {
    TCP: [*DIFFERENT.values(), *DIFFERENT_TCP.values()],
    UDP: [*DIFFERENT.values(), *UDP_ONLY.values()],
}
OTHERS = [
    "icmp", "fragment", "later fragment", "options", "empty", "cut", "header length", "data offset", "sctp",
]  # fmt: skip


PAYLOADS = (0, 1, 2, 7, 64, 100, 536, 1340)
"""Payload bytes per packet: with IPv6, an extension header and TCP timestamps, up to an MTU of 1420."""


class Step(NamedTuple):
    """A run of ``count`` packets of ``size`` payload bytes. The one at ``place`` is special; ``kind`` says
    how.

    ``last``: bit 0, the last has PSH; bit 1, the last is shorter.
    """

    count: int
    size: int
    kind: int
    place: int
    last: int


def run_of(flow: Flow, step: Step, generator: random.Random) -> list[bytes]:
    """One step of a stream: a run of packets of one flow, one of which is special."""
    count, size, kind, place, last = step
    made = []
    for number in range(count):
        if number != place:
            flags = ACK | (PSH if number == count - 1 and last & 1 else 0)
            length = generator.randint(0, size) if number == count - 1 and last & 2 else size
            made.append(flow.packet(generator.randbytes(length), flags))
            continue
        choices = ONES[flow.protocol] + list((DIFFERENT_V6 if flow.v6 else DIFFERENT_V4).values())
        choices += [lambda each: zeroed(each, 0), lambda each: zeroed(each, 0xFFFF)]
        if kind % 2:
            made.append(choices[kind // 2 % len(choices)](flow))
        else:
            made.append(other_packet(OTHERS[kind // 2 % len(OTHERS)], flow, generator.randbytes(size)))
    return made


def woven(runs: list[list[bytes]], generator: random.Random) -> list[bytes]:
    """The interleaved runs. Each keeps its order."""
    rest = [list(reversed(run)) for run in runs if run]
    packets = []
    while rest:
        run = generator.choice(rest)
        for _ in range(min(len(run), generator.choice((1, 1, 2, 5, 40)))):
            packets.append(run.pop())
        rest = [each for each in rest if each]
    return packets


def stream(plans: list[list[Step]], generator: random.Random, base4: Flow, base6: Flow) -> list[bytes]:
    """The interleaved packets of one flow per plan, about 600 kB at most.

    Two plans may use the same ports, like a second sender that does not know the first.
    """
    runs, total = [], 0
    for number, plan in enumerate(plans):
        flow = replace(
            generator.choice((base4, base6)),
            protocol=generator.choice((TCP, UDP)),
            sport=number // 2,
            dport=generator.choice((443, 53)),
            ip_id=generator.choice((0, 0x1234, 0xFFF0, 0xFFFF)),
            sequence=generator.choice((0, 2**32 - 5000, 2**31)),
            tos=generator.choice((0, 1, 2)),
            dont_fragment=generator.random() < 0.7,
        )
        if flow.protocol == TCP and generator.random() < 0.6:
            flow.options = TIMESTAMPS
        run: list[bytes] = []
        for step in plan:
            if total < 600_000:
                more = run_of(flow, step, generator)
                total += sum(map(len, more))
                run += more
        runs.append(run)
    return woven(runs, generator)


def random_plans(generator: random.Random, flows: int) -> list[list[Step]]:
    """One to three steps for each of that many flows."""
    return [
        [
            Step(
                generator.choice((1, 2, 3, 8, 30, 70)),
                generator.choice(PAYLOADS),
                generator.randint(0, 79),
                generator.randint(-5, 30),
                generator.randint(0, 3),
            )
            for _ in range(generator.randint(1, 3))
        ]
        for _ in range(flows)
    ]
