"""Submitting without waiting: tickets, their order, and the memory they hold."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udpring
from udpring.udp import TIERS, SendReport, SendRing, Ticket

from .conftest import BOUND, Pair

Make = Callable[..., socket.socket]


def receive(sock: socket.socket, count: int) -> list[bytes]:
    sock.settimeout(BOUND)
    return [sock.recv(65536) for _ in range(count)]


def wide(sock: socket.socket) -> socket.socket:
    """The sink has room for everything that a test sends before it reads."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return sock


def test_tickets_come_back_once_in_the_order_submitted(tier: str, pair: Pair) -> None:
    wide(pair.sink)
    with SendRing(pair.source, tier=tier, entries=4) as ring:
        tickets = [ring.submit([b"%d.%d" % (n, i) for i in range(n)], pair.to) for n in range(20)]
        assert [ticket.count for ticket in tickets] == list(range(20))
        done = ring.reap(wait=5, timeout=BOUND)
        assert len(done) >= 5
        done += ring.drain(timeout=BOUND)
        assert done == tickets
        assert all(ticket.done for ticket in tickets)
        assert [ticket.report for ticket in tickets] == [SendReport(n) for n in range(20)]
        assert ring.reap() == []
        assert ring.reap(wait=3, timeout=0) == []
        assert ring.drain() == []
        assert ring.pending == 0
    assert receive(pair.sink, 190) == [b"%d.%d" % (n, i) for n in range(20) for i in range(n)]


def test_an_iterable_of_payloads_may_be_changed_at_once(tier: str, pair4: Pair) -> None:
    payload = bytearray(b"original")
    with SendRing(pair4.source, tier=tier) as ring:
        ring.submit([payload, payload], pair4.to)
        payload[:] = b"changed!"
        payload.extend(b"longer")
        ring.drain(timeout=BOUND)
    assert receive(pair4.sink, 2) == [b"original"] * 2


def test_one_buffer_is_let_go_of_with_its_ticket(tier: str, pair4: Pair) -> None:
    payload = bytearray(b"abcdefgh")
    with SendRing(pair4.source, tier=tier) as ring:
        ticket = ring.submit(payload, pair4.to, lengths=4)
        assert ring.drain(timeout=BOUND) == [ticket]
        payload.extend(b"resized")  # BufferError while the ticket holds it
        ring.send_batch(payload, pair4.to, lengths=5)
        payload.extend(b"again")
    assert receive(pair4.sink, 5) == [b"abcd", b"efgh", b"abcde", b"fghre", b"sized"]


def test_send_batch_goes_behind_what_was_submitted(tier: str, pair4: Pair) -> None:
    wide(pair4.sink)
    with SendRing(pair4.source, tier=tier, entries=2) as ring:
        expected = []
        for round_ in range(30):
            first, second = (b"%d.%d" % (round_, part) for part in range(2))
            ring.submit([first] * 3, pair4.to)
            ring.send_batch([second], pair4.to)
            expected += [first, first, first, second]
        assert len(ring.drain(timeout=BOUND)) == 30
    assert receive(pair4.sink, 120) == expected


def test_the_errors_of_a_ticket(tier: str, pair4: Pair) -> None:
    with SendRing(pair4.source, tier=tier) as ring:
        ticket = ring.submit([b"a", bytes(65508), b"b"], pair4.to)
        (same,) = ring.drain(timeout=BOUND)
        assert same is ticket
        assert ticket.report.accepted == 2
        assert [(i, error.errno) for i, error in ticket.report.errors] == [(1, errno.EMSGSIZE)]
        assert "3 datagrams" in repr(ticket)
        with pytest.raises(ValueError, match="addresses"):
            ring.submit([b"a"], [pair4.to, pair4.to])
        assert ring.drain() == []
    assert receive(pair4.sink, 2) == [b"a", b"b"]


def test_a_ticket_outlives_its_ring(tier: str, pair4: Pair) -> None:
    ring = SendRing(pair4.source, tier=tier)
    ticket = ring.submit([b"a"], pair4.to)
    ring.close()
    assert ticket.report == SendReport(1)
    with pytest.raises(udpring.ClosedError):
        ring.reap()
    with pytest.raises(udpring.ClosedError):
        ring.submit([b"b"], pair4.to)


def test_ten_thousand_tickets_leave_nothing_behind(tier: str, pair4: Pair) -> None:
    """Each is a few hundred bytes. Their memory is reused."""
    with SendRing(pair4.source, tier=tier) as ring:
        for _ in range(100):
            for _ in range(100):
                ring.submit(b"x" * 12, pair4.to, lengths=4)
            assert sum(ticket.report.accepted for ticket in ring.drain(timeout=BOUND)) == 300
        assert ring.stats["packets"] == 30000


