"""Where the UAPI socket of an interface is. A broker process uses this without ``pathlib``."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from udpring.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SOCKET_DIRECTORY", "socket_name", "socket_path"]

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


def socket_path(directory: str | os.PathLike[str], interface: str) -> Path:
    """``socket_name`` as a path."""
    from pathlib import Path  # noqa: PLC0415

    return Path(socket_name(directory, interface))
