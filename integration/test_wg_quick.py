"""`wg-quick up` and `down` of real configuration files, with the program as its userspace implementation.

wg-quick must derive the same routes, rules, MTU and firewall from a file as with wireguard-go.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Program, Rig, Space, Tunnel, until
from lab.traffic import ping, tcp


@dataclass
class Quick:
    """wg-quick for one interface in one namespace."""

    space: Space
    program: Program
    file: Path

    def __post_init__(self) -> None:
        # wg-quick runs one word, so the program gets a name on the PATH.
        self.bin = self.file.parent / f"bin-{self.program.name}"
        self.bin.mkdir(exist_ok=True)
        command = self.bin / self.program.name
        command.write_text(
            "#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in self.program.argv) + ' "$@"\n'
        )
        command.chmod(stat.S_IRWXU)

    def __call__(self, verb: str, check: bool = True) -> str:
        done = self.space.run(
            "env",
            f"PATH={self.bin}:{os.environ['PATH']}",
            f"WG_QUICK_USERSPACE_IMPLEMENTATION={self.program.name}",
            "wg-quick",
            verb,
            str(self.file),
            check=check,
            timeout=60,
        )
        return done.stdout + done.stderr

    @property
    def interface(self) -> str:
        return self.file.stem

    def picture(self) -> dict[str, str]:
        """The state of the namespace, without random names."""
        addresses = ("-o", "addr", "show", "dev", self.interface, "scope", "global")
        # The kernel calls a new IPv6 address tentative until a work item has checked it.
        until(lambda: " tentative" not in self.space.ip(*addresses), "the addresses are settled")
        words = {
            "links": self.space.ip("-o", "link", "show", "dev", self.interface),
            "addresses": self.space.ip(*addresses),
            **self.surroundings(),
        }
        mtu = re.search(r"mtu (\d+)", words.pop("links"))
        assert mtu
        words["mtu"] = mtu[1]
        return {name: _settled(text) for name, text in words.items()}

    def surroundings(self) -> dict[str, str]:
        """wg-quick's changes besides the interface."""
        self.space.wait_for_ipv6()
        return {
            "routes4": self.space.ip("-4", "route", "show", "table", "all"),
            "routes6": self._without_link_local(self.space.ip("-6", "route", "show", "table", "all")),
            "rules4": self.space.ip("-4", "rule"),
            "rules6": self.space.ip("-6", "rule"),
            "firewall": self._without_link_local(self.space.run("nft", "list", "ruleset").stdout),
        }

    def _without_link_local(self, text: str) -> str:
        """wireguard-go's interface gets a link-local address. Those of udpring and of the kernel do not."""
        ours = re.compile(rf"\b{self.interface}\b.*\bfe80:|\bfe80:.*\b{self.interface}\b")
        return "\n".join(line for line in text.splitlines() if not ours.search(line))


def _settled(text: str) -> str:
    """Without differences between two runs: link numbers, link-local addresses, the order of lines."""
    text = re.sub(r"fe80::[0-9a-f:]+", "LINK-LOCAL", text)
    return "\n".join(sorted(re.sub(r"^\d+: ", "", line) for line in text.splitlines()))


def _far_end(rig: Rig) -> Tunnel:
    """A wireguard-go in b that waits for a. The tunnel's own a is never started."""
    tunnel = rig.tunnel((SUBJECT, GO), start=False)
    tunnel.b.peers[0].allowed_ips = [f"{tunnel.a.inner4}/32", f"{tunnel.a.inner6}/128"]
    tunnel.b.start()
    return tunnel


def _file(tmp_path: Path, name: str, tunnel: Tunnel, allowed: str, more: str = "") -> Path:
    a, b = tunnel.a, tunnel.b
    path = tmp_path / f"{name}.conf"
    path.touch(0o600)
    path.write_text(
        f"""# A real file: comments, blank lines, both families.
[Interface]
Address = {a.inner4}/24, {a.inner6}/64
PrivateKey = {a.private_key}
ListenPort = {a.port}
{more}

[Peer]   # the far end
PublicKey = {b.public_key}
AllowedIPs = {allowed}
Endpoint = {b.outer(4)}
PersistentKeepalive = 25
"""
    )
    return path


