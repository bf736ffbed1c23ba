"""Peers whose packets come back through the tunnel, because the route to their endpoint leads into it.

The plane finds and drops them (native/tunnel/paths.c); here a person is told, once when it begins and once
when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from udpring.tunnel.plane import Plane

__all__ = ["RoutingLoops"]


class RoutingLoops:
    """``report`` as ``Control.report``; ``label``: a peer's name in a log line."""

    def __init__(self, plane: Plane, report: Callable[..., None], label: Callable[[int], str]) -> None:
        self._plane = plane
        self._report = report
        self._label = label
        self._peers: set[int] = set()

    def leads_out(self, peer: int, loops: bool) -> bool:
        """Takes in what a PATH event says of this peer; whether packets to it leave the host."""
        if loops and peer not in self._peers:
            self._peers.add(peer)
            self._report(
                "loop",
                logging.WARNING,
                "%s: the route to its endpoint %s leads into this tunnel, its packets are dropped: add a "
                "route to the endpoint (ip route add), or set FwMark and a rule for it",
                self._label(peer),
                self._plane.peer_state(peer).endpoint,
            )
        elif not loops and peer in self._peers:
            self._peers.discard(peer)
            self._report("loop", logging.WARNING, "%s: its packets loop no longer", self._label(peer))
        return not loops

    def forget(self, peer: int) -> None:
        """The peer is gone."""
        self._peers.discard(peer)
