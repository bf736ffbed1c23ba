"""Honest peers of a whole node under floods, as a share of what the same run gives without them.

Each flood goes on and off in turns within one test, so that a slow machine is slow in both. Its rate is one
that the machine carries: what is to be seen is what the node makes of it.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Rig
from lab.counters import drops, watched
from lab.initiator import Initiator
from test_flood import _initiation
from test_plane import udp_packet

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="it counts drops by reason")

STRANGER = "10.99.0.66"
SOL_UDP, UDP_SEGMENT = 17, 103
TURNS, HANDSHAKES, PACKETS = 3, 8, 10
PAUSE = 0.06
"""Between two handshakes: under load one source gets 20 a second."""
TRIES = 3
"""Whole measurements: the scheduler of a busy machine may spoil one."""


@dataclass(frozen=True)
class Flood:
    """What one system call sends, and how many such calls a second. ``size``: of the segments of a train."""

    make: Callable[[Scene], bytes]
    calls: int
    reason: str
    size: int = 0


@dataclass
class Scene:
    node: Node
    talker: Initiator
    stranger: socket.socket
    into: socket.socket
    knocker: Initiator


@dataclass
class Service:
    handshakes: int = 0
    packets: int = 0


FLOODS = {
    "forged cookie replies": Flood(
        lambda scene: struct.pack("<II", 3, scene.knocker.remote) + bytes(56), 20_000, "bad_cookie"
    ),
    "handshakes behind data": Flood(
        lambda scene: (struct.pack("<II", 4, 1) + bytes(140)) + 60 * _initiation(scene.node),
        4_000,
        "flooded",
        148,
    ),
    "one-byte garbage": Flood(lambda scene: b"\x09" * 60, 3_000, "flooded", 1),
    "garbage": Flood(lambda scene: b"\x09" * 100, 10_000, "bad_type"),
}


@pytest.fixture
def scene(rig: Rig, tmp_path: Path) -> Iterator[Scene]:
    topology = rig.topology()
    here, there = topology["a"], topology["b"]
    program = watched(tmp_path).with_env(UDPRING_OFFLOADS="all")  # trains come as trains
    node = rig.node(there, program, inner=["10.100.0.2/24"]).start()
    here.ip("addr", "add", f"{STRANGER}/24", "dev", "under")
    talker, knocker = Initiator(here, node, "10.100.0.3"), Initiator(here, node, "10.100.0.4")
    made = Scene(
        node,
        talker,
        here.socket(STRANGER, socket.SOCK_DGRAM),
        there.socket(node.inner4, socket.SOCK_DGRAM),
        knocker,
    )
    try:
        assert talker.handshake()
        assert knocker.handshake()
        yield made
    finally:
        for each in (talker, knocker, made.stranger, made.into):
            each.close()


@contextmanager
def flooded(scene: Scene, flood: Flood) -> Iterator[None]:
    over, sent = threading.Event(), 0
    if flood.size:
        scene.stranger.setsockopt(SOL_UDP, UDP_SEGMENT, flood.size)

    def run() -> None:
        nonlocal sent
        began = time.monotonic()
        message, about = flood.make(scene), scene.knocker.remote
        while not over.is_set():
            if about != scene.knocker.remote:
                message, about = flood.make(scene), scene.knocker.remote
            if sent < (time.monotonic() - began) * flood.calls:
                scene.stranger.sendto(message, scene.talker.target)
                sent += 1
            else:
                over.wait(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def serve(scene: Scene, service: Service) -> None:
    """One turn: handshakes of one honest peer, and between them packets of another."""
    sent = 0
    for _ in range(HANDSHAKES):
        service.handshakes += scene.knocker.handshake()
        for _ in range(PACKETS):
            packet = udp_packet(
                b"%d" % sent, source="10.100.0.3", destination="10.100.0.2", port=scene.into.getsockname()[1]
            )
            scene.talker.data(packet)
            sent += 1
        time.sleep(PAUSE)
    seen: set[bytes] = set()
    scene.into.settimeout(1.0)
    try:
        while len(seen) < sent:
            seen.add(scene.into.recv(100))
    except TimeoutError:
        pass
    service.packets += len(seen)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_honest_peers_are_served_as_without_the_flood(scene: Scene, flood: Flood) -> None:
    before = drops(scene.node).get(flood.reason, 0)
    told = []
    for _ in range(TRIES):
        calm, under = Service(), Service()
        for _ in range(TURNS):
            serve(scene, calm)
            with flooded(scene, flood):
                serve(scene, under)
        told.append((calm, under))
        assert calm.handshakes, "not even without a flood"
        if under.handshakes >= 0.95 * calm.handshakes and under.packets >= 0.8 * calm.packets:
            break
    else:
        raise AssertionError(f"(without, under the flood): {told}")
    assert drops(scene.node)[flood.reason] > before, "the flood did not arrive: the test proves nothing"
    assert "Traceback" not in scene.node.log_text()
