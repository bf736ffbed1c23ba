"""The ciphers a session may have, and what differs between them.

ChaCha20-Poly1305 is WireGuard's, the default, and the only one that any other implementation speaks.
AES-256-GCM is for two nodes of this program that both have it configured for each other. It is never
negotiated: the configuration says it, the protocol's name binds it into the transcript of the handshake, and
the header's reserved bytes mark every message, so that nobody takes one for the other (docs/aes-256-gcm.md).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .constants import IDENTIFIER, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES

__all__ = ["Cipher", "blocks_of"]

_MARKING: Final = 0x47417500
"""A message's type word under AES-256-GCM has this on top of its type: reserved bytes 1 to 3 are ``uAG``."""

_UNLIMITED: Final = 2**128


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

    @property
    def rekey_after_messages(self) -> int:
        """A sender asks for a new key once its counter is greater than this."""
        return 2**30 if self is Cipher.AES_256_GCM else REKEY_AFTER_MESSAGES

    @property
    def reject_after_messages(self) -> int:
        """No message with this counter or a greater one is sent or accepted."""
        return 2**31 if self is Cipher.AES_256_GCM else REJECT_AFTER_MESSAGES

    @property
    def rekey_after_blocks(self) -> int:
        """A sender asks for a new key once it has sealed this many blocks of 16 bytes (``blocks_of``)."""
        return 2**34 if self is Cipher.AES_256_GCM else _UNLIMITED

    @property
    def reject_after_blocks(self) -> int:
        """Nothing more is sealed with a key that has sealed this many blocks."""
        return 2**35 if self is Cipher.AES_256_GCM else _UNLIMITED


def blocks_of(length: int) -> int:
    """Blocks of a plaintext of ``length`` bytes; one more for the tag's mask."""
    return -(-length // 16) + 1
