"""A session between two devices: who sends what when, and what each message changes."""

from __future__ import annotations

import pytest

from udpring.wireguard import events
from udpring.wireguard.constants import SECOND
from udpring.wireguard.events import (
    Authenticated,
    DropReason,
    HandshakeCompleted,
    InstallKeypair,
    SendKeepalive,
    SendMessage,
)

from .pair import Pair, ip_packet


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["no psk", "psk"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_first_packet_brings_the_session_up(psk: bytes | None, ipv6: bool) -> None:
    pair = Pair(psk=psk, ipv6=ipv6)
    pair.a.send(ip_packet(1))
    pair.run(1)
    assert pair.b.received == [ip_packet(1)]
    pair.b.send(ip_packet(2))
    pair.run(1)
    assert pair.a.received == [ip_packet(2)]
    assert [d.data[0] for d in pair.network.log] == [1, 2, 4, 4]
    assert not pair.a.drops
    assert not pair.b.drops


def test_outcomes_of_both_roles_in_order() -> None:
    pair = Pair()
    pair.a.send(ip_packet())
    pair.run(1)
    assert [type(o) for o in pair.a.outcomes] == [
        SendMessage,
        Authenticated,
        InstallKeypair,
        SendKeepalive,
        HandshakeCompleted,
    ]
    # The responder installs the keypair before the response leaves, and completes with the first data.
    assert [type(o) for o in pair.b.outcomes] == [
        Authenticated,
        InstallKeypair,
        SendMessage,
        HandshakeCompleted,
    ]
    (installed_a,) = [o for o in pair.a.outcomes if isinstance(o, InstallKeypair)]
    (installed_b,) = [o for o in pair.b.outcomes if isinstance(o, InstallKeypair)]
    assert installed_a.initiator
    assert not installed_b.initiator
    assert installed_a.send_key == installed_b.receive_key != installed_a.receive_key == installed_b.send_key
    assert (installed_a.local_index, installed_a.remote_index) == (
        installed_b.remote_index,
        installed_b.local_index,
    )
    assert pair.b.outcomes[0] == events.Authenticated(9, pair.address_a, 148)
    assert pair.a.outcomes[1] == events.Authenticated(7, pair.address_b, 92)
    assert pair.a.outcomes[-1] == HandshakeCompleted(7, True)
    assert pair.b.outcomes[-1] == HandshakeCompleted(9, False)


def test_the_initiator_confirms_with_a_keepalive_when_nothing_is_staged() -> None:
    pair = Pair()
    pair.a.carry_out(pair.a.peer.handshake_wanted(pair.clock.now, pair.clock.wall))
    pair.run(1)
    assert [(d.data[0], len(d.data)) for d in pair.network.log] == [(1, 148), (2, 92), (4, 32)]
    assert pair.b.plane.session.current is not None


def test_the_responder_sends_nothing_before_the_first_data() -> None:
    pair = Pair()
    pair.network.drop = lambda d: d.data[0] == 4  # the confirmation is lost
    pair.a.send(ip_packet(1))
    pair.run(0.1)
    pair.b.send(ip_packet(2))
    pair.run(4)
    assert pair.b.plane.session.next is not None
    assert pair.b.plane.session.current is None
    assert not pair.network.sent(4, by=pair.b)
    assert pair.b.peer.last_handshake_wall == 0
    pair.network.drop = lambda d: False
    pair.a.send(ip_packet(3))
    pair.run(0.1)
    assert pair.b.received == [ip_packet(3)]
    assert pair.a.received == [ip_packet(2)]  # staged until then
    assert pair.b.peer.last_handshake_wall > 0


def test_last_handshake_is_wall_time() -> None:
    pair = Pair()
    pair.establish()
    for node in (pair.a, pair.b):
        assert 0 <= pair.clock.wall - node.peer.last_handshake_wall < SECOND


def test_replayed_initiation_is_refused() -> None:
    pair = Pair()
    pair.establish()
    (first,) = pair.network.sent(1)
    pair.clock.now += 30 * SECOND
    before = pair.b.plane.session
    keys = (before.previous, before.current, before.next)
    outcomes = pair.b.handshake(first.data, pair.address_a)
    assert outcomes == [events.Dropped(DropReason.REPLAYED_INITIATION, 9)]
    assert (before.previous, before.current, before.next) == keys
