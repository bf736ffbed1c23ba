"""Where a peer is looked for when it does not answer: control loops over planes in memory, virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from fake_plane import FakePlane, VirtualLoop, virtual_loop

from udpring.tunnel.config import Endpoint
from udpring.tunnel.endpoint_following import EndpointFollowing
from udpring.tunnel.keys import generate_private_key, public_key, to_base64
from udpring.tunnel.node_events import EndpointFailedOver
from udpring.tunnel.plane_values import Event, EventKind, SocketAddress
from udpring.tunnel.resolver import Addresses, Resolver
from udpring.tunnel.tunnel import Tunnel

HERE = SocketAddress(bytes([10, 0, 0, 1]), 1000)
THERE = SocketAddress(bytes([10, 0, 0, 2]), 2000)
ELSEWHERE = SocketAddress(bytes([10, 0, 0, 3]), 2000)
SIXTH = SocketAddress(bytes([0xFD] + [0] * 14 + [9]), 2000)
NAME = Endpoint("vpn.example", 2000)


class Names(Resolver):
    """Answers from a table at once, without a thread: virtual time does not wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Addresses] = {}
        self.asked: list[str] = []

    async def _ask(self, endpoint: Endpoint) -> Addresses:
        self.asked.append(endpoint.host)
        if endpoint.host not in self.table:
            raise OSError("no such name")
        return self.table[endpoint.host]


class Side:
    def __init__(self, loop: VirtualLoop, address: SocketAddress, seed: int) -> None:
        self.key = generate_private_key()
        self.public = public_key(self.key)
        self.plane = FakePlane(loop.clock, address=address)
        self.tunnel = Tunnel(
            self.plane,  # type: ignore[arg-type]
            loop=loop,
            clock=loop.clock,  # type: ignore[arg-type]
            random=random.Random(seed).randbytes,
        )
        self.tunnel.set_private_key(self.key)
        self.names = Names()
        self.following = EndpointFollowing(self.tunnel, self.names, loop=loop)
        self.reader = self.tunnel.events.reader()
        self.peer = -1


class Pair:
    """``a`` knows ``b`` by the endpoints of the test. ``b`` learns where ``a`` is."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.a, self.b = Side(loop, HERE, 1), Side(loop, THERE, 2)
        self.a.plane.other, self.b.plane.other = self.b.plane, self.a.plane
        self.a.peer = self.a.tunnel.add_peer(self.b.public)
        self.b.peer = self.b.tunnel.add_peer(self.a.public)
        self.a.tunnel.start()
        self.b.tunnel.start()

    def close(self) -> None:
        for side in (self.a, self.b):
            self.loop.run_until_complete(side.following.close())
            side.tunnel.close()

    def follows(self, *endpoints: Endpoint, **table: Addresses) -> None:
        self.a.names.table = {"vpn.example": (THERE,), **table}

        async def begin() -> None:
            self.a.following.set(self.b.public, endpoints)

        self.loop.run_until_complete(begin())
        self.run(0.1)

    def wants(self) -> None:
        self.a.plane.post(Event(EventKind.HANDSHAKE_WANTED, self.a.peer))

    def sends(self) -> None:
        """Data that has no answer yet."""
        self.a.plane.stamp(self.a.peer, unanswered_since=self.loop.clock.boot())

    def network_changes(self) -> None:
        self.loop.call_soon(self.a.following.network_changed)

    def establish(self) -> None:
        done = self.completed
        self.wants()
        self.until(lambda: self.completed > done, 3)
        self.run(20)

    def moves(self, address: SocketAddress) -> None:
        self.b.plane.address = address

    @property
    def completed(self) -> int:
        return self.a.tunnel.control.stats.handshakes_completed

    @property
    def endpoint(self) -> SocketAddress | None:
        return self.a.plane.peers[self.a.peer].state.endpoint

    def failed_over(self) -> list[EndpointFailedOver]:
        return [event for event in self.a.reader._queue if isinstance(event, EndpointFailedOver)]

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def until(self, condition: Callable[[], object], seconds: float) -> None:
        async def wait() -> None:
            end = self.loop.time() + seconds
            while not condition():
                assert self.loop.time() < end, "the condition did not come about"
                await asyncio.sleep(0.01)

        self.loop.run_until_complete(wait())


@pytest.fixture
def pair() -> Iterator[Pair]:
    with virtual_loop() as loop:
        made = Pair(loop)
        yield made
        made.close()


@pytest.mark.parametrize("new", [ELSEWHERE, SIXTH], ids=["IPv4", "IPv6"])
def test_first_handshake_follows_the_name(pair: Pair, new: SocketAddress) -> None:
    pair.follows(NAME)
    pair.moves(new)
    pair.a.names.table["vpn.example"] = (new,)
    pair.wants()
    pair.until(lambda: pair.completed, 10)
    assert pair.endpoint == new
    (event,) = pair.failed_over()
    assert event == EndpointFailedOver(to_base64(pair.b.public), NAME, NAME)


@pytest.mark.parametrize("new", [ELSEWHERE, SIXTH], ids=["IPv4", "IPv6"])
def test_session_follows_the_name_within_ten_seconds(pair: Pair, new: SocketAddress) -> None:
    """The session's keys and its waiting packets stay."""
    pair.follows(NAME)
    pair.establish()
    pair.moves(new)
    pair.a.names.table["vpn.example"] = (new,)
    pair.sends()
    pair.until(lambda: pair.completed == 2, 10)
    assert pair.endpoint == new
    assert not pair.a.plane.named("keys_erase")
    assert not pair.a.plane.named("staged_drop")


