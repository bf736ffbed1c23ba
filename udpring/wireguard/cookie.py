"""mac1, mac2 and cookies (whitepaper sections 5.3, 5.4.4 and 5.4.7).

mac1 proves that the sender knows whom it talks to, and is checked before anything else. Under load a message
also needs mac2, keyed with a cookie that was sent to the address and port it came from.

    CookieIssuer   our side under load: makes cookies from a secret that lives 120 s, and checks mac2
    MacSigner      our side as a sender to one peer: signs messages, and keeps the cookie the peer sent
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .cipher import Cipher
from .constants import (
    COOKIE_LATENCY,
    COOKIE_NONCE_LENGTH,
    COOKIE_SECRET_LIFETIME,
    KEY_LENGTH,
    LABEL_COOKIE,
    LABEL_MAC1,
    MAC_LENGTH,
    TAG_LENGTH,
)
from .events import Source
from .messages import CookieReply, pack_cookie_reply

__all__ = ["CookieIssuer", "MacSigner", "cookie_key", "hchacha20", "mac1_key", "mac1_valid", "xopen", "xseal"]


def mac1_key(public_key: bytes) -> bytes:
    """The key of mac1 in messages to the owner of this public key."""
    return hashlib.blake2s(LABEL_MAC1 + public_key).digest()


def cookie_key(public_key: bytes) -> bytes:
    """The key of cookie replies from the owner of this public key."""
    return hashlib.blake2s(LABEL_COOKIE + public_key).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Keyed BLAKE2s of 16 bytes (not HMAC)."""
    return hashlib.blake2s(data, key=key, digest_size=MAC_LENGTH).digest()


def mac1_valid(key: bytes, message: bytes) -> bool:
    """Whether an initiation or response (with both macs) has the right mac1; in constant time."""
    return hmac.compare_digest(mac(key, message[:-32]), message[-32:-16])


class CookieIssuer:
    """The cookies we hand out. The last secret stays valid for one more lifetime, so that a cookie given out
    just before the change can still be used. Cookie = keyed BLAKE2s-128 (secret) of address bytes and port
    (big-endian); an IPv4-mapped address counts as IPv4."""

    __slots__ = ("_born", "_previous", "_random", "_secret")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._secret = b""
        self._previous = b""
        self._born = 0

    def reply(
        self,
        key: bytes,
        receiver: int,
        mac1: bytes,
        source: Source,
        now: int,
        cipher: Cipher = Cipher.CHACHA20_POLY1305,
    ) -> bytes:
        """The cookie reply to a message from ``source`` whose sender index was ``receiver``; ``key``: our
        cookie_key; ``cipher``: the message's."""
        self._rotate(now)
        nonce = self._random(COOKIE_NONCE_LENGTH)
        sealed = xseal(key, nonce, _cookie(self._secret, source), mac1)
        return pack_cookie_reply(receiver, nonce, sealed, cipher)

    def mac2_valid(self, message: bytes, source: Source, now: int) -> bool:
        """Whether a message from ``source`` has a mac2 under the present or the last secret."""
        self._rotate(now)
        signed, mac2 = message[:-16], message[-16:]
        secrets = [secret for secret in (self._secret, self._previous) if secret]
        return any(hmac.compare_digest(mac(_cookie(secret, source), signed), mac2) for secret in secrets)

    def _rotate(self, now: int) -> None:
        age = now - self._born
        if self._secret and age < COOKIE_SECRET_LIFETIME:
            return
        self._previous = self._secret if age < 2 * COOKIE_SECRET_LIFETIME else b""
        self._secret = self._random(KEY_LENGTH)
        self._born = now

    def __repr__(self) -> str:
        return "CookieIssuer(<secret>)"


def _cookie(secret: bytes, source: Source) -> bytes:
    ip = source.ip
    if len(ip) == 16 and ip.startswith(bytes(10) + b"\xff\xff"):
        ip = ip[12:]
    return mac(secret, ip + source.port.to_bytes(2, "big"))


class MacSigner:
    """Signs our messages to one peer, and keeps the cookie that peer last sent for them."""

    __slots__ = ("_awaited", "_cookie", "_expires", "_public_key")

    def __init__(self, peer_public_key: bytes) -> None:
        # The keys that follow from it are worked out when they are used: that is quick, and there may be
        # very many peers.
        self._public_key = peer_public_key
        self._cookie = b""
        self._expires = 0
        self._awaited = b""  # mac1 of the message a cookie reply may answer

    def sign(self, unsigned: bytes, now: int) -> bytes:
        """The message with its macs; mac2 is zero where there is no cookie or it is older than 115 s."""
        mac1 = mac(mac1_key(self._public_key), unsigned)
        self._awaited = mac1
        signed = unsigned + mac1
        if self._cookie and now < self._expires:
            return signed + mac(self._cookie, signed)
        self._cookie = b""
        return signed + bytes(MAC_LENGTH)

    def accept(self, reply: CookieReply, now: int) -> bool | None:
        """Takes the cookie for our last message: True. None: no message waits for one. False: not authentic.
        A reply is taken once, so an old one cannot put an old cookie back."""
        if not self._awaited:
            return None
        cookie = xopen(cookie_key(self._public_key), reply.nonce, reply.sealed_cookie, self._awaited)
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
    block = ciphers.Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    return _subtracted(block[:16], _CONSTANTS) + _subtracted(block[48:], nonce)


def _subtracted(row: bytes, initial: bytes) -> bytes:
    pairs = zip(_ROW.unpack(row), _ROW.unpack(initial), strict=True)
    return _ROW.pack(*((end - start) & 0xFFFFFFFF for end, start in pairs))


def xseal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """XChaCha20-Poly1305 with a 24-byte nonce."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], plaintext, associated)


def xopen(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes | None:
    """The plaintext, or None if it is not authentic."""
    if len(sealed) < TAG_LENGTH:
        return None
    try:
        return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], sealed, associated)
    except InvalidTag:
        return None
