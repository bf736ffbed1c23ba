"""``udpring bench embedding``: the ways into a tunnel without root, against a node with root."""

from __future__ import annotations

import argparse
import json

from udpring.cli import Subparsers
from udpring_tools.commands.measuring import add_run_options, ended_by_signals, progress

STEPS = ("tun", "packet", "proxy", "packets")
"""The same as in bench/embedding.py, which is slow to import. A test compares them."""


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "embedding",
        help="measure rootless nodes, the SOCKS proxy and packets of a program against a node with root",
        description="Measure TCP through two nodes with root, through two rootless nodes with each device, "
        "and through `udpring proxy --socks`, and packets of a program (node.packets). All are measured in "
        "each run, in turn. Without root this works in a user namespace where the host allows that.",
    )
    add_run_options(parser, "TCP stream", runs=5)
    parser.add_argument(
        "--only", type=_steps, default=STEPS, metavar="NAMES", help=f"measure only these: {','.join(STEPS)}"
    )


def _steps(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in STEPS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {','.join(STEPS)}")
    return names


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench import space  # noqa: PLC0415
    from udpring_tools.bench.embedding import embedding_table, measure_embedding  # noqa: PLC0415

    space.become_root(args.words, progress)
    with ended_by_signals():
        result = measure_embedding(args.only, args.seconds, args.runs, progress)
    print(json.dumps(result) if args.json else embedding_table(result), flush=True)
    return 0
