"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (Noise specification, revision 34; WireGuard whitepaper section 5.4),
and the same with AESGCM (``cipher.py``).

    IKpsk2:  <- s
             ...
             -> e, es, s, ss      Initiator.write_initiation   Responder.read_static, .read_payload
             <- e, ee, se, psk    Initiator.read_response      Responder.write_response
    then split() on either side gives the transport keys.

The caller supplies prologue and payloads, so the published vectors of the pattern apply. In WireGuard the
prologue is ``Cipher.prologue``, the first payload is a timestamp, the second is empty, and the PSK is zero if
none is configured.

A failed read changes nothing, because a forged response must not end the handshake that it claims to answer.
Objects hold secrets during their handshake and show none of them. Their owner drops them as soon as they have
been used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from udpring.errors import UdpringError

from .blake2s import blake2s
from .cipher import Cipher
from .constants import KEY_LENGTH, TAG_LENGTH
from .cookie import xopen

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

__all__ = [
    "ImmediateJob",
    "Initiator",
    "InvalidKeyError",
    "NoiseError",
    "Responder",
    "StaticKey",
    "UnauthenticatedError",
    "aead_of",
    "clamp",
    "small_order",
]

NO_PSK: Final = bytes(KEY_LENGTH)
_SEALED_KEY: Final = KEY_LENGTH + TAG_LENGTH


class NoiseError(UdpringError):
    """A handshake message that cannot be accepted."""


class UnauthenticatedError(NoiseError):
    """The tag does not match: another key, another transcript, or a damaged message."""


class InvalidKeyError(NoiseError):
    """A public key of small order (all-zero shared secret), or of a length other than 32 bytes."""


def clamp(private_key: bytes) -> bytes:
    """The clamped scalar of X25519 (RFC 7748 section 5). Raises ValueError unless the key has 32 bytes."""
    if len(private_key) != KEY_LENGTH:
        raise ValueError(f"a private key has {KEY_LENGTH} bytes, this one {len(private_key)}")
    key = bytearray(private_key)
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return bytes(key)


def _private_key(key: bytes) -> X25519PrivateKey:
    # Imported here and below: a node computes in C, and this library takes 8 MiB.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415

    return X25519PrivateKey.from_private_bytes(key)


def diffie_hellman(private: X25519PrivateKey, public: bytes) -> bytes:
    """X25519. Raises InvalidKeyError if the result is all zero (RFC 7748 section 6.1)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey  # noqa: PLC0415

    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise small_order() from None


def small_order() -> InvalidKeyError:
    """The error of a public key that cannot be used."""
    return InvalidKeyError("the public key gives an all-zero shared secret, or is not 32 bytes long")


def aead_of(cipher: Cipher, key: bytes) -> AESGCM | ChaCha20Poly1305:
    """The cipher with a key of 32 bytes. ``cipher.nonce`` makes the nonce of a counter."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305  # noqa: PLC0415

    return AESGCM(key) if cipher is Cipher.AES_256_GCM else ChaCha20Poly1305(key)


class ImmediateJob:
    """``handshake.Job`` that is computed by ``result``."""

    __slots__ = ("result",)
    deferred = False

    def __init__(self, result: Callable[[], bytes]) -> None:
        self.result = result


class StaticKey:
    """A private key and its public key. The scalar stays inside the cryptographic library's object."""

    __slots__ = ("private", "public")

    def __init__(self, private_key: bytes) -> None:
        self.private = _private_key(clamp(private_key))
        self.public = self.private.public_key().public_bytes_raw()

    def shared_with(self, public: bytes) -> bytes:
        return diffie_hellman(self.private, public)

    def initiator(
        self, remote: bytes, *, static_static: bytes | None = None, cipher: Cipher = Cipher.CHACHA20_POLY1305
    ) -> Initiator:
        """The side that sends the first message of WireGuard, to the owner of ``remote``."""
        return Initiator(self, remote, prologue=cipher.prologue, static_static=static_static, cipher=cipher)

    def responder(self, cipher: Cipher = Cipher.CHACHA20_POLY1305) -> Responder:
        """The side that responds in WireGuard."""
        return Responder(self, prologue=cipher.prologue, cipher=cipher)

    def open_cookie(self, key: bytes, nonce: bytes, sealed: bytes, mac1: bytes) -> bytes | None:
        return xopen(key, nonce, sealed, mac1)

    def __repr__(self) -> str:
        return f"StaticKey(public={self.public.hex()})"