@pytest.mark.parametrize("after", [0.5, 2.5, 4.5])
def test_network_change_does_not_delay_following(pair: Pair, after: float) -> None:
    """It looks the name up, and the next look-up must not wait long for that."""
    pair.follows(NAME)
    pair.establish()
    pair.moves(ELSEWHERE)
    pair.sends()
    pair.run(after)
    pair.network_changes()
    pair.run(0.1)
    pair.a.names.table["vpn.example"] = (ELSEWHERE,)
    pair.until(lambda: pair.completed == 2, 9.5 - after)
    assert pair.endpoint == ELSEWHERE


def test_second_network_change_looks_names_up_too(pair: Pair) -> None:
    """The first one came before the name could be looked up there."""
    pair.follows(NAME)
    pair.network_changes()
    pair.run(0.5)
    pair.a.names.table["vpn.example"] = (ELSEWHERE,)
    pair.network_changes()
    pair.run(4)
    assert pair.endpoint == ELSEWHERE


def test_name_that_changes_later_is_followed_too(pair: Pair) -> None:
    pair.follows(NAME)
    pair.establish()
    pair.moves(ELSEWHERE)
    pair.sends()
    pair.run(40)
    pair.a.names.table["vpn.example"] = (ELSEWHERE,)
    pair.until(lambda: pair.completed == 2, 12)


def test_peer_that_answers_stays_where_it_is(pair: Pair) -> None:
    pair.follows(NAME)
    pair.establish()
    pair.a.names.table["vpn.example"] = (ELSEWHERE,)
    asked = len(pair.a.names.asked)
    pair.network_changes()
    pair.a.plane.post(Event(EventKind.PATH, pair.a.peer))
    pair.run(1)
    assert len(pair.a.names.asked) == asked + 1, "looked up, but not used"
    assert pair.endpoint == THERE
    assert not pair.failed_over()


def test_other_order_of_addresses_moves_nothing(pair: Pair) -> None:
    pair.follows(NAME)
    pair.establish()
    pair.a.names.table["vpn.example"] = (ELSEWHERE, THERE)
    pair.sends()
    pair.run(6)
    assert pair.endpoint == THERE


def test_roamed_peer_keeps_its_endpoint_while_the_session_lives(pair: Pair) -> None:
    pair.follows(NAME)
    pair.establish()
    pair.a.plane.stamp(pair.a.peer, endpoint=ELSEWHERE)
    pair.sends()
    pair.run(14)
    assert pair.endpoint == ELSEWHERE
    assert pair.a.names.asked
    pair.until(lambda: pair.endpoint == THERE, 20)  # handshakes had no answer there


def test_each_unanswered_initiation_tries_the_next_address(pair: Pair) -> None:
    pair.follows(NAME, **{"vpn.example": (ELSEWHERE, SIXTH, THERE)})
    assert pair.endpoint == ELSEWHERE
    pair.wants()
    pair.until(lambda: pair.completed, 12)
    assert pair.endpoint == THERE
    pair.a.following.unanswered(pair.a.peer)
    assert pair.endpoint == THERE, "it was heard just now"


