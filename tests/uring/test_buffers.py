"""Provided buffers (multishot reads) and registered buffers."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import RingError
from udpring.uring import Completion, Ring


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(32, cq_entries=256) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


def reap(ring: Ring, count: int = 1) -> list[Completion]:
    found: list[Completion] = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        found += ring.reap(1, 1)
    assert len(found) == count
    return found


def test_no_buffers_does_not_unregister(ring: Ring) -> None:
    (view,) = ring.register_buffers([4096])
    with pytest.raises(RingError) as caught:
        ring.register_buffers([])
    assert caught.value.errno == errno.EBUSY
    with Path("/dev/zero").open("rb") as zero:
        view[:2] = b"xx"
        ring.read_fixed(zero, 0, 2)
        assert [done.result for done in reap(ring)] == [2]
    assert bytes(view[:2]) == b"\0\0"


@pytest.mark.parametrize("count", [0, 3, 7, 100, 32769, 65536])
def test_a_group_of_a_bad_size_is_refused(ring: Ring, count: int) -> None:
    """The maximum is 32768, because entries are counted in 16 bits."""
    with pytest.raises(RingError, match="power of two") as caught:
        ring.provide_buffers(1, count, 16)
    assert caught.value.errno == errno.EINVAL


def test_bad_groups_are_refused(ring: Ring) -> None:
    for group, count, size in ((65536, 8, 16), (1, 8, 0), (1, 32768, 2**20)):
        with pytest.raises(RingError) as caught:
            ring.provide_buffers(group, count, size)
        assert caught.value.errno == errno.EINVAL
    ring.provide_buffers(1, 8, 16)
    with pytest.raises(RingError, match="registered already") as caught:
        ring.provide_buffers(1, 8, 16)
    assert caught.value.errno == errno.EEXIST
    for group in range(2, 17):
        ring.provide_buffers(group, 8, 16)
    with pytest.raises(RingError, match="at most 16") as caught:
        ring.provide_buffers(17, 8, 16)
    assert caught.value.errno == errno.ENOBUFS


@pytest.mark.parametrize("count", [1, 2, 8, 32768])
def test_buffers_come_back_far_beyond_their_number(ring: Ring, pipe: tuple[int, int], count: int) -> None:
    """Each buffer returns to the kernel many times, across the wrap of the ring."""
    reader, writer = pipe
    ring.provide_buffers(3, count, 32)
    ticket = ring.read_multishot(reader, 3)
    ring.submit()
    for number in range(300):
        word = b"%d" % number
        os.write(writer, word)
        (done,) = reap(ring)
        assert (done.ticket, done.data) == (ticket, word)
        assert done.more or count == 1
        if not done.more:
            ticket = ring.read_multishot(reader, 3)
            ring.submit()


def test_a_group_run_dry_says_so_and_serves_again(ring: Ring) -> None:
    reader, writer = os.pipe2(os.O_DIRECT)  # packets: one read each
    ring.provide_buffers(3, 2, 32)
    for number in range(5):
        os.write(writer, b"packet %d" % number)
    ticket = ring.read_multishot(reader, 3)
    ring.submit()
    got: list[bytes] = []
    dry = 0
    while len(got) < 5:
        for done in ring.reap(1, 30):
            if done.result >= 0:
                got.append(done.data)
            if not done.more:
                assert done.result in (-errno.ENOBUFS, len(done.data))
                dry += 1
                ticket = ring.read_multishot(reader, 3)
                ring.submit()
    assert got == [b"packet %d" % number for number in range(5)]
    assert dry >= 1
    ring.cancel(ticket)
    assert -errno.ECANCELED in [done.result for done in reap(ring, 2)]
    os.close(reader)
    os.close(writer)


def test_a_multishot_read_ends_with_the_file(ring: Ring) -> None:
    reader, writer = os.pipe()
    ring.provide_buffers(3, 8, 32)
    ring.read_multishot(reader, 3)
    ring.submit()
    os.write(writer, b"last")
    os.close(writer)
    done = reap(ring, 2)
    assert [(one.data, one.more) for one in done] == [(b"last", True), (b"", False)]
    assert ring.info.in_flight == ring.info.busy_slots == 0
    os.close(reader)


def test_a_multishot_read_of_an_eventfd(ring: Ring) -> None:
    counter = os.eventfd(0)
    ring.provide_buffers(3, 8, 8)
    ring.read_multishot(counter, 3)
    ring.submit()
    for value in (1, 7, 2**40):
        os.eventfd_write(counter, value)
        assert reap(ring)[0].data == value.to_bytes(8, "little")
    os.close(counter)


def test_two_groups_do_not_mix(ring: Ring) -> None:
    one, two = os.pipe(), os.pipe()
    ring.provide_buffers(1, 8, 4)
    ring.provide_buffers(2, 8, 64)
    small, large = ring.read_multishot(one[0], 1), ring.read_multishot(two[0], 2)
    ring.submit()
    for _ in range(30):
        os.write(one[1], b"four")
        os.write(two[1], b"rather more than four")
        done = {completion.ticket: completion.data for completion in reap(ring, 2)}
        assert done == {small: b"four", large: b"rather more than four"}
    for end in (*one, *two):
        os.close(end)


def test_registered_buffers(ring: Ring, tmp_path: Path) -> None:
    first, second = ring.register_buffers([4096, 8192])
    first[:5] = b"hello"
    with (tmp_path / "file").open("w+b") as file:
        ring.write_fixed(file, 0, 5, offset=0)
        assert reap(ring)[0].result == 5
        ring.read_fixed(file, 1, 5, start=100, offset=0)
        assert reap(ring)[0].result == 5
    assert bytes(second[100:105]) == b"hello"
    for start, length in ((0, 4097), (4096, 1), (2**40, 1)):
        with pytest.raises(RingError, match="registered buffer 0") as caught:
            ring.read_fixed(0, 0, length, start=start)
        assert caught.value.errno == errno.ERANGE
    with pytest.raises(RingError) as caught:
        ring.register_buffers([10])
    assert caught.value.errno == errno.EBUSY
    ring.unregister_buffers()
    assert bytes(second[100:105]) == b"hello"


def test_views_of_registered_buffers_outlive_the_ring() -> None:
    ring = Ring(8)
    (view,) = ring.register_buffers([4096])
    ring.close()
    view[:4] = b"safe"
    assert bytes(view[:4]) == b"safe"
