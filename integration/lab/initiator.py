"""An honest WireGuard peer that the test controls: one handshake at a time, and data in its session."""

from __future__ import annotations

import base64
import os
import secrets
import socket
import struct
import time

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lab.node import Node
from lab.space import Space
from udpring.wireguard import noise
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.cookie import MacSigner
from udpring.wireguard.messages import CookieReply, Response, pack_initiation, parse_handshake
from udpring.wireguard.tai64n import next_timestamp

PATIENCE = 2.0
"""The longest wait for an answer, in seconds."""


class Initiator:
    """A peer of ``node`` with one inner address, which sends from ``space``."""

    def __init__(self, space: Space, node: Node, inner: str) -> None:
        self.static = noise.StaticKey(os.urandom(32))
        self.node, self.inner = node, inner
        self._public = base64.b64decode(node.public_key)
        self._signer = MacSigner(self._public)
        self._timestamp: bytes | None = None
        self._key: ChaCha20Poly1305 | None = None
        self._counter = 0
        self.remote = 0
        """The node's index of the session. Anybody on the path can read it in each data message."""
        self.socket = space.socket(space.ipv4, socket.SOCK_DGRAM)
        self.target = (node.space.ipv4, node.port)
        public = base64.b64encode(self.static.public).decode()
        node.wg("set", node.interface, "peer", public, "allowed-ips", f"{inner}/32")

    def close(self) -> None:
        self.socket.close()

    def _initiation(self, index: int) -> tuple[noise.Initiator, bytes]:
        handshake = noise.Initiator(self.static, self._public, prologue=Cipher.CHACHA20_POLY1305.prologue)
        self._timestamp = next_timestamp(time.time_ns(), self._timestamp)
        body = handshake.write_initiation(os.urandom(32), self._timestamp)
        message = pack_initiation(index, body)
        return handshake, self._signer.sign(message, time.monotonic_ns())

    def handshake(self) -> bool:
        """One attempt. If a cookie is demanded, the attempt continues with it."""
        for _ in range(2):
            index = secrets.randbits(32)
            state, message = self._initiation(index)
            self.socket.sendto(message, self.target)
            answer = self._answer(index)
            if isinstance(answer, Response):
                state.read_response(answer.noise)
                self._key, self._counter = ChaCha20Poly1305(state.split()[0]), 0
                self.remote = answer.sender
                return True
            if answer is None:
                return False
        return False

    def _answer(self, index: int) -> Response | CookieReply | None:
        """Takes the answer to the initiation with this index, not to an abandoned one."""
        give_up = time.monotonic() + PATIENCE
        while (left := give_up - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                message = self.socket.recv(2000)
            except TimeoutError:
                return None
            parsed = parse_handshake(message)
            if isinstance(parsed, Response) and parsed.receiver == index:
                return parsed
            if isinstance(parsed, CookieReply) and self._signer.accept(parsed, time.monotonic_ns()):
                return parsed
        return None

    def data(self, inner: bytes) -> None:
        """Sends one packet into the tunnel."""
        assert self._key, "no session"
        counter, self._counter = self._counter, self._counter + 1
        plain = inner + bytes(-len(inner) % 16)
        sealed = self._key.encrypt(bytes(4) + counter.to_bytes(8, "little"), plain, b"")
        self.socket.sendto(struct.pack("<IIQ", 4, self.remote, counter) + sealed, self.target)
