"""Resolves the host names of endpoints, without blocking the event loop, until it succeeds.

A numeric endpoint needs no look-up. A thread looks a name up, and tries again after 1, 2, 4 ... 60 seconds,
because the network may come up after the node.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Endpoint
from udpring.tunnel.plane_values import SocketAddress

__all__ = ["Resolver", "look_up"]

AT_ONCE = 4
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

log = logging.getLogger("udpring.node")


def look_up(endpoint: Endpoint) -> SocketAddress:
    """The first address of the endpoint's host. Blocks. Raises OSError (gaierror) if there is none."""
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    for family, _, _, _, where in found:
        if family == socket.AF_INET:
            return SocketAddress(socket.inet_aton(str(where[0])), int(where[1]))
        if family == socket.AF_INET6 and len(where) == 4:
            host = str(where[0]).partition("%")[0]
            return SocketAddress(socket.inet_pton(socket.AF_INET6, host), int(where[1]), int(where[3]))
    raise socket.gaierror(socket.EAI_NONAME, f"no IPv4 or IPv6 address for {endpoint.host}")


class Resolver:
    """One task for each name in resolution, by key. All in the event loop's thread."""

    def __init__(self, look_up: Callable[[Endpoint], SocketAddress] = look_up) -> None:
        self._look_up = look_up
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def resolve(self, key: bytes, endpoint: Endpoint, found: Callable[[SocketAddress], None]) -> None:
        """Calls ``found`` with the address: now if it is numeric, otherwise when the name is resolved.

        Replaces an earlier call for the same ``key``. ``found`` runs in the event loop.
        """
        self.cancel(key)
        address = endpoint.address
        if address is not None:
            found(SocketAddress.parse(str(address), endpoint.port))
            return
        task = asyncio.get_running_loop().create_task(self._try(endpoint, found))
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._ended(key, ended))

    async def settled(self, seconds: float) -> None:
        """Waits until all look-ups so far have succeeded, at most this long."""
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=seconds)

    def cancel(self, key: bytes) -> None:
        """Ends the look-up of this key."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Ends every task. A thread in a look-up ends later."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def _ended(self, key: bytes, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and task.exception() is not None:
            log.error("an endpoint could not be set: %s", task.exception())

    async def _try(self, endpoint: Endpoint, found: Callable[[SocketAddress], None]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._slots:
                    address = await run_blocking(
                        lambda: self._look_up(endpoint), name="udpring-resolve", abandon=True
                    )
            except (OSError, UnicodeError) as failed:
                log.warning("endpoint %s: %s; tried again in %g s", endpoint, failed, pause)
            else:
                log.debug("endpoint %s is at %s", endpoint, address)
                found(address)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
