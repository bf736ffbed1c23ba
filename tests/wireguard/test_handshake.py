"""A session between two devices: which messages they send, when, and what each one changes."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from udpring.wireguard import events
from udpring.wireguard.constants import MILLISECOND, SECOND
from udpring.wireguard.events import (
    Authenticated,
    DropReason,
    HandshakeCompleted,
    InstallKeypair,
    SendKeepalive,
    SendMessage,
    Source,
)
from udpring.wireguard.peer import Peer

from .pair import LATENCY, Node, Pair, forge_initiation, ip_packet, with_mac1


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
    # The responder installs the keypair before it sends the response. The first data completes the handshake.
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


def test_initiator_confirms_with_a_keepalive() -> None:
    """No packet is staged."""
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


def wanted(node: Node) -> list[events.Outcome]:
    outcomes = node.peer.handshake_wanted(node.clock.now, node.clock.wall)
    node.carry_out(outcomes)
    return outcomes


# ---- how often ----


def test_no_second_initiation_within_five_seconds() -> None:
    pair = Pair()
    pair.network.drop = lambda d: True
    for _ in range(48):
        wanted(pair.a)
        pair.run(0.1)
    assert len(pair.network.sent(1)) == 1
    pair.run(0.6)
    assert len(pair.network.sent(1)) == 2


def test_a_response_counts_as_a_handshake_message_sent() -> None:
    pair = Pair(both=True)
    pair.network.drop = lambda d: d.data[0] == 4  # never confirmed
    pair.a.send(ip_packet())
    pair.run(0.1)
    answered = pair.network.sent(2)[0].at
    pair.b.send(ip_packet(5))
    pair.run(4.8)
    assert not pair.network.sent(1, by=pair.b)
    # The keypair is kept: there is no second request, and b's packet must not wait for one.
    pair.run(1)
    (own,) = pair.network.sent(1, by=pair.b)
    assert own.at - answered >= 5 * SECOND


def test_live_session_prevents_late_initiation() -> None:
    pair = Pair(both=True)
    pair.network.drop = lambda d: d.data[0] == 4
    pair.a.send(ip_packet())
    pair.run(0.1)
    pair.b.send(ip_packet(5))
    pair.network.drop = lambda d: False
    pair.a.send(ip_packet(6))
    pair.run(20)
    assert pair.a.received == [ip_packet(5)]
    assert not pair.network.sent(1, by=pair.b)


def test_stale_request_starts_no_handshake() -> None:
    """The session was completed meanwhile."""
    pair = Pair()
    pair.establish()
    assert wanted(pair.a) == []
    pair.run(10)
    assert len(pair.network.sent(1)) == 1


def test_initiations_less_than_20_ms_apart_are_not_answered() -> None:
    pair = Pair()
    assert pair.b.device.public_key
    start = pair.clock.now
    results = []
    for number, at in enumerate((0, 1, 19, 20, 21, 40, 42)):
        pair.clock.now = start + at * MILLISECOND
        timestamp = bytes((0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number + 1))
        forged = forge_initiation(pair.private_a, pair.b.device.public_key, timestamp=timestamp)
        first = pair.b.handshake(forged, pair.address_a)[0]
        results.append(first.reason if isinstance(first, events.Dropped) else "answered")
    flood = DropReason.INITIATION_FLOOD
    assert results == ["answered", flood, flood, flood, "answered", flood, "answered"]


# ---- timestamps ----


def test_timestamp_must_exceed_last_authentic_one() -> None:
    pair = Pair()
    assert pair.b.device.public_key
    to = pair.b.device.public_key
    base = bytes.fromhex("4000000060000000") + bytes(4)
    later = bytes.fromhex("4000000060000000") + bytes((0, 0, 0, 1))
    earlier = bytes.fromhex("400000005fffffff") + bytes((0x3B, 0, 0, 0))
    outcomes = {}
    for name, stamp in (("base", base), ("same", base), ("earlier", earlier), ("later", later)):
        pair.clock.now += SECOND
        forged = forge_initiation(pair.private_a, to, timestamp=stamp)
        outcomes[name] = pair.b.handshake(forged, pair.address_a)[0]
    replayed = events.Dropped(DropReason.REPLAYED_INITIATION, 9)
    assert isinstance(outcomes["base"], Authenticated)
    assert outcomes["same"] == outcomes["earlier"] == replayed
    assert isinstance(outcomes["later"], Authenticated)


def test_forged_future_timestamp_locks_no_peer_out() -> None:
    """An attacker with both public keys but no private key cannot burn timestamps."""
    pair = Pair()
    assert pair.b.device.public_key
    stranger = bytes(range(32))
    far = b"\x7f" * 12
    forged = forge_initiation(stranger, pair.b.device.public_key, timestamp=far)
    assert pair.b.handshake(forged, pair.address_a) == [events.Dropped(DropReason.UNKNOWN_PEER)]
    pair.establish()


def test_retransmissions_are_answered_even_if_our_clock_goes_back() -> None:
    pair = Pair()
    pair.network.drop = lambda d: d.data[0] == 2
    pair.a.send(ip_packet(1))
    pair.run(1)
    pair.clock.wall_offset -= 3600 * SECOND
    pair.network.drop = lambda d: False
    pair.run(5)
    assert pair.b.received == [ip_packet(1)]
    assert not pair.b.drops


# ---- forged and stray messages ----


def test_response_is_taken_once_if_awaited() -> None:
    pair = Pair()
    pair.establish()
    (response,) = pair.network.sent(2)
    again = pair.a.handshake(response.data, pair.address_b)
    assert again == [events.Dropped(DropReason.UNEXPECTED_RESPONSE, 7)]
    # With an unknown index, and after the session is gone.
    nobody = with_mac1(pair.a.device.public_key or b"", response.data[:8] + b"\xff" * 4 + response.data[12:])
    assert pair.a.handshake(nobody, pair.address_b) == [events.Dropped(DropReason.UNKNOWN_INDEX)]
    pair.run(600)
    assert pair.a.handshake(response.data, pair.address_b) == [events.Dropped(DropReason.UNKNOWN_INDEX)]


def test_a_response_to_an_abandoned_initiation_is_refused() -> None:
    pair = Pair()
    pair.network.delay = lambda d: 6 * SECOND if d.data[0] == 2 else LATENCY
    pair.a.send(ip_packet())
    pair.run(5.9)
    assert len(pair.network.sent(1)) == 2
    pair.run(0.5)
    assert pair.a.drops == {DropReason.UNKNOWN_INDEX: 1}
    assert pair.a.plane.session.current is None
    pair.network.delay = lambda d: LATENCY
    pair.run(10)
    assert pair.b.received


def test_a_response_by_another_peer_is_refused() -> None:
    """The message has a valid index, but the index belongs to another peer, and the keys do not match."""
    pair = Pair()
    pair.network.drop = lambda d: True
    pair.a.send(ip_packet())
    (initiation,) = pair.network.sent(1)
    mallory = Node(pair.network, "mallory", Source(b"\0\0\0\x03", 3))
    mallory.identity(bytes(range(32)))
    assert mallory.device.public_key
    assert pair.a.device.public_key
    pair.a.add(8, mallory.device.public_key)
    index = initiation.data[4:8]
    body = bytes((2, 0, 0, 0)) + b"\1\2\3\4" + index + bytes((9,)) + bytes(47) + bytes(32)
    forged = with_mac1(pair.a.device.public_key, body)
    before = pair.a.peer._outgoing
    assert pair.a.handshake(forged, pair.address_b) == [events.Dropped(DropReason.UNAUTHENTICATED, 7)]
    low_order = with_mac1(pair.a.device.public_key, forged[:12] + bytes(32) + forged[44:])
    assert pair.a.handshake(low_order, pair.address_b) == [events.Dropped(DropReason.INVALID_KEY, 7)]
    assert pair.a.peer._outgoing is before
    wrong_owner = pair.a.device.receive(
        forged,
        pair.address_b,
        8,
        under_load=False,
        now=pair.clock.now,
        wall=pair.clock.wall,
    )
    assert wrong_owner == [events.Dropped(DropReason.UNEXPECTED_RESPONSE, 8)]


def test_response_must_name_its_initiation() -> None:
    """Only mac1 protects the index, and anybody can compute it."""
    pair = Pair()
    pair.establish()
    assert pair.a.device.public_key
    assert pair.a.plane.session.current
    present = pair.a.plane.session.current.local_index.to_bytes(4, "little")
    pair.clock.now += 125 * SECOND
    pair.network.drop = lambda d: d.data[0] == 2
    pair.a.send(ip_packet())
    pair.run(0.1)
    response = pair.network.sent(2)[-1].data
    misdirected = with_mac1(pair.a.device.public_key, response[:8] + present + response[12:])
    refused = pair.a.handshake(misdirected, pair.address_b)
    assert refused == [events.Dropped(DropReason.UNEXPECTED_RESPONSE, 7)]
    assert isinstance(pair.a.handshake(response, pair.address_b)[0], Authenticated)


def test_an_ephemeral_of_small_order_is_refused() -> None:
    pair = Pair()
    assert pair.b.device.public_key
    message = forge_initiation(pair.private_a, pair.b.device.public_key, timestamp=b"\x40" + bytes(11))
    forged = with_mac1(pair.b.device.public_key, message[:8] + bytes(32) + message[40:])
    assert pair.b.handshake(forged, pair.address_a) == [events.Dropped(DropReason.INVALID_KEY)]


def test_small_order_key_never_handshakes() -> None:
    pair = Pair()
    pair.a.add(8, bytes(32), pair.address_b)
    assert pair.a.device.by_id[8].handshake_wanted(pair.clock.now, pair.clock.wall) == []
    assert pair.a.device.by_id[8].deadline(events.PeerStamps()) is None


def test_without_a_private_key_nothing_is_taken_or_sent() -> None:
    pair = Pair()
    pair.b.identity(bytes(32))
    assert pair.b.device.public_key is None
    assert pair.b.device.mac1_key is None
    pair.a.send(ip_packet())
    pair.run(1)
    assert pair.b.drops == {DropReason.NO_IDENTITY: 1}
    assert wanted(pair.b) == []


def test_transport_messages_are_not_the_devices_business() -> None:
    pair = Pair()
    assert pair.b.handshake(b"\4" + bytes(147), pair.address_a) == [events.Dropped(DropReason.BAD_TYPE)]


# ---- crossing, rekeying, restarting ----


@pytest.mark.parametrize("seed", range(6))  # some seeds give each side the smaller public key
def test_initiations_that_cross_converge(seed: int) -> None:
    pair = Pair(both=True, seed=seed)
    pair.a.send(ip_packet(1))
    pair.b.send(ip_packet(2))
    pair.run(0.1)
    assert pair.a.received == [ip_packet(2)]
    assert pair.b.received == [ip_packet(1)]
    assert len(pair.network.sent(1)) == 2
    for number in range(3, 400):
        pair.a.send(ip_packet(number))
        pair.b.send(ip_packet(number))
        pair.run(1)
    # No packet is lost when keys change, and nothing remains of the other session.
    assert len(pair.a.received) == len(pair.b.received) == 398
    assert len(pair.network.sent(1)) <= 6
    winner, other = sorted((pair.a, pair.b), key=lambda node: node.device.public_key or b"")
    assert winner.drops == {DropReason.CROSSED_INITIATION: 1}
    assert not other.drops
    assert len(pair.a.indices) == len(pair.b.indices) == 2


@pytest.mark.parametrize("seed", range(6))
def test_crossing_initiations_with_a_peer_that_drops_its_own(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The kernel and wireguard-go have one handshake for both roles: answering abandons their own
    initiation."""
    pair = Pair(both=True, seed=seed)
    original = Peer.receive_initiation

    def single(peer: Peer, *arguments: Any) -> list[events.Outcome]:
        if peer is pair.b.peer:
            peer._outgoing = None
        return original(peer, *arguments)

    monkeypatch.setattr(Peer, "receive_initiation", single)
    pair.a.send(ip_packet(1))
    pair.b.send(ip_packet(2))
    pair.run(0.1)
    assert pair.a.received == [ip_packet(2)]
    assert pair.b.received == [ip_packet(1)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lost", ["of a", "of b", "both"])
def test_crossing_initiations_of_which_some_are_lost(seed: int, lost: str) -> None:
    pair = Pair(both=True, seed=seed)
    lossy = {"of a": [pair.address_a], "of b": [pair.address_b], "both": [pair.address_a, pair.address_b]}
    pair.network.drop = lambda d: d.source in lossy[lost]
    pair.a.send(ip_packet(1))
    pair.b.send(ip_packet(2))
    pair.network.drop = lambda d: False
    pair.run(6)
    assert pair.a.received == [ip_packet(2)]
    assert pair.b.received == [ip_packet(1)]


@pytest.mark.parametrize("seed", range(6))
def test_a_crossing_initiation_shows_where_the_peer_is_now(seed: int) -> None:
    pair = Pair(both=True, seed=seed)
    pair.a.move(Source(b"\0\0\0\x63", 7777))  # b does not know the new address
    pair.b.send(ip_packet(2))
    pair.run(0.5)
    pair.a.send(ip_packet(1))
    pair.run(0.1)
    assert pair.b.plane.endpoint == pair.a.address
    pair.run(6)
    assert pair.a.received == [ip_packet(2)]
    assert pair.b.received == [ip_packet(1)]
    assert not pair.a.drops[DropReason.REPLAYED_INITIATION]


@pytest.mark.parametrize("seed", range(6))
def test_old_own_initiation_does_not_block_answer(seed: int) -> None:
    pair = Pair(both=True, seed=seed)
    pair.a.move(Source(b"\0\0\0\x63", 7777))
    pair.b.send(ip_packet(2))
    pair.run(1.5)
    pair.a.send(ip_packet(1))
    pair.run(0.1)
    assert pair.a.received == [ip_packet(2)]
    assert pair.b.received == [ip_packet(1)]


@pytest.mark.parametrize("seed", range(6))
def test_slow_crossing_makes_two_working_sessions(seed: int) -> None:
    pair = Pair(both=True, seed=seed)
    pair.network.delay = lambda d: 1200 * MILLISECOND
    pair.a.send(ip_packet(1))
    pair.b.send(ip_packet(2))
    pair.run(10)
    for number in range(3, 600):
        pair.a.send(ip_packet(number))
        pair.b.send(ip_packet(number))
        pair.run(1)
    # Packets in flight when keys change may be lost, for about one round trip.
    assert min(len(pair.a.received), len(pair.b.received)) >= 598 - 6 * 3


def test_a_rekey_loses_nothing() -> None:
    pair = Pair()
    pair.establish()
    for number in range(6000):
        pair.a.send(ip_packet(number))
        pair.b.send(ip_packet(number))
        pair.run(0.1)
    assert pair.a.received[-1] == pair.b.received[-1] == ip_packet(5999) or pair.run(1) is None
    assert sorted(pair.a.received) == sorted(pair.b.received) == sorted(map(ip_packet, range(6000)))
    assert {d.source for d in pair.network.sent(1)} == {pair.address_a}  # only the initiator rekeys by time
    starts = [d.at for d in pair.network.sent(1)]
    assert all(120 * SECOND <= gap < 121 * SECOND for gap in (y - x for x, y in itertools.pairwise(starts)))


def test_restart_of_the_responder() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    pair.restart_b(knows_a=False)
    begin = pair.clock.now
    number = 0
    while not pair.b.received:
        assert pair.clock.now - begin < 17 * SECOND
        number += 1
        pair.a.send(ip_packet(number))
        pair.run(1)


def test_restart_of_an_end_that_speaks_first() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    pair.restart_b()
    pair.b.send(ip_packet(1))
    pair.run(0.1)
    pair.a.send(ip_packet(2))
    pair.run(0.1)
    assert pair.a.received == [ip_packet(1)]
    assert pair.b.received == [ip_packet(2)]


def test_indices_end_with_what_they_stood_for() -> None:
    pair = Pair(both=True)
    losses = random.Random(5)
    pair.network.drop = lambda d: losses.random() < 0.4
    for number in range(1500):
        losses.choice((pair.a, pair.b)).send(ip_packet(number))
        pair.run(1)
        for node in (pair.a, pair.b):
            session = node.plane.session
            keypairs = {k.local_index for k in (session.previous, session.current, session.next) if k}
            outgoing = node.peer._outgoing
            assert set(node.indices) == keypairs | ({outgoing.local_index} if outgoing else set())
            assert len(node.indices) <= 4


# ---- preshared key ----


def test_a_changed_preshared_key_applies_from_the_next_handshake() -> None:
    pair = Pair()
    pair.establish()
    for node in (pair.a, pair.b):
        node.peer.set_preshared_key(bytes(range(32)))
        assert node.peer.preshared_key == bytes(range(32))
    pair.run(60)
    pair.a.send(ip_packet(3))  # the current session continues
    pair.run(1)
    assert pair.b.received == [ip_packet(3)]
    pair.run(60)
    pair.a.send(ip_packet(4))
    pair.run(1)
    assert len(pair.network.sent(1)) == 2
    assert pair.a.counts["HandshakeCompleted"] == 2
    assert not pair.a.drops


def test_different_preshared_keys_make_no_session() -> None:
    pair = Pair()
    pair.b.peer.set_preshared_key(b"\1" * 32)
    pair.a.send(ip_packet())
    pair.run(30)
    assert pair.a.plane.session.current is None
    assert set(pair.a.drops) == {DropReason.UNAUTHENTICATED}
    pair.a.peer.set_preshared_key(b"\1" * 32)  # even for the handshake in progress
    pair.run(6)
    assert pair.b.received


def test_a_preshared_key_of_zeros_is_none() -> None:
    pair = Pair()
    pair.a.peer.set_preshared_key(bytes(32))
    assert pair.a.peer.preshared_key is None
    pair.establish()
    pair.a.peer.set_preshared_key(b"\1" * 32)
    pair.a.peer.set_preshared_key(None)
    assert pair.a.peer.preshared_key is None
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            pair.a.peer.set_preshared_key(wrong)


# ---- private key and peers ----


def test_new_private_key_renews_sessions() -> None:
    pair = Pair()
    pair.establish()
    new = bytes(range(7, 39))
    pair.a.outcomes.clear()
    pair.a.identity(new)
    assert pair.a.outcomes == [events.ExpireKeys(7)]
    assert pair.a.device.public_key
    pair.b.device.remove_peer(9)
    pair.b.add(10, pair.a.device.public_key)
    pair.a.send(ip_packet(1))  # at once: the 5 s of the old identity do not apply
    pair.run(0.1)
    assert pair.b.received == [ip_packet(1)]


def test_the_same_private_key_again_changes_nothing() -> None:
    pair = Pair()
    pair.establish()
    assert pair.a.device.set_private_key(pair.private_a, pair.clock.now) == []


def test_new_private_key_restarts_handshake() -> None:
    pair = Pair()
    pair.network.drop = lambda d: True
    pair.a.send(ip_packet(1))
    (index,) = pair.a.indices
    pair.a.outcomes.clear()
    pair.a.identity(bytes(range(7, 39)))
    assert pair.a.outcomes == [events.ReleaseIndex(index), events.ExpireKeys(7)]
    assert pair.a.device.public_key
    pair.b.device.remove_peer(9)
    pair.b.add(10, pair.a.device.public_key)
    pair.network.drop = lambda d: False
    pair.run(0.1)
    assert pair.b.received == [ip_packet(1)]


def test_taking_the_private_key_away_stops_everything() -> None:
    pair = Pair()
    pair.network.drop = lambda d: True
    pair.a.send(ip_packet(1))
    assert pair.a.device.set_private_key(None, pair.clock.now)[-1] == events.ExpireKeys(7)
    assert pair.a.deadline() is None


def test_a_peer_that_is_ourselves_is_removed() -> None:
    pair = Pair()
    outcomes = pair.a.device.set_private_key(pair.private_b, pair.clock.now)
    assert outcomes == [events.RemovedPeer(7)]
    assert not pair.a.device.peers
    assert not pair.a.device.by_id
    assert pair.a.device.public_key == pair.b.device.public_key


def test_private_keys_are_clamped() -> None:
    pair = Pair()
    raw = b"\xff" * 32
    pair.a.identity(raw)
    key = pair.a.device.public_key
    assert pair.a.device.set_private_key(b"\xf8" + b"\xff" * 30 + b"\x7f", pair.clock.now) == []
    assert pair.a.device.public_key == key
    with pytest.raises(ValueError, match="32 bytes"):
        pair.a.device.set_private_key(b"short", pair.clock.now)


def test_removing_a_peer_releases_its_handshake() -> None:
    pair = Pair()
    pair.network.drop = lambda d: True
    pair.a.send(ip_packet())
    (index,) = pair.a.indices
    peer = pair.a.peer
    assert pair.a.device.remove_peer(7) == [events.ReleaseIndex(index)]
    assert peer.handshake_wanted(pair.clock.now + 60 * SECOND, pair.clock.wall) == []
    with pytest.raises(KeyError):
        pair.a.device.remove_peer(7)


def test_peers_that_cannot_be_added() -> None:
    pair = Pair()
    device = pair.a.device
    assert device.public_key
    taken = next(iter(device.peers))
    for number, key, complaint in (
        (1, b"short", "32 bytes"),
        (1, device.public_key, "our own"),
        (1, taken, "already"),
        (7, bytes(range(32)), "already"),
    ):
        with pytest.raises(ValueError, match=complaint):
            device.add_peer(number, key, 0)
    assert list(device.by_id) == [7]
    with pytest.raises(TypeError):
        device.peers[taken] = device.by_id[7]  # type: ignore[index]


def test_nothing_secret_in_a_repr() -> None:
    pair = Pair(psk=b"\x5a" * 32)
    pair.a.send(ip_packet())
    shown = " ".join(
        map(repr, (pair.a.device, pair.a.peer, pair.a.peer._outgoing, pair.a.peer._signer, pair.a.outcomes))
    )
    assert (b"\x5a" * 4).hex() not in shown
    assert "ZZZZ" not in shown
    assert pair.private_a.hex()[:8] not in shown
    assert "Outgoing(local_index=" in shown


# ---- roaming ----


def test_responder_follows_a_roaming_initiator() -> None:
    """Data and handshake messages both move it."""
    pair = Pair()
    pair.establish()
    pair.a.move(Source(b"\0\0\0\x63", 7777, "elsewhere"))
    pair.a.send(ip_packet(1))
    pair.run(0.1)
    assert pair.b.plane.endpoint == pair.a.address
    pair.a.move(Source(b"\0\0\0\x64", 8888, "elsewhere again"))
    pair.clock.now += 125 * SECOND
    pair.network.drop = lambda d: d.data[0] == 4
    pair.a.send(ip_packet(2))
    pair.run(0.1)
    assert pair.b.plane.endpoint == pair.a.address
    assert pair.network.sent(2)[-1].to == pair.a.address


def test_the_initiator_follows_the_responder() -> None:
    pair = Pair()
    pair.establish()
    pair.b.move(Source(b"\0\0\0\x63", 7777))
    pair.b.send(ip_packet(1))
    pair.run(0.1)
    assert pair.a.plane.endpoint == pair.b.address
    pair.a.send(ip_packet(2))
    pair.run(0.1)
    assert pair.b.received == [ip_packet(2)]


def test_only_authentic_response_moves_endpoint() -> None:
    pair = Pair()
    pair.network.drop = lambda d: d.data[0] == 2
    pair.a.send(ip_packet())
    pair.run(0.1)
    (response,) = pair.network.sent(2)
    elsewhere = Source(b"\0\0\0\x63", 7777)
    forged = with_mac1(pair.a.device.public_key or b"", response.data[:-33] + b"\0" + response.data[-32:])
    pair.a.handshake(forged, elsewhere)
    assert pair.a.plane.endpoint == pair.address_b
    pair.a.handshake(response.data, elsewhere)
    assert pair.a.plane.endpoint == elsewhere
