"""The control loop and changed paths: a handshake that may be lost is sent again, and a loop is logged."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

import pytest
from fake_plane import SECOND, VirtualLoop, virtual_loop
from test_control import HERE, THERE, Side, run_for, until, wanted

from udpring.tunnel.plane_values import Event, EventKind


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as made:
        yield made


@pytest.fixture
def side(loop: VirtualLoop) -> Iterator[Side]:
    """One end. Its messages go nowhere."""
    a, b = Side(loop, HERE, 1), Side(loop, THERE, 2)
    a.knows(b)
    a.tunnel.start()
    yield a
    a.tunnel.close()
    b.tunnel.close()


def changed(side: Side, *, loops: bool = False) -> None:
    side.plane.post(Event(EventKind.PATH, side.peer, loops=loops))


def initiations(side: Side) -> list[float]:
    return [sent["at"] / SECOND for sent in side.plane.sent if sent["message"][0] == 1]


def test_lost_initiation_is_repeated_on_the_new_path(loop: VirtualLoop, side: Side) -> None:
    wanted(side)
    run_for(loop, 2)
    changed(side)
    until(loop, lambda: len(initiations(side)) == 2, 5)
    first, second = initiations(side)
    assert second - first < 2.5


def test_paths_that_flap_cost_one_initiation_a_second(loop: VirtualLoop, side: Side) -> None:
    wanted(side)
    for _ in range(40):
        run_for(loop, 0.1)
        changed(side)
    run_for(loop, 0.5)
    at = initiations(side)
    assert 3 <= len(at) <= 5
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(at))


def test_path_change_alone_starts_no_handshake(loop: VirtualLoop, side: Side) -> None:
    changed(side)
    run_for(loop, 3)
    assert not initiations(side)


def test_live_session_ignores_a_path_change(loop: VirtualLoop) -> None:
    a, b = Side(loop, HERE, 1), Side(loop, THERE, 2)
    a.plane.other, b.plane.other = b.plane, a.plane
    a.knows(b)
    b.knows(a)
    a.tunnel.start()
    b.tunnel.start()
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    for end in (a, b):
        changed(end)
    run_for(loop, 3)
    assert len(initiations(a)) == 1
    assert not initiations(b)
    a.tunnel.close()
    b.tunnel.close()


def test_loop_is_logged_once_when_it_begins_and_ends(
    loop: VirtualLoop, side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "udpring.node"):
        for loops in (True, True, False, False):
            changed(side, loops=loops)
        run_for(loop, 1)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert f"the route to its endpoint {THERE} leads into this tunnel" in said[0]
    assert "loop no longer" in said[1]
