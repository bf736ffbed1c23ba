"""``udpring path PEER``: what the path to a peer takes, through the tunnel and outside it, by probes.

1. The largest packet that is answered, with Don't Fragment: to the endpoint, and through the tunnel.
2. Losses of each of several sizes.
3. Bursts of packets of one size through the tunnel. The node sends them as trains (UDP_SEGMENT), so answers
   to all of them show that trains survive, and the node's counters show how many there were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from udpring.cli import Subparsers
from udpring.cli._find_peer import PEER_HELP, FoundPeer, find_peer, look_again
from udpring.cli._folding import fitting
from udpring.cli._numbers import count_of, seconds_of
from udpring.cli.ping import HANDSHAKE_SECONDS, Side, causes, outside_of, tunnel_of
from udpring.errors import UdpringError
from udpring.tunnel import uapi
from udpring.tunnel.icmp_echo import EchoSocket, IPAddress, smallest
from udpring.tunnel.link_facts import link_facts
from udpring.tunnel.path_probe import BURST, EchoProber, Loss, largest_answered, sizes_to_try
from udpring.tunnel.uapi_client import UapiClient

DATA_BYTES = 32
"""A WireGuard data message has a header of 16 bytes and a tag of 16."""
PADDING = 16
UDP_BYTES = 8
BURSTS = 4
BURST_BYTES = 1000
LOOPBACK_MTU = 65535


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "path",
        help="measure what the path to a peer takes: MTU, trains, losses by size",
        description="Send ICMP echo of many sizes to a peer through the tunnel, and to its endpoint outside. "
        "Print the largest packet that is answered, the losses of each size, whether bursts that the node "
        "sends as trains survive, and an MTU for the interface that avoids fragments.",
        epilog="exit code: 0 if the peer answered through the tunnel, 1 if not; 2 and 3 as of all commands",
    )
    parser.add_argument("peer", metavar="PEER", help=PEER_HELP)
    parser.add_argument("--interface", metavar="IFACE", help="look for the peer there only (default: in all)")
    parser.add_argument(
        "--count", type=count_of, default=10, metavar="N", help="echoes of a size (default: 10)"
    )
    parser.add_argument(
        "--timeout", type=seconds_of, default=1.0, metavar="SECONDS", help="for an answer (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one object at the end")


@dataclass(frozen=True, slots=True)
class Way:
    """One side of the path. ``link_mtu``: the most that the host sends. ``mtu``: the largest packet that
    was answered; 0: none was."""

    link_mtu: int
    mtu: int
    losses: tuple[Loss, ...]
    refused: str = ""

    def as_json(self) -> dict[str, object]:
        """Times in milliseconds."""
        return {
            "linkMtu": self.link_mtu or None,
            "answeredMtu": self.mtu or None,
            "sizes": [
                {
                    "bytes": loss.size,
                    "sent": loss.sent,
                    "lost": loss.lost,
                    "averageMs": None if loss.seconds is None else round(loss.seconds * 1000, 3),
                }
                for loss in self.losses
            ],
            **({"error": self.refused} if self.refused else {}),
        }


@dataclass(frozen=True, slots=True)
class Trains:
    """Bursts through the tunnel. The rest is from the node's counters: datagrams of all peers meanwhile;
    None: the program does not say."""

    sent: int
    received: int
    bytes: int
    trains_sent: int | None = None
    trains_received: int | None = None
    refused: int | None = None
    """Trains that the route refused. Their datagrams were sent one by one."""
    reason: str = ""
    """Why the node sends no trains."""

    @property
    def verdict(self) -> str:
        """In words."""
        lost = self.sent - self.received
        if self.trains_sent is None:
            return "this program does not count its trains"
        if self.reason:
            return f"the node sends none: {self.reason}"
        if self.refused:
            return "the route refuses trains, so the node sends single datagrams"
        if not self.trains_sent:
            return "the node sent none: its packets were single, or it has found that trains are lost"
        if lost:
            return f"{lost} of {self.sent} packets in bursts were lost: they may not survive"
        return "survive"

    def as_json(self) -> dict[str, object]:
        """The verdict too."""
        return {
            "packets": self.sent,
            "lost": self.sent - self.received,
            "bytes": self.bytes,
            "trainsSent": self.trains_sent,
            "trainsReceived": self.trains_received,
            "trainsRefused": self.refused,
            "verdict": self.verdict,
        }


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError: no such peer, HostError: nothing serves the interface, or no right to send."""
    found = find_peer(args.peer, args.interface)
    address = found.require_address()
    side, outer = tunnel_of(found), outside_of(found)
    echo = side.echo
    if echo is None or not _wake(echo, args.timeout):
        return _unanswered(args, found, side, outer)
    found = look_again(found)  # its endpoint may have moved
    if not args.json:  # now, because the rest takes seconds
        print(f"{found.label} ({address}) by {found.interface}, endpoint {_endpoint(found)}", flush=True)
    inside = _measure(args, EchoProber(echo, args.timeout), address, link_mtu(echo, found.interface))
    trains = _bursts(found, EchoProber(echo, args.timeout), min(BURST_BYTES, inside.mtu))
    outside = Way(0, 0, (), outer.refused)
    if outer.echo is not None:
        outside = _outside(args, outer.echo)
    advice = advised_mtu(found, inside, outside)
    if args.json:
        print(json.dumps(as_json(found, inside, outside, trains, advice), indent=2))
    else:
        print(fitting(as_text(found, inside, outside, trains, advice)))
    return 0


