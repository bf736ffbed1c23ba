"""The ciphers a session may have, and what differs between them.

ChaCha20-Poly1305 is WireGuard's, the default, and the only one that any other implementation speaks.
AES-256-GCM is for two nodes of this program that both have it configured for each other. It is never
negotiated: the configuration says it, the protocol's name binds it into the transcript of the handshake, and
the header's reserved bytes mark every message, so that nobody takes one for the other (docs/aes-256-gcm.md).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .constants import IDENTIFIER

__all__ = ["Cipher"]

_MARKING: Final = 0x47417500
"""A message's type word under AES-256-GCM has this on top of its type: reserved bytes 1 to 3 are ``uAG``."""


class Cipher(StrEnum):
    """The value is the name in a configuration and in the UAPI. In the order of ``enum udpring_cipher``."""

    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_256_GCM = "aes-256-gcm"

    @property
    def construction(self) -> bytes:
        """The name of the Noise protocol: what the handshake's transcript begins with."""
        return b"Noise_IKpsk2_25519_%s_BLAKE2s" % (b"AESGCM" if self is Cipher.AES_256_GCM else b"ChaChaPoly")

    @property
    def prologue(self) -> bytes:
        """What is mixed into the transcript next."""
        return b"udpring v1 AES-256-GCM" if self is Cipher.AES_256_GCM else IDENTIFIER

    @property
    def marking(self) -> int:
        """What the type word of each message has on top of the type; 0 for WireGuard's reserved zeros."""
        return _MARKING if self is Cipher.AES_256_GCM else 0

    def nonce(self, counter: int) -> bytes:
        """The 96-bit nonce of a counter (Noise specification, section 12): 32 zero bits, then 64 bits,
        little-endian for ChaChaPoly, big-endian for AESGCM."""
        return bytes(4) + counter.to_bytes(8, "big" if self is Cipher.AES_256_GCM else "little")
