"""Removes the leftovers of a killed test run: after `kill -9` or a time-out of pytest no finalizer runs.

A child process in its own session reads prefixes from a pipe: ``+PREFIX`` when something is made with it, and
``-PREFIX`` when that is gone again. The pipe ends with the test run, in any way. Then the child removes
everything that is still open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

UAPI = Path("/var/run/wireguard")
NAMESPACES = Path("/run/netns")


class Reaper:
    """The near end. One per process, started at the first prefix."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def _say(self, line: str) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                start_new_session=True,
                env={"PATH": os.environ["PATH"]},
            )
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def watch(self, prefix: str) -> None:
        self._say(f"+{prefix}")

    def forget(self, prefix: str) -> None:
        self._say(f"-{prefix}")

    def close(self) -> None:
        """The end of the run: everything still registered is removed now."""
        if self._process is not None:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait(60)
            self._process = None


def reap(prefix: str) -> None:
    """Removes processes, namespaces and socket files of one prefix."""
    for space in NAMESPACES.glob(f"{prefix}*"):
        pids = subprocess.run(
            ["ip", "netns", "pids", space.name], capture_output=True, text=True, check=False
        )
        for pid in pids.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", space.name], check=False)
    for path in UAPI.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def main() -> None:
    # Ctrl-C and SIGTERM after a time-out are for the test run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    open_prefixes: set[str] = set()
    for line in sys.stdin:
        prefix = line[1:].strip()
        if line.startswith("+"):
            open_prefixes.add(prefix)
        else:
            open_prefixes.discard(prefix)
    for prefix in open_prefixes:
        reap(prefix)


if __name__ == "__main__":
    main()