def _wake(echo: EchoSocket, patience: float) -> bool:
    """A first echo, which may have to wait for a handshake."""
    prober = EchoProber(echo, max(patience, HANDSHAKE_SECONDS))
    try:
        return prober.series(smallest(echo.target.address), 3, 1.0, enough=1).received > 0
    except OSError as refused:
        echo.error = refused
        return False


def _unanswered(args: argparse.Namespace, found: FoundPeer, side: Side, outer: Side) -> int:
    if side.echo is not None and side.echo.error is not None:
        side.refused = side.echo.error.strerror or str(side.echo.error)
    if outer.echo is not None:
        with contextlib.suppress(OSError):
            loss = EchoProber(outer.echo, args.timeout).series(
                smallest(outer.echo.target.address), 3, enough=1
            )
            outer.seconds += [loss.seconds] if loss.seconds is not None else []
    problems = list(causes(found, look_again(found), side, outer))
    if args.json:
        print(
            json.dumps({"interface": found.interface, "publicKey": found.key, "causes": problems}, indent=2)
        )
    else:
        print(f"{found.label} ({found.address}) by {found.interface} does not answer through the tunnel")
        print(fitting(f"cause: {problem}" for problem in problems))
    return 1


def _measure(args: argparse.Namespace, prober: EchoProber, address: IPAddress, most: int) -> Way:
    low = smallest(address)
    mtu = largest_answered(prober, low, max(low, most))
    if not mtu:
        return Way(most, 0, ())
    losses = tuple(prober.series(size, args.count) for size in sizes_to_try(low, mtu))
    return Way(most, mtu, losses)


def _outside(args: argparse.Namespace, echo: EchoSocket) -> Way:
    try:
        way = _measure(args, EchoProber(echo, args.timeout), echo.target.address, link_mtu(echo, ""))
    except OSError as refused:
        return Way(0, 0, (), refused.strerror or str(refused))
    if way.mtu:
        return way
    return Way(
        way.link_mtu, 0, (), "the endpoint's host does not answer echo, so nothing is known of the path"
    )


def link_mtu(echo: EchoSocket, interface: str) -> int:
    """The most that the host sends there in one packet: the MTU of the interface, or of the route."""
    if interface:
        facts = link_facts(interface)
        if facts is not None:
            return min(facts.mtu, LOOPBACK_MTU)
    with contextlib.suppress(OSError):
        return min(echo.route_mtu(), LOOPBACK_MTU)
    return 1500


