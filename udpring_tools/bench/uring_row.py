"""A row of ``bench uring``: one kind of work, its figures and its contenders."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["OURS", "Contender", "Place", "Row", "Sample", "Sizes", "package", "program", "timed"]

Sample = dict[str, float]
"""The figures of one measurement."""
OURS = "udpring"
"""How the names of our own contenders begin."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much the rows work on. Tests take less."""

    file_bytes: int = 1 << 30
    """Of the file for random reads."""
    files: int = 1000
    bytes_each: int = 1 << 20
    connections: int = 64
    """Of echo and HTTP."""
    sinks: int = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where and on how much the rows work."""

    folder: Path
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class Contender:
    """``run(seconds)`` measures once. ``needs``: what has to be installed, as ``package`` and ``program``
    say it. Empty if all is there."""

    run: Callable[[float], Sample]
    needs: tuple[str, ...] = ()


@dataclass(slots=True)
class Row:
    """``figures``: keys, with the words for people. ``prepare``: makes files, once, before all runs."""

    name: str
    title: str
    figures: dict[str, str]
    contenders: dict[str, Contender]
    prepare: Callable[[], None] = field(default=lambda: None)

    def missing(self) -> Iterator[tuple[str, str]]:
        """The contenders that cannot be measured here, and why."""
        for name, contender in self.contenders.items():
            if contender.needs:
                yield name, "; ".join(contender.needs)

    def usable(self) -> list[str]:
        """The names of the others."""
        return [name for name, contender in self.contenders.items() if not contender.needs]


def package(*names: str) -> tuple[str, ...]:
    """What is missing of these Python packages."""
    return tuple(
        f"the package {name} is not installed: pip install {name}"
        for name in names
        if importlib.util.find_spec(name) is None
    )


def program(name: str) -> tuple[str, ...]:
    """What is missing of this program. Its Debian package has the same name."""
    return () if shutil.which(name) else (f"{name} is not installed: apt-get install {name}",)


def timed(work: Callable[[], int], seconds: float, repeats: int = 1) -> tuple[int, float, float]:
    """Calls ``work`` once, and then again and again for these seconds, looking at the clock every
    ``repeats`` calls. Returns the sum of its values, the seconds and the CPU seconds of this process."""
    work()
    used, began = time.process_time(), time.perf_counter()
    end = began + seconds
    done = 0
    while True:
        for _ in range(repeats):
            done += work()
        now = time.perf_counter()
        if now >= end:
            return done, now - began, time.process_time() - used
