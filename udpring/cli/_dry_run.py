"""``udpring up --dry-run``: each step as a command, in order. Nothing is changed.

Someone who runs the lines gets the same interface, routes, DNS and firewall, with a node that ``udpring-wg``
runs. ``wg`` lacks some settings of a peer; a line says so.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator
from pathlib import Path

from udpring.cli._up_node import require_free
from udpring.errors import ConfigError, HostError
from udpring.tunnel.config import Config, IPAddress
from udpring.tunnel.hooks import HookScope, has_hooks
from udpring.tunnel.interface import Plan, plan
from udpring.tunnel.interface_setup import gather
from udpring.tunnel.node import NAMES_WAIT
from udpring.tunnel.refusals import run_loop
from udpring.tunnel.resolver import Addresses, Resolver
from udpring.tunnel.trusted_file import require_trusted
from udpring.wireguard.cipher import Cipher

__all__ = ["plan_of", "refusals", "steps"]


def plan_of(name: str, loaded: Config) -> Plan:
    """The plan for this host as it is now. Looks up names of endpoints, as ``up`` does."""
    wants_mtu = loaded.interface.mtu is None and any(peer.endpoint for peer in loaded.peers)
    endpoints = run_loop(lambda: _addresses(loaded)) if wants_mtu else ()
    return plan(loaded, name, gather(loaded, name, endpoints))


def refusals(name: str, path: Path, loaded: Config) -> Iterator[object]:
    """Why ``up`` would refuse this now."""
    try:
        require_free(name)
    except HostError as taken:
        yield taken
    try:
        if has_hooks(loaded.interface):
            require_trusted(path)
    except ConfigError as refused:
        yield refused


async def _addresses(loaded: Config) -> list[IPAddress]:
    found: dict[bytes, IPAddress] = {}
    resolver = Resolver()
    for peer in loaded.peers:
        if peer.endpoint is None:
            continue

        def take(addresses: Addresses, key: bytes = peer.public_key) -> None:
            found[key] = ipaddress.ip_address(addresses[0].ip)

        resolver.resolve(peer.public_key, peer.endpoint, take)
    try:
        await resolver.settled(NAMES_WAIT)
    finally:
        await resolver.close()
    return list(found.values())


def steps(name: str, path: Path, loaded: Config, planned: Plan) -> Iterator[str]:
    """The lines, as wg-quick prints them. They hold no key."""
    settings = loaded.interface
    scope = HookScope(name, path, settings)
    yield from (f"[#] {scope.text(hook)}" for hook in settings.pre_up)
    word = shlex.quote(name)
    yield f"[#] udpring-wg {word}"
    yield f"[#] wg setconf {word} <(wg-quick strip {shlex.quote(str(path))})"
    for key in _unknown_to_wg(loaded):
        yield f"[!] {key}: udpring up sets it. wg does not know it"
    if planned.fwmark != settings.fwmark:
        yield f"[#] wg set {word} fwmark {planned.fwmark}"
    yield from planned.lines()
    yield from (f"[#] {scope.text(hook)}" for hook in settings.post_up)


def _unknown_to_wg(loaded: Config) -> Iterator[str]:
    if any(peer.cipher is not Cipher.CHACHA20_POLY1305 for peer in loaded.peers):
        yield "Cipher"
    if loaded.interface.offload is not None or any(peer.offload is not None for peer in loaded.peers):
        yield "Offload"
    if any(peer.fallbacks for peer in loaded.peers):
        yield "a second Endpoint"
