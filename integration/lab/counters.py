"""The counters of a running udpring node, read from outside (watched.py)."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from lab.node import Node, Program
from lab.space import until


def watched(directory: Path, script: str = "watched.py") -> Program:
    """udpring-wg with readable counters. One node per directory. ``script``: a program of this folder."""
    program = Path(__file__).with_name(script)
    return Program(
        "udpring", (sys.executable, str(program)), (("UDPRING_COUNTERS", str(directory / "counters.json")),)
    )


def counters(node: Node) -> dict[str, Any]:
    """All current counters."""
    path = Path(dict(node.program.env)["UDPRING_COUNTERS"])
    before = path.stat().st_size if path.exists() else 0
    assert node.process
    os.kill(node.process.pid, signal.SIGUSR1)

    def line() -> bytes:
        written = path.read_bytes()[before:] if path.exists() else b""
        return written if written.endswith(b"\n") else b""

    said: dict[str, Any] = json.loads(until(line, "the counters are written", interval=0.002))
    return said


def drops(node: Node) -> dict[str, int]:
    """Dropped packets by reason, of the plane and of the protocol."""
    said = counters(node)
    found = dict(said["plane"]["drops"])
    for reason, count in said["control"]["dropped"].items():
        found[reason] = found.get(reason, 0) + count
    return found
