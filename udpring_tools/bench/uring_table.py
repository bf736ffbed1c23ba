"""The result of ``bench uring`` as text, with the ratios that udpring should reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from udpring_tools.bench.table import grid

__all__ = ["GOALS", "Goal", "goals_reached", "uring_table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The ratio of ``of`` to ``to`` that a figure of a row should reach: at least ``bound``, or at most."""

    row: str
    of: str
    to: str
    figure: str
    bound: float
    at_most: bool = False

    def reached(self, ratio: float) -> bool:
        """Whether this ratio is good enough."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound


GOALS = (
    Goal("nops", "udpring prepared", "liburing", "nops_cpu_s", 2),
    Goal("reads", "udpring", "fio io_uring", "reads_s", 0.8),
    Goal("reads", "udpring", "preadv loop", "reads_s", 3),
    Goal("reads", "udpring", "pool of 8 threads", "cpu_us_read", 0.5, at_most=True),
    Goal("files", "udpring read_files", "open().read()", "files_s", 1),
    Goal("files", "udpring read_files", "aiofiles", "files_s", 2),
    Goal("echo", "udpring net", "uvloop", "messages_cpu_s", 1.5),
    Goal("echo", "udpring net", "asyncio", "messages_cpu_s", 3),
    Goal("echo", "udpring net", "uvloop", "p99_ms", 1, at_most=True),
    Goal("sink", "udpring net", "uvloop", "gbit_cpu_s", 1.5),
    Goal("http", "udpring + httptools", "uvloop + httptools", "requests_s", 1),
    Goal("http", "udpring + httptools", "asyncio + h11", "requests_s", 3),
)


def goals_reached(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with a ratio in the result: ``{"row", "of", "to", "figure", "goal": "at least 2", "ratio",
    "reached"}``."""
    ratios = {
        (row["row"], each["of"], each["to"]): each["figures"]
        for row in result["rows"]
        for each in row["ratios"]
    }
    lines = []
    for goal in GOALS:
        ratio = ratios.get((goal.row, goal.of, goal.to), {}).get(goal.figure)
        if ratio is not None:
            lines.append(
                {
                    "row": goal.row,
                    "of": goal.of,
                    "to": goal.to,
                    "figure": goal.figure,
                    "goal": f"at {'most' if goal.at_most else 'least'} {goal.bound:g}",
                    "ratio": ratio,
                    "reached": goal.reached(ratio),
                }
            )
    return lines


def uring_table(result: dict[str, Any]) -> str:
    """All of it, for people."""
    return "\n".join([*_head(result), *_rows(result), *_goals(result)])


def _head(result: dict[str, Any]) -> Iterator[str]:
    before, after = result["load_average"]
    runs = result["runs"]
    yield f"udpring {result['udpring']} on Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs"
    yield (
        f"{result['began']}: median of {runs} run{'s' if runs > 1 else ''}, {result['seconds']:g} s each; "
        f"load average {before:g} before, {after:g} after"
    )
    for each in result["left_out"]:
        yield f"left out: {each['row']}{each['contender'] and ', '}{each['contender']}: {each['why']}"


def number(value: float) -> str:
    """With about three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rows(result: dict[str, Any]) -> Iterator[str]:
    for row in result["rows"]:
        keys = list(row["figures"])
        lines = [["", *row["figures"].values()]]
        for each in row["contenders"]:
            figures = each["figures"]
            cells = [number(figures[key]["median"]) if key in figures else "-" for key in keys]
            lines.append([each["contender"], *cells])
        yield f"\n{row['row']}: {row['title']}"
        yield grid(lines, left=1)


def _goals(result: dict[str, Any]) -> Iterator[str]:
    goals = goals_reached(result)
    if not goals:
        return
    words = {key: text for row in result["rows"] for key, text in row["figures"].items()}
    lines = [["row", "ratio of", "to", "figure", "goal", "here", ""]]
    for each in goals:
        state = "reached" if each["reached"] else "short"
        cells = [each["row"], each["of"], each["to"], words[each["figure"]], each["goal"]]
        lines.append([*cells, f"{each['ratio']:.2f}", state])
    yield "\nGoals, and results here"
    yield grid(lines, left=4)
