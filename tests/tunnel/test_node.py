"""udpring.Node with a plane in memory: configuration, reload and end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fake_plane import FakePlane
from node_rig import KEYS, OWN, Planes, config, network, peer, run, until

import udpring
from udpring.errors import ClosedError, ConfigError, HostError
from udpring.tunnel import attachment, resolver
from udpring.tunnel import node as node_module
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Config, Endpoint, InterfaceConfig, PeerConfig
from udpring.tunnel.control import BootClock, End
from udpring.tunnel.interface import HostFacts, Plan
from udpring.tunnel.keys import generate_private_key, public_key, to_base64
from udpring.tunnel.link import Link, LinkWatch
from udpring.tunnel.node_events import InterfaceGone
from udpring.tunnel.plane_values import Event, EventKind, SocketAddress
from udpring.tunnel.resolver import Resolver
from udpring.wireguard.cipher import Cipher


def test_a_node_has_what_its_configuration_says(planes: Planes) -> None:
    psk = bytes(range(32))
    given = config(
        peer(
            0,
            "10.1.0.0/16",
            "fd01::/64",
            host="192.0.2.1",
            preshared_key=psk,
            persistent_keepalive=25,
            name="ann",
        ),
        peer(1, host="2001:db8::1"),
        listen_port=1234,
        fwmark=7,
    )

    async def body() -> None:
        async with udpring.Node(given, name="wg7", tier="mmsg") as node:
            options = {"tier": "mmsg", "listen_port": 1234, "fwmark": 7, "workers": None, "asks": False}
            options |= {"confined": False}
            assert planes.one.options == options  # type: ignore[attr-defined]
            assert (node.name, node.listen_port, node.tier) == ("wg7", 1234, "mmsg")
            assert node.public_key == to_base64(public_key(OWN))
            first, second = node.peers
            assert first.public_key == to_base64(KEYS[0])
            assert first.name == "ann"
            assert first.endpoint == ("192.0.2.1", 5000)
            assert first.allowed_ips == (network("10.1.0.0/16"), network("fd01::/64"))
            assert first.persistent_keepalive == 25
            assert first.last_handshake is None
            assert second.endpoint == ("2001:db8::1", 5001)
            assert node.stats.control.failures == 0
            tunnel = node._live()
            assert tunnel.device.by_id[7].preshared_key == psk
            # Keepalive was switched on, so a handshake starts at once.
            await until(lambda: planes.one.sent)

    run(body)


def test_without_a_private_key_nothing_is_opened(planes: Planes) -> None:
    async def body() -> None:
        with pytest.raises(ConfigError, match="PrivateKey"):
            await udpring.Node(Config()).start()

    run(body)
    assert not planes.opened


def test_refused_start_leaves_node_down(planes: Planes) -> None:
    planes.refuse = HostError("no TUN", cure="modprobe tun")

    async def body() -> None:
        node = udpring.Node(config())
        with pytest.raises(HostError, match="modprobe"):
            await node.start()
        for ask in (lambda: node.peers, lambda: node.stats, lambda: node.name):
            with pytest.raises(ClosedError):
                ask()
        with pytest.raises(ClosedError):
            await node.wait()
        await node.stop()
        planes.refuse = None
        async with node:
            assert node.peers == ()

    run(body)


def test_an_unknown_tier_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="uring-pool"):
        udpring.Node(config(), tier="fast")


def test_a_reload_leaves_peers_that_stay_alone(planes: Planes) -> None:
    before = config(peer(0, "10.0.0.0/24", host="192.0.2.1"), peer(1, "10.1.0.0/24"), peer(2, "10.2.0.0/24"))
    after = config(
        peer(0, "10.0.0.0/24", host="192.0.2.1"),
        peer(
            2,
            "10.1.0.0/24",
            "10.2.0.0/25",
            persistent_keepalive=5,
            name="new name",
            cipher=Cipher.AES_256_GCM,
        ),
        peer(3, "10.3.0.0/24", host="192.0.2.4"),
    )

    async def body() -> None:
        async with udpring.Node(before) as node:
            plane = planes.one
            ids = {
                each.public_key: found.id
                for each, found in zip(node.peers, node._live().device.by_id.values(), strict=True)
            }
            roamed = SocketAddress(bytes([203, 0, 113, 9]), 999)
            plane.stamp(7, endpoint=roamed)
            plane.calls.clear()
            await node.reload(after)
            assert node.config is after
            touched = [call for call in plane.calls if call[0] != "peer_state" and call[1:2] == (7,)]
            assert not touched, "the first peer did not change"
            assert not plane.named("bind")
            assert not plane.named("identity")
            found = {each.public_key: each for each in node.peers}
            assert set(found) == {to_base64(KEYS[number]) for number in (0, 2, 3)}
            assert found[to_base64(KEYS[0])].endpoint == ("203.0.113.9", 999), "it roamed, and that stays"
            assert found[to_base64(KEYS[2])].allowed_ips == (network("10.1.0.0/24"), network("10.2.0.0/25"))
            assert found[to_base64(KEYS[2])].persistent_keepalive == 5
            assert found[to_base64(KEYS[2])].name == "new name"
            assert found[to_base64(KEYS[2])].cipher == "aes-256-gcm"
            assert found[to_base64(KEYS[0])].cipher == "chacha20-poly1305"
            assert plane.named("keys_erase") == [("keys_erase", ids[to_base64(KEYS[2])])]
            assert node._live().find(KEYS[2]) == ids[to_base64(KEYS[2])]

    run(body)


def test_prefixes_may_change_places_in_one_reload(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0, "10.0.0.0/24"), peer(1, "10.1.0.0/24"))) as node:
            await node.reload(config(peer(0, "10.1.0.0/24"), peer(1, "10.0.0.0/24")))
            assert [each.allowed_ips for each in node.peers] == [
                (network("10.1.0.0/24"),),
                (network("10.0.0.0/24"),),
            ]

    run(body)


def test_reload_of_port_mark_key_keeps_sessions(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0), listen_port=1000)) as node:
            plane = planes.one
            await node.reload(config(peer(0), listen_port=2000, fwmark=5))
            assert plane.named("bind") == [("bind", 2000, 0)]
            assert plane.named("mark") == [("mark", 5)]
            assert not plane.named("keys_expire")
            await node.reload(config(peer(0)))
            assert node.listen_port == 2000, "none is asked for, so the present one stays"
            other = generate_private_key()
            await node.reload(Config(InterfaceConfig(private_key=other), (peer(0),)))
            assert plane.named("keys_expire")
            assert node.public_key == to_base64(public_key(other))

    run(body)


def test_taken_port_stops_reload_before_changes(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0), listen_port=1000)) as node:
            before = node.config
            with pytest.raises(OSError, match="taken"):
                await node.reload(config(peer(1), listen_port=53))
            assert node.config is before
            assert [each.public_key for each in node.peers] == [to_base64(KEYS[0])]
            with pytest.raises(ConfigError):
                await node.reload(Config())

    run(body)


def test_peer_with_own_key_is_left_out(planes: Planes, caplog: pytest.LogCaptureFixture) -> None:
    """The log reports it."""
    given = config(PeerConfig(public_key(OWN)), peer(0))

    async def body() -> None:
        async with udpring.Node(given) as node:
            assert [each.public_key for each in node.peers] == [to_base64(KEYS[0])]

    with caplog.at_level(logging.WARNING, "udpring"):
        run(body)
    assert "own public key" in caplog.text


def test_wait_returns_when_the_interface_ends(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config()) as node:
            planes.one.post(Event(EventKind.TUN_GONE))
            assert "deleted" in (await node.wait()).reason
        async with udpring.Node(config()) as node:
            waiting = asyncio.create_task(node.wait())
            await asyncio.sleep(0)
            await node.stop()
            assert "stopped" in (await waiting).reason
            await node.stop()

    run(body)


def test_events_begin_before_start_and_end_with_node(planes: Planes) -> None:
    async def body() -> None:
        node = udpring.Node(config(peer(0)))
        early = node.events()
        async with node:
            late = node.events()
            planes.one.post(Event(EventKind.TUN_GONE))
            gone = InterfaceGone("the interface was deleted")
            assert [each async for each in early] == [each async for each in late] == [gone]
        async with node:
            stopped = node.events()
        assert [each async for each in stopped] == []

    run(body)


def test_pause_lasts_until_resume(planes: Planes) -> None:
    async def body() -> None:
        async with udpring.Node(config(peer(0))) as node:
            assert not node.paused
            node.pause()
            assert node.paused
            await node.reload(config(peer(0), peer(1)))
            assert node.paused
            node.resume()
            assert not node.paused
            assert await node.drain(60) == ()
            assert node.paused
        for ask in (node.pause, node.resume, lambda: node.paused):
            with pytest.raises(ClosedError):
                ask()

    run(body)


def test_a_name_is_looked_up_until_it_is_known(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "FIRST_PAUSE", 0.01)
    asked: list[str] = []

    def look_up(endpoint: Endpoint) -> tuple[SocketAddress, ...]:
        asked.append(endpoint.host)
        assert threading.current_thread() is not threading.main_thread()
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "not now")
        return (SocketAddress(bytes([192, 0, 2, 7]), endpoint.port),)

    monkeypatch.setattr(node_module, "Resolver", lambda addresses: Resolver(look_up))

    async def body() -> None:
        async with udpring.Node(config(peer(0, host="vpn.example"))) as node:
            assert node.peers[0].endpoint is None
            await until(lambda: node.peers[0].endpoint)
            assert node.peers[0].endpoint == ("192.0.2.7", 5000)
            assert asked == ["vpn.example"] * 3
            await node.reload(config(peer(0, host="vpn.example")))
            assert len(asked) == 3, "the endpoint is the same one"
            await node.reload(config(peer(0, host="192.0.2.99")))
            assert node.peers[0].endpoint == ("192.0.2.99", 5000)

    run(body)


def test_silent_name_server_delays_nothing(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither start nor stop waits for it."""
    answer = threading.Event()

    def look_up(endpoint: Endpoint) -> tuple[SocketAddress, ...]:
        assert answer.wait(60)
        return (SocketAddress(bytes([192, 0, 2, 7]), endpoint.port),)

    monkeypatch.setattr(node_module, "Resolver", lambda addresses: Resolver(look_up))

    async def body() -> None:
        async with udpring.Node(config(*(peer(number, host="vpn.example") for number in range(4)))) as node:
            assert len(node.peers) == 4
            await node.reload(config(peer(1)))

    try:
        started = time.monotonic()
        run(body)
        assert time.monotonic() - started < 30
    finally:
        answer.set()


