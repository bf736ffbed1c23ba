"""What the coalescer writes, taken apart again, is what came in: bit for bit, nothing lost, flows in order.

A unix socket stands for the TUN device: one write is one message. Taken apart twice: by segment.c and by the
Python model.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_model import (
    ACK,
    CWR,
    ECE,
    FIN,
    ICMP,
    ICMPV6,
    NONE,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Flow,
    Vnet,
    checksum,
    finish_ip,
    ones_sum,
    pseudo,
    put16,
    segment,
)

from udpring._native import ffi, lib

CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
ALL = CSUM | TSO4 | TSO6 | TSO_ECN | USO4 | USO6
NO_USO = CSUM | TSO4 | TSO6 | TSO_ECN
TIMESTAMPS = bytes.fromhex("0101080a0001020304050607")
PIECES, FLOWS, BYTES = 64, 16, 65535


class Device:
    """Takes what the coalescer writes; one per test run."""

    def __init__(self) -> None:
        self.inside, self.outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self.inside, self.outside):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            each.settimeout(30)
        self.inside.setblocking(True)

    def close(self) -> None:
        self.inside.close()
        self.outside.close()

    def _drain(self, into: list[bytes]) -> None:
        while len(message := self.outside.recv(1 << 17)) > 1:
            into.append(message)

    def write(self, packets: list[bytes], offloads: int = ALL) -> list[tuple[Vnet, bytes]]:
        """The messages that these packets became."""
        messages: list[bytes] = []
        reader = threading.Thread(target=self._drain, args=(messages,))
        reader.start()
        lengths = ffi.new("uint32_t[]", [len(packet) for packet in packets])
        count = lib.udpring_coalesce(self.inside.fileno(), offloads, b"".join(packets), lengths, len(packets))
        self.inside.send(b"\0")
        reader.join()
        written = [Vnet.of(message) for message in messages]
        assert count == sum(vnet.gso_type != NONE for vnet, _ in written)
        return written


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


def core_segment(vnet: Vnet, packet: bytes) -> list[bytes]:
    most = PIECES + 1
    room = len(packet) + 200 * most
    out, lengths = ffi.new("uint8_t[]", room), ffi.new("uint32_t[]", most)
    count = lib.udpring_segment(vnet.pack(), packet, len(packet), out, room, lengths, most)
    assert count > 0
    made, at = [], 0
    for number in range(count):
        made.append(bytes(ffi.buffer(out + at, lengths[number])))
        at += lengths[number]
    return made


def taken_apart(written: list[tuple[Vnet, bytes]]) -> list[bytes]:
    """The packets, in the order of the super-packets; each of these is one that a kernel takes."""
    packets = []
    for vnet, packet in written:
        pieces = segment(vnet, packet)
        assert pieces is not None
        assert core_segment(vnet, packet) == pieces
        if vnet.gso_type == NONE:
            assert vnet == Vnet()
        else:
            assert 2 <= len(pieces) <= PIECES
            assert len(packet) <= BYTES
            at = vnet.csum_start
            length = int.from_bytes(packet[2:4]) if packet[0] >> 4 == 4 else int.from_bytes(packet[4:6]) + 40
            assert length == len(packet)
            assert packet[0] >> 4 == 6 or ones_sum(packet[:20]) == 0xFFFF
            protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
            assert int.from_bytes(packet[at + vnet.csum_offset :][:2]) == ones_sum(
                pseudo(packet, protocol, len(packet) - at)
            )
            assert vnet.hdr_len == len(packet) - len(packet[at:]) + (
                8 if protocol == UDP else (packet[at + 12] >> 4) * 4
            )
            if protocol == UDP:
                assert int.from_bytes(packet[at + 4 : at + 6]) == len(packet) - at
        packets += pieces
    return packets


def ends(packet: bytes) -> tuple[bytes, bytes | None]:
    """The addresses, and the flow in full or None when the packet may belong to any flow of these."""
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


def check_order(before: list[bytes], after: list[bytes]) -> None:
    """No packet passed another of its flow; one without a flow passed none of its addresses."""

    def strands(packets: list[bytes]) -> dict[object, list[bytes]]:
        found: dict[object, list[bytes]] = defaultdict(list)
        seen: dict[bytes, list[bytes]] = defaultdict(list)
        for packet in packets:
            addresses, flow = ends(packet)
            seen[addresses].append(packet)
            if flow is None:
                # Which packets of these addresses came between two that belong to no flow.
                found[addresses, "between"].append(b"".join(sorted(seen.pop(addresses))))
                found[addresses, "barrier"].append(packet)
            else:
                found[addresses, flow].append(packet)
        for addresses, rest in seen.items():
            found[addresses, "between"].append(b"".join(sorted(rest)))
        return found

    assert strands(after) == strands(before)


def round_trip(device: Device, packets: list[bytes], offloads: int = ALL) -> list[tuple[Vnet, bytes]]:
    """Writes, takes apart, compares; what was written."""
    written = device.write(packets, offloads)
    out = taken_apart(written)
    assert sorted(out) == sorted(packets)
    check_order(packets, out)
    return written


def sizes(written: list[tuple[Vnet, bytes]]) -> list[int]:
    """How many packets each message stands for."""
    return [len(segment(vnet, packet) or ()) for vnet, packet in written]


def v4(**more: object) -> Flow:
    return replace(Flow("10.1.0.1", "10.1.0.2"), **more)  # type: ignore[arg-type]


def v6(**more: object) -> Flow:
    return replace(Flow("fd00::1", "fd00::2", label=0x12345), **more)  # type: ignore[arg-type]


# ---- merged where it should be ----


@pytest.mark.parametrize("make", [v4, v6])
def test_bulk_tcp_becomes_super_packets_of_64_kb(device: Device, make: object) -> None:
    flow = make(options=TIMESTAMPS, sequence=0xFFFF0000, ip_id=0xFF00)  # type: ignore[operator]
    packets = [flow.packet(random.Random(number).randbytes(1380)) for number in range(470)]
    assert (
        sizes(round_trip(device, packets)) == [47] * 10
    )  # 47 x 1380 and headers are below 65535, 48 are not


@pytest.mark.parametrize("make", [v4, v6])
def test_small_udp_becomes_trains_of_64(device: Device, make: object) -> None:
    flow = make(protocol=UDP)  # type: ignore[operator]
    packets = [flow.packet(random.Random(number).randbytes(64)) for number in range(640)]
    assert sizes(round_trip(device, packets)) == [64] * 10


def test_sixteen_flows_at_once(device: Device) -> None:
    flows = [(v4 if port % 2 else v6)(sport=port, protocol=UDP if port % 3 else TCP) for port in range(FLOWS)]
    packets = [flow.packet(bytes(1000)) for _ in range(32) for flow in flows]
    assert sizes(round_trip(device, packets)) == [32] * FLOWS


def test_more_flows_than_that_still_come_out(device: Device) -> None:
    flows = [v4(sport=port) for port in range(3 * FLOWS)]
    packets = [flow.packet(bytes(1000)) for _ in range(8) for flow in flows]
    round_trip(device, packets)


@pytest.mark.parametrize(("last", "expected"), [(1495, [5]), (1496, [4, 1])])
def test_the_longest_super_packet_is_65535_bytes(device: Device, last: int, expected: list[int]) -> None:
    """20 + 20 + 4 x 16000 + 1495 = 65535."""
    flow = v4()
    packets = [flow.packet(bytes(size)) for size in (16000, 16000, 16000, 16000, last)]
    assert sizes(round_trip(device, packets)) == expected


def test_a_shorter_packet_is_the_last(device: Device) -> None:
    flow = v4()
    packets = [flow.packet(bytes(size)) for size in (1000, 1000, 999, 1000, 1000, 1, 500, 500)]
    assert sizes(round_trip(device, packets)) == [3, 3, 2]


def test_push_is_the_last(device: Device) -> None:
    flow = v4()
    packets = [flow.packet(bytes(100), ACK | (PSH if number in (0, 3) else 0)) for number in range(7)]
    assert sizes(round_trip(device, packets)) == [1, 3, 3]


def test_a_kernel_without_udp_super_packets_gets_single_ones(device: Device) -> None:
    tcp, udp = v4(), v4(protocol=UDP)
    packets = [flow.packet(bytes(100)) for _ in range(5) for flow in (tcp, udp)]
    assert sorted(sizes(round_trip(device, packets, NO_USO))) == [1] * 5 + [5]


def test_without_offloads_all_are_single(device: Device) -> None:
    flow = v4()
    packets = [flow.packet(bytes(100)) for _ in range(9)]
    written = round_trip(device, packets, 0)
    assert [packet for _, packet in written] == packets


# ---- not merged where it would not come apart the same ----


def one_bad(make: object, change: object, **of: object) -> list[bytes]:
    """Five packets of a flow, the third of which ``change(flow)`` makes."""
    flow = make(**of)  # type: ignore[operator]
    return [change(flow) if number == 2 else flow.packet(bytes(100)) for number in range(5)]  # type: ignore[operator]


def with_(flow: Flow, **changes: object) -> bytes:
    """A packet of the flow with these fields; the counters go on."""
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
    """Claims two bytes less than there are; the checksum is right over what it claims."""
    made = bytearray(flow.packet(bytes(100)))
    at = 40 if flow.v6 else 20
    put16(made, at + 4, len(made) - at - 2)
    put16(made, at + 6, 0)
    end = len(made) + summed
    put16(made, at + 6, checksum(pseudo(bytes(made), UDP, end - at) + bytes(made[at:end])))
    return bytes(made)


def udp_length_summed_whole(flow: Flow) -> bytes:
    """Claims two bytes less than there are; the checksum is right over all of them."""
    return udp_length(flow, 0)


UDP_ONLY = {"no checksum": zero_checksum, "length": udp_length, "length, all summed": udp_length_summed_whole}
CASES = [
    *((v4, TCP, name, change) for name, change in (DIFFERENT | DIFFERENT_V4 | DIFFERENT_TCP).items()),
    *((v6, TCP, name, change) for name, change in (DIFFERENT | DIFFERENT_V6 | DIFFERENT_TCP).items()),
    *((v4, UDP, name, change) for name, change in (DIFFERENT | DIFFERENT_V4).items()),
    *((v6, UDP, name, change) for name, change in (DIFFERENT | DIFFERENT_V6).items()),
    *((make, UDP, name, change) for make in (v4, v6) for name, change in UDP_ONLY.items()),
]


@pytest.mark.parametrize(
    ("make", "protocol", "change"),
    [
        pytest.param(make, protocol, change, id=f"{make.__name__}-{protocol}-{name}")
        for make, protocol, name, change in CASES
    ],
)
def test_a_packet_that_differs_is_not_merged(
    device: Device, make: object, protocol: int, change: object
) -> None:
    packets = one_bad(make, change, protocol=protocol, options=TIMESTAMPS if protocol == TCP else b"")
    written = round_trip(device, packets)
    assert sizes(written)[0] == 2
    assert packets[2] in [packet for vnet, packet in written if vnet.gso_type == NONE]


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_first_fragments_are_not_merged_however_whole_they_look(device: Device, protocol: int) -> None:
    def twist(packet: bytearray, _: int) -> None:
        packet[6] = 0x20
        finish_ip(packet)

    flow = v4(protocol=protocol)
    packets = [flow.packet(bytes(96), twist=twist) for _ in range(5)]
    written = round_trip(device, packets)
    assert [packet for _, packet in written] == packets


def test_a_reserved_bit_of_tcp_on_all_packets_keeps_them_single(device: Device) -> None:
    """Whatever it may mean one day: accurate ECN, for one, has the bit change within a super-packet."""
    flow = v4()
    packets = [reserved_bit(flow) for _ in range(5)]
    assert sizes(round_trip(device, packets)) == [1] * 5


def zeroed(flow: Flow, field: int) -> bytes:
    """A packet of the flow whose transport checksum is zero, by its payload, written as ``field``."""
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


@pytest.mark.parametrize("place", [0, 1, 2, 4])
@pytest.mark.parametrize("make", [v4, v6])
@pytest.mark.parametrize(
    ("protocol", "field", "merged"),
    [(TCP, 0x0000, True), (TCP, 0xFFFF, False), (UDP, 0xFFFF, True), (UDP, 0x0000, False)],
)
def test_the_two_zeros_of_a_transport_checksum(
    device: Device, make: object, protocol: int, field: int, merged: bool, place: int
) -> None:
    """One's complement has two: both are right, but segmentation writes only one of them."""
    flow = make(protocol=protocol)  # type: ignore[operator]
    packets = [zeroed(flow, field) if number == place else flow.packet(bytes(100)) for number in range(5)]
    written = round_trip(device, packets)
    assert (len(written) == 1) == merged


