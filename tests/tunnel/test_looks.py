"""Looks at the timers of peers: few in a burst, and at once where somebody waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_plane import VirtualLoop, virtual_loop

from udpring.tunnel import looks
from udpring.tunnel.looks import Looks


class Looking:
    def __init__(self, loop: VirtualLoop, most: int) -> None:
        self.loop = loop
        self.seen: list[tuple[float, list[int]]] = []
        self.looks = Looks(loop, self.look)
        self.most = most
        self.began = loop.time()

    def look(self) -> None:
        self.seen.append((self.loop.time() - self.began, self.looks.take(self.most)))

    def run(self, seconds: float) -> None:
        async def wait() -> None:
            self.loop.call_later(seconds, done.set_result, None)
            await done

        done = self.loop.create_future()
        self.loop.run_until_complete(wait())


@pytest.fixture
def looking() -> Iterator[Looking]:
    with virtual_loop() as loop:
        made = Looking(loop, most=3)
        made.looks.start()
        yield made


def test_burst_has_one_look(looking: Looking) -> None:
    for turn in range(3):
        looking.loop.call_later(looks.DELAY * turn / 4, looking.looks.want, turn)
        looking.loop.call_later(looks.DELAY * turn / 4, looking.looks.want, 0)
    looking.run(1)
    ((at, peers),) = looking.seen
    assert peers == [0, 1, 2]
    assert at == pytest.approx(looks.DELAY)


def test_look_at_once_takes_those_that_wait(looking: Looking) -> None:
    looking.looks.want(1)
    looking.looks.want(2, at_once=True)
    looking.run(1)
    ((at, peers),) = looking.seen
    assert peers == [1, 2]
    assert at < looks.DELAY


def test_more_than_a_turn_takes_follow_in_the_next(looking: Looking) -> None:
    for peer in range(7):
        looking.looks.want(peer, at_once=True)
    looking.run(1)
    assert [peers for _, peers in looking.seen] == [[0, 1, 2], [3, 4, 5], [6]]


def test_forgotten_peer_is_not_looked_at(looking: Looking) -> None:
    looking.looks.want(1)
    looking.looks.want(2)
    looking.looks.forget(1)
    looking.run(1)
    assert [peers for _, peers in looking.seen] == [[2]]


def test_looks_last_from_start_to_stop(looking: Looking) -> None:
    looking.looks.want(1)
    looking.looks.stop()
    looking.looks.want(2)
    looking.run(1)
    assert not looking.seen
    looking.looks.start()
    looking.looks.want(3)
    looking.run(1)
    assert [peers for _, peers in looking.seen] == [[2, 3]]
