"""The kinds of disturbance.

Each is a function that causes it, holds it for a while, and returns when it is over.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.node import UAPI
from lab.space import until

from soak.world import OURS, Place, World, fill, new_key


class Stage(Protocol):
    """The things that a disturbance may use."""

    world: World

    def pause(self, low: float, high: float) -> None:
        """Waits for a time drawn from the seed."""

    def pick(self, names: tuple[str, ...]) -> Place:
        """One of these nodes."""

    def chance(self, share: float) -> bool:
        """True in this share of calls."""

    def number(self, low: int, high: int) -> int:
        """One of low..high."""

    def flows_within(self, seconds: float, what: str) -> None:
        """All traffic flows again within that time. Otherwise it is a violation."""

    def violated(self, oracle: str, text: str) -> None:
        """Reports a violation."""


@dataclass(frozen=True)
class Kind:
    """``bound``: seconds until all traffic flows again. ``reorders``: datagrams may come out of order
    meanwhile."""

    name: str
    run: Callable[[Stage], str]
    bound: float
    reorders: bool = False
    long_only: bool = False


def killed(stage: Stage) -> str:
    """kill -9, a pause, and a new process with the same configuration."""
    # Rarely on a: its levels are watched over hours.
    place = stage.pick(("b", "b", "c", "c", "d", "a") if stage.chance(0.5) else ("b", "c", "d"))
    place.away = "killed"
    place.node.kill()
    stage.pause(0, 2)
    stage.world.start_node(place)
    return place.name


def link_flaps(stage: Stage) -> str:
    """The link with all the traffic goes down for a moment, perhaps several times."""
    place = stage.pick(OURS)
    times = stage.number(1, 3)
    for _ in range(times):
        stage.world.set_link(place, place.default, "down")
        stage.pause(0.1, 2.5)
        stage.world.set_link(place, place.default, "up")
        stage.world.set_default(place, place.default)
        stage.pause(0, 0.3)
    return f"{place.name}, {times} times"


def link_lost(stage: Stage) -> str:
    """The link goes down and the default route moves to the other one. Later both come back."""
    place = stage.pick(OURS)
    old = place.default
    new = "two" if old == "one" else "one"
    stage.world.set_link(place, old, "down")
    stage.world.set_default(place, new)
    stage.flows_within(20, f"{place.name} lost link {old}")
    stage.world.set_link(place, old, "up")
    stage.world.set_default(place, old)
    return place.name


def route_moves(stage: Stage) -> str:
    """The default route moves to the other link while both stay up."""
    place = stage.pick(OURS)
    stage.world.set_default(place, "two" if place.default == "one" else "one")
    return f"{place.name} to {place.default}"


def address_changes(stage: Stage) -> str:
    """The addresses of link ``one`` are replaced."""
    place = stage.pick(("a", "b"))
    stage.world.readdress(place, place.host % 200 + 2)
    return f"{place.name} to host {place.host}"


def mtu_changes(stage: Stage) -> str:
    """Of a tunnel, or of the links under it."""
    place = stage.pick(("a", "b", "c"))
    if stage.chance(0.5):
        mtu = 1280 + 20 * stage.number(0, 7)
        place.node.space.ip("link", "set", place.node.interface, "mtu", str(mtu))
        stage.pause(0.5, 3)
        place.node.space.ip("link", "set", place.node.interface, "mtu", str(place.node.mtu))
        return f"{place.name}: tunnel {mtu}"
    mtu = 1280 + 10 * stage.number(0, 20)
    stage.world.set_underlay_mtu(place, mtu)
    stage.pause(0.5, 3)
    stage.world.set_underlay_mtu(place, 1500)
    return f"{place.name}: links {mtu}"


def disk_full(stage: Stage) -> str:
    """No space and no inodes for logs and UAPI sockets. A node may be started meanwhile."""
    said = "running"
    made = fill(stage.world.logs) + fill(UAPI)
    try:
        stage.pause(1, 3)
        if stage.chance(0.4):
            place = stage.pick(("b", "d"))
            said = f"{place.name}: {_starts_or_says_why(stage, place)}"
        else:
            for place in stage.world.places.values():
                place.node.wg("show", place.node.interface)
    finally:
        for path in made:
            path.unlink(missing_ok=True)
    for place in stage.world.places.values():
        if place.away:
            stage.world.start_node(place)
    return said


def _starts_or_says_why(stage: Stage, place: Place) -> str:
    """A start that cannot work reports an exit code and one line."""
    place.away = "disk full"
    place.node.kill()
    until(lambda: not place.node.exists(), "the interface is gone")
    process = subprocess.Popen(
        place.node.space.argv(*place.node.program.argv, "-f", place.node.interface),
        env=dict(os.environ, **dict(place.node.program.env)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: process.poll() is not None or place.node.answers(), "it starts or ends", timeout=60)
    if process.poll() is None:
        process.kill()
        process.communicate(timeout=30)
        return "started"
    said = process.communicate(timeout=30)[1]
    if process.returncode != 3 or len(said.strip().splitlines()) != 1:
        stage.violated("start", f"{place.name} on a full disk: exit {process.returncode}, said {said!r}")
    return f"refused, exit {process.returncode}"


def limits_lowered(stage: Stage) -> str:
    """No new descriptors or no locked memory for a running node while its sockets are made again."""
    place = stage.pick(OURS)
    which = resource.RLIMIT_NOFILE if stage.chance(0.6) else resource.RLIMIT_MEMLOCK
    old = resource.prlimit(place.pid, which)
    held = len(list(Path(f"/proc/{place.pid}/fd").iterdir()))
    low = held + stage.number(0, 3) if which == resource.RLIMIT_NOFILE else 0
    place.away = "limits lowered"
    resource.prlimit(place.pid, which, (low, old[1]))
    try:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            place.node.wg("set", place.node.interface, "listen-port", str(place.node.port + 100), timeout=5)
        stage.pause(0.5, 3)
    finally:
        resource.prlimit(place.pid, which, old)
    # Back to the known port, whether that failed or not.
    place.node.wg("set", place.node.interface, "listen-port", str(place.node.port))
    place.away = ""
    return f"{place.name}: {'nofile' if which == resource.RLIMIT_NOFILE else 'memlock'} {low}"


def suspended(stage: Stage) -> str:
    """SIGSTOP and SIGCONT. The clocks continue."""
    place = stage.pick(("a", "b", "c", "d"))
    place.away = "suspended"
    os.kill(place.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        stage.pause(0.2, 8)
    finally:
        os.kill(place.pid, signal.SIGCONT)
    place.away = ""
    return f"{place.name} for {time.monotonic() - began:.1f} s"


def peers_come_and_go(stage: Stage) -> str:
    """Idle peers are added and removed, one by one and all at once."""
    place = stage.pick(OURS)
    count = stage.number(1, 60)
    keys = stage.world.add_idle_peers(place, count)
    stage.pause(0, 0.5)
    if stage.chance(0.5):
        words = [word for key in keys for word in ("peer", key, "remove")]
        place.node.wg("set", place.node.interface, *words)
    else:
        for key in keys:
            place.node.wg("set", place.node.interface, "peer", key, "remove")
    place.extra_peers -= count
    return f"{place.name}: {count}"


def peer_readded(stage: Stage) -> str:
    """A peer with traffic is removed and added again, so one end loses its session."""
    here, there = stage.pick(("a", "b", "c")), ""
    others = stage.world.tunnels_of(here.name)
    there = others[stage.number(0, len(others) - 1)]
    peer = next(each for each in here.node.peers if each.node is stage.world.places[there].node)
    here.node.set_peer(peer.node, "remove")
    stage.pause(0, 1)
    _set_peer(stage.world, here.name, there)
    return f"{there} at {here.name}"


def _set_peer(world: World, here: str, there: str) -> None:
    """Configures ``there`` at ``here`` as in its configuration."""
    place, other = world.places[here], world.places[there].node
    allowed = f"{other.inner4}/32,{other.inner6}/128"
    keepalive = str(next(peer.keepalive or 0 for peer in place.node.peers if peer.node is other))
    where = world.endpoint(here, there)
    place.node.set_peer(other, "allowed-ips", allowed, "endpoint", where, "persistent-keepalive", keepalive)


def key_changes(stage: Stage) -> str:
    """A node gets a new private key, and the others its new public key."""
    place = stage.pick(("a", "b", "c", "d"))
    world, node = stage.world, place.node
    old = node.public_key
    node.private_key, node.public_key = new_key(world.rng)
    node.wg("set", node.interface, "private-key", "/dev/stdin", stdin=node.private_key + "\n")
    stage.pause(0, 0.5)
    for name in world.tunnels_of(place.name):
        other = world.places[name].node
        other.wg("set", other.interface, "peer", old, "remove")
        _set_peer(world, name, place.name)
    return place.name


def port_changes(stage: Stage) -> str:
    """Changes listen-port. The others follow without a command."""
    place = stage.pick(("a", "b", "c"))
    place.node.port = 40000 + stage.number(0, 20000)
    place.node.wg("set", place.node.interface, "listen-port", str(place.node.port))
    return f"{place.name} to {place.node.port}"


def calm(stage: Stage) -> str:
    """Does nothing: sessions grow older than 120 s and are replaced under traffic."""
    stage.pause(125, 150)
    return ""


# A node with a new endpoint may use another path than before until the peer has answered.
KINDS = (
    Kind("kill -9", killed, 40, reorders=True),
    Kind("link flaps", link_flaps, 30, reorders=True),
    Kind("link lost", link_lost, 30, reorders=True),
    Kind("default route moves", route_moves, 20, reorders=True),
    Kind("address changes", address_changes, 30, reorders=True),
    Kind("MTU changes", mtu_changes, 20, reorders=True),
    Kind("disk full", disk_full, 40, reorders=True),
    Kind("limits lowered", limits_lowered, 30, reorders=True),
    Kind("suspended", suspended, 30),
    Kind("idle peers come and go", peers_come_and_go, 15),
    Kind("peer removed and added", peer_readded, 30, reorders=True),
    Kind("key changes", key_changes, 40, reorders=True),
    Kind("port changes", port_changes, 30, reorders=True),
    Kind("calm", calm, 15, long_only=True),
)
