"""Longest prefix match in memory: one table for each prefix length in use, the longest asked first."""

from __future__ import annotations

from udpring.tunnel.config import IPAddress, Network

__all__ = ["PrefixIndex"]


class PrefixIndex:
    """Who owns which prefix. Each prefix has one owner, a public key."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, bytes]]] = {4: {}, 6: {}}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}

    def add(self, network: Network, owner: bytes) -> bytes:
        """The owner from now on: the given one, unless the prefix has another, which keeps it."""
        tables = self._tables[network.version]
        table = tables.get(network.prefixlen)
        if table is None:
            table = tables[network.prefixlen] = {}
            self._lengths[network.version] = sorted(tables, reverse=True)
        return table.setdefault(int(network.network_address), owner)

    def remove(self, network: Network, owner: bytes) -> None:
        """Takes the prefix from this owner, if it has it."""
        tables = self._tables[network.version]
        table = tables.get(network.prefixlen, {})
        if table.get(int(network.network_address)) != owner:
            return
        del table[int(network.network_address)]
        if not table:
            del tables[network.prefixlen]
            self._lengths[network.version] = sorted(tables, reverse=True)

    def find(self, ip: IPAddress) -> bytes | None:
        """The owner of the longest prefix that has this address."""
        address = int(ip)
        tables = self._tables[ip.version]
        for length in self._lengths[ip.version]:
            shift = ip.max_prefixlen - length
            owner = tables[length].get(address >> shift << shift)
            if owner is not None:
                return owner
        return None
