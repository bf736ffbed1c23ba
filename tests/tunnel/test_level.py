"""When datagrams are many, or bytes are bulk (tunnel/worker/level.c), with a clock of the test."""

from __future__ import annotations

from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

S, MS, US = 10**9, 10**6, 10**3
MANY = 8000


class Rate:
    def __init__(self) -> None:
        self.state = ffi.gc(lib.udpring_level_new(), lib.udpring_level_free)
        self.now = 7 * S
        self.datagrams = 0

    def run(self, duration: int, rate: int, at_once: int = 1) -> bool:
        """A pass for each train of `at_once` datagrams. Returns whether they are many at the end."""
        end = self.now + duration
        many = False
        while self.now < end:
            self.now += at_once * S // rate
            self.datagrams += at_once
            many = bool(lib.udpring_level_high(self.state, self.now, self.datagrams, MANY))
        return many


def test_many_are_noticed_and_forgotten() -> None:
    rate = Rate()
    assert rate.run(40 * MS, MANY * 5 // 4)
    assert not rate.run(40 * MS, 1_000)


def test_trains_count_as_their_datagrams() -> None:
    """130 000 datagrams a second in trains of 40 are 3250 buffers. A receiver of them has many, too."""
    assert Rate().run(40 * MS, 130_000, at_once=40)


def test_few_are_not_many() -> None:
    assert not Rate().run(S, MANY * 7 // 8)


def test_burst_is_not_many() -> None:
    assert not Rate().run(12 * MS, 200_000)


def test_silence_ends_many() -> None:
    rate = Rate()
    assert rate.run(40 * MS, 100_000)
    many = True
    for _ in range(5):  # the first window has datagrams, too
        rate.now += 4 * MS
        many = bool(lib.udpring_level_high(rate.state, rate.now, rate.datagrams, MANY))
    assert not many


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**32)), max_size=200))
def test_no_change_within_four_windows(steps: list[tuple[int, int]]) -> None:
    """Whatever the counter and the clock do, 16 ms pass between two changes."""
    rate = Rate()
    before, since = False, rate.now
    for elapsed, more in steps:
        rate.now += elapsed
        rate.datagrams += more
        many = bool(lib.udpring_level_high(rate.state, rate.now, rate.datagrams, MANY))
        if many != before:
            assert rate.now - since >= 16 * MS
            before, since = many, rate.now
