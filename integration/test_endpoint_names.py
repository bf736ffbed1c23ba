"""A name that moves, or an endpoint that fails: an embedded node follows, and TCP in the tunnel goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import Node, Rig, Space, Tunnel, until
from lab.event_program import EventProgram
from lab.node import endpoint
from lab.traffic import TcpStream
from test_node_events import configuration
from test_roaming import readdress

NAME = "moving.example"
FOLLOWED_WITHIN = 10.0
"""Seconds from the first lost packet until the peer is at its new address, as docs/node.md promises."""


class NamedSpace(Space):
    """Runs programs with an /etc/hosts of their own, which the test may change."""

    def __init__(self, space: Space, hosts: Path) -> None:
        super().__init__(space.name, space.ipv4s, space.ipv6s)
        self._hosts = hosts

    def argv(self, *command: str) -> list[str]:
        bind = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return super().argv("unshare", "--mount", "sh", "-c", bind, str(self._hosts), *command)


def write(hosts: Path, *addresses: str) -> None:
    """In place: the bound file is this one."""
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{each} {NAME}\n" for each in addresses))


def admit_only_answers(node: Node) -> None:
    """As a stateful firewall does: the far end cannot tell by itself where it is now."""
    node.space.nft(
        "table inet stateful { chain arrives { type filter hook input priority filter; policy accept; }; }\n"
        f"add rule inet stateful arrives udp dport {node.port} ct state new counter drop"
    )


@contextmanager
def followed_in_time(program: EventProgram) -> Iterator[None]:
    """The body makes the peer unreachable and expects the events up to the new session. Time in which the
    machine did not run the program does not count."""
    late, began = program.lateness(), time.monotonic()
    yield
    took = program.at - began
    late = program.lateness() - late
    print(f"followed {took:.2f} s after the first lost packet; the machine was {late:.2f} s late")
    assert 0 < took - late <= FOLLOWED_WITHIN


@pytest.fixture
def tunnel(rig: Rig) -> Tunnel:
    """The test embeds node a. b does not know where a is."""
    made = rig.tunnel(start=False)
    made.b.start()
    return made


@pytest.mark.parametrize(("family", "loop"), [(4, "asyncio"), (6, "uvloop")])
def test_tcp_goes_on_when_the_name_moves(
    rig: Rig, tunnel: Tunnel, tmp_path: Path, family: int, loop: str
) -> None:
    a, b = tunnel.a, tunnel.b
    hosts = tmp_path / "hosts"
    write(hosts, b.space.address(family))
    a.peers[0].endpoint = f"{NAME}:{b.port}"
    admit_only_answers(a)
    program = EventProgram(NamedSpace(a.space, hosts), a.interface, configuration(a), loop)
    rig.later(program.close)
    stream = TcpStream(a.space, b.space, b.inner4, rate=400_000)
    until(lambda: stream.received_bytes > 50_000, "the stream flows")
    assert program.expect("PeerUp")["endpoint"] == [b.space.address(family), b.port]
    with followed_in_time(program):
        write(hosts, readdress(b, family))
        failed_over = program.expect("EndpointFailedOver", public_key=b.public_key)
        assert failed_over["endpoint"] == {"host": NAME, "port": b.port}
        program.expect("HandshakeCompleted")
    before = stream.received_bytes
    until(lambda: stream.received_bytes > before + 50_000, "the stream goes on")
    stream.finish()


@pytest.mark.parametrize(("first", "second", "loop"), [(4, 6, "uvloop"), (6, 4, "asyncio")])
def test_tcp_goes_on_at_the_second_endpoint(
    rig: Rig, tunnel: Tunnel, first: int, second: int, loop: str
) -> None:
    a, b = tunnel.a, tunnel.b
    a.peers[0].endpoint = f"{b.outer(first)}\nEndpoint = {b.outer(second)}"
    admit_only_answers(a)
    program = EventProgram(a.space, a.interface, configuration(a), loop)
    rig.later(program.close)
    stream = TcpStream(a.space, b.space, b.inner4, rate=400_000)
    until(lambda: stream.received_bytes > 50_000, "the stream flows")
    assert program.expect("PeerUp")["endpoint"] == [b.space.address(first), b.port]
    with followed_in_time(program):
        readdress(b, first)
        assert program.expect("EndpointFailedOver")["endpoint"]["host"] == b.space.address(second)
        program.expect("HandshakeCompleted")
    before = stream.received_bytes
    until(lambda: stream.received_bytes > before + 50_000, "the stream goes on")
    stream.finish()


@pytest.mark.parametrize(("change", "family"), [("address", 4), ("address", 6), ("route", 4)])
def test_network_change_looks_names_up_again(
    rig: Rig, tunnel: Tunnel, tmp_path: Path, change: str, family: int
) -> None:
    """Nothing is sent, and the node sets no address itself, so nothing else could tell it."""
    a, b = tunnel.a, tunnel.b
    hosts = tmp_path / "hosts"
    nobody = "10.99.0.99" if family == 4 else "fd99::99"
    write(hosts, nobody)
    a.peers[0].endpoint = f"{NAME}:{b.port}"
    program = EventProgram(NamedSpace(a.space, hosts), a.interface, configuration(a))
    rig.later(program.close)
    until(
        lambda: f"endpoint={endpoint(nobody, b.port)}\n" in a.uapi_say("get=1\n\n"), "the name is looked up"
    )
    write(hosts, b.space.address(family))
    if change == "address":
        word, nodad = ("198.51.100.1/32", ()) if family == 4 else ("2001:db8::1/128", ("nodad",))
        a.space.ip("address", "add", word, "dev", "under", *nodad)
    else:
        a.space.ip("route", "add", "blackhole", f"{nobody}/32")
    moved = program.expect("EndpointFailedOver", public_key=b.public_key)
    assert moved["endpoint"] == {"host": NAME, "port": b.port}
    assert f"endpoint={b.outer(family)}\n" in a.uapi_say("get=1\n\n")
