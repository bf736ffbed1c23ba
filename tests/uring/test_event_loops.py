"""``Ring.fileno()`` in event loops, on every set of flags."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from udpring import RingError
from udpring._native import lib
from udpring.uring import Completion, Flag, Ring

DENIED = {
    "defer": 0,
    "coop": lib.UDPRING_SETUP_DEFER_TASKRUN,
    "plain": lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN,
}


@pytest.fixture(params=DENIED)
def ring(request: Any) -> Iterator[Ring]:
    with Ring(8, deny=DENIED[request.param]) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


def readable(ring: Ring, seconds: float) -> bool:
    """By epoll, as event loops wait. select(2) would look once more at the end of its time."""
    with select.epoll() as poller:
        poller.register(ring.fileno(), select.EPOLLIN)
        return bool(poller.poll(seconds))


def test_poller_wakes_when_data_arrives_later(ring: Ring, pipe: tuple[int, int]) -> None:
    """The poller is asleep when the data arrives. The thread that writes never enters the ring."""
    reader, writer = pipe
    ticket = ring.read(reader, 10)
    ring.submit()
    assert not readable(ring, 0)
    asleep = threading.Timer(0.05, os.write, (writer, b"later"))
    asleep.start()
    try:
        assert readable(ring, 30)
    finally:
        asleep.join()
    (done,) = ring.completions()
    assert (done.ticket, done.data) == (ticket, b"later")
    assert not readable(ring, 0)


def test_each_further_arrival_wakes_again(ring: Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    for number in range(50):
        ring.read(reader, 10)
        ring.submit()
        os.write(writer, b"%d" % number)
        assert readable(ring, 30)
        assert [done.data for done in ring.completions()] == [b"%d" % number]
        assert not readable(ring, 0)


WAYS: dict[str, Callable[[Ring, int], int]] = {
    "poll": lambda ring, fd: ring.poll_add(fd),
    "multishot": lambda ring, fd: ring.poll_add(fd, multishot=True),
    "read": lambda ring, fd: ring.read(fd, 8),
    "registered": lambda ring, fd: ring.poll_add(0, flags=Flag.FIXED_FILE),
    "epoll": lambda ring, fd: ring.poll_add(EPOLL),
}
EPOLL = select.epoll()  # polled in place of the eventfd that it watches


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [False, True], ids=["watched first", "armed first"])
def test_each_write_to_a_polled_eventfd_wakes(ring: Ring, way: str, early: bool) -> None:
    """The kernel puts the signal of the ring off, as it comes from within the write to an eventfd."""
    polled = os.eventfd(0, os.EFD_NONBLOCK)
    EPOLL.register(polled, select.EPOLLIN)
    try:
        ring.register_files([polled])
        if not early:
            ring.fileno()
        armed = False
        for _ in range(6):
            if not armed:
                WAYS[way](ring, polled)
                ring.submit()
            armed = way == "multishot"
            assert early or not readable(ring, 0)
            writer = threading.Thread(target=os.eventfd_write, args=(polled, 1))
            writer.start()
            assert readable(ring, 30)
            writer.join()
            assert len(ring.completions()) == 1
            if way != "read":
                os.eventfd_read(polled)
            assert not ring.completions()
    finally:
        EPOLL.unregister(polled)
        os.close(polled)


def test_present_completions_count_at_the_first_call(ring: Ring) -> None:
    ring.nop()
    ring.submit()
    assert readable(ring, 30)
    assert len(ring.completions()) == 1


def test_completions_left_keep_it_readable(ring: Ring) -> None:
    for _ in range(5):
        ring.nop()
    assert ring.fileno() == ring.fileno() != ring.ring_fd
    ring.submit()
    taken: list[Completion] = []
    while readable(ring, 0):
        some = ring.completions(limit=2)
        assert len(some) <= 2
        taken += some
    assert len(taken) == 5
    assert ring.info.ready == 0


def test_overflowed_completions_are_taken_too(ring: Ring) -> None:
    """The queue holds 32. The kernel keeps the others until it is entered."""
    ring.fileno()
    with Ring(64) as source:
        for _ in range(40):
            source.msg_ring(ring, 1)
        for done in source.reap(40, 30):
            assert done.result == 0
    taken = 0
    while taken < 40 and readable(ring, 30):
        taken += len(ring.completions())
    assert taken == 40


def test_limit_is_no_negative_number(ring: Ring) -> None:
    ring.nop()
    ring.submit()
    with pytest.raises(ValueError, match="-1"):
        ring.completions(limit=-1)
    assert ring.completions(limit=0) == []
    assert len(ring.completions()) == 1


def test_asyncio_reads_by_the_descriptor(ring: Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe

    async def receive() -> list[bytes]:
        loop = asyncio.get_running_loop()
        got: list[bytes] = []
        ended = loop.create_future()

        def take() -> None:
            taken = ring.completions()
            got.extend(done.data for done in taken)
            if not taken or len(got) == 10:
                if taken:
                    ended.set_result(None)
                return
            ring.read(reader, 1)
            ring.submit()
            loop.call_later(0.001, os.write, writer, b"%d" % len(got))

        loop.add_reader(ring.fileno(), take)
        ring.read(reader, 1)
        ring.submit()
        loop.call_later(0.01, os.write, writer, b"0")
        await asyncio.wait_for(ended, 30)
        loop.remove_reader(ring.fileno())
        return got

    assert asyncio.run(receive()) == [b"%d" % number for number in range(10)]


def test_a_ring_signals_one_eventfd(ring: Ring) -> None:
    own = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        ring.register_eventfd(own)
        with pytest.raises(RingError, match=r"register_eventfd\(None\)") as caught:
            ring.fileno()
        assert caught.value.errno == errno.EBUSY
        ring.register_eventfd(None)
        ring.fileno()
        with pytest.raises(RingError, match="one already") as caught:
            ring.register_eventfd(own)
        assert caught.value.errno == errno.EBUSY
    finally:
        os.close(own)


def test_close_leaves_no_descriptor(ring: Ring) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(20):
        with Ring(8) as each:
            each.fileno()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_child_does_not_clear_the_parents_signal(ring: Ring) -> None:
    ring.nop()
    ring.fileno()
    ring.submit()
    child = os.fork()
    if not child:
        code = 1
        try:
            ring.completions()
        except RuntimeError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert readable(ring, 30)
    assert len(ring.completions()) == 1
