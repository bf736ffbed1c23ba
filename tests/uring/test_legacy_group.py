"""Groups whose buffers operations give to the kernel, and take back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from udpring import RingError
from udpring.uring import Flag, LegacyGroup, Ring


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(8) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


@pytest.fixture
def packets() -> Iterator[tuple[int, int]]:
    """A pipe whose writes stay apart."""
    ends = os.pipe2(os.O_DIRECT)
    yield ends
    for end in ends:
        os.close(end)


def results(ring: Ring, tickets: list[int]) -> list[int]:
    done: dict[int, int] = {}
    while not set(tickets) <= set(done):
        done |= {each.ticket: each.result for each in ring.reap(1, 30)}
    return [done[ticket] for ticket in tickets]


def test_buffers_go_round(ring: Ring, packets: tuple[int, int]) -> None:
    """Far beyond their number, each with its own bytes. What is given is neither lost nor given twice."""
    group = ring.legacy_buffers(3, 4, 64)
    results(ring, group.give())
    for number in range(200):
        os.write(packets[1], b"%d" % number)
        ring.read_group(packets[0], 3)
        (done,) = ring.reap(1, 30)
        assert done.data == b"%d" % number
        if number % 3 == 2:
            assert group.available == 1
            assert set(results(ring, group.give())) == {0}
            assert group.available == 4


def test_multishot_reads_end_when_it_is_empty(ring: Ring, packets: tuple[int, int]) -> None:
    group = ring.legacy_buffers(3, 2, 16)
    results(ring, group.give())
    ticket = ring.read_multishot(packets[0], 3)
    ring.submit()
    got = []
    for word in (b"one", b"two", b"three"):
        os.write(packets[1], word)
        got += ring.reap(1, 30)
    assert [(done.ticket, done.data) for done in got[:2]] == [(ticket, b"one"), (ticket, b"two")]
    assert (got[2].result, got[2].more) == (-errno.ENOBUFS, False)


def test_the_kernel_gets_no_buffer_twice(ring: Ring) -> None:
    group = ring.legacy_buffers(3, 6, 16)
    queued = ring.give_buffers(3, 1, 3)
    with pytest.raises(RingError, match="already") as caught:
        ring.give_buffers(3, 3, 1)
    assert caught.value.errno == errno.EBUSY
    assert ring.retract() == 1
    assert group.available == 0, "it was taken back before it was submitted"
    queued = ring.give_buffers(3, 1, 3)
    assert results(ring, [queued]) == [0]
    assert len(group.give()) == 2  # the runs before and behind
    assert group.available == 6
    for first, count in ((0, 7), (6, 1), (0, 0), (2**32, 1)):
        with pytest.raises(RingError) as caught:
            ring.give_buffers(3, first, count)
        assert caught.value.errno == errno.ERANGE


def test_a_cancelled_gift_stays_with_the_program(ring: Ring) -> None:
    group = ring.legacy_buffers(3, 4, 16)
    ring.nop(result=-5, flags=Flag.LINK)
    (ticket,) = group.give()
    assert group.available == 4
    assert results(ring, [ticket]) == [-errno.ECANCELED]
    assert group.available == 0
    assert results(ring, group.give()) == [0]


def test_group_is_unregistered_when_it_has_its_buffers(ring: Ring, packets: tuple[int, int]) -> None:
    group = ring.legacy_buffers(3, 4, 16)
    results(ring, group.give())
    with pytest.raises(RingError, match="remove them first") as caught:
        group.unregister()
    assert caught.value.errno == errno.EBUSY
    os.write(packets[1], b"word")
    ring.read_group(packets[0], 3)
    (done,) = ring.reap(1, 30)
    assert done.data == b"word"
    assert results(ring, [group.remove()]) == [3]
    group.unregister()
    with pytest.raises(RingError) as caught:
        group.unregister()
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(RingError, match="never provided"):
        ring.give_buffers(3, 0, 1)
    assert isinstance(ring.legacy_buffers(3, 1, 16), LegacyGroup)  # the number is free


def test_kinds_of_groups_are_not_mixed_up(ring: Ring) -> None:
    ring.legacy_buffers(1, 2, 16)
    ring.provide_buffers(2, 2, 16)
    ring.provide_send_buffers(3, 2, 16)
    for call in (
        lambda: ring.give_buffers(2, 0, 1),
        lambda: ring.remove_buffers(3, 2),
        lambda: ring.send_group(0, 1),
        lambda: ring.send_group(0, 2),
        lambda: ring.recv_group(0, 3),
        lambda: ring.read_multishot(0, 3),
        lambda: ring.recvmsg_multishot(0, 3),
    ):
        with pytest.raises(RingError, match="another kind") as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    for make in (ring.legacy_buffers, ring.provide_buffers, ring.provide_send_buffers):
        for number in (1, 2, 3):
            with pytest.raises(RingError, match="use another") as caught:
                make(number, 2, 16)
            assert caught.value.errno == errno.EEXIST
    with pytest.raises(RingError, match="1 to 32768"):
        ring.legacy_buffers(4, 0, 16)


def test_close_with_buffers_in_the_kernel(packets: tuple[int, int]) -> None:
    with Ring(8) as ring:
        results(ring, ring.legacy_buffers(3, 4, 16).give())
        ring.read_multishot(packets[0], 3)
        ring.submit()
    assert ring.leaked == 0
