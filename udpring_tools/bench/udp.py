"""``bench udp``: the cost of a datagram over loopback, with udpring's rings and with the alternatives.

1. For each piece of work (a pattern of destinations, a size), the benchmark finds the longest burst that a
   socket takes without loss. Every contender is set up with its own sockets.
2. Rounds last some milliseconds. The contenders take turns, every other time in reverse. A round sends and
   receives bursts and times the two separately: ``send``, ``receive``, and ``both``. In further rounds the
   datagrams come from another sender, one by one, without trains: ``receive-singles``.
3. A figure is the median of the rounds, in nanoseconds per datagram. A ratio is the other's figure divided by
   udpring's within a round, where both were measured close in time. The result is the median.
4. A round that lost a datagram has no figure. Losses are counted and shown.

The result is a dict of JSON types, as ``--json`` prints it and ``udp_table`` and ``udp_plot`` read it:

    {"udpring", "kernel", "machine", "cpus", "cpu", "began", "load_average": [before, after], "seconds",
    "rounds", "receive_buffer": bytes, "tiers": [name, best first], "left_out": [{"contender", "why"}],
    "figures": [{"pattern", "size", "burst", "part", "contender", "sent", "lost", "ns": {"median", "runs"} or
    null, "ratios": {other contender: number}}]}

A figure of part ``both`` also has "cpu_ns": the CPU time of all threads, in the form of "ns".
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from udpring.errors import UdpringError
from udpring.udp import TIERS, RecvRing
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.udp_contenders import (
    Contender,
    Looped,
    Mmsg,
    Rings,
    Round,
    SocketLoop,
    ThreadedSocketLoop,
)
from udpring_tools.bench.udp_work import PATTERNS, Pair, Pattern, Work, lossless

__all__ = ["PARTS", "PEERS", "WAYS", "contender_of", "contenders_of", "measure"]

Say = Callable[[str], None]
Opener = Callable[[Work], Contender]

PARTS = ("send", "receive", "both", "receive-singles")
TWO_THREADS = "socket, 2 threads"
PEERS = ("socket", TWO_THREADS, "asyncio", "uvloop", "mmsg in C")
WAYS = ("columns", "views", "1 helper", "one ring")
"""Ways to use udpring. A helper works with columns. It and two threads are omitted with a single
destination. ``one ring``: columns, from all receiving sockets. It is omitted where there is only one. The
other ways have a ring for each."""


def contender_of(tier: str, way: str) -> str:
    """The name of udpring on a tier, in one of the WAYS."""
    return f"udpring {tier}, {way}"


def contenders_of(result: dict[str, Any]) -> list[str]:
    """All contenders with figures, alternatives first."""
    ours = [contender_of(tier, way) for tier in result["tiers"] for way in WAYS]
    have = {each["contender"] for each in result["figures"]}
    return [name for name in (*PEERS, *ours) if name in have]


def measure(
    patterns: Sequence[str],
    sizes: Sequence[int],
    parts: Sequence[str],
    tiers: Sequence[str] | None,
    seconds: float,
    rounds: int,
    say: Say,
) -> dict[str, Any]:
    """Takes ``seconds`` in all, plus a little for set-up. ``tiers``: None for all that work here. Raises
    HostError, RingError (a requested tier does not work)."""
    facts = host_facts()
    before = load()
    _settle_allocator()
    openers, usable, left_out = _contenders(tiers)
    for each in left_out:
        say(f"{each['contender']} is left out: {each['why']}")
    works = [(PATTERNS[pattern], size) for pattern in patterns for size in sizes]
    kinds = [fed for fed in (False, True) if any((part == "receive-singles") == fed for part in parts)]
    share = seconds / (len(works) * len(kinds) * len(openers) * rounds)
    figures: list[dict[str, Any]] = []
    for pattern, size in works:
        say(f"{pattern.title}, {size} B")
        here = {name: opener for name, opener in openers.items() if _is_useful(name, pattern)}
        figures += _measure_work(pattern, size, parts, kinds, here, int(share * 1e9), rounds)
    return {
        **facts,
        "load_average": [before, load()],
        "seconds": seconds,
        "rounds": rounds,
        "receive_buffer": _receive_buffer(),
        "tiers": usable,
        "left_out": left_out,
        "figures": figures,
    }


def _contenders(tiers: Sequence[str] | None) -> tuple[dict[str, Opener], list[str], list[dict[str, str]]]:
    """The set-up of each contender, alternatives first; the working tiers; the missing contenders with
    reasons."""
    openers: dict[str, Opener] = {
        "socket": SocketLoop,
        TWO_THREADS: ThreadedSocketLoop,
        "asyncio": lambda work: Looped(work, asyncio.SelectorEventLoop),
    }
    left_out = []
    try:
        new_loop = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        left_out.append({"contender": "uvloop", "why": "it is not installed: pip install uvloop"})
    else:
        openers["uvloop"] = lambda work: Looped(work, new_loop)
    openers["mmsg in C"] = Mmsg
    usable = []
    for tier in tiers or TIERS:
        try:
            with contextlib.closing(Pair()) as pair, RecvRing(pair.inbox, 1, tier=tier):
                usable.append(tier)
        except UdpringError as refused:
            if tiers:
                raise
            left_out.append({"contender": f"udpring {tier}", "why": str(refused)})
            continue
        for way in WAYS:
            openers[contender_of(tier, way)] = lambda work, tier=tier, way=way: Rings(  # type: ignore[misc]
                work, tier, way == "views", way == "1 helper", one_ring=way == "one ring"
            )
    if len(os.sched_getaffinity(0)) < 2:
        for name in [name for name in openers if _is_parallel(name)]:
            del openers[name]
            left_out.append({"contender": name, "why": "it needs two CPUs"})
    return openers, usable, left_out


def _is_useful(contender: str, pattern: Pattern) -> bool:
    if pattern.destinations == 1 and _is_parallel(contender):
        return False
    if pattern.inboxes > 1:
        return contender not in (TWO_THREADS, "mmsg in C") and not contender.endswith("1 helper")
    return not contender.endswith("one ring")


def _is_parallel(contender: str) -> bool:
    """Whether it uses a second thread."""
    return contender == TWO_THREADS or contender.endswith("1 helper")


def _settle_allocator() -> None:
    """asyncio allocates 256 KiB for each datagram. While malloc maps and unmaps that each time, a datagram
    costs several times as much. That depends on the history of the program (mallopt(3), M_MMAP_THRESHOLD).
    asyncio is measured at its best: freeing a large block raises the threshold permanently."""
    bytearray(16 << 20)


def _receive_buffer() -> int:
    with contextlib.closing(Pair()) as pair:
        return pair.inbox.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@dataclass(slots=True)
class _Samples:
    """The rounds of one contender: nanoseconds per datagram, None for a round with a loss."""

    ns: dict[str, list[float | None]] = field(default_factory=dict)
    sent: int = 0
    lost: int = 0

    def add(self, done: Round, fed: bool) -> None:
        self.sent += done.sent
        self.lost += done.lost
        taken = (
            {"receive-singles": done.receive_ns}
            if fed
            else {
                "send": done.send_ns,
                "receive": done.receive_ns,
                "both": done.send_ns + done.receive_ns,
                "cpu": done.cpu_ns,
            }
        )
        for part, ns in taken.items():
            self.ns.setdefault(part, []).append(None if done.lost else ns / done.sent)


def _measure_work(
    pattern: Pattern,
    size: int,
    parts: Sequence[str],
    kinds: Sequence[bool],
    openers: dict[str, Opener],
    budget_ns: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """The figures of one piece of work. ``kinds``: whether another sender sends the datagrams."""
    work = lossless(pattern, size)
    samples: dict[bool, dict[str, _Samples]] = {fed: {name: _Samples() for name in openers} for fed in kinds}
    with contextlib.ExitStack() as closing:
        contenders: dict[str, Contender] = {}
        for name, opener in openers.items():
            contenders[name] = opener(work)
            closing.callback(contenders[name].close)
        for number in range(rounds):
            for fed in kinds:
                for name in contenders if number % 2 == 0 else reversed(contenders):
                    samples[fed][name].add(contenders[name].round(budget_ns, fed), fed)
    return [
        figure
        for part in parts
        for figure in _figures(part, samples[part == "receive-singles"], pattern, work)
    ]


def _figures(part: str, samples: dict[str, _Samples], pattern: Pattern, work: Work) -> list[dict[str, Any]]:
    figures = []
    for name, taken in samples.items():
        ratios = {
            other: ratio(theirs.ns[part], taken.ns[part])
            for other, theirs in samples.items()
            if other != name
        }
        figures.append(
            {
                "pattern": pattern.name,
                "size": work.size,
                "burst": work.burst,
                "part": part,
                "contender": name,
                "sent": taken.sent,
                "lost": taken.lost,
                "ns": spread(taken.ns[part]),
                "ratios": {other: each for other, each in ratios.items() if each is not None},
                **({"cpu_ns": spread(taken.ns["cpu"])} if part == "both" else {}),
            }
        )
    return figures
