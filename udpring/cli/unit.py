"""``udpring unit``: the systemd unit, for this installation."""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
from pathlib import Path

from udpring.cli import Subparsers
from udpring.errors import HostError

UNIT = "udpring@.service"


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    subparsers.add_parser(
        "unit",
        help="print the systemd unit",
        description="Print a systemd unit that runs this installation of udpring: `udpring unit > "
        "/etc/systemd/system/udpring@.service`, then `systemctl enable --now udpring@wg0`.",
    )


def run(args: argparse.Namespace) -> int:
    """Raises HostError where the installation lacks the unit."""
    program = Path(sys.argv[0]).absolute()
    if program.name != "udpring":  # started as a module
        program = Path(sysconfig.get_path("scripts")) / "udpring"
    sys.stdout.write(re.sub(r"(?<==)/usr/local/bin/udpring(?= )", str(program), _text()))
    return 0


def _text() -> str:
    installed = Path(sysconfig.get_path("data")) / "lib" / "systemd" / "system" / UNIT
    in_checkout = Path(__file__).resolve().parents[2] / "docs" / UNIT
    for path in (in_checkout, installed):
        try:
            return path.read_text()
        except OSError:
            continue
    raise HostError(f"{installed} is missing", cure="install udpring's wheel again")
