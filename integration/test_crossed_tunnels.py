"""Two tunnels of one host, each of which reaches its endpoint through the other."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Peer, Program, Rig, Space, until
from lab.counters import drops, watched
from lab.node import endpoint
from lab.traffic import ping, tcp
from test_routing_loop import BOUND, silence

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go lets packets circle")

KEY = "mE3tQ0vZ8yN5rXk1bWcJ4uPgHs7aLdF2oTi6eRVwB0g="
LOOP_LOGGED = "leads into this tunnel again, through"


@dataclass
class Line:
    """A tunnel of the host, its far end, and the far end's outer address."""

    here: Node
    far: Node
    outer: str

    @property
    def inner(self) -> str:
        return self.far.inner6 if ":" in self.outer else self.far.inner4

    def route(self, verb: str, through: Line) -> None:
        """Routes its endpoint through another tunnel."""
        family = "-6" if ":" in self.outer else "-4"
        self.here.space.ip(family, "route", verb, self.outer, "dev", through.here.interface)

    def dropped(self) -> int:
        return drops(self.here)["routing_loop"] if self.here.program.name == SUBJECT.name else 0

    def loops_logged(self, other: Line) -> int:
        return self.here.log_text().count(f"{LOOP_LOGGED} {other.here.interface}")


@dataclass
class World:
    """Tunnels of one host. No route leads through any of them yet."""

    rig: Rig
    directory: Path
    family: int
    host: Space
    away: Space

    def line(self, program: Program = SUBJECT, *, mtu: int = 1420) -> Line:
        """With an established session."""
        number = len(self.rig.nodes) // 2 + 1
        folder = self.directory / str(number)
        folder.mkdir()
        if program is SUBJECT:
            program = watched(folder)
        inner = [f"10.{110 + number}.0.{{}}/24", f"fd1{number}::{{}}/64"]
        far = self.rig.node(self.away, inner=[each.format(2) for each in inner], port=52000 + number)
        here = self.rig.node(
            self.host, program, inner=[each.format(1) for each in inner], port=51000 + number, mtu=mtu
        )
        outer = f"10.66.0.{number}" if self.family == 4 else f"fd66::{number}"
        self.away.ip("addr", "add", outer, "dev", "lo")
        self.away.wait_for_address(outer)
        far.peers.append(Peer(here, ["0.0.0.0/0", "::/0"]))
        here.peers.append(Peer(far, ["0.0.0.0/0", "::/0"], endpoint=endpoint(outer, far.port)))
        made = Line(here, far.start(), outer)
        here.start()
        ping(self.host, made.inner)
        return made


def world(rig: Rig, directory: Path, family: int = 4) -> World:
    topology = rig.topology()
    host, away = topology["a"], topology["b"]
    host.ip(f"-{family}", "route", "add", "default", "via", away.address(family))
    return World(rig, directory, family, host, away)


