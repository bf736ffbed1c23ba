"""The way to an intruder (``intruder.py``) inside a confined process."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Attempt", "connected"]

Attempt = Callable[[str], Any]
"""Runs an expression inside: its value, or -errno."""


@contextmanager
def connected(way: Path) -> Iterator[Attempt]:
    """``way``: $UDPRING_INTRUDER."""
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(60)
        there.connect(str(way))
        with there.makefile("rw") as lines:

            def attempt(code: str) -> Any:
                lines.write(code + "\n")
                lines.flush()
                return json.loads(lines.readline())

            yield attempt