def _bursts(found: FoundPeer, prober: EchoProber, size: int) -> Trains:
    before = _counters(found.interface)
    sent = received = 0
    for _ in range(BURSTS):
        loss = prober.series(size, BURST, 0)
        sent, received = sent + loss.sent, received + loss.received
    after = _counters(found.interface)
    if before is None or after is None:
        return Trains(sent, received, size)

    def more(table: str, row: str) -> int:
        return _count(after, table, row) - _count(before, table, row)

    offloads = after.get("offloads")
    sends = offloads.get("trains_sent") if isinstance(offloads, Mapping) else True
    reason = str(offloads.get("trains_reason") or "switched off") if isinstance(offloads, Mapping) else ""
    return Trains(
        sent,
        received,
        size,
        more("send", "trains"),
        more("receive", "trains"),
        more("work", "trains_split"),
        "" if sends else reason,
    )


def _counters(interface: str) -> Mapping[str, object] | None:
    with contextlib.suppress(UdpringError, OSError):
        return UapiClient(interface, uapi.SOCKET_DIRECTORY).report("stats")
    return None


def _count(report: Mapping[str, object], table: str, row: str) -> int:
    rows = report.get(table)
    value = rows.get(row) if isinstance(rows, Mapping) else 0
    return value if isinstance(value, int) else 0


def overhead(endpoint: IPAddress) -> int:
    """Bytes that the tunnel adds to a padded packet."""
    return (20 if endpoint.version == 4 else 40) + UDP_BYTES + DATA_BYTES


def advised_mtu(found: FoundPeer, inside: Way, outside: Way) -> int | None:
    """The largest MTU of the interface whose packets need no fragments outside. None: not known. A packet is
    padded to a multiple of 16 bytes, but never beyond the interface's MTU."""
    if not outside.mtu or found.endpoint is None:
        return None
    return outside.mtu - overhead(found.endpoint)


def _endpoint(found: FoundPeer) -> str:
    return uapi.format_endpoint(*found.peer.endpoint) if found.peer.endpoint else "not known"


def as_text(found: FoundPeer, inside: Way, outside: Way, trains: Trains, advice: int | None) -> Iterator[str]:
    """The lines after the heading."""
    yield f"tunnel: {inside.mtu} bytes of the {inside.link_mtu} of {found.interface} were answered"
    if outside.mtu:
        yield f"outside: {outside.mtu} bytes of the {outside.link_mtu} of the route were answered"
    else:
        yield f"outside: {outside.refused or 'not known'}"
    if inside.mtu < inside.link_mtu:
        cure = "" if advice is None else f": MTU = {advice} avoids that"
        yield f"  larger packets of {found.interface} are lost{cure}"
    elif advice is not None and advice < inside.link_mtu:
        yield f"  packets of {found.interface} leave in fragments: MTU = {advice} avoids them"
    elif advice is not None and advice > inside.link_mtu:
        yield f"  the path takes an MTU of {advice} for {found.interface}"
    yield f"trains: {trains.verdict}"
    if trains.trains_sent is not None:
        yield (
            f"  {trains.sent} packets of {trains.bytes} bytes in bursts, "
            f"{trains.sent - trains.received} lost; {trains.trains_sent} trains sent, "
            f"{trains.trains_received} received, {trains.refused} refused"
        )
    yield "loss by size:"
    yield f"  {'bytes':>6}  {'tunnel':>22}  {'outside':>22}".rstrip()
    columns = ({loss.size: loss for loss in way.losses} for way in (inside, outside))
    tunnel, outer = columns
    for size in sorted(tunnel.keys() | outer.keys()):
        cells = (_cell(way.get(size)) for way in (tunnel, outer))
        yield f"  {size:>6}  {next(cells):>22}  {next(cells):>22}".rstrip()


def _cell(loss: Loss | None) -> str:
    if loss is None:
        return "-"
    average = "" if loss.seconds is None else f", {loss.seconds * 1000:.2f} ms"
    return f"{loss.lost} of {loss.sent} lost{average}"


def as_json(
    found: FoundPeer, inside: Way, outside: Way, trains: Trains, advice: int | None
) -> dict[str, object]:
    """Sizes in bytes of IP packets, durations in milliseconds."""
    return {
        "time": round(time.time(), 3),
        "interface": found.interface,
        "publicKey": found.key,
        **({"name": found.name} if found.name else {}),
        "address": str(found.address),
        **({"endpoint": _endpoint(found)} if found.peer.endpoint else {}),
        "tunnel": inside.as_json(),
        "outside": outside.as_json(),
        "trains": trains.as_json(),
        "advisedMtu": advice,
    }
