"""Honest peers of a node under floods, compared with the same run without floods.

Within one test each flood is switched on and off in turns, so that a slow machine is slow in both. The
machine can carry its rate, so the effect is the node's.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
TALKER, KNOCKER = "10.100.0.3", "10.100.0.4"
SOL_UDP, UDP_SEGMENT = 17, 103
TURNS, HANDSHAKES = 3, 8
PAUSE = 0.06
"""Between two handshakes: under load one source gets 20 a second."""
BETWEEN = 0.003
"""Between two data packets: handshakes are limited while data flows, which means for 20 ms after a packet."""
TRIES = 3
"""Complete measurements: the scheduler of a busy machine may spoil one."""


@dataclass(frozen=True)
class Flood:
    """The datagrams of one system call, and the number of such calls a second. ``size``: of the segments of a
    train. ``looked_at``: how many of its handshake messages may be processed in a second, if that is
    limited."""

    make: Callable[[Scene], bytes]
    calls: int
    reason: str
    size: int = 0
    looked_at: int | None = None


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
    sent: int = 0
    delivered: int = 0


FLOODS = {
    "forged cookie replies": Flood(
        lambda scene: struct.pack("<II", 3, scene.knocker.remote) + bytes(56), 20_000, "bad_cookie"
    ),
    "handshakes behind data": Flood(
        lambda scene: (struct.pack("<II", 4, 1) + bytes(140)) + 60 * _initiation(scene.node),
        4_000,
        "flooded",
        148,
        looked_at=10_000,  # twice the limit of limits.h for trains of data
    ),
    "one-byte garbage": Flood(lambda scene: b"\x09" * 60, 3_000, "flooded", 1),
    "garbage": Flood(lambda scene: b"\x09" * 100, 10_000, "bad_type"),
}


@pytest.fixture
def scene(rig: Rig, tmp_path: Path) -> Iterator[Scene]:
    topology = rig.topology()
    here, there = topology["a"], topology["b"]
    program = watched(tmp_path).with_env(UDPRING_OFFLOADS="all")  # trains arrive as trains
    node = rig.node(there, program, inner=["10.100.0.2/24"]).start()
    here.ip("addr", "add", f"{STRANGER}/24", "dev", "under")
    talker, knocker = Initiator(here, node, TALKER), Initiator(here, node, KNOCKER)
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


@contextmanager
def talking(scene: Scene, service: Service) -> Iterator[None]:
    """Data of one honest peer all the time."""
    over, seen = threading.Event(), set[bytes]()
    scene.into.setblocking(False)
    port = scene.into.getsockname()[1]

    def take() -> None:
        with suppress(BlockingIOError):
            while True:
                seen.add(scene.into.recv(100))

    def run() -> None:
        while not over.wait(BETWEEN):
            content = b"%d" % service.sent
            scene.talker.data(udp_packet(content, source=TALKER, destination=scene.node.inner4, port=port))
            service.sent += 1
            take()

    before = service.sent
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    give_up = time.monotonic() + 1
    while len(seen) < service.sent - before and time.monotonic() < give_up:
        time.sleep(0.01)
        take()
    service.delivered += len(seen)


def serve(scene: Scene, service: Service) -> None:
    """One turn: handshakes of one honest peer, data of another."""
    with talking(scene, service):
        for _ in range(HANDSHAKES):
            service.handshakes += scene.knocker.handshake()
            time.sleep(PAUSE)


def looked_at(node: Node) -> int:
    """The handshake messages without a valid mac2 that were received."""
    said = drops(node)
    return said["bad_mac2"] + said["mailbox_full"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_honest_peers_are_served_as_without_the_flood(scene: Scene, flood: Flood) -> None:
    before, read = drops(scene.node).get(flood.reason, 0), looked_at(scene.node)
    reported, lasted = [], 0.0
    for _ in range(TRIES):
        calm, under = Service(), Service()
        for _ in range(TURNS):
            serve(scene, calm)
            began = time.monotonic()
            with flooded(scene, flood):
                serve(scene, under)
            lasted += time.monotonic() - began
        reported.append((calm, under))
        assert calm.handshakes, "not even without a flood"
        share = under.delivered * calm.sent / (under.sent * calm.delivered)
        if under.handshakes >= 0.95 * calm.handshakes and share >= 0.8:
            break
    else:
        raise AssertionError(f"(without, under the flood): {reported}")
    if flood.looked_at:
        read = looked_at(scene.node) - read
        assert read < lasted * flood.looked_at, f"{read} were looked at in {lasted:.1f} s"
    assert drops(scene.node)[flood.reason] > before, "the flood did not arrive: the test proves nothing"
    assert "Traceback" not in scene.node.log_text()
