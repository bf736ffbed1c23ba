"""How the ``socket`` module writes the address of a UDP endpoint. The one definition for all rooms."""

from __future__ import annotations

import socket
from typing import Any, TypeAlias

__all__ = ["Address", "SocketName", "scope_number"]

Address = tuple[str, int] | tuple[str, int, int, int]
"""(host, port), or for IPv6 (host, port, flowinfo, scope_id)."""
SocketName: TypeAlias = Any
"""The address of a socket of any family, as ``socket.getsockname`` returns it. Its type there is Any too: a
program knows the family, and a union would refuse ``socket.create_connection(server.address)``."""


def scope_number(zone: str) -> int:
    """The interface index of a zone (RFC 4007): of ``eth0`` in ``fe80::1%eth0``, which may also be a number.

    Raises ValueError if no interface has that name, or the number does not fit into 32 bits.
    """
    if zone.isascii() and zone.isdigit():
        if int(zone) > 0xFFFFFFFF:
            raise ValueError(f"zone {zone}: an interface index is at most {0xFFFFFFFF}")
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise ValueError(f"zone {zone!r}: there is no such interface") from None
