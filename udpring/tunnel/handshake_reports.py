"""What becomes of handshakes, counted and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from udpring.tunnel.control_values import ControlStats
from udpring.wireguard import events as protocol

__all__ = ["HandshakeReports"]


class Report(Protocol):
    """``Control.report``: logs a few lines of each kind."""

    def __call__(self, kind: str, level: int, text: str, *arguments: object) -> None: ...


class HandshakeReports:
    """Takes the outcomes of the protocol that only tell something. ``label`` names a peer."""

    def __init__(self, stats: ControlStats, report: Report, label: Callable[[int], str]) -> None:
        self._stats = stats
        self._report = report
        self._label = label

    def dropped(self, outcome: protocol.Dropped) -> None:
        """A handshake message that changed nothing."""
        reason = str(outcome.reason)
        self._stats.dropped[reason] = self._stats.dropped.get(reason, 0) + 1
        self._report(f"dropped {reason}", logging.DEBUG, "handshake message dropped: %s", reason)

    def completed(self, outcome: protocol.HandshakeCompleted) -> None:
        """The session is confirmed."""
        self._stats.handshakes_completed += 1
        role = "initiator" if outcome.initiator else "responder"
        self._report(
            "completed", logging.DEBUG, "%s: handshake completed as %s", self._label(outcome.peer), role
        )

    def given_up(self, outcome: protocol.HandshakeGivenUp) -> None:
        """No answer came."""
        self._stats.handshakes_given_up += 1
        self._report(
            "given up", logging.INFO, "%s: no answer to handshakes, given up", self._label(outcome.peer)
        )
