"""Timers: retransmission, keepalives, rekeying, erasure."""

from __future__ import annotations

import itertools

import pytest

from udpring.wireguard import events
from udpring.wireguard.constants import MAX_RETRIES, MILLISECOND, SECOND
from udpring.wireguard.events import (
    ClearSource,
    DropStaged,
    EraseKeys,
    HandshakeGivenUp,
    PeerStamps,
    ReleaseIndex,
    SendKeepalive,
    SendMessage,
)
from udpring.wireguard.messages import TYPE_INITIATION, TYPE_TRANSPORT
from udpring.wireguard.timers import Timer, Timers

from .pair import Datagram, Node, Pair, ip_packet

JITTER = 333 * MILLISECOND


def lose_all(datagram: Datagram) -> bool:
    return True


def lose_none(datagram: Datagram) -> bool:
    return False


def keep_silent(pair: Pair, node: Node) -> None:
    """From now on, all datagrams of this node are lost."""
    pair.network.drop = lambda d: d.source == node.address


# ---- retransmission ----


def test_retransmission_after_five_seconds_and_jitter() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    pair.a.send(ip_packet())
    pair.run(60)
    times = [d.at for d in pair.network.sent(TYPE_INITIATION)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) >= 10
    assert all(5 * SECOND <= gap < 5 * SECOND + JITTER for gap in gaps)
    assert len(set(gaps)) > 5  # the jitter is drawn each time
    assert pair.a.plane.sources_cleared == len(gaps)


def test_every_retransmission_is_a_new_handshake() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    pair.a.send(ip_packet())
    pair.run(30)
    bodies = [d.data for d in pair.network.sent(TYPE_INITIATION)]
    assert len({body[4:8] for body in bodies}) == len(bodies)  # sender index
    assert len({body[8:40] for body in bodies}) == len(bodies)  # ephemeral
    assert len(pair.a.indices) == 1  # the abandoned ones were released


def test_gives_up_after_eighteen_retries() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    pair.a.send(ip_packet())
    pair.run(89.9)
    assert not pair.a.counts["HandshakeGivenUp"]
    assert pair.a.plane.staged
    pair.run(20)
    assert len(pair.network.sent(TYPE_INITIATION)) == 1 + MAX_RETRIES == 19
    last = pair.a.outcomes[-3:]
    assert [type(o) for o in last] == [ReleaseIndex, DropStaged, HandshakeGivenUp]
    assert not pair.a.plane.staged
    assert not pair.a.indices
    sent = len(pair.network.log)
    pair.run(300)
    assert len(pair.network.log) == sent


def test_giving_up_erases_keys_and_restarts_on_data() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    pair.a.send(ip_packet())
    pair.run(120)
    assert pair.a.counts["HandshakeGivenUp"] == 1
    pair.network.drop = lose_none
    pair.a.send(ip_packet(5))
    pair.run(1)
    assert pair.b.received == [ip_packet(5)]


def test_the_zeroing_timer_is_armed_by_giving_up() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    pair.a.send(ip_packet())
    pair.run(120)
    assert not pair.a.counts["EraseKeys"]
    pair.run(540)
    assert pair.a.counts["EraseKeys"] == 1


def test_more_data_while_trying_starts_the_attempts_again() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    for _ in range(20):
        pair.a.send(ip_packet())
        pair.run(10)
    assert not pair.a.counts["HandshakeGivenUp"]
    times = [d.at for d in pair.network.sent(TYPE_INITIATION)]
    assert all(later - earlier >= 5 * SECOND for earlier, later in itertools.pairwise(times))


def test_a_response_ends_the_retransmission() -> None:
    pair = Pair()
    pair.establish()
    pair.run(60)
    assert len(pair.network.sent(TYPE_INITIATION)) == 1


# ---- 540 seconds ----