class SymmetricState:
    """Noise section 5.2: chaining key, transcript hash and the key derived last."""

    __slots__ = ("_chaining_key", "_cipher", "_hash", "_key", "_nonce")

    def __init__(self, prologue: bytes, cipher: Cipher) -> None:
        name = cipher.construction
        self._cipher = cipher
        self._hash = name.ljust(32, b"\0") if len(name) <= 32 else blake2s(name).digest()
        self._chaining_key = self._hash
        self._key = b""
        self._nonce = 0
        self.mix_hash(prologue)

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        twin._chaining_key = self._chaining_key
        twin._cipher = self._cipher
        twin._hash = self._hash
        twin._key = self._key
        twin._nonce = self._nonce
        return twin

    def mix_hash(self, data: bytes) -> None:
        self._hash = blake2s(self._hash + data).digest()

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, self._key = _hkdf(self._chaining_key, material, 2)
        self._nonce = 0

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, hashed, self._key = _hkdf(self._chaining_key, material, 3)
        self.mix_hash(hashed)
        self._nonce = 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = aead_of(self._cipher, self._key).encrypt(self._next_nonce(), plaintext, self._hash)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """Raises UnauthenticatedError."""
        if len(sealed) < TAG_LENGTH:
            raise UnauthenticatedError("shorter than a tag")
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        try:
            plaintext = aead_of(self._cipher, self._key).decrypt(self._next_nonce(), sealed, self._hash)
        except InvalidTag:
            raise UnauthenticatedError("the tag is wrong") from None
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The initiator's sending key and its receiving key."""
        first, second = _hkdf(self._chaining_key, b"", 2)
        return first, second

    def _next_nonce(self) -> bytes:
        nonce = self._cipher.nonce(self._nonce)
        self._nonce += 1
        return nonce

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>)"


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> tuple[bytes, ...]:
    """HMAC-BLAKE2s, not keyed BLAKE2s (Noise section 4.3)."""
    import hmac  # noqa: PLC0415 - a node computes handshakes in C, and hmac loads OpenSSL

    # The constructor, not the name: by name OpenSSL looks the hash up in each call.
    secret = hmac.digest(chaining_key, material, blake2s)
    keys: list[bytes] = []
    last = b""
    for number in range(1, outputs + 1):
        last = hmac.digest(secret, last + bytes((number,)), blake2s)
        keys.append(last)
    return tuple(keys)


