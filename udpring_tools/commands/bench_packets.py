"""``udpring bench packets``: packets that a program sends through one node and receives from another."""

from __future__ import annotations

import argparse
import json
from typing import Any

from udpring.cli import Subparsers
from udpring_tools.commands.measuring import add_run_options, ended_by_signals, progress, tier


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "packets",
        help="measure packets of a program (node.packets)",
        description="Measure how many packets a program sends through one node without a device and receives "
        "from another, by the processor time of both, with encryption. It needs no root.",
    )
    add_run_options(parser, "size", runs=5)
    parser.add_argument("--tier", type=tier, help="the tier of both nodes (default: the best that works)")


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench.packets import measure_packets  # noqa: PLC0415

    with ended_by_signals():
        result = measure_packets(args.seconds, args.runs, args.tier, progress)
    print(json.dumps(result) if args.json else as_table(result))
    return 0


def as_table(result: dict[str, Any]) -> str:
    """The result for people."""
    from udpring_tools.bench.table import grid, head  # noqa: PLC0415

    lines = [["UDP payload", "packets/s", "packets per CPU-s", "Gbit per CPU-s", "lost"]]
    for row in result["sizes"]:
        rate, by_cpu, gbit, lost = (
            row[name]["median"] for name in ("packets_s", "packets_cpu_s", "gbit_cpu_s", "lost")
        )
        lines.append([f"{row['payload']} B", f"{rate:.0f}", f"{by_cpu:.0f}", f"{gbit:.2f}", f"{lost:.0f}"])
    return "\n".join([*head(result, result), "", grid(lines, left=1)])
