"""``udpring bench udp``: datagrams over loopback, with udpring's rings and with the alternatives in
Python."""

from __future__ import annotations

import argparse
import json

from udpring.cli import Subparsers
from udpring_tools.commands.measuring import Between, add_plot_option, ended_by_signals, progress, tier

PATTERNS = ("to-1", "to-64", "to-1000", "sockets-64")
SIZES = ("64", "200", "1200", "1400")
PARTS = ("send", "receive", "both", "receive-singles")
"""The same as in udpring_tools.bench, which is slow to import. A test compares them."""
SECONDS, ROUNDS = 60, 9
QUICK_SECONDS, QUICK_ROUNDS, QUICK_SIZES = 2, 3, ("200", "1200")


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "udp",
        help="measure batches of datagrams against socket, asyncio, uvloop and sendmmsg",
        description="Measure the nanoseconds to send and to receive a datagram over loopback. Compare "
        "SendRing and RecvRing on each tier with loops over socket, with asyncio, with uvloop, "
        "and with sendmmsg and recvmmsg in C. All take short rounds in turn. This needs no "
        "root. If net.core.rmem_max is small, bursts are shorter.",
    )
    parser.add_argument(
        "--only",
        type=_chosen,
        default=((), (), ()),
        metavar="NAMES",
        help=f"measure only these parts, patterns and sizes, of {','.join((*PARTS, *PATTERNS, *SIZES))} "
        "(default: all of each kind)",
    )
    parser.add_argument(
        "--tier",
        type=tier,
        action="append",
        metavar="TIER",
        help="as udpring doctor names it, may be repeated (default: all that work on this host)",
    )
    parser.add_argument(
        "--seconds", type=Between(1, 3600), metavar="N", help=f"total time (default: {SECONDS})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a short run: {QUICK_SECONDS} seconds, {QUICK_ROUNDS} rounds, {' and '.join(QUICK_SIZES)} B",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    add_plot_option(parser)


def _chosen(text: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The named parts, patterns and sizes."""
    names = text.split(",")
    for name in names:
        if name not in (*PARTS, *PATTERNS, *SIZES):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not one of {','.join((*PARTS, *PATTERNS, *SIZES))}"
            )
    parts, patterns, sizes = (
        tuple(each for each in every if each in names) for every in (PARTS, PATTERNS, SIZES)
    )
    return parts, patterns, sizes


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench.plot import require_drawable  # noqa: PLC0415
    from udpring_tools.bench.udp import measure  # noqa: PLC0415
    from udpring_tools.bench.udp_plot import draw  # noqa: PLC0415
    from udpring_tools.bench.udp_table import goals_reached, udp_table  # noqa: PLC0415

    if args.plot:
        require_drawable(args.plot)
    parts, patterns, sizes = args.only
    with ended_by_signals():
        result = measure(
            patterns or PATTERNS,
            [int(size) for size in sizes or (QUICK_SIZES if args.quick else SIZES)],
            parts or PARTS,
            args.tier,
            args.seconds or (QUICK_SECONDS if args.quick else SECONDS),
            QUICK_ROUNDS if args.quick else ROUNDS,
            progress,
        )
    whole = result | {"goals": goals_reached(result)}
    print(json.dumps(whole) if args.json else udp_table(result), flush=True)
    if args.plot:
        draw(result, args.plot)
        progress(f"drawn: {args.plot}")
    return 0
