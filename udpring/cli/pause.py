"""``udpring pause``: takes no new sessions on a running interface."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers
from udpring.cli._pausing import set_paused


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "pause",
        help="take no new sessions on an interface",
        description="Take no new sessions on an interface until udpring resume. The node drops initiations, "
        "except of peers whose last handshake is less than 180 seconds old: their sessions live on. "
        "The node still initiates handshakes itself. udpring show says that an interface is paused.",
    )
    parser.add_argument("interface", metavar="IFACE", help="the name of a running interface")


def run(args: argparse.Namespace) -> int:
    """HostError where nothing serves the interface, or another program than udpring does."""
    return set_paused(args.interface, True)
