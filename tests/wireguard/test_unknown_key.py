"""Initiations of a key that is no peer's: the device asks for it, and goes on when the peer is there."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from udpring.wireguard import events, noise
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import SECOND
from udpring.wireguard.device import Device
from udpring.wireguard.events import AskKey, Dropped, DropReason, Source
from udpring.wireguard.noise import StaticKey
from udpring.wireguard.tai64n import next_timestamp
from udpring.wireguard.unknown import UnknownInitiation

from .pair import WALL, forge_initiation, with_mac1

OURS, THEIRS = bytes(range(1, 33)), bytes(range(2, 34))
SOURCE = Source(bytes((192, 0, 2, 1)), 5555)
NOW = 1000 * SECOND
EARLIER, LATER = next_timestamp(WALL, None), next_timestamp(WALL + SECOND, None)


class Indices:
    def __init__(self) -> None:
        self.last = 0

    def new(self, peer: int) -> int:
        self.last += 1
        return self.last


def device(*, asks: bool = True) -> Device:
    made = Device(random=random.Random(1).randbytes, indices=Indices())
    made.set_private_key(OURS, NOW)
    made.asks = asks
    return made


def public(private: bytes) -> bytes:
    return StaticKey(private).public


def initiation(private: bytes = THEIRS, timestamp: bytes = EARLIER, **rest: Cipher) -> bytes:
    return forge_initiation(private, public(OURS), timestamp=timestamp, **rest)


def receive(at: Device, message: bytes) -> list[events.Outcome]:
    return at.receive(message, SOURCE, None, under_load=False, now=NOW, wall=WALL)


def asked(at: Device, message: bytes) -> UnknownInitiation:
    (outcome,) = receive(at, message)
    assert isinstance(outcome, AskKey)
    return outcome.initiation


def reason(outcomes: list[events.Outcome]) -> DropReason:
    (outcome,) = outcomes
    assert isinstance(outcome, Dropped)
    return outcome.reason


def test_unknown_key_is_dropped_by_default() -> None:
    assert reason(receive(device(asks=False), initiation())) is DropReason.UNKNOWN_PEER


@pytest.mark.parametrize("proved", [True, False])
def test_initiation_goes_on_when_its_peer_is_added(proved: bool) -> None:
    at = device()
    waiting = asked(at, initiation())
    assert waiting.public_key == public(THEIRS)
    assert not proved or waiting.prove() is None
    at.add_peer(7, waiting.public_key, NOW, initiation=waiting)
    outcomes = at.resume(waiting, NOW)
    assert [type(outcome) for outcome in outcomes] == [
        events.Authenticated,
        events.InstallKeypair,
        events.SendMessage,
    ]
    assert at.by_id[7].timestamp_received == EARLIER


def test_no_diffie_hellman_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as for a peer that was known: two of the initiation, two of the response."""
    at = device()
    done = []
    real = noise.diffie_hellman

    def counted(private: X25519PrivateKey, remote: bytes) -> bytes:
        done.append(remote)
        return real(private, remote)

    message = initiation()
    monkeypatch.setattr(noise, "diffie_hellman", counted)
    waiting = asked(at, message)
    assert waiting.prove() is None
    at.add_peer(7, waiting.public_key, NOW, initiation=waiting)
    assert len(at.resume(waiting, NOW)) == 3
    assert len(done) == 4


def test_proof_needs_the_private_key() -> None:
    """Without the private key, an attacker can at best send a changed sealed payload."""
    at = device()
    message = bytearray(initiation())
    message[90] ^= 1
    waiting = asked(at, with_mac1(public(OURS), bytes(message)))
    assert waiting.prove() is DropReason.UNAUTHENTICATED
    assert waiting.timestamp is None


def test_refused_key_is_an_unknown_peer() -> None:
    at = device()
    assert reason(at.resume(asked(at, initiation()), NOW)) is DropReason.UNKNOWN_PEER


def test_restored_timestamp_makes_it_a_replay() -> None:
    at = device()
    waiting = asked(at, initiation())
    assert waiting.prove() is None
    at.add_peer(7, waiting.public_key, NOW, initiation=waiting).restore_timestamp(EARLIER)
    assert reason(at.resume(waiting, NOW)) is DropReason.REPLAYED_INITIATION
    later = initiation(timestamp=LATER)
    assert len(receive(at, later)) == 3


def test_our_key_changed_meanwhile() -> None:
    at = device()
    waiting = asked(at, initiation())
    assert waiting.prove() is None
    at.set_private_key(bytes(range(3, 35)), NOW)
    at.add_peer(7, waiting.public_key, NOW, initiation=waiting)
    assert reason(at.resume(waiting, NOW)) is DropReason.UNAUTHENTICATED


def test_added_peer_may_have_another_cipher() -> None:
    at = device()
    at.add_peer(1, public(bytes(range(4, 36))), NOW)
    waiting = asked(at, initiation(cipher=Cipher.AES_256_GCM))
    at.add_peer(7, waiting.public_key, NOW)
    assert reason(at.resume(waiting, NOW)) is DropReason.CIPHER_MISMATCH
    at.set_cipher(7, Cipher.AES_256_GCM, NOW)
    assert len(receive(at, initiation(cipher=Cipher.AES_256_GCM))) == 3


def test_nobody_is_asked_for_our_own_key() -> None:
    assert reason(receive(device(), initiation(OURS))) is DropReason.UNKNOWN_PEER


def test_paused_device_asks_for_no_key() -> None:
    at = device()
    at.paused = True
    assert reason(receive(at, initiation())) is DropReason.PAUSED


def test_pause_stops_an_initiation_that_waits_for_its_peer() -> None:
    at = device()
    waiting = asked(at, initiation())
    at.add_peer(7, public(THEIRS), NOW)
    at.paused = True
    assert reason(at.resume(waiting, NOW)) is DropReason.PAUSED
    at.paused = False
    assert any(isinstance(each, events.InstallKeypair) for each in receive(at, initiation(timestamp=LATER)))
