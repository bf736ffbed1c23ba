"""``udpring bench chart``: a result as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from udpring.cli import Subparsers
from udpring.errors import ConfigError


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
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="RESULT.json",
        help="for a result of udp: also draw udpring's columns of this one, of another version",
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as wrong:
        raise ConfigError(f"cannot be read: {wrong}", file=str(path)) from None


def run(args: argparse.Namespace) -> int:
    """Draws it."""
    from udpring_tools.bench import plot, udp_plot, uring_plot  # noqa: PLC0415

    plot.require_drawable(args.picture)
    result = _read(args.result)
    kinds = {"rows": uring_plot.draw, "figures": udp_plot.draw}
    found = [kinds[key] for key in kinds if isinstance(result, dict) and key in result]
    draw = found[0] if found else plot.draw
    earlier = _read(args.earlier) if args.earlier else None
    if args.earlier:
        for file, given in ((args.result, result), (args.earlier, earlier)):
            if not isinstance(given, dict) or not {"figures", "tiers", "udpring"} <= given.keys():
                raise ConfigError(
                    "is no result of bench udp, which --earlier needs",
                    file=str(file),
                    cure="give two outputs of bench udp with --json",
                )
    try:
        if earlier:
            udp_plot.draw(result, args.picture, earlier)
        else:
            draw(result, args.picture)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            "is not a result that can be drawn",
            file=str(args.result),
            cure="give the output of bench tunnel, setup, handshakes, peers, udp or uring with --json",
        ) from None
    return 0
