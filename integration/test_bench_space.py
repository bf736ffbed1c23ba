"""The benchmarks' namespaces: everything in one ends with the program that made it, in any way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import until
from lab.processes import children, has_ended, text

from udpring_tools.bench.space import Space

TOP = Path(__file__).resolve().parents[1]

# Runs or starts a command in a namespace, after printing the process that holds the namespace.
OWNER = """
import sys
from udpring_tools.bench.space import Space
space = Space()
print(space.pid, flush=True)
if sys.argv[1] == "command":
    space.command("sleep", "60", timeout=60)
else:
    space.spawn("sleep", "60").wait()
"""

ASKED_FOR = """
import ctypes
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
print(number.value)
"""


def child_sleeping(parent: int) -> int:
    """The ``sleep`` started by ``parent``; 0 if there is none yet."""
    return next((pid for pid in children(parent) if text(pid, "comm") == "sleep\n"), 0)


@pytest.mark.parametrize("way", ["command", "spawn"])
def test_what_runs_in_it_ends_with_a_killed_owner(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", OWNER, way],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=TOP,
    ) as owner:
        try:
            assert owner.stdout
            holder = int(owner.stdout.readline())
            running = until(lambda: child_sleeping(owner.pid), "the command runs", timeout=30)
        finally:
            owner.kill()
    until(lambda: has_ended(running), "the command has ended", timeout=30)
    until(lambda: has_ended(holder), "the namespace's holder has ended", timeout=30)


def test_command_without_owner_does_not_start(tmp_path: Path) -> None:
    """Killed between the start of the command and its request for a signal."""
    space = Space()
    try:
        trace = tmp_path / "trace"
        words = space.argv("touch", str(trace))
        orphaned = subprocess.run(["sh", "-c", '"$@"; true', "sh", *words], timeout=30, check=False)
        assert orphaned.returncode == 0
        assert not trace.exists()  # its parent was the shell, not this process
        assert subprocess.run(words, timeout=30, check=False).returncode == 0
        assert trace.exists()
    finally:
        space.close()


def test_commands_are_killed_and_nodes_terminated() -> None:
    space = Space()
    try:
        assert int(space.command(sys.executable, "-P", "-c", ASKED_FOR)) == signal.SIGKILL
        with space.spawn(sys.executable, "-P", "-c", ASKED_FOR) as node:
            assert node.stdout
            assert int(node.stdout.read()) == signal.SIGTERM
    finally:
        space.close()
