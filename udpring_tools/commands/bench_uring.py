"""``udpring bench uring``: io_uring for Python against its alternatives."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from udpring.cli import Subparsers
from udpring_tools.commands.measuring import Between, add_plot_option, ended_by_signals, progress

ROWS = ("nops", "reads", "files", "echo", "sink", "http")
"""The same as in udpring_tools.bench.uring, which is slow to import. A test compares them."""
SECONDS, RUNS = 1, 5


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "uring",
        help="measure rings, files, streams and servers on io_uring against the alternatives",
        description="Measure nops, random reads past the page cache, many files, and servers for echo, "
        "sink and HTTP: udpring.uring against liburing, fio, threads, aiofiles, asyncio and uvloop. All "
        "contenders run in turn. What is not installed is left out, and the result says so. This needs no "
        "root, but 2 GiB in the directory for the files.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=ROWS,
        default=ROWS,
        metavar="ROW",
        help=f"measure only these: {' '.join(ROWS)}",
    )
    parser.add_argument(
        "--seconds",
        type=Between(1, 3600),
        default=SECONDS,
        metavar="N",
        help=f"seconds per contender and run (default: {SECONDS})",
    )
    parser.add_argument(
        "--runs",
        type=Between(1, 1000),
        default=RUNS,
        metavar="N",
        help=f"number of runs, of which the median is taken (default: {RUNS})",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where to make the files for reads and files, which are removed at the end. Its file system "
        "needs O_DIRECT (default: that of temporary files)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    add_plot_option(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench.plot import require_drawable  # noqa: PLC0415
    from udpring_tools.bench.uring import measure  # noqa: PLC0415
    from udpring_tools.bench.uring_plot import draw  # noqa: PLC0415
    from udpring_tools.bench.uring_table import goals_reached, uring_table  # noqa: PLC0415

    if args.plot:
        require_drawable(args.plot)
    with ended_by_signals():
        result = measure(args.only, args.seconds, args.runs, args.directory, progress)
    whole = result | {"goals": goals_reached(result)}
    print(json.dumps(whole) if args.json else uring_table(result), flush=True)
    if args.plot:
        draw(result, args.plot)
        progress(f"drawn: {args.plot}")
    return 0
