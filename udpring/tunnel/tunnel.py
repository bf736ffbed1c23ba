"""One live tunnel: plane, protocol and control loop together, and the operations that change it.

``Node`` (a configuration) and the UAPI server (``wg``) change a tunnel only by these methods, so a change
means the same from both. Each fact has one owner (ARCHITECTURE.md, R3). The plane has endpoints, allowed IPs
and byte counts. ``wireguard.Device`` has keys and timers. This module has three settings: the private key,
the port and the mark.

Everything runs in the thread of the event loop. Methods that change something raise HostError or RingError
(both OSError, with errno) when the plane refuses, and ValueError for an impossible value.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from udpring._native import lib
from udpring.errors import RingError
from udpring.records import record
from udpring.tunnel.bounded_memory import BoundedMemory
from udpring.tunnel.ciphers import aead_in_words, require_cipher
from udpring.tunnel.control import BootClock, Control, ControlStats, End, PlaneIndices
from udpring.tunnel.crossed_tunnels import ViewOf, view_of
from udpring.tunnel.directory_limits import DEPARTED
from udpring.tunnel.handshake_threads import HandshakeThreads
from udpring.tunnel.keys import clamp, key_label
from udpring.tunnel.link import LinkFactory
from udpring.tunnel.node_events import NodeEvents
from udpring.tunnel.plane import PeerState, Plane, PlaneStats, Prefix, SocketAddress
from udpring.tunnel.shared_secrets import SharedSecrets
from udpring.tunnel.timestamp_file import TimestampFile
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.device import Device
from udpring.wireguard.peer import Peer
from udpring.wireguard.unknown import UnknownInitiation

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_PEERS", "Tunnel", "TunnelStats"]

MAX_PEERS: int = lib.UDPRING_PEERS_MAX

log = logging.getLogger("udpring.node")


@record
class TunnelStats:
    """All counters of a tunnel: packets (``plane``), handshakes and timers (``control``), and the events that
    slow readers of ``Node.events`` lost (``events_lost``)."""

    plane: PlaneStats
    control: ControlStats
    events_lost: int = 0


@record
class Departed:
    """Kept of a peer that left: the timestamp of its last initiation, and its endpoint."""

    timestamp: bytes
    endpoint: SocketAddress | None


class Tunnel:
    """Owns an open Plane, which ``close()`` closes. Peers are named by the plane's id (an int)."""

    def __init__(
        self,
        plane: Plane,
        *,
        loop: asyncio.AbstractEventLoop,
        fwmark: int = 0,
        clock: BootClock | None = None,
        random: Callable[[int], bytes] = os.urandom,
        link: LinkFactory | None = None,
        events: NodeEvents | None = None,
        view: ViewOf = view_of,
    ) -> None:
        self.plane = plane
        self.events = events or NodeEvents()
        """Events for the program. Whoever notices something posts it here."""
        self._fwmark = fwmark
        self._handshakes = handshakes = HandshakeThreads(plane) if plane.has_threads else None
        self.device = Device(
            random=random,
            indices=PlaneIndices(plane),
            identity=None if handshakes is None else handshakes.identity,
        )
        self._secrets = SharedSecrets(self.device, loop=loop)
        self.control = Control(
            plane,
            self.device,
            loop=loop,
            clock=clock,
            forgotten=self._forgotten,
            authenticated=self._authenticated,
            label=self.label,
            fwmark=lambda: self._fwmark,
            link=link,
            events=self.events,
            view=view,
            handshakes=handshakes,
        )
        self._loop = loop
        self._timestamps: TimestampFile | None = None
        self._clock = self.control.clock
        self._private_key: bytes | None = None
        self._listen_port = plane.port
        self._closed = False
        self._changes = 0
        self._offload: bool | None = None
        self._peer_offload: dict[int, bool] = {}
        self.departed: BoundedMemory[bytes, Departed] = BoundedMemory(DEPARTED)

    def keep_timestamps(self, path: Path | None) -> None:
        """Keeps the peers' timestamps in a file; None: in memory only. Call it before peers are added. Raises
        HostError where the file cannot be written."""
        if path is not None:
            self._timestamps = TimestampFile(path, self._received_timestamps, loop=self._loop)

    def _received_timestamps(self) -> dict[bytes, bytes]:
        live = {key: peer.timestamp_received for key, peer in self.device.peers.items()}
        return live | {key: left.timestamp for key, left in self.departed.items() if key not in live}

    def last_timestamp(self, public_key: bytes) -> bytes:
        """The last timestamp of a peer that is not there now: that left, or was there in an earlier run.
        Empty: none is known."""
        left = self.departed.get(public_key)
        kept = self._timestamps.of(public_key) if self._timestamps is not None else b""
        return max(kept, left.timestamp if left else b"")

    def _authenticated(self) -> None:
        if self._timestamps is not None:
            self._timestamps.changed()

    def start(self) -> None:
        """Begins to handle handshakes and timers."""
        if reason := self.plane.sharing_reason:
            log.warning(
                "%s: handshakes and data share sockets, so a flood displaces data: %s", self.name, reason
            )
        if reason := self.plane.routes_reason:
            log.warning("%s: route changes are not followed at once: %s", self.name, reason)
        if reason := self.plane.trains_reason:
            log.warning("%s: every datagram is sent on its own, since %s", self.name, reason)
        self.control.start()

    def close(self) -> None:
        """Stops the control loop and closes the plane: the interface is removed and keys are zeroised. May be
        called again."""
        if self._closed:
            return
        self._closed = True
        self.control.stop()
        self._secrets.stop()
        if self._timestamps is not None:
            self._timestamps.close()
        self.plane.close()
        if self._handshakes is not None:
            self._handshakes.close()
        self._private_key = None

    # ---- the device ----

    @property
    def settings(self) -> tuple[int, int, int]:
        """How often a setting changed, the port and the mark. Equal values mean that nothing has changed."""
        return self._changes, self._listen_port, self._fwmark

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.plane.name

    @property
    def gone(self) -> asyncio.Future[End]:
        """Resolved with the reason when the plane cannot go on: the interface was deleted or a worker
        failed."""
        return self.control.gone

    @property
    def private_key(self) -> bytes | None:
        """The private key, for UAPI get (``wg showconf``)."""
        return self._private_key

    @property
    def listen_port(self) -> int:
        """The UDP port, as bound."""
        return self._listen_port

    @property
    def fwmark(self) -> int:
        """SO_MARK of the sockets; 0 is off."""
        return self._fwmark

    def set_private_key(self, key: bytes | None) -> None:
        """Sets the identity. None: none, so handshakes are refused. Sessions expire, and a peer with the new
        public key is removed. The key is kept and reported clamped, as by the kernel."""
        self._changes += 1
        if key is not None:
            key = clamp(key)
        if key == self._private_key:
            return
        outcomes = self.device.set_private_key(key, self._clock.boot())
        self._private_key = key
        self.control.show_identity()
        self.control.carry_out(outcomes)
        self._secrets.want(self.device.by_id)
        if self.device.public_key is not None:
            # Packets that waited for an identity start the handshake without a further packet.
            for peer in self.device.by_id:
                self.control.request_handshake(peer)

    def set_listen_port(self, port: int) -> None:
        """Moves to another UDP port. Sessions and fwmark are kept. 0: the kernel chooses.

        Raises HostError (EADDRINUSE: another program has the port). The old port stays then.
        """
        if port and port == self._listen_port:
            return
        self._listen_port = self.plane.bind(port, self._fwmark)

    def set_fwmark(self, mark: int) -> None:
        """Sets SO_MARK of the sockets; 0 is off."""
        if mark != self._fwmark:
            self.plane.mark(mark)
            self._fwmark = mark

    @property
    def offload(self) -> bool | None:
        """Whether peers without their own setting may get trains. None: on kernels without known fault."""
        return self._offload

    def set_offload(self, on: bool | None) -> None:
        """Sets it for all peers without a setting of their own. ``UDPRING_OFFLOADS`` can still forbid
        trains."""
        self._changes += 1
        if on is self._offload:
            return
        self._offload = on
        for peer in self.device.by_id:
            if peer not in self._peer_offload:
                self._show_offload(peer)

    def peer_offload(self, peer: int) -> bool | None:
        """The peer's own setting. None: it has none."""
        return self._peer_offload.get(peer)

    def set_peer_offload(self, peer: int, on: bool | None) -> None:
        """Sets whether the peer may get trains. None: as the interface's setting says."""
        self._changes += 1
        if on is self.peer_offload(peer):
            return
        if on is None:
            del self._peer_offload[peer]
        else:
            self._peer_offload[peer] = on
        self._show_offload(peer)

    def _show_offload(self, peer: int) -> None:
        on = self._peer_offload.get(peer, self._offload)
        self.plane.trains(peer, not self.plane.trains_reason if on is None else on)

    @property
    def paused(self) -> bool:
        """Whether no new sessions are taken as responder."""
        return self.device.paused

    def set_paused(self, paused: bool) -> None:
        """Paused: an initiation is dropped (``DropReason.PAUSED``) unless the peer's last handshake was
        completed less than 180 s ago. So sessions live on and are renewed, and no others begin. Handshakes
        that this node initiates are not concerned."""
        if paused != self.device.paused:
            self.device.paused = paused
            log.info("%s %s", self.name, "takes no new sessions" if paused else "takes new sessions again")

    # ---- peers ----

    def find(self, public_key: bytes) -> int | None:
        """The id of the peer with this key."""
        peer = self.device.peers.get(public_key)
        return None if peer is None else peer.id

    def knows(self, peer: int) -> bool:
        """Whether there is a peer with this id."""
        return peer in self.device.by_id

    def is_own(self, public_key: bytes) -> bool:
        """Whether the key is the node's own. Such a peer is silently ignored, as by the kernel."""
        return public_key == self.device.public_key

    def label(self, peer: int) -> str:
        """The peer's name in a log line."""
        known = self.device.by_id.get(peer)
        return key_label(known.public_key) if known is not None else f"peer {peer}"

    def add_peer(self, public_key: bytes, *, initiation: UnknownInitiation | None = None) -> int:
        """Adds a peer and returns its id. ``initiation``: a proved one of this key, for its shared secret.
        Raises ValueError (the node's own key, or a known one), RingError (no room)."""
        self._changes += 1
        if self.is_own(public_key):
            raise ValueError("a peer cannot have the node's own public key")
        if public_key in self.device.peers:
            raise ValueError("there is a peer with this public key already")
        if len(self.device.peers) >= MAX_PEERS:
            raise RingError(f"more than {MAX_PEERS} peers", errno=errno.ENOSPC)
        peer = self.plane.peer_add()
        self.register_peer(peer, public_key, initiation=initiation)
        return peer

    def register_peer(
        self, peer: int, public_key: bytes, *, initiation: UnknownInitiation | None = None
    ) -> Peer:
        """The protocol's part of a peer that the plane has already. On failure the plane loses it."""
        try:
            added = self.device.add_peer(peer, public_key, self._clock.boot(), initiation=initiation)
            if self._offload is not None:
                self._show_offload(peer)
            if timestamp := self.last_timestamp(public_key):
                added.restore_timestamp(timestamp)
            self.departed.pop(public_key)
        except BaseException:
            self.plane.peer_remove(peer)
            raise
        self._secrets.want((peer,))
        return added

    def note_change(self) -> None:
        """A setting has changed by another way than this class's methods."""
        self._changes += 1

    def remove_peer(self, peer: int, *, departs: bool = False) -> None:
        """Removes the peer, zeroises its keys and removes its allowed IPs. ``departs``: it may come back, and
        its last timestamp and endpoint are remembered."""
        self._changes += 1
        if not self.knows(peer):
            return
        known = self.device.by_id[peer]
        public_key = known.public_key
        if departs:
            endpoint = self.plane.peer_state(peer).endpoint
            self.departed.put(public_key, Departed(known.timestamp_received, endpoint))
        elif self._timestamps is not None:
            self._timestamps.forget(public_key)
        self._leave(known)
        self.plane.peer_remove(peer)

    def _leave(self, peer: Peer) -> None:
        """Everything but the plane forgets the peer."""
        self._peer_offload.pop(peer.id, None)
        self.control.following.forget(peer.public_key)
        self.control.carry_out(self.device.remove_peer(peer.id))
        self.control.forget(peer.id)

    def remove_all_peers(self) -> None:
        """Removes every peer."""
        self._changes += 1
        peers = list(self.device.by_id.values())
        for peer in peers:
            if self._timestamps is not None:
                self._timestamps.forget(peer.public_key)
            self._leave(peer)
        self.plane.peers_remove([peer.id for peer in peers])

    def set_preshared_key(self, peer: int, key: bytes | None) -> None:
        """Sets the preshared key, from the next handshake on; None: none."""
        self._changes += 1
        self.device.by_id[peer].set_preshared_key(key)

    def set_cipher(self, peer: int, cipher: Cipher) -> None:
        """Sets the one cipher for this peer. Sessions with another cipher end at once. Raises HostError
        (ENOTSUP) where no library of this host has it."""
        self._changes += 1
        require_cipher(cipher)
        self.control.carry_out(self.device.set_cipher(peer, cipher, self._clock.boot()))
        self.control.touch(peer)

    def set_endpoint(self, peer: int, address: SocketAddress, *, followed: bool = False) -> None:
        """Sets the peer's endpoint, until the peer roams. Unless ``followed``, the configured names of the
        peer are no longer followed."""
        self._changes += 1
        if not followed:
            self.control.following.forget(self.device.by_id[peer].public_key)
        self.plane.endpoint(peer, address)
        self.control.touch(peer)

    def set_keepalive(self, peer: int, seconds: int) -> None:
        """Sets the interval of persistent keepalives in seconds; 0 is off. Switching it on sends one at
        once."""
        self._changes += 1
        if not 0 <= seconds <= 0xFFFF:
            raise ValueError(f"persistent keepalive {seconds}: 0 to 65535 seconds")
        self.control.carry_out(self.device.by_id[peer].set_persistent_keepalive(seconds, self._clock.boot()))
        self.control.touch(peer)

    def clear_allowed_ips(self, peer: int) -> None:
        """Removes all allowed IPs of the peer."""
        self._changes += 1
        self.plane.prefixes_clear(peer)

    def apply_allowed_ips(self, prefixes: Sequence[Prefix]) -> None:
        """Adds and removes allowed IPs in order. A prefix of another peer moves to this one."""
        if prefixes:
            self._changes += 1
            self.plane.prefixes(prefixes)

    def start_peer(self, peer: int) -> None:
        """The peer's settings are complete: packets staged for it may start a handshake."""
        self.control.request_handshake(peer)

    def _forgotten(self, peer: int) -> None:
        self.control.report("own key", 30, "peer %d has the node's own public key: removed", peer)

    # ---- reading ----

    def states(self) -> dict[int, PeerState]:
        """The plane's state of every peer, by id."""
        return {state.peer: state for state in self.plane.peer_states()}

    def states_of(self, peers: Collection[int]) -> dict[int, PeerState]:
        """Of these peers, without those that are gone."""
        if 4 * len(peers) >= len(self.device.by_id):
            states = self.states()
            return {peer: states[peer] for peer in peers if peer in states}
        found = {}
        for peer in peers:
            with contextlib.suppress(RingError):
                found[peer] = self.plane.peer_state(peer)
        return found

    def allowed_ips(self, peer: int) -> list[tuple[bytes, int]]:
        """The peer's allowed IPs as (network, bits)."""
        return self.plane.prefixes_list(peer)

    @property
    def aead(self) -> str:
        """The library that encrypts. Names one for each cipher where peers have another than WireGuard's."""
        return aead_in_words({peer.cipher for peer in self.device.by_id.values()})

    def stats(self) -> TunnelStats:
        """All counters as they are now."""
        return TunnelStats(replace(self.plane.stats(), aead=self.aead), self.control.stats, self.events.lost)
