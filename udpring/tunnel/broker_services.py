"""What a broker process does for any confined node: names, other tunnels, the removal of its socket file.

The process lives as long as the node and does little. So what only some requests need is imported when it is
needed, in the process that serves the request.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from functools import partial
from typing import Any

from udpring.errors import HostError
from udpring.tunnel.broker import Service, Services
from udpring.tunnel.capabilities import KILL, NET_ADMIN, SETGID, SETUID, keep_only
from udpring.tunnel.first_confinement import hide, protect_memory
from udpring.tunnel.host_addresses import host_addresses
from udpring.tunnel.session_weight import SessionWeight
from udpring.tunnel.socket_path import SOCKET_DIRECTORY, socket_name

__all__ = ["NodeWeight", "SocketFiles", "drop_rights", "look_ups", "services"]

NOBODY = 65534
_NOTICE_MAX = 8
"""Bytes of a nice value."""


class SocketFiles:
    """Removes socket files, but only those of which the node said that it made them, before it was confined.
    ``close`` removes what is left."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[int, int]] = {}
        self._sealed = False

    def made(self, interface: str) -> None:
        """The file of an interface as it is now. Raises HostError after ``seal``."""
        if self._sealed:
            raise HostError("the node made its socket files before")
        found = os.lstat(socket_name(SOCKET_DIRECTORY, interface))
        self._made[interface] = (found.st_dev, found.st_ino)

    def seal(self) -> None:
        """The node is confined: no other file is its own from now on."""
        self._sealed = True

    def remove(self, interface: str) -> None:
        """Removes the file, unless another one has taken its place."""
        inode = self._made.pop(interface, None)
        name = socket_name(SOCKET_DIRECTORY, interface)
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(name)
            if (found.st_dev, found.st_ino) == inode:
                os.unlink(name)

    def close(self) -> None:
        for interface in list(self._made):
            with contextlib.suppress(OSError):
                self.remove(interface)


def drop_rights(*more: int) -> None:
    """Gives up capabilities of the broker process and keeps its memory out of core dumps. CAP_NET_ADMIN stays
    for ``wg``, and so do those by which a look-up becomes another user. ``more``: others that stay."""
    with contextlib.suppress(OSError):
        keep_only([NET_ADMIN, KILL, SETGID, SETUID, *more])
    protect_memory()


def look_ups() -> Services:
    """The services of every confined node. A rootless node has no others."""
    return {
        "addresses": Service(_addresses, own_process=True, confine=_become_nobody, abandoned=True),
        "tunnel": Service(_tunnel, own_process=True, abandoned=True),
    }


class NodeWeight:
    """The nice value of the session of the node, which is this process's parent. ``nice``: the only value
    permitted besides the usual one. 0: none. ``notice`` is for ``broker.serve``."""

    def __init__(self, nice: int) -> None:
        self._nice = nice
        self._session = SessionWeight(os.getppid())

    def notice(self, said: bytes) -> None:
        """Sets a nice value that a worker of the node requests."""
        with contextlib.suppress(HostError, ValueError):
            self._session.set(int(said[:_NOTICE_MAX]))

    def weigh(self) -> int:
        """Gives the session the permitted nice value and returns the usual one. From now on ``notice``
        changes between the two. Raises HostError."""
        return self._session.permit(self._nice)

    def close(self) -> None:
        self._session.close()


def services(files: SocketFiles, weight: NodeWeight) -> Services:
    """For a confined node with a socket file."""
    return {
        **look_ups(),
        "weigh": Service(weight.weigh),
        "made": Service(files.made),
        "seal": Service(files.seal),
        "remove": Service(files.remove),
    }


def _become_nobody() -> None:
    """A look-up handles answers of strangers, in the C library."""
    codecs.lookup("idna")  # of host names. Nobody may not be able to read Python's files
    nobody = (NOBODY, NOBODY, NOBODY)
    steps = partial(os.setgroups, []), partial(os.setresgid, *nobody), partial(os.setresuid, *nobody)
    for step in steps:
        with contextlib.suppress(OSError):  # not root, or a user namespace without this user
            step()
    with contextlib.suppress(OSError):
        keep_only(())
    hide()


def _addresses(host: str, port: int) -> list[list[Any]]:
    return [[ip.hex(), port, scope] for ip, port, scope in host_addresses(host, port)]


def _tunnel(interface: str) -> dict[str, Any] | None:
    """Without keys: a peer is a number."""
    from udpring.tunnel.crossed_tunnels import view_of  # noqa: PLC0415

    socket_name(SOCKET_DIRECTORY, interface)  # refuses what is no name
    view = view_of(interface)
    if view is None:
        return None
    every = dict.fromkeys([*view.owners.values(), *view.endpoints])
    numbers = {key: number for number, key in enumerate(every)}
    return {
        "fwmark": view.fwmark,
        "owners": [[str(network), numbers[key]] for network, key in view.owners.items()],
        "endpoints": [[numbers[key], str(address)] for key, address in view.endpoints.items()],
    }