def test_look_up_gives_numeric_addresses_with_their_scope() -> None:
    assert resolver.look_up(Endpoint("127.0.0.1", 5)) == SocketAddress(bytes([127, 0, 0, 1]), 5)
    found = resolver.look_up(Endpoint("fe80::1%lo", 5))
    assert found == SocketAddress(ipaddress.ip_address("fe80::1").packed, 5, socket.if_nametoindex("lo"))


class Setups:
    """Replaces the interface set-up and keeps the plans."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.asked: list[Config] = []
        monkeypatch.setattr(attachment, "gather", self._gather)
        monkeypatch.setattr(attachment, "Setup", self._setup)

    def _gather(self, given: Config, interface: str, endpoints: object) -> HostFacts:
        self.asked.append(given)
        return HostFacts(default_mtu=1500, free_table=51820 + len(self.asked))

    def _setup(self, plan: Plan) -> Any:
        steps = self.steps

        class Recorded:
            def __init__(self) -> None:
                self.plan = plan

            def apply(self) -> None:
                assert threading.current_thread() is not threading.main_thread()
                steps.append(f"apply {self.plan.mtu} {self.plan.fwmark}")

            def change(self, other: Plan) -> None:
                self.plan = other
                steps.append(f"change {other.mtu} {other.fwmark}")

            def undo(self) -> None:
                steps.append("undo")

        return Recorded()


ADDRESS = (ipaddress.ip_interface("10.9.0.1/24"),)


class Elsewhere:
    """An attachment of a program's own, around a fake plane; keeps what the node asks of it."""

    def __init__(self, plane: FakePlane) -> None:
        self.plane: Any = plane
        self.gone: asyncio.Future[End] | None = asyncio.get_running_loop().create_future()
        self.asked: list[str] = []

    async def open(self, settings: attachment.PlaneSettings) -> Elsewhere:
        self.asked.append(f"open {settings.name} {settings.listen_port}")
        return self

    def link(self, changed: Callable[[], None]) -> LinkWatch:
        self.asked.append("link")
        return Link(self.plane.tun_fileno(), changed)

    async def set_up(self, config: Config, endpoints: Any, set_mark: Callable[[int], None]) -> None:
        self.asked.append(f"set up {[str(each) for each in endpoints]}")

    async def set_routes(self, settings: InterfaceConfig, added: Any, removed: Any) -> bool:
        self.asked.append(f"routes +{[str(each) for each in added]} -{[str(each) for each in removed]}")
        return True

    async def undo(self) -> None:
        self.asked.append("undo")

    async def close(self) -> None:
        assert self.plane.closed
        self.asked.append("close")


