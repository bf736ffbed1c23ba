"""Whether handshakes can be computed here: two keys of this process do one with each other."""

from __future__ import annotations

import os

from udpring.errors import UdpringError
from udpring.tunnel.native_noise import NativeStaticKey
from udpring.uring.probe import Feature

__all__ = ["probe_handshake"]

_NAME = "Noise_IKpsk2"


def probe_handshake() -> Feature:
    """X25519, BLAKE2s, HMAC and ChaCha20-Poly1305 at work, all of the library that a node uses."""
    try:
        ours, theirs = NativeStaticKey(os.urandom(32)), NativeStaticKey(os.urandom(32))
        initiator, responder = ours.initiator(theirs.public), theirs.responder()
        initiation = initiator.write_initiation(os.urandom(32), bytes(12))
        responder.read_static(initiation)
        responder.read_payload(initiation)
        initiator.read_response(responder.write_response(os.urandom(32), b""))
        agreed = initiator.split() == responder.split()[::-1]
    except UdpringError as error:
        return Feature(_NAME, False, str(error), getattr(error, "errno", None) or 0)
    return Feature(_NAME, agreed, "two keys agreed" if agreed else "two keys did not agree", 0)
