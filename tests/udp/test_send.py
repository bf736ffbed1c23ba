"""The contract of sending for each tier, with its reports of failures."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpring.errors import RingError
from udpring.udp import TIERS, SendRing

from .conftest import BOUND, Pair


def receive(sock: socket.socket, count: int) -> list[bytes]:
    sock.settimeout(BOUND)
    return [sock.recv(65536) for _ in range(count)]


def wide(sock: socket.socket) -> socket.socket:
    """The sink has room for everything that a test sends before it reads."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return sock


def test_payloads_of_any_size_in_order(tier: str, pair: Pair) -> None:
    wide(pair.sink)
    payloads = [os.urandom(size) for size in (0, 1, 1399, 0, 1400, 1472, 1473, 9000, 65507, 5)]
    with SendRing(pair.source, tier=tier) as ring:
        report = ring.send_batch(payloads, pair.to)
        assert (report.accepted, report.errors) == (len(payloads), [])
        assert receive(pair.sink, len(payloads)) == payloads
        stats = ring.stats
        assert (stats["packets"], stats["bytes"]) == (len(payloads), sum(map(len, payloads)))
        assert ring.pending == 0


@pytest.mark.parametrize("entries", [1, 7, 256, 4096])
def test_a_batch_may_be_longer_than_the_ring(tier: str, pair4: Pair, entries: int) -> None:
    wide(pair4.sink)
    payloads = [struct.pack("!I", number) for number in range(1000)]
    with SendRing(pair4.source, entries=entries, tier=tier) as ring:
        assert ring.send_batch(payloads, pair4.to).accepted == 1000
    assert receive(pair4.sink, 1000) == payloads


def test_one_too_long_in_the_middle_hides_no_other(tier: str, pair4: Pair) -> None:
    wide(pair4.sink)
    payloads = [b"%d" % number for number in range(100)]
    payloads[30] = b"x" * 65508  # the kernel refuses this length
    payloads[31] = b"y" * 65508
    payloads[60] = b"z" * 70000  # no address family takes this length
    with SendRing(pair4.source, tier=tier) as ring:
        report = ring.send_batch(payloads, pair4.to)
        assert report.accepted == 97
        assert [index for index, _ in report.errors] == [30, 31, 60]
        assert {error.errno for _, error in report.errors} == {errno.EMSGSIZE}
        assert ring.stats["too_big"] == 2
    assert receive(pair4.sink, 97) == [p for i, p in enumerate(payloads) if i not in (30, 31, 60)]


def test_one_address_each(tier: str, pair4: Pair, make_socket: Callable[..., socket.socket]) -> None:
    sinks = [make_socket() for _ in range(3)]
    with SendRing(pair4.source, tier=tier) as ring:
        payloads = [b"%d" % number for number in range(30)]
        addresses = [sinks[number % 3].getsockname() for number in range(30)]
        assert ring.send_batch(payloads, addresses).accepted == 30
        for place, sink in enumerate(sinks):
            assert receive(sink, 10) == payloads[place::3]
        with pytest.raises(ValueError, match="29 addresses for 30 payloads"):
            ring.send_batch(payloads, addresses[:-1])


def test_a_connected_socket_needs_no_address(tier: str, pair: Pair) -> None:
    pair.source.connect(pair.to)
    with SendRing(pair.source, tier=tier) as ring:
        assert ring.send_batch([b"a", b"b"]).accepted == 2
    assert receive(pair.sink, 2) == [b"a", b"b"]


