"""Route changes under a live tunnel: packets follow the routes, from a suitable address.

The rule is that of the kernel's WireGuard: packets leave from the address on which the peer was heard, as
long as the route from there uses the interface on which it was heard. The scenarios are those of the kernel's
self-test (sticky sources, replaced and foreign addresses, a better route) and of hosts with two links.
"""

from __future__ import annotations

import pytest
from lab import GO, SUBJECT, Program, Rig, Tunnel, until
from lab.node import endpoint
from lab.traffic import ping
from seccomp import Rule, launcher

WORKERS = SUBJECT.with_env(UDPRING_WORKERS="2")
FOLLOWS = 12
"""Seconds until a tunnel must continue by another route. Without route notices it took 15 and more."""


def uplinks(
    rig: Rig, programs: tuple[Program, Program], *options: str, family: int = 4, start: bool = True
) -> Tunnel:
    """a and b of two-uplinks; a knows b by b's first address."""
    return rig.tunnel(programs, topology=rig.topology("two-uplinks", *options), family=family, start=start)


def address(tunnel: Tunnel, name: str, number: int, family: int) -> str:
    space = tunnel.topology[name]
    return (space.ipv4s if family == 4 else space.ipv6s)[number]


def gateway(network: int, family: int) -> str:
    return f"10.{network}.0.1" if family == 4 else f"fd{network}::1"


def goes_on(tunnel: Tunnel) -> None:
    ping(tunnel.a.space, tunnel.b.inner4, deadline=FOLLOWS)


def sees(tunnel: Tunnel, address: str) -> None:
    """Waits until b has a at this address."""
    wanted = endpoint(address, tunnel.a.port)
    until(lambda: tunnel.b.status(tunnel.a).endpoint == wanted, f"b sees a at {wanted}")


@pytest.mark.parametrize(
    ("family", "strictness", "programs"),
    [
        pytest.param(4, 0, (SUBJECT, GO), id="ipv4"),
        pytest.param(4, 1, (SUBJECT, GO), id="ipv4-strict"),
        pytest.param(4, 2, (WORKERS, SUBJECT), id="ipv4-loose-workers"),
        pytest.param(6, 0, (SUBJECT, GO), id="ipv6"),
        pytest.param(6, 1, (WORKERS, SUBJECT), id="ipv6-strict-workers"),
    ],
)
def test_default_route_moves(
    rig: Rig, family: int, strictness: int, programs: tuple[Program, Program]
) -> None:
    tunnel = uplinks(rig, programs, "--rp-filter", str(strictness), family=family)
    tunnel.ping()
    sees(tunnel, address(tunnel, "a", 0, family))
    tunnel.a.space.ip(f"-{family}", "route", "del", "default", "dev", "under0")
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 1, family))


@pytest.mark.parametrize("family", [4, 6])
def test_better_route_is_taken(rig: Rig, family: int) -> None:
    tunnel = uplinks(rig, (SUBJECT, GO), family=family)
    tunnel.ping()
    sees(tunnel, address(tunnel, "a", 0, family))
    tunnel.a.space.ip(
        f"-{family}", "route", "add", "default", "via", gateway(92, family), "dev", "under1", "metric", "10"
    )
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 1, family))
    tunnel.a.space.ip(f"-{family}", "route", "del", "default", "dev", "under1", "metric", "10")
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 0, family))


@pytest.mark.parametrize("family", [4, 6])
def test_new_fwmark_takes_its_own_table(rig: Rig, family: int) -> None:
    tunnel = uplinks(rig, (SUBJECT, SUBJECT), family=family)
    a = tunnel.a
    a.space.ip(
        f"-{family}", "route", "add", "default", "via", gateway(92, family), "dev", "under1", "table", "7"
    )
    a.space.ip(f"-{family}", "rule", "add", "fwmark", "7", "table", "7")
    tunnel.ping()
    sees(tunnel, address(tunnel, "a", 0, family))
    a.wg("set", a.interface, "fwmark", "7")
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 1, family))
    a.wg("set", a.interface, "fwmark", "0")
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 0, family))


@pytest.mark.parametrize("family", [4, 6])
def test_new_policy_rule_is_followed(rig: Rig, family: int) -> None:
    """The main table stays unchanged. A rule sends one address by another table."""
    tunnel = uplinks(rig, (WORKERS, SUBJECT), family=family)
    a, there = tunnel.a, address(tunnel, "b", 0, family)
    tunnel.ping()
    a.space.ip(
        f"-{family}", "route", "add", "default", "via", gateway(92, family), "dev", "under1", "table", "8"
    )
    a.space.ip(f"-{family}", "rule", "add", "to", there, "table", "8")
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 1, family))


@pytest.mark.parametrize("family", [4, 6])
def test_second_address_answers_by_the_default_route(rig: Rig, family: int) -> None:
    """b's peer uses its address on a link that none of its routes uses. A strict router on the other link
    would drop an answer from there, and the client is no neighbour on this one."""
    tunnel = uplinks(rig, (SUBJECT, SUBJECT), "--rp-filter", "1", family=family, start=False)
    a, b = tunnel.a, tunnel.b
    b.space.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.under1.rp_filter=0")
    a.peers[0].endpoint = endpoint(address(tunnel, "b", 1, family), b.port)
    a.start()
    b.start()
    tunnel.ping()
    assert a.status(b).endpoint == endpoint(address(tunnel, "b", 0, family), b.port)
    neighbours = b.space.ip("neigh", "show", "dev", "under1")
    assert address(tunnel, "a", 0, family) not in neighbours, "b takes a far client for a neighbour"


