"""``udpring man``: the manual pages, made from the parser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from udpring.cli import Subparsers
from udpring.errors import ConfigError, UdpringError


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "man",
        help="print a manual page",
        description="Print the manual page of a command, for man(1): `udpring man up | man -l -`. With "
        "--all write all pages to a folder, such as /usr/local/share/man/man8.",
    )
    parser.add_argument("command_name", metavar="COMMAND", nargs="?", help="default: udpring itself")
    parser.add_argument("--all", metavar="DIR", type=Path, help="write each page to a file of this folder")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError for a command that does not exist."""
    from udpring.cli._command_tree import all_commands  # noqa: PLC0415
    from udpring.cli._man_page import man_page, page_name  # noqa: PLC0415

    udpring, wg = all_commands()
    pages = {each.words[-1]: each for each in (udpring, *udpring.children, wg)}
    if args.all is not None:
        try:
            args.all.mkdir(parents=True, exist_ok=True)
            for each in pages.values():
                (args.all / f"{page_name(each)}.8").write_text(man_page(each, udpring.notes))
        except OSError as failed:
            raise UdpringError(f"{args.all}: the pages cannot be written: {failed.strerror}") from None
        return 0
    name = args.command_name or "udpring"
    if name not in pages:
        raise ConfigError(f"no command {name!r}: udpring --help lists them")
    sys.stdout.write(man_page(pages[name], udpring.notes))
    return 0
