"""Finds a peer of a running interface by its name, its key, or an address in the tunnel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from udpring.cli._peer_names import names_of
from udpring.errors import ConfigError, HostError, UdpringError
from udpring.tunnel import keys, uapi
from udpring.tunnel.icmp_echo import IPAddress
from udpring.tunnel.link_facts import link_facts
from udpring.tunnel.uapi_client import UapiClient, interfaces

__all__ = ["PEER_HELP", "FoundPeer", "find_peer", "look_again"]

PEER_HELP = "the peer's name, its public key or the beginning of it, or an address in the tunnel"
SHORTEST_KEY = 4
"""Characters of the beginning of a key."""


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer as it is now. ``address``: of its in the tunnel; None: its allowed IPs name no single one."""

    interface: str
    device: uapi.DeviceInfo
    peer: uapi.PeerInfo
    name: str
    address: IPAddress | None

    @property
    def key(self) -> str:
        """The public key in base64."""
        return keys.to_base64(self.peer.public_key)

    @property
    def label(self) -> str:
        """The name, or the key."""
        return self.name or self.key

    @property
    def endpoint(self) -> IPAddress | None:
        """The address of the endpoint."""
        return ipaddress.ip_address(self.peer.endpoint[0]) if self.peer.endpoint else None

    def require_address(self) -> IPAddress:
        """The address in the tunnel. Raises ConfigError without one."""
        if self.address is None:
            raise ConfigError(
                f"the allowed IPs of {self.label} name no single address",
                file="<command line>",
                cure="give the peer's address in the tunnel instead of its name",
            )
        return self.address


def find_peer(word: str, interface: str | None = None) -> FoundPeer:
    """The peer of ``interface``, or of any. Raises ConfigError: none or several match; HostError: nothing
    serves the interface."""
    found = list(_matches(word, interface))
    if len(found) > 1:  # interfaces of all network namespaces have their sockets in one directory
        found = [each for each in found if link_facts(each.interface) is not None] or found
    if not found:
        where = f"{interface} has" if interface else "the running interfaces have"
        raise ConfigError(
            f"{where} no such peer", file="<command line>", text=word, cure=f"use {PEER_HELP}: udpring show"
        )
    if len(found) > 1:
        names = ", ".join(f"{each.interface} {each.key}" for each in found[:4])
        raise ConfigError(
            f"{len(found)} peers match ({names})",
            file="<command line>",
            text=word,
            cure="use the public key, and --interface",
        )
    return found[0]


def look_again(found: FoundPeer) -> FoundPeer:
    """The same peer as it is now. Raises HostError or UdpringError where it is gone."""
    device = UapiClient(found.interface, uapi.SOCKET_DIRECTORY).get()
    for peer in device.peers:
        if peer.public_key == found.peer.public_key:
            return FoundPeer(found.interface, device, peer, found.name, found.address)
    raise UdpringError(f"{found.interface} has lost its peer {found.label}")


def _matches(word: str, interface: str | None) -> Iterator[FoundPeer]:
    try:
        address: IPAddress | None = ipaddress.ip_address(word)
    except ValueError:
        address = None
    best: list[tuple[int, FoundPeer]] = []
    names_to_look_at = [interface] if interface else interfaces(uapi.SOCKET_DIRECTORY)
    if not names_to_look_at:
        raise HostError("no interface runs", cure="start one: udpring up FILE")
    for name in names_to_look_at:
        try:
            device = UapiClient(name, uapi.SOCKET_DIRECTORY).get()
        except UdpringError:
            if interface or len(names_to_look_at) == 1:
                raise
            continue
        device = uapi.DeviceInfo(device.private_key, device.listen_port, device.fwmark, list(device.peers))
        friendly = names_of(name)
        for peer in device.peers:
            its_name = friendly.get(peer.public_key, "")
            if address is not None:
                length = _covers(peer, address)
                if length is not None:
                    best.append((length, FoundPeer(name, device, peer, its_name, address)))
            elif _is_named(word, its_name, keys.to_base64(peer.public_key)):
                yield FoundPeer(name, device, peer, its_name, _single_address(peer))
    longest = max((length for length, _ in best), default=0)
    yield from (found for length, found in best if length == longest)


def _is_named(word: str, name: str, key: str) -> bool:
    return word in (name, key) or (len(word) >= SHORTEST_KEY and key.startswith(word))


def _covers(peer: uapi.PeerInfo, address: IPAddress) -> int | None:
    """The length of the longest allowed IP that has the address."""
    packed = address.packed
    number = int(address)
    width = len(packed) * 8
    lengths = [
        cidr
        for ip, cidr in peer.allowed_ips
        if len(ip) == len(packed) and (number ^ int.from_bytes(ip)) >> (width - cidr) == 0
    ]
    return max(lengths, default=None)


def _single_address(peer: uapi.PeerInfo) -> IPAddress | None:
    """The first allowed IP that is one address."""
    return next((ipaddress.ip_address(ip) for ip, cidr in peer.allowed_ips if cidr == len(ip) * 8), None)
