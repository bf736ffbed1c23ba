"""Whether packets that are routed into another tunnel of this host leave the host or come back.

If each of two tunnels is reached through the other, packets go in circles. Each tunnel encrypts the other's
packets, so neither can detect it from a packet. The routes and the peers of both show it:

1. The routes give the interface by which packets leave for an endpoint.
2. If a tunnel has that interface, its allowed IPs give the peer that gets them, and its endpoint.
3. This repeats until an interface belongs to no tunnel, or is the first one again.

A tunnel is queried through its UAPI socket (udpring, wireguard-go) or by ``wg`` (the kernel's). Keys in an
answer are skipped and erased.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from udpring.records import mutable_record, record
from udpring.tunnel import uapi
from udpring.tunnel.uapi_client import ANSWER_MAX, ANSWER_SECONDS

if TYPE_CHECKING:
    from udpring.tunnel.config import IPAddress, Network

__all__ = [
    "HOPS_MAX",
    "Hop",
    "RouteInterface",
    "TunnelView",
    "ViewOf",
    "cached_views",
    "follow",
    "route_interface",
    "view_of",
]

HOPS_MAX = 16
_TIMEOUT = 5.0
_ROOM = 65536
_SECRET = (b"private_key=", b"preshared_key=")


@mutable_record
class TunnelView:
    """The forwarding state of a tunnel: ``peers`` by prefix, and each peer's endpoint."""

    fwmark: int = 0
    owners: dict[Network, bytes] = field(default_factory=dict)
    endpoints: dict[bytes, IPAddress] = field(default_factory=dict)

    def endpoint_for(self, address: IPAddress) -> IPAddress | None:
        """The endpoint of the peer that gets packets for ``address``."""
        for length in range(address.max_prefixlen, -1, -1):
            network = ipaddress.ip_network((address.packed, length), strict=False)
            if (owner := self.owners.get(network)) is not None:
                return self.endpoints.get(owner)
        return None


@record
class Hop:
    """A tunnel on the way, and the endpoint that it sends to."""

    interface: str
    endpoint: IPAddress


RouteInterface: TypeAlias = "Callable[[IPAddress, int], str | None]"
ViewOf = Callable[[str], TunnelView | None]


def follow(
    home: str,
    endpoint: IPAddress,
    fwmark: int,
    *,
    interface_of: RouteInterface | None = None,
    view: ViewOf | None = None,
) -> tuple[Hop, ...]:
    """The tunnels between ``home`` and ``home`` again, for packets of ``home`` to ``endpoint``. Empty if they
    leave the host, or if it is unknown. Packets come back with the last one's endpoint as their
    destination."""
    interface_of, view = interface_of or route_interface, view or view_of
    hops: list[Hop] = []
    while len(hops) <= HOPS_MAX:
        interface = interface_of(endpoint, fwmark)
        if interface == home:
            return tuple(hops)
        tunnel = None if interface is None else view(interface)
        onward = None if tunnel is None else tunnel.endpoint_for(endpoint)
        if interface is None or tunnel is None or onward is None:
            return ()
        endpoint, fwmark = onward, tunnel.fwmark
        hops.append(Hop(interface, endpoint))
    return ()  # a loop of other tunnels, which are queried for theirs


# ---- routes ----


def route_interface(address: IPAddress, fwmark: int) -> str | None:
    """The interface by which packets with this mark leave for an address. None: there is none, or it is
    unknown."""
    from udpring._native import ffi, lib  # noqa: PLC0415 - ``udpring check`` loads the core only for endpoints

    query = ffi.new("struct udpring_route_query *", {"mark": fwmark})
    query.to.family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    ffi.memmove(query.to.ip, address.packed, len(address.packed))
    request, found = ffi.new("uint8_t[256]"), ffi.new("struct udpring_route_answer *")
    length = lib.udpring_route_request(query, 1, request)
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        ) as sock:
            sock.settimeout(_TIMEOUT)
            sock.sendto(bytes(ffi.buffer(request, length)), (0, 0))
            said = sock.recv(_ROOM)
        if lib.udpring_route_answer(ffi.from_buffer(said), len(said), 1, found) != 0 or found.local:
            return None
        return socket.if_indextoname(found.interface_index)
    except OSError:
        return None


