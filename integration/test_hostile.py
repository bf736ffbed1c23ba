"""Messages of strangers to the UDP port: each is dropped, counted by reason, and changes nothing."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Rig, Space, Tunnel, until
from lab.counters import counters, drops, watched
from lab.node import PeerStatus
from lab.traffic import datagrams, ping
from lab.wire import DATA, INITIATION, RESPONSE, Capture, Message

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="it counts drops by reason")

STRANGER = "10.99.0.66"
HEADER = struct.Struct("<IIQ")


@dataclass
class Scene:
    """A udpring node under attack, its honest peer, and their earlier messages."""

    tunnel: Tunnel
    node: Node
    peer: Node
    initiation: Message
    response: Message
    data: list[Message]
    stranger: socket.socket

    def throw(self, *messages: bytes) -> None:
        """Sends from an unknown address to the node."""
        for message in messages:
            self.stranger.sendto(message, (self.node.space.ipv4, self.node.port))

    def state(self) -> PeerStatus:
        """State that must not change: endpoint, handshake, bytes."""
        return self.node.status(self.peer)


@pytest.fixture
def scene(rig: Rig, tmp_path: Path) -> Iterator[Scene]:
    """The node is the responder, so it knows its peer's address only from received messages."""
    tunnel = rig.tunnel((GO, watched(tmp_path)))
    with Capture(tunnel.b.space, tmp_path / "wire.pcap") as capture:
        tunnel.ping()
        datagrams(tunnel.a.space, tunnel.b.space, tunnel.a.inner4, tunnel.b.inner4, range(20))
        capture.wait(20, DATA)
        messages = capture.messages()
    _quieten(tunnel.b, tunnel.a)
    initiation = next(message for message in messages if message.type == INITIATION)
    response = next(message for message in messages if message.type == RESPONSE)
    data = [message for message in messages if message.type == DATA and message.source[1] == tunnel.a.port]
    tunnel.a.space.ip("addr", "add", f"{STRANGER}/24", "dev", "under")
    with tunnel.a.space.socket(STRANGER, socket.SOCK_DGRAM) as stranger:
        yield Scene(tunnel, tunnel.b, tunnel.a, initiation, response, data, stranger)


def _quieten(node: Node, peer: Node) -> None:
    """Waits until neither end owes the other anything. The node would send a keepalive 10 s after data that
    it did not answer, and another one 10 s later, and a slow test would see them. A keepalive needs no
    answer."""
    for _ in range(2):
        heard = peer.status(node).received
        node.set_peer(peer, "persistent-keepalive", "3600")
        until(lambda heard=heard: peer.status(node).received > heard, "the keepalive has arrived")  # type: ignore[misc]
        node.set_peer(peer, "persistent-keepalive", "off")


def _flip(message: bytes, at: int) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 1
    return bytes(changed)


