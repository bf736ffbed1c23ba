"""Links in a VRF: packets leave by the table of the VRF where the peer was heard.

Without VRFs in the kernel all tests are skipped. `scripts/vm` runs them under Debian's kernel.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab import SUBJECT, Node, Program, Rig, Tunnel, until
from lab.node import endpoint
from test_routes import FOLLOWS, WORKERS, address, gateway, uplinks

FAMILIES = pytest.mark.parametrize("family", [4, 6])
IN_VRF = Program("udpring", ("ip", "vrf", "exec", "red", *SUBJECT.argv))


@pytest.fixture(scope="module", autouse=True)
def _kernel_has_it() -> None:
    done = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "red", "type", "vrf", "table", "10"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this kernel has no VRF (CONFIG_NET_VRF): {done.stderr}")


def add_vrf(node: Node) -> None:
    """VRF red at the node, without a link. Sockets outside also receive packets that arrive in it."""
    node.space.run("sysctl", "-qw", "net.ipv4.udp_l3mdev_accept=1")
    node.space.ip("link", "add", "red", "type", "vrf", "table", "10")
    node.space.ip("link", "set", "red", "up")


def enslave(node: Node, link: str, network: int, family: int) -> None:
    """Moves the link into the VRF, whose default route uses it."""
    node.space.run("sysctl", "-qw", f"net.ipv6.conf.{link}.keep_addr_on_down=1")
    node.space.ip("link", "set", link, "master", "red")
    # The kernel delivers to an IPv6 address a moment after that.
    held = ("-6", "route", "show", "table", "10", "type", "local", "dev", link)
    until(lambda: f"fd{network}::2" in node.space.ip(*held), "the address is the VRF's", interval=0.01)
    way = ("default", "via", gateway(network, family), "dev", link, "table", "10")
    node.space.ip(f"-{family}", "route", "add", *way)


def remove_cgroup(node: Node) -> None:
    """`ip vrf exec` makes one for the namespace and leaves it."""
    node.stop()
    for made in list(Path("/sys/fs/cgroup").rglob(node.space.name)):
        for each in (made / "vrf" / "red", made / "vrf", made):
            each.rmdir()


def second_link_in_vrf(
    rig: Rig, programs: tuple[Program, Program], family: int, *, start: bool = True
) -> Tunnel:
    """b's second link is in a VRF, and a uses b's address there. b's main table uses the first link."""
    tunnel = uplinks(rig, programs, family=family, start=False)
    a, b = tunnel.a, tunnel.b
    add_vrf(b)
    enslave(b, "under1", 94, family)
    a.peers[0].endpoint = endpoint(address(tunnel, "b", 1, family), b.port)
    if start:
        a.start()
        b.start()
    return tunnel


@FAMILIES
@pytest.mark.parametrize("programs", [(SUBJECT, SUBJECT), (SUBJECT, WORKERS)], ids=["one worker", "workers"])
def test_vrf_of_the_link_answers(rig: Rig, programs: tuple[Program, Program], family: int) -> None:
    """Sockets that receive from all VRFs (udp_l3mdev_accept) answer by the table of the VRF where the packet
    arrived."""
    tunnel = second_link_in_vrf(rig, programs, family)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    tunnel.ping(back=True)
    tunnel.tcp_both_ways(1 << 18)
    assert a.status(b).endpoint == endpoint(address(tunnel, "b", 1, family), b.port)


@FAMILIES
def test_node_in_a_vrf_stays_in_it(rig: Rig, family: int) -> None:
    """`ip vrf exec` binds the sockets to the VRF. The node also initiates by its table, before it received
    anything."""
    tunnel = second_link_in_vrf(rig, (SUBJECT, IN_VRF), family, start=False)
    a, b = tunnel.a, tunnel.b
    rig.later(lambda: remove_cgroup(b))
    done = b.space.run(*IN_VRF.argv[:4], "true", check=False)
    if done.returncode:
        pytest.skip(f"`ip vrf exec` does not work here: {done.stderr}")
    b.peers[0].endpoint = a.outer(family)
    b.start()
    a.start()
    tunnel.ping(back=True)
    tunnel.ping()
    assert a.status(b).endpoint == endpoint(address(tunnel, "b", 1, family), b.port)


@FAMILIES
def test_peer_moves_between_a_vrf_and_the_main_table(rig: Rig, family: int) -> None:
    """A data packet over the other link is answered by that link's table, without a handshake."""
    tunnel = second_link_in_vrf(rig, (SUBJECT, SUBJECT), family)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    shook = a.status(b).handshake
    for number in (0, 1):
        target = endpoint(address(tunnel, "b", number, family), b.port)
        a.set_peer(b, "endpoint", target)
        tunnel.ping(deadline=FOLLOWS)
        assert a.status(b).endpoint == target
    assert a.status(b).handshake == shook
