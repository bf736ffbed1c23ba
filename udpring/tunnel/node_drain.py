"""Waits until the peers of a paused node have ended their work.

Data, not keepalives, makes a peer busy. The plane stamps the first data packet in each direction that nothing
has answered yet (``PeerStamps.owed_since``, ``unanswered_since``). While data flows, one of the two is set at
nearly every moment, and the byte counts grow. A keepalive alone sets no stamp, and a stamp alone only means
that a keepalive will answer it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from udpring.tunnel.keys import to_base64
from udpring.tunnel.tunnel import Tunnel

__all__ = ["LOOK", "busy_peers"]

LOOK = 1.0
"""Seconds between two checks of the peers, or nine times the duration of a check if that is more."""


async def busy_peers(tunnel: Tunnel, timeout: float, quiet: float) -> tuple[str, ...]:
    """Waits until no peer is busy, or ``timeout`` seconds. Returns the public keys of those that are.

    A peer is busy while its last handshake is less than 180 s old and a look has found data of it within the
    last ``quiet`` seconds. At first each peer with such a handshake counts as busy.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    looks: dict[int, _Look] = {}
    while True:
        began = loop.time()
        busy = _busy(tunnel, looks, began, quiet)
        took = loop.time() - began
        left = end - loop.time()
        if not busy or left <= 0:
            return tuple(to_base64(tunnel.device.by_id[number].public_key) for number in busy)
        await asyncio.sleep(min(left, max(LOOK, 9 * took)))


@dataclass(slots=True)
class _Look:
    """Of one peer: its bytes at the last look, and when data was found last."""

    count: int
    data_at: float


def _busy(tunnel: Tunnel, looks: dict[int, _Look], now: float, quiet: float) -> list[int]:
    boot = tunnel.control.clock.boot()
    sessions = [number for number, peer in tunnel.device.by_id.items() if peer.is_established(boot)]
    busy = []
    for number, state in tunnel.states_of(sessions).items():
        count = state.rx_bytes + state.tx_bytes
        look = looks.setdefault(number, _Look(count, now))
        if count != look.count and (state.owed_since or state.unanswered_since):
            look.data_at = now
        look.count = count
        if now - look.data_at < quiet:
            busy.append(number)
    return busy
