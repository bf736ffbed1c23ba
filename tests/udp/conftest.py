"""Fixtures for sockets on loopback, each tier and each address family."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from udpring.udp import TIERS, Packet, RecvRing

BOUND = 30.0  # seconds until something on loopback counts as lost


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make_socket() -> Iterator[Callable[..., socket.socket]]:
    """Makes UDP sockets bound to loopback or the given address. Closes them at the end."""
    made: list[socket.socket] = []

    def make(family: int = socket.AF_INET, host: str | None = None, port: int = 0) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        made.append(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if host is None:
            host = "127.0.0.1" if family == socket.AF_INET else "::1"
        sock.bind((host, port))
        return sock

    yield make
    for sock in made:
        sock.close()


class Pair:
    """A socket to send from and one to receive at. ``to`` is the second one's address for the first."""

    def __init__(self, source: socket.socket, sink: socket.socket, to: tuple[str, int], local: str) -> None:
        self.source, self.sink, self.to, self.local = source, sink, to, local

    @property
    def seen_source(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The source's address as the sink's ``recvfrom`` returns it."""
        if self.source.family == self.sink.family:
            return self.source.getsockname()
        host, port = self.source.getsockname()
        return (f"::ffff:{host}", port, 0, 0)


@pytest.fixture(params=["ipv4", "ipv6", "mapped"])
def pair(request: pytest.FixtureRequest, make_socket: Callable[..., socket.socket]) -> Pair:
    """Over IPv4, over IPv6, and IPv4 arriving on a dual-stack socket."""
    if request.param == "ipv4":
        sink = make_socket()
        return Pair(make_socket(), sink, sink.getsockname(), "127.0.0.1")
    if request.param == "ipv6":
        sink = make_socket(socket.AF_INET6)
        return Pair(make_socket(socket.AF_INET6), sink, sink.getsockname()[:2], "::1")
    sink = make_socket(socket.AF_INET6, "::")
    return Pair(make_socket(), sink, ("127.0.0.1", sink.getsockname()[1]), "::ffff:127.0.0.1")


@pytest.fixture
def pair4(make_socket: Callable[..., socket.socket]) -> Pair:
    sink = make_socket()
    return Pair(make_socket(), sink, sink.getsockname(), "127.0.0.1")


def take(ring: RecvRing, count: int, bound: float = BOUND) -> list[Packet]:
    """Receives ``count`` packets in any number of batches. Returns fewer when the time is up."""
    packets: list[Packet] = []
    give_up = time.monotonic() + bound
    while len(packets) < count and time.monotonic() < give_up:
        packets += ring.recv_batch(timeout=max(0.0, give_up - time.monotonic()))
    return packets


SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104


def send_train(sock: socket.socket, to: object, payload: bytes, size: int) -> None:
    """One UDP_SEGMENT train of datagrams of ``size``, the last may be shorter. Loopback keeps it whole."""
    sock.sendmsg([payload], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", size))], 0, to)


def cut(payload: bytes, size: int) -> list[bytes]:
    """The datagrams of that train."""
    return [payload[at : at + size] for at in range(0, len(payload), size)]
