#!/usr/bin/env python3
"""An HTTP client through the tunnel, without root: rootless_client.py wg0.conf URL. Needs aiohttp."""

import argparse
import asyncio
import socket
import sys
from typing import Any

try:
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
except ImportError:
    raise SystemExit("this example is a client of the package aiohttp: pip install aiohttp") from None

import udpring


class TunnelResolver(AbstractResolver):
    """Looks names up with the name servers of the configuration, through the tunnel."""

    def __init__(self, node: udpring.Node) -> None:
        self._node = node

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp asks."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._node.resolve(host, family)
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def connector(node: udpring.Node) -> aiohttp.TCPConnector:
    """For an aiohttp.ClientSession whose connections go through the tunnel."""

    def make_socket(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol = address[:3]
        return node.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        family=socket.AF_UNSPEC, resolver=TunnelResolver(node), socket_factory=make_socket
    )


async def main(path: str, url: str) -> None:
    """Prints the contents of the URL."""
    config = udpring.Config.load(path)
    async with (
        udpring.Node(config, attachment=udpring.Rootless()) as node,
        aiohttp.ClientSession(connector=connector(node)) as session,
        session.get(url) as response,
    ):
        sys.stdout.buffer.write(await response.read())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a configuration as for wg-quick")
    parser.add_argument("url")
    chosen = parser.parse_args()
    try:
        asyncio.run(main(chosen.file, chosen.url))
    except (udpring.UdpringError, aiohttp.ClientError) as error:
        sys.exit(str(error))
