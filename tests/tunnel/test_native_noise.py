"""Handshakes in C agree with the reference in Python, and with an independent implementation."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.cookies import xseal
from seccomp import run_python
from wireguard.pair import Pair, ip_packet, with_mac1
from wireguard.test_noise import LOW_ORDER, every_cipher, oracle, transport

from udpring._native import ffi
from udpring.tunnel.native_noise import NativeStaticKey
from udpring.wireguard import events, noise
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.events import DropReason
from udpring.wireguard.handshake import Identity
from udpring.wireguard.noise import InvalidKeyError, NoiseError, StaticKey, UnauthenticatedError

ZEROS = bytes(32)
STAMP = b"timestamp..."
INITIATION, RESPONSE = 108, 48
keys = st.binary(min_size=32, max_size=32)
bits = st.integers(0, 8 * 32 - 1)
sides = pytest.mark.parametrize("kind", [StaticKey, NativeStaticKey], ids=["Python", "C"])


def outcome(call: Callable[[], Any]) -> Any:
    """What it returns, or the kind of NoiseError."""
    try:
        return call()
    except NoiseError as error:
        return type(error)


class Handshake:
    """Both sides, each computed by one implementation."""

    def __init__(
        self, initiator: Identity, responder: Identity, cipher: Cipher, *, psk: bytes = ZEROS, seed: int = 1
    ) -> None:
        self.psk, self.static, self.theirs = psk, responder, initiator
        self.ephemerals = [bytes([seed, number]) * 16 for number in (1, 2)]
        self.a = initiator.initiator(responder.public, cipher=cipher)
        self.b = responder.responder(cipher)

    def initiation(self, stamp: bytes = STAMP) -> bytes:
        return self.a.write_initiation(self.ephemerals[0], stamp)

    def read(self, message: bytes) -> tuple[bytes, bytes]:
        claimed = self.b.read_static(message)
        return claimed, self.b.read_payload(message, self.static.shared_with(claimed))

    def response(self) -> bytes:
        return self.b.write_response(self.ephemerals[1], b"", self.psk)

    def finish(self, message: bytes) -> bytes:
        return self.a.read_response(message, self.psk)


@settings(max_examples=25, deadline=None)
@given(ours=keys, theirs=keys, psk=keys, first=keys, second=keys, stamp=st.binary(min_size=12, max_size=12))
@every_cipher
def test_random_handshakes_agree(
    cipher: Cipher, ours: bytes, theirs: bytes, psk: bytes, first: bytes, second: bytes, stamp: bytes
) -> None:
    seen = set()
    for kind in (StaticKey, NativeStaticKey):
        a, b = kind(ours), kind(theirs)
        handshake = Handshake(a, b, cipher, psk=psk)
        handshake.ephemerals = [first, second]
        initiation = handshake.initiation(stamp)
        assert handshake.read(initiation) == (a.public, stamp)
        response = handshake.response()
        assert handshake.finish(response) == b""
        assert handshake.a.split() == handshake.b.split()[::-1]
        seen.add((a.public, b.public, a.shared_with(b.public), initiation, response, *handshake.a.split()))
    assert len(seen) == 1


def test_threads_compute_shared_secrets_at_once() -> None:
    """No thread meets the key object of another."""
    ours = NativeStaticKey(os.urandom(32))
    theirs = [StaticKey(os.urandom(32)) for _ in range(8)]
    with ThreadPoolExecutor(len(theirs)) as pool:
        found = list(pool.map(lambda key: {ours.shared_with(key.public) for _ in range(100)}, theirs))
    assert found == [{key.shared_with(ours.public)} for key in theirs]


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, INITIATION * 8 - 1))
@every_cipher
def test_flipped_bit_of_an_initiation_is_refused_alike(cipher: Cipher, bit: int) -> None:
    private = bytes(range(32)), bytes(range(1, 33))
    message = bytearray(Handshake(StaticKey(private[0]), StaticKey(private[1]), cipher).initiation())
    message[bit // 8] ^= 1 << bit % 8
    results = []
    for kind in (StaticKey, NativeStaticKey):
        handshake = Handshake(kind(private[0]), kind(private[1]), cipher)
        results.append(outcome(lambda of=handshake: of.read(bytes(message))))  # type: ignore[misc]
    assert results == [UnauthenticatedError] * 2


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, RESPONSE * 8 - 1))
@every_cipher
def test_flipped_bit_of_a_response_changes_nothing(cipher: Cipher, bit: int) -> None:
    handshake = Handshake(NativeStaticKey(bytes(range(32))), NativeStaticKey(bytes(range(1, 33))), cipher)
    handshake.read(handshake.initiation())
    response = handshake.response()
    forged = bytearray(response)
    forged[bit // 8] ^= 1 << bit % 8
    assert outcome(lambda: handshake.finish(bytes(forged))) is UnauthenticatedError
    assert handshake.finish(response) == b""
    assert handshake.a.split() == handshake.b.split()[::-1]


@every_cipher
@sides
def test_wrong_keys_are_refused(cipher: Cipher, kind: type[StaticKey] | type[NativeStaticKey]) -> None:
    ours, theirs, other = (kind(os.urandom(32)) for _ in range(3))
    to_other = Handshake(ours, other, cipher).initiation()
    assert outcome(lambda: Handshake(ours, theirs, cipher).read(to_other)) is UnauthenticatedError

    handshake = Handshake(ours, theirs, cipher)
    message = handshake.initiation()
    handshake.b.read_static(message)
    wrong = theirs.shared_with(other.public)
    assert outcome(lambda: handshake.b.read_payload(message, wrong)) is UnauthenticatedError

    handshake = Handshake(ours, theirs, cipher)
    handshake.read(handshake.initiation())
    response = handshake.response()
    handshake.psk = bytes(range(32))
    assert outcome(lambda: handshake.finish(response)) is UnauthenticatedError


@pytest.mark.parametrize("public", LOW_ORDER, ids=[key.hex()[:8] for key in LOW_ORDER])
def test_small_order_is_refused(public: bytes) -> None:
    static, theirs = NativeStaticKey(os.urandom(32)), NativeStaticKey(os.urandom(32))
    with pytest.raises(InvalidKeyError):
        static.shared_with(public)
    with pytest.raises(InvalidKeyError):
        static.initiator(public)
    with pytest.raises(InvalidKeyError):
        static.initiator(public, static_static=bytes(range(32))).write_initiation(os.urandom(32), STAMP)
    with pytest.raises(InvalidKeyError):
        static.responder().read_static(public + bytes(INITIATION - 32))
    handshake = Handshake(static, theirs, Cipher.CHACHA20_POLY1305)
    handshake.initiation()
    with pytest.raises(InvalidKeyError):
        handshake.finish(public + bytes(16))


@sides
def test_unusable_lengths_are_refused(kind: type[StaticKey] | type[NativeStaticKey]) -> None:
    static = kind(os.urandom(32))
    with pytest.raises(ValueError, match="32 bytes"):
        kind(bytes(31))
    with pytest.raises(InvalidKeyError):
        static.shared_with(bytes(31))
    handshake = Handshake(static, kind(os.urandom(32)), Cipher.CHACHA20_POLY1305)
    handshake.read(handshake.initiation())
    assert outcome(lambda: handshake.finish(handshake.response()[:-1])) is UnauthenticatedError


def test_steps_out_of_order_are_refused() -> None:
    ours, theirs = NativeStaticKey(os.urandom(32)), NativeStaticKey(os.urandom(32))
    handshake = Handshake(ours, theirs, Cipher.CHACHA20_POLY1305)
    with pytest.raises(NoiseError):
        handshake.finish(bytes(RESPONSE))
    with pytest.raises(NoiseError):
        handshake.response()
    with pytest.raises(NoiseError):
        handshake.a.split()
    with pytest.raises(NoiseError):
        handshake.b.split()
    handshake.read(handshake.initiation())
    handshake.finish(handshake.response())
    with pytest.raises(NoiseError):
        handshake.response()
    with pytest.raises(NoiseError):
        handshake.finish(bytes(RESPONSE))


@every_cipher
@pytest.mark.parametrize("psk", [ZEROS, bytes(range(32))], ids=["no psk", "psk"])
def test_c_agrees_with_another_implementation(psk: bytes, cipher: Cipher) -> None:
    private = noise.clamp(os.urandom(32)), noise.clamp(os.urandom(32))
    ours, theirs = NativeStaticKey(private[0]), NativeStaticKey(private[1])
    other = oracle(cipher, initiator=False, private=private[1], remote=ours.public, psk=psk)
    initiator = ours.initiator(theirs.public, cipher=cipher)
    assert other.read_message(initiator.write_initiation(os.urandom(32), STAMP)) == STAMP
    assert initiator.read_response(bytes(other.write_message(b"")), psk) == b""
    aead, nonce = transport(initiator.split()[0], 0, cipher)
    assert other.decrypt(aead.encrypt(nonce, b"to them", None)) == b"to them"

    other = oracle(cipher, initiator=True, private=private[0], remote=theirs.public, psk=psk)
    responder = theirs.responder(cipher)
    first = bytes(other.write_message(STAMP))
    assert responder.read_static(first) == ours.public
    assert responder.read_payload(first) == STAMP
    assert other.read_message(responder.write_response(os.urandom(32), b"", psk)) == b""
    aead, nonce = transport(responder.split()[1], 0, cipher)
    assert aead.decrypt(nonce, bytes(other.encrypt(b"to us")), None) == b"to us"


@every_cipher
def test_devices_send_the_same_bytes(cipher: Cipher) -> None:
    """With a preshared key, a forged response, and a replayed initiation."""
    logs = []
    for identity in (StaticKey, NativeStaticKey):
        pair = Pair(psk=bytes(range(32)), ciphers=(cipher, cipher), identity=identity)
        pair.network.drop = lambda datagram: datagram.data[0] == 2
        pair.a.send(ip_packet(1))
        pair.run(0.1)
        (response,) = pair.network.sent(2)
        forged = response.data[:20] + bytes([response.data[20] ^ 1]) + response.data[21:]
        forged = with_mac1(pair.a.device.public_key or b"", forged)
        pair.network.drop = lambda datagram: False
        pair.a.datagram(forged, pair.address_b)
        pair.a.datagram(response.data, pair.address_b)
        pair.run(30)
        assert pair.b.received == [ip_packet(1)]
        replayed = pair.b.handshake(pair.network.sent(1)[0].data, pair.address_a)
        assert pair.a.drops == {DropReason.UNAUTHENTICATED: 1}
        assert replayed == [events.Dropped(DropReason.REPLAYED_INITIATION, 9)]
        logs.append(([datagram.data for datagram in pair.network.log], pair.a.drops, pair.b.drops))
    assert logs[0] == logs[1]


def test_unwanted_result_is_zeroised() -> None:
    """A second response to one initiation gives the session's keys once more."""
    ours, theirs = NativeStaticKey(os.urandom(32)), NativeStaticKey(os.urandom(32))
    initiator, responder = ours.initiator(theirs.public), theirs.responder()
    initiation = initiator.write_initiation(os.urandom(32), bytes(12))
    responder.read_static(initiation)
    responder.read_payload(initiation)
    job = initiator.reading_job(responder.write_response(os.urandom(32), b""), noise.NO_PSK)
    job.run()
    computation = job.computation
    assert computation.result == 0
    assert any(computation.keys)
    del job
    assert not any(bytes(ffi.buffer(computation)))


