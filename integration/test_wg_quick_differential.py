"""wg-quick (with wireguard-go) and `udpring up` with the same files, each on its own host.

These must be equal: the success of up and down, the link, its addresses, the tunnel's configuration, routes,
rules, firewall, calls of resolvconf, output of hooks, and leftovers after down. If a case names differences,
exactly those must occur, and docs/wg-quick.md has the reason.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import until
from lab.host import UDPRING, Host
from lab.quick_cases import CASES, Case
from lab.reaper import Reaper
from lab.rig import UAPI, leftovers

from udpring.errors import ConfigError
from udpring.tunnel.config import Config

DOCUMENT = Path(__file__).parents[1] / "docs/wg-quick.md"

pytestmark = pytest.mark.skipif(
    not shutil.which("wg-quick"), reason="wg-quick is not installed (scripts/bootstrap installs it)"
)

#: One command for all parts of a picture, each after a line of its own.
_LOOK = """
part() { echo "== $1"; shift; "$@" 2>/dev/null; }
part link ip -json address show dev "$0"
part routes4 ip -4 route show table all
part routes6 ip -6 route show table all
part rules4 ip -4 rule
part rules6 ip -6 rule
part nft nft list ruleset
part mark sysctl -n net.ipv4.conf.all.src_valid_mark
part config wg showconf "$0"
"""


class Quick:
    """One program on one host: `up`, `down`, and the state of the host."""

    def __init__(self, host: Host, case: Case, interface: str) -> None:
        self.host = host
        self.case = case
        self.interface = interface
        self.path = host.path_without(*case.hidden) if case.hidden else None
        if case.resolver is not None:
            host.resolvconf(status=case.resolver)

    def command(self, verb: str) -> tuple[str, ...]:
        raise NotImplementedError

    def say(self, verb: str) -> int:
        done = self.host.run(
            *self.command(verb),
            path=self.path,
            WG_QUICK_USERSPACE_IMPLEMENTATION="wireguard-go",
            WG_ENDPOINT_RESOLUTION_RETRIES="0",
            RES_OPTIONS="timeout:1 attempts:1",
        )
        self.said = f"{self.command(verb)}: {done.returncode}\n{done.stdout}{done.stderr}"
        print(self.said)  # shown where the test fails
        return done.returncode

    def life(self) -> dict[str, Any]:
        """Up, a look, down, another look. Returns a picture of it all."""
        case, host = self.case, self.host
        file = host.folder / f"{self.interface}.conf"
        host.file(self.interface, case.filled(case.text), case.mode)
        if case.name == "utf-16":
            file.write_bytes("[Interface]\n".encode("utf-16"))
        taken = self.prepare()
        picture: dict[str, Any] = {"up.code": self.say("up") == 0}
        picture["unserved"] = "Unable to access interface" in self.said
        if case.userspace and isinstance(self, Theirs) and "userspace" not in self.said:
            pytest.skip("wg-quick takes the kernel's WireGuard here")
        if case.twice:
            picture["up.again"] = self.say("up") == 0
        self.run(case.between)
        self.settle()
        picture |= {f"up.{key}": value for key, value in self.look().items()}
        if case.rewritten is not None:
            host.file(self.interface, case.filled(case.rewritten), case.mode)
        before = file.read_bytes() if file.exists() else b""
        picture["down.code"] = self.say("down") == 0
        self.settle()
        picture |= {f"down.{key}": value for key, value in self.look().items()}
        picture["down.file"] = _saved(file, before)
        if case.twice:
            picture["down.again"] = self.say("down") == 0
        if taken is not None:
            taken.close()
        return picture

    def prepare(self) -> socket.socket | None:
        before = self.case.before
        if before.startswith("PORT "):
            return self.host.space.socket("0.0.0.0", socket.SOCK_DGRAM, int(before.split()[1]))
        self.run(before)
        return None

    def run(self, commands: str) -> None:
        if commands:
            text = self.case.filled(commands).replace("$NAME", self.interface)
            done = self.host.run("sh", "-c", text)
            print(done.stdout, done.stderr)

    def settle(self) -> None:
        """Waits, because the interface's process ends shortly after the link."""
        if not self.host.has(self.interface):
            socket_file = UAPI / f"{self.interface}.sock"
            until(lambda: not socket_file.exists(), f"{socket_file} is gone", interval=0.01)
            until(lambda: not self.host.space.pids(), "its process has ended", interval=0.01)

    def look(self) -> dict[str, Any]:
        said = self.host.run("sh", "-c", _LOOK, self.interface).stdout
        split = (part.partition("\n") for part in f"\n{said}".split("\n== ")[1:])
        parts = {name: text for name, _, text in split}
        link = (json.loads(parts["link"] or "[]") or [{}])[0]
        hook_log = self.host.folder / "hooks"
        routes = (parts["routes4"] + parts["routes6"]).splitlines()
        listen = (
            re.search(r"(?i)listen ?port = *[1-9n]", self.case.text)
            and "ListenPort = 0" not in self.case.text
        )
        config = sorted(map(_in_order, parts["config"].split("\n")))
        return {
            "exists": bool(link),
            # Only requested ones, because the kernel's own come at any time.
            "link": (link.get("mtu"), "UP" in link.get("flags", ())),
            "addresses": sorted(
                f"{each['local']}/{each['prefixlen']}"
                for each in link.get("addr_info", ())
                if each["scope"] == "global"
            ),
            "routes": sorted(each for each in map(str.strip, routes) if "proto kernel" not in each),
            "rules": parts["rules4"] + parts["rules6"],
            "firewall": _firewall(parts["nft"]),
            "mark": parts["mark"],
            "config": [line for line in config if listen or not line.startswith("ListenPort")],
            "dns": self.host.dns_calls(),
            "hooks": hook_log.read_text(errors="surrogateescape") if hook_log.exists() else "",
        }


