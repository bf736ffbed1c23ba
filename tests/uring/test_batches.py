"""Many operations in one call, and completions as columns."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import RingError
from udpring.uring import Ring


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(32, cq_entries=256) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)
    assert not ring._pins


def columns(room: int) -> tuple[array[int], array[int], array[int]]:
    return array("Q", bytes(8 * room)), array("i", bytes(4 * room)), array("I", bytes(4 * room))


def all_results(ring: Ring, count: int) -> dict[int, int]:
    """By ticket, through small columns, so that several calls are needed."""
    found: dict[int, int] = {}
    tickets, results, flags = columns(7)
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        ring.wait(1, 1)
        for i in range(ring.completions_into(tickets, results, flags)):
            assert tickets[i] not in found
            found[tickets[i]] = results[i]
    assert len(found) == count
    return found


def test_many_nops_in_one_call(ring: Ring) -> None:
    """More than the submission queue holds."""
    tickets = ring.queue_many("nop", -1, count=200)
    assert len(set(tickets)) == 200
    assert all_results(ring, 200) == dict.fromkeys(tickets, 0)


def test_reads_into_parts_of_one_buffer(ring: Ring, tmp_path: Path) -> None:
    content = os.urandom(64 * 512)
    (tmp_path / "file").write_bytes(content)
    buffer = bytearray(len(content))
    order = list(range(0, len(content), 512))[::-1]
    offsets = array("Q", order)
    with (tmp_path / "file").open("rb") as file:
        tickets = ring.queue_many("read", file, offsets=offsets, lengths=512, buffer=buffer, starts=offsets)
        assert all_results(ring, 64) == dict.fromkeys(tickets, 512)
        assert buffer == content
        ring.queue_many("read", file, offsets=offsets, lengths=512, buffer=buffer)  # one behind the other
        all_results(ring, 64)
    assert buffer == b"".join(content[at : at + 512] for at in order)


def test_columns_of_files_and_lengths(ring: Ring) -> None:
    pairs = [socket.socketpair() for _ in range(10)]
    with contextlib.ExitStack() as stack:
        for one, two in pairs:
            stack.enter_context(one)
            stack.enter_context(two)
        writers = array("i", [one.fileno() for one, _ in pairs])
        readers = array("i", [two.fileno() for _, two in pairs])
        lengths = array("I", range(1, 11))
        starts = array("Q", [0] * 10)
        got = bytearray(1000)
        tickets = ring.queue_many("recv", readers, lengths=100, buffer=got)
        ring.queue_many("send", writers, lengths=lengths, buffer=b"0123456789", starts=starts)
        found = all_results(ring, 20)
        assert [found[ticket] for ticket in tickets] == list(lengths)
        for i, length in enumerate(lengths):
            assert got[i * 100 : i * 100 + length] == b"0123456789"[:length]


def test_memory_of_a_batch_is_held_until_all_ended(ring: Ring) -> None:
    reader, writer = os.pipe()
    buffer = bytearray(64)
    tickets = ring.queue_many("read", reader, offsets=2**64 - 1, lengths=1, buffer=buffer, count=64)
    ring.submit()
    for left in range(63, -1, -1):
        os.write(writer, b"x")
        assert ring.wait(1, 20)
        (done,) = ring.completions()
        assert (done.ticket in tickets, done.result) == (True, 1)
        if left:
            with pytest.raises(BufferError):
                buffer.append(0)
    buffer.append(0)
    del buffer
    tickets = ring.queue_many(
        "read", reader, offsets=2**64 - 1, lengths=4096, buffer=bytearray(8 * 4096), count=8
    )
    ring.submit()
    gc.collect()
    churn = [bytearray(b"\xa5") * 4096 for _ in range(100)]
    for _ in range(8):
        os.write(writer, b"y" * 4096)
        ring.wait(1, 20)
        assert [one.result for one in ring.completions()] == [4096]
    assert all(block == b"\xa5" * 4096 for block in churn)
    os.close(reader)
    os.close(writer)


def test_a_retracted_batch_lets_go_of_its_memory() -> None:
    with Ring(512) as ring:
        buffer = bytearray(400)
        ring.queue_many("read", 0, lengths=1, buffer=buffer, count=400)
        one = bytearray(10)
        ring.readinto(0, one)
        assert ring.retract(101) == 101
        one.append(0)
        with pytest.raises(BufferError):
            buffer.append(0)
        assert ring.retract() == 300
        buffer.append(0)
        assert not ring._pins


def test_a_batch_stops_where_slots_run_out() -> None:
    reader, writer = os.pipe()
    with Ring(32, slots=20) as ring:
        buffer = bytearray(100)
        tickets = ring.queue_many("read", reader, offsets=2**64 - 1, lengths=1, buffer=buffer, count=100)
        assert len(tickets) == 20
        with pytest.raises(RingError, match="all 20 operation slots are busy") as caught:
            ring.queue_many("read", reader, lengths=1, buffer=buffer, count=100)
        assert caught.value.errno == errno.ENOBUFS
        os.close(writer)
        assert all_results(ring, 20) == dict.fromkeys(tickets, 0)
        buffer.append(0)
    os.close(reader)


@pytest.mark.parametrize("start", [97, 100, 2**64 - 1])
def test_a_part_beyond_the_memory_is_refused(ring: Ring, start: int) -> None:
    with pytest.raises(RingError, match="operation 0: 4 bytes at") as caught:
        ring.queue_many("read", 0, lengths=4, buffer=bytearray(100), starts=array("Q", [start]))
    assert caught.value.errno == errno.ERANGE
    assert ring.info.queued == 0
    assert not ring._pins


def test_columns_that_do_not_fit_are_refused(ring: Ring) -> None:
    with pytest.raises(ValueError, match="columns of"):
        ring.queue_many("read", array("i", [0, 1]), offsets=array("Q", [0]), buffer=bytearray(9))
    with pytest.raises(ValueError, match="columns of"):
        ring.queue_many("nop", -1)
    with pytest.raises(ValueError, match="no operation"):
        ring.queue_many("jump", -1, count=3)
    with pytest.raises(RingError, match="cannot be queued in columns"):
        ring.queue_many("read", 0, lengths=4, count=3)  # nobody would get the bytes
    with pytest.raises(RingError, match="cannot be queued in columns"):
        ring.queue_many("statx", 0, count=3)
    with pytest.raises(BufferError):
        ring.queue_many("read", 0, lengths=1, buffer=b"not writable", count=3)


def test_registered_buffers_and_timers_in_columns(ring: Ring, tmp_path: Path) -> None:
    (view,) = ring.register_buffers([4096])
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        starts = array("Q", [100, 200, 300])
        offsets = array("Q", [0, 3, 6])
        tickets = ring.queue_many("read_fixed", file, offsets=offsets, lengths=3, starts=starts)
        assert set(all_results(ring, 3)) == set(tickets)
    assert [bytes(view[at : at + 3]) for at in starts] == [b"012", b"345", b"678"]
    tickets = ring.queue_many("timeout", -1, starts=array("Q", [10**6, 2 * 10**6]))
    assert all_results(ring, 2) == dict.fromkeys(tickets, -errno.ETIME)
    waiting = ring.queue_many("timeout", -1, starts=array("Q", [10**12] * 3))
    ring.submit()
    cancels = ring.queue_many("cancel", -1, starts=waiting)
    found = all_results(ring, 6)
    assert {found[ticket] for ticket in cancels} == {0}
    assert {found[ticket] for ticket in waiting} == {-errno.ECANCELED}


def test_columns_take_no_more_than_they_have_room_for(ring: Ring) -> None:
    ring.queue_many("nop", -1, count=10)
    ring.wait(10, 20)
    tickets, results, flags = columns(4)
    assert [ring.completions_into(tickets, results, flags) for _ in range(4)] == [4, 4, 2, 0]
    assert ring.info.in_flight == 0


def test_an_event_loop_hears_of_completions_left(ring: Ring) -> None:
    with select.epoll() as poll:
        poll.register(ring.fileno(), select.EPOLLIN)
        ring.queue_many("nop", -1, count=10)
        ring.submit()
        assert poll.poll(20)
        assert ring.completions_into(*columns(4)) == 4
        assert poll.poll(20)
        assert ring.completions_into(*columns(40)) == 6
        ring.completions()
        assert not poll.poll(0)


def test_columns_take_all_completions_on_memory_of_the_caller(tmp_path: Path) -> None:
    """Each has a pin of its own, and C keeps a bounded number of ended pins."""
    (tmp_path / "file").write_bytes(bytes(8))
    count = 600
    with Ring(32, cq_entries=1024) as ring, (tmp_path / "file").open("rb") as file:
        for _ in range(count):
            ring.readinto(file, bytearray(8), offset=0)
        deadline = time.monotonic() + 20
        while ring.info.ready < count and time.monotonic() < deadline:
            ring.wait(count, 1)
        assert ring.completions_into(*columns(1024)) == count
        assert not ring._pins
