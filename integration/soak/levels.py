"""The resources of a process, compared with those after warm-up. A leak is a level that keeps rising.

Levels are taken while nothing happens. The highest one during warm-up is the base. Later ones may exceed it
by a stated slack.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Slack:
    """How far a level may exceed its base."""

    share: float = 0.0
    more: int = 0

    def bound(self, base: int) -> int:
        return int(base * (1 + self.share)) + self.more


SLACKS = {
    "rss": Slack(0.15, 8 * MIB),
    "fds": Slack(more=4),
    "threads": Slack(more=2),
    "maps": Slack(0.1, 32),
    "rings": Slack(),
    # Tier uring-pool polls once per receive, and not while the receive has a datagram.
    "ring_polls": Slack(1.0, 16),
}
#: These must always be zero: completions without room, memory that the kernel did not release, events that
#: failed in the control loop.
ZERO = ("ring_overflow", "graveyard", "failures")
#: The address sanitiser keeps freed memory for a while: 256 MiB by default.
SANITIZED_SLACKS = {**SLACKS, "rss": Slack(0.5, 400 * MIB), "maps": Slack(0.5, 2000)}


def measured(pid: int) -> dict[str, int]:
    """The levels of a process from /proc."""
    process = Path(f"/proc/{pid}")
    status = dict(re.findall(r"^(\w+):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
    found = {
        "rss": int(status["VmRSS"]) * 1024,
        "threads": int(status["Threads"]),
        "fds": len(list((process / "fd").iterdir())),
        "maps": len((process / "maps").read_text().splitlines()),
        "rings": 0,
        "ring_overflow": 0,
        "ring_polls": 0,
    }
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if "io_uring" in str(descriptor.readlink()):
                _count_ring((process / "fdinfo" / descriptor.name).read_text(), found)
    return found


def _count_ring(text: str, found: dict[str, int]) -> None:
    """One ring, from its fdinfo (io_uring_show_fdinfo)."""
    found["rings"] += 1
    section = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            section = line.partition(":")[0]
        elif section == "PollList":
            found["ring_polls"] += 1
        elif section == "CqOverflowList":
            found["ring_overflow"] += 1


def cpu_seconds(pid: int) -> float:
    """The CPU time that it has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


@dataclass
class Levels:
    """The levels of one process."""

    slacks: dict[str, Slack]
    warm_after: float
    """Seconds of its life that count as warm-up."""
    least_samples: int = 2
    base: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    series: list[tuple[int, int]] = field(default_factory=list)
    """Age in seconds and resident memory, about once a minute."""
    samples: int = 0

    def take(self, age: float, levels: dict[str, int]) -> list[str]:
        """Takes one sample. Returns the violations."""
        self.last = levels
        self.samples += 1
        if not self.series or age - self.series[-1][0] >= 60:
            self.series.append((int(age), levels.get("rss", 0)))
        wrong = [f"{name} is {levels[name]}, must be 0" for name in ZERO if levels.get(name)]
        if age < self.warm_after or self.samples <= self.least_samples:
            self.base = {name: max(level, self.base.get(name, level)) for name, level in levels.items()}
            return wrong
        for name, slack in self.slacks.items():
            base = self.base.get(name, 0)
            if levels.get(name, 0) > slack.bound(base):
                wrong.append(f"{name} is {levels[name]}, {base} after warm-up, at most {slack.bound(base)}")
        return wrong
