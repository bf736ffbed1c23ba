"""The peers of a live tunnel that came from a directory: added, changed, and let go when they are idle.

A peer is idle when no authentic packet went or came for ``idle_timeout``. Its keys go with it, but not the
timestamp of its last initiation. From 180 s on (REJECT_AFTER_TIME) an idle peer has no session that could
carry data; a shorter time ends sessions that could.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from udpring.errors import RingError, UdpringError
from udpring.tunnel import directory_limits as limits
from udpring.tunnel.config import Endpoint, Network, PeerConfig
from udpring.tunnel.deadlines import Deadlines
from udpring.tunnel.disjoint_prefixes import DisjointPrefixes
from udpring.tunnel.endpoint_following import EndpointFollowing
from udpring.tunnel.keys import key_label
from udpring.tunnel.plane_values import Prefix, SocketAddress
from udpring.tunnel.resolver import Addresses
from udpring.tunnel.tunnel import Tunnel
from udpring.wireguard.unknown import UnknownInitiation

__all__ = ["DirectoryPeers", "Place", "RefusedError"]

SECOND = 1_000_000_000


class RefusedError(UdpringError):
    """A peer of a directory cannot be taken. The text is for the event."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new peer may be. ``known``: the addresses of endpoints that were looked up. ``last``: where it
    was when it left, if the directory has no endpoint."""

    known: Mapping[Endpoint, Addresses] = field(default_factory=dict)
    last: SocketAddress | None = None


class DirectoryPeers:
    """Owner: the Node. In the thread of the event loop. A program or ``wg`` may remove such
    a peer, or make it its own (``release``), at any time."""

    def __init__(
        self,
        tunnel: Tunnel,
        following: EndpointFollowing,
        *,
        loop: asyncio.AbstractEventLoop,
        idle_timeout: float,
    ) -> None:
        self._tunnel = tunnel
        self._following = following
        self._loop = loop
        self._idle = int(idle_timeout * SECOND)
        self._peers: dict[bytes, PeerConfig] = {}
        self._prefixes = DisjointPrefixes()
        self._keys: dict[int, bytes] = {}
        self._looks = Deadlines()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: int | None = None

    def __contains__(self, public_key: bytes) -> bool:
        return public_key in self._peers and self._tunnel.find(public_key) is not None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, public_key: bytes) -> PeerConfig | None:
        """The peer's configuration as the directory has it; None: it is no peer of the directory."""
        return self._peers.get(public_key)

    def close(self) -> None:
        """Nobody leaves any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- coming ----

    def add(self, peer: PeerConfig, place: Place, initiation: UnknownInitiation | None = None) -> None:
        """Adds the peer. Packets that wait for it start a handshake. With ``initiation`` the peer is known to
        be where that came from. Raises RefusedError, and OSError or ValueError of the tunnel; the peer is not
        there then."""
        self._require_disjoint(peer)
        number = self._tunnel.add_peer(peer.public_key, initiation=initiation)
        try:
            if place.last is not None:
                self._tunnel.set_endpoint(number, place.last)
            lazy = initiation is not None
            locate = partial(self._following.set, known=place.known, lazy=lazy)
            self._set(number, peer, locate, ())
        except BaseException:
            self._tunnel.remove_peer(number, departs=True)
            raise
        self._keep(number, peer)

    def change(self, peer: PeerConfig) -> None:
        """Changes a peer to the directory's present settings. Its session continues, and its endpoint stays
        unless the directory's endpoints changed. Raises as ``add``."""
        before = self._peers.get(peer.public_key)
        number = self._tunnel.find(peer.public_key)
        if before is None or number is None:
            raise RefusedError("it is a peer of the configuration, with other AllowedIPs")
        if before == peer:
            return
        self._require_disjoint(peer)
        locate = None if before.endpoints == peer.endpoints else self._following.set
        try:
            self._set(number, peer, locate, before.allowed_ips)
        except BaseException:
            self.dismiss(peer.public_key)  # some of it may be set
            raise
        self._keep(number, peer)

    def _require_disjoint(self, peer: PeerConfig) -> None:
        while found := self._prefixes.conflict(peer.allowed_ips, peer.public_key):
            network, owner = found
            if owner in self:
                raise RefusedError(f"its AllowedIPs {network} overlap those of {key_label(owner)}")
            self.release(owner)  # removed by others

    def _set(
        self,
        number: int,
        peer: PeerConfig,
        locate: Callable[[bytes, tuple[Endpoint, ...]], None] | None,
        before: Iterable[Network],
    ) -> None:
        tunnel, live = self._tunnel, self._tunnel.device.by_id[number]
        if live.preshared_key != peer.preshared_key:
            tunnel.set_preshared_key(number, peer.preshared_key)
        if live.cipher is not peer.cipher:
            tunnel.set_cipher(number, peer.cipher)
        tunnel.set_peer_offload(number, peer.offload)
        if locate is not None:
            locate(peer.public_key, peer.endpoints)
        has, wants = dict.fromkeys(before), dict.fromkeys(peer.allowed_ips)
        gone = [_prefix(each, number, remove=True) for each in has if each not in wants]
        # Last, because these let waiting packets go: then the peer is complete.
        new = [_prefix(each, number, claim=True) for each in wants if each not in has]
        try:
            tunnel.apply_allowed_ips(gone + new)
        except RingError as refused:
            if refused.errno == errno.EEXIST:
                raise RefusedError(f"another peer has one of its AllowedIPs: {refused}") from refused
            raise
        if live.persistent_keepalive != peer.persistent_keepalive:
            tunnel.set_keepalive(number, peer.persistent_keepalive)
        tunnel.start_peer(number)

    def _keep(self, number: int, peer: PeerConfig) -> None:
        self._peers[peer.public_key] = peer
        self._prefixes.put(peer.allowed_ips, peer.public_key)
        self._keys[number] = peer.public_key
        if self._looks.get(number) is None:
            self._look_at(number, self._tunnel.control.clock.boot() + self._idle)

    # ---- leaving ----

    def release(self, public_key: bytes) -> None:
        """The peer is the program's from now on, if it is still there."""
        self._peers.pop(public_key, None)
        self._prefixes.remove(public_key)

    def dismiss(self, public_key: bytes) -> None:
        """The peer leaves now. Its earlier messages cannot be replayed."""
        self.release(public_key)
        number = self._tunnel.find(public_key)
        if number is not None:
            self._looks.set(number, None)
            self._keys.pop(number, None)
            self._tunnel.remove_peer(number, departs=True)

    def _look_at(self, number: int, deadline: int) -> None:
        self._looks.set(number, deadline)
        self._arm()

    def _arm(self) -> None:
        first = self._looks.first()
        if self._timer is not None and self._timer_at == first:
            return
        self.close()
        if first is not None:
            delay = max(first - self._tunnel.control.clock.boot(), 0) / SECOND
            self._timer_at = first
            self._timer = self._loop.call_later(delay, self._fired)

    def _fired(self) -> None:
        self._timer = None
        now = self._tunnel.control.clock.boot()
        for number in self._looks.due(now, limits.LEAVING_A_TURN):
            key = self._keys[number]
            if key not in self or self._tunnel.find(key) != number:
                del self._keys[number]  # removed by others, or theirs now
                if key not in self:
                    self.release(key)
                continue
            state = self._tunnel.plane.peer_state(number)
            idle_at = max(state.last_traversal + self._idle, now + 1 if state.staged else 0)
            if idle_at <= now:
                self.dismiss(key)
            else:
                self._looks.set(number, max(idle_at, now + SECOND) if state.staged else idle_at)
        self._arm()


def _prefix(network: Network, number: int, *, remove: bool = False, claim: bool = False) -> Prefix:
    return Prefix(network.network_address.packed, network.prefixlen, number, remove=remove, claim=claim)
