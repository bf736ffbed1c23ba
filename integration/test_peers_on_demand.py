"""A node whose peers are in a directory, with wireguard-go as the far end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab import Program, Rig, until
from lab.node import Node, Peer
from lab.on_demand import OnDemand
from lab.traffic import ping, unreached
from lab.wire import INITIATION, Capture

from udpring.tunnel.config import Endpoint, PeerConfig
from udpring.tunnel.directory_sqlite import SqliteDirectory
from udpring.tunnel.keys import from_base64

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "sqlite_directory.py"


class Pair:
    """wireguard-go at ``b``; at ``a`` our node, which knows nobody but the database."""

    def __init__(self, rig: Rig, go: Program, directory: Path, family: int, **options: Any) -> None:
        topology = rig.topology()
        self.family = family
        self.a = rig.node(topology["a"], inner=["10.9.0.1/24", "fd09::1/64"], port=51820)
        self.b = rig.node(topology["b"], go, inner=["10.9.0.2/24", "fd09::2/64"], port=51821)
        self.b.peers.append(Peer(self.a, ["10.9.0.1/32", "fd09::1/128"], endpoint=self.a.outer(family)))
        self.b.start()
        self.database = directory / "peers.sqlite"
        self.config = directory / "a.conf"
        self.config.touch(0o600)
        self.config.write_text(
            f"[Interface]\nPrivateKey = {self.a.private_key}\nListenPort = 51820\n"
            f"Address = {', '.join(self.a.inner)}\n"
        )
        self.options = {"database": str(self.database), "name": self.a.interface, **options}
        self._rig = rig
        self.node = self.start()

    def start(self) -> OnDemand:
        started = OnDemand(self.a.space, self.config, **self.options)
        self._rig.later(started.stop)
        return started

    def change(self, work: Callable[[SqliteDirectory], Any]) -> None:
        with contextlib.closing(SqliteDirectory(self.database)) as directory:
            asyncio.run(work(directory))

    def register(self, *, endpoint: bool = False, before: Endpoint | None = None) -> None:
        """``before``: an endpoint that is tried first."""
        where = Endpoint(self.b.space.address(self.family), 51821) if endpoint else None
        fallbacks = (where,) if before and where else ()
        networks = tuple(ipaddress.ip_network(f"{each}") for each in ("10.9.0.2/32", "fd09::2/128"))
        peer = PeerConfig(from_base64(self.b.public_key), allowed_ips=networks, endpoint=before or where)
        peer = replace(peer, fallbacks=fallbacks)
        self.change(lambda directory: directory.put(peer))

    def remove(self) -> None:
        key = from_base64(self.b.public_key)
        self.change(lambda directory: directory.remove(key))

    def traffic(self, *, back: bool) -> None:
        """IPv4 and IPv6 inside, begun by the node (``back``: by wireguard-go)."""
        here, there = (self.b, self.a) if back else (self.a, self.b)
        ping(here.space, there.inner4)
        ping(here.space, there.inner6)


@pytest.fixture(params=[4, 6], ids=["over ipv4", "over ipv6"])
def pair(request: pytest.FixtureRequest, rig: Rig, go: Program, tmp_path: Path) -> Pair:
    """The second runs in uvloop."""
    return Pair(rig, go, tmp_path, request.param, uvloop=request.param == 6)


def test_peer_that_initiates_is_asked_for(pair: Pair) -> None:
    assert unreached(pair.b.space, pair.a.inner4)
    until(lambda: list(pair.node.ask("stats")["dropped"]) == ["unknown_peer"], "its initiation is dropped")
    assert pair.node.peers == {}
    pair.register()
    pair.traffic(back=True)
    pair.traffic(back=False)
    assert list(pair.node.peers) == [pair.b.public_key]
    assert pair.node.ask("stats")["failures"] == 0


def test_first_packet_to_a_peer_is_not_lost(pair: Pair) -> None:
    pair.register(endpoint=True)
    sent = pair.a.space.run("ping", "-c", "1", "-W", "20", pair.b.inner6)
    assert "1 received" in sent.stdout
    pair.traffic(back=False)
    pair.traffic(back=True)
    assert list(pair.node.peers) == [pair.b.public_key]
    drops = pair.node.ask("stats")["drops"]
    assert drops["peer_refused"] == drops["wanted_full"] == 0


def test_second_endpoint_of_the_directory_is_taken(rig: Rig, go: Program, tmp_path: Path) -> None:
    """At the first one nobody answers."""
    pair = Pair(rig, go, tmp_path, 4)
    pair.register(endpoint=True, before=Endpoint("10.99.0.99", 51821))
    ping(pair.a.space, pair.b.inner4)
    assert list(pair.node.peers) == [pair.b.public_key]


def test_unregistered_destination_is_refused(pair: Pair) -> None:
    assert unreached(pair.a.space, "10.9.0.77")
    until(lambda: pair.node.ask("stats")["drops"]["peer_refused"] >= 1, "its packets are dropped")
    assert pair.node.peers == {}


def test_removed_peer_is_cut_off(pair: Pair) -> None:
    pair.register(endpoint=True)
    pair.traffic(back=False)
    pair.remove()
    until(lambda: pair.node.peers == {}, "it is gone")
    assert unreached(pair.b.space, pair.a.inner4)
    pair.register(endpoint=True)
    until(lambda: not unreached(pair.a.space, pair.b.inner4), "it is back", timeout=60)


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "after a restart"])
def test_replay_of_a_peer_that_left_is_refused(
    rig: Rig, go: Program, tmp_path: Path, restarted: bool
) -> None:
    pair = Pair(rig, go, tmp_path, 4, idle_timeout=1.0, timestamps=str(tmp_path / "timestamps"))
    pair.register()
    with Capture(pair.a.space, tmp_path / "wire.pcap") as wire:
        pair.traffic(back=True)
        initiation = wire.wait(1, INITIATION)[-1].payload
    until(lambda: pair.node.peers == {}, "it left")
    if restarted:
        pair.node.stop()
        pair.node = pair.start()
    before = pair.node.ask("stats")["dropped"].get("replayed_initiation", 0)
    with pair.b.space.socket(pair.b.space.ipv4, socket.SOCK_DGRAM) as sock:
        sock.sendto(initiation, (pair.a.space.ipv4, 51820))
        until(
            lambda: pair.node.ask("stats")["dropped"].get("replayed_initiation", 0) == before + 1,
            "the replay is refused",
        )
    assert pair.node.peers == {}


def test_example_serves_a_database(rig: Rig, go: Program, tmp_path: Path) -> None:
    topology = rig.topology()
    a = rig.node(topology["a"], inner=["10.9.0.1/24", "fd09::1/64"])
    b: Node = rig.node(topology["b"], go, inner=["10.9.0.2/24", "fd09::2/64"], port=51821)
    b.peers.append(Peer(a, ["10.9.0.1/32", "fd09::1/128"], endpoint=a.outer(4)))
    b.start()
    file, database, said = tmp_path / "wg0.conf", str(tmp_path / "clients.sqlite"), tmp_path / "said"
    file.touch(0o600)
    file.write_text(
        f"[Interface]\nPrivateKey = {a.private_key}\nListenPort = 51820\nAddress = {', '.join(a.inner)}\n"
    )
    add = [sys.executable, str(EXAMPLE), "add", database, b.public_key, "10.9.0.2/32", "fd09::2/128"]
    subprocess.run(add, check=True, timeout=60)
    with said.open("wb") as out:
        example = subprocess.Popen(
            a.space.argv(sys.executable, str(EXAMPLE), "serve", database, str(file)), stdout=out, stderr=out
        )
    try:
        until(lambda: "UDP port 51820" in said.read_text() or example.poll() is not None, "the node is up")
        assert example.poll() is None, said.read_text()
        ping(b.space, a.inner4)
        ping(a.space, b.inner6)
        until(lambda: f"{b.public_key}: " in said.read_text(), "it prints its peer")
        example.send_signal(signal.SIGINT)
        assert example.wait(30) == 0, said.read_text()
    finally:
        example.kill()
        example.wait(10)
