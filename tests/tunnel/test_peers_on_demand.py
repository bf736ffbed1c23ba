"""A node with a directory and a plane in memory: questions, answers, and peers that leave."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_plane import FakePlane
from node_rig import Planes, config, network, run, until

import udpring
from udpring.tunnel import directory_limits as limits
from udpring.tunnel.config import Endpoint, IPAddress, PeerConfig
from udpring.tunnel.directory_mapping import MappingDirectory
from udpring.tunnel.directory_sqlite import SqliteDirectory
from udpring.tunnel.keys import from_base64, generate_private_key, public_key, to_base64
from udpring.tunnel.node import Node
from udpring.tunnel.plane_values import Event, EventKind, PeerState, Prefix, SocketAddress
from udpring.tunnel.timestamp_file import timestamp_path
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.cookie import MacSigner
from udpring.wireguard.messages import pack_initiation
from udpring.wireguard.noise import Initiator, StaticKey
from udpring.wireguard.tai64n import next_timestamp

SOURCE = SocketAddress(bytes([192, 0, 2, 1]), 4000)
SECOND = 1_000_000_000
PRIVATE = generate_private_key()
KEY = public_key(PRIVATE)
ADDRESS = bytes([10, 0, 0, 2])
PEER = PeerConfig(KEY, allowed_ips=(network("10.0.0.2/32"),), endpoint=Endpoint("192.0.2.9", 5))


def timestamps() -> Callable[[], bytes]:
    last: list[bytes | None] = [None]

    def following() -> bytes:
        last[0] = next_timestamp(1_800_000_000_000_000_000, last[0])
        return last[0]

    return following


following = timestamps()


class Telephone:
    """A directory whose answers the test gives, one call after the other."""

    def __init__(self) -> None:
        self.asked: list[bytes | IPAddress] = []
        self.answers: list[asyncio.Future[Any]] = []

    def _ask(self, subject: bytes | IPAddress) -> asyncio.Future[Any]:
        self.asked.append(subject)
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def by_key(self, key: bytes) -> PeerConfig | None:
        answer: PeerConfig | None = await self._ask(key)
        return answer

    async def by_address(self, ip: IPAddress) -> PeerConfig | None:
        answer: PeerConfig | None = await self._ask(ip)
        return answer


class Live:
    """A node with a directory, its events, and actions of the test."""

    def __init__(self, node: Node, plane: FakePlane) -> None:
        self.node = node
        self.plane = plane
        self.reported: list[tuple[bytes | None, str]] = []
        on_demand = node._on_demand
        assert on_demand is not None
        on_demand._refused = lambda key, why: self.reported.append((key, why))

    def initiation(self, private: bytes = PRIVATE, timestamp: bytes | None = None, **rest: Cipher) -> bytes:
        ours = from_base64(self.node.public_key)
        cipher = rest.get("cipher", Cipher.CHACHA20_POLY1305)
        initiator = Initiator(StaticKey(private), ours, prologue=cipher.prologue, cipher=cipher)
        body = initiator.write_initiation(generate_private_key(), timestamp or following())
        return MacSigner(ours).sign(pack_initiation(5, body, cipher), 0)

    def arrives(self, message: bytes, source: SocketAddress = SOURCE) -> None:
        self.plane.arrive(message, source)

    def wanted(self, ip: bytes = ADDRESS) -> None:
        self.plane.post(Event(EventKind.PEER_WANTED, source=SocketAddress(ip, 0)))

    def dropped(self, reason: str) -> int:
        return self.node.stats.control.dropped.get(reason, 0)

    @property
    def responses(self) -> int:
        return sum(each["message"][0] == 2 for each in self.plane.sent)

    @property
    def initiations(self) -> int:
        return sum(each["message"][0] == 1 for each in self.plane.sent)

    @property
    def keys(self) -> list[str]:
        return [peer.public_key for peer in self.node.peers]

    def refusals(self) -> list[tuple[bytes, int]]:
        return [call[1:] for call in self.plane.named("refuse")]


def with_node(
    planes: Planes, body: Callable[[Live], Any], directory: Any, *peers: PeerConfig, **options: Any
) -> None:
    async def bounded() -> None:
        async with udpring.Node(config(*peers), peers=directory, **options) as node:
            await body(Live(node, planes.one))

    run(bounded)


# ---- initiations ----


def test_initiation_of_a_registered_key_is_answered(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        (peer,) = live.node.peers
        assert peer.public_key == to_base64(KEY)
        assert peer.endpoint == ("192.0.2.1", 4000), "where it is, not where the directory has it"
        assert peer.allowed_ips == PEER.allowed_ips
        assert live.node.config.peers == (), "it is not configured"

    with_node(planes, body, MappingDirectory([PEER]))


def test_unknown_key_is_asked_for_once(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        for _ in range(3):
            live.arrives(live.initiation())
        await until(lambda: directory.asked)
        await until(lambda: live.node.stats.control.events == 3)
        assert directory.asked == [KEY]
        directory.answers[0].set_result(PEER)
        await until(lambda: live.responses)
        assert live.dropped("initiation_flood") + live.responses == 3

    with_node(planes, body, directory)


def test_refused_key_is_not_asked_for_again(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: directory.asked)
        directory.answers[0].set_result(None)
        await until(lambda: live.dropped("unknown_peer") == 1)
        live.arrives(live.initiation())
        await until(lambda: live.dropped("unknown_peer") == 2)
        assert len(directory.asked) == 1
        assert live.reported == []

    with_node(planes, body, directory)


def test_changed_directory_may_have_a_refused_key(planes: Planes) -> None:
    directory = MappingDirectory()

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        live.wanted()
        await until(lambda: live.dropped("unknown_peer") == 1 and live.refusals())
        directory.put(PEER)
        await until(lambda: live.plane.named("forget_refusals"))
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)

    with_node(planes, body, directory)


def test_sender_without_the_private_key_adds_nobody(planes: Planes) -> None:
    async def body(live: Live) -> None:
        message = bytearray(live.initiation())
        message[90] ^= 1
        live.arrives(MacSigner(from_base64(live.node.public_key)).sign(bytes(message[:-32]), 0))
        await until(lambda: live.dropped("unauthenticated") == 1)
        assert not live.keys
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)

    with_node(planes, body, MappingDirectory([PEER]))


def test_cipher_of_the_peer_counts(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.dropped("cipher_mismatch") == 1)
        live.arrives(live.initiation(cipher=Cipher.AES_256_GCM))
        await until(lambda: live.responses == 1)

    with_node(planes, body, MappingDirectory([replace(PEER, cipher=Cipher.AES_256_GCM)]))


# ---- packets ----


def test_wanted_destination_starts_a_handshake(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(live: Live) -> None:
        apply = live.plane.prefixes

        def release(prefixes: list[Prefix]) -> None:
            apply(prefixes)
            live.plane.stamp(prefixes[0].peer, staged=1)

        monkeypatch.setattr(live.plane, "prefixes", release)
        live.wanted()
        await until(lambda: live.initiations == 1)
        (number,) = live.plane.peers
        assert [call for call in live.plane.calls if call[0] in ("endpoint", "prefixes")] == [
            ("endpoint", number, SocketAddress(bytes([192, 0, 2, 9]), 5)),
            ("prefixes", 1),
        ], "the peer is complete when its packets are let go"

    with_node(planes, body, MappingDirectory([PEER]))


def test_wanted_destination_of_nobody_is_refused(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.wanted(bytes([10, 9, 9, 9]))
        await until(lambda: live.refusals() == [(bytes([10, 9, 9, 9]), int(limits.REFUSED_SECONDS * 1e9))])
        live.wanted(bytes([10, 9, 9, 9]))
        await until(lambda: len(live.refusals()) == 2)
        assert live.reported == []

    with_node(planes, body, MappingDirectory([PEER]))


def test_ipv6_destinations_are_asked_for(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        live.wanted(ipaddress.ip_address("fd00::2").packed)
        await until(lambda: directory.asked == [ipaddress.ip_address("fd00::2")])
        directory.answers[0].set_result(replace(PEER, allowed_ips=(network("fd00::/64"),)))
        await until(lambda: live.keys)

    with_node(planes, body, directory)


def test_further_endpoints_are_tried_in_order(planes: Planes) -> None:
    directory = MappingDirectory(
        [replace(PEER, fallbacks=(Endpoint("192.0.2.10", 5), Endpoint("192.0.2.11", 5)))]
    )

    async def body(live: Live) -> None:
        live.wanted()
        await until(lambda: live.keys)
        (number,) = live.plane.peers
        for last in (9, 10, 11, 9):
            assert live.node.peers[0].endpoint == (f"192.0.2.{last}", 5)
            live.node._tunnel.control.following.unanswered(number)  # type: ignore[union-attr]

    with_node(planes, body, directory)


def test_address_serves_where_the_name_before_it_has_none(planes: Planes) -> None:
    """And names alone refuse the peer."""
    names = Endpoint("one.invalid", 5), Endpoint("two.invalid", 5)
    directory = MappingDirectory([replace(PEER, endpoint=names[0], fallbacks=(Endpoint("192.0.2.10", 5),))])

    async def body(live: Live) -> None:
        live.wanted()
        await until(lambda: live.keys)
        assert live.node.peers[0].endpoint == ("192.0.2.10", 5)
        directory.remove(KEY)
        await until(lambda: not live.keys)
        directory.put(replace(PEER, endpoint=names[0], fallbacks=names[1:]))
        await asyncio.sleep(0)
        live.wanted()
        await until(lambda: live.reported)
        for name in names:
            assert f"its endpoint {name} has no address" in live.reported[0][1]
        assert not live.keys

    with_node(planes, body, directory)


def test_peer_that_initiates_needs_no_look_up(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "udpring.tunnel.host_addresses.socket.getaddrinfo", lambda *words, **_: asked.append(words)
    )

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        assert live.node.peers[0].endpoint == ("192.0.2.1", 4000)
        assert not asked

    with_node(planes, body, MappingDirectory([replace(PEER, endpoint=Endpoint("name.invalid", 5))]))


def test_changed_endpoints_move_the_peer(planes: Planes) -> None:
    directory = MappingDirectory([PEER])

    async def body(live: Live) -> None:
        live.wanted()
        await until(lambda: live.keys)
        directory.put(replace(PEER, endpoint=Endpoint("192.0.2.20", 6), fallbacks=(PEER.endpoint,)))  # type: ignore[arg-type]
        await until(lambda: live.node.peers[0].endpoint == ("192.0.2.20", 6))
        directory.put(replace(PEER, endpoint=None))
        await until(lambda: live.node._on_demand._directory_peers.get(KEY).endpoint is None)  # type: ignore[union-attr]
        assert live.node.peers[0].endpoint == ("192.0.2.20", 6), "it stays where it is"

    with_node(planes, body, directory)


def test_destination_without_an_endpoint_is_refused(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.wanted()
        await until(lambda: live.reported)
        assert live.reported[0][0] == KEY
        assert "no endpoint" in live.reported[0][1]
        assert not live.keys
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)

    with_node(planes, body, MappingDirectory([replace(PEER, endpoint=None)]))


# ---- answers that cannot be used ----

OTHER_KEY = public_key(generate_private_key())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RuntimeError("out of order"), "out of order"),
        ("a string", "not a PeerConfig"),
        (replace(PEER, public_key=OTHER_KEY), "another key"),
        (replace(PEER, allowed_ips=("10.0.0.2/32",)), "the directory failed"),
    ],
    ids=["raises", "no peer", "other key", "no networks"],
)
def test_wrong_answer_refuses_the_key(planes: Planes, answer: Any, words: str) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: directory.asked)
        if isinstance(answer, Exception):
            directory.answers[0].set_exception(answer)
        else:
            directory.answers[0].set_result(answer)
        await until(lambda: live.reported)
        assert live.reported[0][0] == KEY
        assert words in live.reported[0][1]
        assert not live.keys
        other = generate_private_key()
        live.arrives(live.initiation(other))
        await until(lambda: len(directory.asked) == 2)
        directory.answers[1].set_result(replace(PEER, public_key=public_key(other)))
        await until(lambda: live.responses == 1)

    with_node(planes, body, directory)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RuntimeError("out of order"), "out of order"),
        (42, "not a PeerConfig"),
        (replace(PEER, allowed_ips=(network("10.0.0.3/32"),)), "do not have 10.0.0.2"),
    ],
    ids=["raises", "no peer", "other address"],
)
def test_wrong_answer_refuses_the_destination(planes: Planes, answer: Any, words: str) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        live.wanted()
        await until(lambda: directory.asked)
        if isinstance(answer, Exception):
            directory.answers[0].set_exception(answer)
        else:
            directory.answers[0].set_result(answer)
        await until(lambda: live.reported)
        assert words in live.reported[0][1]
        assert live.refusals() == [(ADDRESS, int(limits.FAILED_SECONDS * 1e9))]
        assert not live.keys

    with_node(planes, body, directory)


def test_directory_that_hangs_refuses_in_time(planes: Planes) -> None:
    """It also ignores that it is cancelled, and takes up its place for that."""

    class Hangs:
        def __init__(self) -> None:
            self.end = asyncio.Event()

        async def by_key(self, key: bytes) -> PeerConfig | None:
            while not self.end.is_set():
                try:
                    await self.end.wait()
                except asyncio.CancelledError:
                    continue
            return PEER

        async def by_address(self, ip: IPAddress) -> PeerConfig | None:
            await self.end.wait()
            return PEER

    directory = Hangs()

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        live.wanted()
        await until(lambda: len(live.reported) == 2)
        assert all("no answer in 0.05 s" in why for _, why in live.reported)
        assert live.refusals() == [(ADDRESS, int(limits.FAILED_SECONDS * 1e9))]
        assert live.node._on_demand is not None
        assert len(live.node._on_demand._keys) == 1
        directory.end.set()
        await until(lambda: live.node._on_demand is not None and not len(live.node._on_demand._keys))
        assert not live.keys, "the late answer counts for nothing"

    with_node(planes, body, directory, answer_timeout=0.05)


def test_refusals_are_events_of_the_node(planes: Planes) -> None:
    directory = Telephone()

    async def body() -> None:
        async with udpring.Node(config(), peers=directory) as node:
            events = node.events()
            planes.one.post(Event(EventKind.PEER_WANTED, source=SocketAddress(ADDRESS, 0)))
            await until(lambda: directory.asked)
            directory.answers[0].set_exception(RuntimeError("out of order"))
            event = await anext(events)
            assert isinstance(event, udpring.PeerRefused)
            assert event.public_key == ""
            assert event.reason == "10.0.0.2: the directory failed: RuntimeError('out of order')"
            planes.one.post(Event(EventKind.PEER_WANTED, source=SocketAddress(bytes([10, 0, 0, 3]), 0)))
            await until(lambda: len(directory.asked) == 2)
            directory.answers[1].set_result(PEER)
            event = await anext(events)
            assert isinstance(event, udpring.PeerRefused)
            assert event.public_key == to_base64(KEY)

    run(body)


def test_paused_node_admits_nobody(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: directory.asked)
        live.node.pause()
        directory.answers[0].set_result(PEER)
        await until(lambda: live.dropped("paused") == 1)
        assert not live.keys

    with_node(planes, body, directory)


def test_overlapping_prefixes_are_refused(planes: Planes) -> None:
    private = generate_private_key()
    wide = PeerConfig(public_key(private), allowed_ips=(network("10.0.0.0/24"),))

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        live.arrives(live.initiation(private))
        await until(lambda: live.reported)
        assert "10.0.0.0/24 overlap" in live.reported[0][1]
        assert live.keys == [to_base64(KEY)]

    with_node(planes, body, MappingDirectory([PEER, wide]))


def test_prefix_of_a_configured_peer_is_not_taken(planes: Planes) -> None:
    configured = replace(PEER, public_key=OTHER_KEY)

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.reported)
        assert "another peer has one of its AllowedIPs" in live.reported[0][1]
        assert live.keys == [to_base64(OTHER_KEY)]
        assert live.node.peers[0].allowed_ips == PEER.allowed_ips

    with_node(planes, body, MappingDirectory([PEER]), configured)


# ---- bounds ----


def test_questions_of_one_source_are_bounded(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        for _ in range(limits.KEYS_PER_SOURCE + 2):
            live.arrives(live.initiation(generate_private_key()))
        await until(lambda: live.dropped("too_many_questions") == 2)
        await until(lambda: len(directory.asked) == limits.KEYS_PER_SOURCE)
        live.arrives(live.initiation(), SocketAddress(bytes([192, 0, 2, 2]), 1))
        await until(lambda: len(directory.asked) == limits.KEYS_PER_SOURCE + 1)
        for answer in directory.answers:
            answer.set_result(None)
        await until(lambda: live.dropped("unknown_peer") == limits.KEYS_PER_SOURCE + 1)
        live.arrives(live.initiation(generate_private_key()))
        await until(lambda: len(directory.asked) == limits.KEYS_PER_SOURCE + 2)

    with_node(planes, body, directory)


def test_questions_of_a_network_count_together(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        for number in range(limits.KEYS_PER_SOURCE + 1):
            source = SocketAddress(ipaddress.ip_address(f"2001:db8::{number + 1}").packed, 1)
            live.arrives(live.initiation(generate_private_key()), source)
        await until(lambda: live.dropped("too_many_questions") == 1)

    with_node(planes, body, directory)


def test_questions_at_once_are_bounded(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        for number in range(limits.KEYS_AT_ONCE + 1):
            source = SocketAddress(bytes([10, 1, number >> 8, number & 255]), 1)
            live.arrives(live.initiation(generate_private_key()), source)
        for number in range(limits.ADDRESSES_AT_ONCE + 1):
            live.wanted(bytes([10, 2, number >> 8, number & 255]))
        await until(lambda: live.dropped("too_many_questions") == 1 and live.refusals())
        await until(lambda: len(directory.asked) == limits.KEYS_AT_ONCE + limits.ADDRESSES_AT_ONCE)
        assert live.refusals() == [(bytes([10, 2, 1, 0]), 0)], "the plane asks again"

    with_node(planes, body, directory)


def test_flood_of_unknown_keys_is_load(planes: Planes) -> None:
    """Twice as many as may come, so that more than that come in one second or the next."""

    async def body(live: Live) -> None:
        message = live.initiation()
        for _ in range(2 * limits.UNKNOWN_A_SECOND):
            live.arrives(message)
        await until(lambda: live.plane.named("under_load"))

    with_node(planes, body, MappingDirectory())


def test_initiations_that_wait_are_bounded(planes: Planes) -> None:
    directory = Telephone()

    async def body(live: Live) -> None:
        for _ in range(limits.INITIATIONS_PER_KEY + 3):
            live.arrives(live.initiation())
        await until(lambda: live.dropped("too_many_questions") == 3)
        assert len(directory.asked) == 1

    with_node(planes, body, directory)


# ---- leaving ----


def test_idle_peer_leaves(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        await until(lambda: not live.keys)
        live.arrives(live.initiation())
        await until(lambda: live.responses == 2)

    with_node(planes, body, MappingDirectory([PEER]), idle_timeout=0.2)


def test_peer_with_traffic_stays(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(live: Live) -> None:
        read = live.plane.peer_state

        def busy(peer: int, **options: bool) -> PeerState:
            return replace(read(peer, **options), last_traversal=live.plane.clock.boot())

        began = live.plane.clock.boot()
        with monkeypatch.context() as patched:
            patched.setattr(live.plane, "peer_state", busy)
            live.arrives(live.initiation())
            await until(lambda: live.responses == 1 and live.plane.clock.boot() - began > SECOND)
            assert live.keys
        await until(lambda: not live.keys)

    with_node(planes, body, MappingDirectory([PEER]), idle_timeout=0.2)


def test_configured_peer_never_leaves(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        await live.node.add_peer(PEER)
        assert live.node.config.peers == (PEER,)
        directory.remove(KEY)
        other = generate_private_key()
        directory.put(PeerConfig(public_key(other), allowed_ips=(network("10.0.0.7/32"),)))
        live.arrives(live.initiation(other))
        await until(lambda: live.responses == 2)
        await until(lambda: live.keys == [to_base64(KEY)])

    directory = MappingDirectory([PEER])
    with_node(planes, body, directory, idle_timeout=0.2)


def test_initiation_of_a_peer_that_left_stays_a_replay(planes: Planes) -> None:
    async def body(live: Live) -> None:
        captured = live.initiation()
        live.arrives(captured)
        await until(lambda: live.responses == 1)
        await until(lambda: not live.keys)
        live.arrives(captured)
        await until(lambda: live.dropped("replayed_initiation") == 1)
        assert not live.keys, "it is not even added"
        assert live.responses == 1

    with_node(planes, body, MappingDirectory([PEER]), idle_timeout=0.1)


def test_timestamp_file_keeps_peers_that_left(planes: Planes, tmp_path: Any) -> None:
    directory = MappingDirectory([PEER])
    captured: list[bytes] = []

    async def first(live: Live) -> None:
        captured.append(live.initiation())
        live.arrives(captured[0])
        await until(lambda: live.responses == 1)
        await until(lambda: not live.keys)

    async def second(live: Live) -> None:
        live.arrives(captured[0])
        await until(lambda: live.dropped("replayed_initiation") == 1)

    with_node(planes, first, directory, idle_timeout=0.1, timestamps=tmp_path)
    path = timestamp_path(tmp_path, planes.opened[0].name)
    assert path is not None
    assert KEY.hex() in path.read_text()
    planes.opened.clear()
    with_node(planes, second, directory, timestamps=tmp_path)


def test_peer_that_left_is_found_where_it_was(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        await until(lambda: not live.keys)
        live.wanted()
        await until(lambda: live.plane.named("endpoint"))
        (call,) = live.plane.named("endpoint")
        assert call[2] == SOURCE

    with_node(planes, body, MappingDirectory([replace(PEER, endpoint=None)]), idle_timeout=0.1)


# ---- changes ----


def test_removed_peer_leaves_at_once(planes: Planes) -> None:
    directory = MappingDirectory([PEER])

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        directory.remove(KEY)
        await until(lambda: not live.keys)
        live.arrives(live.initiation())
        await until(lambda: live.dropped("unknown_peer") == 1)

    with_node(planes, body, directory)


def test_changed_peer_keeps_its_session(planes: Planes) -> None:
    directory = MappingDirectory([PEER])

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        (number,) = live.plane.peers
        changed = replace(PEER, allowed_ips=(network("10.0.0.3/32"),), persistent_keepalive=25)
        directory.put(changed)
        await until(lambda: live.node.peers[0].allowed_ips == changed.allowed_ips)
        await until(lambda: live.node.peers[0].persistent_keepalive == 25)
        assert list(live.plane.peers) == [number]
        assert live.node.peers[0].endpoint == ("192.0.2.1", 4000)

    with_node(planes, body, directory)


def test_failing_feed_is_followed_again(planes: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    from udpring.tunnel import peers_on_demand  # noqa: PLC0415

    monkeypatch.setattr(peers_on_demand, "RETRY_FIRST", 0.01)

    class Fails(MappingDirectory):
        times = 0

        async def changes(self) -> AsyncIterator[bytes]:  # type: ignore[override]
            self.times += 1
            if self.times == 1:
                raise RuntimeError("no feed")
            async for key in super().changes():
                yield key

    directory = Fails([PEER])

    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1 and directory.times == 2)
        directory.remove(KEY)
        await until(lambda: not live.keys)

    with_node(planes, body, directory)


def test_reload_leaves_peers_of_the_directory_alone(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        await live.node.reload(config())
        assert live.keys == [to_base64(KEY)]
        await live.node.reload(config(PEER))
        assert live.keys == [to_base64(KEY)]
        await live.node.reload(config())
        assert live.keys == [], "it became a peer of the configuration"

    with_node(planes, body, MappingDirectory([PEER]))


def test_removed_peer_may_come_back(planes: Planes) -> None:
    async def body(live: Live) -> None:
        live.arrives(live.initiation())
        await until(lambda: live.responses == 1)
        await live.node.remove_peer(KEY)
        live.arrives(live.initiation())
        await until(lambda: live.responses == 2)

    with_node(planes, body, MappingDirectory([PEER]))


def test_50_lives_with_a_database_leave_nothing(planes: Planes, tmp_path: Path) -> None:
    async def body() -> None:
        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        async def live() -> None:
            directory = SqliteDirectory(tmp_path / "peers.sqlite")
            async with udpring.Node(config(), peers=directory) as node:
                each = Live(node, planes.opened[-1])
                each.arrives(each.initiation())
                await until(lambda: each.dropped("unknown_peer") == 1)
            directory.close()

        await live()
        before = descriptors()
        threads = threading.enumerate()  # those of other tests may end meanwhile
        for _ in range(50):
            await live()
        assert descriptors() <= before
        assert not set(threading.enumerate()).difference(threads)

    run(body)


@pytest.mark.parametrize("wrong", [{"idle_timeout": 0}, {"answer_timeout": 0}, {"answer_timeout": 31}])
def test_impossible_times_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        udpring.Node(config(), peers=MappingDirectory(), **wrong)
