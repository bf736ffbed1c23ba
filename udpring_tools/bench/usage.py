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
    """Resident memory, where a page that several processes share counts once among them (PSS, of
    proc_pid_smaps_rollup(5))."""
    total = 0
    for pid, _ in _processes(session):
        with contextlib.suppress(OSError):
            found = re.search(
                r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE
            )
            total += int(found[1]) if found else 0
    return total / 1024
