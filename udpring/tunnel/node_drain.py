"""Waits until the peers of a paused node have ended their work.

Data, not keepalives, makes a peer busy. The plane stamps the first data packet in each direction that nothing
has answered yet (``PeerStamps.owed_since``, ``unanswered_since``). While data flows, one of the two is set at
nearly every moment. A keepalive answers data after ten seconds and sets none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from udpring.tunnel.keys import to_base64
from udpring.tunnel.tunnel import Tunnel

__all__ = ["LOOK", "busy_peers"]

LOOK = 1.0
"""Seconds between two checks of the peers, or nine times the duration of a check if that is more."""
SECOND = 1_000_000_000


async def busy_peers(tunnel: Tunnel, timeout: float, quiet: float) -> tuple[str, ...]:
    """Waits until no peer is busy, or ``timeout`` seconds. Returns the public keys of those that are.

    A peer is busy while its last handshake is less than 180 s old and a look has found its data unanswered
    within the last ``quiet`` seconds. At first each peer with such a handshake counts as busy.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    seen: dict[int, float] = {}
    first = True
    while True:
        began = loop.time()
        busy = _busy(tunnel, seen, began, quiet, first=first)
        first = False
        took = loop.time() - began
        left = end - loop.time()
        if not busy or left <= 0:
            return tuple(to_base64(tunnel.device.by_id[number].public_key) for number in busy)
        await asyncio.sleep(min(left, max(LOOK, 9 * took)))


def _busy(tunnel: Tunnel, seen: dict[int, float], now: float, quiet: float, *, first: bool) -> Iterable[int]:
    """The busy peers. ``seen``: when each peer was last found to have unanswered data."""
    boot = tunnel.control.clock.boot()
    sessions = [number for number, peer in tunnel.device.by_id.items() if peer.is_established(boot)]
    states = tunnel.states_of(sessions)
    for number in sessions:
        state = states.get(number)
        if first or number not in seen or (state and (state.owed_since or state.unanswered_since)):
            seen[number] = now
    return [number for number in sessions if now - seen[number] < quiet]
