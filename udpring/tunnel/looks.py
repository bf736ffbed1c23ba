"""When the control loop looks at the timers of peers that something happened to: soon, and at many at once.

A look is a command of the plane, and takes some 15 us a peer. In a burst of handshakes each turn of the event
loop would have one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["DELAY", "Looks"]

DELAY = 0.01
"""Seconds. All timers of a peer are longer."""


class Looks:
    """``look`` is called in the event loop, and takes the peers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look: Callable[[], None]) -> None:
        self._loop = loop
        self._look = look
        self._peers: dict[int, None] = {}
        self._timer: asyncio.Handle | None = None
        self._is_late = False
        self._running = False

    def start(self) -> None:
        """Looks begin. Before, peers only wait."""
        self._running = True

    def __len__(self) -> int:
        """The peers that wait."""
        return len(self._peers)

    def want(self, peer: int, *, at_once: bool = False) -> None:
        """Looks at the peer once. ``at_once``: at the end of this turn."""
        self._peers[peer] = None
        if at_once and self._is_late:
            self._cancel()
        if self._timer is None and self._running:
            self._is_late = not at_once
            loop, begin = self._loop, self._begin
            self._timer = loop.call_soon(begin) if at_once else loop.call_later(DELAY, begin)

    def _begin(self) -> None:
        self._timer = None
        self._is_late = False
        self._look()

    def take(self, most: int) -> list[int]:
        """Up to so many peers, which wait no longer. The others have the next turn."""
        taken = list(self._peers)[:most]
        for peer in taken:
            del self._peers[peer]
        if self._peers and self._timer is None and self._running:
            self._timer = self._loop.call_soon(self._begin)
        return taken

    def forget(self, peer: int) -> None:
        """No look at this peer is needed."""
        self._peers.pop(peer, None)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._is_late = False

    def stop(self) -> None:
        """No look comes any more."""
        self._running = False
        self._cancel()
        self._peers.clear()
