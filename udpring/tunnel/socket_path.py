"""Where the UAPI socket of an interface is. As text, without ``pathlib``."""

from __future__ import annotations

import errno
import os

from udpring.errors import HostError

__all__ = ["SOCKET_DIRECTORY", "interface_of", "socket_name"]

SOCKET_DIRECTORY = "/var/run/wireguard"
"""Where ``wg`` looks for ``INTERFACE.sock``."""


def socket_name(directory: str | os.PathLike[str], interface: str) -> str:
    """The file name of the socket. Raises HostError for an interface that cannot be part of one."""
    if not interface or "/" in interface or interface in (".", ".."):
        raise HostError(
            f"interface name {interface!r} cannot name a socket file",
            errno=errno.EINVAL,
            cure="choose another",
        )
    return f"{os.fspath(directory)}/{interface}.sock"


def interface_of(name: str) -> str:
    """The interface that a socket with this file name is of."""
    return os.path.basename(name).removesuffix(".sock")
