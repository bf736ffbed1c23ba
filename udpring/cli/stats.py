"""``udpring stats``: everything that running nodes count, by the node's own report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping

from udpring.cli import Subparsers
from udpring.cli._folding import fitting
from udpring.errors import UdpringError

_COUNTERS = ("receive", "send", "handshakes", "drops", "handshake_drops", "work", "interface")
"""Tables of counters. The others are states, and a 0 there is worth a line."""
_TITLES = {"interface": "packets and bytes of the interface", "handshake_drops": "dropped handshake messages"}


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "stats",
        help="show everything that a running node counts",
        description="Print the tier, AEAD and offloads in use, the depth of queues, sizes of batches and "
        "trains, results of handshakes, and the counters of packets, drops by reason and work. Counters that "
        "are 0 are left out. Of nodes "
        "of udpring only: udpring up, udpring-wg, or a program that serves the UAPI.",
    )
    parser.add_argument("interface", nargs="?", metavar="IFACE", help="one interface (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON: interface -> tables, with zeros")
    parser.add_argument("--all", action="store_true", help="print counters that are 0 too")


def run(args: argparse.Namespace) -> int:
    """HostError where nothing serves the interface, or another program than udpring does."""
    from udpring.tunnel import uapi  # noqa: PLC0415
    from udpring.tunnel.uapi_client import UapiClient, interfaces  # noqa: PLC0415

    reports: dict[str, dict[str, object]] = {}
    for name in [args.interface] if args.interface else interfaces(uapi.SOCKET_DIRECTORY):
        try:
            reports[name] = UapiClient(name, uapi.SOCKET_DIRECTORY).report("stats")
        except UdpringError as refused:  # another program's interface, or it has ended meanwhile
            if args.interface:
                raise
            print(f"udpring: warning: {refused}", file=sys.stderr)
    if args.json:
        print(json.dumps(reports, indent=2))
        return 0
    for number, (name, report) in enumerate(reports.items()):
        print("\n" * bool(number) + fitting(as_text(name, report, zeros=args.all)))
    return 0


def as_text(name: str, report: Mapping[str, object], *, zeros: bool) -> Iterator[str]:
    """The lines of one interface."""
    yield f"{name}: udpring {report.get('version', '')}"
    for table, rows in report.items():
        if not isinstance(rows, Mapping):
            continue
        if table == "histograms":
            for title, histogram in rows.items():
                yield ""
                yield from _histogram(title, histogram)
            continue
        counters = table in _COUNTERS
        shown = {row: value for row, value in rows.items() if _is_shown(value, counters and not zeros)}
        yield ""
        yield f"{_TITLES.get(table, table).replace('_', ' ')}: {'' if shown else 'none'}".rstrip()
        width = max(map(len, shown), default=0)
        for row, value in shown.items():
            said = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
            yield f"  {row.replace('_', ' '):{width}}  {said}"


def _histogram(title: str, histogram: Mapping[str, object]) -> Iterator[str]:
    """The buckets that hold something: ``5-8  17``."""
    count, total = histogram.get("count"), histogram.get("sum")
    buckets = histogram.get("buckets")
    words = title.replace("_", " ")
    if not (isinstance(count, int) and isinstance(total, int) and isinstance(buckets, Mapping) and count):
        yield f"{words}: none"
        return
    yield f"{words}: {count}, of {total / count:.1f} datagrams on average"
    shown, before = {}, 0
    for bound, number in buckets.items():
        if number:
            first = str(before + 1)
            shown[
                first if bound == first else f"{first} or {bound}" if bound == "more" else f"{first}-{bound}"
            ] = number
        before = int(bound) if bound.isdecimal() else before
    width = max(map(len, shown), default=0)
    for sizes, number in shown.items():
        yield f"  {sizes:>{width}}  {number}"


def _is_shown(value: object, counter: bool) -> bool:
    return value != "" and not (counter and value == 0)
