"""Net: more events at once than the columns of a turn hold."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from udpring._native import lib
from udpring.uring import Net

from .nets import BACKENDS, PATIENCE

MANY = lib.UDPRING_NET_NOTICES_MAX + 100


@pytest.fixture(params=BACKENDS)
def full(request: pytest.FixtureRequest) -> Iterator[tuple[Net, dict[int, socket.socket]]]:
    """A net whose places are all taken, by more connections than a turn has notices."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MANY + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, limits[0]), max(wanted, limits[1])))
    options: dict[str, Any] = request.param
    try:
        with (
            ExitStack() as stack,
            Net(**options, connections=MANY, buffers=8, high_water=1, low_water=0) as net,
        ):
            peers = {}
            for _ in range(MANY):
                mine, peer = socket.socketpair()
                peers[net.add(mine)] = stack.enter_context(peer)
            yield net, peers
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_every_full_queue_is_reported_as_drained(full: tuple[Net, dict[int, socket.socket]]) -> None:
    net, peers = full
    for number in peers:
        net.send(number, b"xy")
    drained: list[int] = []
    while len(drained) < MANY and (found := net.turn(PATIENCE).drained):
        drained += found
    assert sorted(drained) == sorted(peers)


def test_every_connection_is_reported_as_closed(full: tuple[Net, dict[int, socket.socket]]) -> None:
    net, peers = full
    net.turn(0)
    for number in peers:
        net.close_connection(number)
    closed: list[tuple[int, int]] = []
    while len(closed) < MANY and (found := net.turn(PATIENCE).closed):
        closed += found
    assert sorted(closed) == sorted((number, 0) for number in peers)


def test_every_end_is_reported(full: tuple[Net, dict[int, socket.socket]]) -> None:
    net, peers = full
    net.turn(0)
    for peer in peers.values():
        peer.close()
    ended: list[int] = []
    closed: list[tuple[int, int]] = []
    while len(closed) < MANY:
        turn = net.turn(PATIENCE)
        assert turn.ended or turn.closed
        ended += turn.ended
        closed += turn.closed
    assert sorted(ended) == sorted(peers)
    assert sorted(closed) == sorted((number, 0) for number in peers)
