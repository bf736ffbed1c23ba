"""Processor time and memory of all processes of one session (proc_pid_stat(5))."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_seconds", "resident_mib"]

TICKS = os.sysconf("SC_CLK_TCK")


def _processes(session: int) -> Iterator[tuple[int, list[str]]]:
    """The number of each process, and /proc/PID/stat from the state field on."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session:
                yield int(entry.name), fields


def cpu_seconds(session: int) -> float:
    """User and system time of all threads so far (utime and stime)."""
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _processes(session)) / TICKS


def resident_mib(session: int) -> float:
    """Resident memory (proc_pid_status(5), VmRSS)."""
    total = 0
    for pid, _ in _processes(session):
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            total += int(found[1]) if found else 0
    return total / 1024
