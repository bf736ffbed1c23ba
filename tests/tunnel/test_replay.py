"""The replay window (RFC 6479) of 8192 bits, 8128 of them usable, against a model that remembers all
counters."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

WINDOW = 8128
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
LIMIT = WINDOW + 1


class Window:
    def __init__(self) -> None:
        self.window = ffi.gc(lib.udpring_replay_new(), lib.udpring_replay_free)

    def update(self, counter: int) -> bool:
        """Accepts or refuses a counter. Also checks that a look-up before gives the same answer."""
        asked = lib.udpring_replay_check(self.window, counter)
        done = lib.udpring_replay_update(self.window, counter)
        assert asked == done
        return bool(done)


class Model:
    def __init__(self) -> None:
        self.greatest = 0
        self.seen: set[int] = set()

    def update(self, counter: int) -> bool:
        if counter >= REJECT_AFTER_MESSAGES or counter in self.seen or counter < self.greatest - WINDOW:
            return False
        self.seen.add(counter)
        self.greatest = max(self.greatest, counter)
        return True


def test_the_edges_of_the_window() -> None:
    """The sequence of the kernel's self-test (WireGuard, selftest/counter.c)."""
    window = Window()
    steps = [
        (0, True), (1, True), (1, False), (9, True), (8, True), (7, True), (7, False),
        (LIMIT, True), (LIMIT - 1, True), (LIMIT - 1, False), (LIMIT - 2, True), (2, True), (2, False),
        (LIMIT + 16, True), (3, False), (LIMIT + 16, False),
        (LIMIT * 4, True), (LIMIT * 4 - (LIMIT - 1), True), (10, False), (LIMIT * 4 - LIMIT, False),
        (LIMIT * 4 - (LIMIT + 1), False), (LIMIT * 4 - (LIMIT - 2), True), (LIMIT * 4 + 1 - LIMIT, False),
        (0, False), (REJECT_AFTER_MESSAGES, False), (REJECT_AFTER_MESSAGES - 1, True),
        (REJECT_AFTER_MESSAGES, False), (REJECT_AFTER_MESSAGES - 1, False), (REJECT_AFTER_MESSAGES - 2, True),
        (REJECT_AFTER_MESSAGES + 1, False), (REJECT_AFTER_MESSAGES + 2, False),
        (REJECT_AFTER_MESSAGES - 2, False), (REJECT_AFTER_MESSAGES - 3, True), (0, False),
    ]  # fmt: skip
    for number, (counter, accepted) in enumerate(steps):
        assert window.update(counter) is accepted, f"step {number}: {counter}"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (range(1, WINDOW + 1), [(0, True), (0, False)]),
        (range(2, WINDOW + 2), [(1, True), (0, False)]),
        (range(WINDOW, -1, -1), []),
        (range(WINDOW + 1, 0, -1), [(0, False)]),
        (range(WINDOW, 0, -1), [(WINDOW + 1, True), (0, False)]),
        (range(WINDOW, 0, -1), [(0, True), (WINDOW + 1, True)]),
    ],
    ids=["up, then 0", "up from 2", "down to 0", "down to 1", "down, further, 0", "down, 0, further"],
)
def test_whole_windows(first: Iterable[int], then: list[tuple[int, bool]]) -> None:
    window = Window()
    assert all(window.update(counter) for counter in first)
    assert [window.update(counter) for counter, _ in then] == [accepted for _, accepted in then]


def test_8128_behind_is_accepted_and_8129_behind_is_not() -> None:
    for greatest in (WINDOW + 5, 1_000_003, 2**32, 2**63 + 17, REJECT_AFTER_MESSAGES - 1):
        window = Window()
        assert window.update(greatest)
        assert not window.update(greatest - WINDOW - 1)
        assert window.update(greatest - WINDOW)
        assert not window.update(greatest - WINDOW)


def test_asking_moves_nothing() -> None:
    window = Window()
    assert window.update(100)
    for _ in range(3):
        assert lib.udpring_replay_check(window.window, 2**40)
    assert window.update(99)
    assert not window.update(100)
    assert window.update(2**40)
    assert not window.update(101)


def test_a_jump_far_ahead_forgets_the_old_bits() -> None:
    """Counters that share their bit with seen ones of an earlier window are fresh."""
    window = Window()
    assert all(window.update(counter) for counter in range(8192))
    assert window.update(3 * 8192)
    assert all(window.update(counter) for counter in range(3 * 8192 - 1, 3 * 8192 - WINDOW - 1, -1))


NEAR = st.sampled_from(
    [distance + nudge for distance in (0, 64, 4096, 8128, 8192, 16384) for nudge in range(-2, 3)]
)
STEPS = st.one_of(
    st.tuples(st.just("back"), NEAR | st.integers(0, 9000)),
    st.tuples(st.just("ahead"), NEAR | st.integers(0, 300) | st.integers(0, 2**62)),
    st.tuples(st.just("at"), st.integers(0, 20000) | st.integers(0, 2**64 - 1)),
    st.tuples(st.just("limit"), st.integers(-9000, 8192)),
)


@given(st.lists(STEPS, max_size=120))
def test_agrees_with_a_model_that_remembers_everything(steps: list[tuple[str, int]]) -> None:
    window, model = Window(), Model()
    for where, amount in steps:
        origin = {
            "back": model.greatest - amount,
            "ahead": model.greatest + amount,
            "at": amount,
            "limit": REJECT_AFTER_MESSAGES + amount,
        }[where]
        counter = min(max(origin, 0), 2**64 - 1)
        assert window.update(counter) == model.update(counter), counter
