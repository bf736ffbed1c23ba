"""``udpring genpsk``: a new preshared key in base64, as ``wg genpsk``."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers
from udpring.cli.genkey import print_secret
from udpring.tunnel import keys


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    subparsers.add_parser(
        "genpsk",
        help="make a preshared key",
        description="Print a new preshared key in base64. Give it to both peers. Keep it secret.",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the key."""
    print_secret(keys.generate_preshared_key())
    return 0
