"""The addresses of a host by its name, without an event loop. The broker process uses this."""

from __future__ import annotations

import socket

__all__ = ["ADDRESSES_MAX", "host_addresses"]

ADDRESSES_MAX = 16
"""Addresses of one host that are used. Further ones are ignored."""


def host_addresses(host: str, port: int) -> list[tuple[bytes, int, int]]:
    """Packed address, port and scope of each, in the resolver's order. Blocks. Raises OSError (gaierror) if
    there is none."""
    found: dict[tuple[bytes, int, int], None] = {}
    for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        if family == socket.AF_INET:
            found[socket.inet_aton(str(where[0])), int(where[1]), 0] = None
        elif family == socket.AF_INET6 and len(where) == 4:
            packed = socket.inet_pton(socket.AF_INET6, str(where[0]).partition("%")[0])
            found[packed, int(where[1]), int(where[3])] = None
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, f"no IPv4 or IPv6 address for {host}")
    return list(found)[:ADDRESSES_MAX]