class Theirs(Quick):
    def command(self, verb: str) -> tuple[str, ...]:
        return ("wg-quick", verb, f"./{self.interface}.conf")


class Ours(Quick):
    def command(self, verb: str) -> tuple[str, ...]:
        return (*UDPRING, verb, f"./{self.interface}.conf")


def _in_order(line: str) -> str:
    """A line of `wg showconf`, its list of prefixes sorted."""
    key, equals, value = line.partition(" = ")
    return f"{key}{equals}{', '.join(sorted(value.split(', ')))}"


def _firewall(text: str) -> list[str]:
    """The rules without the program's name and without the link-local address of a TUN device."""
    named = re.sub(r"wg-quick-|udpring-", "", re.sub(r"(wg-quick\(8\)|udpring) rule", "rule", text))
    lines = [line for line in named.splitlines() if "daddr fe80:" not in line]
    # The kernel decides the order of addresses, and thus of the rules for them.
    drops = iter(sorted(line for line in lines if "fib saddr" in line))
    return [next(drops) if "fib saddr" in line else line for line in lines]


def _saved(file: Path, before: bytes) -> object:
    """The contents of a file that down has written, as values, because the two write different text."""
    if not file.exists() or file.read_bytes() == before:
        return "untouched"
    try:
        saved = Config.load(file)
    except ConfigError as wrong:
        return str(wrong)
    addresses = sorted(str(each) for each in saved.interface.addresses if not each.is_link_local)
    peers = sorted(
        (
            peer.public_key,
            peer.preshared_key,
            sorted(map(str, peer.allowed_ips)),
            str(peer.endpoint),
            peer.persistent_keepalive,
        )
        for peer in saved.peers
    )
    settings = saved.interface
    return (
        file.stat().st_mode & 0o777,
        settings.private_key,
        settings.fwmark,
        addresses,
        (settings.dns, settings.dns_search),
        settings.mtu,
        settings.table,
        (settings.pre_up, settings.post_up, settings.pre_down, settings.post_down, settings.save_config),
        peers,
    )


@pytest.fixture(scope="module")
def prefix() -> Iterator[str]:
    """Everything of this module has it in its name. Nothing may stay."""
    made = f"q{secrets.token_hex(2)}"
    reaper = Reaper()
    reaper.watch(made)
    yield made
    try:
        until(lambda: not leftovers(made), "all is gone", timeout=20)
    finally:
        reaper.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_udpring_leaves_the_host_as_wg_quick(prefix: str, tmp_path: Path, case: Case) -> None:
    interface = f"{prefix}{secrets.token_hex(2)}{case.suffix}"

    def life(kind: type[Theirs | Ours], number: int = 0) -> dict[str, Any]:
        host = Host(f"{prefix}{secrets.token_hex(2)}", tmp_path / f"{kind.__name__}{number}")
        try:
            host.open(ipv6=case.ipv6)
            return kind(host, case, interface).life()
        finally:
            if host.space.path.exists() and host.has(interface):
                host.space.ip("link", "delete", "dev", interface)
            host.close()

    theirs, tries = life(Theirs), 1
    # wireguard-go that gets its port before its device is up drops a taken port, and takes another one. And
    # `wg show interfaces` of another test unlinks the file of a wireguard-go that does not listen yet.
    while tries < 5 and (theirs["up.code"] if case.fails else theirs["unserved"]):
        theirs, tries = life(Theirs, tries), tries + 1
    ours = life(Ours)
    del theirs["unserved"], ours["unserved"]
    differing = {
        key: (theirs.get(key), ours.get(key)) for key in theirs | ours if theirs.get(key) != ours.get(key)
    }
    assert not case.fails or not ours["up.code"]
    shown = "\n".join(f"{key}\n  wg-quick: {a!r}\n  udpring:  {b!r}" for key, (a, b) in differing.items())
    assert sorted(differing) == sorted(case.differs), shown


#: Rows of the table with tests elsewhere.
ELSEWHERE = {
    "several Endpoints in one [Peer]": "test_tcp_goes_on_at_the_second_endpoint",
    "DNS on a host without resolvconf": "test_resolvectl_gets_servers_and_domains_and_is_reverted",
    "link-local address of the interface": "test_no_link_local_address_comes_with_the_interface",
}


def test_each_difference_stands_in_the_table() -> None:
    rows = [
        line.split(" | ")[0].removeprefix("| ") for line in DOCUMENT.read_text().splitlines() if " | " in line
    ]
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f"def {test}(" in tests for test in ELSEWHERE.values())
    assert all(bool(case.differs) == bool(case.row) for case in CASES)
    assert set(rows[1:]) == {case.row for case in CASES if case.row} | ELSEWHERE.keys()
