"""Wire layouts (whitepaper section 5.4): fixed lengths, little-endian integers, three reserved zero bytes,
which under AES-256-GCM hold ``Cipher.marking`` instead.

    1 initiation   148  type  sender   ephemeral[32]  static[32+16]  timestamp[12+16]   mac1[16] mac2[16]
    2 response      92  type  sender   receiver       ephemeral[32]  nothing[0+16]      mac1[16] mac2[16]
    3 cookie reply  64  type  receiver nonce[24]      cookie[16+16]

Transport messages (type 4) never reach this module: the core handles them. ``parse_handshake`` returns the
message, or the reason to drop it. It never raises, whatever the bytes are.
"""

from __future__ import annotations

import struct
from typing import Final

from udpring.records import record

from .cipher import Cipher
from .events import DropReason

__all__ = [
    "COOKIE_REPLY_LENGTH",
    "INITIATION_LENGTH",
    "RESPONSE_LENGTH",
    "CookieReply",
    "Initiation",
    "Response",
    "pack_initiation",
    "pack_response",
    "parse_handshake",
    "type_and_cipher",
]

TYPE_INITIATION: Final = 1
TYPE_RESPONSE: Final = 2
TYPE_COOKIE_REPLY: Final = 3
TYPE_TRANSPORT: Final = 4

_HEAD_INITIATION: Final = struct.Struct("<II")
_HEAD_RESPONSE: Final = struct.Struct("<III")
_HEAD_COOKIE_REPLY: Final = struct.Struct("<II")

INITIATION_LENGTH: Final = 148
RESPONSE_LENGTH: Final = 92
COOKIE_REPLY_LENGTH: Final = 64

_MACS: Final = 32


@record
class Initiation:
    """``noise`` is the Noise message: ephemeral, encrypted static, encrypted timestamp."""

    sender: int
    noise: bytes
    mac1: bytes
    mac2: bytes
    cipher: Cipher = Cipher.CHACHA20_POLY1305


@record
class Response:
    """``noise`` is the Noise message: ephemeral and the tag of an empty payload."""

    sender: int
    receiver: int
    noise: bytes
    mac1: bytes
    mac2: bytes
    cipher: Cipher = Cipher.CHACHA20_POLY1305


@record
class CookieReply:
    """``receiver``: the sender index of the message it answers; the cookie is sealed with its tag."""

    receiver: int
    nonce: bytes
    sealed_cookie: bytes
    cipher: Cipher = Cipher.CHACHA20_POLY1305


_CIPHERS: Final = {cipher.marking: cipher for cipher in Cipher}


def type_and_cipher(message: bytes) -> tuple[int, Cipher | None]:
    """Type and cipher by the first four bytes. The cipher is None where no cipher has that marking."""
    word = int.from_bytes(message[:4], "little")
    return word & 0xFF, _CIPHERS.get(word & ~0xFF)


def parse_handshake(message: bytes) -> Initiation | Response | CookieReply | DropReason:
    """A message of type 1, 2 or 3, or the reason why it is none: ``BAD_TYPE`` (also for transport messages),
    ``BAD_LENGTH``."""
    if len(message) < 4:
        return DropReason.BAD_LENGTH
    kind, cipher = type_and_cipher(message)
    if cipher is None:
        return DropReason.BAD_TYPE
    if kind == TYPE_INITIATION:
        if len(message) != INITIATION_LENGTH:
            return DropReason.BAD_LENGTH
        _, sender = _HEAD_INITIATION.unpack_from(message)
        return Initiation(sender, message[8:-_MACS], message[-32:-16], message[-16:], cipher)
    if kind == TYPE_RESPONSE:
        if len(message) != RESPONSE_LENGTH:
            return DropReason.BAD_LENGTH
        _, sender, receiver = _HEAD_RESPONSE.unpack_from(message)
        return Response(sender, receiver, message[12:-_MACS], message[-32:-16], message[-16:], cipher)
    if kind == TYPE_COOKIE_REPLY:
        if len(message) != COOKIE_REPLY_LENGTH:
            return DropReason.BAD_LENGTH
        _, receiver = _HEAD_COOKIE_REPLY.unpack_from(message)
        return CookieReply(receiver, message[8:32], message[32:], cipher)
    return DropReason.BAD_TYPE


def pack_initiation(sender: int, noise: bytes, cipher: Cipher = Cipher.CHACHA20_POLY1305) -> bytes:
    """An initiation up to its macs (``cookie.MacSigner.sign`` adds them)."""
    return _HEAD_INITIATION.pack(TYPE_INITIATION | cipher.marking, sender) + noise


def pack_response(
    sender: int, receiver: int, noise: bytes, cipher: Cipher = Cipher.CHACHA20_POLY1305
) -> bytes:
    """A response up to its macs."""
    return _HEAD_RESPONSE.pack(TYPE_RESPONSE | cipher.marking, sender, receiver) + noise