def test_keys_are_erased_540_seconds_after_the_last_session() -> None:
    pair = Pair()
    pair.establish()
    begun = min(k.birth for k in (pair.a.plane.session.current, pair.b.plane.session.current) if k)
    pair.run((begun + 539 * SECOND - pair.clock.now) / SECOND)
    assert pair.a.plane.session.current
    assert pair.b.plane.session.current
    pair.run(2)
    for node in (pair.a, pair.b):
        assert node.counts["EraseKeys"] == 1
        assert node.plane.session.current is None
        assert not node.indices
        assert node.deadline() is None


def test_a_new_session_puts_erasure_off() -> None:
    pair = Pair()
    pair.establish()
    pair.run(500)
    pair.a.send(ip_packet())
    pair.run(500)
    assert not pair.a.counts["EraseKeys"]
    pair.run(60)
    assert pair.a.counts["EraseKeys"] == 1


# ---- passive keepalive ----


def test_passive_keepalive_ten_seconds_after_unanswered_data() -> None:
    pair = Pair()
    pair.establish()
    start = pair.clock.now
    pair.a.send(ip_packet())
    pair.run(30)
    (data, keepalive) = pair.network.sent(TYPE_TRANSPORT, since=start)
    assert len(keepalive.data) == 32
    assert keepalive.source == pair.address_b
    assert keepalive.at - data.at == 10 * SECOND + 10 * MILLISECOND  # after it arrived


def test_an_answer_cancels_the_passive_keepalive() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    start = pair.clock.now
    pair.a.send(ip_packet(1))
    pair.run(9)
    pair.b.send(ip_packet(2))  # a's keepalive at 19 s answers this one
    pair.run(30)
    sent = [(d.source, len(d.data)) for d in pair.network.sent(TYPE_TRANSPORT, since=start)]
    assert sent == [(pair.address_a, 96), (pair.address_b, 96), (pair.address_a, 32)]


def test_keepalives_are_not_answered() -> None:
    """Two idle ends send nothing: keepalives arm no timer."""
    pair = Pair()
    pair.establish()
    pair.run(20)
    start = pair.clock.now
    for node in (pair.a, pair.b):
        node.carry_out([SendKeepalive(node.peer.id)])
    pair.run(30)
    assert [d.at for d in pair.network.log if d.at > start] == []


def test_data_during_the_wait_brings_one_more_keepalive() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    start = pair.clock.now
    pair.a.send(ip_packet(1))
    pair.run(5)
    pair.a.send(ip_packet(2))
    pair.run(40)
    keepalives = [
        (d.at - start) // SECOND for d in pair.network.sent(TYPE_TRANSPORT, since=start) if len(d.data) == 32
    ]
    assert keepalives == [10, 20]


def test_the_one_more_is_cancelled_by_a_send() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    start = pair.clock.now
    pair.a.send(ip_packet(1))
    pair.run(5)
    pair.a.send(ip_packet(2))
    pair.run(10)  # b sent its keepalive at 10 s
    pair.b.send(ip_packet(3))
    pair.run(8)
    sent = pair.network.sent(TYPE_TRANSPORT, since=start, by=pair.b)
    assert [len(d.data) for d in sent] == [32, 96]


# ---- new handshake ----


def test_new_handshake_fifteen_seconds_after_unanswered_data() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    keep_silent(pair, pair.b)
    start = pair.clock.now
    pair.a.send(ip_packet())
    pair.run(14.9)
    assert not pair.network.sent(TYPE_INITIATION, since=start)
    pair.run(1)
    (initiation,) = pair.network.sent(TYPE_INITIATION, since=start)
    assert 15 * SECOND <= initiation.at - start < 15 * SECOND + JITTER
    assert pair.a.outcomes[-2:] == [ClearSource(7), SendMessage(7, initiation.data)]


def test_anything_authentic_cancels_the_new_handshake() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    start = pair.clock.now
    pair.a.send(ip_packet())
    pair.run(60)  # b's passive keepalive comes after 10 s
    assert not pair.network.sent(TYPE_INITIATION, since=start)


