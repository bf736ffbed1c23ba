"""When a worker pauses so that datagrams gather (tunnel/worker/moderation.c), with a clock and models of
senders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

S, MS, US = 10**9, 10**6, 10**3
MOST = 150 * US
RATE = 30_000
SOON = 40 * MS


@dataclass
class Worker:
    """One worker's passes: the datagrams that each found, and the pause after it."""

    now: int = 7 * S
    items: int = 0
    passes: int = 0
    pauses: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = ffi.gc(lib.udpring_moderation_new(), lib.udpring_moderation_free)

    def wait(self) -> int:
        wait = int(lib.udpring_moderation_wait(self.state, self.now, self.items, self.passes))
        assert wait <= MOST
        if wait:
            self.pauses.append((self.now, wait))
        return wait

    def run(self, duration: int, arrival: Callable[[int, int], tuple[int, int]]) -> int:
        """Runs passes for this long. `arrival(now, wait)` returns the datagrams found and the time of the
        pass."""
        end, before = self.now + duration, self.items
        while self.now < end:
            count, self.now = arrival(self.now, self.wait())
            self.items += count
            self.passes += 1
        return self.items - before

    def paused_since(self, when: int) -> int:
        return sum(wait for now, wait in self.pauses if now >= when)


def steady(rate: int, quick: int = 4) -> Callable[[int, int], tuple[int, int]]:
    """A sender that does not wait for answers. A worker that does not pause finds `quick` datagrams at a
    time."""

    def arrival(now: int, wait: int) -> tuple[int, int]:
        took = max(wait, quick * S // rate)
        return took * rate // S, now + took

    return arrival


def asking(outstanding: int, round_trip: int) -> Callable[[int, int], tuple[int, int]]:
    """This many clients send requests, each again after its answer. A request waiting here blocks its
    client."""

    def arrival(now: int, wait: int) -> tuple[int, int]:
        took = max(round_trip + wait, outstanding * US)
        return outstanding, now + took

    return arrival


def test_fast_stream_of_small_passes_gathers() -> None:
    worker = Worker()
    worker.run(SOON, steady(150_000))
    count, passes = worker.items, worker.passes
    worker.run(100 * MS, steady(150_000))
    assert (worker.items - count) / (worker.passes - passes) > 15
    assert worker.paused_since(worker.now - 50 * MS) > 40 * MS


def test_it_does_not_begin_at_once() -> None:
    """A burst of a few milliseconds passes without a pause."""
    worker = Worker()
    worker.run(12 * MS, steady(200_000))
    assert not worker.pauses


def test_the_wait_is_a_trains_worth() -> None:
    worker = Worker()
    worker.run(SOON, steady(1_000_000))
    assert 60 * US <= worker.pauses[-1][1] <= 70 * US


@given(st.integers(1, RATE * 9 // 10), st.integers(1, 8))
def test_slow_streams_are_never_held_up(rate: int, quick: int) -> None:
    worker = Worker()
    worker.run(50 * MS, steady(rate, quick))
    assert not worker.pauses


def test_full_passes_need_no_waiting() -> None:
    worker = Worker()
    worker.run(SOON, steady(400_000, quick=40))
    assert not worker.pauses


def test_it_ends_with_the_stream() -> None:
    worker = Worker()
    worker.run(SOON, steady(150_000))
    assert worker.pauses
    worker.run(5 * MS, steady(1_000, quick=1))
    last = worker.now
    worker.run(S, steady(1_000, quick=1))
    assert not worker.paused_since(last)


def test_after_silence_nothing_is_held_up() -> None:
    worker = Worker()
    worker.run(SOON, steady(150_000))
    worker.now += S
    assert worker.wait() == 0


def test_a_stream_that_grows_is_still_let_gather() -> None:
    worker = Worker()
    for rate in (60_000, 90_000, 180_000, 300_000):
        worker.run(SOON, steady(rate))
        assert worker.paused_since(worker.now - 10 * MS) > 5 * MS


def test_who_waits_for_answers_is_left_alone() -> None:
    """Ten clients, 100 us per round: 100 000 a second. A pause would halve that."""
    worker = Worker()
    alone = 10 * S // (100 * US)
    done = worker.run(10 * S, asking(10, 100 * US))
    assert worker.pauses
    assert done > 10 * alone * 97 // 100
    assert worker.paused_since(0) < 10 * S // 30


def test_many_who_ask_lose_nothing_by_waiting() -> None:
    """A thousand outstanding requests keep the worker busy: the next one is always there."""
    worker = Worker()
    done = worker.run(S, asking(1000, 100 * US))
    assert done >= S // US * 97 // 100


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**32), st.integers(0, 1000)), max_size=200))
def test_any_counters_at_any_time_give_a_bounded_wait(steps: list[tuple[int, int, int]]) -> None:
    worker = Worker(now=0)
    for elapsed, items, passes in steps:
        worker.now += elapsed
        worker.items += items
        worker.passes += passes
        worker.wait()


@given(
    st.lists(st.tuples(st.sampled_from([1_000, 40_000, 150_000, 500_000]), st.integers(1, 60)), max_size=12)
)
def test_haste_alone_does_not_begin_it(phases: list[tuple[int, int]]) -> None:
    """With any alternation of fast and slow, three whole windows (12 ms) pass before the first pause."""
    worker = Worker()
    fast_since: int | None = None
    for rate, length in phases:
        if rate >= RATE and fast_since is None:
            fast_since = worker.now
        worker.run(length * MS, steady(rate))
    if worker.pauses:
        assert fast_since is not None
        assert worker.pauses[0][0] - fast_since >= 12 * MS
