"""Prefixes of peers that must not overlap: who has which part of the address space.

A node has only the active peers. If one of them had a prefix around another's, packets to the other would go
to the wrong peer while the other is not active. So peers of a directory whose prefixes overlap are refused.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, insort
from collections.abc import Iterable

from udpring.tunnel.config import Network

__all__ = ["DisjointPrefixes"]


class DisjointPrefixes:
    """By owner, a public key. Prefixes of one owner may overlap."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int, bytes]]] = {4: [], 6: []}
        self._owned: dict[bytes, list[tuple[int, tuple[int, int, bytes]]]] = {}

    def __len__(self) -> int:
        return len(self._owned)

    def conflict(self, networks: Iterable[Network], owner: bytes) -> tuple[Network, bytes] | None:
        """The first of these prefixes that overlaps another owner's, and that owner."""
        for network in networks:
            first, last = int(network.network_address), int(network.broadcast_address)
            ranges = self._ranges[network.version]
            at = bisect_left(ranges, (first, -1, b""))
            if at and ranges[at - 1][1] >= first and ranges[at - 1][2] != owner:
                return network, ranges[at - 1][2]
            while at < len(ranges) and ranges[at][0] <= last:
                if ranges[at][2] != owner:
                    return network, ranges[at][2]
                at += 1
        return None

    def put(self, networks: Iterable[Network], owner: bytes) -> None:
        """Replaces the owner's prefixes by these. They have no conflict."""
        self.remove(owner)
        owned = []
        networks = list(networks)
        for version in (4, 6):
            # Merged, so that no range of one owner lies in another of its own.
            of_version = [network for network in networks if network.version == version]
            for network in ipaddress.collapse_addresses(of_version):  # type: ignore[type-var]
                made = (int(network.network_address), int(network.broadcast_address), owner)
                insort(self._ranges[version], made)
                owned.append((version, made))
        self._owned[owner] = owned

    def remove(self, owner: bytes) -> None:
        """The owner has none any more."""
        for version, made in self._owned.pop(owner, ()):
            ranges = self._ranges[version]
            del ranges[bisect_left(ranges, made)]
