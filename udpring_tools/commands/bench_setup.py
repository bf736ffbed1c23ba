"""``udpring bench setup``: start-up, and configuration with very many peers."""

from __future__ import annotations

import argparse
import json

from udpring.cli import Subparsers
from udpring_tools.commands.measuring import Between, add_plot_option, ended_by_signals, progress


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "setup",
        help="measure start-up, and configuration with very many peers",
        description="Start udpring-wg and measure the time until its socket is ready, its memory, and the "
        "time that wg setconf, wg syncconf and wg show take with very many peers. Do the same with each "
        "program given by --against, in turn.",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="also measure this program, compatible with wireguard-go, with its arguments. May be repeated",
    )
    parser.add_argument(
        "--peers", type=Between(1, 65_000), default=10_000, metavar="N", help="peers (default: 10000)"
    )
    parser.add_argument(
        "--runs",
        type=Between(1, 1000),
        default=5,
        metavar="N",
        help="number of runs, of which the median is taken (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    add_plot_option(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench import plot  # noqa: PLC0415
    from udpring_tools.bench.program import Program, distinct  # noqa: PLC0415
    from udpring_tools.bench.setup import FIGURES, measure_setup  # noqa: PLC0415
    from udpring_tools.bench.space import become_root  # noqa: PLC0415
    from udpring_tools.bench.table import figures_grid  # noqa: PLC0415

    programs = distinct([Program.ours(), *map(Program.parse, args.against)])
    if args.plot:
        plot.require_drawable(args.plot)
    become_root(args.words, progress)
    with ended_by_signals():
        result = measure_setup(programs, args.peers, args.runs, progress)
    if args.plot:
        plot.draw(result, args.plot)
        progress(f"drawn: {args.plot}")
    if args.json:
        print(json.dumps(result))
        return 0
    before, after = result["load_average"]
    print(
        f"udpring {result['udpring']} ({result['installation']}), {result['peers']} peers\n"
        f"Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs\n"
        f"{result['began']}: median of {result['runs']} runs; load average {before:g} before, "
        f"{after:g} after\n\n{figures_grid(result, FIGURES)}"
    )
    return 0
