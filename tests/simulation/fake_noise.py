"""The interface of ``udpring.wireguard.noise`` without cryptography, about ten times as fast.

A public key is its private key with every bit inverted. A tag is a hash of the whole transcript, keys
included. So only the intended receiver with the same keys can read a message, and identities cannot be
confused. Forgery is assumed to be impossible; tests/wireguard/test_noise.py tests that.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2s
from typing import Any

from udpring.wireguard import noise
from udpring.wireguard.cookie import xopen

NO_PSK = noise.NO_PSK
NoiseError, InvalidKeyError, UnauthenticatedError = (
    noise.NoiseError,
    noise.InvalidKeyError,
    noise.UnauthenticatedError,
)
_TURNED = bytes(255 - byte for byte in range(256))


def _hash(*parts: bytes) -> bytes:
    return blake2s(b"".join(parts)).digest()


class _Jobs:
    """``handshake.Job`` for each step."""

    def initiation_job(self, ephemeral: bytes, payload: bytes) -> noise.ImmediateJob:
        return noise.ImmediateJob(partial(self.write_initiation, ephemeral, payload))  # type: ignore[attr-defined]

    def reading_job(self, message: bytes, psk: bytes) -> noise.ImmediateJob:
        return noise.ImmediateJob(partial(self.read_response, message, psk))  # type: ignore[attr-defined]

    def response_job(self, ephemeral: bytes, psk: bytes) -> noise.ImmediateJob:
        return noise.ImmediateJob(partial(self.write_response, ephemeral, b"", psk))  # type: ignore[attr-defined]


class StaticKey:
    """A key pair."""

    __slots__ = ("public",)

    def __init__(self, private_key: bytes) -> None:
        self.public = noise.clamp(private_key).translate(_TURNED)

    def shared_with(self, public: bytes) -> bytes:
        return b"".join(sorted((self.public, public)))

    def open_cookie(self, key: bytes, nonce: bytes, sealed: bytes, mac1: bytes) -> bytes | None:
        return xopen(key, nonce, sealed, mac1)

    def initiator(self, remote: bytes, **_: Any) -> Initiator:
        return Initiator(self, remote)

    def responder(self, cipher: Any = None) -> Responder:
        return Responder(self)


class Initiator(_Jobs):
    """The side that sends the first message."""

    def __init__(self, static: StaticKey, remote: bytes, **_: Any) -> None:
        self._public, self._remote = static.public, remote
        self._transcript = b""
        self._keys: tuple[bytes, bytes] | None = None

    def write_initiation(self, ephemeral: bytes, payload: bytes) -> bytes:
        self._transcript = _hash(ephemeral, self._public, self._remote, payload)
        tag = self._transcript[:16]
        return ephemeral + self._public + tag + payload + tag

    def read_response(self, message: bytes, psk: bytes = NO_PSK) -> bytes:
        chained = _hash(self._transcript, message[:32], psk)
        if chained[:16] != message[32:]:
            raise UnauthenticatedError("the tag is wrong")
        self._keys = _split(chained)
        return b""

    def split(self) -> tuple[bytes, bytes]:
        assert self._keys is not None
        return self._keys


class Responder(_Jobs):
    """The side that responds."""

    def __init__(self, static: StaticKey, **_: Any) -> None:
        self._public = static.public
        self._transcript = b""
        self._keys: tuple[bytes, bytes] | None = None

    def read_static(self, message: bytes) -> bytes:
        transcript = _hash(message[:32], message[32:64], self._public, message[80:92])
        if transcript[:16] != message[64:80]:
            raise UnauthenticatedError("the tag is wrong")
        self._transcript = transcript
        return message[32:64]

    def read_payload(self, message: bytes, static_static: bytes | None = None) -> bytes:
        if message[92:] != self._transcript[:16]:
            raise UnauthenticatedError("the tag is wrong")
        return message[80:92]

    def write_response(self, ephemeral: bytes, payload: bytes, psk: bytes = NO_PSK) -> bytes:
        chained = _hash(self._transcript, ephemeral, psk)
        self._keys = _split(chained)
        return ephemeral + chained[:16]

    def split(self) -> tuple[bytes, bytes]:
        assert self._keys is not None
        theirs, ours = self._keys
        return ours, theirs


def _split(chained: bytes) -> tuple[bytes, bytes]:
    return _hash(chained, b"1"), _hash(chained, b"2")
