"""The threads that compute handshakes: what they open, what they drop, and what has changed meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from wireguard.pair import Pair, forge_initiation, ip_packet, with_mac1

from udpring._native import ffi, lib
from udpring.tunnel.handshake_threads import HandshakeThreads
from udpring.tunnel.native_noise import NativeJob, NativeStaticKey
from udpring.tunnel.plane import Event, EventKind, Plane
from udpring.wireguard import events
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import SECOND
from udpring.wireguard.cookie import cookie_key, mac1_key
from udpring.wireguard.events import Compute, DropReason, Outcome
from udpring.wireguard.noise import StaticKey

WAIT = 30.0
STAMP = b"timestamp..."
PRIVATE = bytes(range(1, 33))


class Live:
    """A plane without a device, its threads, and a stranger's socket."""

    def __init__(self) -> None:
        self.plane = Plane("threads", queues=(1 << 20, 1 << 22))
        self.threads = HandshakeThreads(self.plane)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", self.plane.port))
        self.own = self.identity()

    def identity(self) -> NativeStaticKey:
        own = self.threads.identity(os.urandom(32))
        self.plane.identity(mac1_key(own.public), cookie_key(own.public))
        self.threads.show(own)
        return own

    def close(self) -> None:
        self.socket.close()
        self.plane.close()
        self.threads.close()

    def initiation(self, cipher: Cipher = Cipher.CHACHA20_POLY1305) -> bytes:
        return forge_initiation(PRIVATE, self.own.public, timestamp=STAMP, cipher=cipher)

    def wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT
        while not ready():
            assert time.monotonic() < deadline
            select.select([self.plane.fileno()], [], [], 0.05)

    def events(self, number: int) -> list[Event]:
        taken: list[Event] = []

        def enough() -> bool:
            taken.extend(event for event in self.plane.events() if event.kind == EventKind.HANDSHAKE)
            return len(taken) >= number

        self.wait(enough)
        return taken


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    made.close()


@pytest.mark.parametrize("cipher", Cipher)
def test_initiation_arrives_opened(live: Live, cipher: Cipher) -> None:
    message = live.initiation(cipher)
    live.socket.send(message)
    (event,) = live.events(1)
    assert event.message == message
    opened = live.threads.opened(event)
    assert opened is not None
    assert opened.claimed == StaticKey(PRIVATE).public
    assert opened.read_payload(b"", live.own.shared_with(opened.claimed)) == STAMP


def test_forged_initiations_post_no_event(live: Live) -> None:
    """Neither random bytes nor an ephemeral key of small order, both with a valid mac1."""
    genuine = live.initiation()
    live.socket.send(with_mac1(live.own.public, genuine[:8] + os.urandom(108) + bytes(32)))
    live.socket.send(with_mac1(live.own.public, genuine[:8] + bytes(32) + genuine[40:]))
    live.wait(lambda: live.plane.stats().drops.get("unauthenticated", 0) == 2)
    live.socket.send(genuine)
    (event,) = live.events(1)
    assert event.message == genuine


