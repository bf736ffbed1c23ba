"""When a worker yields to the readers of its packets (tunnel/worker/pacing.c), with a given clock."""

from __future__ import annotations

from collections.abc import Callable

from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

MS, US = 10**6, 10**3
EACH = 24


class Pacing:
    def __init__(self) -> None:
        self.state = ffi.gc(lib.udpring_pacing_new(), lib.udpring_pacing_free)
        self.now = 10**12
        self.delivered = 0

    def deliver(self, count: int) -> bool:
        self.delivered += count
        return bool(lib.udpring_pacing_due(self.state, self.now, self.delivered))

    def gave_way(self, took: int) -> None:
        lib.udpring_pacing_gave_way(self.state, self.now, self.now + took)
        self.now += took


def share_kept(took: Callable[[int], int], each: int = 30 * US, rounds: int = 2000) -> float:
    """The worker's share of the time. EACH datagrams cost it `each`, and the n-th yield takes `took(n)`."""
    pacing = Pacing()
    began, worked = pacing.now, 0
    for number in range(rounds):
        pacing.now += each
        worked += each
        if pacing.deliver(EACH):
            pacing.gave_way(took(number))
    return worked / (pacing.now - began)


@given(st.lists(st.integers(1, EACH - 1), max_size=100))
def test_it_is_due_once_for_each_so_many(counts: list[int]) -> None:
    pacing = Pacing()
    due = since = 0
    for count in counts:
        since += count
        if pacing.deliver(count):
            assert since >= EACH
            due, since = due + 1, 0
        else:
            assert since < EACH
    assert due <= sum(counts) // EACH


def test_a_train_is_due_by_itself() -> None:
    assert Pacing().deliver(64)


def test_a_reader_gets_its_turn_each_time() -> None:
    pacing = Pacing()
    for _ in range(100):
        assert pacing.deliver(EACH)
        pacing.gave_way(200 * US)


def test_who_keeps_the_cpu_is_given_way_rarely() -> None:
    """A neighbour that always uses its time slice of 3 ms gets about a tenth of the time, not all of it."""
    assert share_kept(lambda number: 3 * MS) > 0.85


def test_unneeded_yield_costs_nothing() -> None:
    assert share_kept(lambda number: 300) > 0.98


def test_after_the_pause_it_goes_on() -> None:
    pacing = Pacing()
    assert pacing.deliver(EACH)
    pacing.gave_way(3 * MS)
    pacing.now += 23 * MS
    assert not pacing.deliver(EACH)
    pacing.now += 2 * MS
    assert pacing.deliver(EACH)
