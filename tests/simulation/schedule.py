"""Actions drawn from a seed: a list, each some time after the one before.

An action consists of plain values, so a schedule can be printed, shortened and run again. Nodes are numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from .world import MILLISECOND, SECOND

Action = tuple[Any, ...]
"""Nanoseconds after the previous one, a name, and the arguments of the method with that name in nodes.py."""

#: Times of the protocol, and times around them.
TIMES = (5, 10, 15, 25, 90, 120, 165, 180, 540)
SUSPENSIONS = (0.5, 3, 20, 100, 170, 400)
CLOCK_STEPS = (-86400, -3600, -20, -0.5, 0.5, 20, 3600, 86400)
SIZES = (2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 4, 5)
LENGTHS = (6, 10, 16, 24)


@dataclass(slots=True)
class Schedule:
    """``known``: pairs where both ends know the other's address at the start. In other pairs, the first one
    does. ``one_way``: at the end only one of each pair has data to send. ``ending``: the check at the end."""

    seed: int
    nodes: int
    pairs: list[tuple[int, int]]
    known: list[bool]
    keepalives: list[tuple[int, int]]
    real_crypto: bool
    one_way: bool
    ending: str
    actions: list[Action] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.nodes} nodes, pairs {self.pairs}, both known {self.known}, "
            f"keepalives {self.keepalives}, {'real' if self.real_crypto else 'fake'} crypto, "
            f"end: {'one way' if self.one_way else 'both ways'} {self.ending}"
        ]
        lines += [
            f"  {gap / SECOND:10.3f} s later: {name} {arguments}" for gap, name, *arguments in self.actions
        ]
        return "\n".join(lines)


def drawn(seed: int) -> Schedule:
    """The schedule of this seed."""
    rng = random.Random(seed)
    choice = rng.choice
    nodes = choice(SIZES)
    every = [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]
    pairs = every if nodes < 4 else [pair for pair in every if pair[0] == 0 or rng.random() < 0.3]
    schedule = Schedule(
        seed,
        nodes,
        pairs,
        [rng.random() < 0.7 for _ in pairs],
        [(choice((0, 0, 0, 10, 25)), choice((0, 0, 0, 10, 25))) for _ in pairs],
        rng.random() < 0.02,
        rng.random() < 0.4,
        choice(("", "", "", "", "", "idle", "answer", "alive", "dead")),
    )
    for _ in range(choice(LENGTHS)):
        schedule.actions.append((_gap(rng), *_action(rng, nodes, pairs)))
    return schedule


def _gap(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.4:
        return int(rng.random() * 50 * MILLISECOND)
    if kind < 0.7:
        return int(rng.random() * 2 * SECOND)
    if kind < 0.9:
        return int(rng.random() * 20 * SECOND)
    return max(0, rng.choice(TIMES) * SECOND + int((rng.random() - 0.5) * 2 * SECOND))


def _action(rng: random.Random, nodes: int, pairs: list[tuple[int, int]]) -> Action:
    here, there = rng.choice(pairs)
    if rng.random() < 0.5:
        here, there = there, here
    kind = rng.random()
    if kind < 0.5:
        return ("send", here, there, 140 if rng.random() < 0.02 else rng.choice((1, 1, 2, 5)))
    if kind < 0.6:
        least = int(rng.choice((1, 20, 200, 1500)) * MILLISECOND)
        spread = int(rng.choice((0, 10, 300, 3000)) * MILLISECOND)
        return ("path", rng.choice((0.0, 0.1, 0.4, 0.9)), rng.choice((0.0, 0.2)), least, least + spread)
    if kind < 0.65:
        return ("part", here, there, rng.random() < 0.5)
    if kind < 0.70:
        return ("restart", here, int(rng.choice((0, 0.1, 3, 30)) * SECOND))
    if kind < 0.75:
        return (
            "suspend",
            here,
            int(rng.choice(SUSPENSIONS) * SECOND),
            rng.random() < 0.5,
            rng.random() < 0.5,
        )
    if kind < 0.78:
        return ("stall", here, int(rng.choice((0.05, 1, 6, 40)) * SECOND))
    if kind < 0.81:
        return ("clock", here, int(rng.choice(CLOCK_STEPS) * SECOND))
    if kind < 0.85:
        return ("move", here)
    if kind < 0.88:
        return ("readd", here, there, int(rng.choice((0, 0.5, 7)) * SECOND))
    if kind < 0.89:
        return ("no_key", here, int(rng.choice((0.2, 4, 30)) * SECOND))
    if kind < 0.90:
        return ("new_key", here, rng.random() < 0.7)
    if kind < 0.92:
        return ("new_psk", here, there, rng.random() < 0.7)
    if kind < 0.94:
        return ("keepalive", here, there, rng.choice((0, 5, 10, 25)))
    if kind < 0.95:
        return ("interface", here, int(rng.choice((0.2, 4, 30, 200)) * SECOND))
    if kind < 0.97:
        return ("load", here, int(rng.choice((1, 20)) * SECOND))
    return ("replay", rng.randrange(64), rng.randrange(nodes), rng.random() < 0.5)
