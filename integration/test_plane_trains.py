"""Trains on a route that refuses them: its MTU is smaller than the packets, which must be fragmented."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator

import pytest
import single_commands
from test_plane import INNER_PEER, TIERS, Bench, pytestmark
from test_plane_workers import on_one_processor

__all__ = ["pytestmark"]


@pytest.fixture(params=[(tier, workers) for tier in TIERS for workers in (1, 3)], ids=str)
def narrow(request: pytest.FixtureRequest) -> Iterator[Bench]:
    for made in on_one_processor(*request.param):
        made.inside(lambda made=made: subprocess.run(["ip", "link", "set", "lo", "mtu", "1000"], check=True))
        yield made


def stage(bench: Bench, sizes: tuple[int, ...], first: int) -> None:
    """They wait for a key, so that all leave in one pass."""
    single_commands.keys_erase(bench.plane, bench.peer)
    for number, size in enumerate(sizes, first):
        bench.app.sendto(struct.pack("!I", number) + bytes(size), (INNER_PEER, 6000))
    bench.wait(lambda: bench.state().staged == len(sizes))


def test_a_train_that_the_route_refuses_is_not_overtaken(narrow: Bench) -> None:
    """In each session again: its first train may be refused, and packets after it may form no train."""
    number = 0
    for _round in range(5):
        # Equal ones make a train, a longer one begins another: alone it is none, and leaves in fragments.
        for sizes in ((1100, 1100, 1100, 1300), (1200, 1200, 1320)):
            stage(narrow, sizes, number)
            narrow.key()
            seen = [struct.unpack_from("!I", narrow.receive()[1], 28)[0] for _ in sizes]
            assert seen == list(range(number, number + len(sizes)))
            number += len(sizes)


def test_a_longer_train_of_a_session_is_not_overtaken(narrow: Bench) -> None:
    """The route accepts the session's first train, of short segments, and refuses the next, of longer
    ones."""
    number = 0
    for _round in range(5):
        sizes = (300, 300, 1100, 1100, 1100, 1300)
        stage(narrow, sizes, number)
        narrow.key()
        seen = [struct.unpack_from("!I", narrow.receive()[1], 28)[0] for _ in sizes]
        assert seen == list(range(number, number + len(sizes)))
        number += len(sizes)
