"""Options of a call for its datagrams: source, interface, TOS and ECN, hop limit, address scopes."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

import pytest

import udpring
from udpring.udp import SendRing

from .conftest import BOUND

LOOPBACK = socket.if_nametoindex("lo")
HOPS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
IP_RECVTTL, IPV6_RECVHOPLIMIT = 12, 51


def observe(sock: socket.socket) -> tuple[bytes, str, int, int]:
    """Payload, source host, TOS and hop limit of one datagram."""
    sock.settimeout(BOUND)
    data, control, _, address = sock.recvmsg(65536, 1024)
    tos = ttl = -1
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS):
            tos = value[0]
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_TCLASS):
            (tos,) = struct.unpack("i", value)
        elif (level, kind) in {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, 52)}:
            (ttl,) = struct.unpack("i", value)
    return data, address[0], tos, ttl


Make = Callable[..., socket.socket]


@pytest.fixture(params=["ipv4", "ipv6", "mapped"])
def ends(request: pytest.FixtureRequest, make_socket: Make) -> tuple[socket.socket, socket.socket, str]:
    """An unbound sender, a receiver that sees TOS and hop limit, and the receiver's address for the
    sender."""
    over = socket.AF_INET6 if request.param == "ipv6" else socket.AF_INET
    sink = make_socket(over)
    if over == socket.AF_INET:
        sink.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        sink.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    else:
        sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        sink.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
    source = make_socket(socket.AF_INET if request.param == "ipv4" else socket.AF_INET6, "")
    return source, sink, HOPS[over]


@pytest.mark.parametrize("connected", [False, True])
def test_tos_and_ttl_of_a_call(
    tier: str, ends: tuple[socket.socket, socket.socket, str], connected: bool
) -> None:
    source, sink, host = ends
    to = (host, sink.getsockname()[1])
    with SendRing(source, tier=tier) as ring:
        if connected:  # connected after the ring was made
            source.connect(
                (f"::ffff:{host}" if source.family == socket.AF_INET6 and "." in host else host, to[1])
            )
        usual = observe_after(ring, sink, to, connected)
        assert observe_after(ring, sink, to, connected, tos=0xB9, ttl=7) == [(b"abc", 0xB9, 7)] * 3
        assert observe_after(ring, sink, to, connected, tos=3) == [(b"abc", 3, usual[0][2])] * 3
        assert observe_after(ring, sink, to, connected, ttl=255) == [(b"abc", usual[0][1], 255)] * 3
        assert observe_after(ring, sink, to, connected) == usual  # the options hold for one call only
        assert usual[0][1] == 0
        assert ring.stats["trains"] == 5


def observe_after(
    ring: SendRing, sink: socket.socket, to: tuple[str, int], connected: bool, **options: int
) -> list[tuple[bytes, int, int]]:
    assert ring.send_batch([b"abc"] * 3, None if connected else to, **options).accepted == 3  # type: ignore[arg-type]
    return [(data, tos, ttl) for data, _, tos, ttl in (observe(sink) for _ in range(3))]


def test_tos_0_overrides_that_of_the_socket(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket()
    sink.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    source.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x20)
    with SendRing(source, tier=tier) as ring:
        for tos, seen in ((None, 0x20), (0, 0), (1, 1)):
            assert ring.send_batch([b"x"], sink.getsockname(), tos=tos).accepted == 1
            assert observe(sink)[2] == seen


def test_the_source_of_a_call(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(host="0.0.0.0"), make_socket()
    with SendRing(source, tier=tier) as ring:
        for chosen in ("127.0.0.1", "127.9.8.7", "127.0.0.2"):
            assert ring.send_batch([b"a", b"b", b"cc"], sink.getsockname(), source=chosen).accepted == 3
            assert [observe(sink)[:2] for _ in range(3)] == [(p, chosen) for p in (b"a", b"b", b"cc")]
        assert ring.submit([b"d"], sink.getsockname(), source="127.1.1.1").report.accepted == 1
        assert observe(sink)[:2] == (b"d", "127.1.1.1")
        assert ring.send_batch([b"e"], sink.getsockname(), interface_index=LOOPBACK).accepted == 1
        assert observe(sink)[:2] == (b"e", "127.0.0.1")


def test_the_source_from_a_dual_stack_socket(tier: str, make_socket: Make) -> None:
    source, four, six = make_socket(socket.AF_INET6, "::"), make_socket(), make_socket(socket.AF_INET6)
    with SendRing(source, tier=tier) as ring:
        assert ring.send_batch([b"four"], four.getsockname(), source="127.3.3.3").accepted == 1
        assert observe(four)[:2] == (b"four", "127.3.3.3")
        assert ring.send_batch([b"six"], six.getsockname(), source="::1").accepted == 1
        assert observe(six)[:2] == (b"six", "::1")
        report = ring.send_batch([b"a", b"b"], [four.getsockname(), six.getsockname()], source="::1")
        assert report.accepted == 1
        assert [(i, error.errno) for i, error in report.errors] == [(0, errno.EAFNOSUPPORT)]
        assert observe(six)[:2] == (b"b", "::1")


def test_foreign_source_is_an_error(tier: str, make_socket: Make) -> None:
    """No other address is used in its place."""
    source, sink = make_socket(host="0.0.0.0"), make_socket()
    with SendRing(source, tier=tier) as ring:
        for payloads in ([b"one"], [b"a train"] * 5):
            report = ring.send_batch(payloads, sink.getsockname(), source="192.0.2.77")
            assert report.accepted == 0
            assert [i for i, _ in report.errors] == list(range(len(payloads)))
            assert {error.errno for _, error in report.errors} <= {
                errno.EINVAL,
                errno.EADDRNOTAVAIL,
                errno.ENETUNREACH,
            }
        report = ring.send_batch([b"x"], sink.getsockname(), interface_index=1 << 30)
        assert report.accepted == 0
        assert ring.stats["source_dropped"] == 0
        assert ring.send_batch([b"good"] * 2, sink.getsockname()).accepted == 2
    assert [observe(sink)[0] for _ in range(2)] == [b"good"] * 2


def test_options_that_cannot_be_are_refused(tier: str, make_socket: Make) -> None:
    sink = make_socket()
    with SendRing(make_socket(), tier=tier) as ring:
        for wrong in ({"tos": 256}, {"tos": -1}, {"ttl": 0}, {"ttl": 256}, {"interface_index": -1}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                ring.send_batch([b"x"], sink.getsockname(), **wrong)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=next(iter(wrong))):
                ring.submit([b"x"], sink.getsockname(), **wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            ring.send_batch([b"x"], sink.getsockname(), source=7)  # type: ignore[arg-type]
        assert ring.send_batch([b"x"], sink.getsockname()).accepted == 1
    assert observe(sink)[0] == b"x"


def test_none_address_is_the_connected_peer(tier: str, make_socket: Make) -> None:
    source, peer, other = make_socket(), make_socket(), make_socket()
    with SendRing(source, tier=tier) as ring:
        report = ring.send_batch([b"a", b"b"], [None, other.getsockname()])
        assert [(i, error.errno) for i, error in report.errors] == [(0, errno.EDESTADDRREQ)]
        source.connect(peer.getsockname())
        addresses = udpring.AddressList([None, other.getsockname(), None, None])
        assert addresses[0] is None
        assert ring.send_batch([b"c", b"d", b"e", b"f"], addresses).accepted == 4
    assert [observe(other)[0] for _ in range(2)] == [b"b", b"d"]
    assert [observe(peer)[0] for _ in range(3)] == [b"c", b"e", b"f"]
