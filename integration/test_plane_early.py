"""Small packets behind a backlog of bulk data: which pass it, on a live plane (worker/inbox.c)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from core_internals import lib as internals
from test_plane import TIERS, UDP_SEGMENT, WIREGUARD, Bench, pytestmark, udp_packet

from udpring._native import ffi, lib

__all__ = ["pytestmark"]

BACKLOG = 40
SOL_UDP = 17
BULK = udp_packet(bytes(1300))
ETH_P_IP = 0x0800
ACK, PSH_ACK = 0x10, 0x18


def ip_packet(protocol: int, body: bytes, *, fragment: int = 0) -> bytes:
    """From the peer to the interface's address."""
    header = bytearray(udp_packet(body[8:])[:20])
    header[9] = protocol
    header[6:8] = fragment.to_bytes(2, "big")
    words = sum(struct.unpack("!5H4x4H", bytes(header[:10] + b"\0\0\0\0" + header[12:])))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    header[10:12] = (0xFFFF ^ words).to_bytes(2, "big")
    return bytes(header) + body


def tcp(flags: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", 6000, 7, 1, 1, 5 << 4, flags, 100, 0, 0) + payload


ECHO, ECHO_REPLY = bytes([8, 0, 0, 0, 0, 1, 0, 1]), bytes([0, 0, 0, 0, 0, 1, 0, 1])
UNREACHABLE = bytes([3, 1, 0, 0, 0, 0, 0, 0]) + BULK[:28]
PASSES = {
    "echo": ip_packet(1, ECHO),
    "echo reply": ip_packet(1, ECHO_REPLY),
}
WAITS = {
    "acknowledgement": ip_packet(6, tcp(ACK)),
    "datagram": ip_packet(17, struct.pack("!HHHH", 6001, 5001, 12, 0) + b"data"),
    "error message": ip_packet(1, UNREACHABLE),
    "segment with data": ip_packet(6, tcp(PSH_ACK, b"data")),
    "fragment": ip_packet(1, ECHO, fragment=0x2000),
}


@pytest.fixture(scope="module", params=list(TIERS))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(TIERS[request.param], 1, WIREGUARD)
    made.key()
    yield made
    made.close()


def listener(bench: Bench) -> socket.socket:
    """Sees what comes out of the interface, in order."""
    name = ffi.string(lib.udpring_plane_name(bench.plane)).decode()

    def made() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((name, ETH_P_IP))
        sock.settimeout(30)
        return sock

    return bench.inside(made)


def held(bench: Bench, work: Callable[[], None]) -> None:
    """Does the work while the worker stands between two passes."""
    (holds, tell_holds), (until, tell_until) = os.pipe(), os.pipe()
    try:
        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(internals.udpring_plane_test_hold, bench.plane, tell_holds, until)
            assert os.read(holds, 1)
            work()
            os.write(tell_until, b"x")
            assert holding.result(timeout=60) == 0
    finally:
        for fd in (holds, tell_holds, until, tell_until):
            os.close(fd)


def delivered(sock: socket.socket, last: bytes) -> list[bytes]:
    """The packets that came in, to `last`. Bulk may come as super-packets."""
    seen: list[bytes] = []
    while last not in seen:
        data, where = sock.recvfrom(65536)
        if where[2] != socket.PACKET_OUTGOING:
            seen.append(data)
    return seen


def send_backlog(bench: Bench) -> None:
    """As one train."""
    train = b"".join(bench.seal(BULK) for _ in range(BACKLOG))
    segment = struct.pack("H", len(train) // BACKLOG)
    sent = bench.peer_socket.sendmsg([train], [(SOL_UDP, UDP_SEGMENT, segment)], 0, ("127.0.0.1", bench.port))
    assert sent == len(train)


def arrive(bench: Bench, *behind: bytes) -> list[bytes]:
    """A backlog, then these messages' packets, then one that ends it. Returns the order of delivery."""
    end = udp_packet(b"end of it" * 50, port=5009)
    with closing(listener(bench)) as sock:

        def work() -> None:
            send_backlog(bench)
            for packet in (*behind, end):
                bench.send(bench.seal(packet))

        held(bench, work)
        return delivered(sock, end)


@pytest.mark.parametrize("name", PASSES)
def test_packet_passes_the_backlog(bench: Bench, name: str) -> None:
    order = arrive(bench, PASSES[name])
    assert order.index(PASSES[name]) == 0


@pytest.mark.parametrize("name", WAITS)
def test_packet_keeps_its_place(bench: Bench, name: str) -> None:
    order = arrive(bench, WAITS[name])
    before = order[: order.index(WAITS[name])]
    assert sum(len(data) - 28 for data in before if data[22:24] == b"\x13\x88") == BACKLOG * 1300


def test_those_that_pass_stay_in_order(bench: Bench) -> None:
    echoes = [ip_packet(1, ECHO[:-1] + bytes([number])) for number in range(4)]
    assert arrive(bench, *echoes)[:4] == echoes


def test_repeated_message_is_delivered_once(bench: Bench) -> None:
    echo = PASSES["echo reply"]
    before = bench.drops().get("replayed", 0)
    end = udp_packet(b"end" * 150, port=5009)
    with closing(listener(bench)) as sock:

        def work() -> None:
            send_backlog(bench)
            message = bench.seal(echo)
            bench.send(message)
            bench.send(message)
            bench.send(bench.seal(end))

        held(bench, work)
        assert delivered(sock, end).count(echo) == 1
    assert bench.drops()["replayed"] == before + 1


def test_forged_message_is_dropped_once(bench: Bench) -> None:
    before = bench.drops().get("unauthenticated", 0)
    end = udp_packet(b"end" * 150, port=5009)
    with closing(listener(bench)) as sock:

        def work() -> None:
            send_backlog(bench)
            message = bench.seal(PASSES["echo"])
            bench.send(message[:-1] + bytes([message[-1] ^ 1]))
            bench.send(bench.seal(end))

        held(bench, work)
        assert PASSES["echo"] not in delivered(sock, end)
    assert bench.drops()["unauthenticated"] == before + 1


def test_packet_from_a_strange_source_does_not_pass(bench: Bench) -> None:
    before = bench.drops().get("spoofed", 0)
    strange = bytearray(PASSES["echo"])
    strange[12:16] = socket.inet_aton("10.77.0.99")
    order = arrive(bench, bytes(strange))
    assert bytes(strange) not in order
    assert bench.drops()["spoofed"] == before + 1
