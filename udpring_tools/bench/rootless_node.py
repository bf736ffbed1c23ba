"""A rootless node that ``wg`` configures: ``-m udpring_tools.bench.rootless_node DEVICE -f IFACE``.

It logs the same as ``udpring-wg`` when it is up, and the process whose namespaces hold the interface.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from udpring.tunnel.ciphers import aead_in_words
from udpring.tunnel.config import Config, InterfaceConfig
from udpring.tunnel.daemon import stop_signal
from udpring.tunnel.node import Node
from udpring.tunnel.rootless import AttachedRootless, Rootless

__all__ = ["main"]


async def main(device: str, interface: str) -> None:
    """Serves until SIGTERM."""
    kind = next(each for each in ("tun", "packet", "auto") if each == device)
    stop = stop_signal(asyncio.get_running_loop())
    node = Node(
        Config(InterfaceConfig()), name=interface, attachment=Rootless(kind), uapi=True, key_later=True
    )
    async with node:
        attached = node._attached_of()
        assert isinstance(attached, AttachedRootless)
        stats = node.stats.plane
        print(
            f"{node.name} is up: tier {node.tier} ({node.tier_reason}), AEAD {aead_in_words()}, "
            f"{stats.workers} workers, UDP port {node.listen_port}, inside of process {attached.spaces.pid}",
            file=sys.stderr,
            flush=True,
        )
        await stop


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(sys.argv[1], sys.argv[3]))
