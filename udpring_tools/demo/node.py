"""One node of the demo: reads its configuration from standard input, describes itself, ends when the pipe
closes."""

from __future__ import annotations

import asyncio
import json
import sys

from udpring.errors import UdpringError
from udpring.tunnel.config import Config
from udpring.tunnel.node import Node


async def _run() -> None:
    loop = asyncio.get_running_loop()
    given = json.loads(sys.stdin.readline())
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    async with Node(Config.loads(given["config"]), name=given["name"]) as node:
        _say({"tier": node.tier, "tier_reason": node.tier_reason, "aead": node.aead})
        await closed.wait()


def _say(what: dict[str, str]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(_run())
    except (UdpringError, OSError) as cannot:
        _say({"error": str(cannot)})
        sys.exit(1)