def test_native_secrets_are_in_no_repr() -> None:
    private = bytes(range(1, 33))
    static = NativeStaticKey(private)
    handshake = Handshake(static, NativeStaticKey(os.urandom(32)), Cipher.CHACHA20_POLY1305)
    handshake.initiation()
    assert repr(static) == f"NativeStaticKey(public={static.public.hex()})"
    assert repr(handshake.a) == "NativeInitiator(<secret>)"
    assert repr(handshake.b) == "NativeResponder(<secret>)"


# ---- cookie replies ----


@sides
@given(
    key=keys, mac1=st.binary(min_size=16, max_size=16), nonce=st.binary(min_size=24, max_size=24), bit=bits
)
def test_both_open_a_cookie(
    kind: Callable[[bytes], Identity], key: bytes, mac1: bytes, nonce: bytes, bit: int
) -> None:
    identity, cookie = kind(bytes(range(32))), key[:16]
    sealed = xseal(key, nonce, cookie, mac1)
    assert identity.open_cookie(key, nonce, sealed, mac1) == cookie
    forged = bytearray(sealed)
    forged[bit // 8] ^= 1 << bit % 8
    assert identity.open_cookie(key, nonce, bytes(forged), mac1) is None
    assert identity.open_cookie(key, nonce, sealed, mac1[:-1] + bytes([mac1[-1] ^ 1])) is None
    assert identity.open_cookie(key, nonce, sealed[:-1], mac1) is None


def test_a_rehearsed_node_has_no_second_library() -> None:
    """The package cryptography has an OpenSSL of its own, which takes 8 MiB."""
    found = run_python(
        """
import sys
from udpring.tunnel.rehearsal import rehearse

rehearse()
print("cryptography" in sys.modules)
"""
    )
    assert found.stdout.split() == ["False"], found.stderr
