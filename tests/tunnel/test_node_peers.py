"""udpring.Node over a plane in memory: single peers added, changed and removed while it runs."""

from __future__ import annotations

import asyncio
import ipaddress
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from node_rig import KEYS, OWN, Planes, config, network, peer, run, until

import udpring
from udpring.errors import ConfigError, HostError, RingError
from udpring.tunnel import attachment, interface_setup
from udpring.tunnel import node as node_module
from udpring.tunnel.config import Endpoint, PeerConfig
from udpring.tunnel.interface import HostFacts
from udpring.tunnel.keys import public_key, to_base64
from udpring.tunnel.plane_values import SocketAddress
from udpring.tunnel.resolver import Resolver
from udpring.wireguard.cipher import Cipher


def test_add_peer_gives_what_a_configuration_gives(planes: Planes) -> None:
    wanted = peer(
        1, "10.1.0.0/24", host="192.0.2.1", preshared_key=bytes(range(32)), persistent_keepalive=9, name="bob"
    )

    async def body() -> None:
        async with udpring.Node(config(peer(0, "10.0.0.0/24"))) as node:
            first = node.peer(KEYS[0])
            await node.add_peer(wanted)
            assert [each.name for each in node.peers] == ["", "bob"]
            found = node.peer(to_base64(KEYS[1]))
            assert found is not None
            assert (found.endpoint, found.allowed_ips) == (("192.0.2.1", 5001), (network("10.1.0.0/24"),))
            assert node._live().device.peers[KEYS[1]].preshared_key == bytes(range(32))
            assert node.config == config(peer(0, "10.0.0.0/24"), wanted)
            assert node.peer(KEYS[0]) == first
            await until(lambda: planes.one.sent)  # its keepalive starts a handshake

    run(body)


def test_prefix_moves_to_the_added_peer(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0, "10.0.0.0/24", "10.9.0.0/24"))) as node:
            await node.add_peer(peer(1, "10.9.0.0/24"))
            assert [each.allowed_ips for each in node.config.peers] == [
                (network("10.0.0.0/24"),),
                (network("10.9.0.0/24"),),
            ]

    run(body)


def test_shared_prefix_stays_at_the_last_peer(planes: Planes) -> None:
    given = config(peer(0, "10.9.0.0/24"), peer(1, "10.9.0.0/24"))

    async def body() -> None:
        async with udpring.Node(given) as node:
            for _ in range(3):
                assert [each.allowed_ips for each in node.peers] == [(), (network("10.9.0.0/24"),)]
                await node.reload(given)

    run(body)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [(peer(0), "update_peer"), (PeerConfig(public_key(OWN)), "own public key")],
    ids=["known", "own key"],
)
def test_refused_add_changes_nothing(planes: Planes, wanted: PeerConfig, said: str) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0))) as node:
            with pytest.raises(ConfigError, match=said):
                await node.add_peer(wanted)
            assert node.config == config(peer(0))

    run(body)


def test_add_that_fails_half_way_leaves_no_peer(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config()) as node:
            planes.one.fail["prefixes"] = RingError("no room", errno=12)
            with pytest.raises(RingError):
                await node.add_peer(peer(0, "10.0.0.0/24"))
            assert (node.peers, node.config.peers) == ((), ())
            planes.one.fail.clear()
            await node.add_peer(peer(0, "10.0.0.0/24"))
            assert len(node.peers) == 1

    run(body)


def test_update_peer_touches_only_what_differs(planes: Planes) -> None:
    before = peer(0, "10.0.0.0/24", "10.1.0.0/24", host="192.0.2.1")

    async def body() -> None:
        async with udpring.Node(config(before, peer(1))) as node:
            plane = planes.one
            plane.stamp(7, endpoint=SocketAddress(bytes([203, 0, 113, 9]), 999))
            plane.calls.clear()
            after = replace(before, allowed_ips=(network("10.1.0.0/24"),), name="new")
            await node.update_peer(after)
            assert plane.named("prefixes") == [("prefixes", 1)]
            assert not plane.named("endpoint")
            found = node.peer(KEYS[0])
            assert found is not None
            assert (found.endpoint, found.name) == (("203.0.113.9", 999), "new")
            assert node.config.peers[0] == after
            await node.update_peer(
                replace(after, cipher=Cipher.AES_256_GCM, endpoint=Endpoint("192.0.2.2", 5))
            )
            assert plane.named("keys_erase") == [("keys_erase", 7)]
            assert plane.named("endpoint") == [("endpoint", 7, SocketAddress(bytes([192, 0, 2, 2]), 5))]
            with pytest.raises(ConfigError, match="add_peer"):
                await node.update_peer(peer(3))

    run(body)


