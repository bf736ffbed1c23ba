"""The lab's view of processes: one that ends while a test looks at it has no facts, and no test fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab import processes, until


def test_living_process_has_facts() -> None:
    with subprocess.Popen([sys.executable, "-P", "-c", "input()", "a word"], stdin=subprocess.PIPE) as child:
        assert not processes.has_ended(child.pid)
        assert processes.parent(child.pid) == os.getpid()
        assert child.pid in processes.children(os.getpid())
        assert child.pid in processes.descendants(os.getppid())
        until(lambda: processes.command(child.pid).endswith("-P -c input() a word"), "it runs its program")
        assert processes.status(child.pid)["Pid"] == str(child.pid)
        assert [each["Pid"] for each in processes.thread_statuses(child.pid)] == [str(child.pid)]
        child.communicate(b"\n", timeout=60)


def test_ended_process_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it ends between the listing and the reading."""
    with subprocess.Popen(["true"]) as child:
        until(lambda: processes.has_ended(child.pid), "it waits for us to collect it")
    monkeypatch.setattr(processes, "every", lambda: iter([os.getpid(), child.pid]))
    monkeypatch.setattr(
        Path, "glob", lambda _, pattern: [Path("/proc") / pattern.replace("*", str(child.pid))]
    )
    assert processes.has_ended(child.pid)
    assert processes.parent(child.pid) == 0
    assert processes.children(os.getpid()) == processes.descendants(os.getpid()) == []
    assert processes.command(child.pid) == ""
    assert processes.status(child.pid) == {}
    assert processes.thread_statuses(child.pid) == []
