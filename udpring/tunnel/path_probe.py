"""What a path takes: the largest packet that is answered, and losses by size and in bursts. By ICMP echo.

Each step is bounded: a size is tried up to TRIES times, a search takes as many steps as halving needs.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from udpring.tunnel.icmp_echo import Answer, EchoSocket, wait_for_answers

__all__ = ["BURST", "EchoProber", "Echoes", "Loss", "largest_answered", "sizes_to_try"]

TRIES = 3
"""A size that is lost so often does not fit."""
BURST = 64
"""Echoes sent at once: as many as a train holds."""
PACE = 0.01
"""Seconds between two echoes of a series."""
LEAST_PATIENCE = 0.2
"""Seconds to wait for an answer, at least: answers of a busy host are late."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Of ``sent`` echoes of ``size`` bytes, ``received`` were answered, after ``seconds`` on average."""

    size: int
    sent: int
    received: int
    seconds: float | None

    @property
    def lost(self) -> int:
        """Echoes without an answer."""
        return self.sent - self.received


class Echoes(Protocol):
    """Sends echoes of a size and counts their answers."""

    def series(self, size: int, count: int, pace: float = PACE, *, enough: int = 0) -> Loss:
        """``count`` echoes, ``pace`` seconds apart. ``enough``: stop after so many answers; 0: never.
        A size that the interface refuses is lost."""


class EchoProber:
    """Echoes of one socket. ``patience``: seconds to wait for the first answers. Later ones have four times
    the longest round trip so far, a fifth of it at least. A series ends where a router says that its packets
    are too big."""

    def __init__(self, echo: EchoSocket, patience: float) -> None:
        self._echo = echo
        self._most = patience
        self._slowest: float | None = None

    @property
    def patience(self) -> float:
        """Seconds to wait after the last echo of a series."""
        if self._slowest is None:
            return self._most
        return min(self._most, max(LEAST_PATIENCE, self._most / 5, 4 * self._slowest))

    @property
    def _too_big(self) -> bool:
        """ICMP: fragmentation needed, packet too big."""
        return self._echo.error is not None and self._echo.error.errno == errno.EMSGSIZE

    def series(self, size: int, count: int, pace: float = PACE, *, enough: int = 0) -> Loss:
        self._echo.forget()
        self._echo.error = None
        times: list[float] = []
        sent = 0
        for _ in range(count):
            sent += 1
            try:
                self._echo.send(size)
            except OSError as refused:
                if refused.errno != errno.EMSGSIZE:
                    raise
                return Loss(size, sent, 0, None)
            self._collect(times, pace if sent < count else self.patience, sent, enough)
            if self._too_big or (enough and len(times) >= enough):
                break
        return Loss(size, sent, len(times), sum(times) / len(times) if times else None)

    def _collect(self, times: list[float], seconds: float, sent: int, enough: int) -> None:
        """Takes answers for so long, or until all have come that are awaited."""
        if not seconds:
            self._take(times, self._echo.answers())
            return
        end = time.monotonic() + seconds
        awaits_all = seconds > PACE
        while time.monotonic() < end:
            enough_came = (enough and len(times) >= enough) or (awaits_all and len(times) >= sent)
            if enough_came or self._too_big:
                return
            for found in wait_for_answers([self._echo], end).values():
                self._take(times, found)

    def _take(self, times: list[float], answers: Sequence[Answer]) -> None:
        for answer in answers:
            times.append(answer.seconds)
            self._slowest = max(self._slowest or 0.0, answer.seconds)


def largest_answered(echoes: Echoes, low: int, high: int) -> int:
    """The size of the largest packet from ``low`` to ``high`` bytes that is answered. 0: not even ``low``
    is."""

    def fits(size: int) -> bool:
        return any(echoes.series(size, 1, enough=1).received for _ in range(TRIES))

    if not fits(low):  # first: its answer also tells how long to wait for others
        return 0
    if fits(high):
        return high
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def sizes_to_try(smallest: int, largest: int) -> list[int]:
    """Sizes of echoes up to the largest, few and spread."""
    usual = (64, 256, 576, 1024, 1280, 1400, 1500, 4000, 9000, 20000, 40000)
    return [*(size for size in usual if smallest <= size < largest), largest]