def test_offload_changes_on_a_live_node(planes: Planes) -> None:
    first = config(peer(0), peer(1))

    async def body() -> None:
        async with udpring.Node(first) as node:
            plane = planes.one
            assert not plane.named("trains")
            await node.update_peer(replace(peer(0), offload=False))
            assert plane.named("trains") == [("trains", 7, False)]
            assert node.config.peers[0].offload is False
            plane.calls.clear()
            off = replace(first, interface=replace(first.interface, offload=False))
            await node.reload(off)
            assert {peer for _, peer, on in plane.named("trains") if not on} == set(plane.peers)
            assert node.config == off
            plane.calls.clear()
            await node.reload(first)
            assert sorted(plane.named("trains")) == [("trains", peer, True) for peer in sorted(plane.peers)]

    run(body)


def test_removed_peer_is_gone(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0), peer(1), peer(2))) as node:
            await node.remove_peer(KEYS[0])
            await node.remove_peer(to_base64(KEYS[2]))
            assert node.config == config(peer(1))
            assert node.peer(KEYS[0]) is None
            with pytest.raises(ConfigError, match="no peer"):
                await node.remove_peer(KEYS[0])
            for wrong in ("short", b"short"):
                with pytest.raises(ConfigError, match="public key"):
                    await node.remove_peer(wrong)
            await node.reload(config(peer(0)))
            assert node.config == config(peer(0))

    run(body)


def test_name_of_added_peer_is_looked_up_later(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    """add_peer does not wait for it, and remove_peer ends the search."""
    answers = [OSError("not now"), SocketAddress(bytes([192, 0, 2, 7]), 5000)]
    monkeypatch.setattr("udpring.tunnel.resolver.FIRST_PAUSE", 0.01)

    def look_up(endpoint: Endpoint) -> tuple[SocketAddress, ...]:
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return (found,)

    monkeypatch.setattr(node_module, "Resolver", lambda addresses: Resolver(look_up))

    async def body() -> None:
        async with udpring.Node(config()) as node:
            await node.add_peer(peer(0, host="vpn.example"))
            assert node.peers[0].endpoint is None
            await until(lambda: node.peers[0].endpoint == ("192.0.2.7", 5000))
            assert node.config.peers[0].endpoint == Endpoint("vpn.example", 5000)
            answers.append(OSError("never"))
            await node.add_peer(peer(1, host="vpn.example"))
            await node.remove_peer(KEYS[1])

    run(body)


def test_add_and_remove_cost_the_same_among_many(planes: Planes) -> None:
    """Counted in commands to the plane, which take the time."""

    def many(count: int) -> list[PeerConfig]:
        return [PeerConfig((number + 1).to_bytes(32, "big")) for number in range(count)]

    costs = []

    async def body(count: int) -> None:
        async with udpring.Node(config(*many(count))) as node:
            await asyncio.sleep(0)
            planes.opened[-1].calls.clear()
            await node.add_peer(peer(0, "10.0.0.0/24", host="192.0.2.1"))
            await node.update_peer(peer(0, "10.1.0.0/24", host="192.0.2.2"))
            assert node.peer(KEYS[0]) is not None
            await node.remove_peer(KEYS[0])
            costs.append([call[0] for call in planes.opened[-1].calls if call[0] != "peer_state"])
            assert "peer_states" not in costs[-1]

    for count in (10, 3000):
        run(lambda count=count: body(count))  # type: ignore[misc]
    assert costs[0] == costs[1]


def test_config_shows_what_wg_changed(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0, "10.0.0.0/24"))) as node:
            tunnel = node._live()
            number = tunnel.add_peer(KEYS[1])
            tunnel.set_endpoint(number, SocketAddress(bytes([192, 0, 2, 1]), 77))
            tunnel.set_keepalive(number, 5)
            tunnel.set_listen_port(1234)
            tunnel.set_fwmark(9)
            live = node.config
            assert (live.interface.listen_port, live.interface.fwmark) == (1234, 9)
            assert live.peers[1] == PeerConfig(
                KEYS[1], endpoint=Endpoint("192.0.2.1", 77), persistent_keepalive=5
            )
            assert node.config is live, "nothing has changed since"

    run(body)


