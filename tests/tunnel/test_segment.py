"""Segmented super-packets equal the Python model's packets, for anything a kernel hands over."""

from __future__ import annotations

import errno
import random
import struct
from dataclasses import replace

import pytest
from core_internals import ffi, lib
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_model import (
    ACK,
    CWR,
    ECE,
    ECN,
    FIN,
    NEEDS_CSUM,
    PSH,
    RST,
    SYN,
    TCP,
    TCPV4,
    TCPV6,
    UDP,
    UDP_L4,
    URG,
    Flow,
    Vnet,
    checksum,
    ones_sum,
    pseudo,
    put16,
    segment,
)

V4 = Flow("10.1.0.1", "10.1.0.2")
V6 = Flow("fd00::1", "fd00::2", label=0x12345)
TIMESTAMPS = bytes.fromhex("0101080a0001020304050607")


def before(protocol: int, *sizes: int) -> bytes:
    """IPv6 destination options headers of these sizes (multiples of 8), the last before ``protocol``."""
    chain = b""
    for number, size in enumerate(sizes):
        following = protocol if number == len(sizes) - 1 else 60
        chain += bytes([following, size // 8 - 1]) + bytes(size - 2)
    return chain


def core(vnet: Vnet | bytes, packet: bytes, most: int = 70000) -> list[bytes] | int:
    """The result of segment.c: packets, or -errno."""
    header = vnet if isinstance(vnet, bytes) else vnet.pack()
    room = len(packet) + 64
    if not isinstance(vnet, bytes) and vnet.gso_size:
        room += (min(vnet.csum_start, len(packet)) + 60) * (len(packet) // vnet.gso_size + 1)
    out = ffi.new("uint8_t[]", room)
    lengths = ffi.new("uint32_t[]", most)
    count = lib.udpring_segment(ffi.from_buffer(header), packet, len(packet), out, room, lengths, most)
    if count < 0:
        return int(count)
    made, at = [], 0
    for number in range(count):
        made.append(bytes(ffi.buffer(out + at, lengths[number])))
        at += lengths[number]
    return made


def holds(packet: bytes, at: int, protocol: int) -> bool:
    """Whether the checksums are right, computed differently from the model."""
    ip = packet[0] >> 4 == 6 or ones_sum(packet[: (packet[0] & 15) * 4]) == 0xFFFF
    return ip and ones_sum(pseudo(packet, protocol, len(packet) - at) + packet[at:]) == 0xFFFF


@pytest.mark.parametrize("base", [V4, V6], ids=["v4", "v6"])
def test_a_plain_bulk_super_packet(base: Flow) -> None:
    flow = replace(base, ip_id=0xFFF0, sequence=0xFFFF0000, options=TIMESTAMPS)
    payload = random.Random(1).randbytes(64000)
    vnet, packet = flow.super_packet(payload, 1368, ACK | PSH)
    made = core(vnet, packet)
    assert made == segment(vnet, packet)
    assert isinstance(made, list)
    at, header = vnet.csum_start, vnet.hdr_len
    assert len(made) == 47
    assert b"".join(piece[header:] for piece in made) == payload
    for number, piece in enumerate(made):
        assert holds(piece, at, TCP)
        assert int.from_bytes(piece[at + 4 : at + 8]) == 0xFFFF0000 + number * 1368 & 0xFFFFFFFF
        assert piece[at + 13] == (ACK | PSH if number == 46 else ACK)
        if at == 20:
            assert int.from_bytes(piece[4:6]) == 0xFFF0 + number & 0xFFFF


def test_the_flags_of_tcp() -> None:
    flags = FIN | PSH | ACK | URG | ECE | CWR | RST | SYN
    vnet, packet = replace(V4).super_packet(bytes(3000), 1000, flags)
    assert vnet.gso_type & ECN
    made = core(vnet, packet)
    assert isinstance(made, list)
    kept = ACK | URG | ECE | RST | SYN
    assert [piece[33] for piece in made] == [kept | CWR, kept, kept | FIN | PSH]


def test_one_segment_keeps_all_its_flags() -> None:
    vnet, packet = replace(V4).super_packet(bytes(999), 1000, FIN | PSH | ACK | CWR)
    made = core(vnet, packet)
    assert made == segment(vnet, packet)
    assert isinstance(made, list)
    assert [piece[33] for piece in made] == [FIN | PSH | ACK | CWR]


def zero_summing(flow: Flow, size: int) -> tuple[bytes, int]:
    """A payload whose packet has checksum zero before the rules of UDP, and the offset of its last two
    bytes."""
    payload = bytes(size)
    packet = replace(flow).packet(payload)
    at = 40 if flow.v6 else 20
    whole = pseudo(packet, flow.protocol, len(packet) - at) + packet[at:]
    field = len(whole) - len(packet) + at + (6 if flow.protocol == UDP else 16)
    return payload[:-2] + checksum(whole[:field] + b"\0\0" + whole[field + 2 :]).to_bytes(2), size - 2


@pytest.mark.parametrize("base", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize(("protocol", "written"), [(UDP, 0xFFFF), (TCP, 0x0000)])
def test_a_checksum_that_comes_out_as_zero(base: Flow, protocol: int, written: int) -> None:
    """UDP writes all ones instead (RFC 768), TCP writes zero."""
    flow = replace(base, protocol=protocol)
    payload, _ = zero_summing(flow, 1000)
    vnet, packet = flow.super_packet(payload + bytes(10), 1000)
    made = core(vnet, packet)
    assert made == segment(vnet, packet)
    assert isinstance(made, list)
    field = vnet.csum_start + vnet.csum_offset
    assert int.from_bytes(made[0][field : field + 2]) == written


@pytest.mark.parametrize("sizes", [(8,), (24, 16), (8, 8, 64), (936,)])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_ipv6_extension_headers_are_repeated(protocol: int, sizes: tuple[int, ...]) -> None:
    chain = before(protocol, *sizes)
    flow = replace(V6, protocol=protocol)
    vnet, packet = flow.super_packet(bytes(range(256)) * 20, 1200, before=chain, before_type=60)
    made = core(vnet, packet)
    assert made == segment(vnet, packet)
    assert isinstance(made, list)
    assert len(made) == 5
    for piece in made:
        assert piece[6] == 60
        assert piece[40 : 40 + len(chain)] == chain
        assert int.from_bytes(piece[4:6]) == len(piece) - 40
        assert holds(piece, vnet.csum_start, protocol)


def test_ipv4_options_are_repeated() -> None:
    options = bytes.fromhex("94040000") + bytes([7, 7, 4, 0, 0, 0, 0, 0])
    vnet, packet = replace(V4).super_packet(bytes(2500), 1000, ip_options=options)
    made = core(vnet, packet)
    assert made == segment(vnet, packet)
    assert isinstance(made, list)
    assert [piece[20:32] for piece in made] == [options] * 3


def test_segments_shorter_than_their_header() -> None:
    """Each header overwrites payload that was sent before. It must not overwrite unsent payload."""
    for size in (1, 2, 7, 8, 27, 28, 39, 40):
        for flow in (replace(V4, options=TIMESTAMPS), replace(V4, protocol=UDP), replace(V6)):
            vnet, packet = flow.super_packet(bytes(range(200)), size)
            assert core(vnet, packet) == segment(vnet, packet)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_single_packet_gets_its_checksum(protocol: int) -> None:
    for payload in (b"", b"x", random.Random(3).randbytes(1399)):
        flow = replace(V4, protocol=protocol)
        vnet, packet = flow.super_packet(payload, 1000)
        single = vnet._replace(gso_type=0, gso_size=0)
        flow = replace(V4, protocol=protocol)
        assert core(single, packet) == [flow.packet(payload)] == segment(single, packet)


def test_a_single_checksum_of_zero_is_written_as_ones() -> None:
    """As skb_checksum_help() of Linux does, for any protocol."""
    flow = replace(V4, protocol=UDP)
    payload, _ = zero_summing(flow, 64)
    vnet, packet = flow.super_packet(payload, 1000)
    single = vnet._replace(gso_type=0, gso_size=0)
    made = core(single, packet)
    assert made == segment(single, packet)
    assert isinstance(made, list)
    assert made[0][26:28] == b"\xff\xff"


def test_complete_packet_is_left_alone() -> None:
    for packet in (b"", b"\0", bytes(19), replace(V4).packet(b"as it is")):
        for vnet in (Vnet(), Vnet(flags=2), Vnet(gso_type=ECN), Vnet(gso_size=7, csum_start=3, hdr_len=9)):
            assert core(vnet, packet) == [packet]


payloads = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 2**32), st.integers(0, 9000)
)
flows = st.builds(
    Flow,
    source=st.just("fd00::1"),
    target=st.just("fd00::2"),
    protocol=st.sampled_from([TCP, UDP]),
    sport=st.integers(0, 65535),
    dport=st.integers(0, 65535),
    ip_id=st.sampled_from([0, 1, 0x7FFF, 0xFFFE, 0xFFFF]),
    sequence=st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1400, 2**32 - 1]),
    acknowledgement=st.integers(0, 2**32 - 1),
    window=st.integers(0, 65535),
    tos=st.integers(0, 255),
    ttl=st.integers(0, 255),
    dont_fragment=st.booleans(),
    options=st.binary(max_size=40).map(lambda data: data[: len(data) & ~3]),
    label=st.integers(0, 0xFFFFF),
)


