"""Endpoints whose route leads into the tunnel itself, directly or through other tunnels of the host. Found in
a configuration before it is used, and at running interfaces.

A packet for such a peer comes back to the interface, is encrypted again, and so on. The plane drops it
(native/tunnel/worker/paths.c, nesting.c). An endpoint that is reached through *another* peer of the same
interface is no loop. It is followed to its end.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from udpring.tunnel.config import Config, IPAddress, Network
from udpring.tunnel.crossed_tunnels import (
    HOPS_MAX,
    Hop,
    RouteInterface,
    ViewOf,
    cached_views,
    follow,
    route_interface,
)
from udpring.tunnel.uapi_values import DeviceInfo, format_endpoint

__all__ = ["Loop", "crossings_of_config", "loops_of_config", "loops_of_device"]

_TIMEOUT = 10.0
ASKED_MAX = 64


@dataclass(frozen=True, slots=True)
class Loop:
    """A peer, by its public key, with the endpoint that cannot be reached. ``prefix``: the allowed IPs by
    which packets come back. ``through``: the other tunnels on the way."""

    public_key: bytes
    endpoint: str
    prefix: Network
    through: tuple[str, ...] = ()

    def __str__(self) -> str:
        way = f" through {', '.join(self.through)}" if self.through else ""
        where = f"{way}, by AllowedIPs {self.prefix}"
        return f"the route to the endpoint {self.endpoint} leads into the tunnel itself{where}"


def loops_of_config(config: Config) -> tuple[Loop, ...]:
    """Loops that ``udpring up`` would make by routes in the main table. A default route (``/0``) makes none,
    because it goes to a table that marked packets do not use. A configuration with a command that names the
    endpoint, or with FwMark and a command that adds a rule, is assumed to handle it."""
    settings = config.interface
    if settings.table != "auto":
        return ()
    commands = " ".join((*settings.pre_up, *settings.post_up))
    if settings.fwmark and "rule" in commands:
        return ()
    endpoints = [
        (peer.public_key, address, str(endpoint))
        for peer in config.peers
        for endpoint in peer.endpoints
        if (address := endpoint.address) is not None and endpoint.host not in commands
    ]
    allowed = {
        peer.public_key: tuple(network for network in peer.allowed_ips if network.prefixlen)
        for peer in config.peers
    }
    return tuple(_loops(endpoints, allowed, lambda address: True))


def crossings_of_config(config: Config) -> tuple[Loop, ...]:
    """Loops that ``udpring up`` would make with running tunnels: an endpoint is reached through one of them,
    whose own endpoint would be reached through this one."""
    settings = config.interface
    commands = " ".join((*settings.pre_up, *settings.post_up))
    if settings.table != "auto" or not shutil.which("ip"):
        return ()
    owners = _Owners({peer.public_key: tuple(peer.allowed_ips) for peer in config.peers})
    view = cached_views()
    found = []
    endpoints = ((peer, endpoint) for peer in config.peers for endpoint in peer.endpoints)
    for peer, endpoint in islice(endpoints, ASKED_MAX):
        if (address := endpoint.address) is None or endpoint.host in commands:
            continue
        for hops, mark in _ways(address, settings.fwmark or 0, view):
            back = owners.find(hops[-1].endpoint)
            if (
                back
                and back[0] == peer.public_key
                and (back[1].prefixlen or _by_default_route(hops[-1].endpoint, mark))
            ):
                through = tuple(hop.interface for hop in hops)
                found.append(Loop(peer.public_key, str(endpoint), back[1], through))
                break
    return tuple(found)


def _ways(address: IPAddress, mark: int, view: ViewOf) -> Iterator[tuple[tuple[Hop, ...], int]]:
    """The tunnels on the way to an address: the first one, the first two, and so on; and the last one's
    mark."""
    hops: tuple[Hop, ...] = ()
    while len(hops) < HOPS_MAX:
        interface = route_interface(address, mark)
        tunnel = None if interface is None else view(interface)
        onward = None if tunnel is None else tunnel.endpoint_for(address)
        if interface is None or tunnel is None or onward is None:
            return
        address, mark = onward, tunnel.fwmark
        hops = (*hops, Hop(interface, onward))
        yield hops, mark


def _by_default_route(address: IPAddress, mark: int) -> bool:
    """Whether only a default route leads there. Then the rules of a default route apply."""
    route = _ip_route("fibmatch", str(address), *(["mark", str(mark)] if mark else []))
    return route is not None and route.get("dst") == "default"


def loops_of_device(
    device: DeviceInfo, interface: str, device_of: RouteInterface | None = None
) -> tuple[Loop, ...]:
    """Loops of a running interface, by the routes of this network namespace. None if the interface is in
    another one. At most ``ASKED_MAX`` endpoints are looked up."""
    if device_of is None:
        if not _is_here(interface) or not shutil.which("ip"):
            return ()
        device_of = route_device
    ask, mark, left = device_of, device.fwmark, iter(range(ASKED_MAX))
    endpoints: list[tuple[bytes, IPAddress, str]] = []
    allowed: dict[bytes, tuple[Network, ...]] = {}
    for peer in device.peers:
        allowed[peer.public_key] = tuple(ipaddress.ip_network(prefix) for prefix in peer.allowed_ips)
        if peer.endpoint is not None and not peer.endpoint[2]:
            address = ipaddress.ip_address(peer.endpoint[0])
            endpoints.append((peer.public_key, address, format_endpoint(*peer.endpoint)))

    def through_tunnel(address: IPAddress) -> bool:
        return next(left, None) is not None and ask(address, mark) == interface

    owners, view = _Owners(allowed), cached_views()

    def crossings() -> Iterator[Loop]:
        for key, address, text in islice(endpoints, ASKED_MAX):
            if hops := follow(interface, address, mark, interface_of=ask, view=view):
                back = owners.find(hops[-1].endpoint)
                if back and back[0] == key:
                    yield Loop(key, text, back[1], tuple(hop.interface for hop in hops))

    return (*_loops(endpoints, allowed, through_tunnel), *crossings())


def _is_here(interface: str) -> bool:
    """Whether it is in this network namespace. /sys may show another one."""
    try:
        return bool(socket.if_nametoindex(interface))
    except OSError:
        return False


def route_device(address: IPAddress, mark: int) -> str | None:
    """As ``ip route get`` prints it."""
    route = _ip_route(str(address), *(["mark", str(mark)] if mark else []))
    return str(route["dev"]) if route and "dev" in route else None


def _ip_route(*words: str) -> dict[str, object] | None:
    command = ["ip", "-json", "route", "get", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        routes = json.loads(done.stdout or "[]")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return routes[0] if routes else None


class _Owners:
    """The owner of the longest prefix that contains an address."""

    def __init__(self, allowed: Mapping[bytes, tuple[Network, ...]]) -> None:
        self._owners = {network: key for key, networks in allowed.items() for network in networks}
        self._lengths = sorted(
            {(network.version, network.prefixlen) for network in self._owners}, reverse=True
        )

    def find(self, address: IPAddress) -> tuple[bytes, Network] | None:
        for version, length in self._lengths:
            if version == address.version:
                network = ipaddress.ip_network((address.packed, length), strict=False)
                if owner := self._owners.get(network):
                    return owner, network
        return None


def _loops(
    endpoints: Sequence[tuple[bytes, IPAddress, str]],
    allowed: Mapping[bytes, tuple[Network, ...]],
    through_tunnel: Callable[[IPAddress], bool],
) -> Iterator[Loop]:
    """``endpoints``: peers with all their endpoints. Each of them may be in use."""
    from udpring._native import lib  # noqa: PLC0415 - ``udpring check`` loads the core only for endpoints

    owners = _Owners(allowed)
    into: dict[bytes, list[tuple[str, bytes, Network]]] = {}
    for key, address, text in endpoints:
        found = owners.find(address)
        if found and through_tunnel(address):
            into.setdefault(key, []).append((text, *found))
    for key, ways in into.items():
        for text, owner, prefix in ways:
            seen = front = {owner}
            for _ in range(lib.UDPRING_LOOP_HOPS_MAX):
                if key in front or not front:
                    break
                front = {each for at in front for _, each, _ in into.get(at, ())} - seen
                seen = seen | front
            if key in front:
                yield Loop(key, text, prefix)
