"""What is said when the kernel refuses super-packets that are written to the interface."""

from __future__ import annotations

import logging

from udpring._native import lib

__all__ = ["tell_refused"]

_WHICH: dict[int, str] = {
    lib.UDPRING_REFUSED_ALL: "super-packets",
    lib.UDPRING_REFUSED_SHORT_LAST: "super-packets with a short last segment",
}

log = logging.getLogger("udpring.node")


def tell_refused(interface: str, result: int) -> None:
    """The plane posts one COALESCING_REFUSED for each ``result``, so this is logged once."""
    log.warning(
        "%s: the kernel refuses %s written to this interface, so packets are written one by one: "
        "slower, nothing is lost (counted as super_packets_split); a newer kernel takes them",
        interface,
        _WHICH.get(result, "some super-packets"),
    )
