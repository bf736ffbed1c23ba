"""An initiation whose static key belongs to no peer (yet), while a directory is asked for that key.

The handshake is kept as of after reading the key, so continuing repeats no Diffie-Hellman. ``prove`` shows
that the sender has the private key. A caller proves it after the answer and before it adds the peer. So
somebody who only knows a registered public key cannot become a peer.
"""

from __future__ import annotations

from dataclasses import field

from udpring.records import mutable_record

from . import noise
from .events import DropReason, Source
from .handshake import Identity, ResponderHandshake
from .messages import Initiation

__all__ = ["UnknownInitiation"]


@mutable_record
class UnknownInitiation:
    """Made by ``Device.receive``. ``public_key``: the identity that the sender claims."""

    public_key: bytes
    source: Source
    message: Initiation = field(repr=False)
    responder: ResponderHandshake = field(repr=False)
    identity: Identity = field(repr=False)
    timestamp: bytes | None = None
    """Authentic; None: not proved yet."""
    static_static: bytes | None = field(default=None, repr=False)
    """The shared secret of both static keys, from the proof."""

    def prove(self) -> DropReason | None:
        """Reads the payload, which only the owner of the key can have written. None: it is authentic."""
        if self.timestamp is not None:
            return None
        try:
            secret = self.identity.shared_with(self.public_key)
            self.timestamp = self.responder.read_payload(self.message.noise, secret)
        except noise.InvalidKeyError:
            return DropReason.INVALID_KEY
        except noise.NoiseError:
            return DropReason.UNAUTHENTICATED
        self.static_static = secret
        return None
