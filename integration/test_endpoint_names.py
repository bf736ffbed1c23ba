"""A name that moves, or an endpoint that fails: an embedded node follows, and TCP in the tunnel goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Node, Rig, Space, Tunnel, until
from lab.event_program import EventProgram
from lab.traffic import TcpStream
from test_node_events import configuration
from test_roaming import readdress

NAME = "moving.example"


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
    readdress(b, first)
    assert program.expect("EndpointFailedOver")["endpoint"]["host"] == b.space.address(second)
    program.expect("HandshakeCompleted")
    before = stream.received_bytes
    until(lambda: stream.received_bytes > before + 50_000, "the stream goes on")
    stream.finish()
