"""Makes a handshake and an error with throw-away keys, so that all modules and libraries that a node needs
are loaded. A confined process cannot open their files later."""

from __future__ import annotations

import os
import traceback

from udpring.tunnel import config_parser  # noqa: F401 - a reload parses
from udpring.wireguard import cookie, noise
from udpring.wireguard.cipher import Cipher

__all__ = ["rehearse"]


def rehearse() -> None:
    """Loads everything."""
    for cipher in Cipher:
        one, other = noise.StaticKey(os.urandom(32)), noise.StaticKey(os.urandom(32))
        initiator = noise.Initiator(one, other.public, prologue=b"", cipher=cipher)
        responder = noise.Responder(other, prologue=b"", cipher=cipher)
        first = initiator.write_initiation(os.urandom(32), b"payload")
        responder.read_static(first)
        responder.read_payload(first)
        response = responder.write_response(os.urandom(32), b"")
        try:
            initiator.read_response(response[:-1] + bytes([response[-1] ^ 1]))
        except noise.NoiseError:
            traceback.format_exc()
        initiator.read_response(response)
    cookie.xopen(os.urandom(32), bytes(24), bytes(32), b"")
