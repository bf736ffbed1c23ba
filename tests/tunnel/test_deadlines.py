"""One heap for the deadlines of many peers, and the limit of log lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from udpring.tunnel.deadlines import Deadlines
from udpring.tunnel.flood_gate import FloodGate

steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 8), st.none() | st.integers(0, 100)),
        st.tuples(st.just("due"), st.integers(0, 100), st.integers(1, 4)),
    )
)


@given(steps)
def test_it_agrees_with_a_plain_dictionary(taken: list[tuple[str, int, int | None]]) -> None:
    deadlines = Deadlines()
    model: dict[int, int] = {}
    for kind, first, second in taken:
        if kind == "set":
            deadlines.set(first, second)
            model.pop(first, None)
            if second is not None:
                model[first] = second
        else:
            assert second is not None
            due = deadlines.due(first, second)
            expected = sorted(at for at in model.values() if at <= first)[:second]
            assert sorted(model.pop(peer) for peer in due) == expected
        assert deadlines.first() == min(model.values(), default=None)
        assert len(deadlines) == len(model)


def test_superseded_entries_do_not_pile_up() -> None:
    deadlines = Deadlines()
    for at in range(100_000):
        deadlines.set(1, at)
    assert len(deadlines._heap) < 1000
    assert deadlines.due(1_000_000, 10) == [1]


def test_flood_of_lines_is_held_back_and_counted() -> None:
    now = [0.0]
    gate = FloodGate(burst=3, window=10.0, now=lambda: now[0])
    assert [gate.passes("a")[0] for _ in range(5)] == [True, True, True, False, False]
    assert gate.passes("b") == (True, 0)
    now[0] = 10.0
    assert gate.passes("a") == (True, 2)
    assert gate.passes("a") == (True, 0)
