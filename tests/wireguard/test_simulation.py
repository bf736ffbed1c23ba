"""Long runs on bad networks: sessions never stall, nothing leaks, and no forbidden message is sent."""

from __future__ import annotations

import itertools
import random

import pytest
from reference.cookies import COOKIE_REQUIRED
from reference.session import TransportDrop

from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import MILLISECOND, SECOND
from udpring.wireguard.events import DropReason, Source
from udpring.wireguard.messages import TYPE_INITIATION

from .pair import Datagram, Node, Pair, ip_packet


class Traffic:
    """Sends on both sides at random times, at least every 3 s. Measures the longest time without an
    arrival."""

    def __init__(self, pair: Pair, rng: random.Random) -> None:
        self.pair = pair
        self.rng = rng
        self.heard = {"a": pair.clock.now, "b": pair.clock.now}
        self.longest = {"a": 0, "b": 0}
        self.sent = {"a": 0, "b": 0}

    def run(self, seconds: float) -> None:
        until = self.pair.clock.now + int(seconds * SECOND)
        while self.pair.clock.now < until:
            for node in self.rng.sample((self.pair.a, self.pair.b), 2):
                self.sent[node.name] += 1
                node.send(ip_packet(self.sent[node.name]))
                self.pair.run(self.rng.uniform(0, 1))
                for heard in (self.pair.a, self.pair.b):
                    if heard.received:
                        self._arrived(heard)

    def _arrived(self, node: Node) -> None:
        now = self.pair.clock.now
        self.longest[node.name] = max(self.longest[node.name], now - self.heard[node.name])
        self.heard[node.name] = now
        node.received.clear()

    def forget(self) -> None:
        now = self.pair.clock.now
        self.heard = {"a": now, "b": now}
        self.longest = {"a": 0, "b": 0}


def check_invariants(pair: Pair) -> None:
    for node in (pair.a, pair.b):
        assert len(node.indices) <= 4
        sent = [d.at for d in pair.network.log if d.data[0] in (1, 2) and d.source == node.address]
        initiations = {d.at for d in pair.network.sent(TYPE_INITIATION, by=node)}
        for earlier, later in itertools.pairwise(sorted(sent)):
            if later in initiations:
                assert later - earlier >= 5 * SECOND, "an initiation within 5 s of a handshake message"
        bodies = [d.data for d in pair.network.sent(TYPE_INITIATION, by=node)]
        assert len(set(bodies)) == len(bodies)
        counters = [d.data[4:16] for d in pair.network.sent(4, by=node)]
        assert len(set(counters)) == len(counters), "a nonce was used twice"


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("both", [False, True], ids=["one knows the other", "both know"])
@pytest.mark.parametrize("seed", range(5))
def test_an_hour_with_loss_and_reordering(seed: int, both: bool, cipher: Cipher) -> None:
    pair = Pair(both=both, seed=seed, ciphers=(cipher, cipher))
    rng = random.Random(seed)
    pair.network.drop = lambda d: rng.random() < 0.15
    pair.network.delay = lambda d: rng.randint(5, 400) * MILLISECOND
    traffic = Traffic(pair, rng)
    pair.a.send(ip_packet(0))
    pair.run(10)
    traffic.forget()
    traffic.run(3600)
    assert max(traffic.longest.values()) < 20 * SECOND, traffic.longest
    assert min(node.counts["HandshakeCompleted"] for node in (pair.a, pair.b)) >= 29
    for node in (pair.a, pair.b):
        assert not node.counts["HandshakeGivenUp"]
        assert not {TransportDrop.REPLAYED, DropReason.UNAUTHENTICATED, DropReason.BAD_MAC1} & set(node.drops)
    check_invariants(pair)


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_under_load_with_loss(seed: int) -> None:
    """Each handshake of both sides needs a cookie."""
    pair = Pair(both=True, seed=seed)
    rng = random.Random(seed)
    pair.a.under_load = pair.b.under_load = True
    pair.network.drop = lambda d: rng.random() < 0.1
    traffic = Traffic(pair, rng)
    pair.a.send(ip_packet(0))
    pair.run(30)
    traffic.forget()
    traffic.run(3600)
    assert max(traffic.longest.values()) < 30 * SECOND, traffic.longest
    assert pair.a.drops[COOKIE_REQUIRED] + pair.b.drops[COOKIE_REQUIRED] >= 25
    check_invariants(pair)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("outage", [20, 100, 200, 700])