# ---- tunnels ----


def view_of(interface: str) -> TunnelView | None:
    """The forwarding state of a running tunnel. None: the interface is no tunnel, or may not be queried."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(f"{uapi.SOCKET_DIRECTORY}/{interface}.sock")
            return _ask(connection) if _is_here(connection) else None
    except (OSError, ValueError):
        return _ask_wg(interface)


def cached_views() -> ViewOf:
    """``view_of`` that queries each tunnel once."""
    return functools.cache(view_of)


def _is_here(connection: socket.socket) -> bool:
    """Whether the server lives in this network namespace. In another one, the name may be another
    interface's."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = struct.unpack("3i", raw)[0]
    try:
        theirs, ours = os.stat(f"/proc/{pid}/ns/net"), os.stat("/proc/thread-self/ns/net")
    except OSError:
        return True  # no privilege to find out
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _ask(connection: socket.socket) -> TunnelView:
    """The answer, read line by line into one piece of memory, which is zeroed at the end."""
    connection.sendall(b"get=1\n\n")
    view, key = TunnelView(), b""
    room, held, size = bytearray(_ROOM), 0, 0
    until = time.monotonic() + ANSWER_SECONDS
    try:
        while size <= ANSWER_MAX and time.monotonic() < until:
            with memoryview(room) as free:
                got = connection.recv_into(free[held:])
            size += got
            start, end = 0, held + got
            while (stop := room.find(b"\n", start, end)) >= 0:
                if stop == start or not got:
                    return view
                if not room.startswith(_SECRET, start):
                    key = _take(view, key, bytes(room[start:stop]).decode())
                start = stop + 1
            held = end - start
            if not got or held == _ROOM:
                raise ValueError("the answer has no end")
            room[:held] = room[start:end]
        raise ValueError("the answer has no end")
    finally:
        room[:] = bytes(_ROOM)


def _take(view: TunnelView, key: bytes, line: str) -> bytes:
    """Takes one line of an answer. Returns the peer of the next lines."""
    name, _, value = line.partition("=")
    if name == "public_key":
        return bytes.fromhex(value)
    if name == "fwmark":
        view.fwmark = int(value)
    elif name == "allowed_ip":
        view.owners[ipaddress.ip_network(value, strict=False)] = key
    elif name == "endpoint":
        _endpoint(view, key, value)
    return key


def _endpoint(view: TunnelView, key: bytes, value: str) -> None:
    host = value.rpartition(":")[0].strip("[]")
    if "%" not in host:  # a link-local one names its interface
        view.endpoints[key] = ipaddress.ip_address(host)


def _ask_wg(interface: str) -> TunnelView | None:
    """The same for the kernel's WireGuard, without its keys."""
    import shutil  # noqa: PLC0415 - with the modules of compression, which most nodes never use
    import subprocess  # noqa: PLC0415

    if not shutil.which("wg"):
        return None
    view = TunnelView()
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        fwmark = _wg(interface, "fwmark").strip()
        view.fwmark = 0 if fwmark == "off" else int(fwmark, 0)
        for line in _wg(interface, "allowed-ips").splitlines():
            key, _, prefixes = line.partition("\t")
            for prefix in prefixes.split():
                if prefix != "(none)":
                    view.owners[ipaddress.ip_network(prefix, strict=False)] = key.encode()
        for line in _wg(interface, "endpoints").splitlines():
            key, _, endpoint = line.partition("\t")
            if endpoint != "(none)":
                _endpoint(view, key.encode(), endpoint)
        return view
    return None


def _wg(interface: str, what: str) -> str:
    import subprocess  # noqa: PLC0415

    return subprocess.run(
        ["wg", "show", interface, what], capture_output=True, text=True, timeout=_TIMEOUT, check=True
    ).stdout