def test_second_endpoint_is_taken_within_ten_seconds(pair: Pair) -> None:
    """In a session, and its keys stay. The event names both."""
    first, second = Endpoint("10.0.0.2", 2000), Endpoint("fd00::9", 2000)
    pair.follows(first, second)
    pair.establish()
    pair.moves(SIXTH)
    pair.sends()
    pair.until(lambda: pair.completed == 2, 10)
    assert pair.endpoint == SIXTH
    assert pair.failed_over() == [EndpointFailedOver(to_base64(pair.b.public), second, first)]
    assert not pair.a.plane.named("keys_erase")
    assert not pair.a.names.asked


def test_quiet_peer_with_two_endpoints_stays(pair: Pair) -> None:
    """It has received data and sends nothing: the question by a handshake is answered."""
    pair.follows(Endpoint("10.0.0.2", 2000), Endpoint("10.0.0.3", 2000))
    pair.establish()
    for _ in range(20):
        pair.sends()
        pair.run(9)
        pair.a.plane.stamp(pair.a.peer, unanswered_since=0, last_received=pair.loop.clock.boot())
    assert pair.endpoint == THERE
    assert not pair.failed_over()
    assert pair.completed <= 8, "it is asked once in 30 s"


def test_endpoint_that_worked_is_tried_first(pair: Pair) -> None:
    pair.follows(*(Endpoint(f"10.0.0.{last}", 2000) for last in (7, 8, 2)))
    pair.wants()
    pair.until(lambda: pair.completed, 15)
    assert pair.endpoint == THERE
    pair.run(20)
    assert pair.endpoint == THERE
    pair.a.plane.stamp(pair.a.peer, endpoint=ELSEWHERE)  # it roamed, and is lost there
    pair.moves(SIXTH)
    pair.wants()
    pair.until(lambda: pair.endpoint != ELSEWHERE, 20)
    assert pair.endpoint == THERE


def test_address_serves_until_the_preferred_name_resolves(pair: Pair) -> None:
    late = Endpoint("late.example", 2000)
    pair.follows(late, Endpoint("10.0.0.3", 2000))
    assert pair.endpoint == ELSEWHERE
    pair.a.names.table["late.example"] = (THERE,)
    pair.until(lambda: pair.endpoint == THERE, 10)


def test_zone_gets_the_number_that_its_interface_has_now(pair: Pair) -> None:
    zoned, new = (SocketAddress(bytes([0xFE, 0x80] + [0] * 13 + [1]), 2000, scope) for scope in (1, 17))
    pair.follows(Endpoint("fe80::1%lo", 2000))
    assert pair.endpoint == zoned
    pair.moves(new)
    pair.a.names.table["fe80::1%lo"] = (new,)
    pair.wants()
    pair.until(lambda: pair.completed, 10)
    assert pair.endpoint == new


def test_missing_zone_leaves_the_other_endpoints(pair: Pair) -> None:
    pair.follows(Endpoint("fe80::1%nothing0", 2000), Endpoint("10.0.0.2", 2000))
    pair.wants()
    pair.until(lambda: pair.completed, 3)


def test_look_ups_are_bounded(pair: Pair) -> None:
    pair.follows(NAME)
    pair.moves(ELSEWHERE)
    before = len(pair.a.names.asked)
    for _ in range(120):
        pair.wants()
        pair.network_changes()
        pair.run(0.5)
    assert 6 <= len(pair.a.names.asked) - before <= 21


def test_unknown_name_is_tried_when_the_network_comes(pair: Pair) -> None:
    pair.follows(Endpoint("late.example", 2000))
    pair.run(40)
    pair.a.names.table["late.example"] = (THERE,)
    pair.network_changes()
    pair.run(0.1)
    assert pair.endpoint == THERE


def test_endpoint_set_by_wg_is_not_overruled(pair: Pair) -> None:
    pair.follows(NAME)
    pair.a.tunnel.set_endpoint(pair.a.peer, ELSEWHERE)
    pair.wants()
    pair.run(60)
    assert pair.endpoint == ELSEWHERE


def test_single_address_is_never_looked_up(pair: Pair) -> None:
    pair.follows(Endpoint("10.0.0.3", 2000))
    pair.wants()
    pair.run(60)
    assert pair.endpoint == ELSEWHERE
    assert not pair.a.names.asked
    assert not pair.failed_over()


def test_removed_peer_is_not_followed(pair: Pair) -> None:
    pair.follows(NAME)
    pair.a.tunnel.remove_peer(pair.a.peer)
    asked = len(pair.a.names.asked)
    pair.network_changes()
    pair.run(1)
    assert len(pair.a.names.asked) == asked