def test_a_dual_stack_socket_sends_to_both_families(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    source = make_socket(socket.AF_INET6, "::")
    four, six = make_socket(), make_socket(socket.AF_INET6)
    port = four.getsockname()[1]
    with SendRing(source, tier=tier) as ring:
        to = [("127.0.0.1", port), ("::ffff:127.0.0.1", port, 0, 0), six.getsockname(), ("localhost", port)]
        assert ring.send_batch([b"a", b"b", b"c"], to[:3]).accepted == 3
    assert receive(four, 2) == [b"a", b"b"]
    assert receive(six, 1) == [b"c"]
    with SendRing(make_socket(), tier=tier) as ring:
        assert ring.send_batch([b"d"], to[3]).accepted == 1
        with pytest.raises(socket.gaierror):
            ring.send_batch([b"e"], ("::1", port))
    assert receive(four, 1) == [b"d"]


def test_unconnected_socket_needs_an_address(tier: str, pair4: Pair) -> None:
    with SendRing(pair4.source, tier=tier) as ring:
        report = ring.send_batch([b"a", b"b"])
        assert report.accepted == 0
        assert [(i, error.errno) for i, error in report.errors] == [
            (0, errno.EDESTADDRREQ),
            (1, errno.EDESTADDRREQ),
        ]


def test_refusal_by_peer_is_reported(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    """Sending continues."""
    gone = make_socket()
    address = gone.getsockname()
    gone.close()
    source = make_socket()
    source.connect(address)
    with SendRing(source, tier=tier) as ring:
        refused = 0
        for _ in range(20):
            report = ring.send_batch([b"anybody there?"] * 3)
            assert all(isinstance(error, ConnectionRefusedError) for _, error in report.errors)
            assert report.accepted + len(report.errors) == 3
            refused += len(report.errors)
        assert refused > 0
        assert ring.stats["refused"] == refused
        back = make_socket(port=address[1])
        give_up = time.monotonic() + BOUND
        while ring.send_batch([b"there"]).errors and time.monotonic() < give_up:
            pass
        assert b"there" in receive(back, 1)


def test_an_unreachable_destination_is_reported_alone(tier: str, pair4: Pair) -> None:
    with SendRing(pair4.source, tier=tier) as ring:
        # A socket bound to a loopback address cannot leave the host, with any routes.
        report = ring.send_batch([b"a", b"b", b"c"], [pair4.to, ("192.0.2.1", 9), pair4.to])
        assert report.accepted == 2
        ((index, error),) = report.errors
        assert index == 1
        assert error.errno in (errno.EINVAL, errno.ENETUNREACH, errno.EHOSTUNREACH)
    assert receive(pair4.sink, 2) == [b"a", b"c"]


def test_payload_may_change_after_the_call(tier: str, pair4: Pair) -> None:
    payload = bytearray(b"original")
    with SendRing(pair4.source, tier=tier) as ring:
        ring.send_batch([payload, memoryview(payload)[:4]], pair4.to)
        payload[:] = b"changed!"
    assert receive(pair4.sink, 2) == [b"original", b"orig"]


def test_anything_with_bytes_in_it_is_a_payload(tier: str, pair4: Pair) -> None:
    words = memoryview(struct.pack("4I", 1, 2, 3, 4)).cast("I")
    with SendRing(pair4.source, tier=tier) as ring:
        assert ring.send_batch(iter([words, b"x", bytearray(b"yz")]), pair4.to).accepted == 3
        assert ring.send_batch([], pair4.to).accepted == 0
        for wrong in (["text"], "text", b"one payload", [1]):
            with pytest.raises(TypeError):
                ring.send_batch(wrong, pair4.to)  # type: ignore[arg-type]
        for address in (("127.0.0.1",), ["127.0.0.1", 1], ("127.0.0.1", "1")):
            with pytest.raises((TypeError, ValueError)):
                ring.send_batch([b"x"], address)  # type: ignore[arg-type]
        with pytest.raises(OverflowError):
            ring.send_batch([b"x"], ("127.0.0.1", 65536))
    assert receive(pair4.sink, 3) == [words.tobytes(), b"x", b"yz"]


def test_a_closed_socket_is_an_error_of_each_packet(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    sock = make_socket()
    with SendRing(sock, tier=tier) as ring:
        sock.close()
        report = ring.send_batch([b"a", b"b"], ("127.0.0.1", 9))
        assert [error.errno for _, error in report.errors] == [errno.EBADF] * 2


def test_what_cannot_be_a_ring_is_refused(tier: str, pair4: Pair) -> None:
    with pytest.raises(RingError, match="at most 4096"):
        SendRing(pair4.source, entries=4097, tier=tier)
    with pytest.raises(ValueError, match="negative"):
        SendRing(pair4.source, entries=-1, tier=tier)
    with socket.socketpair()[0] as local, pytest.raises(RingError, match="not a UDP socket"):
        SendRing(local, tier=tier)


def test_signals_do_not_disturb_sending(tier: str, pair4: Pair) -> None:
    wide(pair4.sink)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        with SendRing(pair4.source, entries=16, tier=tier) as ring:
            for round_ in range(50):
                payloads = [b"%d.%d" % (round_, number) for number in range(40)]
                assert ring.send_batch(payloads, pair4.to).accepted == 40
                assert receive(pair4.sink, 40) == payloads
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), tier=st.sampled_from(TIERS))
def test_any_mixture_is_accounted_for(data: st.DataObject, tier: str) -> None:
    """Accepted datagrams arrive in order and each other one has its error, with any lengths and ring size."""
    lengths = data.draw(st.lists(st.sampled_from([0, 1, 100, 1400, 5000, 65508, 65600]), max_size=60))
    entries = data.draw(st.integers(1, 20))
    filler = random.Random(len(lengths)).randbytes(65600)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        sink.bind(("127.0.0.1", 0))
        wide(sink)
        payloads = [filler[:length] for length in lengths]
        with SendRing(source, entries=entries, tier=tier) as ring:
            report = ring.send_batch(payloads, sink.getsockname())
        wrong = [i for i, length in enumerate(lengths) if length > 65507]
        assert [i for i, _ in report.errors] == wrong
        assert report.accepted == len(lengths) - len(wrong)
        assert receive(sink, report.accepted) == [p for p in payloads if len(p) <= 65507]


def test_one_ring_a_thread(tier: str, pair4: Pair) -> None:
    """Several threads, each with its own ring on the same socket, do not disturb one another."""
    wide(pair4.sink)
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            with SendRing(pair4.source, tier=tier) as ring:
                for round_ in range(20):
                    assert (
                        ring.send_batch(
                            [b"%d.%d.%d" % (name, round_, n) for n in range(5)], pair4.to
                        ).accepted
                        == 5
                    )
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    got = receive(pair4.sink, 400)
    for name in range(4):
        mine = [p for p in got if p.startswith(b"%d." % name)]
        assert mine == [b"%d.%d.%d" % (name, round_, n) for round_ in range(20) for n in range(5)]
