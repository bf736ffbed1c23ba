"""``udpring demo``: two nodes with real traffic between them, run by ``udpring_tools``."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers
from udpring.cli._tools import register_tool, run_tool


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    register_tool(subparsers, "demo", "run two nodes, send traffic between them, print figures")


def run(args: argparse.Namespace) -> int:
    """Runs the demo. Raises HostError where ``udpring_tools`` is not installed."""
    return run_tool("demo", args)
