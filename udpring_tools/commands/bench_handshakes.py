"""``udpring bench handshakes``: handshakes a second, and what a flood of bogus ones does."""

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

PARTS = ("rate", "flood", "loop")
LONG_PARTS = ("tables",)
"""Measured only when ``--only`` names it, because it takes minutes."""


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "handshakes",
        help="measure handshakes a second, and forwarding under a flood of bogus ones",
        description="Measure how many valid handshakes a node answers in a second. Measure how much of its "
        "rate a TCP stream keeps while bogus initiations arrive: random bytes, and random bytes "
        "with a valid mac1. Measure how much later the event loop of a program runs while 10000 of the "
        "latter arrive in a second. Part tables compares the handshakes of a node that has 64000 other "
        "peers.",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="also measure the handshakes of this program, compatible with wireguard-go, with its arguments, "
        "in turn. May be repeated",
    )
    add_run_options(parser, "TCP stream", runs=3)
    parser.add_argument(
        "--rate",
        type=Between(1000, 10_000_000),
        default=100_000,
        metavar="N",
        help="bogus initiations a second (default: 100000)",
    )
    parser.add_argument(
        "--only",
        choices=PARTS + LONG_PARTS,
        help="measure only this part. Part tables takes minutes and runs only when named here",
    )
    add_plot_option(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring_tools.bench import plot  # noqa: PLC0415
    from udpring_tools.bench.handshakes import measure_handshakes  # noqa: PLC0415
    from udpring_tools.bench.program import Program, distinct  # noqa: PLC0415
    from udpring_tools.bench.space import become_root  # noqa: PLC0415

    parts = (args.only,) if args.only else PARTS
    programs = distinct([Program.ours(), *map(Program.parse, args.against)])
    if args.plot:
        plot.require_drawable(args.plot)
    if parts != ("loop",):
        become_root(args.words, progress)
    with ended_by_signals():
        result = measure_handshakes(programs, args.rate, args.seconds, args.runs, progress, parts)
    print(json.dumps(result) if args.json else as_table(result))
    if args.plot:
        plot.draw(result, args.plot)
        progress(f"drawn: {args.plot}")
    return 0


def as_table(result: dict[str, Any]) -> str:
    """The result for people."""
    from udpring_tools.bench.table import grid, head  # noqa: PLC0415

    text = [*head(result, result), ""]
    figures, flood = result["handshakes"], result["flood"]
    if figures:
        text += [
            f"{_median(figures['handshakes_s'], 0)} handshakes/s answered, "
            f"{_median(figures['cpu_ms_per_handshake'], 3)} ms of processor time each, "
            f"{_median(figures['answered_percent'], 1)} % of the initiations",
            "",
        ]
    for other in result["against"]:
        text += [
            f"{_median(other['handshakes_s'], 0)} and {_median(other['cpu_ms_per_handshake'], 3)} ms by "
            f"{other['name']}: ours is {_ratio(other['handshakes_s_ratio'])} of its rate and "
            f"{_ratio(other['cpu_ms_per_handshake_ratio'])} of its time",
            "",
        ]
    if flood:
        lines = [["flood", "TCP Gbit/s", "bogus/s", "of quiet", "of unrelated"]]
        for row in flood["phases"]:
            ratios = (row["kept_of_quiet"], row["kept_of_unrelated"])
            lines.append(
                [
                    row["phase"],
                    _median(row["gbit_s"], 2),
                    _median(row["flood_packets_s"], 0),
                    *map(_ratio, ratios),
                ]
            )
        text += [f"{flood['rate']} bogus initiations a second requested", "", grid(lines, left=1), ""]
    if grown := result["tables"]:
        few, many = (grown[case]["cpu_ms_per_handshake"] for case in ("alone", "among"))
        text += [
            f"{_median(few, 3)} ms of processor time each with 1000 peers, {_median(many, 3)} with "
            f"{grown['peers']} others and {grown['prefixes']} prefixes: "
            f"{_ratio(grown['cpu_ms_per_handshake_ratio'])} times that",
            "",
        ]
    if result["loop"]:
        lines = [["event loop", "delay p50 ms", "p99 ms", "CPU %", "bogus/s"]]
        for row in result["loop"]["situations"]:
            figures = [
                _median(row["p50_ms"], 2),
                _median(row["p99_ms"], 2),
                _median(row["loop_cpu_percent"], 1),
            ]
            lines.append([row["situation"], *figures, _median(row["flood_packets_s"], 0)])
        text += [grid(lines, left=1)]
    return "\n".join(text).rstrip()


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _median(figure: dict[str, Any] | None, digits: int) -> str:
    return f"{figure['median']:.{digits}f}" if figure else "-"
