"""``udpring bench tunnel``: whole nodes of udpring and of other programs, measured in turn."""

from __future__ import annotations

import argparse
import json

from udpring.cli import Subparsers
from udpring.wireguard.cipher import Cipher
from udpring_tools.commands.measuring import (
    Between,
    add_plot_option,
    add_run_options,
    ended_by_signals,
    progress,
    tier,
)

MEASURES = ("rtt", "rtt_loaded", "tcp", "pps", "memory")
"""The same as in bench/measures.py, which is slow to import. A test compares them."""
CIPHERS = tuple(map(str, Cipher))


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "tunnel",
        help="measure throughput, packet rate, latency, CPU time and memory of two nodes",
        description="Start two nodes of udpring-wg in two network namespaces and measure the tunnel between "
        "them. Do the same with each program given by --against, in turn. Remove everything afterwards. "
        "Without root this works in a user namespace where the host allows that.",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="also measure this program, compatible with wireguard-go, with its arguments. May be repeated",
    )
    parser.add_argument(
        "--rootless",
        action="append",
        default=[],
        choices=("tun", "packet"),
        help="also measure rootless udpring nodes with this device. May be repeated",
    )
    parser.add_argument(
        "--tier",
        type=tier,
        action="append",
        metavar="TIER",
        help="tier of the udpring nodes, may be repeated (default: the best that udpring doctor lists)",
    )
    parser.add_argument(
        "--workers",
        type=Between(1, 16),
        action="append",
        metavar="N",
        help="worker threads of the udpring nodes (default: by the number of cores). May be repeated",
    )
    parser.add_argument(
        "--cipher",
        choices=CIPHERS,
        action="append",
        help="cipher of the udpring nodes (default: chacha20-poly1305). May be repeated. Ratios are "
        "relative to the first",
    )
    add_run_options(parser, "TCP stream", runs=3)
    parser.add_argument(
        "--only",
        type=_measures,
        default=MEASURES,
        metavar="NAMES",
        help=f"measure only these: {','.join(MEASURES)}",
    )
    add_plot_option(parser)


def _measures(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {','.join(MEASURES)}")
    return names


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench import plot, space  # noqa: PLC0415
    from udpring_tools.bench.comparison import compare  # noqa: PLC0415
    from udpring_tools.bench.program import Program, distinct  # noqa: PLC0415
    from udpring_tools.bench.table import comparison_table  # noqa: PLC0415

    ciphers = [Cipher(name) for name in dict.fromkeys(args.cipher or CIPHERS[:1])]
    # Each only once, even if it is given twice.
    tiers, workers = (list(dict.fromkeys(given or [None])) for given in (args.tier, args.workers))
    ours = Program.variants(tiers, ciphers, workers)
    others = [*map(Program.rootless, args.rootless), *map(Program.parse, args.against)]
    programs = distinct([*ours, *others])
    if args.plot:
        plot.require_drawable(args.plot)
    space.become_root(args.words, progress)
    with ended_by_signals():
        result = compare(programs, args.only, args.seconds, args.runs, progress)
    print(json.dumps(result) if args.json else comparison_table(result), flush=True)
    if args.plot:
        plot.draw(result, args.plot)
        progress(f"drawn: {args.plot}")
    return 0
