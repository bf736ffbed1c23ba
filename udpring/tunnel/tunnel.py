"""One live tunnel: plane, protocol and control loop together, and the operations that change it while it
runs.

``Node`` (a configuration) and the UAPI server (``wg``) both change a tunnel only by the methods here, so
both have the same meaning. Facts stay where they are owned (ARCHITECTURE.md, R3): endpoints, allowed IPs
and byte counts in the plane, keys and timers in ``wireguard.Device``; here are only the three settings that
neither of them has to know.

Everything runs in the thread of the event loop. Methods that change something raise HostError or RingError
(both OSError, with errno) when the plane refuses, and ValueError for a value that cannot be.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from udpring._native import lib
from udpring.errors import RingError
from udpring.tunnel.ciphers import aead_in_words, require_cipher
from udpring.tunnel.control import BootClock, Control, ControlStats, End, PlaneIndices
from udpring.tunnel.keys import clamp, key_label
from udpring.tunnel.plane import PeerState, Plane, PlaneStats, Prefix, SocketAddress
from udpring.tunnel.timestamp_file import TimestampFile
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.device import Device

__all__ = ["MAX_PEERS", "Tunnel", "TunnelStats"]

MAX_PEERS: int = lib.UDPRING_PEERS_MAX

log = logging.getLogger("udpring.node")


@dataclass(frozen=True, slots=True)
class TunnelStats:
    """All counters of a tunnel: of the packets (``plane``) and of handshakes and timers (``control``)."""

    plane: PlaneStats
    control: ControlStats


class Tunnel:
    """Owns an open Plane from here on; ``close()`` closes it. Peers are named by the plane's id (an int)."""

    def __init__(
        self,
        plane: Plane,
        *,
        loop: asyncio.AbstractEventLoop,
        fwmark: int = 0,
        clock: BootClock | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.plane = plane
        self.device = Device(random=random, indices=PlaneIndices(plane))
        self.control = Control(
            plane,
            self.device,
            loop=loop,
            clock=clock,
            forgotten=self._forgotten,
            authenticated=self._authenticated,
            label=self.label,
        )
        self._loop = loop
        self._timestamps: TimestampFile | None = None
        self._clock = self.control.clock
        self._private_key: bytes | None = None
        self._listen_port = plane.port
        self._fwmark = fwmark
        self._closed = False

    def keep_timestamps(self, path: Path | None) -> None:
        """Keeps the peers' timestamps in a file from now on; None: in memory alone. Call it before peers are
        added. Raises HostError: the file cannot be written."""
        if path is not None:
            self._timestamps = TimestampFile(path, self._received_timestamps, loop=self._loop)

    def _received_timestamps(self) -> dict[bytes, bytes]:
        return {key: peer.timestamp_received for key, peer in self.device.peers.items()}

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
        self.control.start()

    def close(self) -> None:
        """Stops the control loop and closes the plane: the interface goes, keys are zeroised. May be called
        again."""
        if self._closed:
            return
        self._closed = True
        self.control.stop()
        if self._timestamps is not None:
            self._timestamps.close()
        self.plane.close()
        self._private_key = None

    # ---- the device ----

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.plane.name

    @property
    def gone(self) -> asyncio.Future[End]:
        """Resolved, with the reason, when the plane cannot go on: the interface was deleted or the worker
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
        """A new identity: sessions expire, a peer with our own public key is removed; None: none (refuses
        handshakes). It is kept and reported clamped, as by the kernel."""
        if key is not None:
            key = clamp(key)
        if key == self._private_key:
            return
        outcomes = self.device.set_private_key(key, self._clock.boot())
        self._private_key = key
        self.control.show_identity()
        self.control.carry_out(outcomes)
        if self.device.public_key is not None:
            # Packets that waited for an identity need no further packet to ask for the handshake.
            for peer in self.device.by_id:
                self.control.request_handshake(peer)

    def set_listen_port(self, port: int) -> None:
        """Moves to another UDP port; sessions and fwmark are kept. 0: the kernel chooses.

        Raises HostError (EADDRINUSE: another program has the port); the old port then stays.
        """
        if port and port == self._listen_port:
            return
        self._listen_port = self.plane.bind(port, self._fwmark)

    def set_fwmark(self, mark: int) -> None:
        """Marks what the sockets send (SO_MARK); 0 is off."""
        if mark != self._fwmark:
            self.plane.mark(mark)
            self._fwmark = mark

    # ---- peers ----

    def find(self, public_key: bytes) -> int | None:
        """The id of the peer with this key."""
        peer = self.device.peers.get(public_key)
        return None if peer is None else peer.id

    def knows(self, peer: int) -> bool:
        """Whether the id is still a peer's."""
        return peer in self.device.by_id

    def is_own(self, public_key: bytes) -> bool:
        """Whether the key is our own: such a peer is silently ignored, as the kernel does."""
        return public_key == self.device.public_key

    def label(self, peer: int) -> str:
        """The peer's name in a log line."""
        known = self.device.by_id.get(peer)
        return key_label(known.public_key) if known is not None else f"peer {peer}"

    def add_peer(self, public_key: bytes) -> int:
        """A new peer; returns its id. Raises ValueError (our own key, or known already), RingError (no
        room)."""
        if self.is_own(public_key):
            raise ValueError("a peer cannot have the node's own public key")
        if public_key in self.device.peers:
            raise ValueError("there is a peer with this public key already")
        if len(self.device.peers) >= MAX_PEERS:
            raise RingError(f"more than {MAX_PEERS} peers", errno=errno.ENOSPC)
        peer = self.plane.peer_add()
        try:
            added = self.device.add_peer(peer, public_key, self._clock.boot())
            if self._timestamps is not None:
                added.restore_timestamp(self._timestamps.of(public_key))
        except BaseException:
            self.plane.peer_remove(peer)
            raise
        return peer

    def remove_peer(self, peer: int) -> None:
        """Forgets the peer: its keys are zeroised, its allowed IPs go."""
        if not self.knows(peer):
            return
        public_key = self.device.by_id[peer].public_key
        outcomes = self.device.remove_peer(peer)
        if self._timestamps is not None:
            self._timestamps.forget(public_key)
        self.control.carry_out(outcomes)
        self.control.forget(peer)
        self.plane.peer_remove(peer)

    def remove_all_peers(self) -> None:
        """Forgets every peer."""
        for peer in list(self.device.by_id):
            self.remove_peer(peer)

    def set_preshared_key(self, peer: int, key: bytes | None) -> None:
        """From the next handshake on; None takes it off."""
        self.device.by_id[peer].set_preshared_key(key)

    def set_cipher(self, peer: int, cipher: Cipher) -> None:
        """The one cipher that is spoken with the peer: sessions under another end at once, a new handshake is
        needed. Raises HostError (ENOTSUP) where no library of this host has it."""
        require_cipher(cipher)
        self.control.carry_out(self.device.set_cipher(peer, cipher, self._clock.boot()))
        self.control.touch(peer)

    def set_endpoint(self, peer: int, address: SocketAddress) -> None:
        """Where the peer is, until it is heard from elsewhere."""
        self.plane.endpoint(peer, address)
        self.control.touch(peer)

    def set_keepalive(self, peer: int, seconds: int) -> None:
        """Persistent keepalive each so many seconds; 0 is off. From off to on one is sent at once."""
        if not 0 <= seconds <= 0xFFFF:
            raise ValueError(f"persistent keepalive {seconds}: 0 to 65535 seconds")
        self.control.carry_out(self.device.by_id[peer].set_persistent_keepalive(seconds, self._clock.boot()))
        self.control.touch(peer)

    def clear_allowed_ips(self, peer: int) -> None:
        """Takes all allowed IPs from the peer."""
        self.plane.prefixes_clear(peer)

    def apply_allowed_ips(self, prefixes: Sequence[Prefix]) -> None:
        """Adds and removes allowed IPs in order; one that another peer has is moved."""
        if prefixes:
            self.plane.prefixes(prefixes)

    def start_peer(self, peer: int) -> None:
        """The peer's settings are complete: what was staged for it may ask for a handshake now."""
        self.control.request_handshake(peer)

    def _forgotten(self, peer: int) -> None:
        self.control.report("own key", 30, "peer %d has the node's own public key: removed", peer)

    # ---- reading ----

    def states(self) -> dict[int, PeerState]:
        """The plane's state of every peer, by id."""
        return {state.peer: state for state in self.plane.peer_states()}

    def allowed_ips(self, peer: int) -> list[tuple[bytes, int]]:
        """The peer's allowed IPs as (network, bits)."""
        return self.plane.prefixes_list(peer)

    @property
    def aead(self) -> str:
        """The library that encrypts; of each cipher that the peers have, where some have another than
        WireGuard's."""
        return aead_in_words({peer.cipher for peer in self.device.by_id.values()})

    def stats(self) -> TunnelStats:
        """All counters, now."""
        return TunnelStats(replace(self.plane.stats(), aead=self.aead), self.control.stats)
