"""One contract that each of the three tiers must meet, whatever the network sends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from udpring.errors import RingError
from udpring.udp import RecvRing

from .conftest import BOUND, SOL_UDP, UDP_GRO, Pair, take

SIZES = [0, 1, 2, 63, 64, 65, 1399, 1400, 1472, 1473, 4096, 9000, 32768, 65506, 65507]
IP_PKTINFO, IP_RECVERR = 8, 11


def fill(size: int, seed: int) -> bytes:
    return bytes((seed + i) & 0xFF for i in range(min(size, 251))) * (size // 251 + 1)


@pytest.mark.parametrize("size", SIZES)
def test_datagram_of_any_size_arrives(tier: str, pair: Pair, size: int) -> None:
    payload = fill(size, 7)[:size]
    with RecvRing(pair.sink, buffers=4, tier=tier) as ring:
        for _ in range(3):
            pair.source.sendto(payload, pair.to)
        packets = take(ring, 3)
        assert [bytes(packet) for packet in packets] == [payload] * 3
        assert not any(packet.truncated or packet.control_truncated for packet in packets)
        assert ring.stats["packets"] == 3
        assert ring.stats["bytes"] == 3 * size
        assert ring.stats["zero_length"] == (0 if size else 3)


def test_the_longest_ipv6_datagram(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    source, sink = make_socket(socket.AF_INET6), make_socket(socket.AF_INET6)
    payload = os.urandom(65527)
    with RecvRing(sink, tier=tier) as ring:
        source.sendto(payload, sink.getsockname())
        assert [bytes(packet) for packet in take(ring, 1)] == [payload]


def test_addresses_are_those_of_the_socket_api(tier: str, pair: Pair) -> None:
    with RecvRing(pair.sink, tier=tier) as ring:
        pair.source.sendto(b"one", pair.to)
        (packet,) = take(ring, 1)
        assert packet.address == pair.seen_source
        assert packet.local == pair.local
        assert packet.interface_index == socket.if_nametoindex("lo")
    pair.source.sendto(b"two", pair.to)
    assert pair.sink.recvfrom(100)[1] == pair.seen_source


def test_the_local_address_is_the_one_that_was_addressed(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    with RecvRing(sink, tier=tier) as ring:
        for host in ("127.0.0.1", "127.0.0.9", "127.1.2.3"):
            source.sendto(b"", (host, sink.getsockname()[1]))
        assert [packet.local for packet in take(ring, 3)] == ["127.0.0.1", "127.0.0.9", "127.1.2.3"]


@pytest.mark.parametrize("tos", [0x00, 0x01, 0x02, 0x03, 0xB8, 0xBB])
def test_tos_and_ecn(tier: str, pair: Pair, tos: int) -> None:
    if pair.source.family == socket.AF_INET:
        pair.source.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        pair.source.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
    with RecvRing(pair.sink, tier=tier) as ring:
        pair.source.sendto(b"x", pair.to)
        (packet,) = take(ring, 1)
        assert (packet.tos, packet.ecn) == (tos, tos & 3)


@pytest.mark.parametrize("asked", [False, True])
def test_local_address_and_tos_may_be_left_out(tier: str, pair: Pair, asked: bool) -> None:
    """The program gets the control messages that it enabled itself."""
    ipv6 = pair.sink.family == socket.AF_INET6
    options = (
        [(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)]
        if ipv6
        else [(socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IP, socket.IP_RECVTOS)]
    )
    if ipv6:
        options.append((socket.IPPROTO_IP, socket.IP_RECVTOS))
    pair.source.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB9)
    if pair.source.family == socket.AF_INET6:
        pair.source.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB9)
    for level, option in options if asked else []:
        pair.sink.setsockopt(level, option, 1)
    with RecvRing(pair.sink, tier=tier, local_addresses=False, tos=False) as ring:
        assert [pair.sink.getsockopt(level, option) for level, option in options] == [asked] * len(options)
        pair.source.sendto(b"x", pair.to)
        batch = ring.recv_batch(timeout=BOUND)
        assert list(batch.addresses) == [pair.seen_source]
        assert batch.locals == [pair.local if asked else None]
        assert (batch.tos.tolist(), batch.ecn.tolist()) == ([0xB9 * asked], [asked])
        (packet,) = batch
        assert (packet.local, packet.tos) == (pair.local if asked else None, 0xB9 * asked)
        assert packet.interface_index == (socket.if_nametoindex("lo") if asked else 0)


def test_long_datagram_is_truncated_and_flagged(tier: str, pair: Pair) -> None:
    with RecvRing(pair.sink, buffer_size=100, tier=tier) as ring:
        for size in (99, 100, 101, 65507):
            pair.source.sendto(fill(size, 1)[:size], pair.to)
        packets = take(ring, 4)
        assert [len(packet) for packet in packets] == [99, 100, 100, 100]
        assert [packet.truncated for packet in packets] == [False, False, True, True]
        assert bytes(packets[3]) == fill(100, 1)[:100]
        assert ring.stats["truncated"] == 2


def test_truncated_control_data_keeps_payload(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    """The packet reports that control data was truncated."""
    source, sink = make_socket(socket.AF_INET6), make_socket(socket.AF_INET6)
    orig_dst, pktinfo_2292, hop_limit_2292, timestamp_ns, timestamping = 74, 2, 8, 35, 37
    for option in (socket.IPV6_RECVHOPLIMIT, orig_dst, pktinfo_2292, hop_limit_2292, 11):
        sink.setsockopt(socket.IPPROTO_IPV6, option, 1)
    sink.setsockopt(socket.SOL_SOCKET, timestamping, 1 << 3 | 1 << 4)
    sink.setsockopt(socket.SOL_SOCKET, timestamp_ns, 1)
    with RecvRing(sink, tier=tier) as ring:
        source.sendto(b"payload", sink.getsockname())
        (packet,) = take(ring, 1)
        assert packet.control_truncated
        assert not packet.truncated
        assert bytes(packet) == b"payload"
        assert packet.address == source.getsockname()
        assert ring.stats["control_truncated"] == 1


def test_empty_datagrams_do_not_stop_what_follows(tier: str, pair: Pair) -> None:
    """A datagram of length zero ends a multishot. Without care, any sender could stop the ring with one."""
    with RecvRing(pair.sink, buffers=16, tier=tier) as ring:
        for round_ in range(50):
            for payload in (b"a%d" % round_, b"", b"b%d" % round_):
                pair.source.sendto(payload, pair.to)
            assert [bytes(p) for p in take(ring, 3)] == [b"a%d" % round_, b"", b"b%d" % round_]
        assert ring.stats["zero_length"] == 50


def test_order_holds_over_many_rounds_of_the_pool(tier: str, pair: Pair) -> None:
    with RecvRing(pair.sink, buffers=8, tier=tier) as ring:
        got: list[int] = []
        for number in range(0, 1000, 10):
            for i in range(10):
                pair.source.sendto(struct.pack("!I", number + i), pair.to)
            got += [struct.unpack("!I", packet.data)[0] for packet in take(ring, 10)]
        assert got == list(range(1000))


@pytest.mark.parametrize("buffers", [64, 200, 2048])
def test_a_burst_is_no_starvation_while_buffers_are_free(tier: str, pair4: Pair, buffers: int) -> None:
    with RecvRing(pair4.sink, buffers=buffers, buffer_size=2048, tier=tier) as ring:
        for burst in (1, 20, 60, 200, 5, 200):
            payloads = [b"%d" % number for number in range(burst)]
            for payload in payloads:
                pair4.source.sendto(payload, pair4.to)
            got: list[bytes] = []
            while len(got) < burst:
                with ring.recv_batch(timeout=BOUND) as batch:
                    assert batch
                    got += batch.payloads()
            assert got == payloads
        assert ring.stats["starved"] == 0


@pytest.mark.parametrize("buffers", [1, 2, 2048])
def test_under_a_flood_every_datagram_is_received_or_counted(tier: str, pair4: Pair, buffers: int) -> None:
    pair4.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with RecvRing(pair4.sink, buffers=buffers, buffer_size=2048, tier=tier) as ring:
        sent = 0
        for _ in range(100):
            for _ in range(50):
                pair4.source.sendto(b"x" * 1000, pair4.to)
            sent += 50
            ring.recv_batch(max_packets=1, timeout=0)
        while ring.recv_batch(timeout=0.05):
            pass
        # A datagram queued after the drops carries their count.
        pair4.source.sendto(b"last", pair4.to)
        assert bytes(take(ring, 1)[-1]) == b"last"
        stats = ring.stats
        assert stats["packets"] + stats["kernel_drops"] == sent + 1
        assert stats["kernel_drops"] > 0 or buffers == 2048


def test_datagrams_that_are_there_need_no_wait(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        for number in range(200):
            pair4.source.sendto(b"%d" % number, pair4.to)
            assert ring.recv_batch(timeout=BOUND).payloads() == [b"%d" % number]
        assert ring.stats["wakeups"] == 0, "no operation was armed"


def test_order_holds_where_waits_and_bursts_alternate(tier: str, pair4: Pair) -> None:
    """A wait arms a receive. The rest of a burst may be received without it."""
    count = 3000
    room = threading.Semaphore(100)  # datagrams that may wait in the socket

    def send() -> None:
        for number in range(count):
            if number % 50 < 10:  # alone
                for _ in range(100):
                    room.acquire(timeout=BOUND)
                room.release(100)
            room.acquire(timeout=BOUND)
            pair4.source.sendto(b"%d" % number, pair4.to)

    sender = threading.Thread(target=send)
    with RecvRing(pair4.sink, 16, tier=tier, gro=False) as ring:
        sender.start()
        got: list[bytes] = []
        while len(got) < count and (batch := ring.recv_batch(5, timeout=BOUND)):
            got += batch.payloads()
            room.release(len(batch))
        sender.join()
        assert ring.stats["wakeups"] > 0
    assert got == [b"%d" % number for number in range(count)]


def closed_port(make_socket: Callable[..., socket.socket], family: int) -> tuple[str, int]:
    sock = make_socket(family)
    address = sock.getsockname()
    sock.close()
    return address[:2]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_icmp_errors_are_counted(tier: str, make_socket: Callable[..., socket.socket], family: int) -> None:
    """On a connected socket. Receiving continues."""
    address = closed_port(make_socket, family)
    sink = make_socket(family)
    sink.connect(address)
    with RecvRing(sink, buffers=8, tier=tier) as ring:
        give_up = time.monotonic() + BOUND
        while ring.stats["icmp_errors"] < 3 and time.monotonic() < give_up:
            with contextlib.suppress(ConnectionRefusedError):  # the first caller gets the error
                sink.send(b"anybody there?")
            assert not ring.recv_batch(timeout=0.01)
        assert ring.stats["icmp_errors"] >= 3
        peer = make_socket(family, port=address[1])
        for number in range(20):
            peer.sendto(b"%d" % number, sink.getsockname()[:2])
        assert [bytes(packet) for packet in take(ring, 20)] == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("receive_errors", [False, True], ids=["plain", "IP_RECVERR"])
def test_icmp_errors_on_an_unconnected_socket_do_no_harm(
    tier: str, make_socket: Callable[..., socket.socket], receive_errors: bool
) -> None:
    address = closed_port(make_socket, socket.AF_INET)
    source, sink = make_socket(), make_socket()
    if receive_errors:
        sink.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    with RecvRing(sink, buffers=8, tier=tier) as ring:
        for round_ in range(5):
            try:
                sink.sendto(b"anybody there?", address)
            except ConnectionRefusedError:
                assert receive_errors
            used = time.process_time()
            assert not ring.recv_batch(timeout=0.1)
            assert time.process_time() - used < 0.09, "it burns the processor instead of waiting"
            source.sendto(b"%d" % round_, sink.getsockname())
            assert [bytes(packet) for packet in take(ring, 1)] == [b"%d" % round_]


def test_an_error_that_is_also_queued_counts_once(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    address = closed_port(make_socket, socket.AF_INET)
    sink = make_socket()
    sink.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})  # one CPU: an error has arrived completely or not at all
    try:
        with RecvRing(sink, buffers=8, tier=tier) as ring:
            for count in range(1, 11):
                sink.sendto(b"anybody there?", address)
                give_up = time.monotonic() + BOUND
                while ring.stats["icmp_errors"] < count and time.monotonic() < give_up:
                    assert not ring.recv_batch(timeout=0.01)
                for _ in range(2):
                    assert not ring.recv_batch(timeout=0)
                assert ring.stats["icmp_errors"] == count
    finally:
        os.sched_setaffinity(0, processors)


@pytest.mark.parametrize("before", [0, 1])
def test_gro_is_left_as_it_was_found(tier: str, pair4: Pair, before: int) -> None:
    pair4.sink.setsockopt(SOL_UDP, UDP_GRO, before)
    with RecvRing(pair4.sink, tier=tier, gro=True):
        assert pair4.sink.getsockopt(SOL_UDP, UDP_GRO) == 1
    assert pair4.sink.getsockopt(SOL_UDP, UDP_GRO) == before


def test_time_out_gives_an_empty_batch(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        assert len(ring.recv_batch(timeout=0)) == 0
        begun = time.monotonic()
        assert not ring.recv_batch(timeout=0.05)
        assert 0.04 < time.monotonic() - begun < BOUND


def test_max_packets_bounds_a_batch_and_loses_nothing(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        for number in range(30):
            pair4.source.sendto(b"%d" % number, pair4.to)
        got: list[bytes] = []
        while len(got) < 30:
            batch = ring.recv_batch(max_packets=3, timeout=BOUND)
            assert 0 < len(batch) <= 3
            got += batch.payloads()
        assert got == [b"%d" % number for number in range(30)]


def test_signal_handler_may_end_a_wait(tier: str, pair4: Pair) -> None:
    calls: list[int] = []

    def handler(number: int, _frame: object) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with RecvRing(pair4.sink, tier=tier) as ring:
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may come at once
                signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
                ring.recv_batch(timeout=BOUND)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pair4.source.sendto(b"still here", pair4.to)
            assert [bytes(packet) for packet in take(ring, 1)] == [b"still here"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_socket_that_was_shut_down_brings_no_packets(tier: str, pair4: Pair) -> None:
    pair4.sink.connect(pair4.source.getsockname())
    with RecvRing(pair4.sink, tier=tier) as ring:
        assert not ring.recv_batch(timeout=0)
        pair4.sink.shutdown(socket.SHUT_RDWR)
        with pytest.raises(RingError) as caught:
            ring.recv_batch(timeout=BOUND)
        assert caught.value.errno == errno.ESHUTDOWN


def test_a_descriptor_that_is_no_udp_socket_is_refused(tier: str) -> None:
    stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with stream, pytest.raises(RingError, match="not a UDP socket"):
        RecvRing(stream, tier=tier)
    with pytest.raises(RingError, match="not an open socket"):
        RecvRing(stream, tier=tier)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"buffers": 2049}, "at most 2048"),
        ({"buffer_size": 65537}, "no datagram is longer"),
    ],
)
def test_sizes_out_of_range_are_refused(
    tier: str, pair4: Pair, arguments: dict[str, int], words: str
) -> None:
    with pytest.raises(RingError, match=words):
        RecvRing(pair4.sink, tier=tier, **arguments)
    with pytest.raises(ValueError, match="must be 0 to"):
        RecvRing(pair4.sink, tier=tier, **dict.fromkeys(arguments, -1))
