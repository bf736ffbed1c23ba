"""An end that moves to a new port or address under traffic. The other end follows, and TCP continues."""

from __future__ import annotations

import pytest
from lab import GO, SUBJECT, Node, Program, Rig, Tunnel, until
from lab.node import endpoint
from lab.traffic import TcpStream, ping

PAIRS = [
    pytest.param((SUBJECT, GO), id="subject-initiates"),
    pytest.param((GO, SUBJECT), id="subject-responds"),
]
MOVERS = [pytest.param("a", id="initiator-moves"), pytest.param("b", id="responder-moves")]
Programs = tuple[Program, Program]


@pytest.mark.parametrize("mover", MOVERS)
@pytest.mark.parametrize("programs", PAIRS)
def test_new_port(rig: Rig, programs: Programs, mover: str) -> None:
    new_port_is_followed(rig.tunnel(programs), mover)


def new_port_is_followed(tunnel: Tunnel, mover: str) -> None:
    """One end changes its port under TCP in both directions. The other follows, and the session stays."""
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    shook = a.status(b).handshake
    moves, stays = (a, b) if mover == "a" else (b, a)
    streams = [
        TcpStream(moves.space, stays.space, stays.inner4, rate=400_000),
        TcpStream(stays.space, moves.space, moves.inner6, rate=400_000),
    ]
    until(lambda: all(stream.received_bytes > 50_000 for stream in streams), "the streams flow")
    moves.port = 40000
    moves.wg("set", moves.interface, "listen-port", "40000")
    until(lambda: stays.status(moves).endpoint == moves.outer(4), "the other end follows to the new port")
    for stream in streams:
        stream.finish()
    assert a.status(b).handshake == shook, "a port change must keep the session"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mover", MOVERS)
@pytest.mark.parametrize("programs", PAIRS)
def test_new_address(rig: Rig, programs: Programs, mover: str, family: int) -> None:
    new_address_is_followed(rig.tunnel(programs, family=family), mover, family)


def new_address_is_followed(tunnel: Tunnel, mover: str, family: int) -> None:
    """The old address is removed while packets are sent from it. The other end follows, and TCP continues."""
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    moves, stays = (a, b) if mover == "a" else (b, a)
    stream = TcpStream(moves.space, stays.space, stays.inner4, rate=400_000)
    until(lambda: stream.received_bytes > 50_000, "the stream flows")
    new = readdress(moves, family)
    if moves.program.name == GO.name and family == 4:
        # wireguard-go of 2022 drops a removed source only on EINVAL. Recent kernels return ENETUNREACH for
        # IPv4.
        moves.set_peer(stays, "endpoint", stays.outer(4))
    until(lambda: stays.status(moves).endpoint == endpoint(new, moves.port), "the other end follows")
    stream.finish()
    ping(stays.space, moves.inner4)


def readdress(node: Node, family: int) -> str:
    """Replaces the node's address by another one. Returns it."""
    space = node.space
    if family == 4:
        old, new = f"{space.ipv4}/24", "10.99.0.77"
        # With another prefix length, it is no secondary address of the old one, which would be removed with
        # it.
        space.ip("addr", "add", f"{new}/16", "dev", "under")
    else:
        old, new = f"{space.ipv6}/64", "fd99::77"
        space.ip("addr", "add", f"{new}/64", "dev", "under", "nodad")
    space.ip("addr", "del", old, "dev", "under")
    return new


@pytest.mark.parametrize("programs", PAIRS)
def test_replies_come_from_the_address_that_was_addressed(rig: Rig, programs: Programs) -> None:
    """A responder with several addresses answers from the one that its peer uses."""
    tunnel = rig.tunnel(programs, start=False)
    a, b = tunnel.a, tunnel.b
    b.space.ip("addr", "add", "10.99.0.50/24", "dev", "under")
    a.peers[0].endpoint = f"10.99.0.50:{b.port}"
    # Packets from b's first address do not reach a, as with a NAT on the path.
    a.space.nft(
        "table inet strict { chain arrives { type filter hook input priority filter; policy accept; }; }\n"
        "add rule inet strict arrives ip saddr 10.99.0.2 udp dport 51820 counter drop"
    )
    a.start()
    b.start()
    tunnel.ping()
    tunnel.tcp_both_ways(1 << 20)
    assert a.status(b).endpoint == f"10.99.0.50:{b.port}"


@pytest.mark.parametrize("programs", PAIRS)
def test_moves_from_ipv4_to_ipv6(rig: Rig, programs: Programs) -> None:
    """One path fails. With the other endpoint set, the tunnel uses it, and the far end follows."""
    tunnel = rig.tunnel(programs, topology=rig.topology("dual-stack"))
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    shook = a.status(b).handshake
    stream = TcpStream(a.space, b.space, b.inner4, rate=400_000)
    until(lambda: stream.received_bytes > 50_000, "the stream flows")
    tunnel.topology.set("ipv4", "down")
    a.set_peer(b, "endpoint", b.outer(6))
    until(lambda: b.status(a).endpoint == a.outer(6), "the far end follows to IPv6")
    stream.finish()
    assert a.status(b).handshake == shook
