"""``udpring pubkey``: the public key of the private key on standard input, as ``wg pubkey``."""

from __future__ import annotations

import argparse
import sys

from udpring.cli import Subparsers
from udpring.errors import UdpringError
from udpring.tunnel import keys

_LIMIT = 4096
_CURE = "44 base64 characters, as udpring genkey prints"


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    subparsers.add_parser(
        "pubkey",
        help="print the public key of a private key",
        description="Read a private key in base64 from standard input and print its public key.",
    )


def run(args: argparse.Namespace) -> int:
    """Reads one key, prints another. Raises UdpringError (exit 1, as ``wg``) when there is none to read."""
    try:
        data = sys.stdin.buffer.read(_LIMIT + 1)
    except OSError as failed:
        raise UdpringError(f"standard input cannot be read: {failed.strerror} ({_CURE})") from None
    text = data.decode("ascii", "replace").rstrip(" \t\r\n\v\f")
    try:
        private = keys.from_base64(text)
    except keys.KeyFormatError as wrong:
        raise UdpringError(f"standard input is not a private key: {wrong} ({_CURE})") from None
    print(keys.to_base64(keys.public_key(private)))
    return 0
