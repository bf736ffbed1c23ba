"""Makes a handshake and an error with throw-away keys, so that all modules and libraries that a node needs
are loaded. A confined process cannot open their files later."""

from __future__ import annotations

import contextlib
import os
import traceback

from udpring.tunnel.ciphers import aead_in_words
from udpring.tunnel.native_noise import NativeStaticKey
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.noise import NoiseError

__all__ = ["rehearse"]


def rehearse() -> None:
    """Loads everything."""
    aead_in_words()  # loads the library of each cipher
    for cipher in Cipher:
        one, other = NativeStaticKey(os.urandom(32)), NativeStaticKey(os.urandom(32))
        initiator, responder = one.initiator(other.public, cipher=cipher), other.responder(cipher)
        first = initiator.write_initiation(os.urandom(32), bytes(12))
        responder.read_static(first)
        responder.read_payload(first)
        response = responder.write_response(os.urandom(32), b"")
        with contextlib.suppress(NoiseError):
            initiator.read_response(response[:-1] + bytes([response[-1] ^ 1]))
        initiator.read_response(response)
    one.open_cookie(os.urandom(32), bytes(24), bytes(32), bytes(16))
    try:
        raise NoiseError("a rehearsal")  # here, so that the sources of no other module are read for its lines
    except NoiseError:
        traceback.format_exc()