def test_recovery_after_an_outage(seed: int, outage: int) -> None:
    pair = Pair(both=True, seed=seed)
    rng = random.Random(seed)
    traffic = Traffic(pair, rng)
    traffic.run(100)
    pair.network.drop = lambda d: True
    traffic.run(outage)
    pair.network.drop = lambda d: False
    traffic.forget()
    traffic.run(60)
    # At the latest after the following retransmission, and one more if initiations crossed.
    assert max(traffic.longest.values()) < 12 * SECOND, traffic.longest
    check_invariants(pair)


@pytest.mark.parametrize("deaf", ["a", "b"])
@pytest.mark.parametrize("seed", range(3))
def test_recovery_after_a_one_way_outage(seed: int, deaf: str) -> None:
    """One side receives nothing for long, while the other still receives."""
    pair = Pair(both=True, seed=seed)
    traffic = Traffic(pair, random.Random(seed))
    traffic.run(30)
    silent = pair.b if deaf == "a" else pair.a
    pair.network.drop = lambda d: d.source == silent.address
    traffic.run(400)
    pair.network.drop = lambda d: False
    traffic.forget()
    traffic.run(60)
    assert max(traffic.longest.values()) < 12 * SECOND, traffic.longest
    check_invariants(pair)


@pytest.mark.parametrize("seed", range(4))
def test_restarts_at_random_times(seed: int) -> None:
    pair = Pair(both=True, seed=seed)
    rng = random.Random(seed)
    pair.network.drop = lambda d: rng.random() < 0.05
    traffic = Traffic(pair, rng)
    for _ in range(20):
        traffic.run(rng.uniform(1, 250))
        pair.seed += 7
        pair.restart_b(knows_a=rng.random() < 0.5)
    traffic.run(60)
    # Packets of a are lost until it notices the silence, 15 s after the first. Then there is loss.
    assert max(traffic.longest.values()) < 40 * SECOND, traffic.longest


@pytest.mark.parametrize("seed", range(3))
def test_roaming_both_ends_at_random(seed: int) -> None:
    pair = Pair(both=True, seed=seed)
    rng = random.Random(seed)
    traffic = Traffic(pair, rng)
    for number in range(60):
        traffic.run(rng.uniform(1, 40))
        rng.choice((pair.a, pair.b)).move(Source(b"\x0a\0\0" + bytes((number,)), rng.randint(1, 65535)))
    assert max(traffic.longest.values()) < 6 * SECOND, traffic.longest


def test_an_idle_hour_is_silent() -> None:
    pair = Pair(both=True)
    pair.establish()
    pair.run(30)
    quiet_from = pair.clock.now
    pair.run(3600)
    assert not [d for d in pair.network.log if d.at > quiet_from]
    assert pair.a.deadline() is None
    assert pair.b.deadline() is None


def test_a_duplicating_network_delivers_once() -> None:
    pair = Pair()
    rng = random.Random(3)
    send = pair.network.send

    def twice(data: bytes, source: Source, to: Source) -> None:
        for _ in range(rng.randint(1, 3)):
            send(data, source, to)

    pair.network.send = twice  # type: ignore[method-assign]
    pair.network.delay = lambda d: rng.randint(5, 100) * MILLISECOND
    for number in range(400):
        pair.a.send(ip_packet(number))
        pair.run(1)
    assert len(pair.b.received) == len(set(pair.b.received)) == 400
    assert pair.b.drops[TransportDrop.REPLAYED] > 100
    assert pair.b.drops[DropReason.REPLAYED_INITIATION] > 0


def test_a_blocked_control_loop_delays_handshakes_and_breaks_nothing() -> None:
    """The embedding program may stop the loop for seconds. Timers then fire late, each once."""
    pair = Pair()
    pair.establish()
    pair.network.drop = lambda d: True
    pair.a.send(ip_packet())
    pair.clock.now += 100 * SECOND
    sent = len(pair.network.sent(TYPE_INITIATION))
    pair.a.run_timers()
    assert len(pair.network.sent(TYPE_INITIATION)) == sent + 1
    pair.network.drop = lambda d: False
    pair.run(6)
    pair.a.send(ip_packet(9))
    pair.run(1)
    assert pair.b.received


def late(datagram: Datagram) -> int:
    """The network is slower than the retransmission, so an answer arrives for an abandoned initiation."""
    return 2700 * MILLISECOND


def test_round_trip_beyond_retransmission_never_works() -> None:
    """It does not crash either."""
    pair = Pair()
    pair.network.delay = late
    pair.a.send(ip_packet())
    pair.run(120)
    assert pair.a.plane.session.current is None
    assert pair.a.counts["HandshakeGivenUp"] == 1