def _cases(scene: Scene) -> dict[str, tuple[set[str], list[bytes]]]:
    """name -> (reasons that may count it, messages). ``flooded``: the kernel discards messages too short for
    any type, or for a train that may hold one."""
    opening, response, data = scene.initiation.payload, scene.response.payload, scene.data[-1].payload
    index, counter = scene.data[-1].receiver, scene.data[-1].counter
    chance = random.Random(1)
    far = HEADER.pack(DATA, index, counter + 5000) + chance.randbytes(64)
    return {
        "nothing in it": ({"flooded"}, [b""] * 3),
        "shorter than any message": ({"flooded"}, [bytes(size) for size in range(1, 32)]),
        "unknown types": (
            {"bad_type"},
            [bytes([kind]) + bytes(147) for kind in (0, 5, 6, 127, 255)],
        ),
        "reserved bytes set": (
            {"bad_type"},
            [message[:1] + b"\1\0\0" + message[4:] for message in (opening, response, data)],
        ),
        "truncated handshakes": (
            {"too_short", "flooded"},
            [message[:size] for message in (opening, response) for size in (33, 64, len(message) - 1)],
        ),
        "handshakes with a tail": (
            {"too_short", "bad_length", "truncated"},
            [opening + b"x", response + b"x", opening + bytes(1300)],
        ),
        "truncated data": ({"flooded"}, [data[:31], data[:17]]),
        "data cut": ({"unauthenticated", "replayed", "too_short"}, [data[:-1], data[:32]]),
        "oversize": ({"unauthenticated", "truncated"}, [far + bytes(65507 - len(far))]),
        "wrong mac1": ({"bad_mac1"}, [_flip(opening, 116), _flip(opening, 131)]),
        "handshake body changed": ({"bad_mac1"}, [_flip(opening, at) for at in (4, 8, 40, 88, 115)]),
        "noise of each size": (
            {"too_short", "bad_type", "bad_mac1", "unknown_index", "unauthenticated", "flooded"},
            [chance.randbytes(size) for size in range(1, 1400, 37)],
        ),
        "noise that looks like a message": (
            {"bad_mac1", "unknown_index"},
            [
                struct.pack("<I", kind) + chance.randbytes(size - 4)
                for kind, size in ((1, 148), (2, 92), (3, 64), (4, 32), (4, 1452))
            ],
        ),
        "an index of nobody": (
            {"unknown_index"},
            [
                HEADER.pack(DATA, index ^ flip, counter + 1) + bytes(48)
                for flip in (1, 0x80000000, 0xFFFFFFFF)
            ],
        ),
        "a replayed packet": ({"replayed"}, [message.payload for message in scene.data]),
        "a forged tag": ({"unauthenticated"}, [far, _flip(far, 20)]),
        "the last counters": (
            {"unauthenticated", "key_expired", "replayed"},
            [HEADER.pack(DATA, index, 2**64 - back) + bytes(32) for back in (1, 2, 2**13, 2**13 + 1, 2**14)],
        ),
        "a replayed initiation": ({"replayed_initiation", "initiation_flood"}, [opening]),
        "a replayed response": ({"unknown_index"}, [response, _flip(response, 60)]),
        "a cookie reply of nobody": (
            {"bad_cookie"},
            [struct.pack("<II", 3, index) + chance.randbytes(56)],
        ),
    }


def _throw_and_count(scene: Scene, name: str, reasons: set[str], messages: list[bytes]) -> None:
    """Each message must be dropped for one of the reasons, and nothing else may be counted."""
    had = drops(scene.node)

    def moved() -> dict[str, int]:
        # no_peer is of packets out: packets of the node's own kernel to addresses without a peer.
        now = drops(scene.node)
        return {reason: now[reason] - had.get(reason, 0) for reason in now if reason != "no_peer"}

    scene.throw(*messages)
    until(lambda: sum(moved().values()) >= len(messages), f"{name}: {len(messages)} drops are counted")
    counted = {reason: count for reason, count in moved().items() if count}
    assert set(counted) <= reasons, name
    assert sum(counted.values()) == len(messages), name


@pytest.mark.traffic
def test_malformed_replayed_and_forged(scene: Scene) -> None:
    before = scene.state()
    replied = scene.node.space.run("nstat", "-asz", "UdpOutDatagrams").stdout
    for name, (reasons, messages) in _cases(scene).items():
        _throw_and_count(scene, name, reasons, messages)
        assert scene.state() == before, f"{name} changed what wg shows"
    assert scene.node.space.run("nstat", "-asz", "UdpOutDatagrams").stdout == replied, (
        "a stranger got an answer"
    )
    scene.tunnel.ping()
    assert scene.state().handshake == before.handshake
    assert scene.state().endpoint == before.endpoint
    log = scene.node.log_text()
    assert "Traceback" not in log
    assert len(log.splitlines()) < 200, "strangers can fill the log"


def test_a_window_that_is_not_moved_by_forgery(scene: Scene) -> None:
    """After forged packets with far higher counters, honest ones behind them still pass."""
    index, counter = scene.data[-1].receiver, scene.data[-1].counter
    scene.throw(*(HEADER.pack(DATA, index, counter + 2**shift) + bytes(64) for shift in range(10, 60)))
    scene.tunnel.ping()


