"""Servers of examples/ as processes, on io_uring and where seccomp denies it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from seccomp import Rule, launcher

from .reactors import PATIENCE

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DENIED = [*launcher(Rule("io_uring_setup", errno.EPERM)), sys.executable]
INTERPRETERS = [
    pytest.param([sys.executable], "io_uring", id="io_uring"),
    pytest.param(DENIED, "readiness", id="denied"),
]


class ExampleServer:
    """An example that says its port first, and ends by a signal."""

    def __init__(self, python: list[str], backend: str, name: str, *arguments: object) -> None:
        words = [*python, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"on port (\d+), (\w+)", first)
        if found is None or found[2] != backend:
            self.process.kill()
            pytest.fail(f"{first}{self.process.communicate()[1]}")
        self.port = int(found[1])

    def descriptors(self) -> list[str]:
        """The targets of its open descriptors, sorted."""
        found = []
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(re.sub(r":\[\d+\]", "", str(entry.readlink())))
        return sorted(found)

    def wait_for_descriptors(self, expected: list[str]) -> None:
        """Waits until it has closed all but these."""
        end = time.monotonic() + PATIENCE
        while (present := self.descriptors()) != expected:
            assert time.monotonic() < end, present
            time.sleep(0.01)

    def signal_all(self, number: int) -> None:
        """Sends a signal to the program and its workers, as a terminal and systemd do."""
        os.killpg(self.process.pid, number)

    def stop(self, number: int = signal.SIGINT) -> str:
        """Sends the signal, and returns the last output. The program must end well."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> str:
        """Waits for the end of the program, which must be a good one. Returns its last output."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, err) == (0, ""), f"{out}{err}"
        return out

    def kill(self) -> None:
        """Ends it anyhow."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def serving(python: list[str], backend: str, name: str, *arguments: object) -> Iterator[ExampleServer]:
    """Runs a server until the block ends, which may stop it."""
    server = ExampleServer(python, backend, name, *arguments)
    try:
        yield server
        if server.process.poll() is None:
            server.stop()
    finally:
        server.kill()
