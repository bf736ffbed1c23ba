"""Plain values of the control loop: clocks, the origin of a message, the reason of an end, counters."""

from __future__ import annotations

import time
from dataclasses import field

from udpring.records import mutable_record, record
from udpring.tunnel.plane import Plane
from udpring.tunnel.plane_values import PeerState, SocketAddress

__all__ = ["BootClock", "ControlStats", "End", "Following", "PlaneIndices", "Route"]


class BootClock:
    """The two clocks of the control loop, in nanoseconds."""

    def boot(self) -> int:
        """CLOCK_BOOTTIME: the clock of the plane and of every timer."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall(self) -> int:
        """UTC since the epoch, for TAI64N and for display."""
        return time.time_ns()


@record
class Route:
    """The origin of a message, and thus the destination of its answer: ``Source.handle`` of the protocol."""

    source: SocketAddress
    local: SocketAddress | None
    interface_index: int


@record
class End:
    """Why a tunnel cannot continue. ``failed``: because of an error, not of a deleted interface."""

    reason: str
    failed: bool = False


@mutable_record
class ControlStats:
    """Counters of the control loop. They only grow."""

    events: int = 0
    messages_sent: int = 0
    keepalives_sent: int = 0
    handshakes_completed: int = 0
    handshakes_initiated: int = 0
    """Of the completed ones, those that this node began."""
    handshakes_unanswered: int = 0
    """Initiations without an answer, which were sent again."""
    handshakes_given_up: int = 0
    command_errors: int = 0
    failures: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


class Following:
    """What the control loop tells whoever follows endpoints (``endpoint_following``). This one does not."""

    def unanswered(self, number: int) -> None:
        """An initiation had no answer, and the next one is about to be sent."""

    def completed(self, number: int) -> None:
        """A handshake with the peer was completed."""

    def path_changed(self, number: int) -> None:
        """Packets to the peer leave by another way."""

    def look(self, number: int, state: PeerState, now: int) -> int | None:
        """Looks whether the peer is silent: at each look at a peer whose stamps change. The time of the next
        one; None: none for its sake."""
        return None

    def forget(self, public_key: bytes) -> None:
        """The peer is gone, or somebody else has set its endpoint."""


class PlaneIndices:
    """The protocol's receiver indices, from the plane: handshakes and keypairs share one space."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def new(self, peer: int) -> int:
        return self._plane.index_new(peer)