def test_keepalives_do_not_arm_the_new_handshake() -> None:
    pair = Pair()
    pair.establish()
    pair.run(20)
    keep_silent(pair, pair.b)
    start = pair.clock.now
    pair.a.carry_out([SendKeepalive(7)])
    pair.run(60)
    assert not pair.network.sent(TYPE_INITIATION, since=start)


def test_the_responder_too_starts_a_new_handshake() -> None:
    """The peer lost its keys. It is noticed after 15 s, not at the end of the key's life."""
    pair = Pair()
    pair.establish()
    pair.run(20)
    keep_silent(pair, pair.a)
    start = pair.clock.now
    pair.b.send(ip_packet())
    pair.run(16)
    assert [d.source for d in pair.network.sent(TYPE_INITIATION, since=start)] == [pair.address_b]


def test_new_handshake_comes_once_per_silence() -> None:
    """And again after more data."""
    timers = Timers(lambda n: bytes(n))
    state = PeerStamps(unanswered_since=SECOND, last_sent=SECOND, session_birth=1, send_counter=3)
    assert timers.deadline(state) == 16 * SECOND
    assert timers.due(16 * SECOND, state) == {Timer.NEW_HANDSHAKE}
    assert timers.deadline(state) is None
    more = PeerStamps(unanswered_since=SECOND, last_sent=20 * SECOND, session_birth=1, send_counter=4)
    assert timers.deadline(more) == 35 * SECOND
    assert timers.deadline(more) == 35 * SECOND
    heard = PeerStamps(last_sent=20 * SECOND, session_birth=1, send_counter=4)
    assert timers.deadline(heard) is None


# ---- persistent keepalive ----


def test_switching_persistent_keepalive_on_sends_one_at_once() -> None:
    pair = Pair()
    pair.establish()
    now = pair.clock.now
    assert pair.a.peer.set_persistent_keepalive(25, now) == [SendKeepalive(7)]
    assert pair.a.peer.set_persistent_keepalive(25, now) == []
    assert pair.a.peer.set_persistent_keepalive(10, now) == []
    assert pair.a.peer.persistent_keepalive == 10
    assert pair.a.peer.set_persistent_keepalive(0, now) == []
    assert pair.a.peer.set_persistent_keepalive(1, now) == [SendKeepalive(7)]


@pytest.mark.parametrize("seconds", [-1, 65536])
def test_persistent_keepalive_range(seconds: int) -> None:
    with pytest.raises(ValueError, match="0 to 65535"):
        Pair().a.peer.set_persistent_keepalive(seconds, 0)


def test_persistent_keepalive_brings_up_a_session_without_data() -> None:
    pair = Pair()
    pair.a.carry_out(pair.a.peer.set_persistent_keepalive(25, pair.clock.now))
    pair.run(1)
    assert pair.b.plane.session.current
    pair.b.send(ip_packet(3))  # the path in is open
    pair.run(1)
    assert pair.a.received == [ip_packet(3)]


