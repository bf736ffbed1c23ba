"""The core's numbers of the ciphers, and the library in use for each on this host."""

from __future__ import annotations

from collections.abc import Iterable

from udpring._native import ffi, lib
from udpring.errors import HostError
from udpring.wireguard.cipher import Cipher

__all__ = ["CIPHER_NUMBERS", "aead_in_words", "chosen_aead", "require_cipher"]

CIPHER_NUMBERS: dict[Cipher, int] = {
    Cipher.CHACHA20_POLY1305: lib.UDPRING_CIPHER_CHACHA20_POLY1305,
    Cipher.AES_256_GCM: lib.UDPRING_CIPHER_AES_256_GCM,
}
"""``enum udpring_cipher``."""


def chosen_aead(cipher: Cipher = Cipher.CHACHA20_POLY1305) -> str:
    """The name of the library in use for this cipher. Raises HostError (ENOTSUP) if there is none."""
    name: str = ffi.string(lib.udpring_aead_name(require_cipher(cipher))).decode()
    return name


def aead_in_words(ciphers: Iterable[Cipher] | None = None) -> str:
    """The libraries in use for these ciphers: only its name for WireGuard's, ``CIPHER by NAME`` for each if
    there are others. None: all ciphers of this host, always in the long form."""
    wanted = set(Cipher if ciphers is None else ciphers) | {Cipher.CHACHA20_POLY1305}
    if wanted == {Cipher.CHACHA20_POLY1305}:
        return chosen_aead()
    have = [
        cipher
        for cipher in Cipher
        if cipher in wanted and lib.udpring_aead_chosen(CIPHER_NUMBERS[cipher]) >= 0
    ]
    return ", ".join(f"{cipher} by {chosen_aead(cipher)}" for cipher in have)


def require_cipher(cipher: Cipher) -> int:
    """The number of the implementation in use. Raises HostError (ENOTSUP) if no library here has it."""
    number = CIPHER_NUMBERS[cipher]
    which: int = lib.udpring_aead_chosen(number)
    if which < 0:
        why = ffi.string(lib.udpring_aead_why(number)).decode()
        raise HostError(f"no library here does {cipher}: {why}", errno=-which, cure="see: udpring bench aead")
    return which
