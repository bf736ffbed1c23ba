"""The interface set-up against the real ``wg-quick``: one configuration, two namespaces, equal addresses,
MTU, routes and rules. Nothing is left when it is undone."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Space

from udpring.errors import HostError
from udpring.tunnel import keys
from udpring.tunnel.config import Config
from udpring.tunnel.interface import plan
from udpring.tunnel.interface_setup import Setup, gather

PUBLIC = keys.to_base64(keys.public_key(keys.generate_private_key()))
OTHER = keys.to_base64(keys.public_key(keys.generate_private_key()))


class Namespace:
    """A namespace with an uplink: a veth pair of MTU 1450 and a default route."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enter = ("ip", "netns", "exec", name)

    def run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run((*self.enter, *words), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
        return done.stdout

    def open(self) -> None:
        subprocess.run(("ip", "netns", "add", self.name), check=True)
        # Waits for link-local addresses: one that comes later would be an unrelated difference.
        self.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self.run("ip", "link", "set", "lo", "up")
        self.run(
            "ip", "link", "add", "out0", "mtu", "1450", "type", "veth", "peer", "name", "out1", "mtu", "1450"
        )
        for name in ("out0", "out1"):
            self.run("ip", "link", "set", name, "up")
        self.run("ip", "address", "add", "192.0.2.1/24", "dev", "out0")
        self.run("ip", "route", "add", "default", "via", "192.0.2.254")
        self.run("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.254", "mtu", "1300")
        Space(self.name).wait_for_ipv6()

    def close(self) -> None:
        subprocess.run(("ip", "netns", "del", self.name), check=False)

    def state(self, interface: str) -> dict[str, Any]:
        """The effects of a set-up, without random differences."""
        links = json.loads(self.run("ip", "-json", "address", "show", "dev", interface))
        addresses = sorted(
            (each["local"], each["prefixlen"]) for each in links[0]["addr_info"] if each["scope"] == "global"
        )
        routes = []
        rules = []
        for family in ("-4", "-6"):
            for route in json.loads(self.run("ip", family, "-json", "route", "show", "table", "all")):
                if route.get("dev") == interface and route.get("protocol") != "kernel":
                    routes.append((family, route["dst"], route.get("table", "main")))
            rules += [
                f"{family} {line.split(':', 1)[1]}" for line in self.run("ip", family, "rule").splitlines()
            ]
        return {
            "addresses": addresses,
            "mtu": links[0]["mtu"],
            "up": "UP" in links[0]["flags"],
            "routes": sorted(routes),
            "rules": sorted(rules),
            "mark": self.run("sysctl", "-n", "net.ipv4.conf.all.src_valid_mark").strip(),
            # wg-quick's also guards the random link-local address that the kernel gives a TUN device.
            "firewall": [
                re.sub(r"wg-quick-|udpring-", "", line)
                for line in self.run("nft", "list", "ruleset").splitlines()
                if "daddr fe80:" not in line
            ],
        }


@pytest.fixture
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    prefix = f"ifs{os.getpid() % 100000}{secrets.token_hex(2)}"
    made = Namespace(f"{prefix}a"), Namespace(f"{prefix}b")
    try:
        for space in made:
            space.open()
        yield made
    finally:
        for space in made:
            space.close()


CONFIGS = {
    "plain": "Address = 10.9.0.1/24, fd09::1/64\n"
    f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 10.9.0.2/32, 10.8.0.0/16, fd09::2/128, fd08::/48\n"
    "Endpoint = 192.0.2.9:5\n"
    f"[Peer]\nPublicKey={OTHER}\nAllowedIPs = 10.8.1.0/24\nEndpoint = 198.51.100.1:5\n",
    "narrow endpoint": "Address = 10.9.0.1/32\n"
    f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 10.8.0.0/16\nEndpoint = 198.51.100.1:5\n",
    "no endpoint": f"Address = 10.9.0.1/24\n[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 10.8.0.0/16\n",
    "everything": "Address = 10.9.0.1/24, fd09::1/64\n"
    f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.9:5\n",
    "everything, own mark": "Address = 10.9.0.1/24\nFwMark = 0x1234\n"
    f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 0.0.0.0/0, 10.8.0.0/16\n",
    "table": "Address = 10.9.0.1/24\nTable = 777\nMTU = 1280\n"
    f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 10.8.0.0/16\n",
    "table off": "Address = 10.9.0.1/24\nTable = off\n"
    f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 10.8.0.0/16, ::/0\n",
}


@pytest.mark.skipif(
    not shutil.which("wg-quick"), reason="wg-quick is not installed (scripts/bootstrap installs it)"
)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_host_is_as_wg_quick_leaves_it(
    spaces: tuple[Namespace, Namespace], tmp_path: Path, name: str
) -> None:
    theirs, ours = spaces
    interface = f"ifs{secrets.token_hex(4)}"
    path = tmp_path / f"{interface}.conf"
    path.touch(0o600)
    path.write_text(
        f"[Interface]\nPrivateKey = {keys.to_base64(keys.generate_private_key())}\n{CONFIGS[name]}"
    )
    config = Config.load(path)
    before = {space: state_without_interface(space) for space in spaces}

    theirs.run("env", "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go", "wg-quick", "up", str(path))
    try:
        expected = theirs.state(interface)
    finally:
        theirs.run("env", "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go", "wg-quick", "down", str(path))

    ours.run("ip", "tuntap", "add", "dev", interface, "mode", "tun")
    planned = plan(config, interface, gather(config, interface, prefix=ours.enter))
    setup = Setup(planned, ours.enter)
    setup.apply()
    assert ours.state(interface) == expected
    assert planned.mtu == expected["mtu"]
    setup.undo()
    left = ours.state(interface)
    assert (left["addresses"], left["routes"], left["up"]) == ([], [], False)
    ours.run("ip", "link", "del", interface)
    assert state_without_interface(ours) == before[ours]


def state_without_interface(space: Namespace) -> list[str]:
    """Rules, routes of every table and the firewall."""
    found = [space.run("nft", "list", "ruleset")]
    for family in ("-4", "-6"):
        found.append(space.run("ip", family, "rule"))
        found.append(space.run("ip", family, "route", "show", "table", "all"))
    return found


def test_a_failure_half_way_leaves_nothing(spaces: tuple[Namespace, Namespace]) -> None:
    _, ours = spaces
    before = state_without_interface(ours)
    ours.run("ip", "tuntap", "add", "dev", "ifs0", "mode", "tun")
    config = Config.loads(f"[Interface]\n{CONFIGS['everything']}")
    planned = plan(config, "ifs0", gather(config, "ifs0", prefix=ours.enter))
    ours.run("ip", "-6", "route", "add", "unreachable", "::/0", "table", str(planned.fwmark))
    occupied = state_without_interface(ours)
    with pytest.raises(HostError, match=r"ip -6 route add ::/0 .*: RTNETLINK answers: File exists"):
        Setup(planned, ours.enter).apply()
    assert state_without_interface(ours) == occupied
    assert gather(config, "ifs0", prefix=ours.enter).free_table == planned.fwmark + 1, (
        "a used table is passed over"
    )
    ours.run("ip", "-6", "route", "del", "unreachable", "::/0", "table", str(planned.fwmark))
    ours.run("ip", "link", "del", "ifs0")
    assert state_without_interface(ours) == before