def _up_under(rig: Rig, program: Program, space: Space, file: Path) -> tuple[Quick, dict[str, str]]:
    quick = Quick(space, program, file)
    quick("up")
    rig.later(lambda: quick("down", check=False))
    return quick, quick.picture()


CASES = [
    pytest.param("10.100.0.0/24, fd10:0::/64, 10.50.0.0/16, fd50::/32, 192.0.2.7/32", "", id="split"),
    pytest.param("0.0.0.0/0, ::/0", "", id="full-tunnel"),
    pytest.param("0.0.0.0/0, ::/0", "FwMark = 0x99\nMTU = 1380", id="fwmark-and-mtu"),
    pytest.param("10.0.0.0/8, fd00::/8", "Table = 123\nMTU = 1300", id="own-table"),
    pytest.param("10.0.0.0/8", "Table = off", id="no-routes"),
]


@pytest.mark.parametrize(("allowed", "more"), CASES)
def test_up_and_down(rig: Rig, tmp_path: Path, allowed: str, more: str) -> None:
    """Routes, rules, MTU and firewall as with wireguard-go. Traffic flows, and afterwards nothing is left."""
    tunnel = _far_end(rig)
    space = tunnel.a.space
    # Full tunnel: only the mark keeps the endpoint reachable.
    space.ip("route", "add", "default", "via", tunnel.b.space.ipv4, "mtu", "1400")
    name = f"{rig.prefix}q"
    file = _file(tmp_path, name, tunnel, allowed, more)
    socket_file = tunnel.a.uapi.parent / f"{name}.sock"
    before = Quick(space, SUBJECT, file).surroundings()
    pictures = []
    for program in (GO, SUBJECT):
        quick, picture = _up_under(rig, program, space, file)
        pictures.append(picture)
        if "off" not in more and "Table" not in more:
            ping(space, tunnel.b.inner4)
            ping(space, tunnel.b.inner6)
            tcp(space, tunnel.b.space, tunnel.b.inner4, 1 << 20)
        quick("down")
        assert name not in space.ip("-o", "link")
        # wg-quick deletes the link. The program notices a moment later and removes everything else.
        until(lambda: not socket_file.exists(), f"{program.name} takes its socket file with it")
        assert quick.surroundings() == before, "wg-quick down left something"
    assert pictures[1] == pictures[0]


def test_save_keeps_what_was_learned(rig: Rig, tmp_path: Path) -> None:
    """SaveConfig: `down` writes the running configuration, and it comes up from that again."""
    tunnel = _far_end(rig)
    file = _file(tmp_path, f"{rig.prefix}q", tunnel, "10.100.0.0/24, fd10:0::/64", "SaveConfig = true")
    quick, _ = _up_under(rig, SUBJECT, tunnel.a.space, file)
    tunnel.a.space.run("wg", "set", quick.interface, "peer", tunnel.b.public_key, "persistent-keepalive", "7")
    quick("down")
    saved = file.read_text()
    assert "PersistentKeepalive = 7" in saved
    assert f"PrivateKey = {tunnel.a.private_key}" in saved
    quick("up")
    ping(tunnel.a.space, tunnel.b.inner4)
    quick("down")


def test_hooks_and_two_interfaces(rig: Rig, tmp_path: Path) -> None:
    """PostUp and PreDown see the interface. A second interface runs at the same time."""
    tunnel = _far_end(rig)
    space = tunnel.a.space
    said = tmp_path / "said"
    hooks = f"PostUp = wg show %i public-key >> {said}\nPreDown = echo down %i >> {said}"
    first, _ = _up_under(
        rig, SUBJECT, space, _file(tmp_path, f"{rig.prefix}p", tunnel, "10.100.0.0/24, fd10:0::/64", hooks)
    )
    second_file = tmp_path / f"{rig.prefix}r.conf"
    second_file.touch(0o600)
    second_file.write_text(
        "[Interface]\nAddress = 10.200.0.1/24\nPrivateKey = " + tunnel.b.private_key + "\n"
    )
    second, _ = _up_under(rig, SUBJECT, space, second_file)
    assert {first.interface, second.interface} <= set(space.run("wg", "show", "interfaces").stdout.split())
    ping(space, tunnel.b.inner4)
    second("down")
    ping(space, tunnel.b.inner4)
    first("down")
    assert said.read_text().split() == [tunnel.a.public_key, "down", first.interface]
