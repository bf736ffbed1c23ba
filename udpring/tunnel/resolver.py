"""Resolves the hosts of endpoints without blocking the event loop.

A thread looks a name up. ``resolve`` tries again after 1, 2, 4 ... 60 seconds until it succeeds, because the
network may come up after the node; ``hurry`` ends the pause. ``renew`` looks up once more, and its failure
changes nothing. At most ``AT_ONCE`` look-ups run at once. A numeric endpoint needs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeAlias

from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Endpoint
from udpring.tunnel.host_addresses import ADDRESSES_MAX, host_addresses
from udpring.tunnel.plane_values import SocketAddress

__all__ = ["ADDRESSES_MAX", "Addresses", "Resolver", "look_up", "look_up_all"]

AT_ONCE = 4
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

Addresses: TypeAlias = tuple[SocketAddress, ...]

log = logging.getLogger("udpring.node")


def look_up_all(endpoint: Endpoint) -> Addresses:
    """The addresses of the endpoint's host, in the resolver's order. Blocks. Raises OSError (gaierror) if
    there is none."""
    return tuple(SocketAddress(*each) for each in host_addresses(endpoint.host, endpoint.port))


def look_up(endpoint: Endpoint) -> SocketAddress:
    """The first of ``look_up_all``."""
    return look_up_all(endpoint)[0]


class Resolver:
    """One task for each key in resolution. All in the event loop's thread."""

    def __init__(self, look_up: Callable[[Endpoint], Addresses] = look_up_all) -> None:
        self._look_up = look_up
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._first: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._hurry = asyncio.Event()

    def resolve(self, key: Hashable, endpoint: Endpoint, found: Callable[[Addresses], None]) -> None:
        """Calls ``found`` with the addresses: now if the host is numeric, otherwise when it is resolved.

        Replaces an earlier call for the same ``key``. ``found`` runs in the event loop.
        """
        self.cancel(key)
        address = endpoint.address
        if address is not None:
            found((SocketAddress.parse(str(address), endpoint.port),))
            return
        task = self._begin(key, self._try(endpoint, found))
        self._first.add(task)
        task.add_done_callback(self._first.discard)

    def renew(self, key: Hashable, endpoint: Endpoint, found: Callable[[Addresses], None]) -> None:
        """Looks up once, and calls ``found`` if that succeeds. Does nothing while a look-up for the same
        ``key`` runs."""
        if key not in self._tasks:
            self._begin(key, self._try_once(endpoint, found))

    def hurry(self) -> None:
        """Whoever waits for the next try of ``resolve`` tries now: the network may have come up."""
        self._hurry.set()
        self._hurry = asyncio.Event()

    async def settled(self, seconds: float) -> None:
        """Waits until all calls of ``resolve`` so far have succeeded, at most this long."""
        if self._first:
            await asyncio.wait(set(self._first), timeout=seconds)

    def cancel(self, key: Hashable) -> None:
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

    def _begin(self, key: Hashable, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._ended(key, ended))
        return task

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and task.exception() is not None:
            log.error("an endpoint could not be set: %s", task.exception())

    async def _ask(self, endpoint: Endpoint) -> Addresses:
        async with self._slots:
            return await run_blocking(lambda: self._look_up(endpoint), name="udpring-resolve", abandon=True)

    async def _try(self, endpoint: Endpoint, found: Callable[[Addresses], None]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                addresses = await self._ask(endpoint)
            except (OSError, UnicodeError) as failed:
                log.warning("endpoint %s: %s; tried again in %g s", endpoint, failed, pause)
            else:
                log.debug("endpoint %s is at %s", endpoint, ", ".join(map(str, addresses)))
                found(addresses)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _try_once(self, endpoint: Endpoint, found: Callable[[Addresses], None]) -> None:
        try:
            addresses = await self._ask(endpoint)
        except (OSError, UnicodeError) as failed:
            log.debug("endpoint %s: %s", endpoint, failed)
        else:
            found(addresses)