def load(*lines: Line) -> None:
    """The way back leads through the tunnels too. Nothing may multiply.

    Slowly: until a node has seen the new route, each packet circles until it exceeds the MTU, about 30 kB.
    """
    for line in lines:
        line.here.space.run("ping", "-n", "-i", "0.5", "-c", "5", "-W", "1", line.inner, check=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("other", [SUBJECT, GO], ids=["ours", "wireguard-go"])
def test_crossed_tunnels_are_bounded_and_reported_once(
    rig: Rig, tmp_path: Path, other: Program, family: int
) -> None:
    made = world(rig, tmp_path, family)
    one, two = made.line(), made.line(other)
    silence(one.far)
    before = one.here.status(one.far).sent + two.here.status(two.far).sent
    one.route("add", two)
    two.route("add", one)
    load(one, two)
    until(lambda: one.dropped() + two.dropped() >= 3, "the packets are dropped, for this reason")

    def is_reported() -> int:
        load(one)  # only packets cause look-ups
        return one.loops_logged(two) + two.loops_logged(one)

    until(is_reported, "it is reported", timeout=60)
    load(one, two)
    assert one.here.status(one.far).sent + two.here.status(two.far).sent - before < BOUND
    assert max(one.loops_logged(two), two.loops_logged(one)) == 1
    doctor = made.host.run(sys.executable, "-P", "-m", "udpring.cli.main", "doctor", check=False, timeout=120)
    assert f"LOOP: {one.here.interface}, " in doctor.stdout
    assert f"through {two.here.interface}" in doctor.stdout
    # The loop is open again: one tunnel within the other.
    one.route("del", two)
    one.far.space.nft("delete table inet quiet")
    ping(made.host, one.inner)
    ping(made.host, two.inner)
    until(
        lambda: "loop no longer" in one.here.log_text() + two.here.log_text(), "the end of the loop is logged"
    )


@pytest.mark.timeout(300)
def test_three_tunnels_within_each_other_are_no_loop(rig: Rig, tmp_path: Path) -> None:
    """The middle one, reached through a tunnel, carries packets of a tunnel."""
    made = world(rig, tmp_path)
    outermost, middle, inmost = made.line(mtu=1440), made.line(mtu=1380), made.line(mtu=1320)
    middle.route("add", outermost)
    inmost.route("add", middle)
    tcp(made.host, made.away, inmost.inner, 1 << 20)
    dropped = middle.dropped()
    tcp(made.host, made.away, inmost.inner, 1 << 20)
    assert middle.dropped() == dropped, "what leaves the host was dropped after that was known"
    assert LOOP_LOGGED not in middle.here.log_text()
    # Now the first goes through the last.
    silence(middle.far)
    before = [line.here.status(line.far).sent for line in (outermost, middle, inmost)]
    outermost.route("add", inmost)

    def is_reported() -> int:
        load(outermost)  # only packets cause look-ups; earlier ones came before the new route was seen
        return sum(line.here.log_text().count(LOOP_LOGGED) for line in (outermost, middle, inmost))

    until(is_reported, "it is reported", timeout=60)
    load(inmost, middle, outermost)
    after = [line.here.status(line.far).sent for line in (outermost, middle, inmost)]
    assert sum(after) - sum(before) < 3 * BOUND


@pytest.mark.parametrize("other", [SUBJECT, GO], ids=["ours", "wireguard-go"])
def test_check_warns_of_a_crossing_with_a_running_tunnel(rig: Rig, tmp_path: Path, other: Program) -> None:
    made = world(rig, tmp_path)
    running = made.line(other)
    interface, behind = running.here.interface, "10.77.0.1"

    def warnings(allowed: str) -> str:
        file = tmp_path / "wg9.conf"
        file.write_text(
            f"[Interface]\nPrivateKey = {KEY}\n[Peer]\nPublicKey = {KEY}\nAllowedIPs = {allowed}\n"
            f"Endpoint = {behind}:51820\n"
        )
        file.chmod(0o600)
        command = [sys.executable, "-P", "-m", "udpring.cli.main", "check", str(file)]
        checked = made.host.run(*command, check=False, timeout=120)
        assert checked.returncode == 0, checked.stderr
        return checked.stderr

    assert warnings("10.66.0.0/16") == "", "its endpoint is not behind the running tunnel"
    made.host.ip("route", "add", behind, "dev", interface)
    assert warnings("10.99.0.0/16") == "", "the running tunnel's endpoint would not be behind it"
    warned = warnings("10.66.0.0/16")
    assert warned.startswith(f"udpring: warning: {tmp_path}/wg9.conf: peer(")
    way = f"through {interface}, by AllowedIPs 10.66.0.0/16"
    assert (
        f"the route to the endpoint {behind}:51820 leads into the tunnel itself {way}: each would" in warned
    )
    assert f"through {interface}, by AllowedIPs 0.0.0.0/0" in warnings("0.0.0.0/0, ::/0")
    made.host.ip("route", "add", running.outer, "via", made.away.address(4))
    assert warnings("0.0.0.0/0, ::/0") == "", "a route of its own goes before the new default route"
