"""WireGuard keys as text: base64 (configuration files, ``wg``) and hexadecimal (UAPI).

Every key is 32 bytes. No error contains a key's text, because a private key may have been given in place of a
public one. Errors name lengths and positions only.
"""

from __future__ import annotations

import binascii
import os
import re

__all__ = [
    "KEY_LENGTH",
    "KeyFormatError",
    "clamp",
    "from_base64",
    "from_hex",
    "generate_preshared_key",
    "generate_private_key",
    "key_label",
    "public_key",
    "to_base64",
    "to_hex",
]

KEY_LENGTH = 32
BASE64_LENGTH = 44
HEX_LENGTH = 64

_BASE64_KEY, _BASE64_OTHER, _HEX_OTHER = r"[A-Za-z0-9+/]{43}=", r"[^A-Za-z0-9+/=]", r"[^0-9A-Fa-f]"
"""Compiled when used: a node of ``wg`` needs none, and that takes longer than the rest of the module."""


class KeyFormatError(ValueError):
    """A text that is not a key. ``position``: the first wrong character, from 0."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


def clamp(key: bytes) -> bytes:
    """The X25519 scalar of 32 random bytes (RFC 7748 section 5)."""
    if len(key) != KEY_LENGTH:
        raise KeyFormatError(f"a key has {KEY_LENGTH} bytes, this has {len(key)}")
    return bytes([key[0] & 248]) + key[1:31] + bytes([key[31] & 127 | 64])


def generate_private_key() -> bytes:
    """A new private key from the kernel's random source, clamped as ``wg genkey`` does."""
    return clamp(os.urandom(KEY_LENGTH))


def generate_preshared_key() -> bytes:
    """A new preshared key: 32 random bytes."""
    return os.urandom(KEY_LENGTH)


def public_key(private_key: bytes) -> bytes:
    """The X25519 public key of a private one (clamped or not, as ``wg pubkey``).

    Raises KeyFormatError when the key does not have 32 bytes.
    """
    if len(private_key) != KEY_LENGTH:
        raise KeyFormatError(f"a key has {KEY_LENGTH} bytes, this has {len(private_key)}")
    # Imported here: `udpring genkey` and configuration parsing do not need it.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415

    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def to_base64(key: bytes) -> str:
    """The 44 characters that ``wg`` prints."""
    return binascii.b2a_base64(key, newline=False).decode("ascii")


def from_base64(text: str) -> bytes:
    """The key of exactly 44 base64 characters, as strict as ``wg``: one ``=`` at the end, unused bits zero.

    Raises KeyFormatError, whose text holds lengths and positions but nothing of the key.
    """
    if re.fullmatch(_BASE64_KEY, text):
        key = binascii.a2b_base64(text)
        if to_base64(key) != text:
            raise KeyFormatError(
                f"character {BASE64_LENGTH - 1} has bits beyond the 32 bytes of a key", BASE64_LENGTH - 2
            )
        return key
    stray = re.search(_BASE64_OTHER, text)
    if stray:
        raise KeyFormatError(f"character {stray.start() + 1} of {len(text)} is not base64", stray.start())
    raise KeyFormatError(
        f"a key has {BASE64_LENGTH} base64 characters with one '=' at the end, this has {len(text)}",
        len(text),
    )


def to_hex(key: bytes) -> str:
    """The 64 lower-case hexadecimal digits of the UAPI."""
    return key.hex()


def from_hex(text: str) -> bytes:
    """The key of exactly 64 hexadecimal digits. Raises KeyFormatError, whose text holds nothing of the
    key."""
    found = re.search(_HEX_OTHER, text)
    if found:
        raise KeyFormatError(
            f"character {found.start() + 1} of {len(text)} is not hexadecimal", found.start()
        )
    if len(text) != HEX_LENGTH:
        raise KeyFormatError(f"a key has {HEX_LENGTH} hexadecimal digits, this has {len(text)}", len(text))
    return bytes.fromhex(text)


def key_label(public_key: bytes) -> str:
    """A public key short enough for a log line, as wireguard-go writes it: ``peer(AbCd…WxYz)``."""
    text = to_base64(public_key)
    return f"peer({text[:4]}…{text[39:43]})"
