"""The control loop with planes in memory, in virtual time: events in, commands out, timers on time."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fake_plane import SECOND, FakePlane, VirtualLoop, virtual_loop
from reference.cookies import CookieIssuer

from udpring._native import lib
from udpring.errors import RingError
from udpring.tunnel.command_batch import COMMANDS_MAX
from udpring.tunnel.keys import generate_private_key, public_key
from udpring.tunnel.native_noise import NativeJob, NativeStaticKey
from udpring.tunnel.plane_values import Event, EventKind, SocketAddress
from udpring.tunnel.tunnel import Tunnel
from udpring.wireguard import events as protocol
from udpring.wireguard.events import Source

HERE = SocketAddress(bytes([10, 0, 0, 1]), 1000)
THERE = SocketAddress(bytes([10, 0, 0, 2]), 2000)


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
        self.peer = -1

    def knows(self, other: Side) -> None:
        self.peer = self.tunnel.add_peer(other.public)
        self.tunnel.set_endpoint(self.peer, other.plane.address)

    @property
    def pair(self) -> dict[str, object]:
        found = self.plane.peers[self.peer].keypair
        assert found is not None
        return found


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as made:
        yield made


@pytest.fixture
def sides(loop: VirtualLoop) -> Iterator[tuple[Side, Side]]:
    a, b = Side(loop, HERE, 1), Side(loop, THERE, 2)
    a.plane.other, b.plane.other = b.plane, a.plane
    a.knows(b)
    b.knows(a)
    a.tunnel.start()
    b.tunnel.start()
    yield a, b
    a.tunnel.close()
    b.tunnel.close()


def until(loop: VirtualLoop, condition: Callable[[], object], seconds: float = 700) -> None:
    """Runs the loop until the condition holds. Times are virtual seconds."""

    async def wait() -> None:
        end = loop.time() + seconds
        while not condition():
            assert loop.time() < end, "the condition did not come about"
            await asyncio.sleep(0.01)

    loop.run_until_complete(wait())


def run_for(loop: VirtualLoop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def wanted(side: Side) -> None:
    side.plane.post(Event(EventKind.HANDSHAKE_WANTED, side.peer))


def test_a_handshake_gives_both_sides_the_same_keys(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.plane.peers[b.peer].keypair, 5)
    assert a.pair["send_key"] == b.pair["receive_key"]
    assert a.pair["receive_key"] == b.pair["send_key"]
    assert a.pair["local_index"] == b.pair["remote_index"]
    assert (a.pair["initiator"], b.pair["initiator"]) == (True, False)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    assert a.tunnel.control.stats.handshakes_completed == 1
    assert a.tunnel.device.by_id[a.peer].last_handshake_wall > 0
    assert b.tunnel.device.by_id[b.peer].last_handshake_wall > 0


def test_handshakes_have_af41_and_answers_go_back(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """Handshake messages carry DSCP AF41. An answer goes to the sender's address."""
    a, b = sides
    wanted(a)
    until(loop, lambda: b.plane.sent, 5)
    assert {sent["tos"] for sent in a.plane.sent + b.plane.sent} == {0x88}
    answer = b.plane.sent[0]
    assert (answer["to"], answer["source"], answer["interface_index"]) == (HERE, THERE, 3)
    until(loop, lambda: a.plane.named("authenticated"), 5)
    assert b.plane.named("authenticated")[0][3:] == (HERE, THERE, 3)


