"""``udpring bench SUBJECT``: measurements, made by ``udpring_tools``."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers
from udpring.cli._tools import register_tool, run_tool


def register(subparsers: Subparsers) -> None:
    """Adds the command and all its subjects."""
    register_tool(subparsers, "bench", "measure on this machine")


def run(args: argparse.Namespace) -> int:
    """Runs the subject. Raises HostError where ``udpring_tools`` is not installed."""
    return run_tool("bench", args)
