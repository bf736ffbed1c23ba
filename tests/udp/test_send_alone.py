"""A single datagram is sent directly, without the queue. Its results are those of a queued one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from udpring.errors import ClosedError, WrongThreadError
from udpring.udp import AddressList, RecvRing, SendReport, SendRing

from .conftest import BOUND, Pair, send_train, take


def outcome(report: SendReport) -> tuple[int, list[tuple[int, int | None]]]:
    return report.accepted, [(index, error.errno) for index, error in report.errors]


def both(ring: SendRing, payload: bytes, address: object) -> tuple[object, object]:
    """The outcome of sending it alone, and as a batch of one."""
    came: list[object] = []
    for payloads in ([payload], (payload,)):
        try:
            came.append(outcome(ring.send_batch(payloads, address)))  # type: ignore[arg-type]
        except Exception as error:
            came.append((type(error), str(error)))
    return came[0], came[1]


@pytest.mark.parametrize("size", [0, 1, 1400, 65507])
def test_it_arrives_however_it_is_addressed(tier: str, pair: Pair, size: int) -> None:
    payload = bytes(range(256)) * 256
    pair.sink.settimeout(BOUND)
    with SendRing(pair.source, tier=tier) as ring:
        for address in (pair.to, AddressList([pair.to], pair.source.family), [pair.to]):
            assert both(ring, payload[:size], address) == ((1, []), (1, []))
            assert [pair.sink.recv(65536) for _ in range(2)] == [payload[:size]] * 2
        pair.source.connect(pair.to)
        for address in (None, AddressList([None], pair.source.family)):
            assert both(ring, payload[:size], address) == ((1, []), (1, []))
            assert [pair.sink.recv(65536) for _ in range(2)] == [payload[:size]] * 2
        assert ring.stats["packets"] == 10
        assert ring.stats["bytes"] == 10 * size
        assert ring.pending == 0


def test_errors_are_those_of_a_batch(tier: str, pair: Pair) -> None:
    six = ("::1", 9)
    other = AddressList([six], socket.AF_INET6)
    with SendRing(pair.source, tier=tier) as ring:
        for payload, address in (
            (bytes(65508), pair.to),
            (bytes(70000), pair.to),
            (b"x", None),
            (b"x", AddressList([None], pair.source.family)),
            (b"x", AddressList([], pair.source.family)),
            (b"x", AddressList([pair.to] * 2, pair.source.family)),
            (b"x", other),
            (b"x", ("255.255.255.255", 9)),
            (b"x", ("127.0.0.1", 70000)),
            (b"x", ("127.0.0.1", "9")),
            (b"x", ("127.0.0.1", 9, 0)),
            (b"x", ()),
            (b"x", "127.0.0.1"),
        ):
            alone, batch = both(ring, payload, address)
            assert alone == batch, (len(payload), address)
        ring.send_batch([b"x"], pair.to)
        assert ring.pending == 0


@pytest.mark.parametrize("payloads", [["text"], [None], [[b"x"]], b"x", "x"])
def test_what_is_no_payload(tier: str, pair4: Pair, payloads: object) -> None:
    with SendRing(pair4.source, tier=tier) as ring, pytest.raises(TypeError):
        ring.send_batch(payloads, pair4.to)  # type: ignore[arg-type]


def test_a_received_one_goes_on_from_where_it_lies(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    source, relay, sink = make_socket(), make_socket(), make_socket()
    sink.settimeout(BOUND)
    with RecvRing(relay, tier=tier) as rx, SendRing(relay, tier=tier) as tx:
        for payload in (b"a datagram", b"", bytes(9000)):
            source.sendto(payload, relay.getsockname())
            with rx.recv_batch(timeout=BOUND) as batch:
                assert len(batch) == 1
                assert tx.send_batch(batch, sink.getsockname()).accepted == 1
                assert tx.send_batch(batch[:], sink.getsockname()).accepted == 1
                assert tx.send_batch(batch, batch.addresses).accepted == 1
                assert batch.payloads() == [payload]
            assert [sink.recv(65536) for _ in range(2)] == [payload] * 2
            source.settimeout(BOUND)
            assert source.recv(65536) == payload
            with pytest.raises(ClosedError, match="released"):
                tx.send_batch(batch, sink.getsockname())


def test_a_whole_train_is_no_single_datagram(tier: str, pair4: Pair) -> None:
    with (
        RecvRing(pair4.sink, tier=tier, whole_trains=True) as rx,
        SendRing(pair4.sink, tier=tier) as tx,
    ):
        if not rx.gro:
            return  # this kernel does not join datagrams
        send_train(pair4.source, pair4.to, bytes(3000), 1000)
        batch = rx.recv_batch(timeout=BOUND)
        assert len(batch) == 1
        with pytest.raises(ValueError, match="whole trains"):
            tx.send_batch(batch, batch.addresses)


def test_a_closed_ring_and_a_closed_socket(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    source, sink = make_socket(), make_socket()
    to = sink.getsockname()
    with SendRing(source, tier=tier) as ring:
        source.close()
        alone, batch = both(ring, b"x", to)
        assert alone == batch
    with pytest.raises(ClosedError):
        ring.send_batch([b"x"], to)


def test_another_thread(tier: str, pair4: Pair) -> None:
    caught: list[BaseException] = []

    def send() -> None:
        try:
            ring.send_batch([b"x"], pair4.to)
        except Exception as error:
            caught.append(error)

    with SendRing(pair4.source, tier=tier) as ring, RecvRing(pair4.sink, tier=tier) as rx:
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
        assert [type(error) for error in caught] == [WrongThreadError]
        ring.send_batch([b"y"], pair4.to)
        assert [bytes(packet) for packet in take(rx, 1)] == [b"y"]