def test_unanswered_initiation_is_retried_then_given_up(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    a.plane.lossy = lambda message: True
    a.plane.stamp(a.peer, staged=3)
    wanted(a)
    until(loop, lambda: a.tunnel.control.stats.handshakes_given_up, 120)
    times = [sent["at"] for sent in a.plane.sent]
    gaps = [(after - before) / SECOND for before, after in itertools.pairwise(times)]
    assert len(times) == 19
    assert min(gaps) >= 5
    assert max(gaps) < 5.5
    assert a.plane.peers[a.peer].state.staged == 0
    assert not a.plane.indices, "every handshake's index went back"


def test_unanswered_data_starts_a_handshake(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    run_for(loop, 30)
    assert a.plane.peers[a.peer].post_activity
    start = loop.clock.boot()
    before = len(a.plane.sent)
    a.plane.stamp(a.peer, unanswered_since=start, last_sent=start, last_traversal=start)
    until(loop, lambda: len(a.plane.sent) > before, 20)
    assert 15 <= (a.plane.sent[-1]["at"] - start) / SECOND < 15.5
    assert a.plane.named("source_clear")


def test_unanswered_data_is_seen_beside_other_timers(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """Its timers are not suspended, so no ACTIVITY comes. The check every ten seconds has to find it."""
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    run_for(loop, 30)
    first = loop.clock.boot()
    a.plane.stamp(a.peer, unanswered_since=first, last_sent=first, last_traversal=first)
    run_for(loop, 1)
    start = loop.clock.boot()
    a.plane.stamp(a.peer, unanswered_since=0, last_received=start, last_traversal=start)
    assert not a.plane.peers[a.peer].post_activity
    before = len(a.plane.sent)
    a.plane.stamp(a.peer, unanswered_since=start, last_sent=start, last_traversal=start)
    until(loop, lambda: len(a.plane.sent) > before, 20)
    assert 15 <= (a.plane.sent[-1]["at"] - start) / SECOND < 15.5


def test_received_data_is_acknowledged_after_ten_seconds_of_silence(
    loop: VirtualLoop, sides: tuple[Side, Side]
) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    run_for(loop, 30)
    sent = len(b.plane.named("keepalive"))
    start = loop.clock.boot()
    b.plane.stamp(b.peer, owed_since=start, last_received=start, last_traversal=start)
    until(loop, lambda: len(b.plane.named("keepalive")) > sent, 12)
    assert 10 <= (loop.clock.boot() - start) / SECOND < 10.2


def test_persistent_keepalive_comes_at_once_and_at_its_interval(
    loop: VirtualLoop, sides: tuple[Side, Side]
) -> None:
    a, _ = sides
    a.tunnel.set_keepalive(a.peer, 25)
    until(loop, lambda: a.plane.peers[a.peer].keypair, 5)
    before = len(a.plane.named("keepalive"))
    run_for(loop, 101)
    assert len(a.plane.named("keepalive")) - before == 4
    a.tunnel.set_keepalive(a.peer, 0)
    before = len(a.plane.named("keepalive"))
    run_for(loop, 100)
    assert len(a.plane.named("keepalive")) == before


def test_idle_peer_loses_keys_after_540_seconds(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """Before that, its stamps are never read."""
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    run_for(loop, 60)
    looks = len(a.plane.named("states_of"))
    run_for(loop, 400)
    assert len(a.plane.named("states_of")) == looks, "nothing happened, so nothing is looked at"
    run_for(loop, 100)
    assert a.plane.named("keys_erase")
    assert a.plane.peers[a.peer].keypair is None


def test_suspend_delays_timers_30_seconds_at_most(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    run_for(loop, 60)
    real_time = loop.time
    asleep = 3600 * SECOND
    loop.clock.nanoseconds += asleep  # boot time advances while the machine sleeps
    # The loop's clock does not.
    loop.time = lambda: real_time() - asleep / SECOND  # type: ignore[method-assign]
    run_for(loop, 31)
    assert a.plane.named("keys_erase")


def test_packets_staged_early_start_a_handshake(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """They were staged before the peer was complete."""
    a, _ = sides
    run_for(loop, 1)
    assert not a.plane.sent
    a.plane.stamp(a.peer, staged=1)
    a.tunnel.start_peer(a.peer)
    until(loop, lambda: a.plane.sent, 1)


@pytest.mark.parametrize("staged", [0, 3])
def test_initiator_opens_with_staged_packet_or_keepalive(
    loop: VirtualLoop, sides: tuple[Side, Side], staged: int
) -> None:
    """One of the two, as in the kernel (wg_packet_send_keepalive): the responder needs only one packet."""
    a, _ = sides
    a.plane.stamp(a.peer, staged=staged)
    wanted(a)
    until(loop, lambda: a.tunnel.control.stats.handshakes_completed, 5)
    assert len(a.plane.named("keepalive")) == (0 if staged else 1)
    a.tunnel.set_keepalive(a.peer, 25)
    assert len(a.plane.named("keepalive")) == (1 if staged else 2), "only the one is left out"


def test_a_turn_is_bounded_and_others_get_theirs(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    for _ in range(2000):
        a.plane.post(Event(EventKind.ACTIVITY, a.peer))
    seen = []

    async def watch() -> None:
        while a.tunnel.control.stats.events < 2000:
            seen.append(a.tunnel.control.stats.events)
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(watch(), 10))
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) <= 256


def test_a_flood_without_end_leaves_others_their_turns(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """The eventfd is raised repeatedly while a turn waits to continue. There must be one next turn, not
    two."""
    a, _ = sides
    control = a.tunnel.control
    take = a.plane.events
    seen: list[int] = []

    def endless(maximum: int) -> list[Event]:
        """More events arrive while some are taken, as from a worker under load."""
        taken = take(maximum)
        for _ in range(2 * maximum):
            a.plane.post(Event(EventKind.ACTIVITY, a.peer))
        return taken

    async def watch() -> None:
        for _ in range(200):
            await asyncio.sleep(0)
            seen.append(control.stats.events)

    a.plane.events = endless  # type: ignore[method-assign]
    a.plane.post(Event(EventKind.ACTIVITY, a.peer))
    loop.run_until_complete(watch())
    assert seen[-1] > 10_000
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 256


def test_failing_event_is_counted(
    loop: VirtualLoop, sides: tuple[Side, Side], caplog: pytest.LogCaptureFixture
) -> None:
    """The loop continues."""
    a, b = sides
    with caplog.at_level(logging.DEBUG, "udpring"):
        a.plane.post(Event(EventKind.HANDSHAKE, None, b"\x01" * 148, source=None))
        wanted(a)
        until(loop, lambda: b.plane.peers[b.peer].keypair, 5)
    assert a.tunnel.control.stats.failures == 1
    assert "failed" in caplog.text
    assert a.key.hex() not in caplog.text


def test_failing_command_is_counted(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """The commands after it are executed."""
    a, _ = sides
    a.plane.fail["source_clear"] = RingError("no", errno=errno.ENOENT)
    a.tunnel.control.carry_out([protocol.ClearSource(a.peer), protocol.DropStaged(a.peer)])
    assert a.tunnel.control.stats.command_errors == 1
    assert a.plane.named("staged_drop")


def test_commands_of_a_turn_cross_together(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """In the order of their events, and no more at once than a crossing takes."""
    a, _ = sides
    peers = [a.tunnel.add_peer(public_key(generate_private_key())) for _ in range(70)]
    for peer in peers:
        a.tunnel.set_endpoint(peer, THERE)
    run_for(loop, 1)
    (batch,) = a.plane.batches
    batch.crossings.clear()
    for peer in peers:
        a.plane.post(Event(EventKind.HANDSHAKE_WANTED, peer))
    until(loop, lambda: a.tunnel.control.stats.messages_sent == 70, 1)
    assert [sent["peer"] for sent in a.plane.sent] == peers
    assert sum(batch.crossings) == 70
    assert len(batch.crossings) == 2
    assert max(batch.crossings) <= COMMANDS_MAX


def test_commands_before_a_failed_event_are_run(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    wanted(a)
    a.plane.post(Event(EventKind.HANDSHAKE, None, b"\x01" * 148, source=None))
    until(loop, lambda: a.tunnel.control.stats.failures, 1)
    assert a.tunnel.control.stats.messages_sent == 1


def test_failing_callback_stops_no_command(
    loop: VirtualLoop, sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that follows from an authentic message fails; the response leaves all the same."""
    a, b = sides

    class FullDisk:
        def changed(self) -> None:
            raise OSError(errno.ENOSPC, "no space")

        def close(self) -> None:
            pass

    monkeypatch.setattr(b.tunnel, "_timestamps", FullDisk())
    wanted(a)
    until(loop, lambda: a.tunnel.control.stats.handshakes_completed, 5)
    assert b.tunnel.control.stats.failures == 1
    assert b.tunnel.control.stats.messages_sent == 1


def test_timers_of_one_peer_that_fail_are_tried_again(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    a.plane.fail["states_of"] = RingError("no", errno=errno.EIO)
    a.tunnel.set_keepalive(a.peer, 10)
    run_for(loop, 5)
    assert 2 <= a.tunnel.control.stats.failures <= 8
    del a.plane.fail["states_of"]
    until(loop, lambda: a.plane.peers[a.peer].keypair, 10)


def test_dropped_messages_are_counted_by_reason(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    replayed = a.plane.sent[0]["message"]
    b.plane.arrive(replayed, HERE)
    b.plane.arrive(b"\x01" + bytes(147), HERE)
    until(loop, lambda: len(b.tunnel.control.stats.dropped) == 2, 5)
    assert b.tunnel.control.stats.dropped == {"replayed_initiation": 1, "bad_mac1": 1}


def test_handshake_under_load_succeeds_with_cookie(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """The plane sends the cookie. The control loop gets the message that contains it, as under load."""
    a, b = sides
    original = b.plane.post
    issuer, cookies = CookieIssuer(os.urandom), []
    sender = Source(HERE.ip, HERE.port)

    def post(event: Event) -> None:
        if event.kind != EventKind.HANDSHAKE:
            original(event)
            return
        macs = {"mac1_key": b.plane.mac1_key, "cookie_key": b.plane.cookie_key}
        reply = issuer.demand(event.message, sender, event.now, **macs)
        if reply is None:
            original(replace(event, under_load=True))
        else:
            cookies.append(reply)
            a.plane.arrive(reply, THERE)

    b.plane.post = post  # type: ignore[method-assign]
    wanted(a)
    until(loop, lambda: b.plane.peers[b.peer].keypair, 10)
    assert [sent["message"][0] for sent in b.plane.sent] == [2]
    assert len(cookies) == 1
    assert not b.tunnel.control.stats.dropped


def test_plane_has_the_key_of_cookie_replies(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """It accepts one authentic reply for each initiation and each response, and no others."""
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    for side, other in ((a, b), (b, a)):
        assert side.plane.sent
        for sent in side.plane.sent:
            assert sent["cookie_key"] == other.tunnel.device.cookie_key


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event(EventKind.TUN_GONE), "deleted"),
        (Event(EventKind.FATAL, result=-errno.ENOMEM), "ENOMEM"),
    ],
)
def test_end_of_the_plane_is_reported_once(
    loop: VirtualLoop, sides: tuple[Side, Side], event: Event, words: str
) -> None:
    a, _ = sides
    a.plane.post(event)
    a.plane.post(event)
    end = loop.run_until_complete(asyncio.wait_for(a.tunnel.gone, 5))
    assert words in end.reason
    assert end.failed == (event.kind == EventKind.FATAL)


@pytest.mark.parametrize(
    ("result", "words"),
    [(lib.UDPRING_REFUSED_ALL, "super-packets written"), (lib.UDPRING_REFUSED_SHORT_LAST, "short last")],
)
def test_refused_coalescing_is_a_warning(
    loop: VirtualLoop, sides: tuple[Side, Side], caplog: pytest.LogCaptureFixture, result: int, words: str
) -> None:
    a, _ = sides
    a.plane.post(Event(EventKind.COALESCING_REFUSED, result=result))
    until(loop, lambda: a.tunnel.control.stats.events == 1, 5)
    (said,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert words in said.getMessage()
    assert not a.tunnel.gone.done()


def test_events_of_a_removed_peer_mean_nothing(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    a.plane.post(Event(EventKind.HANDSHAKE_WANTED, a.peer))
    a.plane.post(Event(EventKind.KEY_CONFIRMED, a.peer))
    a.plane.post(Event(EventKind.ACTIVITY, a.peer))
    a.tunnel.remove_peer(a.peer)
    until(loop, lambda: a.tunnel.control.stats.events == 3, 5)
    assert a.tunnel.control.stats.failures == 0
    assert not a.plane.sent


def test_taking_a_peers_key_as_our_own_removes_it(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.tunnel.set_private_key(b.key)
    assert a.plane.named("peer_remove") == [("peer_remove", a.peer)]
    assert not a.tunnel.knows(a.peer)
    assert a.plane.mac1_key == b.plane.mac1_key
    run_for(loop, 1)
    assert a.tunnel.control.stats.failures == 0


def test_another_private_key_expires_sessions(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    a.tunnel.set_private_key(generate_private_key())
    assert a.plane.named("keys_expire")
    a.tunnel.set_private_key(None)
    assert a.plane.mac1_key is None


def test_late_private_key_starts_keepalive_handshake_at_once(
    loop: VirtualLoop, sides: tuple[Side, Side]
) -> None:
    a, _ = sides
    a.tunnel.set_private_key(None)
    a.tunnel.set_keepalive(a.peer, 25)
    run_for(loop, 0.2)
    assert not a.plane.sent, "without a private key there is nothing to send"
    a.tunnel.set_private_key(a.key)
    until(loop, lambda: a.plane.peers[a.peer].keypair, 0.1)
    assert [sent["message"][0] for sent in a.plane.sent] == [1]
    assert a.plane.named("keepalive"), "the new session's first packet"


def test_late_private_key_serves_staged_packets(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    a.tunnel.set_private_key(None)
    a.plane.stamp(a.peer, staged=1)
    wanted(a)
    run_for(loop, 0.2)
    assert not a.plane.sent
    a.tunnel.set_private_key(a.key)
    until(loop, lambda: a.plane.peers[a.peer].keypair, 0.1)


def test_down_interface_is_silent_until_up(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """Its peers start handshakes afterwards."""
    a, b = sides
    a.plane.set_link(False)
    wanted(a)
    run_for(loop, 1)
    a.tunnel.set_keepalive(a.peer, 25)
    a.plane.stamp(a.peer, staged=1)
    a.tunnel.start_peer(a.peer)
    wanted(b)
    run_for(loop, 120)
    assert not a.plane.sent, "neither an initiation nor an answer to one"
    assert not a.plane.named("keepalive")
    a.plane.set_link(True)
    until(loop, lambda: a.plane.peers[a.peer].keypair, 0.5)


def test_interface_that_goes_down_forgets_its_sessions(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.tunnel.set_keepalive(a.peer, 10)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    a.plane.stamp(a.peer, unanswered_since=loop.clock.boot(), staged=3)
    sent, keepalives = len(a.plane.sent), len(a.plane.named("keepalive"))
    a.plane.set_link(False)
    run_for(loop, 700)
    assert (len(a.plane.sent), len(a.plane.named("keepalive"))) == (sent, keepalives)
    assert a.plane.peers[a.peer].keypair is None
    assert a.plane.named("staged_drop") == [("staged_drop", a.peer)]
    assert a.plane.mac1_key is None, "the plane lets no handshake in"
    a.tunnel.set_private_key(generate_private_key())
    assert a.plane.mac1_key is None
    a.tunnel.set_private_key(a.key)
    a.plane.set_link(True)
    until(loop, lambda: a.plane.peers[a.peer].keypair, 0.5)
    assert a.plane.mac1_key is not None
    run_for(loop, 60)
    assert a.tunnel.control.stats.failures == 0
    assert len(a.plane.sent) == sent + 1, "no timer of the old session came back"


def test_short_way_down_is_enough_to_start_anew(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """Netlink reports down and up between two turns: the keepalive is sent at once."""
    a, b = sides
    a.tunnel.set_keepalive(a.peer, 600)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    run_for(loop, 1)
    for up in (False, True):
        a.plane.set_link(up)
        a.tunnel.control._link.look()
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed == 2, 1)


def test_after_close_nothing_is_left_in_the_loop(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, b = sides
    wanted(a)
    until(loop, lambda: b.tunnel.control.stats.handshakes_completed, 5)
    for side in sides:
        side.tunnel.close()
        side.tunnel.close()
    assert not [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert not loop._selector.get_map().keys() - {loop._ssock.fileno()}  # type: ignore[attr-defined]


def test_many_peers_due_at_once_are_read_together(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    a, _ = sides
    keys = [public_key(generate_private_key()) for _ in range(100)]
    for key in keys:
        peer = a.tunnel.add_peer(key)
        a.tunnel.set_endpoint(peer, THERE)
    a.plane.calls.clear()
    run_for(loop, 0.1)
    looks = a.plane.named("states_of")
    assert [len(peers) for _, peers, post_activity in looks if not post_activity] == [64, 37]
    assert not a.plane.named("peer_state")


@pytest.mark.parametrize(("seconds", "looks"), [(None, True), (600, True), (500, False)])
def test_peer_is_looked_at_once_its_response_is_computed(
    loop: VirtualLoop, sides: tuple[Side, Side], seconds: int | None, looks: bool
) -> None:
    """An initiation changes no timer of a responder before its response is there. A response sets the one of
    540 seconds, so a check that comes before is early enough."""
    a, b = sides
    held: list[protocol.Compute] = []
    b.tunnel.control._outcomes._carry[protocol.Compute] = held.append
    b.tunnel.device._identity = NativeStaticKey(b.key, deferred=True)
    run_for(loop, 0.1)
    b.plane.calls.clear()
    wanted(a)
    until(loop, lambda: held, 5)
    run_for(loop, 1)
    assert b.plane.named("authenticated")
    assert not b.plane.named("states_of")
    assert isinstance(held[0].job, NativeJob)
    held[0].job.run()
    b.plane.lossy = lambda message: True
    if seconds is not None:
        b.tunnel.control._deadlines.set(b.peer, loop.clock.boot() + seconds * SECOND)
    b.tunnel.control.carry_out(held[0].then(loop.clock.boot(), loop.clock.wall()))
    run_for(loop, 0.1)
    assert bool(b.plane.named("states_of")) is looks


def test_rebinding_keeps_mark_and_present_port(loop: VirtualLoop, sides: tuple[Side, Side]) -> None:
    """Setting the present port again rebinds nothing."""
    a, _ = sides
    a.tunnel.set_fwmark(0x51)
    a.tunnel.set_listen_port(1000)
    assert not a.plane.named("bind")
    a.tunnel.set_listen_port(3000)
    assert a.plane.named("bind") == [("bind", 3000, 0x51)]
    with pytest.raises(OSError, match="taken") as refused:
        a.tunnel.set_listen_port(53)
    assert refused.value.errno == errno.EADDRINUSE
    assert a.tunnel.listen_port == 3000
