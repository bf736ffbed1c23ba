"""Packets of every shape through the tunnel, written to one interface and read at the other, byte by byte.

Packets that cannot be merged must arrive unchanged. Merged packets must give the same stream.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from lab import GO, SUBJECT, Node, Program, Rig, Tunnel
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.packet import Packet, Raw

pytestmark = [pytest.mark.traffic, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

PAIRS = [
    pytest.param((SUBJECT, GO), id="subject-sends"),
    pytest.param((GO, SUBJECT), id="subject-receives"),
    pytest.param((SUBJECT, SUBJECT), id="subject-both"),
]
Programs = tuple[Program, Program]
ETH_P_ALL, PACKET_OUTGOING = 3, 4
SO_RCVBUFFORCE = 33


class Tap:
    """The raw side of a node's interface: packets written here are read by the program, and the reverse."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.socket = node.space.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        )
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.socket.bind((node.interface, ETH_P_ALL))
        self.socket.setblocking(False)

    def send(self, packet: bytes) -> None:
        kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
        self.socket.sendto(packet, (self.node.interface, kind))

    def received(self) -> Iterator[bytes]:
        """The packets that came out of the tunnel since the last call."""
        while True:
            try:
                packet, where = self.socket.recvfrom(1 << 17)
            except BlockingIOError:
                return
            if where[2] != PACKET_OUTGOING:
                yield packet


@pytest.fixture
def taps(rig: Rig, request: pytest.FixtureRequest) -> Iterator[tuple[Tunnel, Tap, Tap]]:
    tunnel = rig.tunnel(request.param)
    # The kernels at both ends only forward. They answer nothing and send nothing on their own.
    for end in (tunnel.a, tunnel.b):
        end.space.nft(
            "table inet quiet { chain i { type filter hook input priority filter; policy accept; }; "
            "chain o { type filter hook output priority filter; policy accept; }; }\n"
            f"add rule inet quiet i iifname {end.interface} meta l4proto != {{ icmp, icmpv6 }} drop\n"
            f"add rule inet quiet o oifname {end.interface} icmpv6 type nd-router-solicit drop\n"
            f"add rule inet quiet o oifname {end.interface} icmpv6 type mld2-listener-report drop\n"
        )
    tunnel.ping()
    out, into = Tap(tunnel.a), Tap(tunnel.b)
    with out.socket, into.socket:
        yield tunnel, out, into


def _shapes(tunnel: Tunnel) -> list[bytes]:
    """One packet of each kind that some implementation got wrong. No two belong to one flow."""
    four = {"src": tunnel.a.inner4, "dst": tunnel.b.inner4}
    six = {"src": tunnel.a.inner6, "dst": tunnel.b.inner6}
    chance = random.Random(5)

    def load(size: int) -> Packet:
        return Raw(chance.randbytes(size))

    packets: list[Packet] = [
        IP(**four, proto=59) / load(0),
        IP(**four, proto=253, ttl=1) / load(1),
        IP(**four, tos=0xFC) / ICMP(type=13) / load(11),
        IP(**four, options=[b"\x94\x04\x00\x00"]) / UDP(sport=1, dport=1) / load(100),
        IP(**four, flags="DF", id=0) / UDP(sport=2, dport=2) / load(1392),
        IP(**four, flags="MF", frag=0, proto=17, id=77) / load(1400),
        IP(**four, frag=175, proto=17, id=77) / load(333),
        IP(**four) / UDP(sport=3, dport=3, chksum=0) / load(50),
        IP(**four) / UDP(sport=4, dport=4, chksum=0xDEAD) / load(50),
        IP(**four) / UDP(sport=5, dport=5, len=3) / load(50),
        IP(**four) / UDP(sport=6, dport=6, len=60000) / load(50),
        IP(**four) / UDP(sport=7, dport=7) / load(0),
        IP(**four) / TCP(sport=8, dport=8, flags="S", options=[("MSS", 1380), ("WScale", 7)]),
        IP(**four) / TCP(sport=9, dport=9, flags="A", chksum=0xBEEF) / load(1000),
        IP(**four) / TCP(sport=10, dport=10, flags="FPU", urgptr=9) / load(333),
        IP(**four) / TCP(sport=11, dport=11, flags="AEC") / load(200),
        IP(**four) / TCP(sport=12, dport=12, flags="A", dataofs=15) / load(200),
        IP(**four) / TCP(sport=13, dport=13, flags="A", dataofs=2) / load(60),
        IP(**four, proto=6) / load(7),
        IP(**four, proto=17) / load(3),
        IP(**four, proto=50) / load(777),
        IP(**four, proto=47) / load(24),
        IPv6(**six, nh=59) / load(0),
        IPv6(**six, tc=0xFE, fl=0xFFFFF, hlim=1) / UDP(sport=20, dport=20) / load(9),
        IPv6(**six) / UDP(sport=21, dport=21, chksum=0) / load(30),
        IPv6(**six) / IPv6ExtHdrHopByHop() / UDP(sport=22, dport=22) / load(30),
        IPv6(**six) / IPv6ExtHdrDestOpt() / TCP(sport=23, dport=23, flags="A") / load(100),
        IPv6(**six) / IPv6ExtHdrFragment(m=1, offset=0, id=9) / load(1200),
        IPv6(**six) / IPv6ExtHdrFragment(m=0, offset=150, id=9) / load(100),
        IPv6(**six) / TCP(sport=24, dport=24, flags="R"),
        IPv6(**six) / TCP(sport=25, dport=25, flags="A", chksum=1) / load(1340),
        IPv6(**six) / ICMPv6EchoRequest(id=9, data=b"x" * 1300),
        IPv6(**six, nh=6) / load(19),
    ]  # fmt: skip
    return [bytes(packet) for packet in packets]


