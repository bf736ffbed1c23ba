"""A start that may be refused: the command's error, or its success and orderly end."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.space import until


@dataclass(frozen=True)
class Start:
    """``up``: its UAPI socket answered, and SIGTERM ended it. ``said``: lines on standard error."""

    code: int
    said: list[str]
    up: bool


def answers(uapi: Path) -> bool:
    """Whether a process listens there, and answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        try:
            client.connect(str(uapi))
            client.sendall(b"get=1\n\n")
            return b"errno=0" in client.recv(65536)
        except OSError:
            return False


def start(command: Sequence[str], uapi: Path, env: Mapping[str, str] | None = None) -> Start:
    """Runs a node in the foreground until it is up or has ended."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        until(lambda: process.poll() is not None or answers(uapi), "it is up or has ended", 60, 0.02)
        up = process.poll() is None
        if up:
            process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.communicate()
    return Start(process.returncode, said.splitlines(), up)


def check_refused(started: Start, *words: str) -> None:
    """Exit code 3, one line, these words, and a cure in parentheses."""
    assert not started.up
    assert started.code == 3, started
    (line,) = started.said
    assert line.endswith(")"), line
    assert " (" in line
    for word in words:
        assert word in line
