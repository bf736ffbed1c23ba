"""Segmenting the coalescer's output restores its input: bit for bit, nothing lost, flows in order.

A unix socket stands for the TUN device: one write is one message. segment.c and the Python model both segment
the output.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator

import pytest
from core_internals import ffi, lib
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_model import (
    ACK,
    NONE,
    PSH,
    TCP,
    UDP,
    Vnet,
    finish_ip,
    ones_sum,
    pseudo,
    put16,
    segment,
)
from packet_streams import (
    DIFFERENT,
    DIFFERENT_TCP,
    DIFFERENT_V4,
    DIFFERENT_V6,
    PAYLOADS,
    TIMESTAMPS,
    UDP_ONLY,
    Step,
    check_order,
    reserved_bit,
    stream,
    v4,
    v6,
    zeroed,
)

CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
ALL = CSUM | TSO4 | TSO6 | TSO_ECN | USO4 | USO6
NO_USO = CSUM | TSO4 | TSO6 | TSO_ECN
PIECES, FLOWS, BYTES = 64, 16, 65535


class Device:
    """Receives what the coalescer writes. One per test run."""

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


def segmented(written: list[tuple[Vnet, bytes]]) -> list[bytes]:
    """The packets in the order of the super-packets, each of which a kernel would accept."""
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


def round_trip(device: Device, packets: list[bytes], offloads: int = ALL) -> list[tuple[Vnet, bytes]]:
    """Writes, segments, compares. Returns the messages."""
    written = device.write(packets, offloads)
    out = segmented(written)
    assert sorted(out) == sorted(packets)
    check_order(packets, out)
    return written


def sizes(written: list[tuple[Vnet, bytes]]) -> list[int]:
    """The number of packets in each message."""
    return [len(segment(vnet, packet) or ()) for vnet, packet in written]


# ---- merged ----


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


def test_the_oldest_flow_makes_room(device: Device) -> None:
    """Not the flow that now lies in the slot of an ended one."""
    flows = [v4(sport=port) for port in range(FLOWS + 2)]
    packets = [flow.packet(bytes(1000)) for flow in flows[:FLOWS]]
    packets.append(flows[0].packet(bytes(10)))  # ends the first flow; the last one takes its slot
    packets.append(flows[0].packet(bytes(1000)))  # begins again, as the youngest
    packets.append(flows[FLOWS].packet(bytes(1000)))  # evicts the second flow
    packets += [flow.packet(bytes(1000)) for flow in (flows[0], *flows[2 : FLOWS + 1])]
    assert sorted(sizes(round_trip(device, packets))) == [1, 2, *[2] * FLOWS]


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


# ---- not merged, because segmentation would not restore it ----


def one_bad(make: object, change: object, **of: object) -> list[bytes]:
    """Five packets of a flow. ``change(flow)`` makes the third one."""
    flow = make(**of)  # type: ignore[operator]
    return [change(flow) if number == 2 else flow.packet(bytes(100)) for number in range(5)]  # type: ignore[operator]


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


def test_reserved_tcp_bit_prevents_coalescing(device: Device) -> None:
    """The bit may get a meaning: in accurate ECN it changes within a super-packet."""
    flow = v4()
    packets = [reserved_bit(flow) for _ in range(5)]
    assert sizes(round_trip(device, packets)) == [1] * 5


@pytest.mark.parametrize("place", [0, 1, 2, 4])
@pytest.mark.parametrize("make", [v4, v6])
@pytest.mark.parametrize(
    ("protocol", "field", "merged"),
    [(TCP, 0x0000, True), (TCP, 0xFFFF, False), (UDP, 0xFFFF, True), (UDP, 0x0000, False)],
)
def test_the_two_zeros_of_a_transport_checksum(
    device: Device, make: object, protocol: int, field: int, merged: bool, place: int
) -> None:
    """One's complement has two zeros. Both are right, but segmentation writes only one."""
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


# ---- any input ----


steps = st.builds(
    Step,
    st.sampled_from([1, 2, 3, 8, 30, 70]),
    st.sampled_from([*PAYLOADS, 9000]),
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
def test_any_stream_comes_out_as_it_went_in(per_flow: list[list[Step]], seed: int, offloads: int) -> None:
    packets = stream(per_flow, random.Random(seed), v4(), v6())
    device = Device()
    try:
        round_trip(device, packets, offloads)
    finally:
        device.close()


@given(packets=st.lists(st.tuples(st.sampled_from([4, 6]), st.binary(max_size=120)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_come_out_unchanged(packets: list[tuple[int, bytes]]) -> None:
    """Input that inbound.c lets through: only the version and the packet's own length are right."""
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
