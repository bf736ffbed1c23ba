"""The result of ``bench udp`` as text, with the ratios that the API should reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from udpring_tools.bench.table import grid
from udpring_tools.bench.udp import PARTS, contender_of, contenders_of
from udpring_tools.bench.udp_work import PATTERNS

__all__ = ["GOALS", "Goal", "goals_reached", "udp_table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The intended ratio of udpring to ``peer`` for send and receive together, from ``least`` on: of the best
    tier, or of every one. A peer that is a tier of udpring should be equally fast, within a tenth."""

    pattern: str
    size: int
    way: str
    peer: str
    least: float
    every_tier: bool = False


GOALS = (
    Goal("to-1", 1200, "columns", "socket", 10),
    Goal("to-1", 1200, "views", "socket", 6),
    Goal("to-1", 200, "columns", "socket", 20),
    Goal("to-64", 1200, "columns", "socket", 3),
    Goal("to-1000", 1200, "columns", "socket", 1.3),
    Goal("to-1000", 1200, "1 helper", "socket", 1.3),
    Goal("to-1", 200, "columns", "asyncio", 20),
    Goal("to-1", 200, "columns", "uvloop", 20),
    Goal("to-1", 1200, "columns", "mmsg in C", 6),
    Goal("to-1", 200, "columns", "mmsg in C", 6),
    Goal("sockets-64", 1200, "columns", "socket", 2, every_tier=True),
    Goal("sockets-64", 1200, "one ring", "socket", 3, every_tier=True),
)
TIERS_ALIKE = (("to-1", 1200), ("to-64", 1200), ("to-1000", 1200), ("sockets-64", 1200))
TENTH = 1.1


def goals_reached(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with figures in the result: ``{"pattern", "size", "way", "peer", "goal", "ratios": {tier:
    number}, "reached": by the best tier}``. The last ones compare tier mmsg with the others."""
    both = {
        (figure["pattern"], figure["size"], figure["contender"]): figure["ratios"]
        for figure in result["figures"]
        if figure["part"] == "both"
    }

    def ratios(pattern: str, size: int, way: str, peer: str) -> dict[str, float]:
        found = {
            tier: both.get((pattern, size, contender_of(tier, way)), {}).get(peer) for tier in result["tiers"]
        }
        return {tier: each for tier, each in found.items() if each is not None}

    lines: list[dict[str, Any]] = []
    for goal in GOALS:
        have = ratios(goal.pattern, goal.size, goal.way, goal.peer)
        if have:
            counted = list(have.values()) if goal.every_tier else [next(iter(have.values()))]
            reached = min(counted) >= goal.least
            lines.append(_line(goal.pattern, goal.size, goal.way, goal.peer, goal.least, have, reached))
    for pattern, size in TIERS_ALIKE:
        # The time of mmsg divided by that of the other tier: more than 1 if mmsg is slower.
        have = ratios(pattern, size, "columns", contender_of("mmsg", "columns"))
        if have:
            reached = all(1 / TENTH <= each <= TENTH for each in have.values())
            lines.append(_line(pattern, size, "columns", "tier mmsg", 1.0, have, reached))
    return lines


def _line(
    pattern: str, size: int, way: str, peer: str, goal: float, ratios: dict[str, float], reached: bool
) -> dict[str, Any]:
    return {
        "pattern": pattern,
        "size": size,
        "way": way,
        "peer": peer,
        "goal": goal,
        "ratios": ratios,
        "reached": reached,
    }


def udp_table(result: dict[str, Any]) -> str:
    """All of it, for people."""
    return "\n".join([*_head(result), *_parts(result), *_goals(result), *_losses(result)])


def _head(result: dict[str, Any]) -> Iterator[str]:
    before, after = result["load_average"]
    yield f"udpring {result['udpring']} on Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs"
    yield (
        f"{result['began']}: median of {result['rounds']} rounds, {result['seconds']:g} s in all; load "
        f"average {before:g} before, {after:g} after; receive buffer {result['receive_buffer']} bytes"
    )
    for each in result["left_out"]:
        yield f"left out: {each['contender']}: {each['why']}"


def _parts(result: dict[str, Any]) -> Iterator[str]:
    """A grid for each pattern and part: nanoseconds, and the ratio to the socket loop. For both parts
    together, also the CPU time of all threads."""
    cells = {
        (each["pattern"], each["part"], each["size"], each["contender"]): each for each in result["figures"]
    }
    contenders = contenders_of(result)
    sizes = list(dict.fromkeys(each["size"] for each in result["figures"]))
    for pattern in dict.fromkeys(each["pattern"] for each in result["figures"]):
        for part in PARTS:
            bursts = sorted({each["burst"] for key, each in cells.items() if key[:2] == (pattern, part)})
            if not bursts:
                continue
            timed = part == "both"
            words = ("x socket", "CPU ns") if timed else ("x socket",)
            lines = [["ns a datagram", *(word for size in sizes for word in (f"{size} B", *words))]]
            for name in contenders:
                if (pattern, part, sizes[0], name) not in cells:
                    continue  # not useful with this pattern
                line = [name]
                for size in sizes:
                    line += _cell(cells[pattern, part, size, name])[: 3 if timed else 2]
                lines.append(line)
            many = " or ".join(map(str, bursts))
            yield f"\n{part}, {PATTERNS[pattern].title}, bursts of {many}"
            yield grid(lines, left=1)


def _cell(figure: dict[str, Any]) -> tuple[str, str, str]:
    if figure["ns"] is None:
        return "lost", "-", "-"
    by_socket, used = figure["ratios"].get("socket"), figure.get("cpu_ns")
    return (
        f"{figure['ns']['median']:.0f}",
        "" if by_socket is None else f"{by_socket:.2f}",
        "" if used is None else f"{used['median']:.0f}",
    )


def _goals(result: dict[str, Any]) -> Iterator[str]:
    goals = goals_reached(result)
    if not goals:
        return
    lines = [["send and receive together", "as fast as", "goal", *result["tiers"], ""]]
    for each in goals:
        goal = "0.91 to 1.10" if each["peer"] == "tier mmsg" else f"{each['goal']:g}"
        have = [each["ratios"].get(tier) for tier in result["tiers"]]
        lines.append(
            [
                f"{PATTERNS[each['pattern']].title}, {each['size']} B, {each['way']}",
                each["peer"],
                goal,
                *("-" if one is None else f"{one:.2f}" for one in have),
                "reached" if each["reached"] else "short",
            ]
        )
    yield "\nGoals of the API, and results here"
    yield grid(lines)


def _losses(result: dict[str, Any]) -> Iterator[str]:
    lossy = [each for each in result["figures"] if each["lost"]]
    sent = sum(each["sent"] for each in result["figures"] if each["part"] in ("both", "receive-singles"))
    if not lossy:
        yield f"\nno datagram was lost of {sent}" if sent else "\nno datagram was lost"
    for each in lossy:
        yield (
            f"lost: {each['lost']} of {each['sent']}: {each['contender']}, {each['part']}, "
            f"{PATTERNS[each['pattern']].title}, {each['size']} B; rounds with a loss do not count"
        )