def test_persistent_keepalive_by_interval_and_put_off_by_traffic() -> None:
    pair = Pair()
    pair.establish()
    pair.a.carry_out(pair.a.peer.set_persistent_keepalive(25, pair.clock.now))
    start = pair.clock.now
    pair.run(99)
    sent = [(d.at - start) // SECOND for d in pair.network.sent(TYPE_TRANSPORT, since=start, by=pair.a)]
    assert sent == [0, 25, 50, 75]  # these get no answer and need no data
    pair.run(10)
    # Any authentic packet in either direction delays the next one, also a keepalive.
    after = pair.clock.now
    pair.b.carry_out([SendKeepalive(9)])
    pair.run(30)
    following = pair.network.sent(TYPE_TRANSPORT, since=after, by=pair.a)[0]
    assert following.at - after == 25 * SECOND + 10 * MILLISECOND


def test_persistent_keepalive_survives_rekey_and_dead_peer() -> None:
    pair = Pair()
    pair.a.carry_out(pair.a.peer.set_persistent_keepalive(25, pair.clock.now))
    pair.run(300)
    assert len(pair.network.sent(TYPE_INITIATION)) >= 2
    pair.network.drop = lose_all
    pair.run(3600)
    pair.network.drop = lose_none
    begin = pair.clock.now
    pair.run(40)
    assert pair.a.plane.state.last_received > begin


def test_persistent_keepalive_without_endpoint_is_idle() -> None:
    """It sends nothing and does not spin."""
    pair = Pair()
    pair.b.peer.set_persistent_keepalive(25, pair.clock.now)  # b does not know where a is
    pair.run(200)
    assert not pair.network.log
    assert not pair.b.counts["SendKeepalive"]


def test_a_private_key_that_comes_late_starts_persistent_keepalives() -> None:
    pair = Pair()
    key = pair.private_a
    pair.a.identity(bytes(32))
    pair.a.carry_out(pair.a.peer.set_persistent_keepalive(25, pair.clock.now))
    pair.run(1)
    assert not pair.network.log
    pair.a.identity(key)
    pair.run(1)
    assert pair.b.plane.session.current


# ---- all of them ----


def test_nothing_to_do_nothing_armed() -> None:
    pair = Pair()
    assert pair.a.deadline() is None
    assert pair.a.peer.on_timer(pair.clock.now, pair.clock.wall, PeerStamps()) == []


def test_too_early_does_nothing() -> None:
    pair = Pair()
    pair.network.drop = lose_all
    pair.a.send(ip_packet())
    at = pair.a.deadline()
    assert at is not None
    assert pair.a.peer.on_timer(at - 1, pair.clock.wall, pair.a.plane.view()) == []
    assert pair.a.deadline() == at
    assert pair.a.peer.on_timer(at, pair.clock.wall, pair.a.plane.view()) != []


def test_fired_timer_always_moves_on() -> None:
    """A keepalive that could not be sent leaves its stamp. The timer must not fire endlessly."""
    timers = Timers(lambda n: bytes(n))
    timers.persistent_set(25, 0)
    timers.handshake_sent(0)
    timers.session_derived(0)
    state = PeerStamps(
        unanswered_since=1, owed_since=1, owed_again=True, last_traversal=1, endpoint="somewhere"
    )
    now, fired = 0, []
    for _ in range(200):
        at = timers.deadline(state)
        assert at is not None
        assert at > now
        now = at
        fired.append(timers.due(now, state))
        assert all(fired)
    assert set().union(*fired) == set(Timer)


def test_jitter_range() -> None:
    assert Timers(lambda n: bytes(n)).jitter() == 0
    assert Timers(lambda n: b"\xff" * n).jitter() == JITTER - 1


def test_erase_outcome() -> None:
    pair = Pair()
    pair.establish()
    pair.run(600)
    assert EraseKeys(7) in pair.a.outcomes
    assert isinstance(pair.a.outcomes[-1], events.EraseKeys)


def test_the_new_handshake_has_its_jitter() -> None:
    state = PeerStamps(unanswered_since=SECOND, last_sent=SECOND, session_birth=1, send_counter=3)
    late = Timers(lambda n: b"\xff" * n)
    assert late.deadline(state) == 16 * SECOND + JITTER - 1
    assert late.deadline(state) == 16 * SECOND + JITTER - 1
    late.due(17 * SECOND, state)
    more = PeerStamps(unanswered_since=SECOND, last_sent=20 * SECOND, session_birth=1, send_counter=4)
    assert late.deadline(more) == 35 * SECOND + JITTER - 1


def test_giving_up_forgets_the_keepalive_that_was_owed() -> None:
    timers = Timers(lambda n: bytes(n))
    state = PeerStamps(owed_since=SECOND, owed_again=True, session_birth=1, send_counter=3)
    timers.due(11 * SECOND, state)
    assert timers.deadline(state) == 21 * SECOND
    owed = PeerStamps(owed_since=12 * SECOND, session_birth=1, send_counter=4)
    timers.given_up(13 * SECOND, owed)
    assert timers.due(60 * SECOND, owed) == set()
    assert timers.deadline(owed) == 553 * SECOND  # only erasure is left