def test_node_asks_its_attachment_in_order() -> None:
    given = config(peer(0, host="192.0.2.1"), addresses=ADDRESS, listen_port=7)

    async def body() -> None:
        end = Elsewhere(FakePlane(BootClock()))
        async with udpring.Node(given, name="away0", attachment=end) as node:
            assert end.asked == ["open away0 7", "link", "set up ['192.0.2.1']"]
            await node.add_peer(peer(1, "10.1.0.0/24"))
            assert end.asked[3:] == ["routes +['10.1.0.0/24'] -[]"]
            assert end.gone is not None
            end.gone.set_result(End("the far side is gone"))
            assert (await asyncio.wait_for(node.wait(), 10)).reason == "the far side is gone"
        assert end.asked[4:] == ["undo", "close"]

    run(body)


def test_address_makes_node_set_up_interface(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    setups = Setups(monkeypatch)

    async def body() -> None:
        async with udpring.Node(config()):
            assert setups.steps == []
        async with udpring.Node(config(addresses=ADDRESS), set_up_interface=False):
            assert setups.steps == []
        async with udpring.Node(config(addresses=ADDRESS, mtu=1300)) as node:
            assert setups.steps == ["apply 1300 0"]
            await node.reload(config(addresses=ADDRESS, mtu=1400))
            assert setups.steps[1:] == ["change 1400 0"]
            await node.reload(config())
            assert setups.steps[2:] == ["undo"]

    run(body)
    assert setups.steps[3:] == []


def test_default_route_choices_survive_reload(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    setups = Setups(monkeypatch)
    given = config(peer(0, "0.0.0.0/0", host="192.0.2.1"), addresses=ADDRESS)

    async def body() -> None:
        async with udpring.Node(given) as node:
            assert setups.steps == ["apply 1420 51821"]
            assert planes.one.named("mark") == [("mark", 51821)]
            await node.reload(replace(given, peers=(*given.peers, peer(1))))
            assert setups.steps[1:] == ["change 1420 51821"]
            assert node._live().fwmark == 51821

    run(body)
    assert setups.steps[2:] == ["undo"]


def test_blocking_work_is_waited_for_even_when_cancelled() -> None:
    released = threading.Event()
    done = threading.Event()

    def work() -> None:
        assert released.wait(10)
        done.set()

    async def body() -> None:
        task = asyncio.create_task(run_blocking(work, name="work"))
        await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, released.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done.is_set()
        with pytest.raises(ZeroDivisionError):
            await run_blocking(lambda: 1 // 0, name="work")  # type: ignore[return-value]

    run(body)