@pytest.mark.parametrize("place", [0, 1, 2, 4])
@pytest.mark.parametrize(("field", "merged"), [(0x0000, True), (0xFFFF, False)])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_the_two_zeros_of_an_ipv4_header_checksum(
    device: Device, protocol: int, field: int, merged: bool, place: int
) -> None:
    for first in range(0x10000):
        head = v4(protocol=protocol, ip_id=first).ip(bytes(100 + (8 if protocol == UDP else 20)), protocol)
        if int.from_bytes(head[10:12]) == 0:
            break
    flow = v4(protocol=protocol, ip_id=first - place & 0xFFFF)
    packets = [flow.packet(bytes(100)) for _ in range(5)]
    assert packets[place][10:12] == b"\0\0"
    packets[place] = packets[place][:10] + field.to_bytes(2) + packets[place][12:]
    written = round_trip(device, packets)
    assert (len(written) == 1) == merged


# ---- anything at all ----


def other_packet(kind: str, flow: Flow, data: bytes) -> bytes:
    """A packet of the flow's addresses that belongs to no flow the coalescer may know."""
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


def run_of(flow: Flow, step: tuple[int, int, int, int, int], generator: random.Random) -> list[bytes]:
    """What one step of a stream adds: a run of packets of one flow, one of which is special."""
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
    """The runs interleaved; each stays in its order."""
    rest = [list(reversed(run)) for run in runs if run]
    packets = []
    while rest:
        run = generator.choice(rest)
        for _ in range(min(len(run), generator.choice((1, 1, 2, 5, 40)))):
            packets.append(run.pop())
        rest = [each for each in rest if each]
    return packets


