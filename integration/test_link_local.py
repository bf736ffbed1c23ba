"""The interface has only its configured addresses, and no fe80:: address chosen by the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab import GO, SUBJECT, Node, Rig, Space, until
from lab.traffic import ping
from lab.unprivileged import environment

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"
AF_NETLINK = 16


def ipv6_addresses(space: Space, interface: str) -> list[str]:
    shown = space.run("env", "-u", "LD_PRELOAD", "ip", "-json", "-6", "addr", "show", interface).stdout
    return [each["local"] for link in json.loads(shown) for each in link.get("addr_info", [])]


def mode(space: Space, interface: str) -> str:
    shown = space.run("env", "-u", "LD_PRELOAD", "ip", "-json", "-d", "link", "show", interface).stdout
    said: str = json.loads(shown)[0]["inet6_addr_gen_mode"]
    return said


def both(rig: Rig) -> tuple[Node, Node]:
    space = rig.topology()["a"]
    nodes = [
        rig.node(space, program, inner=["10.9.0.1/24"], port=51820 + i)
        for i, program in enumerate((SUBJECT, GO))
    ]
    for node in nodes:
        node.spawn()
        space.ip("link", "set", node.interface, "up")
    return nodes[0], nodes[1]


def test_no_link_local_address_comes_with_the_interface(rig: Rig) -> None:
    """wireguard-go's interface gets one, which proves that this kernel assigns them."""
    ours, theirs = both(rig)
    until(lambda: ipv6_addresses(theirs.space, theirs.interface), "the kernel has given one")
    assert ipv6_addresses(ours.space, ours.interface) == []
    assert mode(ours.space, ours.interface) == "none"
    ours.space.ip("link", "set", ours.interface, "down")
    ours.space.ip("link", "set", ours.interface, "up")
    assert ipv6_addresses(ours.space, ours.interface) == []


def test_link_local_address_carries_traffic(rig: Rig) -> None:
    """For routing daemons (Babel, OSPFv3), which need one on each side."""
    tunnel = rig.tunnel()
    for node, own, other in ((tunnel.a, "fe80::a", "fe80::b"), (tunnel.b, "fe80::b", "fe80::a")):
        node.space.ip("addr", "add", f"{own}/64", "dev", node.interface, "nodad")
        peer = tunnel.b if node is tunnel.a else tunnel.a
        node.set_peer(peer, "allowed-ips", f"{peer.inner4}/32,{peer.inner6}/128,{other}/128")
    tunnel.a.space.wait_for_address("fe80::a")
    tunnel.b.space.wait_for_address("fe80::b")
    ping(tunnel.a.space, f"fe80::b%{tunnel.a.interface}")
    assert ipv6_addresses(tunnel.a.space, tunnel.a.interface) == ["fd10::1", "fe80::a"]


def test_up_gives_the_addresses_of_the_file_alone(rig: Rig, tmp_path: Path) -> None:
    node = rig.node(rig.topology()["a"], inner=["10.9.0.1/24", "fd09::1/64"])
    file = tmp_path / f"{node.interface}.conf"
    file.write_text(f"[Interface]\nPrivateKey = {node.private_key}\nAddress = {', '.join(node.inner)}\n")
    file.chmod(0o600)
    command = [sys.executable, "-P", "-m", "udpring.cli.main"]
    for words in (["up", str(file)], ["down", node.interface]):
        done = subprocess.run(
            node.space.argv(*command, *words),
            capture_output=True, text=True, timeout=60, env=environment(), check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        if words[0] == "up":
            assert ipv6_addresses(node.space, node.interface) == ["fd09::1"]


def test_without_netlink_it_starts_all_the_same(rig: Rig) -> None:
    """The kernel's default applies then."""
    node = rig.node(rig.topology()["a"], SUBJECT, inner=["10.9.0.1/24"])
    begin = (sys.executable, str(SECCOMP), f"socket=EAFNOSUPPORT:0=={AF_NETLINK}", "--")
    node.space.run(*begin, *SUBJECT.argv, node.interface, timeout=60)
    assert mode(node.space, node.interface) != "none"
    node.space.ip("link", "del", node.interface)
    until(lambda: not node.space.pids(), "the process ends")
