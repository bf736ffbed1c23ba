"""Wrong arguments and their errors, a vanished socket, and a fork."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest

import udpring
from udpring import AddressList, ClosedError, RecvRing, RingError, SendRing

from .conftest import SOL_UDP, UDP_GRO, Pair, send_train, take

SO_TIMESTAMPNS = 35


def test_close_leaves_reused_descriptor_alone(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    """Without UDP_GRO, a train waiting in the heir would be received as one long datagram."""
    first, heir, source = make_socket(), make_socket(), make_socket()
    old = RecvRing(first, tier=tier, timestamps=True)
    os.dup2(heir.fileno(), first.fileno())  # closes the first; its number now names the heir
    with RecvRing(heir, tier=tier, timestamps=True) as ring:
        assert ring.gro
        send_train(source, heir.getsockname(), b"a" * 30 + b"b" * 10, 30)
        old.close()
        assert ring.gro
        assert heir.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS) == 1
        assert [bytes(packet) for packet in take(ring, 2)] == [b"a" * 30, b"b" * 10]
    assert heir.getsockopt(SOL_UDP, UDP_GRO) == 0


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("first_goes", [True, False])
def test_last_ring_restores_socket_options(
    tier: str, make_socket: Callable[..., socket.socket], first_goes: bool, before: int
) -> None:
    """Several rings share the socket."""
    sink, source = make_socket(), make_socket()
    sink.setsockopt(SOL_UDP, UDP_GRO, before)
    rings = [RecvRing(sink, tier=tier, timestamps=True)]
    with socket.socket(fileno=os.dup(sink.fileno())) as again:
        rings.append(RecvRing(again, tier=tier, timestamps=True))
        going, staying = rings if first_goes else rings[::-1]
        send_train(source, sink.getsockname(), b"a" * 30 + b"b" * 10, 30)
        going.close()
        packets = take(staying, 2)
        assert [bytes(packet) for packet in packets] == [b"a" * 30, b"b" * 10]
        assert all(packet.timestamp for packet in packets)
        with RecvRing(sink, tier=tier):
            pass
        assert staying.gro
        staying.close()
    assert sink.getsockopt(SOL_UDP, UDP_GRO) == before
    assert sink.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS) == 0


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_only_udp_sockets_make_rings(tier: str, kind: socket.SocketKind) -> None:
    family = socket.AF_INET if kind == socket.SOCK_STREAM else socket.AF_UNIX
    with socket.socket(family, kind) as sock:
        for ring in (SendRing, RecvRing):
            with pytest.raises(
                RingError, match=r"not a UDP socket. Use one of AF_INET or AF_INET6 and SOCK_DGRAM"
            ):
                ring(sock, tier=tier)


@pytest.mark.parametrize("ring", [SendRing, RecvRing])
@pytest.mark.parametrize("wrong", [None, 3, "socket"])
def test_what_is_no_socket_is_named(ring: type[SendRing | RecvRing], wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"sock is a socket.socket, not"):
        ring(wrong)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_nothing_that_owns_memory_is_copied_or_pickled(
    tier: str, pair4: Pair, way: Callable[[object], object]
) -> None:
    """A copy of a ring would close it when the copy is collected."""
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        ticket = sender.submit([b"one", b"two"], pair4.to)
        sender.drain()
        batch = receiver.recv_batch(2)
        for owner in (receiver, sender, ticket, batch, batch[:1], batch[0]):
            with pytest.raises(TypeError, match=f"a {type(owner).__name__} cannot be copied or pickled: "):
                way(owner)
        assert sender.send_batch([b"three"], pair4.to).accepted == 1
        assert batch.addresses == copy.copy(batch.addresses)
        assert pickle.loads(pickle.dumps(ticket.report)).accepted == 2


def test_an_empty_slice_of_a_slice_is_empty(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        sender.send_batch([b"%d" % number for number in range(6)], pair4.to)
        batch = receiver.recv_batch()
        payloads = batch.payloads()
        first = [
            slice(0, 0),
            slice(5, 2),
            slice(9, 9),
            slice(-9, -20, -1),
            slice(None, None, -1),
            slice(1, 4, 2),
        ]
        then = [slice(None, None, -1), slice(None), slice(-9, -20, -1), slice(None, None, -2), slice(0, 0)]
        for one in first:
            for two in then:
                part, expected = batch[one][two], payloads[one][two]
                assert part.payloads() == [bytes(view) for view in part.views()] == expected
                assert [bytes(packet) for packet in part] == expected
                assert len(part.addresses) == len(part.lengths) == len(part.tos) == len(expected)
                assert sender.send_batch(part, pair4.to).accepted == len(expected)


def test_a_forked_child_sees_the_packets_it_holds(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        sender.send_batch([b"before"], pair4.to)
        (packet,) = take(receiver, 1)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writing, bytes(packet))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as reported:
            assert reported.read() == b"before"
        os.waitpid(child, 0)


def test_a_timeout_is_a_number(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        calls: list[Callable[[Any], object]] = [
            lambda timeout: receiver.recv_batch(1, timeout),
            lambda timeout: asyncio.run(receiver.recv_batch_async(1, timeout)),
            lambda timeout: sender.send_batch([b"x"], pair4.to, timeout),
            lambda timeout: sender.reap(0, timeout),
            sender.drain,
        ]
        for call in calls:
            with pytest.raises(ValueError, match="a timeout is a number of seconds"):
                call(math.nan)
            with pytest.raises(TypeError, match="a timeout is a number of seconds"):
                call("1")
            for past in (0, -1, -math.inf, -1e300):
                call(past)
        assert sender.send_batch([b"x"], pair4.to, math.inf).accepted == 1
        assert len(receiver.recv_batch(1, math.inf)) == 1
        assert sender.send_batch([b"x"], pair4.to, 1e300).accepted == 1
        assert len(asyncio.run(receiver.recv_batch_async(1, math.inf))) == 1


def test_a_payload_that_cannot_be_sent_is_named(tier: str, pair4: Pair) -> None:
    with SendRing(pair4.source, tier=tier) as sender:
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError, match="payload 1 is not a buffer"):
                sender.send_batch([b"fine", wrong], pair4.to)  # type: ignore[list-item]
        for step in (2, -1):
            with pytest.raises(TypeError, match="payload 1 is a view with gaps"):
                sender.send_batch([b"fine", memoryview(b"abcdef")[::step]], pair4.to)
            with pytest.raises(TypeError, match="one contiguous buffer"):
                sender.send_batch(memoryview(b"abcdef")[::step], pair4.to, lengths=1)
        for nothing in (None, 5):
            with pytest.raises(TypeError, match="payloads is a sequence of buffers"):
                sender.send_batch(nothing, pair4.to)  # type: ignore[arg-type]
        for to in ("127.0.0.1", 5):
            with pytest.raises(TypeError, match=r"address is \(host, port\)"):
                sender.send_batch([b"x"], to)  # type: ignore[arg-type]


def test_an_address_that_cannot_be_holds_up_no_other(tier: str, pair4: Pair) -> None:
    to = [pair4.to, ("::1", 9), pair4.to, ("::1", 9), None]
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        payloads = [b"0", b"1", b"2", b"3", b"4"]
        ticket = sender.submit(payloads, iter(to))
        sender.drain()
        reports = [
            sender.send_batch(payloads, to),
            ticket.report,
            asyncio.run(sender.send_batch_async(payloads, to, ordered=True)),
        ]
        for report in reports:
            assert report.accepted == 2
            assert [(place, type(error)) for place, error in report.errors] == [
                (1, socket.gaierror),
                (3, socket.gaierror),
                (4, OSError),
            ]
        assert sorted(bytes(packet) for packet in take(receiver, 6)) == [b"0", b"0", b"0", b"2", b"2", b"2"]
        with pytest.raises(ValueError, match="5 addresses for 2 payloads"):
            sender.send_batch(payloads[:2], to)


def test_hosts_that_socket_knows_without_asking(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    assert list(AddressList([("", 5), ("<broadcast>", 5)])) == [("0.0.0.0", 5), ("255.255.255.255", 5)]
    assert list(AddressList([("", 5)], socket.AF_INET6)) == [("::", 5, 0, 0)]
    sink = make_socket()
    with RecvRing(sink, tier=tier) as receiver, SendRing(make_socket(), tier=tier) as sender:
        assert sender.send_batch([b"here"], ("", sink.getsockname()[1])).accepted == 1
        assert [bytes(packet) for packet in take(receiver, 1)] == [b"here"]
        report = sender.send_batch([b"all"], ("<broadcast>", 9))  # SO_BROADCAST is not set
        assert [type(error) for _, error in report.errors] == [PermissionError]


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("::1", 5, 1 << 20, 0), OverflowError),
        (("::1", 5, 0, -1), OverflowError),
        (("::1", 5, 0, 1 << 32), OverflowError),
        (("::1", 5, "a", 0), TypeError),
        (("::1", 5, 0, "lo"), TypeError),
    ],
)
def test_flow_and_scope_are_numbers(address: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"scope_id"):
        AddressList([address], socket.AF_INET6)


@pytest.mark.parametrize("port", [-1, 65536, 70000])
@pytest.mark.parametrize("argument", ["local_addr", "remote_addr"])
def test_an_endpoint_takes_no_port_out_of_range(argument: str, port: int) -> None:
    """getaddrinfo(3) takes the low 16 bits, so another port would be opened."""
    arguments: dict[str, Any] = {argument: ("127.0.0.1", port)}
    with pytest.raises(OverflowError, match="0-65535"):
        asyncio.run(udpring.open_datagram_endpoint(asyncio.DatagramProtocol, **arguments))


def test_a_closed_ring_is_not_entered(tier: str, pair4: Pair) -> None:
    for ring in (RecvRing(pair4.sink, tier=tier), SendRing(pair4.source, tier=tier)):
        ring.close()
        with pytest.raises(ClosedError), ring:
            raise AssertionError("entered")