@pytest.mark.parametrize("family", [4, 6])
def test_second_address_with_a_table_of_its_own(rig: Rig, family: int) -> None:
    """If a rule routes packets from an address over its own link, b answers from that address."""
    tunnel = uplinks(rig, (GO, SUBJECT), "--rp-filter", "1", family=family, start=False)
    a, b = tunnel.a, tunnel.b
    second = address(tunnel, "b", 1, family)
    b.space.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.under1.rp_filter=0")
    b.space.ip(
        f"-{family}", "route", "add", "default", "via", gateway(94, family), "dev", "under1", "table", "94"
    )
    b.space.ip(f"-{family}", "rule", "add", "from", second, "table", "94")
    a.peers[0].endpoint = endpoint(second, b.port)
    a.start()
    b.start()
    tunnel.ping()
    assert a.status(b).endpoint == endpoint(second, b.port)


@pytest.mark.parametrize("family", [4, 6])
def test_replaced_address_is_not_kept(rig: Rig, family: int) -> None:
    """a's address is replaced by another one on the same link and in the same network."""
    tunnel = uplinks(rig, (SUBJECT, GO), family=family)
    space = tunnel.a.space
    tunnel.ping()
    old, new = ("10.91.0.2/24", "10.91.0.10/24") if family == 4 else ("fd91::2/64", "fd91::10/64")
    space.run("sysctl", "-qw", "net.ipv4.conf.under0.promote_secondaries=1")
    space.ip("addr", "add", new, "dev", "under0", *(["nodad"] if family == 6 else []))
    space.ip("addr", "del", old, "dev", "under0")
    goes_on(tunnel)
    sees(tunnel, new.partition("/")[0])


@pytest.mark.parametrize("family", [4, 6])
def test_source_sticks_to_the_address_that_was_addressed(rig: Rig, family: int) -> None:
    tunnel = rig.tunnel((SUBJECT, SUBJECT), family=family)
    a, b = tunnel.a, tunnel.b
    second = "10.99.0.50" if family == 4 else "fd99::50"
    bits = "24" if family == 4 else "64"
    b.space.ip("addr", "add", f"{second}/{bits}", "dev", "under", *(["nodad"] if family == 6 else []))
    b.space.wait_for_address(second)
    for target in (b.space.address(family), second, b.space.address(family)):
        a.set_peer(b, "endpoint", endpoint(target, b.port))
        tunnel.ping()
        assert a.status(b).endpoint == endpoint(target, b.port)


@pytest.mark.parametrize("family", [4, 6])
def test_foreign_address_of_another_interface_answers(rig: Rig, family: int) -> None:
    """The peer uses an address of another interface of b. The route back uses the link on which the packet
    arrived, so the address is kept."""
    tunnel = rig.tunnel((SUBJECT, SUBJECT), family=family)
    a, b = tunnel.a, tunnel.b
    foreign, network = ("10.50.0.1/24", "10.50.0.0/24") if family == 4 else ("fd50::1/64", "fd50::/64")
    b.space.ip("link", "add", "other", "type", "veth", "peer", "name", "under9")
    b.space.ip("link", "set", "under9", "up")
    b.space.ip("addr", "add", foreign, "dev", "other", *(["nodad"] if family == 6 else []))
    b.space.ip("link", "set", "other", "up")
    b.space.wait_for_address(foreign.partition("/")[0])
    a.space.ip(f"-{family}", "route", "add", network, "via", b.space.address(family))
    target = endpoint(foreign.partition("/")[0], b.port)
    a.set_peer(b, "endpoint", target)
    tunnel.ping()
    assert a.status(b).endpoint == target


def test_no_route_then_one(rig: Rig) -> None:
    """Nothing can leave. When a route appears, staged packets leave."""
    tunnel = uplinks(rig, (SUBJECT, SUBJECT), start=False)
    a = tunnel.a
    for link in ("under0", "under1"):
        a.space.ip("route", "del", "default", "dev", link)
    a.start()
    tunnel.b.start()
    assert a.space.run("ping", "-n", "-c", "1", "-W", "1", tunnel.b.inner4, check=False).returncode == 1
    a.space.ip("route", "add", "default", "via", gateway(92, 4), "dev", "under1")
    goes_on(tunnel)
    sees(tunnel, address(tunnel, "a", 1, 4))


def test_without_rtnetlink_a_tunnel_works_and_says_so(rig: Rig) -> None:
    denied = launcher(Rule("socket", 1, ((0, "==", 16),)))
    program = Program("udpring", (*denied, *SUBJECT.argv))
    tunnel = uplinks(rig, (program, SUBJECT), start=False)
    tunnel.a.start()
    tunnel.b.start()
    tunnel.ping()
    until(lambda: "route changes are not followed at once" in tunnel.a.log_text(), "it says so")
    assert "AF_NETLINK" in tunnel.a.log_text()
