"""Answers the plane's question whether packets of a peer that is reached through another tunnel come back.

The plane drops packets that may multiply until it has an answer (native/tunnel/worker/nesting.c). The answer
needs other processes, so a thread finds it, one at a time for all waiting peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
from collections.abc import Callable

from udpring.errors import HostError, RingError
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.control_reports import RoutingLoops
from udpring.tunnel.crossed_tunnels import Hop, ViewOf, follow, view_of
from udpring.tunnel.plane import Plane
from udpring.tunnel.plane_values import SocketAddress

__all__ = ["Nesting"]

REST = 9
"""The pause after a look-up, as a multiple of its duration."""
REST_MAX = 1.0

log = logging.getLogger("udpring.node")


class Nesting:
    """``fwmark``: the present mark of the plane's sockets. ``view``: tells the state of another tunnel."""

    def __init__(
        self,
        plane: Plane,
        loops: RoutingLoops,
        *,
        loop: asyncio.AbstractEventLoop,
        fwmark: Callable[[], int],
        view: ViewOf = view_of,
    ) -> None:
        self._plane = plane
        self._loops = loops
        self._loop = loop
        self._fwmark = fwmark
        self._view = view
        self._waiting: dict[int, None] = {}
        self._task: asyncio.Task[None] | None = None

    def ask(self, peer: int) -> None:
        """The plane has asked about this peer."""
        self._waiting[peer] = None
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    def stop(self) -> None:
        """No more answers are wanted."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                began = self._loop.time()
                try:
                    await self._answer(list(waiting))
                except HostError as denied:
                    log.debug("%s: no answer yet: %s", self._plane.name, denied)
                await asyncio.sleep(min(REST * (self._loop.time() - began), REST_MAX))
        finally:
            self._task = None

    async def _answer(self, peers: list[int]) -> None:
        endpoints: dict[int, SocketAddress] = {}
        for peer in peers:
            with contextlib.suppress(RingError):  # the peer is gone
                if (endpoint := self._plane.peer_state(peer).endpoint) is not None:
                    endpoints[peer] = endpoint
        home, fwmark = self._plane.name, self._fwmark()

        def look() -> dict[int, tuple[Hop, ...]]:
            view = functools.cache(self._view)
            return {
                peer: follow(home, ipaddress.ip_address(endpoint.ip), fwmark, view=view)
                for peer, endpoint in endpoints.items()
            }

        for peer, hops in (await run_blocking(look, name="udpring-nesting", abandon=True)).items():
            back = SocketAddress(hops[-1].endpoint.packed, 0) if hops else None
            with contextlib.suppress(RingError):
                loops = self._plane.nested(peer, back)
                self._loops.leads_out(peer, loops, through=", ".join(hop.interface for hop in hops))
