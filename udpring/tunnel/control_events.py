"""Which outcomes of the protocol and reports of the plane are events for the program (``node_events``).

Each peer is up, silent, or not heard of yet. Roaming comes from the plane, which is asked to report it only
while somebody reads events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from udpring._native import lib
from udpring.errors import RingError
from udpring.tunnel.keys import to_base64
from udpring.tunnel.node_events import (
    HandshakeCompleted,
    NodeEvents,
    OverloadBegan,
    OverloadEnded,
    PeerRefused,
    PeerRoamed,
    PeerSilent,
    PeerUp,
    SilenceReason,
)
from udpring.tunnel.plane import Event, Plane
from udpring.tunnel.plane_values import SocketAddress
from udpring.wireguard.device import Device
from udpring.wireguard.events import Dropped, DropReason

__all__ = ["ControlEvents"]

SECOND = 1_000_000_000
TOLD_REFUSALS = (DropReason.UNKNOWN_PEER, DropReason.CIPHER_MISMATCH, DropReason.PAUSED)
ROAMED_SECONDS = lib.UDPRING_ROAMED_MS / 1000 + 0.1
"""When the endpoint of a peer that roamed is looked at again: the plane then reports the next change."""


class ControlEvents:
    """Posts the events that come out of one control loop. Owner: its Control."""

    def __init__(
        self,
        events: NodeEvents,
        plane: Plane,
        device: Device,
        *,
        loop: asyncio.AbstractEventLoop,
        boot: Callable[[], int],
    ) -> None:
        self._events = events
        self._plane = plane
        self._device = device
        self._loop = loop
        self._boot = boot
        self._up: dict[int, bool] = {}
        self._roamed: dict[int, SocketAddress] = {}
        self._timers: dict[object, asyncio.Handle] = {}
        self._overload_began: int | None = None

    def start(self) -> None:
        """The plane is open, and events may come."""
        self._events.on_wanted(lambda: self._plane.watch_roaming(True))

    def stop(self) -> None:
        """Ends every timer. May be called again."""
        self._events.on_wanted(None)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def forget(self, peer: int) -> None:
        """The peer is gone."""
        self._up.pop(peer, None)
        self._roamed.pop(peer, None)

    # ---- peers ----

    def completed(self, peer: int, initiator: bool) -> None:
        """The session is confirmed."""
        came_up = not self._up.get(peer)
        self._up[peer] = True
        if not self._events.wanted or (key := self._key(peer)) is None:
            return
        self._events.post(HandshakeCompleted(key, initiator))
        if came_up:
            # Its endpoint is known once the commands of this turn have run.
            self._call_soon(("up", peer), lambda: self._tell_up(peer))

    def _tell_up(self, peer: int) -> None:
        key, endpoint = self._key(peer), self._endpoint(peer)
        if key is not None:
            self._events.post(PeerUp(key, (endpoint.host, endpoint.port) if endpoint else None))

    def silent(self, peer: int, reason: SilenceReason) -> None:
        """The peer does not answer, or has no session any longer."""
        was_up = self._up.get(peer)
        if was_up is False or (was_up is None and reason is not SilenceReason.UNANSWERED):
            return
        self._up[peer] = False
        if (key := self._key(peer)) is not None:
            self._events.post(PeerSilent(key, reason))

    def refused(self, outcome: Dropped) -> None:
        """A handshake message was dropped."""
        if outcome.reason not in TOLD_REFUSALS or not self._events.wanted:
            return
        key = self._key(outcome.peer) if outcome.public_key is None else to_base64(outcome.public_key)
        if key is not None:
            self._events.refuse(PeerRefused(key, str(outcome.reason)), self._boot() // SECOND)

    def _key(self, peer: int | None) -> str | None:
        known = None if peer is None else self._device.by_id.get(peer)
        return None if known is None else to_base64(known.public_key)

    # ---- roaming ----

    def roamed(self, event: Event) -> None:
        """The plane reports that a peer moved. It reports no other move of this peer within a second."""
        peer = event.peer
        if peer is None:
            return
        endpoint = event.source or self._endpoint(peer)
        if endpoint is not None:
            self._tell_roamed(peer, endpoint, self._roamed.get(peer) or event.local)

    def _tell_roamed(self, peer: int, endpoint: SocketAddress, former: SocketAddress | None) -> None:
        if (key := self._key(peer)) is None or endpoint == former:
            return
        self._events.post(
            PeerRoamed(key, (endpoint.host, endpoint.port), (former.host, former.port) if former else None)
        )
        self._roamed[peer] = endpoint
        self._call_later(("roamed", peer), ROAMED_SECONDS, lambda: self._look_where(peer))

    def _look_where(self, peer: int) -> None:
        former = self._roamed.pop(peer, None)
        endpoint = self._endpoint(peer)
        if former is not None and endpoint is not None:
            self._tell_roamed(peer, endpoint, former)

    def _endpoint(self, peer: int) -> SocketAddress | None:
        try:
            return self._plane.peer_state(peer).endpoint
        except RingError:
            return None  # removed since

    # ---- overload ----

    def look_at_load(self) -> None:
        """Once a turn, while somebody reads: whether an overload has begun. A timer finds its end."""
        if self._overload_began is not None or not self._events.wanted:
            return
        if self._plane.load_until() > (now := self._boot()):
            self._overload_began = now
            self._events.post(OverloadBegan())
            self._look_at_end()

    def _look_at_end(self) -> None:
        now, began = self._boot(), self._overload_began
        left = self._plane.load_until() - now
        if left > 0:
            self._call_later("overload", left / SECOND + 0.01, self._look_at_end)
        elif began is not None:
            self._overload_began = None
            self._events.post(OverloadEnded((now - began) / SECOND))

    # ---- timers ----

    def _call_soon(self, key: object, call: Callable[[], None]) -> None:
        self._set_timer(key, self._loop.call_soon(lambda: self._run(key, call)))

    def _call_later(self, key: object, seconds: float, call: Callable[[], None]) -> None:
        self._set_timer(key, self._loop.call_at(self._loop.time() + seconds, lambda: self._run(key, call)))

    def _set_timer(self, key: object, timer: asyncio.Handle) -> None:
        if (former := self._timers.get(key)) is not None:
            former.cancel()
        self._timers[key] = timer

    def _run(self, key: object, call: Callable[[], None]) -> None:
        del self._timers[key]
        call()
