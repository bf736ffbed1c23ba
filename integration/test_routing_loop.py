"""Routes to an endpoint that lead into the tunnel itself."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from socket import AF_NETLINK

import pytest
import seccomp
from lab import SUBJECT, Node, Peer, Rig, Space, Tunnel, until
from lab.counters import drops, watched
from lab.node import endpoint
from lab.traffic import ping, unreached

BOUND = 70_000
"""Bytes that a loop may send: the bound of the kernel's self-test."""


def far_end(
    rig: Rig, tmp_path: Path, family: int, *, workers: int = 1, launcher: tuple[str, ...] = ()
) -> Tunnel:
    """a reaches b's endpoint, an address behind b's link, by a default route. a's counters are readable."""
    program = watched(tmp_path).with_env(UDPRING_WORKERS=str(workers))
    program = dataclasses.replace(program, argv=(*launcher, *program.argv))
    tunnel = rig.tunnel((program, SUBJECT), family=family, start=False)
    a, b = tunnel.a, tunnel.b
    far, bits = ("10.66.0.1", "32") if family == 4 else ("fd66::1", "128")
    b.space.ip("addr", "add", f"{far}/{bits}", "dev", "lo")
    b.space.wait_for_address(far)
    a.space.ip(f"-{family}", "route", "add", "default", "via", b.space.address(family))
    a.peers[0].endpoint = endpoint(far, b.port)
    a.peers[0].allowed_ips = ["0.0.0.0/0", "::/0"]
    b.start()
    a.start()
    tunnel.ping()
    return tunnel


def silence(node: Node) -> None:
    """None of it leaves: an initiation of its own, after 15 s, would move its endpoint and end the loop."""
    node.space.nft(
        "table inet quiet { chain leaves { type filter hook output priority filter; policy accept; "
        "meta l4proto udp drop; }; }"
    )


def halves(family: int) -> tuple[str, str]:
    return ("0.0.0.0/1", "128.0.0.0/1") if family == 4 else ("::/1", "8000::/1")


@pytest.mark.parametrize(
    ("family", "workers"), [(4, 1), (6, 1), (4, 2)], ids=["ipv4", "ipv6", "ipv4-workers"]
)
def test_route_into_the_tunnel_is_dropped_and_logged(
    rig: Rig, tmp_path: Path, family: int, workers: int
) -> None:
    """It is logged once."""
    tunnel = far_end(rig, tmp_path, family, workers=workers)
    a, b = tunnel.a, tunnel.b
    inner = b.inner4 if family == 4 else b.inner6
    silence(b)
    before = a.status(b).sent
    for half in halves(family):
        a.space.ip(f"-{family}", "route", "add", half, "dev", a.interface)
    # The way back leads through the tunnel too. Nothing may multiply.
    a.space.run("ping", "-n", "-i", "0.05", "-c", "20", "-W", "1", inner, check=False)
    until(lambda: drops(a)["routing_loop"] >= 10, "the packets are dropped, for this reason")
    assert a.status(b).sent - before < BOUND
    until(lambda: "leads into this tunnel" in a.log_text(), "it is logged")
    a.space.run("ping", "-n", "-i", "0.05", "-c", "20", "-W", "1", inner, check=False)
    assert a.log_text().count("leads into this tunnel") == 1
    doctor = a.space.run(
        sys.executable, "-P", "-m", "udpring.cli.main", "doctor", check=False, timeout=120
    ).stdout
    assert f"LOOP: {a.interface}, " in doctor
    # Another route to the endpoint ends it.
    far, bits = ("10.66.0.1", "32") if family == 4 else ("fd66::1", "128")
    a.space.ip(f"-{family}", "route", "add", f"{far}/{bits}", "via", b.space.address(family))
    b.space.nft("delete table inet quiet")
    ping(a.space, inner)
    until(lambda: "loop no longer" in a.log_text(), "its end is logged")


NO_NETLINK = (sys.executable, seccomp.__file__, f"socket=EAFNOSUPPORT:0=={AF_NETLINK}", "--")
"""Without rtnetlink nothing watches the routes, as while the thread that does waits for a CPU."""


@pytest.mark.parametrize(
    ("family", "workers", "size"),
    [(4, 1, 56), (6, 1, 1392), (4, 2, 1392)],
    ids=["ipv4", "ipv6-fragments", "ipv4-workers-fragments"],
)
def test_loop_is_bounded_while_nobody_watches_routes(
    rig: Rig, tmp_path: Path, family: int, workers: int, size: int
) -> None:
    tunnel = far_end(rig, tmp_path, family, workers=workers, launcher=NO_NETLINK)
    a, b = tunnel.a, tunnel.b
    inner = b.inner4 if family == 4 else b.inner6
    silence(b)
    before = a.status(b).sent
    for half in halves(family):
        a.space.ip(f"-{family}", "route", "add", half, "dev", a.interface)
    a.space.run("ping", "-n", "-i", "0.02", "-c", "10", "-s", str(size), "-W", "1", inner, check=False)
    until(lambda: drops(a)["routing_loop"] >= 10, "the packets are dropped, for this reason")
    assert a.status(b).sent - before < BOUND
    until(lambda: "leads into this tunnel" in a.log_text(), "it is logged")
    assert a.log_text().count("leads into this tunnel") == 1
    # Another route to the endpoint ends it.
    far, bits = ("10.66.0.1", "32") if family == 4 else ("fd66::1", "128")
    a.space.ip(f"-{family}", "route", "add", f"{far}/{bits}", "via", b.space.address(family))
    b.space.nft("delete table inet quiet")
    ping(a.space, inner)


