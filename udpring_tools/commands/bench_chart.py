"""``udpring bench chart``: a result as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from udpring.cli import Subparsers


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "chart",
        help="draw a result that was printed with --json",
        description="Draw a result that udpring bench tunnel, setup, handshakes, peers, udp or uring printed "
        "with --json. This needs udpring[plot].",
    )
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("picture", type=Path, metavar="FILE.png")


def run(args: argparse.Namespace) -> int:
    """Draws it."""
    from udpring.errors import ConfigError  # noqa: PLC0415
    from udpring_tools.bench import plot, udp_plot, uring_plot  # noqa: PLC0415

    plot.require_drawable(args.picture)
    try:
        result = json.loads(args.result.read_text())
    except (OSError, ValueError) as wrong:
        raise ConfigError(f"cannot be read: {wrong}", file=str(args.result)) from None
    kinds = {"rows": uring_plot.draw, "figures": udp_plot.draw}
    found = [kinds[key] for key in kinds if isinstance(result, dict) and key in result]
    try:
        (found[0] if found else plot.draw)(result, args.picture)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            "is not a result that can be drawn",
            file=str(args.result),
            cure="give the output of bench tunnel, setup, handshakes, peers, udp or uring with --json",
        ) from None
    return 0
