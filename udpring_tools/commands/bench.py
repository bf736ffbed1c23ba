"""``udpring bench SUBJECT``: measurements.

Each subject is a module ``bench_SUBJECT`` with the ``register`` and ``run`` of a command. A new subject is
found by its name.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

from udpring.cli import Subparsers
from udpring_tools import commands

_PREFIX = "bench_"


def register(subparsers: Subparsers) -> None:
    """Adds the command and all its subjects."""
    parser = subparsers.add_parser(
        "bench",
        help="measure on this machine",
        description="Measure one subject on this machine and print the figures.",
    )
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for module in pkgutil.iter_modules(commands.__path__):
        if module.name.startswith(_PREFIX):
            importlib.import_module(f"{commands.__name__}.{module.name}").register(subjects)


def run(args: argparse.Namespace) -> int:
    """Runs the subject's module."""
    code: int = importlib.import_module(f"{commands.__name__}.{_PREFIX}{args.subject}").run(args)
    return code
