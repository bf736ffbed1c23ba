"""Addresses on their way into and out of the plane: ``SocketAddress`` and ``struct udpring_address``."""

from __future__ import annotations

import socket
from typing import Any

from udpring._native import ffi
from udpring.tunnel.plane_values import SocketAddress

__all__ = ["address_of", "new_address"]

_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)  # an enumeration compares slowly


def address_of(family: int, port: int, scope_id: int, ip: bytes) -> SocketAddress | None:
    """The address in these fields of a C struct. None where it has none."""
    if family == _AF_INET:
        return SocketAddress(ip[:4], port)
    if family == _AF_INET6:
        return SocketAddress(ip, port, scope_id)
    return None


def new_address(address: SocketAddress | None) -> Any:
    """A new C struct with the address; NULL for None."""
    if address is None:
        return ffi.NULL
    raw = ffi.new("struct udpring_address *")
    raw.family = socket.AF_INET if len(address.ip) == 4 else socket.AF_INET6
    raw.port = address.port
    raw.scope_id = address.scope_id
    ffi.memmove(raw.ip, address.ip, len(address.ip))
    return raw
