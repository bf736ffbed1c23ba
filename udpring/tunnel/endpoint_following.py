"""Finds a peer that does not answer at another address: hosts are looked up again, and further ones tried.

Followed are peers whose endpoint is a name, has a zone (interfaces get new numbers), or is one of several.

1. Data is unanswered for five seconds, an initiation is unanswered, or the network changed: the hosts are
   looked up, at most once in ``RENEW_INTERVAL`` a peer.
2. The peer is not at any of the addresses found: it gets the one that worked last, or the first.
3. There are several addresses: a peer that is silent for five seconds is asked by a handshake. Without an
   answer in two seconds the next address is tried, and so on with each initiation that is not answered.

A peer that is heard stays where it is. So does one that roamed while its session lives, unless handshakes go
unanswered. Its session goes on at the new address: no key is dropped here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from udpring.errors import RingError
from udpring.tunnel.config import Endpoint
from udpring.tunnel.control_values import Following
from udpring.tunnel.keys import key_label, to_base64
from udpring.tunnel.network_changes import NetworkChanges
from udpring.tunnel.node_events import EndpointFailedOver
from udpring.tunnel.plane_values import PeerState, SocketAddress
from udpring.tunnel.resolver import Addresses, Resolver
from udpring.tunnel.tunnel import Tunnel

__all__ = ["EndpointFollowing"]

SECOND = 1_000_000_000
SILENCE = 5 * SECOND
"""Unanswered data of this age makes an endpoint doubtful. A passive peer answers after ten (section 6.5)."""
RENEW_INTERVAL = 3 * SECOND
"""A look-up that is wanted earlier runs at the end of this time."""
PROBE_INTERVAL = 30 * SECOND
"""A peer that only receives is asked by a handshake at most once in this time."""
PROBE_WAIT = 2 * SECOND

log = logging.getLogger("udpring.node")


@dataclass(slots=True)
class _Followed:
    endpoints: tuple[Endpoint, ...]
    found: list[Addresses]
    """The addresses of each endpoint, in their order. Empty: not known yet."""
    present: SocketAddress | None = None
    """The address that was set here last. The plane has another one where the peer roamed."""
    of: Endpoint | None = None
    """The endpoint that ``present`` is an address of."""
    worked: SocketAddress | None = None
    """The address at which a handshake was completed last."""
    unanswered: int = 0
    """Initiations without an answer, since the last completed handshake."""
    renewed_at: int | None = None
    renewal: asyncio.TimerHandle | None = None
    """The next look-up, if it must wait."""
    probed_at: int | None = None
    probing: int | None = None
    """When the probe under way has failed."""

    def candidates(self) -> dict[SocketAddress, Endpoint]:
        """All addresses in the order in which they are tried, with their endpoints."""
        every: dict[SocketAddress, Endpoint] = {}
        for endpoint, addresses in zip(self.endpoints, self.found, strict=True):
            for address in addresses:
                every.setdefault(address, endpoint)
        if self.worked in every:
            return {self.worked: every[self.worked], **every}
        return every


def _changes(endpoint: Endpoint) -> bool:
    """Whether a look-up may have another result next time."""
    return not endpoint.numeric or "%" in endpoint.host


class EndpointFollowing(Following):
    """The endpoints of one node's peers. Owner: its Node. Use it in the thread of the event loop."""

    def __init__(self, tunnel: Tunnel, resolver: Resolver, *, loop: asyncio.AbstractEventLoop) -> None:
        self._tunnel = tunnel
        self._resolver = resolver
        self._control = tunnel.control
        self._loop = loop
        self._closed = False
        self._followed: dict[bytes, _Followed] = {}
        self._network = NetworkChanges(self.network_changed, loop=loop)
        self._network.start()
        tunnel.control.following = self

    async def settled(self, seconds: float) -> None:
        """Waits until each host was looked up once, at most this long."""
        await self._resolver.settled(seconds)

    async def close(self) -> None:
        """Ends every look-up."""
        self._closed = True
        self._network.stop()
        for key in list(self._followed):
            self.forget(key)
        await self._resolver.close()

    # ---- which peers ----

    def set(
        self,
        public_key: bytes,
        endpoints: tuple[Endpoint, ...],
        *,
        known: Mapping[Endpoint, Addresses] | None = None,
        lazy: bool = False,
    ) -> None:
        """The peer is at one of these endpoints. Sets the first address that is known. Without endpoints the
        peer stays where it is. ``known``: hosts that were looked up just now. ``lazy``: other names are
        looked up only when the peer does not answer."""
        self.forget(public_key)
        if not endpoints:
            return
        followed = _Followed(endpoints, [()] * len(endpoints))
        self._followed[public_key] = followed
        for place, endpoint in enumerate(endpoints):
            if addresses := (known or {}).get(endpoint):
                self._first_found(public_key, followed, place, addresses)
                continue
            if lazy and not endpoint.numeric:
                continue
            found = partial(self._first_found, public_key, followed, place)
            try:
                self._resolver.resolve((public_key, place), endpoint, found)
            except OSError as failed:  # its zone is no interface of this host
                if len(endpoints) == 1:
                    raise
                log.warning("endpoint %s: %s; the others are tried", endpoint, failed)
        if len(endpoints) == 1 and not _changes(endpoints[0]):
            del self._followed[public_key]  # a single address: there is nothing to follow

    def forget(self, public_key: bytes) -> None:
        followed = self._followed.pop(public_key, None)
        if followed is not None and followed.renewal is not None:
            followed.renewal.cancel()
        for place in range(len(followed.endpoints) if followed else 0):
            self._resolver.cancel((public_key, place))

    def _first_found(self, key: bytes, followed: _Followed, place: int, addresses: Addresses) -> None:
        """Sets the address, unless a more wanted one was found before or the peer has answered already."""
        followed.found[place] = addresses
        number = self._tunnel.find(key)
        preferred = not any(followed.found[:place]) and followed.worked is None
        if number is not None and (followed.present is None or preferred):
            followed.present, followed.of = addresses[0], followed.endpoints[place]
            self._tunnel.set_endpoint(number, addresses[0], followed=True)
            self._tunnel.start_peer(number)

    # ---- what the control loop tells ----

    def unanswered(self, number: int) -> None:
        if (found := self._of(number)) is None:
            return
        key, followed = found
        followed.unanswered += 1
        followed.probing = None
        state = self._state(number)
        if state is not None and not self._is_heard(state):
            self._try_next(number, key, followed, state)
        self._renew(key, followed)

    def completed(self, number: int) -> None:
        if (found := self._of(number)) is None:
            return
        _, followed = found
        followed.unanswered = 0
        followed.probing = None
        # Where the peer is, is known when the commands of this turn have run.
        self._loop.call_soon(self._remember, number, followed)

    def path_changed(self, number: int) -> None:
        if (found := self._of(number)) is not None:
            self._renew(*found)

    def network_changed(self) -> None:
        """An address of the host came or went: every name may be looked up otherwise now."""
        self._resolver.hurry()
        for key, followed in self._followed.items():
            self._renew(key, followed)

    def look(self, number: int, state: PeerState, now: int) -> int | None:
        if (found := self._of(number)) is None:
            return None
        key, followed = found
        if not state.unanswered_since:
            followed.probing = None
            return now + SILENCE
        doubtful = state.unanswered_since + SILENCE
        if now < doubtful:
            return doubtful
        self._renew(key, followed)
        if len(followed.candidates()) < 2:
            return now + RENEW_INTERVAL
        if followed.probing is None:
            if followed.probed_at is not None and now - followed.probed_at < PROBE_INTERVAL:
                return now + RENEW_INTERVAL
            followed.probed_at, followed.probing = now, now + PROBE_WAIT
            self._shake(number)
        elif now >= followed.probing:
            followed.probing = None
            self._try_next(number, key, followed, state)
            self._shake(number)
        return followed.probing or now + RENEW_INTERVAL

    # ---- what follows ----

    def _remember(self, number: int, followed: _Followed) -> None:
        """A handshake was completed at the present address."""
        if self._closed or (state := self._state(number)) is None:
            return
        candidates = followed.candidates()
        if state.endpoint in candidates:
            followed.worked = followed.present = state.endpoint
            followed.of = candidates[state.endpoint]

    def _renew(self, key: bytes, followed: _Followed) -> None:
        now = self._control.clock.boot()
        wait = 0 if followed.renewed_at is None else followed.renewed_at + RENEW_INTERVAL - now
        if wait > 0:
            if followed.renewal is None:
                followed.renewal = self._loop.call_later(wait / SECOND, self._renew_now, key, followed)
            return
        followed.renewed_at = now
        for place, endpoint in enumerate(followed.endpoints):
            if _changes(endpoint):
                found = partial(self._renewed, key, followed, place)
                self._resolver.renew((key, place), endpoint, found)

    def _renew_now(self, key: bytes, followed: _Followed) -> None:
        followed.renewal = None
        self._renew(key, followed)

    def _renewed(self, key: bytes, followed: _Followed, place: int, addresses: Addresses) -> None:
        """The peer moves there if it does not answer and is at none of the known addresses."""
        number = self._tunnel.find(key)
        state = None if number is None else self._state(number)
        if number is None or state is None or self._followed.get(key) is not followed:
            return
        followed.found[place] = addresses
        candidates = followed.candidates()
        if state.endpoint in candidates or self._is_heard(state):
            return
        roamed = state.endpoint != followed.present
        silent = state.unanswered_since and self._control.clock.boot() - state.unanswered_since >= SILENCE
        wanted = followed.unanswered > roamed or bool(silent and not roamed)
        if wanted or (not roamed and not state.session_birth):
            self._move(number, key, followed, state, next(iter(candidates)))
        if wanted:
            self._shake(number)

    def _try_next(self, number: int, key: bytes, followed: _Followed, state: PeerState) -> None:
        """Moves the peer to the address after the present one. After the last comes the first."""
        order = list(followed.candidates())
        if not order:
            return
        if state.endpoint not in order:
            if followed.unanswered > 1:  # a peer that roamed gets a second chance where it was heard last
                self._move(number, key, followed, state, order[0])
            return
        to = order[(order.index(state.endpoint) + 1) % len(order)]
        if to != state.endpoint:
            self._move(number, key, followed, state, to)

    def _move(
        self, number: int, key: bytes, followed: _Followed, state: PeerState, to: SocketAddress
    ) -> None:
        former = followed.of if state.endpoint == followed.present else None
        self._tunnel.set_endpoint(number, to, followed=True)
        followed.present = to
        followed.of = endpoint = followed.candidates()[to]
        log.info("%s does not answer: it is tried at %s (%s)", key_label(key), to, endpoint)
        self._tunnel.events.post(EndpointFailedOver(to_base64(key), endpoint, former))

    def _shake(self, number: int) -> None:
        """Sends an initiation as early as the protocol allows. The session goes on meanwhile."""
        self._control.try_new_path(number)

    def _is_heard(self, state: PeerState) -> bool:
        """Whether something authentic came just now."""
        return bool(state.last_received) and self._control.clock.boot() - state.last_received < SILENCE

    def _of(self, number: int) -> tuple[bytes, _Followed] | None:
        peer = self._tunnel.device.by_id.get(number)
        followed = None if peer is None else self._followed.get(peer.public_key)
        return None if peer is None or followed is None else (peer.public_key, followed)

    def _state(self, number: int) -> PeerState | None:
        try:
            return self._tunnel.plane.peer_state(number)
        except RingError:
            return None  # removed since
