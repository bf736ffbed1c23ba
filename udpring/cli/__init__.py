"""The commands: one module each, found by ``main``.

A command's module is named as the command and has ``register(subparsers)``, which adds its parser, and
``run(args) -> int``, which does the work and returns the exit code: 0 done, 1 failed, 2 bad usage or
configuration, 3 the host cannot. It raises ConfigError (2), HostError (3) or another UdpringError (1) and
leaves the printing to ``main``. What is slow to import, it imports inside ``run``: every module is imported
to print the help.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TypeAlias

__all__ = ["Subparsers", "open_standard_streams"]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What ``register`` gets, and calls ``add_parser`` on."""


def open_standard_streams() -> None:
    """Puts something in the place of standard streams that the caller closed: no file or socket that is
    opened later gets their numbers.

    What is read from or written to them fails (EBADF), as if they were closed still; only errors go nowhere,
    as there is nobody to tell.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
