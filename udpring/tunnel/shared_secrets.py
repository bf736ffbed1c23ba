"""Computes the shared secrets of peers before their first handshake, a few at a time.

One takes some 50 us. Ten thousand at once would hold the event loop for half a second, so a few are computed
each few milliseconds. A handshake that comes first computes its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from udpring.wireguard.device import Device

__all__ = ["SharedSecrets"]

AT_ONCE = 8
PAUSE = 0.005
BEFORE = 1.0
"""Seconds before the first ones: more requests of ``wg`` may follow."""


class SharedSecrets:
    """Of the peers of one device, in its event loop."""

    def __init__(self, device: Device, *, loop: asyncio.AbstractEventLoop) -> None:
        self._device = device
        self._loop = loop
        self._wanted: dict[int, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def want(self, peers: Iterable[int]) -> None:
        """These peers are new, or the node's key is. Returns at once."""
        if self._device.public_key is None:
            return
        self._wanted.update(dict.fromkeys(peers))
        if self._wanted and self._timer is None:
            self._timer = self._loop.call_later(BEFORE, self._work)

    def stop(self) -> None:
        """No more are wanted."""
        self._wanted = {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _work(self) -> None:
        self._timer = None
        for _ in range(min(AT_ONCE, len(self._wanted))):
            number, _ = self._wanted.popitem()  # the last: before the first, a dict has holes to search
            peer = self._device.by_id.get(number)
            if peer is not None:
                peer.prepare()
        if self._wanted:
            self._timer = self._loop.call_later(PAUSE, self._work)
        else:
            self._wanted = {}  # a cleared one would keep its largest size
