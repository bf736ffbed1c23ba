"""``udpring demo``: two nodes in two network namespaces, real traffic through the tunnel, and its figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import signal
import statistics
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from udpring import __version__
from udpring.cli import Subparsers
from udpring.errors import HostError

FAMILIES = ("IPv4", "IPv6")
COLUMNS = (
    ("outer", "outer", ""),
    ("inner", "inner", ""),
    ("handshake_ms", "handshake", " ms"),
    ("rtt_p50_ms", "rtt p50", " ms"),
    ("rtt_p99_ms", "rtt p99", " ms"),
    ("echoes_lost", "lost", ""),
    ("tcp_forward_gbit_s", "TCP a->b", " Gbit/s"),
    ("tcp_reverse_gbit_s", "TCP b->a", " Gbit/s"),
    ("gbit_per_cpu_s", "per CPU second", " Gbit"),
)


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "demo",
        help="run two nodes, send traffic between them, print figures",
        description="Start two nodes in two network namespaces and measure the tunnel between them, over "
        "IPv4 and IPv6, inside and outside: the first packet with its handshake, round trips, "
        "and one TCP stream each way. Remove everything afterwards. Without root this works in "
        "a user namespace where the host allows that.",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="N", help="seconds per TCP stream (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--against",
        nargs="?",
        const="wireguard-go",
        metavar="PROGRAM",
        help="also measure a program compatible with wireguard-go, and print the ratio (default: "
        "wireguard-go)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.1 to 3600")
    return value


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Progress goes to standard error."""
    from udpring.tunnel.plane_options import offload_flags, plane_tier, workers_asked  # noqa: PLC0415
    from udpring_tools.bench.space import become_root, require_tools  # noqa: PLC0415

    # The nodes read them from the environment. A wrong one must fail before anything is made.
    plane_tier("auto")
    offload_flags(None)
    workers_asked(None)
    require_tools("ip", "nsenter", "setpriv", "unshare")
    if args.against and not shutil.which(args.against.split()[0]):
        raise HostError(f"{args.against} is not installed", cure=f"apt-get install {args.against.split()[0]}")
    become_root(args.words, _progress)
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = _measure(args)
    finally:
        signal.signal(signal.SIGTERM, former)
    if args.json:
        print(json.dumps(result))
    else:
        _print_table(result)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _progress(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    from udpring_tools.demo.lab import Lab  # noqa: PLC0415

    programs: list[str | None] = [None, *([args.against] if args.against else [])]
    result: dict[str, Any] = {
        "udpring": __version__,
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "seconds": args.seconds,
    }
    with Lab() as lab:
        for program in programs:
            rows = []
            for outer in FAMILIES:
                for inner in FAMILIES:
                    measured, facts = lab.measure(program, outer, inner, args.seconds, _progress)
                    rows.append(dataclasses.asdict(measured))
            if program is None:
                result |= {**dataclasses.asdict(facts), "tunnels": rows}
            else:
                result["against"] = {"program": program, "tunnels": rows}
                result["ratio"] = _ratio(result["tunnels"], rows)
    return result


def _ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """udpring's figures divided by the other's, tunnel by tunnel; the median of these."""
    ratios = {}
    for key, _, unit in COLUMNS:
        pairs = [(our[key], their[key]) for our, their in zip(ours, theirs, strict=True)]
        if unit and all(our and their for our, their in pairs):
            ratios[key] = round(statistics.median(our / their for our, their in pairs), 3)
    return ratios


def _print_table(result: dict[str, Any]) -> None:
    print(f"udpring {result['udpring']}: tier {result['tier']}, AEAD {result['aead']}")
    if result["tier_reason"]:
        print(f"  {result['tier_reason']}")
    print(f"Linux {result['kernel']}, {result['cpus']} CPUs for both nodes and the load\n")
    print(_table(result["tunnels"]))
    if "against" in result:
        print(f"\n{result['against']['program']}\n")
        print(_table(result["against"]["tunnels"]))
        ratios = ", ".join(
            f"{title} {result['ratio'][key]:.2f}" for key, title, _ in COLUMNS if key in result["ratio"]
        )
        print(f"\nudpring divided by {result['against']['program']}: {ratios}")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [[title for _, title, _ in COLUMNS]]
    for row in rows:
        lines.append(["-" if row[key] is None else f"{row[key]}{unit}" for key, _, unit in COLUMNS])
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = []
    for line in lines:
        cells = zip(line, widths, strict=True)
        text.append("  ".join(cell.rjust(width) for cell, width in cells))
    return "\n".join(text)
