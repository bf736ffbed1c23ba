"""Which events a program gets: two control loops over planes in memory, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from fake_plane import SECOND, FakePlane, VirtualLoop, virtual_loop

from udpring.tunnel.keys import generate_private_key, public_key, to_base64
from udpring.tunnel.node_drain import busy_peers
from udpring.tunnel.node_events import (
    REFUSALS,
    EventReader,
    EventsLost,
    HandshakeCompleted,
    NodeEvent,
    OverloadBegan,
    OverloadEnded,
    PeerRefused,
    PeerRoamed,
    PeerSilent,
    PeerUp,
    SilenceReason,
)
from udpring.tunnel.plane_values import Event, EventKind, SocketAddress
from udpring.tunnel.tunnel import Tunnel
from udpring.wireguard.cipher import Cipher

HERE = SocketAddress(bytes([10, 0, 0, 1]), 1000)
THERE = SocketAddress(bytes([10, 0, 0, 2]), 2000)
ELSEWHERE = SocketAddress(bytes([10, 0, 0, 3]), 3000)


class Side:
    def __init__(self, loop: VirtualLoop, address: SocketAddress, seed: int) -> None:
        self.key = generate_private_key()
        self.public = public_key(self.key)
        self.name = to_base64(self.public)
        self.plane = FakePlane(loop.clock, address=address)
        self.tunnel = Tunnel(
            self.plane,  # type: ignore[arg-type]
            loop=loop,
            clock=loop.clock,  # type: ignore[arg-type]
            random=random.Random(seed).randbytes,
        )
        self.tunnel.set_private_key(self.key)
        self.reader = self.tunnel.events.reader()
        self.peer = -1

    def knows(self, other: Side) -> None:
        self.peer = self.tunnel.add_peer(other.public)
        self.tunnel.set_endpoint(self.peer, other.plane.address)

    def wants(self) -> None:
        self.plane.post(Event(EventKind.HANDSHAKE_WANTED, self.peer))


Sides = tuple[Side, Side]


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as made:
        yield made


@pytest.fixture
def sides(loop: VirtualLoop) -> Iterator[Sides]:
    a, b = Side(loop, HERE, 1), Side(loop, THERE, 2)
    a.plane.other, b.plane.other = b.plane, a.plane
    a.knows(b)
    b.knows(a)
    a.tunnel.start()
    b.tunnel.start()
    yield a, b
    a.tunnel.close()
    b.tunnel.close()


def run_for(loop: VirtualLoop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def taken(loop: VirtualLoop, reader: EventReader) -> list[NodeEvent]:
    """The events that wait."""
    got = []

    async def take() -> None:
        while reader._queue or reader._gap:
            got.append(await anext(reader))

    loop.run_until_complete(take())
    return got


def established(loop: VirtualLoop, sides: Sides) -> Sides:
    sides[0].wants()
    run_for(loop, 1)
    for side in sides:
        taken(loop, side.reader)
    return sides


def test_first_handshake_brings_peers_up(loop: VirtualLoop, sides: Sides) -> None:
    a, b = sides
    a.wants()
    run_for(loop, 1)
    assert taken(loop, a.reader) == [HandshakeCompleted(b.name, True), PeerUp(b.name, ("10.0.0.2", 2000))]
    assert taken(loop, b.reader) == [HandshakeCompleted(a.name, False), PeerUp(a.name, ("10.0.0.1", 1000))]
    run_for(loop, 125)
    a.wants()
    run_for(loop, 1)
    assert taken(loop, a.reader) == [HandshakeCompleted(b.name, True)], "renewed: it was up before"


def test_unanswered_data_makes_a_peer_silent(loop: VirtualLoop, sides: Sides) -> None:
    a, b = established(loop, sides)
    a.plane.lossy = lambda message: True
    a.plane.stamp(a.peer, unanswered_since=loop.clock.boot(), last_sent=loop.clock.boot())
    run_for(loop, 14)
    assert taken(loop, a.reader) == []
    run_for(loop, 2)
    assert taken(loop, a.reader) == [PeerSilent(b.name, SilenceReason.UNANSWERED)]
    run_for(loop, 100)
    assert taken(loop, a.reader) == [], "once is enough"
    a.plane.lossy = lambda message: False
    a.wants()
    run_for(loop, 6)
    got = taken(loop, a.reader)
    assert got == [HandshakeCompleted(b.name, True), PeerUp(b.name, ("10.0.0.2", 2000))]


def test_peer_that_never_answers_is_silent(loop: VirtualLoop, sides: Sides) -> None:
    a, b = sides
    a.plane.lossy = lambda message: True
    a.wants()
    run_for(loop, 120)
    assert taken(loop, a.reader) == [PeerSilent(b.name, SilenceReason.UNANSWERED)]


def test_idle_peer_is_silent_when_keys_are_erased(loop: VirtualLoop, sides: Sides) -> None:
    _, b = established(loop, sides)
    run_for(loop, 560)
    assert PeerSilent(to_base64(sides[0].public), SilenceReason.EXPIRED) in taken(loop, b.reader)


def test_interface_down_makes_peers_silent(loop: VirtualLoop, sides: Sides) -> None:
    a, b = established(loop, sides)
    a.plane.set_link(False)
    a.plane.post(Event(EventKind.ACTIVITY, a.peer))
    run_for(loop, 1)
    assert taken(loop, a.reader) == [PeerSilent(b.name, SilenceReason.INTERFACE_DOWN)]


# ---- roaming ----


def test_roaming_is_watched_only_for_a_reader(loop: VirtualLoop) -> None:
    a = Side(loop, HERE, 1)
    a.reader.close()
    del a.reader
    a.tunnel.events._live()
    a.tunnel.start()
    assert not a.plane.named("watch_roaming")
    _reader = a.tunnel.events.reader()
    assert a.plane.named("watch_roaming") == [("watch_roaming", True)]
    a.tunnel.close()


def test_roaming_is_told_with_both_endpoints(loop: VirtualLoop, sides: Sides) -> None:
    a, b = established(loop, sides)
    a.plane.stamp(a.peer, endpoint=ELSEWHERE)
    a.plane.post(Event(EventKind.ROAMED, a.peer, source=ELSEWHERE, local=THERE))
    run_for(loop, 5)
    assert taken(loop, a.reader) == [PeerRoamed(b.name, ("10.0.0.3", 3000), ("10.0.0.2", 2000))]


def test_last_move_within_a_second_is_told(loop: VirtualLoop, sides: Sides) -> None:
    """The plane reports one move in a second. The endpoint is looked at again after it."""
    a, b = established(loop, sides)
    a.plane.stamp(a.peer, endpoint=ELSEWHERE)
    a.plane.post(Event(EventKind.ROAMED, a.peer, source=ELSEWHERE, local=THERE))
    run_for(loop, 0.1)
    a.plane.stamp(a.peer, endpoint=THERE)
    run_for(loop, 0.5)
    assert len(taken(loop, a.reader)) == 1
    run_for(loop, 5)
    assert taken(loop, a.reader) == [PeerRoamed(b.name, ("10.0.0.2", 2000), ("10.0.0.3", 3000))]


def test_deferred_roaming_report_reads_the_endpoint(loop: VirtualLoop, sides: Sides) -> None:
    """The mailbox was full, so the report has no addresses."""
    a, b = established(loop, sides)
    a.plane.stamp(a.peer, endpoint=ELSEWHERE)
    a.plane.post(Event(EventKind.ROAMED, a.peer))
    run_for(loop, 0.1)
    assert taken(loop, a.reader) == [PeerRoamed(b.name, ("10.0.0.3", 3000), None)]
    a.tunnel.remove_peer(a.peer)
    run_for(loop, 5)
    assert taken(loop, a.reader) == []


# ---- overload ----


def test_overload_has_a_beginning_and_an_end(loop: VirtualLoop, sides: Sides) -> None:
    a, _ = established(loop, sides)
    for _ in range(3):
        a.plane.loaded_until = loop.clock.boot() + SECOND
        a.plane.post(Event(EventKind.OVERLOAD))
        run_for(loop, 0.9)
    assert taken(loop, a.reader) == [OverloadBegan()]
    run_for(loop, 3)
    (ended,) = taken(loop, a.reader)
    assert isinstance(ended, OverloadEnded)
    assert 2.7 <= ended.seconds < 3


# ---- refusals, pause, drain ----


def test_unknown_and_unfit_peers_are_refused(loop: VirtualLoop, sides: Sides) -> None:
    a, b = sides
    b.tunnel.remove_peer(b.peer)
    b.tunnel.add_peer(public_key(generate_private_key()))
    a.wants()
    run_for(loop, 1)
    assert taken(loop, b.reader) == [PeerRefused(a.name, "unknown_peer")]
    b.knows(a)
    b.tunnel.set_cipher(b.peer, Cipher.AES_256_GCM)
    run_for(loop, 6)
    assert taken(loop, b.reader) == [PeerRefused(a.name, "cipher_mismatch")]


def test_flood_of_refusals_leaves_room_for_other_events(loop: VirtualLoop, sides: Sides) -> None:
    a, b = sides
    b.tunnel.remove_peer(b.peer)
    a.wants()
    run_for(loop, 1)
    message = a.plane.sent[-1]["message"]
    taken(loop, b.reader)
    for _ in range(5 * REFUSALS):
        b.plane.post(Event(EventKind.HANDSHAKE, None, message, HERE, THERE))
    run_for(loop, 0.5)
    got = taken(loop, b.reader)
    received = sum(isinstance(each, PeerRefused) for each in got)
    lost = sum(each.count for each in got if isinstance(each, EventsLost))
    assert received <= 2 * REFUSALS
    assert received + lost == 5 * REFUSALS
    assert b.tunnel.stats().events_lost == lost


def test_paused_node_takes_no_new_session(loop: VirtualLoop, sides: Sides) -> None:
    a, b = sides
    b.tunnel.set_paused(True)
    a.wants()
    run_for(loop, 3)
    assert not a.plane.peers[a.peer].keypair
    assert b.tunnel.control.stats.dropped == {"paused": 1}
    assert taken(loop, b.reader) == [PeerRefused(a.name, "paused")]
    b.tunnel.set_paused(False)
    run_for(loop, 10)
    assert a.plane.peers[a.peer].keypair, "the next attempt succeeds"


def test_sessions_of_a_paused_node_are_renewed(loop: VirtualLoop, sides: Sides) -> None:
    a, b = established(loop, sides)
    b.tunnel.set_paused(True)
    for _ in range(4):
        run_for(loop, 130)
        a.wants()
        run_for(loop, 1)
        assert taken(loop, b.reader) == [HandshakeCompleted(a.name, False)]
    run_for(loop, 181)
    a.wants()
    run_for(loop, 1)
    assert taken(loop, b.reader) == [PeerRefused(a.name, "paused")], "its session was over"


def test_paused_node_still_initiates(loop: VirtualLoop, sides: Sides) -> None:
    a, b = sides
    b.tunnel.set_paused(True)
    b.wants()
    run_for(loop, 1)
    assert taken(loop, b.reader)[0] == HandshakeCompleted(a.name, True)


def drained(loop: VirtualLoop, side: Side, timeout: float, quiet: float = 15) -> tuple[str, ...]:
    return loop.run_until_complete(busy_peers(side.tunnel, timeout, quiet))


def test_drain_without_sessions_returns_at_once(loop: VirtualLoop, sides: Sides) -> None:
    before = loop.time()
    assert drained(loop, sides[0], 100) == ()
    assert loop.time() == before


def test_drain_waits_for_quiet(loop: VirtualLoop, sides: Sides) -> None:
    a, b = established(loop, sides)
    began = loop.time()

    def data() -> None:
        rx_bytes = a.plane.peers[a.peer].state.rx_bytes + 96
        a.plane.stamp(a.peer, owed_since=loop.clock.boot(), rx_bytes=rx_bytes)

    for second in range(0, 40, 2):
        loop.call_later(second + 0.5, data)
    assert drained(loop, a, 20) == (b.name,)
    assert 20 <= loop.time() - began < 21
    assert drained(loop, a, 100) == ()
    assert 53 <= loop.time() - began < 58


def test_drain_ends_with_the_sessions(loop: VirtualLoop, sides: Sides) -> None:
    """Data that nobody answers does not hold it for longer than a session lasts."""
    a, _ = established(loop, sides)
    a.plane.lossy = lambda message: True
    began, since = loop.time(), loop.clock.boot()

    def send() -> None:
        tx_bytes = a.plane.peers[a.peer].state.tx_bytes + 96
        a.plane.stamp(a.peer, unanswered_since=since, tx_bytes=tx_bytes)

    for second in range(300):
        loop.call_later(second + 0.5, send)
    assert drained(loop, a, 1000) == ()
    assert 178 < loop.time() - began < 182


def test_drain_counts_no_keepalives(loop: VirtualLoop, sides: Sides) -> None:
    a, _ = established(loop, sides)
    a.tunnel.set_keepalive(a.peer, 2)
    began = loop.time()
    assert drained(loop, a, 100, quiet=10) == ()
    assert 10 <= loop.time() - began < 12
    assert asyncio.all_tasks(loop) == set()
