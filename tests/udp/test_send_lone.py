"""Datagrams that cannot be joined to others are sent directly, one by one. Nothing else differs."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from udpring import ClosedError, RecvRing, SendReport, SendRing

from .conftest import Pair, take

Make = Callable[..., socket.socket]


def hosts(count: int) -> list[str]:
    return [f"127.0.{n // 200}.{n % 200 + 1}" for n in range(count)]


@pytest.mark.parametrize("ordered", [False, True])
def test_one_to_each_of_many_destinations(tier: str, make_socket: Make, ordered: bool) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(100)]
    payloads = [b"%d" % n * (1 + n % 5) for n in range(100)]
    with RecvRing(sink, tier=tier) as rx, SendRing(source, tier=tier) as tx:
        report = tx.send_batch(payloads, to, ordered=ordered)
        assert (report.accepted, report.errors) == (100, [])
        packets = take(rx, 100)
        assert [(packet.local, bytes(packet)) for packet in packets] == list(
            zip(hosts(100), payloads, strict=True)
        )
        stats = tx.stats
        assert (stats["packets"], stats["bytes"], stats["trains"]) == (100, sum(map(len, payloads)), 0)
        assert stats["submits"] == 2  # calls of sendmmsg, with up to 64 each: cheaper than ring operations
        assert tx.pending == 0


def test_each_has_its_own_error(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    port = sink.getsockname()[1]
    to = [(host, port) for host in hosts(6)]
    to[2] = ("255.255.255.255", port)  # no SO_BROADCAST: EACCES
    payloads = [b"a", b"b" * 65508, b"c", b"d", b"e" * 70000, b"f"]
    with RecvRing(sink, tier=tier) as rx, SendRing(source, tier=tier) as tx:
        report = tx.send_batch(payloads, to)
        assert report.accepted == 3
        assert [(at, error.errno) for at, error in report.errors] == [
            (1, errno.EMSGSIZE),
            (2, errno.EACCES),
            (4, errno.EMSGSIZE),
        ]
        assert [bytes(packet) for packet in take(rx, 3)] == [b"a", b"d", b"f"]
        stats = tx.stats
        assert (stats["packets"], stats["too_big"], stats["denied"]) == (3, 1, 1)


def test_among_trains_they_keep_the_order_of_their_destination(tier: str, pair4: Pair) -> None:
    sizes = [700, *[100] * 5, 60, 100, *[100] * 3, 200, 900, *[50] * 4]
    payloads = [bytes([n]) * size for n, size in enumerate(sizes)]
    with RecvRing(pair4.sink, tier=tier) as rx, SendRing(pair4.source, tier=tier) as tx:
        for _ in range(3):
            assert tx.send_batch(payloads, pair4.to).accepted == len(payloads)
            assert [bytes(packet) for packet in take(rx, len(payloads))] == payloads


def test_with_options_they_take_the_ring(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as rx, SendRing(pair4.source, tier=tier) as tx:
        assert tx.send_batch([b"a", b"bb", b"ccc"], pair4.to, tos=0xB8).accepted == 3
        assert [packet.tos for packet in take(rx, 3)] == [0xB8] * 3
        assert tx.stats["submits"] == 1
        assert tx.send_batch([b"a", b"bb", b"ccc"], pair4.to).accepted == 3
        assert [packet.tos for packet in take(rx, 3)] == [0] * 3


def test_closed_socket_is_an_error_of_each(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(5)]
    with SendRing(source, tier=tier) as tx:
        assert tx.send_batch([b"x"] * 5, to).accepted == 5
        source.close()
        report = tx.send_batch([b"x"] * 5, to)
        assert [(at, error.errno) for at, error in report.errors] == [(n, errno.EBADF) for n in range(5)]


@pytest.mark.parametrize("payload", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_a_batch_of_one(tier: str, pair: Pair, payload: bytes) -> None:
    with RecvRing(pair.sink, tier=tier) as rx, SendRing(pair.source, tier=tier) as tx:
        for address in (pair.to, [pair.to]):
            assert tx.send_batch([payload], address) == SendReport(1)
            assert [bytes(packet) for packet in take(rx, 1)] == [b"x"]
        assert tx.stats["packets"] == 2
        pair.source.connect(pair.to)
        assert tx.send_batch([payload]) == SendReport(1)
        assert len(take(rx, 1)) == 1


def test_the_error_of_a_batch_of_one(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket()
    to = sink.getsockname()

    def error_of(payload: bytes, address: tuple[str, int] | None) -> int | None:
        report = tx.send_batch([payload], address)
        assert report.accepted == 0
        ((index, error),) = report.errors
        assert index == 0
        return error.errno

    with SendRing(source, tier=tier) as tx:
        assert error_of(bytes(65508), to) == errno.EMSGSIZE
        assert error_of(bytes(70000), to) == errno.EMSGSIZE
        assert error_of(b"x", ("255.255.255.255", 9)) == errno.EACCES
        assert error_of(b"x", None) == errno.EDESTADDRREQ
        assert (tx.stats["too_big"], tx.stats["denied"], tx.pending) == (
            1,
            1,
            0,
        )  # the other one never reached the kernel
        source.close()
        assert error_of(b"x", to) == errno.EBADF
    with pytest.raises(ClosedError):
        tx.send_batch([b"x"], to)
