"""Narrow, lossy and double paths, and paths over a hub."""

from __future__ import annotations

import pytest
from lab import GO, SUBJECT, Node, Peer, Program, Rig
from lab.traffic import datagrams, ping, tcp

PAIRS = [
    pytest.param((SUBJECT, GO), id="subject-initiates"),
    pytest.param((GO, SUBJECT), id="subject-responds"),
    pytest.param((SUBJECT, SUBJECT), id="subject-both"),
]
Programs = tuple[Program, Program]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("programs", PAIRS)
def test_narrow_path(rig: Rig, programs: Programs, family: int) -> None:
    """Outer packets of 1480 bytes do not fit the leg of 1280. They must be fragmented, not lost."""
    tunnel = rig.tunnel(programs, topology=rig.topology("narrow-mtu"), family=family)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    tcp(a.space, b.space, b.inner4, 1 << 20)
    tcp(b.space, a.space, a.inner6, 1 << 20)
    datagrams(a.space, b.space, a.inner4, b.inner4, [1000, 1180, 1220, 1300, 1392, 5000], tries=4)


@pytest.mark.parametrize("programs", PAIRS)
def test_lossy_path(rig: Rig, programs: Programs) -> None:
    """5 % loss in each direction: the handshake is repeated until it works, and TCP arrives complete."""
    tunnel = rig.tunnel(programs, topology=rig.topology("lossy", "--loss", "5"))
    a, b = tunnel.a, tunnel.b
    ping(a.space, b.inner4, deadline=60)
    tcp(a.space, b.space, b.inner4, 1 << 20, timeout=60)
    tcp(b.space, a.space, a.inner6, 1 << 20, timeout=60)
    assert tunnel.topology["r"].nft_counter("loss", "lost") > 10, (
        "the path lost nothing: the test proves nothing"
    )


def _hub(rig: Rig, hub: Program, spokes: list[Program]) -> list[Node]:
    """The hub's node and one per spoke. A spoke sends the whole inner network to the hub."""
    topology = rig.topology("hub-and-spokes", "--spokes", str(len(spokes)))
    centre = rig.node(topology["hub"], hub, inner=["10.100.0.254/24", "fd10::254/64"])
    nodes = [centre]
    for number, program in enumerate(spokes, 1):
        spoke = rig.node(
            topology[f"s{number}"], program, inner=[f"10.100.0.{number}/24", f"fd10::{number}/64"]
        )
        spoke.peers.append(
            Peer(
                centre, ["10.100.0.0/24", "fd10::/64"], endpoint=f"{topology['hub'].ipv4s[number - 1]}:51820"
            )
        )
        centre.peers.append(Peer(spoke, [f"{spoke.inner4}/32", f"{spoke.inner6}/128"]))
        nodes.append(spoke)
    for node in nodes:
        node.start()
    return nodes


@pytest.mark.parametrize(
    ("hub", "spokes"),
    [
        pytest.param(SUBJECT, [GO, SUBJECT, GO], id="subject-is-hub"),
        pytest.param(GO, [SUBJECT, GO, SUBJECT], id="subject-is-spoke"),
    ],
)
def test_hub_and_spokes(rig: Rig, hub: Program, spokes: list[Program]) -> None:
    centre, *ends = _hub(rig, hub, spokes)
    # The hub learns a spoke's address from its first packet.
    for end in ends:
        ping(end.space, centre.inner4)
        ping(end.space, centre.inner6)
    first, second, third = ends
    for here, there in ((first, second), (second, third), (third, first)):
        ping(here.space, there.inner4)
        ping(here.space, there.inner6)
    tcp(first.space, second.space, second.inner4, 1 << 20)
    tcp(third.space, first.space, first.inner6, 1 << 20)
    for end in ends:
        status = centre.status(end)
        assert status.received > 1000
        assert status.sent > 1000


def test_a_spoke_cannot_speak_for_another(rig: Rig) -> None:
    """The hub's allowed IPs: a packet from spoke 1 with the address of spoke 2 is dropped."""
    centre, first, second = _hub(rig, SUBJECT, [GO, GO])
    for end in (first, second):
        ping(end.space, centre.inner4)
    first.space.ip("addr", "add", f"{second.inner4}/32", "dev", first.interface)
    done = first.space.run(
        "ping", "-n", "-I", second.inner4, "-i", "0.2", "-c", "5", "-w", "2", centre.inner4, check=False
    )
    assert done.returncode == 1, "a spoofed inner source was answered"
    centre.space.nft(
        "table inet watch { counter spoofed {}; "
        "chain arrives { type filter hook prerouting priority raw; policy accept; }; }\n"
        f"add rule inet watch arrives iifname {centre.interface} ip saddr {second.inner4} "
        "counter name spoofed"
    )
    first.space.run(
        "ping", "-n", "-I", second.inner4, "-c", "3", "-i", "0.2", "-w", "1", centre.inner4, check=False
    )
    assert centre.space.nft_counter("watch", "spoofed") == 0
    ping(second.space, centre.inner4)
    assert centre.space.nft_counter("watch", "spoofed") > 0


@pytest.mark.parametrize("programs", PAIRS[:2])
def test_dual_stack(rig: Rig, programs: Programs) -> None:
    """One pair of nodes with a tunnel over each of two paths. Cutting one leaves the other alone."""
    topology = rig.topology("dual-stack")
    four = rig.tunnel(programs, topology=topology, family=4)
    six = rig.tunnel(programs, topology=topology, family=6, start=False)
    for end in (six.a, six.b):
        end.port += 100
    six.a.peers[0].endpoint = six.b.outer(6)
    six.a.start()
    six.b.start()
    four.ping()
    six.ping()
    topology.set("ipv6", "down")
    four.ping()
    done = six.a.space.run("ping", "-n", "-i", "0.2", "-w", "1", six.b.inner4, check=False)
    assert done.returncode == 1
    topology.set("ipv6", "up")
    six.ping()
