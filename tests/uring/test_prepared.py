"""Batches that are queued again and again, and columns of completions that are filled again and again."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import ClosedError, RingError, WrongThreadError
from udpring.uring import Columns, Flag, PreparedBatch, Ring

SECONDS = 20.0


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(32, cq_entries=256) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost, ring.info.busy_slots) == (0, 0, 0)
    assert not ring._pins


def test_one_batch_many_times(ring: Ring) -> None:
    batch, done = ring.prepare("nop", -1, count=50), ring.columns(50)
    assert (len(batch), len(done)) == (50, 50)
    seen: set[int] = set()
    for _ in range(40):
        assert batch.queue() == 50
        assert done.turn(50, SECONDS) == 50
        assert sorted(done.tickets) == sorted(batch.tickets)
        assert not any(done.results)
        seen.update(batch.tickets)
    assert len(seen) == 2000


def test_columns_change_between_two_queues(ring: Ring, tmp_path: Path) -> None:
    content = os.urandom(8 * 512)
    (tmp_path / "file").write_bytes(content)
    (view,) = ring.register_buffers([8 * 512])
    offsets, starts = array("Q", bytes(64)), array("Q", bytes(64))
    with (tmp_path / "file").open("rb") as file:
        batch = ring.prepare("read_fixed", file, offsets=offsets, lengths=512, starts=starts)
        done = ring.columns(8)
        for order in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5], [3]):
            view[:] = bytes(len(view))
            for i, number in enumerate(order):
                offsets[i], starts[i] = 512 * number, 512 * i
            assert batch.queue(len(order)) == len(order)
            assert done.turn(len(order), SECONDS) == len(order)
            assert set(done.tickets[: len(order)]) == set(batch.tickets[: len(order)])
            wanted = b"".join(content[512 * number : 512 * number + 512] for number in order)
            assert bytes(view[: len(wanted)]) == wanted
            assert not any(view[len(wanted) :])


def test_each_operation_is_checked_again(ring: Ring) -> None:
    """A column that was fine once may ask for memory of others the next time."""
    ring.register_buffers([4096])
    starts = array("Q", [0, 4096 - 16])
    batch = ring.prepare("read_fixed", 0, lengths=16, starts=starts)
    assert batch.queue() == 2
    assert ring.retract() == 2
    starts[1] += 1
    assert batch.queue() == 1
    assert ring.retract() == 1
    starts[0] = 2**64 - 8
    with pytest.raises(RingError, match="registered buffer 0") as caught:
        batch.queue()
    assert caught.value.errno == errno.ERANGE
    starts[0] = starts[1] = 0
    ring.unregister_buffers()
    with pytest.raises(RingError, match="registered buffer 0: there are 0"):
        batch.queue()


def test_what_all_have_in_common_is_checked(ring: Ring) -> None:
    for options in ({"flags": Flag.FIXED_FILE}, {"offsets": 1}, {"starts": 1}, {"group": 1}):
        batch = ring.prepare("nop", -1, count=3, **options)  # type: ignore[arg-type]
        with pytest.raises(RingError) as caught:
            batch.queue()
        assert caught.value.errno == errno.EINVAL
    assert ring.info.queued == 0


def test_memory_is_held_until_the_last_operation_ended(ring: Ring) -> None:
    reader, writer = os.pipe()
    buffer = bytearray(4)
    batch = ring.prepare("read", reader, offsets=2**64 - 1, lengths=1, buffer=buffer, count=4)
    done = ring.columns(8)
    batch.queue(2)
    batch.queue(1)
    ring.submit()
    del batch
    gc.collect()
    for left in (2, 1, 0):
        os.write(writer, b"x")
        assert done.turn(1, SECONDS) == 1
        assert done.results[0] == 1
        if left:
            with pytest.raises(BufferError):
                buffer.append(0)
    buffer.append(0)
    os.close(reader)
    os.close(writer)


def test_a_refused_batch_may_be_queued_later(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    buffer, starts = bytearray(10), array("Q", [8, 0])
    with (tmp_path / "file").open("rb") as file:
        batch = ring.prepare("read", file, lengths=5, buffer=buffer, starts=starts)
        with pytest.raises(RingError, match="operation 0: 5 bytes at 8"):
            batch.queue()
        assert not ring._pins
        starts[0] = 5
        assert batch.queue() == 2
        assert ring.columns(2).turn(2, SECONDS) == 2
    assert buffer == b"0123401234"


def test_batch_stops_where_slots_run_out() -> None:
    with Ring(32, slots=20) as ring:
        buffer = bytearray(30)
        reader, writer = os.pipe()
        batch = ring.prepare("read", reader, offsets=2**64 - 1, lengths=1, buffer=buffer, count=30)
        done = ring.columns(30)
        assert batch.queue() == 20
        with pytest.raises(RingError, match="all 20 operation slots are busy"):
            batch.queue()
        os.write(writer, bytes(20))
        taken = 0
        while taken < 20:
            taken += done.turn(20 - taken, SECONDS)
        assert batch.queue(5) == 5
        ring.retract()
        assert not ring._pins
        os.close(reader)
        os.close(writer)


def test_impossible_numbers_are_refused(ring: Ring) -> None:
    batch = ring.prepare("nop", -1, count=3)
    for count in (-1, 4):
        with pytest.raises(ValueError, match="of a batch of 3"):
            batch.queue(count)
    assert batch.queue(0) == 0
    with pytest.raises(ValueError, match="at least 1"):
        ring.columns(0)
    with pytest.raises(ValueError, match="columns of"):
        ring.prepare("read", array("i", [0, 1]), offsets=array("Q", [0]), buffer=bytearray(9))


def test_turn_returns_completions_at_the_timeout(ring: Ring) -> None:
    done = ring.columns(4)
    assert done.turn(1, 0) == 0
    ring.queue_many("nop", -1, count=2)
    assert done.turn(3, 0.01) == 2
    ring.queue_many("nop", -1, count=10)
    assert [done.turn(1, SECONDS) for _ in range(3)] == [4, 4, 2]


def test_turn_goes_on_after_a_signal(ring: Ring) -> None:
    """The handler has run by then."""
    seen: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(ring.nop()))
    try:
        waiting = threading.get_ident()
        stop = threading.Event()

        def knock() -> None:
            while not stop.wait(0.01) and not seen:
                signal.pthread_kill(waiting, signal.SIGUSR1)

        thread = threading.Thread(target=knock)
        thread.start()
        done = ring.columns(64)
        assert done.turn(1, SECONDS) >= 1
        stop.set()
        thread.join()
        assert done.tickets[0] == seen[0]
    finally:
        signal.signal(signal.SIGUSR1, former)
    while ring.info.busy_slots:
        done.turn(1, SECONDS)


def test_signal_handler_that_raises_ends_the_turn(ring: Ring) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    def wait_for_it() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        ring.columns(1).turn()

    former = signal.signal(signal.SIGALRM, fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for_it()
    finally:
        signal.signal(signal.SIGALRM, former)


def test_buffers_of_a_group_return_at_once() -> None:
    """Columns drop the data. 1000 messages pass through 8 buffers."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two, Ring(32) as ring:
        ring.provide_buffers(3, 8, 64)
        ring.recv_multishot(one, 3)
        done = ring.columns(4)
        for number in range(1000):
            two.send(number.to_bytes(4, "big"))
            assert done.turn(1, SECONDS) == 1
            assert done.results[0] == 4
            assert done.flags[0] & 2, "it continues"


