"""Readers of a node's events: order, limits, losses, ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.tunnel.node_events import (
    EventReader,
    EventsLost,
    HandshakeCompleted,
    InterfaceGone,
    NodeEvent,
    NodeEvents,
    OverloadBegan,
    OverloadEnded,
)


def event(number: int) -> NodeEvent:
    return HandshakeCompleted(str(number), initiator=False)


async def drained(reader: EventReader) -> list[NodeEvent]:
    """All events of an ended reader."""
    return [each async for each in reader]


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))  # type: ignore[arg-type]


def test_every_reader_gets_every_event() -> None:
    async def body() -> None:
        events = NodeEvents()
        readers = [events.reader(), events.reader()]
        events.post(event(1))
        late = events.reader()
        events.post(event(2))
        events.end()
        assert [await drained(each) for each in readers] == [[event(1), event(2)]] * 2
        assert await drained(late) == [event(2)]

    run(body)


def test_waiting_reader_is_woken() -> None:
    async def body() -> None:
        events = NodeEvents()
        reader = events.reader()
        waiting = [asyncio.ensure_future(anext(reader)) for _ in range(2)]
        await asyncio.sleep(0)
        events.post(event(1))
        events.post(event(2))
        assert {await each for each in waiting} == {event(1), event(2)}

    run(body)


def test_slow_reader_learns_how_many_it_lost() -> None:
    async def body() -> None:
        events = NodeEvents()
        slow, quick = events.reader(limit=2), events.reader()
        for number in range(5):
            events.post(event(number))
        assert [await anext(slow) for _ in range(3)] == [event(0), event(1), EventsLost(3)]
        assert (slow.lost, quick.lost, events.lost) == (3, 0, 3)
        events.post(event(5))
        assert await anext(slow) == event(5)
        events.end()
        assert len(await drained(quick)) == 6

    run(body)


@given(st.lists(st.sampled_from(["post", "post", "read", "lose"])), st.integers(1, 4))
def test_nothing_is_lost_uncounted(doings: list[str], limit: int) -> None:
    """Read events come in order, the queue keeps its limit, and read and lost ones make up all."""

    async def body() -> None:
        events = NodeEvents()
        reader = events.reader(limit)
        posted, got = 0, []
        for each in doings:
            if each == "post":
                events.post(event(posted))
                posted += 1
            elif each == "lose":
                events.lose()
                posted += 1
            elif reader._queue or reader._gap:
                got.append(await anext(reader))
            assert len(reader._queue) <= limit + 1
        events.end()
        got += await drained(reader)
        lost = sum(each.count for each in got if isinstance(each, EventsLost))
        numbers = [int(each.public_key) for each in got if isinstance(each, HandshakeCompleted)]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + lost == posted
        assert lost == reader.lost == events.lost

    asyncio.run(body())


def test_last_event_finds_room_in_full_queue() -> None:
    async def body() -> None:
        events = NodeEvents()
        reader = events.reader(limit=1)
        for number in range(3):
            events.post(event(number))
        events.end(InterfaceGone("deleted"))
        events.post(OverloadBegan())
        assert await drained(reader) == [event(0), EventsLost(2), InterfaceGone("deleted")]

    run(body)


def test_closed_or_dropped_reader_costs_nothing() -> None:
    async def body() -> None:
        events = NodeEvents()
        closed, dropped = events.reader(), events.reader()
        assert events.wanted
        events.post(OverloadEnded(1.0))
        closed.close()
        closed.close()
        with pytest.raises(StopAsyncIteration):
            await anext(closed)
        del dropped
        gc.collect()
        events.post(event(1))
        assert not events.wanted
        assert events.lost == 0

    run(body)


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NodeEvents().reader(limit=0)