SIZES = st.sampled_from([0, 1, 2, 100, 100, 100, 1200, 1200, 9000, 65507, 65508, 66000])
OPTION = st.fixed_dictionaries(
    {}, optional={"ordered": st.booleans(), "tos": st.sampled_from([0, 1, 184]), "ttl": st.integers(1, 255)}
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), tier=st.sampled_from(TIERS), six=st.booleans())
def test_any_batches_arrive_whole_and_in_order(data: st.DataObject, tier: str, six: bool) -> None:
    """With any sizes, destinations, shapes and options, accepted datagrams arrive, in order per
    destination."""
    entries, gso = data.draw(st.integers(1, 12)), data.draw(st.booleans())
    family = socket.AF_INET6 if six else socket.AF_INET
    sinks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    if six:
        sinks[2].close()
        sinks[2] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    expected: list[list[bytes]] = [[], [], []]
    with socket.socket(family, socket.SOCK_DGRAM) as source:
        for sink in sinks:
            sink.bind(("::1" if sink.family == socket.AF_INET6 else "127.0.0.1", 0))
            wide(sink)
        names = [sink.getsockname() for sink in sinks]
        filler = random.Random(entries).randbytes(70000)
        with SendRing(source, entries=entries, tier=tier, gso=gso) as ring:
            waiting: list[tuple[Ticket, list[int]]] = []
            for call in range(data.draw(st.integers(1, 4))):
                lengths = data.draw(st.lists(SIZES, max_size=40))
                where = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
                payloads = [
                    (struct.pack("!HH", call, index) + filler)[:length]
                    for index, length in enumerate(lengths)
                ]
                limits = [65527 if six and place == 2 else 65507 for place in where]
                wrong = [i for i, length in enumerate(lengths) if length > limits[i]]
                for index, place in enumerate(where):
                    if index not in wrong:
                        expected[place].append(payloads[index])
                addresses = udpring.AddressList([names[place] for place in where], family)
                options = data.draw(OPTION)
                if data.draw(st.booleans()):
                    what: dict[str, object] = {"payloads": payloads}
                else:
                    what = {"payloads": b"".join(payloads), "lengths": lengths}
                if data.draw(st.booleans()):
                    waiting.append((ring.submit(**what, address=addresses, **options), wrong))  # type: ignore[arg-type]
                else:
                    report = ring.send_batch(**what, address=addresses, **options)  # type: ignore[arg-type]
                    assert [i for i, _ in report.errors] == wrong
            assert ring.drain(timeout=BOUND) == [ticket for ticket, _ in waiting]
            for ticket, wrong in waiting:
                assert [i for i, _ in ticket.report.errors] == wrong
                assert {error.errno for _, error in ticket.report.errors} <= {errno.EMSGSIZE}
        for sink, right in zip(sinks, expected, strict=True):
            assert receive(sink, len(right)) == right
            sink.close()


def test_a_window_of_destinations_and_more(tier: str, make_socket: Make) -> None:
    """More datagrams than one window, to a thousand destinations: each in order, none lost."""
    sink = wide(make_socket(host="0.0.0.0"))
    sink.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
    port = sink.getsockname()[1]
    source = make_socket(host="0.0.0.0")
    chosen = random.Random(1)
    hosts = [f"127.{1 + n // 200}.{n % 200}.9" for n in range(1000)]
    for count in (1000, 9000):
        where = (
            list(range(1000)) if count == 1000 else [int(chosen.random() ** 4 * 1000) for _ in range(count)]
        )
        payloads = [struct.pack("!I", n) for n in range(count)]
        addresses = udpring.AddressList([(hosts[place], port) for place in where])
        got: dict[bytes, list[int]] = {}
        with SendRing(source, tier=tier) as ring:
            for start in range(0, count, 4500):
                part = slice(start, start + 4500)
                assert ring.send_batch(payloads[part], addresses[part]).accepted == len(payloads[part])
                sink.settimeout(BOUND)
                for _ in payloads[part]:
                    payload, control, _, _ = sink.recvmsg(100, 100)
                    got.setdefault(control[0][2][8:12], []).append(struct.unpack("!I", payload)[0])
        expected: dict[bytes, list[int]] = {}
        for n, place in enumerate(where):
            expected.setdefault(socket.inet_aton(hosts[place]), []).append(n)
        assert got == expected


@pytest.mark.slow
def test_more_than_a_million_datagrams_of_one_buffer(tier: str, pair4: Pair) -> None:
    """Nobody reads. The test only checks that each datagram has a result."""
    with SendRing(pair4.source, tier=tier) as ring:
        assert ring.send_batch(os.urandom(1 << 20), pair4.to, lengths=1).accepted == 1 << 20
        assert ring.stats["packets"] == 1 << 20
