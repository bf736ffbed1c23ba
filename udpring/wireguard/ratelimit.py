"""The limit of handshakes from one source under load: 20 a second, 5 at once.

It applies only after a valid mac2, so the source address is not forged. IPv6 sources count by their /64,
because one host may have a whole /64.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from .constants import RATE_BURST, RATE_PER_SECOND, RATE_TABLE_SIZE, SECOND

__all__ = ["RateLimiter"]

_COST: Final = SECOND // RATE_PER_SECOND
_FULL: Final = _COST * RATE_BURST


class RateLimiter:
    """A token bucket for each source. A source with a full bucket is forgotten. When the table is full of
    busy sources, new ones are refused."""

    __slots__ = ("_buckets", "_size")

    def __init__(self, size: int = RATE_TABLE_SIZE) -> None:
        self._size = size
        self._buckets: dict[
            bytes, tuple[int, int]
        ] = {}  # source: (tokens in ns, at); least recently used first

    def allow(self, ip: bytes, now: int) -> bool:
        """Whether a handshake from this address (4 or 16 bytes) may be answered at ``now`` (ns)."""
        source = _network(ip)
        bucket = self._buckets.pop(source, None)
        if bucket is None:
            self._forget_idle(now)
            if len(self._buckets) >= self._size:
                return False
            self._buckets[source] = (_FULL - _COST, now)
            return True
        tokens, at = bucket
        tokens = min(_FULL, tokens + max(0, now - at))
        allowed = tokens >= _COST
        self._buckets[source] = (tokens - _COST if allowed else tokens, now)
        return allowed

    def _forget_idle(self, now: int) -> None:
        # Two out for each one in keeps the table short at a negligible cost.
        for source, (_, at) in list(islice(self._buckets.items(), 2)):
            if now - at < _FULL:
                break
            del self._buckets[source]

    def __len__(self) -> int:
        return len(self._buckets)


def _network(ip: bytes) -> bytes:
    if len(ip) == 16:
        return ip[12:] if ip.startswith(bytes(10) + b"\xff\xff") else ip[:8]
    return ip
