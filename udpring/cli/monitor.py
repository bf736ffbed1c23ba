"""``udpring monitor``: the traffic of running interfaces, peer by peer, until q or Ctrl-C.

1. Once per interval it reads the state of every interface over the UAPI of any userspace WireGuard.
2. Two states in a row give rates.
3. It prints them: on a terminal a screen that fits it, with keys (``_traffic_view``, ``_terminal``),
   elsewhere one table after the other, or JSON lines.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from udpring.cli import Subparsers
from udpring.cli._numbers import count_of
from udpring.cli._peer_names import PeerNames
from udpring.cli._traffic_table import SORTS, Section, as_lines, section_of
from udpring.errors import UdpringError
from udpring.tunnel import keys, uapi
from udpring.tunnel.uapi_client import UapiClient, interfaces

SHORTEST, LONGEST = 0.1, 3600.0
"""Seconds between two looks."""

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
        description="Show the rate from and to each peer, the busiest first, once per interval. On a "
        "terminal the table stays in place and fits its width: q quits, arrows, space and b scroll, s "
        "changes the order, r reverses it. NO_COLOR switches colours off. Elsewhere it prints one table "
        "after the other, until Ctrl-C.",
    )
    parser.add_argument("interface", nargs="?", metavar="IFACE", help="one interface (default: all)")
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="time between two tables (default: 1)",
    )
    parser.add_argument("--sort", choices=SORTS, default="rate", help="order of peers (default: rate)")
    parser.add_argument("--reverse", action="store_true", help="the last of that order first")
    parser.add_argument("--count", type=count_of, metavar="N", help="end after N tables")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per table")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if SHORTEST <= seconds <= LONGEST:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {SHORTEST:g} to {LONGEST:g}")


def run(args: argparse.Namespace) -> int:
    """Prints until the count is reached or the user ends it. Raises HostError if nothing serves the
    interface, or no longer."""
    on_screen = sys.stdout.isatty() and not args.json and os.environ.get("TERM", "dumb") != "dumb"
    with contextlib.suppress(KeyboardInterrupt):
        looks = _Looks(args.interface)
        if on_screen:
            _show(args, looks)
        else:
            _print(args, looks)
    return 0


def _print(args: argparse.Namespace, looks: _Looks) -> None:
    printed = 0
    while args.count is None or printed < args.count:
        time.sleep(args.interval)
        looks.take()
        if args.json:
            print(json.dumps(as_json(looks.flows, looks.now, looks.names, time.time())), flush=True)
        else:
            lines = as_lines(looks.sections(args.sort, args.reverse))
            print("\n".join(line.text for line in lines) or "no interface", end="\n\n", flush=True)
        printed += 1


def _show(args: argparse.Namespace, looks: _Looks) -> None:
    from udpring.cli._terminal import Terminal, wants_colours  # noqa: PLC0415
    from udpring.cli._traffic_view import View  # noqa: PLC0415

    view = View(args.sort, args.reverse, colours=wants_colours(os.environ))
    taken = 0
    with Terminal() as terminal:
        due = time.monotonic() + args.interval
        while True:
            terminal.draw(view.screen(looks.sections(view.sort, view.reverse), *terminal.size()))
            if args.count is not None and taken >= args.count:
                return
            key = terminal.key(due)
            if view.press(key):
                return
            if not key:
                looks.take()
                taken += 1
                due = max(due + args.interval, time.monotonic())


class _Looks:
    """The last two states of the interfaces, as flows, with the names of peers."""

    def __init__(self, interface: str | None) -> None:
        self._interface = interface
        self._names = PeerNames()
        self.now = _look_at(interface)
        self.flows = {name: compare(None, look) for name, look in self.now.items()}

    @property
    def names(self) -> Mapping[str, Names]:
        """Of the peers of each interface."""
        return {name: self._names.of(name) for name in self.now}

    def take(self) -> None:
        """Looks again."""
        before, self.now = self.now, _look_at(self._interface)
        self.flows = {name: compare(before.get(name), look) for name, look in self.now.items()}
        self._names.keep(set(self.now))

    def sections(self, sort: str, reverse: bool) -> list[Section]:
        """A section for each interface."""
        wall, names = time.time_ns(), self.names
        return [
            section_of(name, self.now[name].listen_port, flows, names[name], wall, sort, reverse)
            for name, flows in self.flows.items()
        ]


def _look_at(interface: str | None) -> dict[str, Look]:
    """Queries one interface, or all. Interfaces that end meanwhile are left out of the latter."""
    looks = {}
    for name in [interface] if interface else interfaces(uapi.SOCKET_DIRECTORY):
        try:
            state = UapiClient(name, uapi.SOCKET_DIRECTORY).get()
        except UdpringError as failed:
            if interface or getattr(failed, "errno", 0) in (errno.EACCES, errno.EPERM):
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