def test_data_of_operations_is_freed_at_once(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4096))
    with (tmp_path / "file").open("rb") as file:
        done = ring.columns(8)
        for _ in range(100):
            ring.read(file, 4096, offset=0)
            ring.statx(tmp_path / "file")
            assert done.turn(2, SECONDS) == 2
            assert ring.info.busy_slots == 0


def test_an_event_loop_hears_of_completions_left(ring: Ring) -> None:
    with select.epoll() as poll:
        poll.register(ring.fileno(), select.EPOLLIN)
        done = ring.columns(4)
        ring.queue_many("nop", -1, count=6)
        ring.submit()
        assert poll.poll(SECONDS)
        assert done.turn(1, 0) == 4
        assert poll.poll(SECONDS)
        assert done.turn(1, 0) == 2
        assert not poll.poll(0)


def test_more_pins_than_c_keeps(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8))
    with Ring(32, cq_entries=1024) as ring, (tmp_path / "file").open("rb") as file:
        for _ in range(600):
            ring.readinto(file, bytearray(8), offset=0)
        done, taken = ring.columns(1024), 0
        deadline = time.monotonic() + SECONDS
        while taken < 600 and time.monotonic() < deadline:
            taken += done.turn(1, 1)
        assert taken == 600
        assert not ring._pins


def test_objects_of_tickets_are_dropped(ring: Ring) -> None:
    ring.set_data(ring.nop(), object())
    ring.columns(1).turn(1, SECONDS)
    assert not ring._data


@pytest.mark.parametrize("use", [lambda batch, _: batch.queue(), lambda _, done: done.turn(1, 0)])
def test_others_are_refused(use: object) -> None:
    """Another thread, and anyone after the close."""
    assert callable(use)
    caught: list[BaseException] = []

    def from_another_thread() -> None:
        try:
            use(batch, done)
        except BaseException as error:
            caught.append(error)

    with Ring(8) as ring:
        batch, done = ring.prepare("nop", -1, count=1), ring.columns(1)
        thread = threading.Thread(target=from_another_thread)
        thread.start()
        thread.join()
    assert [type(each) for each in caught] == [WrongThreadError]
    with pytest.raises(ClosedError):
        use(batch, done)


def test_the_types_are_public() -> None:
    with contextlib.closing(Ring(8)) as ring:
        assert isinstance(ring.prepare("nop", -1, count=1), PreparedBatch)
        assert isinstance(ring.columns(1), Columns)
