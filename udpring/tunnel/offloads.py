"""Which of the kernel's offloads a plane may use, by name: ``UDPRING_OFFLOADS``, ``offloads=``."""

from __future__ import annotations

import os

from udpring._native import lib
from udpring.errors import ConfigError, HostError

__all__ = ["OFFLOADS", "offload_flags"]

OFFLOADS: dict[str, int] = {
    "all": 0,
    "tun": lib.UDPRING_PLANE_NO_UDP_OFFLOAD,
    "udp": lib.UDPRING_PLANE_NO_TUN_OFFLOAD,
    "none": lib.UDPRING_PLANE_NO_TUN_OFFLOAD | lib.UDPRING_PLANE_NO_UDP_OFFLOAD,
}
"""``tun``: super-packets from and to the interface (TSO, USO) alone; ``udp``: trains on the wire
(UDP_SEGMENT, UDP_GRO) alone. The values are the plane's flags (``UDPRING_PLANE_*``)."""


def offload_flags(name: str | None) -> int:
    """The plane's flags for the offloads called ``name``; None: as ``UDPRING_OFFLOADS`` says, else ``all``.

    Raises HostError with the names there are, ConfigError when the variable has another.
    """
    asked = name or os.environ.get("UDPRING_OFFLOADS") or "all"
    try:
        return OFFLOADS[asked]
    except KeyError:
        cure = f"one of {', '.join(OFFLOADS)}"
        if not name:
            raise ConfigError(
                "UDPRING_OFFLOADS names no offloads", file="<environment>", text=asked, cure=cure
            ) from None
        raise HostError(f"no offloads are called {asked!r}", cure=cure) from None
