"""``udpring down NAME``: ends the process that serves an interface, and waits until it is gone."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers

WAIT_SECONDS = 60.0


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "down",
        help="take a node down",
        description="Ends the node that serves an interface: PreDown and PostDown are run, routes, addresses "
        "and the interface go. Returns when it is gone.",
    )
    parser.add_argument("name", metavar="NAME", help="the interface, or its configuration file")


def run(args: argparse.Namespace) -> int:
    """Asks the process at the other end of the UAPI socket to end."""
    from udpring.tunnel import config  # noqa: PLC0415
    from udpring.tunnel.process import end_server  # noqa: PLC0415

    name, _ = config.locate(args.name)
    end_server(name, WAIT_SECONDS)
    return 0
