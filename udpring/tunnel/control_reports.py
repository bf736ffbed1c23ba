"""Log lines and counters of the control loop: handshakes, routing loops, refused super-packets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from udpring._native import lib
from udpring.tunnel.control_events import ControlEvents
from udpring.tunnel.control_values import ControlStats
from udpring.tunnel.plane import Plane
from udpring.wireguard import events as protocol

__all__ = ["HandshakeReports", "Report", "RoutingLoops", "report_refused_coalescing"]

log = logging.getLogger("udpring.node")


class Report(Protocol):
    """``Control.report``: logs a few lines of each kind."""

    def __call__(self, kind: str, level: int, text: str, *arguments: object) -> None: ...


class HandshakeReports:
    """Counts, logs and posts the outcomes of handshakes. ``label`` names a peer in a log line."""

    def __init__(
        self, stats: ControlStats, report: Report, label: Callable[[int], str], events: ControlEvents
    ) -> None:
        self._events = events
        self._stats = stats
        self._report = report
        self._label = label

    def dropped(self, outcome: protocol.Dropped) -> None:
        """A handshake message was dropped."""
        reason = str(outcome.reason)
        self._stats.dropped[reason] = self._stats.dropped.get(reason, 0) + 1
        self._report(f"dropped {reason}", logging.DEBUG, "handshake message dropped: %s", reason)
        self._events.refused(outcome)

    def completed(self, outcome: protocol.HandshakeCompleted) -> None:
        """The session is confirmed."""
        self._stats.handshakes_completed += 1
        self._stats.handshakes_initiated += outcome.initiator
        role = "initiator" if outcome.initiator else "responder"
        self._report(
            "completed", logging.DEBUG, "%s: handshake completed as %s", self._label(outcome.peer), role
        )
        self._events.completed(outcome.peer, outcome.initiator)

    def given_up(self, outcome: protocol.HandshakeGivenUp) -> None:
        """There was no answer."""
        self._stats.handshakes_given_up += 1
        self._report(
            "given up", logging.INFO, "%s: no answer to handshakes, given up", self._label(outcome.peer)
        )
        self._events.silent(outcome.peer, protocol.SilenceReason.UNANSWERED)

    def silent(self, outcome: protocol.PeerSilent) -> None:
        """Nothing comes from the peer."""
        self._events.silent(outcome.peer, outcome.reason)


class RoutingLoops:
    """Peers whose packets come back through the tunnel, because the route to their endpoint leads into it.

    The plane drops such packets (native/tunnel/worker/paths.c, nesting.c). One line is logged when a loop
    begins, and one when it ends. ``label`` names a peer in a log line.
    """

    def __init__(self, plane: Plane, report: Report, label: Callable[[int], str]) -> None:
        self._plane = plane
        self._report = report
        self._label = label
        self._peers: set[int] = set()

    def leads_out(self, peer: int, loops: bool, *, through: str = "") -> bool:
        """Takes the present state of this peer: whether packets to it leave the host. ``through``: the other
        tunnels on the way."""
        if loops and peer not in self._peers:
            self._peers.add(peer)
            self._report(
                "loop",
                logging.WARNING,
                "%s: the route to its endpoint %s leads into this tunnel%s, its packets are dropped: add a "
                "route to the endpoint (ip route add), or set FwMark and a rule for it",
                self._label(peer),
                self._plane.peer_state(peer).endpoint,
                f" again, through {through}" if through else "",
            )
        elif not loops and peer in self._peers:
            self._peers.discard(peer)
            self._report("loop", logging.WARNING, "%s: its packets loop no longer", self._label(peer))
        return not loops

    def forget(self, peer: int) -> None:
        """The peer is gone."""
        self._peers.discard(peer)


_WHICH: dict[int, str] = {
    lib.UDPRING_REFUSED_ALL: "super-packets",
    lib.UDPRING_REFUSED_SHORT_LAST: "super-packets with a short last segment",
}


def report_refused_coalescing(interface: str, result: int) -> None:
    """The kernel refuses super-packets written to the interface.

    The plane posts one COALESCING_REFUSED event for each ``result``, so each is logged once.
    """
    log.warning(
        "%s: the kernel refuses %s written to this interface. Packets are written one by one instead, which "
        "is slower and loses nothing (counted as super_packets_split). A newer kernel accepts them",
        interface,
        _WHICH.get(result, "some super-packets"),
    )