class Initiator:
    """The side that sends the first message. ``static_static``: the shared secret of both static keys, if the
    caller keeps it."""

    __slots__ = ("_ephemeral", "_remote", "_static", "_static_static", "_symmetric")

    def __init__(
        self,
        static: StaticKey,
        remote: bytes,
        *,
        prologue: bytes,
        static_static: bytes | None = None,
        cipher: Cipher = Cipher.CHACHA20_POLY1305,
    ) -> None:
        self._static = static
        self._remote = remote
        self._static_static = static_static
        self._ephemeral: X25519PrivateKey | None = None
        self._symmetric = SymmetricState(prologue, cipher)
        self._symmetric.mix_hash(remote)

    def write_initiation(self, ephemeral: bytes, payload: bytes) -> bytes:
        """``ephemeral``: 32 fresh random bytes. Raises InvalidKeyError if the remote static key has small
        order."""
        private = _private_key(ephemeral)
        public = private.public_key().public_bytes_raw()
        state = self._symmetric
        state.mix_hash(public)
        state.mix_key(public)  # in PSK patterns the token e mixes the key as well (Noise section 9.2)
        state.mix_key(diffie_hellman(private, self._remote))
        sealed_static = state.encrypt_and_hash(self._static.public)
        state.mix_key(self._static_static or self._static.shared_with(self._remote))
        sealed_payload = state.encrypt_and_hash(payload)
        self._static_static = None
        self._ephemeral = private
        return public + sealed_static + sealed_payload

    def read_response(self, message: bytes, psk: bytes = NO_PSK) -> bytes:
        """The payload. Raises NoiseError and changes nothing if the message is not authentic."""
        if self._ephemeral is None:
            raise NoiseError("a response is read once, after the initiation was written")
        remote = message[:KEY_LENGTH]
        state = self._symmetric.copy()
        state.mix_hash(remote)
        state.mix_key(remote)
        state.mix_key(diffie_hellman(self._ephemeral, remote))
        state.mix_key(diffie_hellman(self._static.private, remote))
        state.mix_key_and_hash(psk)
        payload = state.decrypt_and_hash(message[KEY_LENGTH:])
        self._symmetric = state
        self._ephemeral = None
        return payload

    def initiation_job(self, ephemeral: bytes, payload: bytes) -> ImmediateJob:
        """``write_initiation``, later."""
        return ImmediateJob(partial(self.write_initiation, ephemeral, payload))

    def reading_job(self, message: bytes, psk: bytes) -> ImmediateJob:
        """``read_response``, later."""
        return ImmediateJob(partial(self.read_response, message, psk))

    def split(self) -> tuple[bytes, bytes]:
        """The sending and the receiving key, after the response was read."""
        return self._symmetric.split()

    def __repr__(self) -> str:
        return "Initiator(<secret>)"


class Responder:
    """The side that responds. ``read_static`` returns the claimed identity of the initiator. ``read_payload``
    proves it."""

    __slots__ = ("_remote", "_remote_ephemeral", "_static", "_symmetric")

    def __init__(
        self, static: StaticKey, *, prologue: bytes, cipher: Cipher = Cipher.CHACHA20_POLY1305
    ) -> None:
        self._static = static
        self._remote = b""
        self._remote_ephemeral = b""
        self._symmetric = SymmetricState(prologue, cipher)
        self._symmetric.mix_hash(static.public)

    def read_static(self, message: bytes) -> bytes:
        """The static public key in the first message, not yet proved. Raises NoiseError."""
        ephemeral = message[:KEY_LENGTH]
        state = self._symmetric
        state.mix_hash(ephemeral)
        state.mix_key(ephemeral)
        state.mix_key(self._static.shared_with(ephemeral))
        self._remote = state.decrypt_and_hash(message[KEY_LENGTH : KEY_LENGTH + _SEALED_KEY])
        self._remote_ephemeral = ephemeral
        return self._remote

    def read_payload(self, message: bytes, static_static: bytes | None = None) -> bytes:
        """The payload of the same message, which proves the static key. Raises NoiseError."""
        state = self._symmetric
        state.mix_key(static_static or self._static.shared_with(self._remote))
        return state.decrypt_and_hash(message[KEY_LENGTH + _SEALED_KEY :])

    def write_response(self, ephemeral: bytes, payload: bytes, psk: bytes = NO_PSK) -> bytes:
        """``ephemeral``: 32 fresh random bytes, which are not kept. Raises InvalidKeyError."""
        private = _private_key(ephemeral)
        public = private.public_key().public_bytes_raw()
        state = self._symmetric
        state.mix_hash(public)
        state.mix_key(public)
        state.mix_key(diffie_hellman(private, self._remote_ephemeral))
        state.mix_key(diffie_hellman(private, self._remote))
        state.mix_key_and_hash(psk)
        return public + state.encrypt_and_hash(payload)

    def response_job(self, ephemeral: bytes, psk: bytes) -> ImmediateJob:
        """``write_response`` without a payload, later."""
        return ImmediateJob(partial(self.write_response, ephemeral, b"", psk))

    def split(self) -> tuple[bytes, bytes]:
        """The sending and the receiving key, after the response was written."""
        theirs, ours = self._symmetric.split()
        return ours, theirs

    def __repr__(self) -> str:
        return "Responder(<secret>)"
