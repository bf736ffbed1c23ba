"""More completions than the completion queue holds: the kernel keeps them, and each is counted once."""

from __future__ import annotations

import errno
import os
import socket
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from udpring.uring import Completion, Ring

PATIENCE = 30.0
COUNT = 100


def take_by_list(ring: Ring) -> list[Completion]:
    return ring.reap(1, 1)


def take_some(ring: Ring) -> list[Completion]:
    ring.wait(1, 1)
    return ring.completions(3)


def take_by_columns(ring: Ring) -> list[Completion]:
    columns = ring.columns(5)
    count = columns.turn(1, 1)
    return [Completion(columns.tickets[i], columns.results[i], columns.flags[i]) for i in range(count)]


@pytest.mark.parametrize("take", [take_by_list, take_some, take_by_columns])
def test_backlog_of_reads_keeps_their_memory(
    tmp_path: Path, take: Callable[[Ring], list[Completion]]
) -> None:
    """Each buffer is held until its own completion is taken, and has the bytes of its own place."""
    words = array("Q", range(COUNT))
    (tmp_path / "words").write_bytes(words)
    buffers = [bytearray(8) for _ in range(COUNT)]
    with (tmp_path / "words").open("rb") as file, Ring(8, cq_entries=8, slots=COUNT) as ring:
        tickets = {
            ring.readinto(file, buffer, offset=8 * place): place for place, buffer in enumerate(buffers)
        }
        assert ring.wait(8, PATIENCE)
        assert (ring.info.ready, ring.info.in_flight, len(ring._pins)) == (8, COUNT, COUNT)
        deadline = time.monotonic() + PATIENCE
        while tickets:
            assert time.monotonic() < deadline
            for done in take(ring):
                place = tickets.pop(done.ticket)
                assert done.result == 8
                assert int.from_bytes(buffers[place], "little") == place
            assert ring.info.in_flight == len(tickets)
        assert (ring.info.lost, ring.info.stale, ring._pins) == (0, 0, {})


@pytest.mark.parametrize("views", [False, True])
def test_multishot_beyond_the_queue_loses_no_message(views: bool) -> None:
    """The kernel ends a multishot operation rather than drop a completion. Armed again it goes on."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    two.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    sent = [b"%d" % number for number in range(64)]
    with one, two, Ring(8, cq_entries=8, slots=COUNT) as ring:
        ring.provide_buffers(1, 64, 64, views=views)
        armed, got = ring.recv_multishot(one, 1), []
        others = [ring.nop() for _ in range(30)]
        ring.submit()
        one.setblocking(False)
        deadline, left = time.monotonic() + PATIENCE, list(sent)
        while len(got) < len(sent) or others:
            assert time.monotonic() < deadline
            while left:
                try:
                    two.send(left[0], socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break  # the receiver's queue is full
                left.pop(0)
            for done in ring.reap(1, 0.1):
                if done.ticket in others:
                    others.remove(done.ticket)
                    continue
                assert done.ticket == armed
                if done.result > 0:
                    got.append(bytes(done.view) if done.view is not None else done.data)
                else:
                    assert done.result == -errno.ENOBUFS
                if not done.more:
                    armed = ring.recv_multishot(one, 1)
        assert got == sent
        assert (ring.info.lost, ring.info.stale) == (0, 0)


def test_backlog_survives_a_message_storm_and_a_close() -> None:
    """Messages of another ring and own completions share the backlog. A close in the middle leaks nothing."""
    with Ring(8, cq_entries=8, slots=COUNT) as target, Ring(8, cq_entries=256) as source:
        for number in range(50):
            source.msg_ring(target, number)
            target.nop()
        assert len(source.reap(50, PATIENCE)) == 50
        target.submit()
        got: list[int | None] = []
        while len(got) < 60:
            got += [done.message for done in target.completions(7)]
            target.wait(0, 0)
        messages = [message for message in got if message is not None]
        assert messages == list(range(len(messages)))
        target.close()
        assert target.leaked == 0


def test_multishot_poll_beyond_the_queue_reports_the_last_state() -> None:
    reader, writer = os.pipe()
    with Ring(8, cq_entries=8, slots=COUNT) as ring:
        armed = ring.poll_add(reader, multishot=True)
        ring.submit()
        for _ in range(50):
            os.write(writer, b"x")
        ended = ready = 0
        deadline = time.monotonic() + PATIENCE
        while not ready:
            assert time.monotonic() < deadline
            for done in ring.reap(1, 0.1):
                assert done.ticket == armed
                ready += done.result > 0
                ended += not done.more
        assert ended <= 1
        assert ring.info.in_flight == 1 - ended
        assert (ring.info.lost, ring.info.stale) == (0, 0)
    os.close(reader)
    os.close(writer)
