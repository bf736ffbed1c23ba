"""Packets to addresses without a peer, with a directory to query: they are kept and reported, and answers
release them."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import single_commands
from test_plane import INNER_PEER, TIERS, WIREGUARD, Bench, pytestmark

from udpring._native import ffi, lib

__all__ = ["pytestmark"]

SECOND = 1_000_000_000
STRANGER, OTHER = "10.77.0.50", "10.77.0.51"
STRANGER6 = "fd77::50"
Send = Callable[[str, bytes], None]


@pytest.fixture(params=["uring-multishot", "mmsg", "uring-multishot x3"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, *more = request.param.split()
    made = Bench(TIERS[tier], 3 if more else 1, WIREGUARD, flags=lib.UDPRING_PLANE_ASKS)
    made.key()
    yield made
    made.close()


def address(host: str) -> Any:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = ffi.new("struct udpring_address *", {"family": family})
    packed = socket.inet_pton(family, host)
    ffi.memmove(made.ip, packed, len(packed))
    return made


def wanted(bench: Bench) -> list[bytes]:
    """The addresses reported since the last call."""
    return [
        bytes(ffi.buffer(event.source.ip, 4 if event.source.family == socket.AF_INET else 16))
        for event in bench.events()
        if event.kind == lib.UDPRING_EVENT_PEER_WANTED
    ]


def asked(bench: Bench, count: int) -> list[bytes]:
    """Waits until this many addresses have been reported."""
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(wanted(bench))
        return len(found) >= count

    bench.wait(enough)
    return found


@pytest.fixture
def send(bench: Bench) -> Iterator[Send]:
    yield from sender(bench)


def sender(bench: Bench) -> Iterator[Send]:
    """One flow for each family. The queue of the interface holds 500 packets, and no more than 100 wait."""
    socket6 = bench.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    before, sent = bench.stats().tun_packets_in, itertools.count(1)

    def send(host: str, payload: bytes) -> None:
        (socket6 if ":" in host else bench.app).sendto(payload, (host, 6000))
        number = next(sent)
        if number % 100 == 0:
            bench.wait(lambda: bench.stats().tun_packets_in - before >= number)

    with socket6:
        yield send


def payloads(bench: Bench, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        _counter, inner = bench.receive()
        v6 = inner[0] >> 4 == 6
        total = 40 + struct.unpack_from("!H", inner, 4)[0] if v6 else struct.unpack_from("!H", inner, 2)[0]
        found.append(inner[48 if v6 else 28 : total])
    return found


@pytest.mark.parametrize("host", [STRANGER, STRANGER6])
def test_kept_packets_go_to_the_added_peer_in_order(bench: Bench, send: Send, host: str) -> None:
    for number in range(5):
        send(host, bytes([number]))
    assert asked(bench, 1) == [socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]
    bench.wait(lambda: bench.stats().tun_packets_in >= 5)
    bench.allow(bench.peer, host, 128 if ":" in host else 32)
    send(host, bytes([5]))
    assert payloads(bench, 6) == [bytes([number]) for number in range(6)]
    assert wanted(bench) == [], "one question for all of them"
    assert not bench.drops()


def test_kept_packets_ask_for_a_session(bench: Bench, send: Send) -> None:
    single_commands.keys_erase(bench.plane, bench.peer)
    send(STRANGER, b"x")
    asked(bench, 1)
    bench.allow(bench.peer, STRANGER, 32)
    bench.wait(lambda: any(e.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for e in bench.events()))
    assert bench.state().staged == 1
    bench.key()
    assert payloads(bench, 1) == [b"x"]


def test_refused_packets_are_dropped_and_counted(bench: Bench, send: Send) -> None:
    for _ in range(3):
        send(STRANGER, b"x")
    asked(bench, 1)
    bench.wait(lambda: bench.stats().tun_packets_in >= 3)
    assert lib.udpring_plane_refuse(bench.plane, address(STRANGER), 60 * SECOND) == 0
    assert bench.drops() == {"peer_refused": 3}
    send(STRANGER, b"again")
    bench.wait(lambda: bench.drops() == {"peer_refused": 4})
    send(OTHER, b"x")
    assert asked(bench, 1) == [socket.inet_aton(OTHER)], "the refused one is not asked for again"
    assert lib.udpring_plane_forget_refusals(bench.plane) == 0
    send(STRANGER, b"x")
    assert asked(bench, 1) == [socket.inet_aton(STRANGER)]


def test_refusal_of_no_time_is_not_remembered(bench: Bench, send: Send) -> None:
    for times in (1, 2):
        send(STRANGER, b"x")
        asked(bench, 1)
        assert lib.udpring_plane_refuse(bench.plane, address(STRANGER), 0) == 0
        assert bench.drops() == {"peer_refused": times}


def test_peer_of_a_refused_destination_gets_its_packets(bench: Bench, send: Send) -> None:
    send(STRANGER, b"lost")
    asked(bench, 1)
    assert lib.udpring_plane_refuse(bench.plane, address(STRANGER), 60 * SECOND) == 0
    bench.allow(bench.peer, STRANGER, 32)
    send(STRANGER, b"sent")
    assert payloads(bench, 1) == [b"sent"]


def test_packets_of_one_destination_are_bounded(bench: Bench, send: Send) -> None:
    for number in range(200):
        send(STRANGER, number.to_bytes(2, "big"))
    asked(bench, 1)
    bench.wait(lambda: bench.drops() == {"wanted_full": 72})
    bench.allow(bench.peer, STRANGER, 32)
    assert payloads(bench, 128) == [number.to_bytes(2, "big") for number in range(72, 200)]


def test_bytes_of_all_destinations_are_bounded(bench: Bench, send: Send) -> None:
    """100 destinations of 128 packets would hold 18 MB, and there is room for 4 MB."""
    for number in range(100):
        for _ in range(128):
            send(f"10.77.0.{100 + number}", bytes(1300))
    assert bench.drops()["wanted_full"] >= 100 * 128 - 4 * 1024 * 1024 // 1300


def test_destinations_are_bounded(bench: Bench, send: Send) -> None:
    """A scan of 2000 addresses makes each worker report 250 at most."""
    for number in range(2000):
        send(f"10.77.0.{number % 250 + 3}" if number < 250 else f"fd77::1:{number:x}", b"x")
    workers = bench.stats().workers
    questions = len([each for _ in range(64) for each in wanted(bench)])
    assert 0 < questions <= 256 * workers
    assert bench.drops()["wanted_full"] >= 2000 - questions - 2


def test_multicast_asks_nobody(bench: Bench) -> None:
    before = bench.drops().get("no_peer", 0)

    def send() -> None:
        bench.app.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.77.0.1"))
        bench.app.sendto(b"x", ("239.1.2.3", 6000))

    bench.inside(send)
    bench.wait(lambda: bench.drops().get("no_peer", 0) > before)
    assert wanted(bench) == []


def test_full_mailbox_drops_the_packet() -> None:
    bench = Bench(TIERS["mmsg"], 1, WIREGUARD, mailbox=8, flags=lib.UDPRING_PLANE_ASKS)
    try:
        for number in range(20):
            bench.app.sendto(b"x", (f"10.77.0.{100 + number}", 6000))
        bench.wait(lambda: bench.drops().get("wanted_full", 0) >= 12)
        assert len(wanted(bench)) == 8
        bench.app.sendto(b"x", ("10.77.0.99", 6000))
        assert asked(bench, 1) == [socket.inet_aton("10.77.0.99")]
    finally:
        bench.close()


def test_nobody_is_asked_without_the_flag() -> None:
    bench = Bench(TIERS["mmsg"], 1, WIREGUARD)
    try:
        bench.app.sendto(b"x", (STRANGER, 6000))
        bench.wait(lambda: bench.drops() == {"no_peer": 1})
        assert wanted(bench) == []
        assert lib.udpring_plane_refuse(bench.plane, address(STRANGER), 0) < 0
    finally:
        bench.close()


def test_load_can_be_declared(bench: Bench) -> None:
    before = lib.udpring_plane_load_until(bench.plane)
    assert lib.udpring_plane_under_load(bench.plane) == 0
    assert lib.udpring_plane_load_until(bench.plane) > before


def test_claimed_prefix_of_another_peer_stays(bench: Bench) -> None:
    other = ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(bench.plane, other) == 0
    prefix = ffi.new(
        "struct udpring_prefix *",
        {"family": socket.AF_INET, "cidr": 32, "peer": other[0], "remove": lib.UDPRING_PREFIX_CLAIM},
    )
    done = ffi.new("uint32_t *")
    ffi.memmove(prefix.ip, socket.inet_aton(INNER_PEER), 4)
    assert lib.udpring_plane_prefixes(bench.plane, prefix, 1, done) == -17  # EEXIST
    ffi.memmove(prefix.ip, socket.inet_aton(STRANGER), 4)
    assert lib.udpring_plane_prefixes(bench.plane, prefix, 1, done) == 0
    assert lib.udpring_plane_prefixes(bench.plane, prefix, 1, done) == 0, "its own"
