"""Events in order, violations of the oracles, and figures, as a table or as JSON."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

#: Violations kept per oracle. More are only counted.
KEPT = 50


@dataclass
class Happened:
    """One event. Times in seconds since the start."""

    at: float
    kind: str
    what: str = ""
    lasted: float = 0.0
    recovered: float | None = None
    """Time from the end of the event until all traffic flowed again. None: not within its bound."""


@dataclass
class Violation:
    at: float
    oracle: str
    text: str
    during: str


@dataclass
class Verdict:
    """Any thread may add to it."""

    seed: int
    minutes: float
    events: list[Happened] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.now = ""
        self._lock = threading.Lock()

    def age(self) -> float:
        return time.monotonic() - self.began

    def violated(self, oracle: str, text: str) -> None:
        with self._lock:
            self.counts[oracle] = self.counts.get(oracle, 0) + 1
            if self.counts[oracle] <= KEPT:
                self.violations.append(Violation(round(self.age(), 2), oracle, text, self.now))
                self.say(f"VIOLATION ({oracle}) during {self.now or 'calm'}: {text}")

    def say(self, text: str) -> None:
        print(f"{self.age():8.1f} s  {text}", file=sys.stderr, flush=True)

    def json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "lasted": round(self.age(), 1),
            "ok": not self.counts,
            "violations_by_oracle": self.counts,
            "violations": [asdict(each) for each in self.violations],
            "events": [asdict(each) for each in self.events],
            **self.figures,
        }

    def table(self) -> str:
        lines = [f"{'event':24} {'times':>5} {'recovered, median':>18} {'at worst':>9}"]
        for kind in dict.fromkeys(each.kind for each in self.events):
            found = [each for each in self.events if each.kind == kind]
            took = sorted(each.recovered for each in found if each.recovered is not None)
            missed = "" if len(took) == len(found) else f"  {len(found) - len(took)} not in time"
            middle, worst = (f"{took[len(took) // 2]:.2f} s", f"{took[-1]:.2f} s") if took else ("-", "-")
            lines.append(f"{kind:24} {len(found):5} {middle:>18} {worst:>9}{missed}")
        for title in ("levels", "flows"):
            lines.append("")
            lines += [f"{name:24} {what}" for name, what in self.figures.get(title, {}).items()]
        lines.append("")
        lines += [f"{name}: {value}" for name, value in self.figures.items() if not isinstance(value, dict)]
        lines += [f"violation at {each.at:.1f} s ({each.oracle}): {each.text}" for each in self.violations]
        if self.counts:
            lines += ["", "event log:"]
            lines += [f"  {each.at:8.1f} s {each.kind}: {each.what}" for each in self.events]
        lines.append(f"seed {self.seed}: {'violated' if self.counts else 'all held'}")
        return "\n".join(lines)
