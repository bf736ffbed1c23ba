"""Processes as proc(5) shows them. One that has ended meanwhile, or a thread that has, reads as empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def text(pid: int, name: str) -> str:
    """A file of /proc/PID. Empty: the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on. Empty: the process has ended."""
    return text(pid, "stat").rpartition(")")[2].split()


def has_ended(pid: int) -> bool:
    """Also one whose exit code nobody has collected yet."""
    return (fields(pid) or ["Z"])[0] == "Z"


def parent(pid: int) -> int:
    """0: the process has ended."""
    return int((fields(pid) or ["", "0"])[1])


def every() -> Iterator[int]:
    """The processes of this PID namespace."""
    return (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))


def children(pid: int) -> list[int]:
    return [each for each in every() if parent(each) == pid]


def descendants(pid: int) -> list[int]:
    parents = {each: parent(each) for each in every()}
    found, front = [], {pid}
    while front:
        front = {each for each, above in parents.items() if above in front}
        found += sorted(front)
    return found


def command(pid: int) -> str:
    """Its command line, with spaces between the words."""
    return text(pid, "cmdline").replace("\0", " ").strip()


def status(pid: int, name: str = "status") -> dict[str, str]:
    """The fields of /proc/PID/status."""
    return dict(re.findall(r"^(\w+):\s*(.*)$", text(pid, name), re.MULTILINE))


def thread_statuses(pid: int) -> list[dict[str, str]]:
    """The same of each of its threads."""
    threads = Path("/proc").glob(f"{pid}/task/*/status")
    return [found for each in threads if (found := status(pid, f"task/{each.parent.name}/status"))]
