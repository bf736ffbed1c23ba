"""Facts of an interface in the network namespace of this thread, by netdevice(7). /sys may be that of another
namespace."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

__all__ = ["LinkFacts", "link_facts"]

SIOCGIFFLAGS, SIOCGIFMTU = 0x8913, 0x8921
IFF_UP = 1
_NAME_BYTES = 16
_REQUEST = struct.Struct(f"={_NAME_BYTES}sI20x")


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """``up``: as ``ip link set up`` leaves it."""

    up: bool
    mtu: int


def link_facts(name: str) -> LinkFacts | None:
    """None: there is no such interface here."""
    encoded = os.fsencode(name)
    if not 0 < len(encoded) < _NAME_BYTES:
        return None
    request = _REQUEST.pack(encoded, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            flags = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
            mtu = fcntl.ioctl(any_socket, SIOCGIFMTU, request)
        except OSError:
            return None
    return LinkFacts(bool(_REQUEST.unpack(flags)[1] & IFF_UP), _REQUEST.unpack(mtu)[1])