@pytest.mark.parametrize("threads", [(1, 1), (2, 1), (4, 2)], ids=str)
def test_every_result_of_a_burst_is_announced(
    threads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop is woken once for several, and also for those that forged initiations follow. Fewer
    threads open initiations than there are."""
    monkeypatch.setattr("udpring.tunnel.handshake_threads._threads", lambda: threads)
    with contextlib.closing(Live()) as live:
        _bursts(live)


def _bursts(live: Live) -> None:
    genuine = live.initiation()
    forged = with_mac1(live.own.public, genuine[:8] + os.urandom(108) + bytes(32))
    for number in range(1, 40):
        burst = [live.initiation(), *[forged] * (number % 12)] * 2
        for message in burst:
            live.socket.send(message)
        job = live.own.initiator(live.own.public).initiation_job(os.urandom(32), STAMP)
        assert live.threads.submit(job, lambda now, wall: [])
        seen: list[bytes] = []
        computed = 0
        while len(seen) < 2 or not computed:
            assert select.select([live.plane.fileno()], [], [], WAIT)[0], "nobody was woken for a result"
            seen += [event.message for event in live.plane.events() if event.kind == EventKind.HANDSHAKE]
            computed += len(live.threads.take())
        assert (seen, computed) == ([burst[0]] * 2, 1)


def test_some_thread_must_open_initiations() -> None:
    with contextlib.closing(Plane("threads", queues=(1 << 20, 1 << 22))) as plane:
        assert lib.udpring_plane_handshake_threads(plane.handle(), 2, 0, ffi.NULL) == -errno.EINVAL


def test_event_of_an_earlier_key_is_opened_anew(live: Live) -> None:
    live.socket.send(live.initiation())
    (event,) = live.events(1)
    live.identity()
    assert event.handshake is not None
    assert live.threads.opened(event) is None


def test_without_a_key_initiations_arrive_as_they_are(live: Live) -> None:
    live.threads.show(None)
    message = live.initiation()
    live.socket.send(message)
    (event,) = live.events(1)
    assert (event.handshake, event.message) == (None, message)


def test_under_load_initiations_are_not_opened(live: Live) -> None:
    """Python looks at the source's share before any Diffie-Hellman."""
    live.plane.under_load()
    live.socket.settimeout(WAIT)
    live.socket.send(live.initiation())
    assert live.socket.recv(200)[0] == 3  # a cookie
    assert live.plane.stats().drops.get("unauthenticated", 0) == 0


def test_threads_compute_what_the_reference_does(live: Live) -> None:
    """Many handshakes at once."""
    theirs = NativeStaticKey(PRIVATE, deferred=True)
    reference, secret = StaticKey(PRIVATE), StaticKey(os.urandom(32))
    written: dict[int, bytes] = {}
    expected = {}
    for number in range(200):
        ephemeral = os.urandom(32)
        job = theirs.initiator(secret.public).initiation_job(ephemeral, STAMP)
        expected[number] = reference.initiator(secret.public).write_initiation(ephemeral, STAMP)

        def keep(now: int, wall: int, number: int = number, job: NativeJob = job) -> list[Outcome]:
            written[number] = job.result()
            return []

        if not live.threads.submit(job, keep):
            keep(0, 0)

    def all_taken() -> bool:
        live.plane.events()  # clears the eventfd
        for then in live.threads.take():
            then(0, 0)
        return len(written) == len(expected)

    live.wait(all_taken)
    assert written == expected


def test_a_close_leaves_no_secret_of_a_job() -> None:
    live = Live()
    jobs = [
        NativeStaticKey(PRIVATE, deferred=True)
        .initiator(live.own.public)
        .initiation_job(os.urandom(32), STAMP)
        for _ in range(50)
    ]
    for job in jobs:
        live.threads.submit(job, lambda now, wall: [])
    live.close()
    assert all(not any(bytes(ffi.buffer(job.computation.ephemeral))) for job in jobs)
    assert live.threads._pending == {}


def test_full_threads_leave_the_job_to_the_caller(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    job = NativeStaticKey(PRIVATE, deferred=True).initiator(live.own.public).initiation_job(bytes(32), STAMP)
    taken = [False]

    class Full:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -11) if name == "udpring_plane_compute" else getattr(lib, name)

    monkeypatch.setattr("udpring.tunnel.handshake_threads.lib", Full())
    assert not live.threads.submit(job, lambda now, wall: taken.append(True) or [])  # type: ignore[func-returns-value]
    assert len(job.result()) == 108
    assert live.threads.take() == []


# ---- what has changed while a message was computed ----


def deferred(private: bytes) -> NativeStaticKey:
    return NativeStaticKey(private, deferred=True)


class Slow(Pair):
    """Both devices have their jobs computed when ``finish`` is called."""

    def __init__(self) -> None:
        self.held: list[tuple[Pair | None, Compute]] = []
        super().__init__(identity=deferred)
        for node in (self.a, self.b):
            carry_out = node.carry_out
            node.carry_out = self._holding(node.name, carry_out)  # type: ignore[method-assign]

    def _holding(self, name: str, carry_out: Callable[..., None]) -> Callable[..., None]:
        def hold(outcomes: list[Outcome]) -> None:
            self.kept = [each for each in outcomes if isinstance(each, Compute)]
            self.waiting.extend((carry_out, each) for each in self.kept)
            carry_out([each for each in outcomes if not isinstance(each, Compute)])

        self.waiting: list[tuple[Callable[..., None], Compute]] = []
        return hold

    def finish(self) -> list[Outcome]:
        """Computes the oldest, and carries out what follows."""
        carry_out, compute = self.waiting.pop(0)
        assert isinstance(compute.job, NativeJob)
        compute.job.run()
        outcomes = compute.then(self.clock.now, self.clock.wall)
        carry_out(outcomes)
        return outcomes


def answering() -> Slow:
    """b has an initiation of a, and its response is being computed."""
    pair = Slow()
    pair.a.send(ip_packet(1))
    pair.finish()
    pair.run(0.1)
    assert [compute.peer for _, compute in pair.waiting] == [9]
    return pair


def test_deferred_handshake_completes() -> None:
    pair = answering()
    assert not pair.network.sent(2)
    pair.finish()
    pair.run(0.1)
    assert len(pair.network.sent(2)) == 1
    pair.finish()
    pair.run(0.1)
    assert pair.b.received == [ip_packet(1)]
    assert not pair.waiting


@pytest.mark.parametrize("change", ["interface down", "key", "cipher", "removed"])
def test_response_is_dropped_when_handshakes_ended_meanwhile(change: str) -> None:
    pair = answering()
    if change == "interface down":
        pair.b.carry_out(pair.b.peer.suspend(pair.b.plane.view()))
    elif change == "key":
        pair.b.identity(bytes(range(7, 39)))
    elif change == "cipher":
        pair.b.set_cipher(9, Cipher.AES_256_GCM)
    else:
        pair.b.carry_out(pair.b.device.remove_peer(9))
    assert pair.finish() == []
    assert not pair.network.sent(2)
    assert not pair.b.indices


def test_response_to_an_earlier_initiation_is_dropped() -> None:
    pair = answering()
    later = forge_initiation(
        pair.private_a,
        pair.b.device.public_key or b"",
        timestamp=b"\xff" * 12,
        sender=0x99,
    )
    pair.clock.now += SECOND
    pair.b.handshake(later, pair.address_a)
    assert pair.finish() == []
    assert [type(outcome) for outcome in pair.finish()] == [events.InstallKeypair, events.SendMessage]
    (response,) = pair.network.sent(2)
    assert response.data[8:12] == (0x99).to_bytes(4, "little")


def test_replay_during_the_computation_is_refused() -> None:
    pair = answering()
    (first,) = pair.network.sent(1)
    again = pair.b.handshake(first.data, pair.address_a)
    assert again == [events.Dropped(DropReason.REPLAYED_INITIATION, 9)]


def test_abandoned_initiation_is_not_sent() -> None:
    pair = Slow()
    pair.a.send(ip_packet(1))
    pair.a.carry_out(pair.a.peer.suspend(pair.a.plane.view()))
    assert pair.finish() == []
    assert not pair.network.sent(1)
    assert not pair.a.indices


def test_response_is_taken_once_though_read_twice() -> None:
    """A forged one, the genuine one and its copy are computed at once."""
    pair = answering()
    pair.network.drop = lambda datagram: datagram.data[0] == 2
    pair.finish()
    (response,) = pair.network.sent(2)
    pair.network.drop = lambda datagram: False
    forged = with_mac1(pair.a.device.public_key or b"", response.data[:-33] + b"\0" + response.data[-32:])
    for message in (forged, response.data, response.data):
        pair.a.handshake(message, pair.address_b)
    assert pair.finish() == [events.Dropped(DropReason.UNAUTHENTICATED, 7)]
    assert events.HandshakeCompleted(7, True) in pair.finish()
    assert pair.finish() == [events.Dropped(DropReason.UNEXPECTED_RESPONSE, 7)]