def _flow(tunnel: Tunnel, number: int, version: int, segments: int) -> list[bytes]:
    """Segments of one TCP flow, back to back, of sizes that change now and then."""
    chance = random.Random(number)
    packets, sequence = [], chance.randrange(1 << 32)
    size = 1000
    for index in range(segments):
        if chance.random() < 0.15:
            size = chance.randrange(1, 1340)
        flags = "PA" if chance.random() < 0.1 else "A"
        header = (
            IP(src=tunnel.a.inner4, dst=tunnel.b.inner4, flags="DF", id=index)
            if version == 4
            else IPv6(src=tunnel.a.inner6, dst=tunnel.b.inner6)
        )
        segment = TCP(sport=1000 + number, dport=80, seq=sequence, ack=7, flags=flags, window=500)
        packets.append(bytes(header / segment / Raw(chance.randbytes(size))))
        sequence = (sequence + size) % (1 << 32)
    return packets


def _streams(packets: list[bytes]) -> dict[tuple[int, int], dict[int, bytes]]:
    """(IP version, source port) -> sequence number -> bytes, of the TCP packets."""
    found: dict[tuple[int, int], dict[int, bytes]] = {}
    for packet in packets:
        version = packet[0] >> 4
        head = (packet[0] & 15) * 4 if version == 4 else 40
        end = (
            struct.unpack_from("!H", packet, 2)[0]
            if version == 4
            else 40 + struct.unpack_from("!H", packet, 4)[0]
        )
        port, _, sequence = struct.unpack_from("!HHI", packet, head)
        begin = head + (packet[head + 12] >> 4) * 4
        found.setdefault((version, port), {})[sequence] = packet[begin:end]
    return found


def _joined(pieces: dict[int, bytes], first: int) -> bytes:
    joined = b""
    while first in pieces:
        piece = pieces[first]
        joined += piece
        first = (first + len(piece)) % (1 << 32)
        if not piece:
            break
    return joined


@pytest.mark.parametrize("taps", PAIRS, indirect=True)
def test_every_shape_arrives_as_it_was(taps: tuple[Tunnel, Tap, Tap]) -> None:
    tunnel, out, into = taps
    list(into.received())
    wanted = _shapes(tunnel)
    for packet in wanted:
        out.send(packet)
    arrived: list[bytes] = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and set(wanted) - set(arrived):
        arrived += into.received()
        time.sleep(0.01)
    missing = [packet for packet in wanted if packet not in arrived]
    assert not missing, [IP(p).summary() if p[0] >> 4 == 4 else IPv6(p).summary() for p in missing]


@pytest.mark.parametrize("taps", PAIRS, indirect=True)
def test_interleaved_flows_give_the_same_streams(taps: tuple[Tunnel, Tap, Tap]) -> None:
    """Twelve interleaved flows, merged or not: the bytes of each arrive unchanged and in order."""
    tunnel, out, into = taps
    chance = random.Random(11)
    flows = [_flow(tunnel, number, 4 if number % 2 else 6, 80) for number in range(12)]
    wanted = _streams([packet for flow in flows for packet in flow])
    waiting = [list(reversed(flow)) for flow in flows]
    arrived: list[bytes] = []
    under_way = 0
    while waiting:
        # A run of one flow, then of another, no faster than the tunnel can carry, because datagrams may be
        # lost.
        flow = chance.choice(waiting)
        for _ in range(chance.randrange(1, 12)):
            if flow:
                under_way += _payload(flow[-1])
                out.send(flow.pop())
        waiting = [each for each in waiting if each]
        deadline = time.monotonic() + 1
        while True:
            came = [packet for packet in into.received() if _is_ours(packet)]
            arrived += came
            under_way -= sum(map(_payload, came))
            if under_way < 32 << 10 or time.monotonic() > deadline:
                break
            time.sleep(0.001)
    firsts = {key: next(iter(pieces)) for key, pieces in wanted.items()}

    def complete() -> bool:
        got = _streams([packet for packet in arrived if _is_ours(packet)])
        return all(
            _joined(got.get(key, {}), firsts[key]) == _joined(wanted[key], firsts[key]) for key in wanted
        )

    deadline = time.monotonic() + 30
    while not complete():
        assert time.monotonic() < deadline, "a stream differs or is not complete"
        arrived += into.received()
        time.sleep(0.05)


def _payload(packet: bytes) -> int:
    """The payload bytes of a TCP packet, merged or not."""
    header = 40 if packet[0] >> 4 == 6 else 4 * (packet[0] & 15)
    return len(packet) - header - 4 * (packet[header + 12] >> 4)


def _is_ours(packet: bytes) -> bool:
    return packet[9] == 6 if packet[0] >> 4 == 4 else packet[6] == 6
