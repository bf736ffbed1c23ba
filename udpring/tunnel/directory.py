"""The directory of a node's peers: who is registered, for ``Node(config, peers=directory)``.

A directory answers two questions, each with a PeerConfig or None:

    by_key(public_key)    whose key this is            asked by an initiation of an unknown key
    by_address(ip)        whose allowed IPs have it    asked by a packet to an unknown destination

Answers may be slow and may fail: only the peer in question is refused. ``by_address`` answers by longest
prefix match. Prefixes of two peers must not overlap, because the node knows only the peers that are active.

A directory may also announce changes (``ChangingDirectory``). The node then asks again for the peers that it
has, and forgets refused keys.

``MappingDirectory``, ``FolderDirectory`` and ``SqliteDirectory`` are such directories. A program may write
its own. The node calls it in its event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from udpring.tunnel.config import IPAddress, PeerConfig

__all__ = ["ChangingDirectory", "Directory"]


class Directory(Protocol):
    """A node asks it for peers. It may raise any exception."""

    async def by_key(self, public_key: bytes) -> PeerConfig | None:
        """The peer with this public key of 32 bytes; None: there is none."""

    async def by_address(self, ip: IPAddress) -> PeerConfig | None:
        """The peer whose allowed IPs have this address, by the longest prefix; None: nobody's have."""


@runtime_checkable
class ChangingDirectory(Directory, Protocol):
    """A directory whose peers change while a node runs."""

    def changes(self) -> AsyncIterator[bytes]:
        """The public keys of peers that were added, changed or removed, as that happens. Never ends by
        itself. Each call is a feed of its own."""
