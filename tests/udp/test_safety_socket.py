"""The socket vanishes under a ring: an error in bounded time, never a hang, never another socket's data."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from udpring.errors import RingError
from udpring.udp import RecvRing, SendRing

from .conftest import BOUND, Pair, take

SOON = 25.0  # seconds; the core checks five times a second


def test_closing_the_socket_ends_the_wait(tier: str, pair4: Pair) -> None:
    """io_uring holds a reference to the closed socket and would wait for ever."""
    with RecvRing(pair4.sink, buffers=4, tier=tier) as ring:
        closer = threading.Timer(0.05, pair4.sink.close)
        closer.start()
        began = time.monotonic()
        with pytest.raises(RingError) as caught:
            ring.recv_batch()
        closer.join()
        assert caught.value.errno == errno.EBADF
        assert time.monotonic() - began < SOON
        with pytest.raises(RingError):
            ring.recv_batch(timeout=0)


def test_views_survive_their_socket(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=4, tier=tier) as ring:
        pair4.source.sendto(b"kept", pair4.to)
        (packet,) = take(ring, 1)
        pair4.sink.close()
        with pytest.raises(RingError):
            ring.recv_batch(timeout=0)
        assert bytes(packet) == b"kept"
    assert bytes(packet) == b"kept"


def reuse(number: int, family: int = socket.AF_INET) -> socket.socket:
    """A new socket with the number of a closed one."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if sock.fileno() != number:
        os.dup2(sock.fileno(), number, inheritable=False)
        sock.close()
        sock = socket.socket(fileno=number)
    sock.bind(("127.0.0.1", 0))
    return sock


def test_another_socket_with_the_old_number_is_left_alone(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=4, tier=tier) as ring:
        assert not ring.recv_batch(timeout=0)
        number = pair4.sink.fileno()
        pair4.sink.close()
        with reuse(number) as other:
            pair4.source.sendto(b"not yours", other.getsockname())
            for _ in range(3):
                with pytest.raises(RingError) as caught:
                    ring.recv_batch(timeout=0.1)
                assert caught.value.errno == errno.EBADF
            other.settimeout(BOUND)
            assert other.recv(100) == b"not yours"


def test_a_descriptor_handed_over_with_detach_goes_on(tier: str, pair4: Pair) -> None:
    """The socket lives. Only its Python object is gone."""
    with RecvRing(pair4.sink, tier=tier) as ring:
        number = pair4.sink.detach()
        try:
            pair4.source.sendto(b"on it goes", pair4.to)
            assert [bytes(packet) for packet in take(ring, 1)] == [b"on it goes"]
        finally:
            os.close(number)


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
@pytest.mark.parametrize("connected", [True, False])
def test_a_shutdown_while_the_ring_waits_ends_the_wait(
    tier: str, pair4: Pair, how: int, connected: bool
) -> None:
    if connected:
        pair4.sink.connect(pair4.source.getsockname())
    with RecvRing(pair4.sink, buffers=4, tier=tier) as ring:

        def shut() -> None:
            with contextlib.suppress(OSError):  # ENOTCONN when unconnected, but the shutdown takes effect
                pair4.sink.shutdown(how)

        closer = threading.Timer(0.05, shut)
        closer.start()
        began = time.monotonic()
        with pytest.raises(RingError) as caught:
            ring.recv_batch()
        closer.join()
        assert caught.value.errno == errno.ESHUTDOWN
        assert time.monotonic() - began < SOON


def test_what_was_received_before_a_shutdown_is_not_lost(tier: str, pair4: Pair) -> None:
    pair4.sink.connect(pair4.source.getsockname())
    with RecvRing(pair4.sink, buffers=8, tier=tier) as ring:
        for number in range(3):
            pair4.source.sendto(b"%d" % number, pair4.to)
        got = [bytes(packet) for packet in take(ring, 3)]
        pair4.sink.shutdown(socket.SHUT_RD)
        assert got == [b"0", b"1", b"2"]
        with pytest.raises(RingError):
            ring.recv_batch(timeout=BOUND)


def test_a_shut_down_sender_has_an_error_for_each(tier: str, pair4: Pair) -> None:
    pair4.source.connect(pair4.to)
    with SendRing(pair4.source, tier=tier) as ring:
        assert ring.send_batch([b"a"]).accepted == 1
        pair4.source.shutdown(socket.SHUT_WR)
        report = ring.send_batch([b"b", b"c"])
        assert report.accepted == 0
        assert [error.errno for _, error in report.errors] == [errno.EPIPE] * 2


def test_sending_on_a_reused_number_sends_nothing(
    tier: str, pair4: Pair, make_socket: Callable[..., socket.socket]
) -> None:
    with SendRing(pair4.source, tier=tier) as ring:
        number = pair4.source.fileno()
        pair4.source.close()
        with reuse(number) as other:
            report = ring.send_batch([b"a", b"b"], pair4.to)
            assert [(index, error.errno) for index, error in report.errors] == [
                (0, errno.EBADF),
                (1, errno.EBADF),
            ]
            pair4.sink.settimeout(BOUND)
            other.sendto(b"only this", pair4.to)
            assert pair4.sink.recv(100) == b"only this"
