"""Measurements between the two nodes of a pair, and their figures.

A figure has a key (its name in the JSON) and one number per run. CPU time is the sum of both nodes, without
the traffic generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from udpring.errors import UdpringError
from udpring_tools.bench import traffic
from udpring_tools.bench.pair import Pair

__all__ = ["FIGURES", "MEASURES", "Figure", "highest_rate", "measure"]

Figures = dict[str, float]
Say = Callable[[str], None]

UDP_SIZES = (64, 1300)
UDP_SECONDS = 2.0
"""The longest step of the search for the highest rate, in seconds."""
LOWEST, HIGHEST = 1e3, 500e3
"""The range of the search, in packets per second."""
STEPS = 8
"""Halvings of that range on a logarithmic scale. The last one is 2.5 % wide."""
LOST_PERCENT = 1.0
OFFERED_PART = 0.9
IDLE_ECHOES, IDLE_GAP = 400, 0.005
LOADED_PER_SECOND = 50


@dataclass(frozen=True, slots=True)
class Figure:
    """The presentation of a figure. ``group``: the panel of the picture, for figures with one unit."""

    key: str
    title: str
    unit: str
    group: str
    lower_is_better: bool = False
    digits: int = 2


TCP_KINDS = (
    ("one", "one stream", 1, False),
    ("reverse", "reverse", 1, True),
    ("four", "4 streams", 4, False),
)
FIGURES = (
    *(Figure(f"tcp_{key}_gbit_s", f"TCP, {title}", "Gbit/s", "TCP") for key, title, _, _ in TCP_KINDS),
    *(
        Figure(f"tcp_{key}_gbit_per_cpu_s", f"TCP, {title}", "Gbit per CPU-s", "TCP per CPU-second")
        for key, title, _, _ in TCP_KINDS
    ),
    *(
        Figure(f"tcp_{key}_cpu_s_per_gbit", f"TCP, {title}", "CPU-s per Gbit", "", True, 3)
        for key, title, _, _ in TCP_KINDS
    ),
    *(
        Figure(f"udp_{size}_packets_s", f"UDP {size} B, lossless", "packets/s", "UDP", digits=0)
        for size in UDP_SIZES
    ),
    *(
        Figure(
            f"udp_{size}_packets_per_cpu_s",
            f"UDP {size} B, at that rate",
            "packets per CPU-s",
            "UDP per CPU-second",
            digits=0,
        )
        for size in UDP_SIZES
    ),
    Figure("rtt_idle_p50_ms", "round trip, idle, p50", "ms", "Round trip, idle", True, 3),
    Figure("rtt_idle_p99_ms", "round trip, idle, p99", "ms", "Round trip, idle", True, 3),
    Figure("rtt_loaded_p50_ms", "round trip, full TCP stream, p50", "ms", "Round trip, loaded", True, 3),
    Figure("rtt_loaded_p99_ms", "round trip, full TCP stream, p99", "ms", "Round trip, loaded", True, 3),
    Figure("resident_mib", "resident memory (PSS), the larger node", "MiB", "Memory", True, 1),
)


def _tcp(pair: Pair, seconds: float, say: Say) -> Figures:
    figures = {}
    for key, title, streams, reverse in TCP_KINDS:
        say(f"TCP, {title}")
        before = pair.cpu_seconds()
        run = traffic.tcp(pair.here, pair.there, pair.target, seconds, streams, reverse)
        used = pair.cpu_seconds() - before
        figures[f"tcp_{key}_gbit_s"] = run.gbit_per_s
        if used and run.gbit:
            figures[f"tcp_{key}_gbit_per_cpu_s"] = run.gbit / used
            figures[f"tcp_{key}_cpu_s_per_gbit"] = used / run.gbit
    return figures


def highest_rate(
    holds: Callable[[float], float | None], low: float = LOWEST, high: float = HIGHEST, steps: int = STEPS
) -> tuple[float, float] | None:
    """Bisection on a logarithmic scale. ``holds(rate)`` returns the cost, or None if packets were lost. A
    rate that does not hold is tried a second time. Returns the highest rate that held and its cost. None if
    none did."""
    best = None
    for _ in range(steps):
        rate = math.sqrt(low * high)
        cost = holds(rate)
        if cost is None:
            cost = holds(rate)
        if cost is None:
            high = rate
        else:
            low, best = rate, (rate, cost)
    return best


def _pps(pair: Pair, seconds: float, say: Say) -> Figures:
    """A rate holds if under 1 % is lost and over 90 % of the requested rate arrives (the generator may be the
    slower part). The figures count arrivals."""
    figures = {}
    for size in UDP_SIZES:
        arrived: dict[float, float] = {}

        def holds(rate: float, size: int = size, arrived: dict[float, float] = arrived) -> float | None:
            say(f"UDP {size} B, {rate / 1e3:.0f} k packets/s")
            before = pair.cpu_seconds()
            run = traffic.udp(pair.here, pair.there, pair.target, min(seconds, UDP_SECONDS), size, rate)
            used = pair.cpu_seconds() - before
            if run.lost_percent >= LOST_PERCENT or run.per_second <= OFFERED_PART * rate:
                return None
            arrived[rate] = run.per_second
            return run.arrived / used if used else math.inf

        best = highest_rate(holds)
        if best is None:
            continue
        figures[f"udp_{size}_packets_s"] = arrived[best[0]]
        if math.isfinite(best[1]):
            figures[f"udp_{size}_packets_per_cpu_s"] = best[1]
    return figures


def _percentiles(trips: traffic.RoundTrips, key: str) -> Figures:
    if not trips.times:
        raise UdpringError(f"not one of {trips.sent} echoes was answered through the tunnel")
    return {
        f"{key}_p50_ms": traffic.percentile(trips.times, 0.5),
        f"{key}_p99_ms": traffic.percentile(trips.times, 0.99),
    }


def _rtt(pair: Pair, seconds: float, say: Say) -> Figures:
    say("round trips, idle")
    return _percentiles(traffic.ping(pair.here, pair.target, IDLE_ECHOES, IDLE_GAP), "rtt_idle")


def _rtt_loaded(pair: Pair, seconds: float, say: Say) -> Figures:
    say("round trips under one TCP stream")
    count = max(10, int(seconds * LOADED_PER_SECOND))
    with traffic.tcp_load(pair.here, pair.there, pair.target, count / LOADED_PER_SECOND + 1):
        trips = traffic.ping(pair.here, pair.target, count, 1 / LOADED_PER_SECOND)
    return _percentiles(trips, "rtt_loaded")


def _memory(pair: Pair, seconds: float, say: Say) -> Figures:
    return {"resident_mib": max(pair.resident_mib())}


MEASURES: dict[str, Callable[[Pair, float, Say], Figures]] = {
    "rtt": _rtt,
    "rtt_loaded": _rtt_loaded,
    "tcp": _tcp,
    "pps": _pps,
    "memory": _memory,
}
"""In the order of measurement: idle before load, memory last."""


def measure(pair: Pair, names: Iterable[str], seconds: float, say: Say) -> Figures:
    """The chosen measures of a pair, in this order."""
    wanted = set(names)
    figures: Figures = {}
    for name, take in MEASURES.items():
        if name in wanted:
            figures |= take(pair, seconds, say)
    return figures