@given(
    flow=flows,
    v6=st.booleans(),
    payload=payloads,
    size=st.integers(1, 1500) | st.integers(1, 65535),
    flags=st.integers(0, 255),
    words=st.integers(0, 5),
    wrong_hdr_len=st.integers(0, 65535) | st.none(),
)
@settings(max_examples=300, deadline=None)
def test_any_super_packet_agrees_with_the_model(
    flow: Flow, v6: bool, payload: bytes, size: int, flags: int, words: int, wrong_hdr_len: int | None
) -> None:
    if not v6:
        flow.source, flow.target = "10.1.0.1", "10.1.0.2"
        vnet, packet = flow.super_packet(payload, size, flags, ip_options=bytes([1]) * 4 * words)
    elif words:
        chain = before(flow.protocol, 8 * words)
        vnet, packet = flow.super_packet(payload, size, flags, before=chain, before_type=60)
    else:
        vnet, packet = flow.super_packet(payload, size, flags)
    if wrong_hdr_len is not None:
        vnet = vnet._replace(hdr_len=wrong_hdr_len)
    expected = segment(vnet, packet)
    assert expected is not None
    assert core(vnet, packet) == expected


def malformed() -> dict[str, tuple[Vnet, bytes]]:
    tcp4, packet4 = replace(V4).super_packet(bytes(2000), 1000)
    tcp6, packet6 = replace(V6).super_packet(bytes(2000), 1000)
    udp4, packet_udp = replace(V4, protocol=UDP).super_packet(bytes(2000), 1000)
    options, packet_options = replace(V4).super_packet(bytes(2000), 1000, ip_options=bytes(8))
    short = bytearray(packet4)
    short[32] = 4 << 4
    beyond = bytearray(packet4[:60])
    beyond[32] = 15 << 4
    ihl = bytearray(packet4)
    ihl[0] = 0x44
    deep = before(TCP, 8 * 125)
    long, packet_long = replace(V6).super_packet(bytes(2000), 1000, before=deep, before_type=60)
    return {
        "unknown type": (tcp4._replace(gso_type=2), packet4),
        "UDP fragmentation": (udp4._replace(gso_type=3), packet_udp),
        "no size": (tcp4._replace(gso_size=0), packet4),
        "no checksum wanted": (tcp4._replace(flags=0), packet4),
        "TCPV4 over IPv6": (tcp6._replace(gso_type=TCPV4), packet6),
        "TCPV6 over IPv4": (tcp4._replace(gso_type=TCPV6), packet4),
        "version 5": (udp4, b"\x55" + packet_udp[1:]),
        "empty": (tcp4, b""),
        "19 bytes": (tcp4, packet4[:19]),
        "IPv4 header alone": (tcp4, packet4[:20]),
        "TCP header cut": (tcp4, packet4[:39]),
        "UDP header cut": (udp4, packet_udp[:27]),
        "IPv6 header alone": (tcp6, packet6[:40]),
        "IPv6 TCP header cut": (tcp6, packet6[:59]),
        "transport inside the IPv4 header": (tcp4._replace(csum_start=16), packet4),
        "transport behind the IPv4 header": (tcp4._replace(csum_start=24), packet4),
        "transport before the options' end": (options._replace(csum_start=20), packet_options),
        "transport inside the IPv6 header": (tcp6._replace(csum_start=39), packet6),
        "transport past the end": (tcp6._replace(csum_start=65535), packet6),
        "IPv4 header of 16 bytes": (tcp4._replace(csum_start=16), bytes(ihl)),
        "data offset of 16 bytes": (tcp4, bytes(short)),
        "data offset past the end": (tcp4, bytes(beyond)),
        "headers longer than are copied": (long, packet_long),
        "single checksum start past the end": (Vnet(NEEDS_CSUM, csum_start=100, csum_offset=0), bytes(100)),
        "single checksum field past the end": (Vnet(NEEDS_CSUM, csum_start=90, csum_offset=9), bytes(100)),
        "single checksum field far away": (Vnet(NEEDS_CSUM, csum_start=65535, csum_offset=65535), bytes(100)),
    }


