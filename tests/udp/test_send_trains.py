"""Equal datagrams to one destination are sent as UDP_SEGMENT trains. Only the counters show it."""

from __future__ import annotations

import errno
import os
import random
import socket
from array import array
from collections.abc import Callable

import pytest

import udpring
from udpring.udp import RecvRing, SendRing

from .conftest import BOUND, Pair, take


def receive(sock: socket.socket, count: int) -> list[bytes]:
    sock.settimeout(BOUND)
    return [sock.recv(65536) for _ in range(count)]


def wide(sock: socket.socket) -> socket.socket:
    """The sink has room for everything that a test sends before it reads."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return sock


def cut(data: bytes, lengths: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(data[at : at + length])
        at += length
    return pieces


@pytest.mark.parametrize("size", [1, 64, 1200, 1472, 9000, 40000])
def test_one_buffer_cut_into_equal_datagrams(tier: str, pair: Pair, size: int) -> None:
    wide(pair.sink)
    data = os.urandom(size * 20 + size // 2)
    count = 20 + (size > 1)
    with SendRing(pair.source, tier=tier) as ring:
        report = ring.send_batch(data, pair.to, lengths=size)
        assert (report.accepted, report.errors) == (count, [])
        assert receive(pair.sink, count) == [data[at : at + size] for at in range(0, len(data), size)]
        stats = ring.stats
        assert (stats["packets"], stats["bytes"]) == (count, len(data))
        assert (stats["trains"] > 0) == (size < 32000)


def test_train_has_at_most_kernel_segments(tier: str, pair4: Pair) -> None:
    wide(pair4.sink)
    data = os.urandom(1000)
    with SendRing(pair4.source, tier=tier) as ring:
        assert ring.send_batch(data, pair4.to, lengths=1).accepted == 1000
        assert receive(pair4.sink, 1000) == [data[at : at + 1] for at in range(1000)]
        assert ring.stats["trains"] in (8, 16)  # of 128 or of 64
        assert ring.stats["split"] == 0


def test_lengths_of_any_kind(tier: str, pair4: Pair) -> None:
    lengths = [3, 3, 3, 1, 0, 5, 0, 0, 5, 5, 2, 7, 7]
    data = os.urandom(sum(lengths))
    whole = cut(data, lengths)
    with SendRing(pair4.source, tier=tier) as ring:
        for given in (
            lengths,
            tuple(lengths),
            array("I", lengths),
            array("H", lengths),
            memoryview(array("I", lengths)),
        ):
            for buffer in (data, bytearray(data), memoryview(data), array("B", data)):
                assert ring.send_batch(buffer, pair4.to, lengths=given).accepted == len(lengths)
                assert receive(pair4.sink, len(lengths)) == whole
        assert ring.send_batch(b"", pair4.to, lengths=5).accepted == 0
        assert ring.send_batch(b"", pair4.to, lengths=[]).accepted == 0
        assert ring.send_batch(b"", pair4.to, lengths=[0, 0]).accepted == 2
        assert receive(pair4.sink, 2) == [b"", b""]
        assert ring.send_batch(b"all", pair4.to, lengths=65536).accepted == 1
        assert receive(pair4.sink, 1) == [b"all"]


def test_lengths_that_do_not_fit_are_refused(tier: str, pair4: Pair) -> None:
    with SendRing(pair4.source, tier=tier) as ring:
        for wrong in ([3, 3], [3, 3, 5], [10, 1], [], [1 << 31, 1 << 31, 10], 0, -1, [-1, 11], [1 << 32]):
            with pytest.raises(ValueError, match="lengths"):
                ring.send_batch(b"0123456789", pair4.to, lengths=wrong)
            with pytest.raises(ValueError, match="lengths"):
                ring.submit(b"0123456789", pair4.to, lengths=wrong)
        for wrong_type in ("123", 1.5, [1.5], ["1"]):
            with pytest.raises((TypeError, ValueError)):
                ring.send_batch(b"0123456789", pair4.to, lengths=wrong_type)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            ring.send_batch([b"a", b"b"], pair4.to, lengths=1)
        with pytest.raises(TypeError):
            ring.send_batch("text", pair4.to, lengths=1)  # type: ignore[arg-type]
        assert ring.pending == 0
        assert ring.send_batch(b"0123456789", pair4.to, lengths=5).accepted == 2
    assert receive(pair4.sink, 2) == [b"01234", b"56789"]


def test_interleaved_destinations_become_trains(
    tier: str, pair4: Pair, make_socket: Callable[..., socket.socket]
) -> None:
    sinks = [wide(make_socket()) for _ in range(8)]
    payloads = [os.urandom(100) for _ in range(320)]
    names = [sink.getsockname() for sink in sinks]
    addresses = udpring.AddressList([names[number % 8] for number in range(320)])
    with SendRing(pair4.source, tier=tier) as ring:
        for _ in range(3):
            before = ring.stats["trains"]
            assert ring.send_batch(payloads, addresses).accepted == 320
            assert ring.stats["trains"] - before == 8
            for place, sink in enumerate(sinks):
                assert receive(sink, 40) == payloads[place::8]
        before = ring.stats["trains"]
        assert ring.send_batch(payloads, addresses, ordered=True).accepted == 320
        assert ring.stats["trains"] == before
        for place, sink in enumerate(sinks):
            assert receive(sink, 40) == payloads[place::8]


def test_ordered_keeps_the_order_over_all_destinations(tier: str, pair4: Pair) -> None:
    """All destinations are one socket, so that it sees the order."""
    sink = wide(pair4.sink)
    port = sink.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as every:
        every.bind(("0.0.0.0", 0))
        wide(every)
        port = every.getsockname()[1]
        chosen = random.Random(4)
        names = [(f"127.0.0.{1 + chosen.randrange(4)}", port) for _ in range(500)]
        payloads = [b"%4d" % number for number in range(500)]
        with SendRing(pair4.source, tier=tier) as ring:
            assert ring.send_batch(payloads, names, ordered=True).accepted == 500
            assert receive(every, 500) == payloads
            assert 0 < ring.stats["trains"] < 250


def test_without_gso_there_is_no_train(tier: str, pair4: Pair) -> None:
    wide(pair4.sink)
    with SendRing(pair4.source, tier=tier, gso=False) as ring:
        assert ring.send_batch(bytes(1000), pair4.to, lengths=10).accepted == 100
        assert ring.stats["trains"] == 0
    assert receive(pair4.sink, 100) == [bytes(10)] * 100


def test_one_over_long_among_equals_fails_alone(tier: str, pair4: Pair) -> None:
    wide(pair4.sink)
    lengths = [1200] * 100 + [65508] + [1200] * 100 + [70000] + [1200] * 10
    data = os.urandom(sum(lengths))
    with SendRing(pair4.source, tier=tier) as ring:
        report = ring.send_batch(data, pair4.to, lengths=lengths)
        assert report.accepted == 210
        assert [(i, error.errno) for i, error in report.errors] == [
            (100, errno.EMSGSIZE),
            (201, errno.EMSGSIZE),
        ]
        assert receive(pair4.sink, 210) == [one for one in cut(data, lengths) if len(one) == 1200]


def test_an_unreachable_destination_fails_alone_among_trains(
    tier: str, pair4: Pair, make_socket: Callable[..., socket.socket]
) -> None:
    """A socket bound to a loopback address cannot leave the host, with any routes."""
    wide(pair4.sink)
    payloads = [b"%4d" % number for number in range(300)]
    addresses = [("192.0.2.1", 9) if number % 3 == 1 else pair4.to for number in range(300)]
    with SendRing(pair4.source, tier=tier) as ring:
        for ordered in (False, True):
            report = ring.send_batch(payloads, addresses, ordered=ordered)
            assert report.accepted == 200
            assert [i for i, _ in report.errors] == list(range(1, 300, 3))
            assert {error.errno for _, error in report.errors} <= {
                errno.EINVAL,
                errno.ENETUNREACH,
                errno.EHOSTUNREACH,
            }
            assert receive(pair4.sink, 200) == [p for i, p in enumerate(payloads) if i % 3 != 1]


def test_a_socket_that_takes_no_trains_gets_single_datagrams(tier: str, pair4: Pair) -> None:
    """Segmentation needs checksums. With SO_NO_CHECK (11) the kernel refuses every train with EINVAL."""
    wide(pair4.sink)
    pair4.source.setsockopt(socket.SOL_SOCKET, 11, 1)
    lengths = ([100] * 70 + [40]) * 5 + [100, 7, 7]
    data = os.urandom(sum(lengths))
    with SendRing(pair4.source, tier=tier, entries=16) as ring:
        for _ in range(3):
            assert ring.send_batch(data, pair4.to, lengths=lengths).accepted == len(lengths)
            assert receive(pair4.sink, len(lengths)) == cut(data, lengths)
        stats = ring.stats
        assert stats["trains"] == 0
        assert 1 <= stats["split"] <= 16  # then the ring stops making trains for this destination
        assert stats["other_errors"] == 0
        assert stats["packets"] == 3 * len(lengths)


def test_a_batch_is_sent_on_from_where_it_lies(
    tier: str, pair4: Pair, make_socket: Callable[..., socket.socket]
) -> None:
    """Received datagrams go back to their senders."""
    sources = [wide(make_socket()) for _ in range(3)]
    payloads = [os.urandom(50 + number % 4) for number in range(48)]
    with RecvRing(pair4.sink, tier=tier) as rx, SendRing(pair4.sink, tier=tier) as tx:
        for number, payload in enumerate(payloads):
            sources[number % 3].sendto(payload, pair4.to)
        got = 0
        while got < 48:
            with rx.recv_batch(timeout=BOUND) as batch:
                assert batch
                assert tx.send_batch(batch, batch.addresses).accepted == len(batch)
                got += len(batch)
        for place, source in enumerate(sources):
            assert receive(source, 16) == payloads[place::3]


def test_whole_trains_are_not_taken_for_datagrams(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier, whole_trains=True) as rx, SendRing(pair4.source, tier=tier) as tx:
        assert tx.send_batch(bytes(5000), pair4.to, lengths=1000).accepted == 5
        with rx.recv_batch(timeout=BOUND) as batch:
            assert batch.segment_sizes.tolist() == [1000]
            with pytest.raises(ValueError, match="whole trains"):
                tx.send_batch(batch, pair4.to)
        assert tx.send_batch([b"single"], pair4.to).accepted == 1
        with rx.recv_batch(timeout=BOUND) as batch:
            assert tx.send_batch(batch[:1], pair4.to).accepted == 1
        assert [bytes(packet) for packet in take(rx, 1)] == [b"single"]


def test_a_receiver_of_trains_gets_them_whole(tier: str, pair4: Pair) -> None:
    data = os.urandom(1200 * 40)
    with RecvRing(pair4.sink, tier=tier, gro=True) as rx, SendRing(pair4.source, tier=tier) as tx:
        assert tx.send_batch(data, pair4.to, lengths=1200).accepted == 40
        packets = [*take(rx, 1)]
        while sum(len(packet) for packet in packets) < len(data):
            packets += take(rx, 1)
        assert b"".join(bytes(packet.data) for packet in packets) == data
