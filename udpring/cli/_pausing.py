"""``udpring pause`` and ``udpring resume``: one operation on the UAPI socket of an interface."""

from __future__ import annotations

import errno

from udpring.errors import HostError
from udpring.tunnel import uapi
from udpring.tunnel.uapi_client import UapiClient, UapiError

__all__ = ["set_paused"]


def set_paused(interface: str, paused: bool) -> int:
    """Returns the exit code 0. Raises HostError where nothing serves the interface, or another program does
    that cannot pause."""
    try:
        UapiClient(interface, uapi.SOCKET_DIRECTORY).set([uapi.SetPaused(paused)])
    except UapiError as refused:
        if refused.errno not in (errno.EINVAL, errno.EPROTO):
            raise
        raise HostError(
            f"the program that serves {interface} cannot pause it",
            errno=errno.EOPNOTSUPP,
            cure="run the interface by udpring: udpring up FILE, or udpring-wg INTERFACE",
        ) from None
    return 0
