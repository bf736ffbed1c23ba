"""A node under load, like the plane: it demands a cookie for each handshake message (whitepaper 5.4.7)."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import COOKIE_SECRET_LIFETIME, KEY_LENGTH
from udpring.wireguard.cookie import hchacha20, mac, mac1_valid
from udpring.wireguard.events import Source
from udpring.wireguard.messages import TYPE_COOKIE_REPLY, Initiation, Response, parse_handshake

COOKIE_REQUIRED = "cookie_required"
"""Reason for a drop: there was no valid mac2, and a cookie reply was sent."""


def xseal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """XChaCha20-Poly1305 with a 24-byte nonce."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], plaintext, associated)


def pack_cookie_reply(
    receiver: int, nonce: bytes, sealed_cookie: bytes, cipher: Cipher = Cipher.CHACHA20_POLY1305
) -> bytes:
    """A complete cookie reply, which has no macs. ``cipher``: of the answered message. XChaCha20-Poly1305
    seals the cookie under either cipher."""
    head = (TYPE_COOKIE_REPLY | cipher.marking).to_bytes(4, "little") + receiver.to_bytes(4, "little")
    return head + nonce + sealed_cookie


class CookieIssuer:
    """Issues cookies. The previous secret stays valid for one more lifetime, so a cookie issued just before
    the change still works. Cookie = keyed BLAKE2s-128 (secret) of address bytes and port (big-endian). An
    IPv4-mapped address counts as IPv4."""

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
        """The cookie reply to a message from ``source`` with sender index ``receiver``. ``key``: the node's
        cookie_key. ``cipher``: the message's."""
        self._rotate(now)
        nonce = self._random(24)
        sealed = xseal(key, nonce, _cookie(self._secret, source), mac1)
        return pack_cookie_reply(receiver, nonce, sealed, cipher)

    def demand(
        self, message: bytes, source: Source, now: int, *, mac1_key: bytes, cookie_key: bytes
    ) -> bytes | None:
        """The cookie reply to a message that needs a cookie first. None: it needs none, or it has no valid
        mac1 and gets no answer."""
        parsed = parse_handshake(message)
        if not isinstance(parsed, Initiation | Response) or not mac1_valid(mac1_key, message):
            return None
        if self.mac2_valid(message, source, now):
            return None
        return self.reply(cookie_key, parsed.sender, parsed.mac1, source, now, parsed.cipher)

    def mac2_valid(self, message: bytes, source: Source, now: int) -> bool:
        """Whether a message from ``source`` has a mac2 under the current or the previous secret."""
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
