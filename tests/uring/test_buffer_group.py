"""Provided buffers that are read in place: views hold their buffer, groups come and go."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
from array import array
from collections.abc import Iterator

import pytest

from udpring import ClosedError, RingError
from udpring.uring import Completion, Ring


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


def one(ring: Ring) -> Completion:
    (done,) = ring.reap(1, 30)
    return done


def shown(done: Completion) -> memoryview:
    assert done.view is not None
    return done.view


def test_view_holds_its_buffer(ring: Ring, packets: tuple[int, int]) -> None:
    """Four buffers, one of them held. The others serve hundreds of reads and never touch its bytes."""
    group = ring.provide_buffers(1, 4, 64, views=True)
    ring.read_multishot(packets[0], 1)
    ring.submit()
    os.write(packets[1], b"held for long")
    held = shown(one(ring))[5:]
    assert held.readonly
    for number in range(300):
        os.write(packets[1], b"%d" % number)
        done = one(ring)
        assert (done.data, bytes(shown(done))) == (b"", b"%d" % number)
        assert done.more
    del done
    assert bytes(held) == b"for long"
    assert (group.lent, group.pushed) == (1, 2)
    held.release()
    assert (group.lent, group.pushed) == (0, 3)
    assert group.publish() == 3
    assert group.publish() == 0


def test_held_buffers_run_out_and_publish_brings_them_back(ring: Ring, packets: tuple[int, int]) -> None:
    group = ring.provide_buffers(1, 2, 16, views=True)
    ring.read_multishot(packets[0], 1)
    views = []
    for word in (b"one", b"two"):
        os.write(packets[1], word)
        ring.submit()
        views.append(shown(one(ring)))
    os.write(packets[1], b"three")
    done = one(ring)
    assert (done.result, done.more, done.view) == (-errno.ENOBUFS, False, None)
    assert [bytes(view) for view in views] == [b"one", b"two"]
    views.pop()
    assert group.pushed == 1
    again = ring.read_multishot(packets[0], 1)
    assert group.publish() == 1  # before the submission, by one store
    done = one(ring)
    assert (done.ticket, bytes(shown(done))) == (again, b"three")


def test_view_outlives_group_and_ring(packets: tuple[int, int]) -> None:
    ring = Ring(8)
    group = ring.provide_buffers(1, 2, 16, views=True)
    ticket = ring.read_multishot(packets[0], 1)
    ring.submit()
    os.write(packets[1], b"survivor")
    view = shown(one(ring))
    with pytest.raises(RingError, match="draws from it") as caught:
        group.unregister()
    assert caught.value.errno == errno.EBUSY
    ring.cancel(ticket)
    ring.reap(2, 30)
    group.unregister()
    with pytest.raises(RingError) as caught:
        group.unregister()
    assert caught.value.errno == errno.ENOENT
    again = ring.provide_buffers(1, 2, 16, views=True)  # the number is free
    with pytest.raises(RingError, match="was unregistered"):
        group.publish()
    assert again.lent == 0
    ring.close()
    with pytest.raises(ClosedError):
        again.publish()
    del ring, group, again
    gc.collect()
    assert bytes(view) == b"survivor"


def test_groups_come_and_go_without_limit(ring: Ring, packets: tuple[int, int]) -> None:
    """A ring has 16 at a time."""
    for number in range(50):
        group = ring.provide_buffers(number, 2, 16, views=bool(number % 2))
        ring.read_multishot(packets[0], number)
        ring.submit()
        os.write(packets[1], b"%d" % number)
        done = one(ring)
        assert bytes(done.view or done.data) == b"%d" % number
        ring.cancel(done.ticket)
        assert len(ring.reap(2, 30)) == 2
        group.unregister()
    with pytest.raises(RingError, match="never provided"):
        ring.read_multishot(packets[0], 49)


def test_views_may_end_in_another_thread(ring: Ring, packets: tuple[int, int]) -> None:
    group = ring.provide_buffers(1, 4, 16, views=True)
    ring.read_multishot(packets[0], 1)
    ring.submit()
    for number in range(40):
        os.write(packets[1], b"%d" % number)
        view = [shown(one(ring))]
        thread = threading.Thread(target=view.clear)
        thread.start()
        thread.join(30)
        assert (group.lent, group.pushed) == (0, 1)


def test_columns_and_peek_leave_no_buffer_behind(ring: Ring, packets: tuple[int, int]) -> None:
    """Columns drop the bytes, and a look copies them. Neither holds a buffer."""
    group = ring.provide_buffers(1, 2, 16, views=True)
    ring.read_multishot(packets[0], 1)
    ring.submit()
    tickets, results, flags = array("Q", [0]), array("i", [0]), array("I", [0])
    for number in range(20):
        os.write(packets[1], b"%d" % number)
        assert ring.wait(1, 30)
        (seen,) = ring.peek()
        assert (seen.data, seen.view) == (b"%d" % number, None)
        assert ring.completions_into(tickets, results, flags) == 1
        assert (results[0], group.lent) == (len(b"%d" % number), 0)


def test_columns_give_ended_views_back(ring: Ring, packets: tuple[int, int]) -> None:
    """A program that takes some completions with their views, and the others as columns."""
    group = ring.provide_buffers(1, 2, 16, views=True)
    ring.read_multishot(packets[0], 1)
    ring.submit()
    views = []
    for word in (b"one", b"two"):
        os.write(packets[1], word)
        views.append(shown(one(ring)))
    views.clear()
    assert group.pushed == 2
    tickets, results, flags = array("Q", [0]), array("i", [0]), array("I", [0])
    for word in (b"three", b"four", b"five"):
        assert ring.completions_into(tickets, results, flags) == 0
        assert (group.pushed, group.lent) == (0, 0)
        os.write(packets[1], word)
        assert ring.wait(1, 30)
        assert ring.completions_into(tickets, results, flags) == 1
        assert results[0] == len(word)


def test_turns_give_ended_views_back(ring: Ring, packets: tuple[int, int]) -> None:
    ring.provide_buffers(1, 2, 16, views=True)
    ring.read_multishot(packets[0], 1)
    ring.submit()
    views = []
    for word in (b"one", b"two"):
        os.write(packets[1], word)
        views.append(shown(one(ring)))
    views.clear()
    os.write(packets[1], b"three")
    columns = ring.columns(4)
    assert columns.turn(1, 30) == 1
    assert columns.results[0] == 5


def test_message_views_show_the_payload_alone(ring: Ring) -> None:
    group = ring.provide_buffers(1, 4, 512, views=True)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.bind(("127.0.0.1", 0))
        ring.recvmsg_multishot(receiver, 1)
        ring.submit()
        for number in range(20):
            sender.sendto(b"datagram %d" % number, receiver.getsockname())
            done = one(ring)
            assert bytes(shown(done)) == b"datagram %d" % number
            assert done.address == sender.getsockname()
            assert group.lent == 1
