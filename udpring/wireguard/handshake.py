"""The types of the handshakes that the protocol computes with, and of their receiver indices.

``noise.StaticKey`` is the reference, in Python. ``udpring.tunnel.native_noise`` has the same in C and gives
the same bytes for the same keys. A ``Device`` is given one of the two. Both raise the errors of ``noise``.

The expensive steps are jobs. A job that is not ``deferred`` computes in ``result``. A deferred one has to be
computed by other threads before, and the protocol asks for that (``events.Compute``).
"""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

from udpring.records import mutable_record

from .cipher import Cipher

__all__ = [
    "Identity",
    "IndexTable",
    "InitiatorHandshake",
    "Job",
    "Keys",
    "OpenedHandshake",
    "Outgoing",
    "ResponderHandshake",
]


Keys = tuple[bytes, bytes]
"""The sending and the receiving key of a session."""


class Job(Protocol):
    """One message, to be computed."""

    @property
    def deferred(self) -> bool:
        """Whether other threads compute it."""

    def result(self) -> bytes:
        """The message; for a response that was read, its payload. Raises NoiseError."""


class InitiatorHandshake(Protocol):
    """``noise.Initiator``."""

    def initiation_job(self, ephemeral: bytes, payload: bytes) -> Job: ...

    def reading_job(self, message: bytes, psk: bytes) -> Job: ...

    def split(self) -> tuple[bytes, bytes]: ...


class ResponderHandshake(Protocol):
    """``noise.Responder``."""

    def read_static(self, message: bytes) -> bytes: ...

    def read_payload(self, message: bytes, static_static: bytes | None = None) -> bytes: ...

    def response_job(self, ephemeral: bytes, psk: bytes) -> Job: ...

    def split(self) -> tuple[bytes, bytes]: ...


class OpenedHandshake(ResponderHandshake, Protocol):
    """One whose ``read_static`` was done elsewhere."""

    @property
    def claimed(self) -> bytes:
        """The static key in the message, not yet proved."""


class Identity(Protocol):
    """``noise.StaticKey``: the private key of a node, and handshakes with it."""

    @property
    def public(self) -> bytes: ...

    def shared_with(self, public: bytes) -> bytes: ...

    def initiator(
        self, remote: bytes, *, static_static: bytes | None = None, cipher: Cipher = ...
    ) -> InitiatorHandshake: ...

    def responder(self, cipher: Cipher = ...) -> ResponderHandshake: ...

    def open_cookie(self, key: bytes, nonce: bytes, sealed: bytes, mac1: bytes) -> bytes | None:
        """``cookie.xopen``, by the same library as the handshakes."""


class IndexTable(Protocol):
    """The owner of the receiver indices (the plane)."""

    def new(self, peer: int) -> int:
        """A new random index for this peer, until it is released or its keypair ends."""


@mutable_record
class Outgoing:
    """Our initiation that waits for its response."""

    local_index: int
    sent_at: int
    handshake: InitiatorHandshake = field(repr=False)