@pytest.mark.parametrize("name", malformed())
def test_what_does_not_agree_is_refused(name: str) -> None:
    vnet, packet = malformed()[name]
    assert segment(vnet, packet) is None
    assert core(vnet, packet) == -errno.EINVAL


@given(
    vnet=st.builds(
        Vnet,
        flags=st.integers(0, 255) | st.just(NEEDS_CSUM),
        gso_type=st.sampled_from([0, TCPV4, TCPV6, UDP_L4, ECN | TCPV4, 3, 255]) | st.integers(0, 255),
        hdr_len=st.integers(0, 65535),
        gso_size=st.integers(0, 300) | st.integers(0, 65535),
        csum_start=st.sampled_from([0, 19, 20, 24, 40, 48, 60, 255, 256, 65535]) | st.integers(0, 65535),
        csum_offset=st.sampled_from([0, 6, 16, 65535]) | st.integers(0, 65535),
    ),
    first=st.sampled_from([0x45, 0x46, 0x4F, 0x40, 0x60, 0x6F]) | st.integers(0, 255),
    packet=st.binary(max_size=400),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_refused_or_agree_with_the_model(vnet: Vnet, first: int, packet: bytes) -> None:
    packet = bytes([first])[: len(packet)] + packet[1:]
    expected = segment(vnet, packet)
    assert core(vnet, packet) == (-errno.EINVAL if expected is None else expected)


def test_too_little_room_is_said() -> None:
    vnet, packet = replace(V4).super_packet(bytes(3000), 1000)
    assert core(vnet, packet, most=2) == -errno.ENOSPC
    out = ffi.new("uint8_t[]", 2500)
    lengths = ffi.new("uint32_t[]", 8)
    given_header = vnet.pack()
    code = lib.udpring_segment(given_header, packet, len(packet), out, 2500, lengths, 8)
    assert code == -errno.ENOSPC


def test_the_header_is_the_kernels() -> None:
    assert struct.calcsize("=BBHHHH") == len(Vnet().pack()) == 10
    packet = bytearray(replace(V4).packet(b"x"))
    put16(packet, 10, 0)
    assert checksum(bytes(packet[:20])).to_bytes(2) == replace(V4).packet(b"x")[10:12]
