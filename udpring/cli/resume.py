"""``udpring resume``: takes new sessions again on a paused interface."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers
from udpring.cli._pausing import set_paused


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "resume",
        help="take new sessions again after udpring pause",
        description="Take new sessions again on an interface that udpring pause has paused.",
    )
    parser.add_argument("interface", metavar="IFACE", help="the name of a running interface")


def run(args: argparse.Namespace) -> int:
    """HostError where nothing serves the interface, or another program than udpring does."""
    return set_paused(args.interface, False)
