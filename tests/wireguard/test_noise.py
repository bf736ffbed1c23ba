"""The Noise core against the published vector of its protocol name, and an independent implementation."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from noise.connection import Keypair as OracleKey
from noise.connection import NoiseConnection

from udpring.wireguard import noise
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import CONSTRUCTION, IDENTIFIER

VECTORS = Path(__file__).parents[1] / "vectors"
FILES = {Cipher.CHACHA20_POLY1305: "noise_ikpsk2.json", Cipher.AES_256_GCM: "noise_ikpsk2_aesgcm.json"}
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


every_cipher = pytest.mark.parametrize("cipher", Cipher)


def transport(key: bytes, number: int, cipher: Cipher) -> tuple[ChaCha20Poly1305 | AESGCM, bytes]:
    """Noise specification, section 12: the counter of AESGCM is big-endian, that of ChaChaPoly
    little-endian."""
    if cipher is Cipher.AES_256_GCM:
        return AESGCM(key), bytes(4) + number.to_bytes(8, "big")
    return ChaCha20Poly1305(key), bytes(4) + number.to_bytes(8, "little")


@every_cipher
def test_published_vector(cipher: Cipher) -> None:
    vector: dict[str, Any] = json.loads((VECTORS / FILES[cipher]).read_text())

    def field(name: str) -> bytes:
        return bytes.fromhex(vector[name])

    assert vector["name"].encode() == cipher.construction
    payloads = [bytes.fromhex(m["payload"]) for m in vector["messages"]]
    wire = [bytes.fromhex(m["ciphertext"]) for m in vector["messages"]]
    initiator = noise.Initiator(
        noise.StaticKey(field("init_static")),
        field("init_remote_static"),
        prologue=field("init_prologue"),
        cipher=cipher,
    )
    responder = noise.Responder(
        noise.StaticKey(field("resp_static")), prologue=field("resp_prologue"), cipher=cipher
    )

    first = initiator.write_initiation(field("init_ephemeral"), payloads[0])
    assert first == wire[0]
    assert responder.read_static(first) == noise.StaticKey(field("init_static")).public
    assert responder.read_payload(first) == payloads[0]

    second = responder.write_response(field("resp_ephemeral"), payloads[1], field("resp_psk"))
    assert second == wire[1]
    assert initiator.read_response(second, field("init_psk")) == payloads[1]

    send, receive = initiator.split()
    assert responder.split() == (receive, send)
    for number, (payload, sealed) in enumerate(zip(payloads[2:], wire[2:], strict=True)):
        aead, nonce = transport(send if number % 2 == 0 else receive, number // 2, cipher)
        assert aead.encrypt(nonce, payload, None) == sealed


def test_the_default_is_wireguards() -> None:
    assert Cipher.CHACHA20_POLY1305.construction == CONSTRUCTION
    assert Cipher.CHACHA20_POLY1305.prologue == IDENTIFIER
    assert Cipher.CHACHA20_POLY1305.marking == 0


def oracle(cipher: Cipher, *, initiator: bool, private: bytes, remote: bytes, psk: bytes) -> NoiseConnection:
    """The handshake by the package noiseprotocol."""
    connection = NoiseConnection.from_name(cipher.construction)
    connection.set_prologue(cipher.prologue)
    connection.set_psks(psk)
    connection.set_keypair_from_private_bytes(OracleKey.STATIC, private)
    if initiator:
        connection.set_as_initiator()
        connection.set_keypair_from_public_bytes(OracleKey.REMOTE_STATIC, remote)
    else:
        connection.set_as_responder()
    connection.start_handshake()
    return connection


@every_cipher
@pytest.mark.parametrize("psk", [bytes(32), bytes(range(32))], ids=["no psk", "psk"])
def test_we_initiate_to_another_implementation(psk: bytes, cipher: Cipher) -> None:
    ours, theirs = noise.StaticKey(os.urandom(32)), noise.StaticKey(os.urandom(32))
    private = theirs.private.private_bytes_raw()
    other = oracle(cipher, initiator=False, private=private, remote=ours.public, psk=psk)
    initiator = noise.Initiator(ours, theirs.public, prologue=cipher.prologue, cipher=cipher)
    assert other.read_message(initiator.write_initiation(os.urandom(32), b"timestamp...")) == b"timestamp..."
    assert initiator.read_response(bytes(other.write_message(b"")), psk) == b""
    send, receive = initiator.split()
    aead, nonce = transport(send, 0, cipher)
    assert other.decrypt(aead.encrypt(nonce, b"to them", None)) == b"to them"
    aead, nonce = transport(receive, 0, cipher)
    assert aead.decrypt(nonce, bytes(other.encrypt(b"to us")), None) == b"to us"


@every_cipher
@pytest.mark.parametrize("psk", [bytes(32), bytes(range(32))], ids=["no psk", "psk"])
def test_we_respond_to_another_implementation(psk: bytes, cipher: Cipher) -> None:
    ours, theirs = noise.StaticKey(os.urandom(32)), noise.StaticKey(os.urandom(32))
    private = theirs.private.private_bytes_raw()
    other = oracle(cipher, initiator=True, private=private, remote=ours.public, psk=psk)
    responder = noise.Responder(ours, prologue=cipher.prologue, cipher=cipher)
    first = bytes(other.write_message(b"timestamp..."))
    assert responder.read_static(first) == theirs.public
    assert responder.read_payload(first, ours.shared_with(theirs.public)) == b"timestamp..."
    assert other.read_message(responder.write_response(os.urandom(32), b"", psk)) == b""
    send, receive = responder.split()
    aead, nonce = transport(send, 0, cipher)
    assert other.decrypt(aead.encrypt(nonce, b"to them", None)) == b"to them"
    aead, nonce = transport(receive, 0, cipher)
    assert aead.decrypt(nonce, bytes(other.encrypt(b"to us")), None) == b"to us"


@pytest.mark.parametrize("public", LOW_ORDER, ids=[key.hex()[:8] for key in LOW_ORDER])
def test_a_public_key_of_small_order_is_refused(public: bytes) -> None:
    static = noise.StaticKey(os.urandom(32))
    with pytest.raises(noise.InvalidKeyError):
        static.shared_with(public)
    with pytest.raises(noise.InvalidKeyError):
        noise.Initiator(static, public, prologue=b"").write_initiation(os.urandom(32), b"")
    with pytest.raises(noise.InvalidKeyError):
        noise.Responder(static, prologue=b"").read_static(public + bytes(60))


def test_a_forged_response_changes_nothing() -> None:
    ours, theirs = noise.StaticKey(os.urandom(32)), noise.StaticKey(os.urandom(32))
    initiator = noise.Initiator(ours, theirs.public, prologue=IDENTIFIER)
    responder = noise.Responder(theirs, prologue=IDENTIFIER)
    first = initiator.write_initiation(os.urandom(32), b"")
    responder.read_static(first)
    responder.read_payload(first)
    response = responder.write_response(os.urandom(32), b"")
    for forged in (bytes(48), response[:-1] + bytes((response[-1] ^ 1,)), response[:40], os.urandom(48)):
        with pytest.raises(noise.NoiseError):
            initiator.read_response(forged)
    with pytest.raises(noise.UnauthenticatedError):
        initiator.read_response(response, bytes(range(32)))  # another PSK
    assert initiator.read_response(response) == b""
    assert initiator.split() == responder.split()[::-1]
    with pytest.raises(noise.NoiseError):
        initiator.read_response(response)  # only once


def test_the_ephemeral_is_dropped_with_the_response() -> None:
    ours, theirs = noise.StaticKey(os.urandom(32)), noise.StaticKey(os.urandom(32))
    initiator = noise.Initiator(ours, theirs.public, prologue=IDENTIFIER)
    responder = noise.Responder(theirs, prologue=IDENTIFIER)
    first = initiator.write_initiation(os.urandom(32), b"")
    responder.read_static(first)
    responder.read_payload(first)
    initiator.read_response(responder.write_response(os.urandom(32), b""))
    assert initiator._ephemeral is None
    assert not any(isinstance(getattr(responder, slot), X25519PrivateKey) for slot in responder.__slots__)


def test_clamp() -> None:
    clamped = noise.clamp(b"\xff" * 32)
    assert clamped == b"\xf8" + b"\xff" * 30 + b"\x7f"
    assert noise.clamp(clamped) == clamped
    assert noise.clamp(bytes(32)) == bytes(31) + b"\x40"
    # RFC 7748 section 6.1: the public key is computed from the clamped scalar.
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c6a2d9c6e0d47d4d0d59f9a4d4b2a")
    assert len(alice) == 32
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            noise.clamp(wrong)


def test_hkdf_is_hmac_not_keyed_blake2s() -> None:
    key, material = bytes(range(32)), b"material"

    def hmac_blake2s(k: bytes, data: bytes) -> bytes:
        """RFC 2104, written out."""
        block = k.ljust(64, b"\0")
        inner = hashlib.blake2s(bytes(b ^ 0x36 for b in block) + data).digest()
        return hashlib.blake2s(bytes(b ^ 0x5C for b in block) + inner).digest()

    secret = hmac_blake2s(key, material)
    first = hmac_blake2s(secret, b"\1")
    second = hmac_blake2s(secret, first + b"\2")
    third = hmac_blake2s(secret, second + b"\3")
    assert noise._hkdf(key, material, 3) == (first, second, third)


def test_nothing_secret_in_a_repr() -> None:
    private = bytes(range(1, 33))
    static = noise.StaticKey(private)
    initiator = noise.Initiator(static, noise.StaticKey(os.urandom(32)).public, prologue=IDENTIFIER)
    initiator.write_initiation(os.urandom(32), b"")
    responder = noise.Responder(static, prologue=IDENTIFIER)
    for thing in (static, initiator, responder, initiator._symmetric):
        shown = repr(thing)
        assert noise.clamp(private).hex() not in shown
        assert initiator._symmetric._chaining_key.hex() not in shown
        assert "secret" in shown or shown == f"StaticKey(public={static.public.hex()})"
