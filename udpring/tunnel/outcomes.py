"""Carries out what the protocol decided: each outcome becomes a command to the plane, or a line in the log.

1. ``carry_out`` takes outcomes in order and queues their commands in one batch.
2. Within ``gathered`` they wait for its end, so that a turn of the control loop crosses into the plane once.
   Elsewhere they are run at once.
3. Each command has a result. One that fails is counted and logged, and the rest is still done.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from udpring.errors import RingError
from udpring.tunnel.command_batch import COMMANDS_MAX
from udpring.tunnel.control_reports import HandshakeReports
from udpring.tunnel.control_values import BootClock, ControlStats, Following, Route
from udpring.tunnel.plane import Plane
from udpring.wireguard import events as protocol
from udpring.wireguard.constants import ERASE_AFTER_TIME
from udpring.wireguard.device import Device
from udpring.wireguard.unknown import UnknownInitiation

__all__ = ["Outcomes"]

HANDSHAKE_TOS = 0x88
"""DSCP AF41 for handshake messages, as the kernel sends them (messages.h HANDSHAKE_DSCP)."""
COMMANDS_OF_AN_EVENT = 8
"""An event or timer has fewer. They go in the same batch, as a keepalive depends on the keypair before it."""


_LATER = (protocol.Authenticated, protocol.InstallKeypair)
"""They make no deadline earlier: a receipt moves deadlines back. Keypairs: see ``_install_keypair``."""


def _concerns_timers(outcome: protocol.Outcome) -> bool:
    """Whether a deadline of the peer may be earlier now. To look at a peer takes some 15 us."""
    if isinstance(outcome, protocol.Compute):
        return outcome.timers
    if isinstance(outcome, protocol.SendMessage):
        return outcome.to is None  # else it is a response, which comes with a keypair
    return not isinstance(outcome, _LATER)


class _Report(Protocol):
    """``Control.report``."""

    def __call__(self, kind: str, level: int, text: str, *arguments: object, trace: bool = False) -> None: ...


class Outcomes:
    """``is_up``: whether the interface is; while it is down nothing is sent. ``touch`` is called with each
    peer that an outcome is about. ``is_checked``: whether a check of its timers is due by a time.
    ``removed`` is called with a peer that the protocol removed, ``key_unknown`` with an initiation of an
    unknown key, ``compute`` with a job for other threads, ``authenticated`` after each authentic handshake
    message. ``following`` is notified of handshakes with and without an answer."""

    def __init__(
        self,
        plane: Plane,
        device: Device,
        *,
        stats: ControlStats,
        clock: BootClock,
        report: _Report,
        reports: HandshakeReports,
        is_up: Callable[[], bool],
        touch: Callable[[int], None],
        is_checked: Callable[[int, int], bool],
        removed: Callable[[int], None],
        key_unknown: Callable[[UnknownInitiation], None],
        compute: Callable[[protocol.Compute], None],
        authenticated: Callable[[], None],
        following: Callable[[], Following],
    ) -> None:
        self._plane = plane
        self._device = device
        self._stats = stats
        self._clock = clock
        self._report = report
        self._is_up = is_up
        self._touch = touch
        self._is_checked = is_checked
        self._removed = removed
        self._reports = reports
        self._following = following
        self._batch = plane.batch()
        self._queued: list[protocol.Outcome] = []
        """What each command in the batch is for."""
        self._gathering = False
        self._carry: dict[type, Callable[..., None]] = {
            protocol.SendMessage: self._send_message,
            protocol.InstallKeypair: self._install_keypair,
            protocol.Authenticated: self._authenticated,
            protocol.SendKeepalive: self._send_keepalive,
            protocol.DropStaged: lambda outcome: self._batch.staged_drop(outcome.peer),
            protocol.EraseKeys: lambda outcome: self._batch.keys_erase(outcome.peer),
            protocol.ExpireKeys: lambda outcome: self._batch.keys_expire(outcome.peer),
            protocol.ClearSource: lambda outcome: self._batch.source_clear(outcome.peer),
            protocol.ReleaseIndex: lambda outcome: self._batch.index_release(outcome.index),
            protocol.RemovedPeer: self._removed_peer,
            protocol.Compute: compute,
            protocol.AskKey: lambda outcome: key_unknown(outcome.initiation),
            protocol.Dropped: reports.dropped,
            protocol.HandshakeCompleted: self._completed,
            protocol.HandshakeUnanswered: self._unanswered,
            protocol.HandshakeGivenUp: reports.given_up,
            protocol.PeerSilent: reports.silent,
        }
        self._done: dict[type, Callable[[int], None]] = {
            protocol.SendMessage: self._message_sent,
            protocol.SendKeepalive: self._keepalive_sent,
            protocol.Authenticated: lambda result: authenticated(),
        }

    # ---- in order ----

    def carry_out(self, outcomes: Iterable[protocol.Outcome]) -> None:
        """Now, or with the others at the end of ``gathered``."""
        batch = self._batch
        if len(batch) > COMMANDS_MAX - COMMANDS_OF_AN_EVENT:
            self._run()
        try:
            for outcome in outcomes:
                peer = getattr(outcome, "peer", None)
                if peer is not None and _concerns_timers(outcome):
                    self._touch(peer)
                before = len(batch)
                if before == COMMANDS_MAX:
                    self._run()
                    before = len(batch)
                try:
                    self._carry[type(outcome)](outcome)
                except RingError as refused:  # of a command that does not go in a batch
                    self._failed(outcome, refused)
                if len(batch) > before:
                    self._queued.append(outcome)
        finally:
            if not self._gathering:
                self._run()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """What is carried out within is run at its end, in as few crossings as it fits in."""
        outer, self._gathering = self._gathering, True
        try:
            yield
        finally:
            self._gathering = outer
            if not outer:
                self._run()

    def clear(self) -> None:
        """Forgets what is queued."""
        self._queued.clear()
        self._batch.clear()

    def _run(self) -> None:
        while self._queued:
            queued, self._queued = self._queued, []
            for outcome, result in zip(queued, self._batch.run(), strict=True):
                try:
                    if isinstance(result, RingError):
                        self._failed(outcome, result)
                    elif done := self._done.get(type(outcome)):
                        done(result)
                except Exception:
                    self._stats.failures += 1
                    name = type(outcome).__name__
                    self._report("command", logging.ERROR, "what follows from %s failed", name, trace=True)

    def _failed(self, outcome: protocol.Outcome, refused: RingError) -> None:
        if isinstance(outcome, protocol.SendKeepalive) and refused.errno == errno.ENOKEY:
            # No session yet: its first packet will be the keepalive. Start the handshake here, because the
            # plane asks for one at most twice a second and may have asked before there was a private key.
            peer = self._device.by_id.get(outcome.peer)
            if peer is not None:
                self.carry_out(peer.handshake_wanted(self._clock.boot(), self._clock.wall()))
            return
        self._stats.command_errors += 1
        self._report(type(outcome).__name__, logging.DEBUG, "%s", refused)

    # ---- each of them ----

    def _send_message(self, outcome: protocol.SendMessage) -> None:
        if not self._is_up():
            return
        peer = self._device.by_id.get(outcome.peer)
        answer = None if peer is None else peer.cookie_key
        if outcome.to is None:
            self._batch.send(outcome.peer, outcome.data, tos=HANDSHAKE_TOS, cookie_key=answer)
            return
        route = outcome.to.handle
        assert isinstance(route, Route)
        self._batch.send(
            outcome.peer,
            outcome.data,
            tos=HANDSHAKE_TOS,
            to=route.source,
            source=route.local,
            interface_index=route.interface_index,
            cookie_key=answer,
        )

    def _message_sent(self, _: int) -> None:
        self._stats.messages_sent += 1

    def _install_keypair(self, outcome: protocol.InstallKeypair) -> None:
        # A responder has one new deadline, for erasing the keys. Mostly another check is due before it.
        if outcome.initiator or not self._is_checked(outcome.peer, outcome.birth + ERASE_AFTER_TIME):
            self._touch(outcome.peer)
        self._batch.keypair(
            outcome.peer,
            outcome.send_key,
            outcome.receive_key,
            local_index=outcome.local_index,
            remote_index=outcome.remote_index,
            initiator=outcome.initiator,
            birth=outcome.birth,
            cipher=outcome.cipher,
        )

    def _authenticated(self, outcome: protocol.Authenticated) -> None:
        route = outcome.source.handle
        assert isinstance(route, Route)
        self._batch.authenticated(
            outcome.peer, outcome.length, route.source, route.local, route.interface_index
        )

    def _send_keepalive(self, outcome: protocol.SendKeepalive) -> None:
        if self._is_up():  # else it starts when the interface comes up
            self._batch.keepalive(outcome.peer)

    def _keepalive_sent(self, skipped: int) -> None:
        """Not where a staged packet has opened the session: one or the other, as the kernel."""
        self._stats.keepalives_sent += not skipped

    def _completed(self, outcome: protocol.HandshakeCompleted) -> None:
        self._reports.completed(outcome)
        self._following().completed(outcome.peer)

    def _unanswered(self, outcome: protocol.HandshakeUnanswered) -> None:
        self._stats.handshakes_unanswered += 1
        self._following().unanswered(outcome.peer)

    def _removed_peer(self, outcome: protocol.RemovedPeer) -> None:
        self._run()  # what is queued may be about this peer
        self._plane.peer_remove(outcome.peer)
        self._removed(outcome.peer)
