"""The decision whether a route loses trains, from the answers to probes, in virtual time."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator

import pytest
from fake_plane import VirtualLoop, virtual_loop
from test_control import HERE, THERE, Side, run_for

from udpring._native import lib
from udpring.errors import RingError
from udpring.tunnel.plane_values import Event, EventKind
from udpring.tunnel.train_probes import RETRY

SINGLES, TRAIN = lib.UDPRING_PROBE_SINGLES, lib.UDPRING_PROBE_TRAIN


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as made:
        yield made


class Route:
    """A route to the peer with a round-trip time. ``passes``: whether a probe (True: a train) gets through,
    by the number of the round. ``answers``: whether the peer answers at all."""

    def __init__(self, loop: VirtualLoop, side: Side) -> None:
        self.loop, self.side = loop, side
        self.trip = 0.01
        self.answers = True
        self.passes: Callable[[bool, int], bool] = lambda train, number: True
        self.rounds = 0
        side.plane.probe = self.probe  # type: ignore[method-assign]

    def probe(self, peer: int) -> None:
        assert peer == self.side.peer
        number = self.rounds
        self.rounds += 1
        for train in (True, False):
            if self.answers and self.passes(train, number):
                event = Event(EventKind.PROBE_ANSWERED, peer, result=TRAIN if train else SINGLES)
                self.loop.call_later(self.trip, self.side.plane.post, event)

    def first_train(self) -> None:
        self.side.plane.post(Event(EventKind.TRAINS, self.side.peer))

    @property
    def verdicts(self) -> list[bool]:
        return [lost for _, _, lost in self.side.plane.named("trains_lost")]


@pytest.fixture
def route(loop: VirtualLoop) -> Iterator[Route]:
    a, b = Side(loop, HERE, 1), Side(loop, THERE, 2)
    a.knows(b)
    a.tunnel.start()
    yield Route(loop, a)
    a.tunnel.close()
    b.tunnel.close()


def only_singles(train: bool, number: int) -> bool:
    return not train


@pytest.mark.parametrize("trip", [0.0001, 0.01, 0.1, 0.24])
def test_lost_trains_are_noticed_within_a_second(
    loop: VirtualLoop, route: Route, trip: float, caplog: pytest.LogCaptureFixture
) -> None:
    route.trip, route.passes = trip, only_singles
    with caplog.at_level(logging.INFO, "udpring.node"):
        route.first_train()
        run_for(loop, 1)
        assert route.verdicts == [True]
        assert caplog.text.count("loses trains") == 1
        run_for(loop, 10)
    assert route.rounds == 2


@pytest.mark.parametrize("trip", [0.0001, 0.1, 0.9, 3.0])
def test_a_good_route_keeps_its_trains(loop: VirtualLoop, route: Route, trip: float) -> None:
    route.trip = trip
    for _session in range(3):
        route.first_train()
        run_for(loop, 120)
    assert route.verdicts == []
    assert route.rounds == 3


def test_one_lost_probe_changes_nothing(loop: VirtualLoop, route: Route) -> None:
    for lost in (True, False):
        route.rounds = 0
        route.passes = lambda train, number, lost=lost: train is not lost or number > 0  # type: ignore[misc]
        route.first_train()
        run_for(loop, 120)
        assert route.verdicts == []


@pytest.mark.parametrize("answers", [True, False])
def test_a_silent_peer_keeps_its_trains(loop: VirtualLoop, route: Route, answers: bool) -> None:
    """Another implementation, or a route that loses everything. It is not asked for ever."""
    route.answers, route.passes = answers, lambda train, number: False
    for _session in range(10):
        route.first_train()
        run_for(loop, 120)
    assert route.verdicts == []
    assert route.rounds == 3


def test_an_answer_that_comes_late_ends_the_verdict(loop: VirtualLoop, route: Route) -> None:
    route.passes = only_singles
    route.first_train()
    run_for(loop, 1)
    route.side.plane.post(Event(EventKind.PROBE_ANSWERED, route.side.peer, result=TRAIN))
    run_for(loop, 1)
    assert route.verdicts == [True, False]


def test_trains_are_tried_again_after_a_while(loop: VirtualLoop, route: Route) -> None:
    route.passes = only_singles
    route.first_train()
    run_for(loop, 1 + 3.5 * RETRY)
    assert route.verdicts == [True]
    assert route.rounds == 5
    route.passes = lambda train, number: True
    run_for(loop, RETRY)
    assert route.verdicts == [True, False]
    route.first_train()
    run_for(loop, 1)
    assert route.verdicts == [True, False]


def test_a_retry_without_session_is_repeated(loop: VirtualLoop, route: Route) -> None:
    route.passes = only_singles
    route.first_train()
    run_for(loop, 1)

    def refuse(peer: int) -> None:
        raise RingError("no session", errno=errno.ENOKEY)

    route.side.plane.probe = refuse  # type: ignore[method-assign]
    run_for(loop, 2 * RETRY)
    route.side.plane.probe = route.probe  # type: ignore[method-assign]
    route.passes = lambda train, number: True
    run_for(loop, RETRY + 1)
    assert route.verdicts == [True, False]


def test_a_peer_without_answers_gets_trains_back(loop: VirtualLoop, route: Route) -> None:
    """Another implementation may be in its place now."""
    route.passes = only_singles
    route.first_train()
    run_for(loop, 1)
    route.answers = False
    run_for(loop, 2.5 * RETRY)
    assert route.verdicts == [True]
    run_for(loop, RETRY)
    assert route.verdicts == [True, False]
    assert route.rounds == 5
    run_for(loop, 10 * RETRY)
    assert route.rounds == 5


def test_a_question_during_a_round_begins_another(loop: VirtualLoop, route: Route) -> None:
    """The peer may have roamed since the probe left."""
    route.trip, route.passes = 0.1, lambda train, number: not train or number == 0
    route.first_train()
    run_for(loop, 0.05)
    route.first_train()
    run_for(loop, 0.8)
    assert route.verdicts == [True]
    assert route.rounds == 3


def test_a_removed_peer_is_probed_no_more(loop: VirtualLoop, route: Route) -> None:
    route.passes = only_singles
    route.first_train()
    run_for(loop, 0.02)
    sent = route.rounds
    route.side.tunnel.remove_peer(route.side.peer)
    run_for(loop, 2 * RETRY)
    assert route.rounds == sent
    assert route.verdicts == []
