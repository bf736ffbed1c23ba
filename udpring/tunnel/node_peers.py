"""The peers of a node: a whole configuration, or one peer, applied to the live tunnel.

Each change is compared with the live state, because ``wg`` may have changed it, and only differences become
commands. So the sessions of other peers continue. A change of one peer costs the same among ten peers and
among 65,000.

The plane owns allowed IPs: a prefix that another peer has moves to the peer that is set last.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from udpring.errors import ConfigError
from udpring.tunnel.config import Config, Endpoint, Network, PeerConfig
from udpring.tunnel.directory_peers import DirectoryPeers
from udpring.tunnel.endpoint_following import EndpointFollowing
from udpring.tunnel.keys import from_base64, to_base64
from udpring.tunnel.plane import PeerState
from udpring.tunnel.plane_values import Prefix
from udpring.tunnel.tunnel import Tunnel
from udpring.wireguard.peer import Peer

__all__ = ["NodePeer", "NodePeers", "PrefixChange", "key_bytes"]

log = logging.getLogger("udpring.node")


@dataclass(frozen=True, slots=True)
class NodePeer:
    """A peer as it was when ``node.peers`` was read.

    public_key: in base64.
    name: from the configuration, for people.
    endpoint: (host, port); None while it is unknown.
    last_handshake: seconds since the epoch; None: never.
    rx_bytes, tx_bytes: as ``wg show`` counts them.
    persistent_keepalive: seconds; 0 is off.
    cipher: the name of the cipher.
    """

    public_key: str
    name: str = ""
    endpoint: tuple[str, int] | None = None
    last_handshake: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    persistent_keepalive: int = 0
    allowed_ips: tuple[Network, ...] = ()
    cipher: str = "chacha20-poly1305"


@dataclass(frozen=True, slots=True)
class PrefixChange:
    """Prefixes that came into the tunnel or left it with a change of one peer."""

    added: tuple[Network, ...] = ()
    removed: tuple[Network, ...] = ()


def key_bytes(public_key: bytes | str) -> bytes:
    """The public key, given as 32 bytes or in base64. Raises ConfigError for neither."""
    try:
        key = from_base64(public_key) if isinstance(public_key, str) else bytes(public_key)
    except ValueError as wrong:
        raise ConfigError(f"not a public key: {wrong}") from None
    if len(key) != 32:
        raise ConfigError(f"a public key has 32 bytes, this one {len(key)}")
    return key


class NodePeers:
    """The peers of one live tunnel. Owner: its Node. Use it in the thread of the event loop.

    ``given`` holds each peer as the program configured it, without those that only ``wg`` knows. The
    ``directory_peers`` come and go by themselves. One that the program configures stays from then on.
    """

    def __init__(
        self, tunnel: Tunnel, following: EndpointFollowing, directory_peers: DirectoryPeers | None = None
    ) -> None:
        self.given: dict[bytes, PeerConfig] = {}
        self._directory_peers = directory_peers
        self._tunnel = tunnel
        self._following = following

    # ---- reading ----

    def __iter__(self) -> Iterator[NodePeer]:
        states = self._tunnel.states()
        for peer in self._tunnel.device.peers.values():
            yield self._shown(peer, states[peer.id])

    def find(self, public_key: bytes) -> NodePeer | None:
        """One peer, without a look at the others."""
        peer = self._tunnel.device.peers.get(public_key)
        return None if peer is None else self._shown(peer, self._tunnel.plane.peer_state(peer.id))

    def _shown(self, peer: Peer, state: PeerState) -> NodePeer:
        given = self.given.get(peer.public_key) or (
            self._directory_peers and self._directory_peers.get(peer.public_key)
        )
        return NodePeer(
            public_key=to_base64(peer.public_key),
            name=given.name if given else "",
            endpoint=(state.endpoint.host, state.endpoint.port) if state.endpoint else None,
            last_handshake=peer.last_handshake_wall / 1e9 if peer.last_handshake_wall else None,
            rx_bytes=state.rx_bytes,
            tx_bytes=state.tx_bytes,
            persistent_keepalive=peer.persistent_keepalive,
            cipher=str(peer.cipher),
            allowed_ips=self._networks(peer.id),
        )

    def _networks(self, peer: int) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(prefix) for prefix in self._tunnel.allowed_ips(peer))

    def _of_directory(self, public_key: bytes) -> bool:
        return self._directory_peers is not None and public_key in self._directory_peers

    def _release(self, public_key: bytes) -> bool:
        """The program sets this peer: it stays from now on. Whether it was a directory's."""
        if self._directory_peers is None or public_key not in self._directory_peers:
            return False
        self._directory_peers.release(public_key)
        return True

    def configs(self) -> tuple[PeerConfig, ...]:
        """All peers as configurations, in the order of their addition. Endpoints are as configured, not where
        a peer roamed to. For a peer that ``wg`` added, it is the present address."""
        states = self._tunnel.states()
        found = []
        for key, peer in self._tunnel.device.peers.items():
            if self._of_directory(key):
                continue
            given = self.given.get(key)
            found.append(
                replace(
                    given or PeerConfig(key, endpoint=_endpoint(states[peer.id])),
                    preshared_key=peer.preshared_key,
                    allowed_ips=self._networks(peer.id),
                    persistent_keepalive=peer.persistent_keepalive,
                    cipher=peer.cipher,
                    offload=self._tunnel.peer_offload(peer.id),
                )
            )
        return tuple(found)

    # ---- one peer ----

    def add(self, peer: PeerConfig) -> PrefixChange:
        """Adds the peer. An endpoint that is a name is looked up in the background. Raises ConfigError where
        the node has the peer, or the key is its own; RingError where there is no room. The peer is not there
        then."""
        if self._tunnel.is_own(peer.public_key):
            raise ConfigError(
                "a peer has the node's own public key", cure="give it the key of the other node"
            )
        if self._release(peer.public_key):
            return self._set(self._number(peer.public_key), peer, is_new=True)
        if self._tunnel.find(peer.public_key) is not None:
            raise ConfigError(
                "there is a peer with this PublicKey",
                cure="change it with update_peer",
                text=to_base64(peer.public_key),
            )
        number = self._tunnel.add_peer(peer.public_key)
        try:
            return self._set(number, peer, is_new=True)
        except BaseException:
            self.remove(peer.public_key)
            raise

    def update(self, peer: PeerConfig) -> PrefixChange:
        """Changes the peer with this public key. Its session continues, unless the cipher changes. An equal
        endpoint is not set again, because peers roam. Raises ConfigError where there is no such peer."""
        return self._set(self._number(peer.public_key), peer, is_new=self._release(peer.public_key))

    def remove(self, public_key: bytes) -> PrefixChange:
        """Removes the peer. Raises ConfigError where there is no such peer."""
        number = self._number(public_key)
        removed = self._networks(number)
        self._release(public_key)
        self.given.pop(public_key, None)
        self._tunnel.remove_peer(number)
        return PrefixChange(removed=removed)

    def _number(self, public_key: bytes) -> int:
        number = self._tunnel.find(public_key)
        if number is None:
            raise ConfigError(
                "there is no peer with this PublicKey",
                cure="add it with add_peer",
                text=to_base64(public_key),
            )
        return number

    def _set(self, number: int, peer: PeerConfig, *, is_new: bool) -> PrefixChange:
        former = self.given.get(peer.public_key)
        before = dict.fromkeys(self._networks(number))
        self._set_secrets(number, peer)
        self._tunnel.apply_allowed_ips(self._differences(number, peer.allowed_ips))
        self.given[peer.public_key] = peer
        if is_new or former is None or former.endpoints != peer.endpoints:
            self._set_endpoint(peer)
        self._set_timers(number, peer)
        wanted = dict.fromkeys(peer.allowed_ips)
        return PrefixChange(
            added=tuple(each for each in wanted if each not in before),
            removed=tuple(each for each in before if each not in wanted),
        )

    # ---- a whole configuration ----

    def apply(self, config: Config) -> None:
        """Adds, removes and changes peers until the tunnel has those of ``config``. An endpoint is set only
        where the configuration's changed, because peers roam."""
        tunnel = self._tunnel
        wanted = {peer.public_key: peer for peer in config.peers if not tunnel.is_own(peer.public_key)}
        if len(wanted) < len(config.peers):
            log.warning("%s: a peer has the node's own public key: left out", config.file)
        for public_key, live in list(tunnel.device.peers.items()):
            if public_key not in wanted and not self._of_directory(public_key):
                tunnel.remove_peer(live.id)
        endpoints = {public_key: peer.endpoints for public_key, peer in self.given.items()}
        self.given = wanted
        numbers = {}
        new = set()
        for public_key, peer in wanted.items():
            number = tunnel.find(public_key)
            if number is None or self._release(public_key):
                new.add(public_key)
            if number is None:
                number = tunnel.add_peer(public_key)
            numbers[public_key] = number
            self._set_secrets(number, peer)
        self._apply_allowed_ips(wanted, numbers)
        for public_key, peer in wanted.items():
            if public_key in new or endpoints.get(public_key, ()) != peer.endpoints:
                self._set_endpoint(peer)
        for public_key, peer in wanted.items():
            self._set_timers(numbers[public_key], peer)

    def _apply_allowed_ips(self, wanted: dict[bytes, PeerConfig], numbers: dict[bytes, int]) -> None:
        # A prefix that two peers have is the last one's. It must not move at each reload.
        owner = {network: key for key, peer in wanted.items() for network in peer.allowed_ips}
        removed: list[Prefix] = []
        added: list[Prefix] = []
        for public_key, peer in wanted.items():
            owned = (network for network in peer.allowed_ips if owner[network] == public_key)
            for prefix in self._differences(numbers[public_key], owned):
                (removed if prefix.remove else added).append(prefix)
        self._tunnel.apply_allowed_ips(removed + added)

    # ---- settings ----

    def _differences(self, number: int, wanted: Iterable[Network]) -> list[Prefix]:
        """The changes from the live allowed IPs of the peer to the wanted ones: removals, then additions."""
        has = dict.fromkeys(self._tunnel.allowed_ips(number))
        wants = dict.fromkeys((each.network_address.packed, each.prefixlen) for each in wanted)
        removed = [
            Prefix(network, cidr, number, remove=True)
            for network, cidr in has
            if (network, cidr) not in wants
        ]
        return removed + [
            Prefix(network, cidr, number) for network, cidr in wants if (network, cidr) not in has
        ]

    def _set_secrets(self, number: int, peer: PeerConfig) -> None:
        live = self._tunnel.device.by_id[number]
        if live.preshared_key != peer.preshared_key:
            self._tunnel.set_preshared_key(number, peer.preshared_key)
        if live.cipher is not peer.cipher:
            self._tunnel.set_cipher(number, peer.cipher)

    def _set_endpoint(self, peer: PeerConfig) -> None:
        self._following.set(peer.public_key, peer.endpoints)

    def _set_timers(self, number: int, peer: PeerConfig) -> None:
        """Also starts the handshake that staged packets wait for: the peer's settings are complete."""
        self._tunnel.set_peer_offload(number, peer.offload)
        if self._tunnel.device.by_id[number].persistent_keepalive != peer.persistent_keepalive:
            self._tunnel.set_keepalive(number, peer.persistent_keepalive)
        self._tunnel.start_peer(number)


def _endpoint(state: PeerState) -> Endpoint | None:
    return None if state.endpoint is None else Endpoint(state.endpoint.host, state.endpoint.port)
