"""``udpring bench peers``: the cost of a packet when the tables are full."""

from __future__ import annotations

import argparse
import json
from typing import Any

from udpring.cli import Subparsers
from udpring_tools.commands.measuring import (
    Between,
    add_plot_option,
    add_run_options,
    ended_by_signals,
    progress,
)


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "peers",
        help="measure the cost of a packet with 1 to 65 000 peers",
        description="Start a pair of nodes for each of four tables: 1 peer, 100 peers with 1 300 prefixes, "
        "10 000 peers with 130 000 prefixes, and 65 000 peers with 500 000 prefixes. Measure the CPU time "
        "of both nodes per packet in turn, at one rate, to addresses spread over the real peer's prefixes.",
    )
    add_run_options(parser, "case", runs=5)
    parser.add_argument(
        "--rate",
        type=Between(100, 10_000_000),
        default=40_000,
        metavar="N",
        help="packets a second (default: 40000)",
    )
    parser.add_argument(
        "--size",
        type=Between(1, 1392),
        default=64,
        metavar="N",
        help="bytes of payload per datagram (default: 64)",
    )
    parser.add_argument(
        "--largest", type=Between(1, 100_000), metavar="N", help="leave out cases with more than N peers"
    )
    add_plot_option(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench import plot  # noqa: PLC0415
    from udpring_tools.bench.peers import CASES, measure_peers  # noqa: PLC0415
    from udpring_tools.bench.program import Program  # noqa: PLC0415
    from udpring_tools.bench.space import become_root  # noqa: PLC0415

    cases = [case for case in CASES if case.peers <= (args.largest or case.peers)]
    if args.plot:
        plot.require_drawable(args.plot)
    become_root(args.words, progress)
    with ended_by_signals():
        result = measure_peers(Program.ours(), cases, args.rate, args.size, args.seconds, args.runs, progress)
    print(json.dumps(result) if args.json else as_table(result))
    if args.plot:
        plot.draw(result, args.plot)
        progress(f"drawn: {args.plot}")
    return 0


def as_table(result: dict[str, Any]) -> str:
    """The result for people."""
    from udpring_tools.bench.table import grid, head  # noqa: PLC0415

    lines = [["peers", "prefixes", "CPU ns/packet", "to one", "packets/s", "lost", "resident", "filled in"]]
    for row in result["cases"]:
        cost, to_one = row["cpu_ns_per_packet"], row["cost_ratio"]
        lines.append(
            [
                f"{row['peers']}",
                f"{row['prefixes']}",
                f"{cost['median']:.0f}" if cost else "-",
                f"{to_one:.3f}" if to_one else "-",
                f"{row['packets_s']['median']:.0f}",
                f"{row['lost_percent']['median']:.2f} %",
                f"{row['resident_mib']:.1f} MiB",
                f"{row['fill_s']:.2f} s",
            ]
        )
    asked = f"UDP {result['size']} B, {result['rate']} packets/s requested"
    return "\n".join([*head(result, result), asked, "", grid(lines, left=0)])
