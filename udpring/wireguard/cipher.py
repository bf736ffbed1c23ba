"""The ciphers of a session, and the differences between them.

ChaCha20-Poly1305 is WireGuard's, the default, and the only one that other implementations speak. AES-256-GCM
is for two udpring nodes that both have it configured for each other. It is never negotiated. The protocol's
name binds it into the transcript of the handshake, and the header's reserved bytes mark each message, so that
the two cannot be confused (docs/aes-256-gcm.md).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .constants import IDENTIFIER

__all__ = ["Cipher"]

_MARKING: Final = 0x47417500
"""Under AES-256-GCM the type word of a message has this added: reserved bytes 1 to 3 are ``uAG``."""


class Cipher(StrEnum):
    """The value is the name in a configuration and in the UAPI. In the order of ``enum udpring_cipher``."""

    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_256_GCM = "aes-256-gcm"

    @property
    def construction(self) -> bytes:
        """The name of the Noise protocol, with which the transcript begins."""
        return b"Noise_IKpsk2_25519_%s_BLAKE2s" % (b"AESGCM" if self is Cipher.AES_256_GCM else b"ChaChaPoly")

    @property
    def prologue(self) -> bytes:
        """The prologue, mixed into the transcript next."""
        return b"udpring v1 AES-256-GCM" if self is Cipher.AES_256_GCM else IDENTIFIER

    @property
    def marking(self) -> int:
        """The addition to the type word of each message. 0 for WireGuard's reserved zeros."""
        return _MARKING if self is Cipher.AES_256_GCM else 0

    def nonce(self, counter: int) -> bytes:
        """The 96-bit nonce of a counter (Noise specification, section 12): 32 zero bits, then 64 bits,
        little-endian for ChaChaPoly, big-endian for AESGCM."""
        return bytes(4) + counter.to_bytes(8, "big" if self is Cipher.AES_256_GCM else "little")
