"""Commands of the package ``udpring_tools``: measurements and the demo.

An installation may omit that package. The commands are listed anyway and say what to install.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from types import ModuleType

from udpring.cli import Subparsers
from udpring.errors import HostError

__all__ = ["register_tool", "run_tool"]

PACKAGE = "udpring_tools"


def _command(name: str) -> ModuleType | None:
    """The module of the command. None: the package is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    return importlib.import_module(f"{PACKAGE}.commands.{name}")


def register_tool(subparsers: Subparsers, name: str, summary: str) -> None:
    """Adds the command. Without the package it accepts any arguments, and ``run_tool`` reports the missing
    package."""
    command = _command(name)
    if command is not None:
        command.register(subparsers)
        return
    parser = subparsers.add_parser(
        name,
        help=f"{summary} (not installed: {PACKAGE})",
        add_help=False,
        prefix_chars="\0",  # options, --help too, are words like others
    )
    parser.add_argument("ignored", nargs="*")


def run_tool(name: str, args: argparse.Namespace) -> int:
    """Runs the command. Raises HostError where the package is not installed."""
    command = _command(name)
    if command is None:
        raise HostError(
            f"udpring {name} needs the Python package {PACKAGE}, which is not installed",
            cure="pip install udpring, or run scripts/bootstrap in a checkout",
        )
    code: int = command.run(args)
    return code
