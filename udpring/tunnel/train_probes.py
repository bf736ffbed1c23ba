"""Notices routes that lose trains (UDP_SEGMENT) while single datagrams pass, and stops trains to those peers.

A round sends two probes: one as a train, then one as single datagrams (native/tunnel/worker/train_probe.c).
Only udpring nodes answer them, each by itself.

- The train is answered: trains pass.
- Only the singles are answered, in two rounds running: the route loses trains. The peer gets single
  datagrams. After ``RETRY`` a round finds out whether that is still so.
- Nothing is answered: another implementation, or a route that loses everything. Nothing changes, but a peer
  that gets single datagrams gets trains again after three such rounds.

The first train of each session begins a round. So does one that remains unanswered, if the peer answered the
last probe. Traffic itself is no proof, so one-way traffic and loss cause no change. See
docs/design/trains.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from udpring.errors import RingError
from udpring.records import mutable_record
from udpring.tunnel.control_reports import Report
from udpring.tunnel.plane import Plane

__all__ = ["TrainProbes"]

ROUNDS = 2
"""Rounds in which only the singles were answered."""
GRACE = 0.05
"""Seconds for the answer to the train after the answer to the singles, which were sent later. At least the
round-trip time."""
ANSWER_TIMEOUT = 1.0
RETRY = 60.0
SILENT_ROUNDS = 3
"""After so many unanswered rounds the peer is taken for another implementation, and asked no more."""


@mutable_record
class _Probed:
    sent_at: float = 0.0
    in_round: bool = False
    again: bool = False
    """The worker asked during the round, perhaps because the peer is reached in another way now."""
    timer: asyncio.TimerHandle | None = None
    """Of the round, or of the next one."""
    only_singles: int = 0
    silent: int = 0
    """Rounds without any answer, in a row."""
    lost: bool = False


class TrainProbes:
    """The probes of all peers. ``label`` names a peer in a log line."""

    def __init__(
        self, plane: Plane, *, loop: asyncio.AbstractEventLoop, report: Report, label: Callable[[int], str]
    ) -> None:
        self._plane = plane
        self._loop = loop
        self._report = report
        self._label = label
        self._probed: dict[int, _Probed] = {}

    def train_sent(self, peer: int) -> None:
        """The worker asks whether trains to the peer pass: of a session's first one, or in doubt."""
        probed = self._probed.setdefault(peer, _Probed())
        if probed.lost or probed.silent >= SILENT_ROUNDS:
            return
        if probed.in_round:
            probed.again = True
        else:
            self._first_round(peer, probed)

    def answered(self, peer: int, *, train: bool) -> None:
        """The peer answered a probe."""
        probed = self._probed.get(peer)
        if probed is None:
            return
        if probed.in_round:
            probed.silent = 0
        if train:
            if probed.lost:
                self._show(peer, probed, False)
                self._report("trains", logging.INFO, "%s: trains pass again", self._label(peer))
            self._end_round(peer, probed)
        elif probed.in_round:
            trip = self._loop.time() - probed.sent_at
            self._set_timer(probed, max(trip, GRACE), self._train_unanswered, peer)

    def forget(self, peer: int) -> None:
        """The peer is gone."""
        probed = self._probed.pop(peer, None)
        if probed is not None:
            self._set_timer(probed)

    def stop(self) -> None:
        """No more probes."""
        for probed in self._probed.values():
            self._set_timer(probed)
        self._probed.clear()

    def _first_round(self, peer: int, probed: _Probed) -> None:
        probed.again = False
        probed.only_singles = 0
        self._round(peer, probed)

    def _round(self, peer: int, probed: _Probed) -> None:
        probed.sent_at = self._loop.time()
        probed.in_round = True
        self._set_timer(probed, ANSWER_TIMEOUT, self._silent, peer)
        try:
            self._plane.probe(peer)
        except RingError:  # no session, or no room now
            self._end_round(peer, probed)

    def _train_unanswered(self, peer: int) -> None:
        probed = self._probed[peer]
        probed.only_singles += 1
        if probed.only_singles < ROUNDS:
            self._round(peer, probed)
            return
        if not probed.lost:
            self._show(peer, probed, True)
            text = "%s: the route loses trains (UDP_SEGMENT), so each datagram is sent on its own"
            self._report("trains", logging.WARNING, text, self._label(peer))
        self._end_round(peer, probed)

    def _silent(self, peer: int) -> None:
        probed = self._probed[peer]
        probed.silent += 1
        if probed.lost and probed.silent >= SILENT_ROUNDS:
            self._show(peer, probed, False)
            probed.silent = 0
            text = "%s: it answers no probes for trains any more, so it gets trains again"
            self._report("trains", logging.INFO, text, self._label(peer))
        self._end_round(peer, probed)

    def _end_round(self, peer: int, probed: _Probed) -> None:
        probed.in_round = False
        self._set_timer(probed)
        if probed.lost:
            self._set_timer(probed, RETRY, self._retry, peer)
        elif probed.again:
            self._first_round(peer, probed)

    def _retry(self, peer: int) -> None:
        probed = self._probed[peer]
        probed.again = False
        probed.only_singles = ROUNDS - 1
        self._round(peer, probed)

    def _show(self, peer: int, probed: _Probed, lost: bool) -> None:
        probed.lost = lost
        with contextlib.suppress(RingError):  # the peer is gone
            self._plane.trains_lost(peer, lost)

    def _set_timer(
        self,
        probed: _Probed,
        delay: float = 0.0,
        call: Callable[[int], None] | None = None,
        peer: int = 0,
    ) -> None:
        if probed.timer is not None:
            probed.timer.cancel()
        probed.timer = self._loop.call_later(delay, call, peer) if call is not None else None