def test_replay_from_the_peers_own_address(scene: Scene) -> None:
    """All messages of the peer replayed from its own address and port: nothing arrives twice."""
    peer, node = scene.peer, scene.node
    peer.stop()
    with (
        peer.space.socket(peer.space.ipv4, socket.SOCK_DGRAM, peer.port) as again,
        node.space.socket(node.inner4, socket.SOCK_DGRAM) as into,
    ):
        into.settimeout(0.5)
        had, before = drops(node), scene.state()
        delivered = counters(node)["plane"]["tun_packets_out"]
        for message in (scene.initiation, *scene.data):
            again.sendto(message.payload, (node.space.ipv4, node.port))
        until(
            lambda: drops(node)["replayed"] - had["replayed"] == len(scene.data),
            "each is counted as replayed",
        )
        assert counters(node)["plane"]["tun_packets_out"] == delivered
        assert scene.state() == before
        with pytest.raises(TimeoutError):
            into.recv(2000)


def test_spoofed_inner_source(scene: Scene) -> None:
    """The peer itself sends with a foreign inner address. The packet is authentic, but dropped."""
    peer, node = scene.peer, scene.node
    peer.space.ip("addr", "add", "10.100.0.99/32", "dev", peer.interface)
    peer.space.ip("addr", "add", "fd10:0::99/128", "dev", peer.interface, "nodad")
    had = drops(node)["spoofed"]
    for address, target in (("10.100.0.99", node.inner4), ("fd10:0::99", node.inner6)):
        done = peer.space.run(
            "ping", "-n", "-I", address, "-c", "3", "-i", "0.2", "-w", "2", target, check=False
        )
        assert done.returncode == 1
    until(lambda: drops(node)["spoofed"] - had >= 6, "each is counted")
    ping(peer.space, node.inner4)


def test_bytes_that_are_no_packet_inside(rig: Rig, tmp_path: Path) -> None:
    """A flood of noise on the port during a transfer. The transfer arrives complete."""
    tunnel = rig.tunnel((GO, watched(tmp_path)))
    tunnel.ping()
    a, b = tunnel.a, tunnel.b
    chance = random.Random(3)
    kinds = [struct.pack("<I", kind) for kind in (1, 2, 3, 4, 9)]
    with a.space.socket(a.space.ipv4, socket.SOCK_DGRAM) as noise:
        # The kernel may drop at a full receive queue. Honest packets must get through.
        for _ in range(20):
            for _ in range(100):
                noise.sendto(
                    chance.choice(kinds) + chance.randbytes(chance.randrange(200)), (b.space.ipv4, b.port)
                )
            ping(a.space, b.inner4)
        tunnel.tcp_both_ways(1 << 20)
    assert sum(drops(b).values()) > 500
    assert b.status(a).endpoint == a.outer(4)


def test_addressed_to_somebody_else(rig: Rig, tmp_path: Path) -> None:
    """Messages of one tunnel sent to another node: mac1 or index do not belong to it."""
    first = rig.tunnel((GO, GO))
    other = rig.node(first.b.space, watched(tmp_path), inner=["10.101.0.1/24"], port=51900)
    other.peers = []
    other.start()
    had = drops(other)
    with Capture(first.b.space, tmp_path / "wire.pcap") as capture:
        first.ping()
        capture.wait(3, DATA)
        messages = capture.messages()
    sniffed = [message.payload for message in messages]
    initiations = sum(message.type == INITIATION for message in messages)
    with _from(first.a.space) as out:
        for payload in sniffed:
            out.sendto(payload, (other.space.ipv4, other.port))
    wanted = {"bad_mac1": initiations, "unknown_index": len(sniffed) - initiations}
    until(
        lambda: {reason: drops(other)[reason] - had[reason] for reason in wanted} == wanted,
        f"dropped and counted: {wanted}",
    )


def _from(space: Space) -> socket.socket:
    return space.socket(space.ipv4, socket.SOCK_DGRAM)
