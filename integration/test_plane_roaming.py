"""Events of the core for a peer that moves: only on request, with both addresses, not for each packet."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from test_plane import TIERS, WIREGUARD, Bench

from udpring._native import ffi, lib

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a TUN device and a network namespace: needs root"),
]


@pytest.fixture(params=["uring-multishot x1", "mmsg x2"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, workers = request.param.split(" x")
    with closing(Bench(TIERS[tier], int(workers), WIREGUARD)) as made:
        made.key()
        yield made


@pytest.fixture
def sockets(bench: Bench) -> Iterator[list[socket.socket]]:
    """Two places that the peer sends from."""
    with contextlib.ExitStack() as opened:
        made = [
            opened.enter_context(bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            for _ in range(2)
        ]
        for each in made:
            each.bind(("127.0.0.1", 0))
        yield made


def move(bench: Bench, sock: socket.socket) -> int:
    """One authentic packet from there. Returns when the endpoint has moved."""
    port: int = sock.getsockname()[1]
    sock.sendto(bench.seal(b""), ("127.0.0.1", bench.port))
    bench.wait(lambda: bench.state().endpoint.port == port)
    return port


def roamed(bench: Bench) -> list[Any]:
    return [event for event in bench.events() if event.kind == lib.UDPRING_EVENT_ROAMED]


def test_nothing_is_posted_unasked(bench: Bench, sockets: list[socket.socket]) -> None:
    move(bench, sockets[0])
    assert roamed(bench) == []
    assert lib.udpring_plane_watch_roaming(bench.plane, 1) == 0
    assert lib.udpring_plane_watch_roaming(bench.plane, 0) == 0
    move(bench, sockets[1])
    assert roamed(bench) == []


def test_report_has_both_addresses(bench: Bench, sockets: list[socket.socket]) -> None:
    assert lib.udpring_plane_watch_roaming(bench.plane, 1) == 0
    before = bench.state().endpoint.port
    port = move(bench, sockets[0])
    (event,) = roamed(bench)
    assert (event.peer, event.source.port, event.local.port) == (bench.peer, port, before)
    assert bytes(ffi.buffer(event.source.ip, 4)) == socket.inet_aton("127.0.0.1")


def test_set_and_first_endpoints_are_no_roaming(bench: Bench, sockets: list[socket.socket]) -> None:
    assert lib.udpring_plane_watch_roaming(bench.plane, 1) == 0
    bench.set_endpoint(sockets[0])
    assert lib.udpring_plane_endpoint(bench.plane, bench.peer, ffi.new("struct udpring_address *")) == 0
    move(bench, sockets[1])
    assert roamed(bench) == []


def test_moves_of_each_packet_are_one_report_a_second(bench: Bench, sockets: list[socket.socket]) -> None:
    assert lib.udpring_plane_watch_roaming(bench.plane, 1) == 0
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    reports = []
    for number in range(100):
        move(bench, sockets[number % 2])
        reports += [event.now_ns for event in roamed(bench)]
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    assert 1 <= len(reports) <= 1 + seconds * 1000 / lib.UDPRING_ROAMED_MS
