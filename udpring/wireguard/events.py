"""The inputs and outcomes of the protocol, as plain values.

``peer`` is always the caller's number for the peer (the plane's peer id). The caller carries out a list of
outcomes in order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import field
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from udpring.records import record

from .cipher import Cipher

if TYPE_CHECKING:
    from .handshake import Job
    from .unknown import UnknownInitiation

__all__ = [
    "AskKey",
    "Authenticated",
    "ClearSource",
    "Compute",
    "DropReason",
    "DropStaged",
    "Dropped",
    "EraseKeys",
    "ExpireKeys",
    "HandshakeCompleted",
    "HandshakeGivenUp",
    "InstallKeypair",
    "Outcome",
    "PeerSilent",
    "PeerStamps",
    "ReleaseIndex",
    "RemovedPeer",
    "SendKeepalive",
    "SendMessage",
    "SilenceReason",
    "Source",
    "Then",
]


@record
class Source:
    """Where a message came from: ``ip`` is 4 or 16 bytes in network order. ``handle`` is the caller's."""

    ip: bytes
    port: int
    handle: Hashable = None


class DropReason(StrEnum):
    """Why a message was dropped; one counter each."""

    BAD_LENGTH = auto()
    """Not of its type's length."""
    BAD_TYPE = auto()
    """Unknown type, or reserved bytes that are neither zero nor a cipher's marking."""
    CIPHER_MISMATCH = auto()
    """Marked for another cipher than the peer has."""
    NO_IDENTITY = auto()
    """We have no private key yet."""
    BAD_MAC1 = auto()
    """The sender does not know our public key, or the message was damaged."""
    RATE_LIMITED = auto()
    """We are under load and this source has used up its share."""
    UNKNOWN_INDEX = auto()
    """The receiver index belongs to no handshake or keypair."""
    UNKNOWN_PEER = auto()
    """The initiator's static key is no configured peer's, and no directory's."""
    TOO_MANY_QUESTIONS = auto()
    """The static key is unknown, and no more questions may be open, in all or for this source."""
    INVALID_KEY = auto()
    """A public key of small order: the shared secret would be zero."""
    UNAUTHENTICATED = auto()
    """A tag is wrong."""
    REPLAYED_INITIATION = auto()
    """The timestamp is not later than the last authenticated one of this peer."""
    INITIATION_FLOOD = auto()
    """Less than 20 ms after the peer's last initiation."""
    PAUSED = auto()
    """This node takes no new sessions, and the peer's last handshake is 180 s old or older."""
    CROSSED_INITIATION = auto()
    """Authentic, but our own initiation was in transit and has precedence by the order of the public keys."""
    UNEXPECTED_RESPONSE = auto()
    """A response to no pending initiation."""
    UNEXPECTED_COOKIE = auto()
    """A cookie reply to no message of ours, or a second one."""


@record
class SendMessage:
    """Send this handshake message. ``to`` None means the peer's current endpoint. It counts as an
    authenticated send of the peer."""

    peer: int
    data: bytes = field(repr=False)
    to: Source | None = None


@record
class InstallKeypair:
    """A new session. An initiator's becomes the current one. A responder's becomes the next one, which sends
    nothing before the first authentic transport message on it. ``birth``: boot time (ns) at which it was
    derived. From now on the receiver index is released with the keypair."""

    peer: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    local_index: int
    remote_index: int
    initiator: bool
    birth: int
    cipher: Cipher = Cipher.CHACHA20_POLY1305


@record
class Authenticated:
    """A handshake message of ``length`` bytes from ``source`` was authentic: roam there, stamp the
    receive."""

    peer: int
    source: Source
    length: int


@record
class SendKeepalive:
    """Send an empty transport message, unless staged packets can be sent instead."""

    peer: int


@record
class DropStaged:
    """The handshake was abandoned: drop the staged packets."""

    peer: int


@record
class EraseKeys:
    """Zeroise all keypairs of the peer."""

    peer: int


@record
class ExpireKeys:
    """Send nothing more on the peer's keypairs. Receiving on them continues."""

    peer: int


@record
class ClearSource:
    """Forget the sticky source address: the path may have changed."""

    peer: int


@record
class ReleaseIndex:
    """This receiver index belonged to a handshake that will not be completed."""

    index: int


@record
class RemovedPeer:
    """The peer is gone from the device (it had our own public key): remove it from the plane too."""

    peer: int


@record
class Dropped:
    """A message was dropped, and nothing has changed. ``peer``: the peer it named, if known. ``public_key``:
    whose key an initiation named, where it is no peer's."""

    reason: DropReason
    peer: int | None = None
    public_key: bytes | None = field(default=None, compare=False)


@record
class Compute:
    """Have other threads compute the job. Then carry out what ``then`` returns. It is called once, with the
    boot time and the wall time by then."""

    peer: int
    job: Job = field(repr=False, compare=False)
    then: Then = field(repr=False, compare=False)
    timers: bool = True
    """Whether a timer of the peer has changed already."""


@record
class AskKey:
    """No peer has the static key of this initiation: ask whose it is, add that peer, and go on with
    ``Device.resume``. Only where ``Device.asks`` is set."""

    initiation: UnknownInitiation


class SilenceReason(StrEnum):
    """Why a peer counts as silent."""

    UNANSWERED = "unanswered"
    """Nothing authentic came for 15 seconds after data was sent, or no handshake was answered in 90."""
    EXPIRED = "expired"
    """There was no new session for 540 seconds, so the keys of the last one were erased."""
    INTERFACE_DOWN = "interface down"
    """The interface of this node went down, which ends all sessions."""


@record
class PeerSilent:
    """Nothing comes from the peer. It may have been so before."""

    peer: int
    reason: SilenceReason


@record
class HandshakeCompleted:
    """For logs and counters: the session is confirmed on our side."""

    peer: int
    initiator: bool


@record
class HandshakeUnanswered:
    """The last initiation had no answer, and another one follows. The caller may change the endpoint now."""

    peer: int


@record
class HandshakeGivenUp:
    """For logs and counters: no answer in all the attempts."""

    peer: int


Outcome = (
    SendMessage
    | InstallKeypair
    | Authenticated
    | SendKeepalive
    | DropStaged
    | EraseKeys
    | ExpireKeys
    | ClearSource
    | ReleaseIndex
    | RemovedPeer
    | Compute
    | AskKey
    | Dropped
    | HandshakeCompleted
    | HandshakeUnanswered
    | HandshakeGivenUp
    | PeerSilent
)

Then = Callable[[int, int], list[Outcome]]
"""How to go on after a computation, with the boot time and the wall time by then."""


@record
class PeerStamps:
    """The plane's state of a peer, as far as timers read it. Times: boot ns, 0 = never.

    The plane's own type (``plane_values.PeerState``) has more than this.
    """

    unanswered_since: int = 0
    """First data sent since the last authenticated receive."""
    owed_since: int = 0
    """First data received since the last authenticated send."""
    owed_again: bool = False
    """More data arrived while that keepalive was pending."""
    last_traversal: int = 0
    """Any authenticated packet, either way."""
    last_received: int = 0
    """Any authenticated packet in, handshake messages included."""
    last_sent: int = 0
    """Any authenticated packet out, handshake messages included."""
    session_birth: int = 0
    """Of the current keypair; 0: none."""
    send_counter: int = 0
    """Next nonce of the current keypair."""
    endpoint: Hashable = None
    """The peer's endpoint. None: unknown."""
