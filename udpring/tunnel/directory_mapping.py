"""A directory in memory, which the program fills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from udpring.errors import ConfigError
from udpring.tunnel.config import IPAddress, PeerConfig
from udpring.tunnel.directory_changes import ChangeFeed
from udpring.tunnel.keys import to_base64
from udpring.tunnel.prefix_index import PrefixIndex

__all__ = ["MappingDirectory"]


class MappingDirectory:
    """Peers by public key: ``MappingDirectory(config.peers)``, or a mapping of such. ``put`` and ``remove``
    change it while nodes use it. Use it in one thread.

    Raises ConfigError where two peers have one prefix.
    """

    def __init__(self, peers: Mapping[bytes, PeerConfig] | Iterable[PeerConfig] = ()) -> None:
        self._peers: dict[bytes, PeerConfig] = {}
        self._prefixes = PrefixIndex()
        self._feed = ChangeFeed()
        for peer in peers.values() if isinstance(peers, Mapping) else peers:
            self.put(peer)

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, public_key: object) -> bool:
        return public_key in self._peers

    def put(self, peer: PeerConfig) -> None:
        """Adds the peer, or replaces the one with its key. Raises ConfigError, and changes nothing, where
        another peer has one of its prefixes."""
        before = self._peers.get(peer.public_key)
        self._drop_prefixes(before)
        for number, network in enumerate(peer.allowed_ips):
            owner = self._prefixes.add(network, peer.public_key)
            if owner != peer.public_key:
                for added in peer.allowed_ips[:number]:
                    self._prefixes.remove(added, peer.public_key)
                for former in before.allowed_ips if before else ():
                    self._prefixes.add(former, peer.public_key)
                raise ConfigError(
                    f"{network} is in AllowedIPs of {to_base64(owner)} already",
                    cure="give each prefix to one peer",
                )
        self._peers[peer.public_key] = peer
        self._feed.announce([peer.public_key])

    def remove(self, public_key: bytes) -> None:
        """Removes the peer, if there is one with this key."""
        before = self._peers.pop(public_key, None)
        self._drop_prefixes(before)
        if before is not None:
            self._feed.announce([public_key])

    def _drop_prefixes(self, peer: PeerConfig | None) -> None:
        if peer is not None:
            for network in peer.allowed_ips:
                self._prefixes.remove(network, peer.public_key)

    async def by_key(self, public_key: bytes) -> PeerConfig | None:
        """See ``Directory``."""
        return self._peers.get(public_key)

    async def by_address(self, ip: IPAddress) -> PeerConfig | None:
        """See ``Directory``."""
        owner = self._prefixes.find(ip)
        return None if owner is None else self._peers[owner]

    def changes(self) -> AsyncIterator[bytes]:
        """See ``ChangingDirectory``."""
        return self._feed.follow()
