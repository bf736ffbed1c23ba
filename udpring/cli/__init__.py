"""The commands: one module each, found by ``main``.

A command's module is named as the command and has ``register(subparsers)``, which adds its parser, and
``run(args) -> int``, which does the work and returns the exit code: 0 done, 1 failed, 2 bad usage or
configuration, 3 the host cannot. It raises ConfigError (2), HostError (3) or another UdpringError (1) and
leaves the printing to ``main``. What is slow to import, it imports inside ``run``: every module is imported
to print the help.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

__all__ = ["Subparsers"]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What ``register`` gets, and calls ``add_parser`` on."""