class Host:
    """Keeps the ip commands that change something, in place of a host. It has no routes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.refused = ""
        self.plans = 0
        monkeypatch.setattr(interface_setup, "_run", self._run)
        monkeypatch.setattr(attachment, "gather", self._gather)

    def _gather(self, *arguments: object) -> HostFacts:
        self.plans += 1
        return HostFacts(firewall=None)

    def _run(self, argv: Sequence[str], stdin: str = "", **rest: Any) -> subprocess.CompletedProcess[str]:
        if "show" in argv:
            return subprocess.CompletedProcess(argv, 0, "[]", "")
        lines = stdin.splitlines() if "-batch" in argv else [" ".join(argv[1:])]
        for number, line in enumerate(lines, 1):
            if self.refused and self.refused in line:
                return subprocess.CompletedProcess(argv, 1, "", f"Error: no.\nCommand failed -:{number}\n")
            self.ran.append(line)
        return subprocess.CompletedProcess(argv, 0, "", "")

    def take(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


ADDRESS = (ipaddress.ip_interface("10.9.0.1/24"),)


def test_routes_follow_single_peers(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)

    async def body() -> None:
        async with udpring.Node(config(peer(0, "10.1.0.0/16"), addresses=ADDRESS)) as node:
            host.take()
            await node.add_peer(peer(1, "10.2.0.0/16", "10.9.0.7/32", "10.1.0.0/16"))
            assert host.take() == ["route add 10.2.0.0/16 dev udpring0"], "one is connected, one was there"
            await node.update_peer(peer(1, "10.3.0.0/16", "10.1.0.0/16"))
            assert host.take() == ["route del 10.2.0.0/16 dev udpring0", "route add 10.3.0.0/16 dev udpring0"]
            await node.remove_peer(KEYS[0])
            assert host.take() == [], "its prefix has moved away"
            host.refused = "10.4.0.0"
            with pytest.raises(HostError, match="route add"):
                await node.add_peer(peer(2, "10.4.0.0/16"))
            assert node.peer(KEYS[2]) is None
            assert host.take() == []
            await node.remove_peer(KEYS[1])
            assert sorted(host.take()) == [
                "route del 10.1.0.0/16 dev udpring0",
                "route del 10.3.0.0/16 dev udpring0",
            ]
            assert host.plans == 1
            await node.reload(config(peer(0, "10.1.0.0/16"), addresses=ADDRESS))
            assert host.take() == ["route add 10.1.0.0/16 dev udpring0"]

    run(body)


def test_default_route_of_added_peer_makes_a_plan(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)

    async def body() -> None:
        async with udpring.Node(config(addresses=ADDRESS)) as node:
            host.take()
            await node.add_peer(peer(0, "0.0.0.0/0"))
            assert "route add 0.0.0.0/0 dev udpring0 table 51820" in host.take()
            assert node._live().fwmark == 51820
            await node.remove_peer(KEYS[0])
            assert "route del 0.0.0.0/0 dev udpring0 table 51820" in host.take()

    run(body)


def test_no_routes_without_interface_set_up(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)

    async def body() -> None:
        async with udpring.Node(config()) as node:
            await node.add_peer(peer(0, "10.1.0.0/16", "0.0.0.0/0"))
            await node.remove_peer(KEYS[0])

    run(body)
    assert not host.ran
