"""``udpring monitor``: the traffic of running interfaces, peer by peer, until Ctrl-C.

1. Once per interval it reads the state of every interface over the UAPI of any userspace WireGuard.
2. Two states in a row give rates.
3. It prints them: a table that stays in place on a terminal, one table after the other elsewhere, or JSON
   lines.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from udpring.cli import Subparsers
from udpring.cli._peer_names import names_of
from udpring.cli.show import ago, size
from udpring.errors import HostError
from udpring.tunnel import keys, uapi
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.uapi_client import UapiClient, interfaces
from udpring.wireguard.constants import REJECT_AFTER_TIME

SHORTEST, LONGEST = 0.1, 3600.0
"""Seconds between two looks."""
IN_PLACE = "\x1b[H\x1b[J"
"""Moves the cursor to the top left and clears the screen (ECMA-48, CUP and ED)."""
KEY_SHOWN = 12
"""Characters of a public key that has no name."""
_RATES = ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))
_HEAD = ("peer", "endpoint", "handshake", "receives", "sends", "received", "sent")
_WORDS = 3
"""Text columns, at the left. The others are figures."""

Names = Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class Look:
    """The state of one interface at one time. ``time``: seconds of a monotonic clock."""

    time: float
    listen_port: int
    peers: Mapping[bytes, uapi.PeerInfo]


@dataclass(frozen=True, slots=True)
class Flow:
    """A peer, and the bits per second that the interface ``receives`` from it and ``sends`` to it. Both are
    None if two states cannot be compared: the peer is new, or was removed and added between them."""

    peer: uapi.PeerInfo
    receives: float | None
    sends: float | None


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "monitor",
        help="show the traffic of each peer of running interfaces as it happens",
        description="Print the rate from and to each peer, the busiest first, once per interval until "
        "Ctrl-C. On a terminal the table stays in place.",
    )
    parser.add_argument("interface", nargs="?", metavar="IFACE", help="one interface (default: all)")
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="time between two tables (default: 1)",
    )
    parser.add_argument("--count", type=_count, metavar="N", help="end after N tables")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per table")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if SHORTEST <= seconds <= LONGEST:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {SHORTEST:g} to {LONGEST:g}")


def _count(text: str) -> int:
    count = parse_decimal(text, sys.maxsize, 1)
    if count is not None:
        return count
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")


def run(args: argparse.Namespace) -> int:
    """Prints until the count is reached or the user ends it. Raises HostError if nothing serves the
    interface, or no longer."""
    in_place = sys.stdout.isatty() and not args.json
    with contextlib.suppress(KeyboardInterrupt):
        before = _look_at(args.interface)
        names = {interface: names_of(interface) for interface in before}
        printed = 0
        while args.count is None or printed < args.count:
            time.sleep(args.interval)
            now = _look_at(args.interface)
            names |= {interface: names_of(interface) for interface in now.keys() - names.keys()}
            flows = {interface: compare(before.get(interface), look) for interface, look in now.items()}
            if args.json:
                print(json.dumps(as_json(flows, now, names, time.time())), flush=True)
            else:
                _print_tables(flows, now, names, in_place)
            before = now
            printed += 1
    return 0


def _look_at(interface: str | None) -> dict[str, Look]:
    """Queries one interface, or all. Interfaces that end meanwhile are left out of the latter."""
    looks = {}
    for name in [interface] if interface else interfaces(uapi.SOCKET_DIRECTORY):
        try:
            state = UapiClient(name, uapi.SOCKET_DIRECTORY).get()
        except HostError as failed:
            if interface or failed.errno in (errno.EACCES, errno.EPERM):
                raise
            continue
        peers = {peer.public_key: peer for peer in state.peers}
        looks[name] = Look(time.monotonic(), state.listen_port, peers)
    return looks


def compare(before: Look | None, now: Look) -> list[Flow]:
    """Each peer of ``now``, the busiest first. Equal rates are ordered by total traffic."""
    seconds = now.time - before.time if before else 0.0

    def flow(peer: uapi.PeerInfo) -> Flow:
        former = before.peers.get(peer.public_key) if before else None
        if former is None or seconds <= 0:
            return Flow(peer, None, None)
        received, sent = peer.rx_bytes - former.rx_bytes, peer.tx_bytes - former.tx_bytes
        if received < 0 or sent < 0:
            return Flow(peer, None, None)
        return Flow(peer, received * 8 / seconds, sent * 8 / seconds)

    def busy(each: Flow) -> tuple[float, int]:
        return (each.receives or 0) + (each.sends or 0), each.peer.rx_bytes + each.peer.tx_bytes

    return sorted((flow(peer) for peer in now.peers.values()), key=busy, reverse=True)


def as_json(
    flows: Mapping[str, Sequence[Flow]], looks: Mapping[str, Look], names: Mapping[str, Names], now: float
) -> dict[str, object]:
    """``time`` in seconds since the epoch. Per interface the names of ``udpring show --json``, and
    ``receivesBitsPerSecond`` and ``sendsBitsPerSecond``, null if unknown."""
    return {
        "time": round(now, 3),
        "interfaces": {
            interface: {
                "listenPort": looks[interface].listen_port,
                "peers": {
                    keys.to_base64(flow.peer.public_key): _flow_json(flow, names[interface]) for flow in each
                },
            }
            for interface, each in flows.items()
        },
    }


def _flow_json(flow: Flow, names: Names) -> dict[str, object]:
    peer = flow.peer
    return {
        **({"name": names[peer.public_key]} if peer.public_key in names else {}),
        **({"endpoint": uapi.format_endpoint(*peer.endpoint)} if peer.endpoint else {}),
        **({"latestHandshake": peer.last_handshake // 10**9} if peer.last_handshake else {}),
        "transferRx": peer.rx_bytes,
        "transferTx": peer.tx_bytes,
        "receivesBitsPerSecond": flow.receives if flow.receives is None else round(flow.receives),
        "sendsBitsPerSecond": flow.sends if flow.sends is None else round(flow.sends),
    }


def _print_tables(
    flows: Mapping[str, Sequence[Flow]], looks: Mapping[str, Look], names: Mapping[str, Names], in_place: bool
) -> None:
    now = time.time_ns()
    lines: list[str] = []
    for interface, each in flows.items():
        lines += [*as_table(interface, looks[interface].listen_port, each, names[interface], now), ""]
    if not flows:
        lines = ["no interface", ""]
    if in_place:
        height = shutil.get_terminal_size().lines - 1
        if len(lines) > height:
            lines = [*lines[: height - 1], f"... {len(lines) - height + 1} more lines"]
        print(IN_PLACE + "\n".join(lines), end="", flush=True)
    else:
        print("\n".join(lines), flush=True)


def as_table(interface: str, port: int, flows: Sequence[Flow], names: Names, now: int) -> Iterator[str]:
    """The lines of an interface. ``now`` is in nanoseconds since the epoch."""
    alive = sum(now - flow.peer.last_handshake < REJECT_AFTER_TIME for flow in flows)
    receives = rate(sum(flow.receives or 0 for flow in flows))
    sends = rate(sum(flow.sends or 0 for flow in flows))
    peers = f"{alive} of {len(flows)} peers in touch"
    yield f"{interface}: port {port}, {peers}, receives {receives}, sends {sends}"
    rows = [_HEAD, *(_row(flow, names, now) for flow in flows)] if flows else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        words, figures = row[:_WORDS], row[_WORDS:]
        cells = [cell.ljust(width) for cell, width in zip(words, widths[:_WORDS], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(figures, widths[_WORDS:], strict=True)]
        yield "  " + "  ".join(cells)


def _row(flow: Flow, names: Names, now: int) -> tuple[str, ...]:
    peer = flow.peer
    return (
        names.get(peer.public_key) or keys.to_base64(peer.public_key)[:KEY_SHOWN] + "...",
        uapi.format_endpoint(*peer.endpoint) if peer.endpoint else "-",
        ago(now - peer.last_handshake) if peer.last_handshake else "never",
        rate(flow.receives),
        rate(flow.sends),
        size(peer.rx_bytes),
        size(peer.tx_bytes),
    )


def rate(bits: float | None) -> str:
    """``1.20 Mbit/s``, in powers of 1000; ``-`` where it is not known."""
    if bits is None:
        return "-"
    for unit, name in _RATES:
        if bits >= unit:
            return f"{bits / unit:.2f} {name}"
    return f"{bits:.0f} bit/s"
