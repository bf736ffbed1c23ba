"""Data in provided buffers, sent by one operation."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from udpring import RingError
from udpring.uring import Flag, Ring, supported_operations
from udpring.uring.rows import OPERATIONS

pytestmark = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < OPERATIONS["send_group"].since
    or not supported_operations(),
    reason="sending from provided buffers needs Linux 6.10",
)


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(8) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
        with one, two:
            yield one, two


def receive(end: socket.socket, length: int, got: bytearray) -> threading.Thread:
    def run() -> None:
        while len(got) < length:
            part = end.recv(65536)
            if not part:
                return
            got.extend(part)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_more_than_the_socket_holds_arrives_in_order(
    ring: Ring, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The group is filled again and again, also while an operation sends it."""
    one, two = pair
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    group = ring.provide_send_buffers(1, 16, 8192)
    payload = os.urandom(2_000_000)
    pieces = [payload[at : at + 8000] for at in range(0, len(payload), 8000)]
    got = bytearray()
    thread = receive(two, len(payload), got)
    sending, sent = 0, 0
    while sent < len(payload):
        while pieces and group.unsent < 16:
            group.append(pieces.pop(0))
        if not sending:
            sending = ring.send_group(one, 1)
        for done in ring.reap(1, 30):
            assert done.ticket == sending
            sent += done.check()
            if not done.more:
                sending = 0
    thread.join(30)
    assert bytes(got) == payload
    assert (group.unsent, sending) == (0, 0)


def test_a_full_group_takes_no_more(ring: Ring, pair: tuple[socket.socket, socket.socket]) -> None:
    group = ring.provide_send_buffers(1, 2, 16)
    group.append(b"one")
    group.append(b"two")
    with pytest.raises(RingError, match="all 2 buffers wait") as caught:
        group.append(b"three")
    assert caught.value.errno == errno.ENOBUFS
    ring.send_group(pair[0], 1)
    with pytest.raises(RingError, match="is sending it") as caught:
        ring.send_group(pair[0], 1)
    assert caught.value.errno == errno.EBUSY
    (done,) = ring.reap(1, 30)
    assert (done.result, done.data, group.unsent) == (6, b"", 0)
    assert pair[1].recv(100) == b"onetwo"
    for payload in (b"", bytes(17)):
        with pytest.raises(RingError, match="1 to 16") as caught:
            group.append(payload)
        assert caught.value.errno == errno.EMSGSIZE
    group.unregister()
    with pytest.raises(RingError) as caught:
        group.append(b"x")
    assert caught.value.errno == errno.ENOENT


def test_a_retracted_or_cancelled_send_frees_the_group(
    ring: Ring, pair: tuple[socket.socket, socket.socket]
) -> None:
    group = ring.provide_send_buffers(1, 2, 16)
    group.append(b"word")
    ring.send_group(pair[0], 1)
    assert ring.retract() == 1
    ring.nop(result=-5, flags=Flag.LINK)
    ring.send_group(pair[0], 1)
    assert [done.result for done in ring.reap(2, 30)] == [-5, -errno.ECANCELED]
    assert group.unsent == 1
    ring.send_group(pair[0], 1)
    assert [done.result for done in ring.reap(1, 30)] == [4]


def test_what_the_kernel_would_cancel_is_refused(
    ring: Ring, pair: tuple[socket.socket, socket.socket]
) -> None:
    group = ring.provide_send_buffers(1, 2, 16)
    group.append(b"word")
    for flag in (Flag.ASYNC, Flag.DRAIN):
        with pytest.raises(RingError, match="bundle"):
            ring.send_group(pair[0], 1, flags=flag)
        assert ring.info.busy_slots == 0
    ring.send_group(pair[0], 1, bundle=False, flags=Flag.ASYNC)
    assert [done.result for done in ring.reap(1, 30)] == [4]
    assert pair[1].recv(100) == b"word"


def test_a_broken_connection_ends_the_send(ring: Ring, pair: tuple[socket.socket, socket.socket]) -> None:
    group = ring.provide_send_buffers(1, 4, 16)
    pair[0].shutdown(socket.SHUT_WR)
    group.append(b"word")
    ring.send_group(pair[0], 1, message_flags=socket.MSG_NOSIGNAL)
    (done,) = ring.reap(1, 30)
    assert (done.result, done.more) == (-errno.EPIPE, False)
    with pytest.raises(OSError, match="Broken pipe"):
        done.check()


def test_close_while_it_sends(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with Ring(8) as ring:
        group = ring.provide_send_buffers(1, 64, 65536)
        for _ in range(64):
            group.append(bytes(65536))
        ring.send_group(pair[0], 1)
        ring.submit()
    assert ring.leaked == 0
