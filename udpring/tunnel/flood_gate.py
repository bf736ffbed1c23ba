"""Keeps a flood of packets from becoming a flood of log lines."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["FloodGate"]


class FloodGate:
    """Passes ``burst`` log lines of one kind in each ``window`` seconds, and counts those held back."""

    def __init__(
        self, burst: int = 5, window: float = 10.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._window = window
        self._now = now
        self._kinds: dict[str, tuple[float, int]] = {}

    def passes(self, kind: str) -> tuple[bool, int]:
        """Whether a line of this kind may be written now, and how many were held back in the window before.

        ``kind`` must come from a small fixed set: the table has one entry each.
        """
        now = self._now()
        started, count = self._kinds.get(kind, (now, 0))
        held = 0
        if now - started >= self._window:
            held = max(0, count - self._burst)
            started, count = now, 0
        self._kinds[kind] = (started, count + 1)
        return count < self._burst, held
