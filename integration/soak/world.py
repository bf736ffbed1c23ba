"""Four nodes around a router, each with two links to it: udpring nodes a, b and d, and c with wireguard-go.

    a, b, c  have tunnels among each other, always with traffic
    d        has a tunnel to a with only keepalives; all udpring nodes have idle peers in addition

Node number N has 10.81.N.2 and fd81:N::2 on link ``one``, 10.82.N.2 and fd82:N::2 on link ``two``. The router
has .1 of each. A node's default route uses one of them.
"""

from __future__ import annotations

import base64
import os
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from lab.node import GO, UAPI, Node, Peer, Program, endpoint
from lab.space import Space, until

from soak.cage import mount

LINKS = {"one": 81, "two": 82}
OURS = ("a", "b", "d")
#: Pairs of nodes with a tunnel, and its outer IP version.
PAIRS = {("a", "b"): 6, ("a", "c"): 4, ("b", "c"): 4, ("a", "d"): 4}
IDLE_PEERS = 8
#: Seconds between the keepalives by which a and d learn each other's moves.
KEEPALIVE = 5
NAMES = ("a", "b", "c", "d")


def new_key(rng: random.Random) -> tuple[str, str]:
    """A private key and its public key, in base64."""
    key = X25519PrivateKey.from_private_bytes(rng.randbytes(32))
    private, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    return base64.b64encode(private).decode(), base64.b64encode(public).decode()


@dataclass
class Place:
    """One node and its location."""

    name: str
    number: int
    node: Node
    logs: Path
    host: int = 2
    default: str = "one"
    away: str = ""
    """The reason why it does not answer at present. Empty: it should answer."""
    generation: int = 0
    extra_peers: int = field(default=0)

    @property
    def ours(self) -> bool:
        return self.name in OURS

    @property
    def pid(self) -> int:
        assert self.node.process
        return self.node.process.pid

    def address(self, family: int, link: str = "one") -> str:
        net = LINKS[link]
        host = self.host if link == "one" else 2
        return f"10.{net}.{self.number}.{host}" if family == 4 else f"fd{net}:{self.number}::{host}"


