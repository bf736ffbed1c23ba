"""``udpring genkey``: a new private key in base64, as ``wg genkey``."""

from __future__ import annotations

import argparse
import os
import stat
import sys

from udpring.cli import Subparsers
from udpring.tunnel import keys


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    subparsers.add_parser(
        "genkey",
        help="make a private key",
        description="Print a new private key in base64. Keep it secret: "
        "(umask 077; udpring genkey > private.key)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the key."""
    print_secret(keys.generate_private_key())
    return 0


def print_secret(key: bytes) -> None:
    """Prints a secret key. Warns if others can read the file that it is written to."""
    mode = os.fstat(sys.stdout.fileno()).st_mode
    if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
        print(
            "udpring: warning: writing to a world accessible file (set the umask to 077 and try again)",
            file=sys.stderr,
        )
    print(keys.to_base64(key))
