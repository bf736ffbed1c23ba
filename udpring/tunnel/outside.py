"""What a node asks of its host beyond its own sockets: names, other tunnels, the removal of its socket file.

By default the node does it in a thread. A confined node may not, so ``of_broker`` asks a broker process
(``broker``), whose services are here too.
"""

from __future__ import annotations

import codecs
import contextlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from udpring.errors import HostError
from udpring.tunnel import uapi
from udpring.tunnel.broker import Broker, Service, Services
from udpring.tunnel.capabilities import keep_only
from udpring.tunnel.config import Endpoint
from udpring.tunnel.confinement import hide
from udpring.tunnel.crossed_tunnels import TunnelView, ViewOf, view_of
from udpring.tunnel.plane_values import SocketAddress
from udpring.tunnel.resolver import Addresses, look_up_all
from udpring.tunnel.socket_file import socket_path

__all__ = ["Outside", "SocketFiles", "of_broker", "services"]

NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Outside:
    """``addresses``: of an endpoint's host. ``tunnel``: the state of another tunnel. ``made`` and ``remove``:
    a socket file of the node was made, and is to be removed. All may block."""

    addresses: Callable[[Endpoint], Addresses] = look_up_all
    tunnel: ViewOf = view_of
    made: Callable[[Path], None] = lambda path: None
    remove: Callable[[Path], None] = Path.unlink


# ---- in the broker ----


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
        found = socket_path(uapi.SOCKET_DIRECTORY, interface).lstat()
        self._made[interface] = (found.st_dev, found.st_ino)

    def seal(self) -> None:
        """The node is confined: no other file is its own from now on."""
        self._sealed = True

    def remove(self, interface: str) -> None:
        """Removes the file, unless another one has taken its place."""
        inode = self._made.pop(interface, None)
        path = socket_path(uapi.SOCKET_DIRECTORY, interface)
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if (found.st_dev, found.st_ino) == inode:
                path.unlink()

    def close(self) -> None:
        for interface in list(self._made):
            with contextlib.suppress(OSError):
                self.remove(interface)


def services(files: SocketFiles) -> Services:
    """For any confined node."""
    codecs.lookup("idna")  # of host names. As another user a look-up may not be able to read Python's files
    return {
        "addresses": Service(_addresses, apart=True, confine=_become_nobody, abandoned=True),
        "tunnel": Service(_tunnel, apart=True, abandoned=True),
        "made": Service(files.made),
        "seal": Service(files.seal),
        "remove": Service(files.remove),
    }


def _become_nobody() -> None:
    """A look-up handles answers of strangers, in the C library."""
    nobody = (NOBODY, NOBODY, NOBODY)
    steps = partial(os.setgroups, []), partial(os.setresgid, *nobody), partial(os.setresuid, *nobody)
    for step in steps:
        with contextlib.suppress(OSError):  # not root, or a user namespace without this user
            step()
    with contextlib.suppress(OSError):
        keep_only(())
    hide()


def _addresses(host: str, port: int) -> list[list[Any]]:
    return [[each.ip.hex(), each.port, each.scope_id] for each in look_up_all(Endpoint(host, port))]


def _tunnel(interface: str) -> dict[str, Any] | None:
    """Without keys: a peer is a number."""
    socket_path(uapi.SOCKET_DIRECTORY, interface)  # refuses what is no name
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


# ---- in the node ----


def of_broker(broker: Broker) -> Outside:
    """Asks the broker for everything."""

    def addresses(endpoint: Endpoint) -> Addresses:
        found = broker.call("addresses", host=endpoint.host, port=endpoint.port)
        return tuple(SocketAddress(bytes.fromhex(ip), port, scope) for ip, port, scope in found)

    def tunnel(interface: str) -> TunnelView | None:
        found = broker.call("tunnel", interface=interface)
        if found is None:
            return None
        return TunnelView(
            found["fwmark"],
            {ipaddress.ip_network(network): b"%d" % number for network, number in found["owners"]},
            {b"%d" % number: ipaddress.ip_address(address) for number, address in found["endpoints"]},
        )

    return Outside(
        addresses,
        tunnel,
        lambda path: broker.call("made", interface=path.stem),
        lambda path: broker.call("remove", interface=path.stem),
    )
