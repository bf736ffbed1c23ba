"""mac1, mac2 and cookies (whitepaper sections 5.3, 5.4.4 and 5.4.7).

mac1 proves that the sender knows the receiver's public key. It is checked before anything else. Under load a
message also needs mac2, keyed with a cookie that was sent to its source address and port. The core makes
those cookies and checks mac2 (native/tunnel/worker/cookies.c). ``MacSigner`` is the sender's side: it signs
messages to one peer and keeps the cookie that the peer sent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from .blake2s import blake2s
from .constant_time import compare_digest
from .constants import (
    COOKIE_LATENCY,
    COOKIE_SECRET_LIFETIME,
    LABEL_COOKIE,
    LABEL_MAC1,
    MAC_LENGTH,
    TAG_LENGTH,
)
from .messages import CookieReply

__all__ = ["MacSigner", "cookie_key", "hchacha20", "mac", "mac1_key", "mac1_valid", "xopen"]


OpenCookie: TypeAlias = Callable[[bytes, bytes, bytes, bytes], bytes | None]
"""``xopen``: key, nonce, sealed bytes, associated bytes."""


def mac1_key(public_key: bytes) -> bytes:
    """The key of mac1 in messages to the owner of this public key."""
    return blake2s(LABEL_MAC1 + public_key).digest()


def cookie_key(public_key: bytes) -> bytes:
    """The key of cookie replies from the owner of this public key."""
    return blake2s(LABEL_COOKIE + public_key).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Keyed BLAKE2s of 16 bytes (not HMAC)."""
    return blake2s(data, key=key, digest_size=MAC_LENGTH).digest()


def mac1_valid(key: bytes, message: bytes) -> bool:
    """Whether an initiation or response (with both macs) has the right mac1; in constant time."""
    return compare_digest(mac(key, message[:-32]), message[-32:-16])


class MacSigner:
    """Signs our messages to one peer, and keeps the cookie that peer last sent for them."""

    __slots__ = ("_awaited", "_cookie", "_expires", "_public_key")

    def __init__(self, peer_public_key: bytes) -> None:
        # Derived keys are computed when used: that is quick, and there may be very many peers.
        self._public_key = peer_public_key
        self._cookie = b""
        self._expires = 0
        self._awaited = b""  # mac1 of the message that a cookie reply may answer

    def sign(self, unsigned: bytes, now: int) -> bytes:
        """The message with its macs. mac2 is zero without a cookie, or if that is older than 115 s."""
        mac1 = mac(mac1_key(self._public_key), unsigned)
        self._awaited = mac1
        signed = unsigned + mac1
        if self._cookie and now < self._expires:
            return signed + mac(self._cookie, signed)
        self._cookie = b""
        return signed + bytes(MAC_LENGTH)

    def accept(self, reply: CookieReply, now: int, opened: OpenCookie | None = None) -> bool | None:
        """Takes the cookie for the last message: True. None: no message waits for one. False: not authentic.
        A reply is accepted once, so an old one cannot restore an old cookie. ``opened``: ``xopen``, or the
        same in C."""
        if not self._awaited:
            return None
        key = cookie_key(self._public_key)
        cookie = (opened or xopen)(key, reply.nonce, reply.sealed_cookie, self._awaited)
        if cookie is None:
            return False
        self._cookie = cookie
        self._expires = now + COOKIE_SECRET_LIFETIME - COOKIE_LATENCY
        self._awaited = b""
        return True

    def __repr__(self) -> str:
        return "MacSigner(<secret>)"


# ---- XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), which the cryptographic library does not have ----

_ROW: Final = struct.Struct("<4I")
_CONSTANTS: Final = b"expand 32-byte k"


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """The subkey of a 32-byte key and a 16-byte nonce (draft section 2.2).

    It is the first and the last row of a block of ChaCha20 without the addition of the initial state,
    which is subtracted here."""
    # Imported here and below: nodes open cookies in C, and this library takes 8 MiB.
    from cryptography.hazmat.primitives import ciphers  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import algorithms  # noqa: PLC0415

    block = ciphers.Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    return _subtracted(block[:16], _CONSTANTS) + _subtracted(block[48:], nonce)


def _subtracted(row: bytes, initial: bytes) -> bytes:
    pairs = zip(_ROW.unpack(row), _ROW.unpack(initial), strict=True)
    return _ROW.pack(*((end - start) & 0xFFFFFFFF for end, start in pairs))


def xopen(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes | None:
    """The plaintext, or None if it is not authentic."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415

    if len(sealed) < TAG_LENGTH:
        return None
    try:
        return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], sealed, associated)
    except InvalidTag:
        return None
