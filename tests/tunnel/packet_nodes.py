"""Nodes without a device on loopback, in this process, and IP packets for them. They need no right."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import uvloop

import udpring
from udpring.tunnel.config import Config, Endpoint, InterfaceConfig, PeerConfig
from udpring.tunnel.keys import generate_private_key, public_key

LOOPS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}
WAIT = 60.0
"""Seconds that a test may take in all."""
IN_FLIGHT = 48 << 10
"""Bytes that are sent before they have arrived: without rights a socket holds 200 KiB, each datagram with
its overhead."""
KEYS = [generate_private_key() for _ in range(3)]
SOURCES = {4: ["10.9.0.1", "10.9.0.2", "10.9.0.3"], 6: ["fd09::1", "fd09::2", "fd09::3"]}


def run(body: Callable[[], Coroutine[Any, Any, None]], loop: str = "asyncio") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT):
            await body()
        assert len(asyncio.all_tasks()) == 1, "a task is left"

    LOOPS[loop](bounded())


def packet(source: str, destination: str, payload: bytes) -> bytes:
    """A UDP packet, without checksums: the tunnel looks at neither."""
    udp = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    from_, to = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    if len(from_) == 4:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + from_ + to + udp
    return struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + from_ + to + udp


def between(sender: int, receiver: int, payload: bytes, version: int = 4) -> bytes:
    """A packet from one node's first address to another's."""
    return packet(SOURCES[version][sender], SOURCES[version][receiver], payload)


def config(
    own: int, *others: int, ports: dict[int, int] | None = None, host: str = "127.0.0.1", **interface: Any
) -> Config:
    """A node that has these others as peers. ``ports``: the UDP ports of those whose endpoint it knows."""
    peers = tuple(
        PeerConfig(
            public_key(KEYS[other]),
            allowed_ips=(
                ipaddress.ip_network(f"10.9.0.{other + 1}/32"),
                ipaddress.ip_network(f"10.{other + 10}.0.0/16"),
                ipaddress.ip_network(f"fd09::{other + 1}/128"),
            ),
            endpoint=Endpoint(host, ports[other]) if ports and other in ports else None,
        )
        for other in others
    )
    return Config(InterfaceConfig(private_key=KEYS[own], **interface), peers)


def node(settings: Config, **options: Any) -> udpring.Node:
    attachment = options.pop("attachment", udpring.Packets())
    return udpring.Node(settings, attachment=attachment, **options)


@contextlib.asynccontextmanager
async def pair(host: str = "127.0.0.1", **options: Any) -> AsyncIterator[tuple[udpring.Node, udpring.Node]]:
    """Two nodes with a session, over which the first has sent a packet."""
    async with node(config(1, 0), **options) as second:
        ports = {1: second.listen_port}
        async with node(config(0, 1, ports=ports, host=host), **options) as first:
            await first.packets.send([between(0, 1, b"first")])
            assert (await second.packets.recv()).payloads() == [between(0, 1, b"first")]
            yield first, second


async def carry(sender: udpring.Node, receiver: udpring.Node, packets: list[bytes]) -> list[bytes]:
    """Sends the packets, a few in flight at a time, and returns those that arrive."""
    arrived: list[bytes] = []
    ports = sender.packets, receiver.packets
    at = 0
    while at < len(packets):
        end, size = at, 0
        while end < len(packets) and size < IN_FLIGHT:
            size += len(packets[end])
            end += 1
        await ports[0].send(packets[at:end])
        while len(arrived) < end:
            arrived += (await ports[1].recv()).payloads()
        at = end
    return arrived


def drops(node: udpring.Node) -> dict[str, int]:
    """The reasons for which it has dropped packets, and how many."""
    return {reason: count for reason, count in node.stats.plane.drops.items() if count}


async def until(condition: Callable[[], object]) -> None:
    """``run`` bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


def with_mtu(settings: Config, mtu: int) -> Config:
    return replace(settings, interface=replace(settings.interface, mtu=mtu))
