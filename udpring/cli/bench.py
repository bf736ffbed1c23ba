"""``udpring bench SUBJECT``: measurements.

One module a subject, ``_bench_SUBJECT``, with the ``register`` and ``run`` of a command; a new one is found
by its name.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

from udpring import cli
from udpring.cli import Subparsers

_PREFIX = "_bench_"


def register(subparsers: Subparsers) -> None:
    """Adds the command and all its subjects."""
    parser = subparsers.add_parser(
        "bench",
        help="measure on this machine",
        description="Measures one thing on this machine and prints the figures.",
    )
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name.startswith(_PREFIX):
            importlib.import_module(f"udpring.cli.{module.name}").register(subjects)


def run(args: argparse.Namespace) -> int:
    """Runs the subject's module."""
    code: int = importlib.import_module(f"udpring.cli.{_PREFIX}{args.subject}").run(args)
    return code