steps = st.tuples(
    st.sampled_from([1, 2, 3, 8, 30, 70]),
    st.sampled_from([0, 1, 2, 7, 64, 100, 536, 1380, 9000]),
    st.integers(0, 79),
    st.integers(-5, 30),
    st.integers(0, 3),
)


@given(
    per_flow=st.lists(st.lists(steps, min_size=1, max_size=3), min_size=1, max_size=22),
    seed=st.integers(0, 2**32),
    offloads=st.sampled_from([ALL, ALL, ALL, NO_USO, CSUM, 0]),
)
@settings(max_examples=150, deadline=None)
def test_any_stream_comes_out_as_it_went_in(
    per_flow: list[list[tuple[int, int, int, int, int]]], seed: int, offloads: int
) -> None:
    generator = random.Random(seed)
    runs, total = [], 0
    for number, plan in enumerate(per_flow):
        flow = generator.choice((v4, v6))(
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
    device = Device()
    try:
        round_trip(device, woven(runs, generator), offloads)
    finally:
        device.close()


@given(packets=st.lists(st.tuples(st.sampled_from([4, 6]), st.binary(max_size=120)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_behind_a_valid_length_come_out_as_they_went_in(packets: list[tuple[int, bytes]]) -> None:
    """What inbound.c lets through: version, and the packet's own length. Nothing else need be right."""
    made = []
    for version, data in packets:
        packet = bytearray(data.ljust(20 if version == 4 else 40, b"\0"))
        packet[0] = version << 4 | packet[0] & 15
        put16(packet, *((2, len(packet)) if version == 4 else (4, len(packet) - 40)))
        made.append(bytes(packet))
    device = Device()
    try:
        written = device.write(made)
    finally:
        device.close()
    out = [piece for vnet, packet in written for piece in segment(vnet, packet) or [b"refused"]]
    assert sorted(out) == sorted(made)