def test_endpoint_set_into_the_tunnel_sends_nothing(rig: Rig, tmp_path: Path) -> None:
    """The routes exist first. The endpoint comes later."""
    tunnel = far_end(rig, tmp_path, 4)
    a, b = tunnel.a, tunnel.b
    a.space.ip("route", "add", "10.77.0.0/16", "dev", a.interface)
    silence(b)
    before = a.status(b).sent
    a.set_peer(b, "endpoint", "10.77.0.1:51820")
    assert unreached(a.space, b.inner4)
    until(lambda: drops(a)["routing_loop"] > 0, "it is dropped for this reason")
    assert a.status(b).sent == before
    b.space.nft("delete table inet quiet")
    a.set_peer(b, "endpoint", endpoint("10.66.0.1", b.port))
    ping(a.space, b.inner4, deadline=12)


def test_link_local_endpoint_of_the_interface_itself_loops(rig: Rig, tmp_path: Path) -> None:
    """The scope of the endpoint names its interface, without a look-up."""
    tunnel = far_end(rig, tmp_path, 6)
    a, b = tunnel.a, tunnel.b
    a.space.ip("addr", "add", "fe80::1/64", "dev", a.interface, "nodad")
    a.space.wait_for_address("fe80::1")
    silence(b)
    before = a.status(b).sent
    a.set_peer(b, "endpoint", f"[fe80::77%{a.interface}]:51820")
    assert unreached(a.space, b.inner6)
    until(lambda: drops(a)["routing_loop"] > 0, "it is dropped for this reason")
    assert a.status(b).sent - before < BOUND


def test_mark_with_a_rule_is_no_loop(rig: Rig, tmp_path: Path) -> None:
    """As with wg-quick: marked packets use the main table, all others the tunnel."""
    tunnel = far_end(rig, tmp_path, 4)
    a, b = tunnel.a, tunnel.b
    a.wg("set", a.interface, "fwmark", "51")
    a.space.ip("route", "add", "default", "dev", a.interface, "table", "51")
    a.space.ip("rule", "add", "not", "fwmark", "51", "table", "51")
    a.space.ip("rule", "add", "table", "main", "suppress_prefixlength", "0")
    tunnel.ping()
    assert drops(a)["routing_loop"] == 0
    a.wg("set", a.interface, "fwmark", "0")
    assert unreached(a.space, b.inner4)
    until(lambda: drops(a)["routing_loop"] > 0, "without the mark it is one")
    a.wg("set", a.interface, "fwmark", "51")
    ping(a.space, b.inner4, deadline=12)


def _second_peer(tunnel: Tunnel, rig: Rig) -> Node:
    """A second node next to b that a reaches at b's inner address: through the tunnel."""
    a, b = tunnel.a, tunnel.b
    inside = rig.node(b.space, inner=["10.150.0.2/24", "fd50::2/64"], port=52000)
    inside.peers.append(Peer(a, ["10.150.0.1/32"]))
    inside.start()
    a.space.ip("addr", "add", "10.150.0.1/24", "dev", a.interface)
    a.wg(
        "set", a.interface, "peer", inside.public_key,
        "allowed-ips", "10.150.0.2/32", "endpoint", f"{b.inner4}:52000",
    )  # fmt: skip
    return inside


def test_onion_routing_is_no_loop(rig: Rig, tmp_path: Path) -> None:
    """A peer whose endpoint is reached through another peer of the same interface."""
    tunnel = rig.tunnel((watched(tmp_path), SUBJECT))
    tunnel.ping()
    a = tunnel.a
    inside = _second_peer(tunnel, rig)
    ping(a.space, inside.inner4)
    assert drops(a)["routing_loop"] == 0
    # And an endpoint that is reached through its own peer.
    a.set_peer(inside, "endpoint", "10.150.0.2:52000")
    assert unreached(a.space, inside.inner4)
    until(lambda: drops(a)["routing_loop"] > 0, "it is dropped for this reason")
    tunnel.ping()


def _move(node: Node, target: Space) -> None:
    node.space.ip("link", "set", node.interface, "netns", target.name)


def test_interface_in_another_namespace_is_no_loop(rig: Rig, tmp_path: Path) -> None:
    """An uplink may have the interface number that the tunnel has in its own namespace."""
    tunnel = rig.tunnel((watched(tmp_path), SUBJECT), start=False)
    a, b = tunnel.a, tunnel.b
    inside = rig.topology("two-nodes")["a"]
    a.spawn()
    a.configure()
    _move(a, inside)
    moved = Space(inside.name)
    number = moved.run("cat", f"/sys/class/net/{a.interface}/ifindex", check=False).stdout.strip()
    number = number or moved.ip("-o", "link", "show", a.interface).partition(":")[0]
    # The same number for a second path to b, which is then the only one.
    a.space.ip(
        "link", "add", "under8", "index", number, "type", "veth", "peer", "under8", "netns", b.space.name
    )
    for space, last in ((a.space, 1), (b.space, 2)):
        space.ip("addr", "add", f"10.88.0.{last}/24", "dev", "under8")
        space.ip("link", "set", "under8", "up")
    home, a.space = a.space, moved
    a.bring_up()
    b.start()
    a.wg("set", a.interface, "peer", b.public_key, "endpoint", f"10.88.0.2:{b.port}")
    ping(moved, b.inner4)
    assert drops(a)["routing_loop"] == 0
    assert home.ip("-o", "link", "show", "under8").startswith(f"{number}:")