class World:
    """Makes everything. It ends with the process (cage.py)."""

    def __init__(self, directory: Path, program: Program, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.logs = directory / "logs"
        mount("tmpfs", self.logs, "size=2m,nr_inodes=64")
        mount("tmpfs", UAPI, "size=256k,nr_inodes=64")
        self.router = self._space("r")
        self.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.places: dict[str, Place] = {}
        for number, name in enumerate(NAMES, 1):
            self._place(number, name, GO if name == "c" else self._watched(program, name))
        for one, other in PAIRS:
            self._introduce(one, other)
            self._introduce(other, one)
        self._in_order()

    def _watched(self, program: Program, name: str) -> Program:
        return program.with_env(UDPRING_COUNTERS=str(self.directory / f"{name}-counters.json"))

    def _space(self, name: str) -> Space:
        subprocess.run(["ip", "netns", "add", name], check=True)
        space = Space(name)
        both = ("all", "default")
        quiet = [f"net.ipv6.conf.{each}.accept_dad=0" for each in both]
        stay = [f"net.ipv6.conf.{each}.keep_addr_on_down=1" for each in both]
        loose = [
            f"net.ipv4.conf.{each}.{what}"
            for each in both
            for what in ("rp_filter=0", "promote_secondaries=1")
        ]
        space.run("sysctl", "-qw", *quiet, *stay, *loose)
        space.ip("link", "set", "lo", "up")
        return space

    def _place(self, number: int, name: str, program: Program) -> None:
        space = self._space(name)
        inner = [f"10.100.0.{number}/24", f"fd10:100::{number}/64"]
        node = Node(space, f"wg{name}", program, self.logs / f"{name}.log", inner, port=51820 + number)
        node.private_key, node.public_key = new_key(self.rng)
        place = self.places[name] = Place(name, number, node, self.logs)
        for link, net in LINKS.items():
            near = f"{link}-{name}"
            space.ip("link", "add", link, "type", "veth", "peer", "name", near, "netns", self.router.name)
            space.ip("link", "set", link, "up")
            self.router.ip("link", "set", near, "up")
            self.router.ip("addr", "add", f"10.{net}.{number}.1/24", "dev", near)
            self.router.ip("addr", "add", f"fd{net}:{number}::1/64", "dev", near, "nodad")
            for family, length in ((4, 24), (6, 64)):
                nodad = ["nodad"] if family == 6 else []
                space.ip("addr", "add", f"{place.address(family, link)}/{length}", "dev", link, *nodad)
            space.wait_for_address(place.address(6, link))
            self.router.wait_for_address(f"fd{net}:{number}::1")
        self.set_default(place, "one")

    def _introduce(self, here: str, there: str) -> None:
        one, other = self.places[here], self.places[there]
        one.node.peers.append(
            Peer(
                other.node,
                [f"{other.node.inner4}/32", f"{other.node.inner6}/128"],
                self.endpoint(here, there),
                keepalive=KEEPALIVE if "d" in (here, there) else None,
            )
        )

    def endpoint(self, here: str, there: str) -> str:
        """The endpoint of ``there`` in the configuration of ``here``."""
        family = PAIRS.get((here, there)) or PAIRS[there, here]
        other = self.places[there]
        return endpoint(other.address(family), other.node.port)

    def _in_order(self) -> None:
        """One CPU receives all packets of the links, so reordering is the nodes' doing."""
        for name in (*NAMES, "r"):
            self._receive_on_one_cpu(name)

    @staticmethod
    def _receive_on_one_cpu(name: str) -> None:
        """A veth or a TUN device uses the queue of its sender's CPU: a sender that moves to another CPU may
        overtake itself."""
        script = "for f in /sys/class/net/*/queues/rx-*/rps_cpus; do echo 1 > $f; done"
        subprocess.run(["ip", "netns", "exec", name, "sh", "-c", script], check=True)

    # ---- nodes ----

    def start(self) -> None:
        for place in self.places.values():
            self.start_node(place)
            if place.ours:
                self.add_idle_peers(place, IDLE_PEERS)

    def start_node(self, place: Place) -> None:
        for peer in place.node.peers:
            there = next(name for name, other in self.places.items() if other.node is peer.node)
            peer.endpoint = self.endpoint(place.name, there)
        until(lambda: not place.node.exists(), f"{place.node.interface} is gone")
        place.node.start()
        self._receive_on_one_cpu(place.name)
        place.generation += 1
        place.extra_peers = 0
        place.away = ""

    def add_idle_peers(self, place: Place, count: int) -> list[str]:
        """Adds peers without endpoint and traffic. Returns their public keys."""
        keys = [new_key(self.rng)[1] for _ in range(count)]
        words = []
        for i, key in enumerate(keys, place.extra_peers):
            words += ["peer", key, "allowed-ips", f"10.{200 + i // 250}.{i % 250}.0/24,fd20:{i:x}::/32"]
        place.node.wg("set", place.node.interface, *words)
        place.extra_peers += count
        return keys

    # ---- links and addresses ----

    def set_default(self, place: Place, link: str) -> None:
        space, net = place.node.space, LINKS[link]
        space.ip("route", "replace", "default", "via", f"10.{net}.{place.number}.1", "dev", link)
        space.ip(
            "-6",
            "route",
            "replace",
            "default",
            "via",
            f"fd{net}:{place.number}::1",
            "dev",
            link,
            "metric",
            "512",
        )
        for other in set(LINKS) - {link}:
            space.ip("-6", "route", "del", "default", "dev", other, check=False)
        place.default = link

    def set_link(self, place: Place, link: str, state: str) -> None:
        place.node.space.ip("link", "set", link, state)

    def readdress(self, place: Place, host: int) -> None:
        """Link ``one`` gets the addresses of another host number and loses its present ones."""
        space, old = place.node.space, {4: place.address(4), 6: place.address(6)}
        place.host = host
        for family, length in ((4, 24), (6, 64)):
            nodad = ["nodad"] if family == 6 else []
            space.ip("addr", "add", f"{place.address(family)}/{length}", "dev", "one", *nodad)
        space.wait_for_address(place.address(6))
        for family, length in ((4, 24), (6, 64)):
            space.ip("addr", "del", f"{old[family]}/{length}", "dev", "one")
        self.set_default(place, place.default)

    def set_underlay_mtu(self, place: Place, mtu: int) -> None:
        for link in LINKS:
            place.node.space.ip("link", "set", link, "mtu", str(mtu))
            self.router.ip("link", "set", f"{link}-{place.name}", "mtu", str(mtu))

    # ---- ends ----

    def tunnels_of(self, name: str) -> list[str]:
        """The nodes with a tunnel to this one."""
        return [other for pair in PAIRS if name in pair for other in pair if other != name]


def fill(directory: Path) -> list[Path]:
    """Fills up space and inodes of a small tmpfs. Returns the files to remove afterwards."""
    made = []
    block = os.urandom(1 << 12)
    path = directory / "filler"
    made.append(path)
    try:
        with path.open("wb", buffering=0) as out:
            while True:
                out.write(block)
    except OSError:
        pass
    try:
        for number in range(1 << 12):
            path = directory / f"filler{number}"
            made.append(path)
            path.touch()
    except OSError:
        pass
    return made
