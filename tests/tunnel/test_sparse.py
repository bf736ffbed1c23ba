"""Which flows are sparse, and for how long that counts (tunnel/worker/sparse.c), with a clock of the test."""

from __future__ import annotations

import pytest
from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

S, MS, US = 10**9, 10**6, 10**3
HOLD = 200 * MS
RUN = 16


class Flows:
    def __init__(self) -> None:
        self.state = ffi.gc(lib.udpring_sparse_new(), lib.udpring_sparse_free)
        self.now = 7 * S

    def packet(self, gap: int, flow: int = 1, super_packet: bool = False) -> int:
        """A packet, `gap` after the last one of any flow. How long it wants short waits. 0: it does not."""
        self.now += gap
        until = int(lib.udpring_sparse_until(self.state, flow, super_packet, self.now))
        return until - self.now if until else 0


@pytest.mark.parametrize("gap", [5 * MS, 20 * MS, 90 * MS])
def test_echoes_are_sparse(gap: int) -> None:
    flows = Flows()
    assert flows.packet(0) == 0, "the first packet of a flow says nothing"
    assert [flows.packet(gap) for _ in range(50)] == [HOLD] * 50


def test_slow_echoes_count_for_two_gaps() -> None:
    flows = Flows()
    flows.packet(0)
    assert flows.packet(S) == 2 * S
    assert flows.packet(S + 1) == 0, "too slow"


def test_acknowledgements_are_not_sparse() -> None:
    """Also when the CPU is short now and then, so that they leave late."""
    flows = Flows()
    said = [flows.packet(20 * MS if i % 100 == 99 else 300 * US) for i in range(1000)]
    assert not any(said)


def test_few_packets_at_once_stay_sparse() -> None:
    """Such as the lines that a keystroke changes."""
    flows = Flows()
    flows.packet(0)
    for _ in range(10):
        assert flows.packet(100 * MS) == HOLD
        assert not any(flows.packet(50 * US) for _ in range(RUN - 1))


def test_single_packets_of_bulk_are_not_sparse() -> None:
    """A stream of super-packets sends one that is none now and then."""
    flows = Flows()
    for _ in range(50):
        assert flows.packet(6 * MS, super_packet=True) == 0
        assert flows.packet(6 * MS) == 0


def test_flow_is_sparse_again_after_bulk() -> None:
    flows = Flows()
    flows.packet(0, super_packet=True)
    assert flows.packet(99 * MS) == 0
    assert flows.packet(20 * MS) == HOLD


def test_flows_are_distinguished() -> None:
    flows = Flows()
    flows.packet(0, flow=2)
    for _ in range(20):
        for _ in range(60):
            assert flows.packet(300 * US, flow=1) == 0
        assert flows.packet(0, flow=2) == HOLD


@given(st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 2**32 - 1), st.booleans()), max_size=200))
def test_any_packets_want_at_most_two_seconds(packets: list[tuple[int, int, bool]]) -> None:
    flows = Flows()
    for gap, flow, super_packet in packets:
        assert flows.packet(gap, flow, super_packet) in range(2 * S + 1)
