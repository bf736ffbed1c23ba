"""``udpring ping PEER``: whether a peer answers through the tunnel, how fast, and if not, why.

1. The peer is found among the running interfaces, with its endpoint and an address in the tunnel.
2. Each round sends two ICMP echoes: one through the tunnel, one to the endpoint by the way that the node's
   own packets take (the interface's mark).
3. The state of the peer before and after shows whether there is a session, and how long a handshake took.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from udpring.cli import Subparsers
from udpring.cli._find_peer import PEER_HELP, FoundPeer, find_peer, look_again
from udpring.cli._folding import fitting
from udpring.cli._numbers import count_of, seconds_of
from udpring.errors import HostError, UdpringError
from udpring.tunnel import uapi
from udpring.tunnel.icmp_echo import EchoSocket, EchoTarget, IPAddress, smallest, wait_for_answers
from udpring.tunnel.link_facts import link_facts
from udpring.tunnel.uapi_client import UapiClient
from udpring.wireguard import constants

SIZE = 84
"""Bytes of an echo in IPv4: as of ping(8). In IPv6 it has 20 more."""
HANDSHAKE_SECONDS = 6.0
"""For the first answer where there is no session: a lost initiation is sent again after five seconds."""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "ping",
        help="measure whether and how fast a peer answers, through the tunnel and outside it",
        description="Send ICMP echo to a peer through the tunnel, and to its endpoint outside. Print the "
        "state of its session, round trips and losses, and the likely cause where no answer comes.",
        epilog="exit code: 0 if an answer came through the tunnel, 1 if none; 2 and 3 as of all commands",
    )
    parser.add_argument("peer", metavar="PEER", help=PEER_HELP)
    parser.add_argument("--interface", metavar="IFACE", help="look for the peer there only (default: in all)")
    parser.add_argument("--count", type=count_of, default=5, metavar="N", help="echoes (default: 5)")
    parser.add_argument(
        "--interval", type=seconds_of, default=1.0, metavar="SECONDS", help="between two (default: 1)"
    )
    parser.add_argument(
        "--timeout", type=seconds_of, default=2.0, metavar="SECONDS", help="for an answer (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="print one object at the end")


@dataclass(slots=True)
class Side:
    """Echoes through the tunnel, or outside it. ``refused``: why none can be sent."""

    name: str
    echo: EchoSocket | None = None
    refused: str = ""
    sent: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def lost_percent(self) -> float:
        """Of the echoes that were sent."""
        return 100 * (1 - len(self.seconds) / self.sent) if self.sent else 0.0

    def as_json(self) -> dict[str, object]:
        """Times in milliseconds."""
        times = [round(each * 1000, 3) for each in self.seconds]
        return {
            "sent": self.sent,
            "received": len(times),
            "lostPercent": round(self.lost_percent, 1),
            "roundTripMs": {
                "min": min(times, default=None),
                "average": round(sum(times) / len(times), 3) if times else None,
                "max": max(times, default=None),
            },
            **({"error": self.refused} if self.refused else {}),
        }

    def as_text(self) -> str:
        """One line."""
        if not self.sent:
            return f"{self.name}: {self.refused or 'not tried'}"
        line = f"{self.name}: {self.sent} sent, {len(self.seconds)} answered, {self.lost_percent:.0f}% lost"
        if self.seconds:
            low, high = min(self.seconds), max(self.seconds)
            average = sum(self.seconds) / len(self.seconds)
            line += f", min/average/max {low * 1000:.3f}/{average * 1000:.3f}/{high * 1000:.3f} ms"
        return line + (f" ({self.refused})" if self.refused else "")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError: no such peer, HostError: nothing serves the interface, or no right to send."""
    before = find_peer(args.peer, args.interface)
    address = before.require_address()
    tunnel, outside = tunnel_of(before), outside_of(before)
    counted = _drops(before.interface)
    if not args.json:
        print("\n".join(_heading(before, address)), flush=True)
    started = time.time_ns()
    with contextlib.suppress(KeyboardInterrupt):
        _rounds(args, before, tunnel, outside, started)
    after = look_again(before)
    problems = [] if tunnel.seconds else list(causes(before, after, tunnel, outside))
    problems += dropped(counted, _drops(after.interface)) if problems else []
    if args.json:
        print(json.dumps(as_json(before, after, (tunnel, outside), problems, started), indent=2))
    else:
        lines = ["", *_handshake(before, after, started), tunnel.as_text(), outside.as_text()]
        print(fitting((*lines, *(f"cause: {problem}" for problem in problems))))
    return 0 if tunnel.seconds else 1


def tunnel_of(found: FoundPeer) -> Side:
    """The way through the tunnel. Raises ConfigError: the peer has no single address, HostError: no right to
    send."""
    target = EchoTarget(found.require_address(), interface=found.interface)
    try:
        return Side("tunnel", EchoSocket(target))
    except HostError as refused:
        if refused.errno in (errno.EPERM, errno.EACCES):
            raise
        return Side("tunnel", refused=str(refused))
    except OSError as refused:
        return Side("tunnel", refused=refused.strerror or str(refused))


def outside_of(found: FoundPeer) -> Side:
    """The way to the endpoint that the node's own packets take."""
    endpoint = found.endpoint
    if endpoint is None or found.peer.endpoint is None:
        return Side("endpoint", refused="not known")
    scope = found.peer.endpoint[2]
    try:
        return Side("endpoint", EchoSocket(EchoTarget(endpoint, mark=found.device.fwmark, scope=scope)))
    except (HostError, OSError) as refused:
        return Side("endpoint", refused=str(refused))


def _rounds(args: argparse.Namespace, found: FoundPeer, tunnel: Side, outside: Side, started: int) -> None:
    session = started - found.peer.last_handshake < constants.REJECT_AFTER_TIME
    for number in range(1, args.count + 1 if tunnel.echo else 1):
        begin = time.monotonic()
        first_of_session = number == 1 and not session
        until = begin + (max(args.timeout, HANDSHAKE_SECONDS) if first_of_session else args.timeout)
        took = _round((tunnel, outside), until, begin + args.timeout)
        if not args.json:
            shown = ", ".join(
                f"{side.name} {took[side.name] * 1000:.3f} ms"
                if side.name in took
                else f"{side.name} no answer"
                for side in (tunnel, outside)
                if side.sent
            )
            print(f"{number}: {shown or 'nothing could be sent'}", flush=True)
        if number < args.count:
            time.sleep(max(0.0, begin + args.interval - time.monotonic()))


def _round(sides: tuple[Side, Side], until: float, until_outside: float) -> dict[str, float]:
    """Sends on both sides and waits for the answers. Returns the seconds of each that came."""
    waits: dict[EchoSocket, tuple[Side, float]] = {}
    for side, end in zip(sides, (until, until_outside), strict=True):
        if side.echo is None:
            continue
        side.echo.forget()
        side.sent += 1
        try:
            side.echo.send(SIZE + smallest(side.echo.target.address) - 36)
        except OSError as failed:
            side.refused = failed.strerror or str(failed)
            continue
        waits[side.echo] = side, end
    took: dict[str, float] = {}
    while waits:
        now = time.monotonic()
        waits = {echo: (side, end) for echo, (side, end) in waits.items() if end > now}
        if not waits:
            break
        answers = wait_for_answers(list(waits), max(end for _, end in waits.values()))
        for echo, found in answers.items():
            side = waits[echo][0]
            if found:
                took[side.name] = found[0].seconds
                side.seconds.append(found[0].seconds)
                side.refused = ""
                del waits[echo]
            elif echo.error is not None:
                side.refused = echo.error.strerror or str(echo.error)
                echo.error = None
    return took


def _heading(found: FoundPeer, address: IPAddress) -> Iterator[str]:
    where = uapi.format_endpoint(*found.peer.endpoint) if found.peer.endpoint else "not known"
    yield f"{found.label} ({address}) by {found.interface}, endpoint {where}"
    if not found.peer.last_handshake:
        yield "no handshake yet"
    else:
        yield f"latest handshake {(time.time_ns() - found.peer.last_handshake) // 10**9} s ago"


def _handshake(before: FoundPeer, after: FoundPeer, started: int) -> Iterator[str]:
    """``last_handshake`` is when the handshake was completed."""
    latest = after.peer.last_handshake
    if not latest:
        yield "handshake: none"
    elif latest == before.peer.last_handshake:
        yield f"handshake: none meanwhile, latest {(time.time_ns() - latest) // 10**9} s ago"
    else:
        yield f"handshake: completed {max(0, latest - started) / 1e6:.3f} ms after the first echo"


def causes(before: FoundPeer, after: FoundPeer, tunnel: Side, outside: Side) -> Iterator[str]:
    """Why no answer came through the tunnel, the likely ones first."""
    peer, name = after.peer, after.interface
    link = link_facts(name)
    if link is None:
        yield f"{name} is not in this network namespace: run this where it is (ip netns exec)"
        return
    if not link.up:
        yield f"{name} is down: ip link set dev {name} up"
        return
    if tunnel.refused:
        yield f"the kernel refused echoes through {name}: {tunnel.refused}"
    if tunnel.echo is None:
        return
    if peer.endpoint is None:
        yield (
            "the node does not know the peer's endpoint, and nothing has come from it: set Endpoint, or let "
            "the peer send first"
        )
        return
    where = uapi.format_endpoint(*peer.endpoint)
    age = time.time_ns() - peer.last_handshake
    if not peer.last_handshake or age > constants.REJECT_AFTER_TIME:
        yield f"no handshake: {where} did not answer the node's initiations"
        if outside.seconds:
            yield (
                "the endpoint's host answers echo, so look at its port, its firewall, whether its interface "
                "is up, and whether each side has the other's public key and the same preshared key"
            )
        else:
            yield (
                "the endpoint's host does not answer echo either"
                + (f" ({outside.refused})" if outside.refused else "")
                + ": look at the address, the route to it, and firewalls"
            )
        return
    if peer.rx_bytes == before.peer.rx_bytes:
        yield (
            f"nothing came from {where}, although there is a session of {age // 10**9} s: the peer may have "
            "ended since, or a firewall drops its packets"
        )
    yield (
        f"{after.address} may not answer echo: look at the firewall and the address there, and whether the "
        f"peer's allowed IPs for this node have {tunnel.echo.source}"
    )


def dropped(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Drops of the node meanwhile."""
    more = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    shown = ", ".join(f"{reason} {count}" for reason, count in more.items() if count > 0)
    return [f"the node dropped packets meanwhile, of all peers: {shown}"] if shown else []


def _drops(interface: str) -> dict[str, int]:
    """Of a node of udpring, by reason. Others do not say."""
    drops: dict[str, int] = {}
    with contextlib.suppress(UdpringError, OSError):
        report = UapiClient(interface, uapi.SOCKET_DIRECTORY).report("stats")
        for table in ("drops", "handshake_drops"):
            rows = report.get(table)
            if isinstance(rows, dict):
                drops |= {reason: count for reason, count in rows.items() if isinstance(count, int)}
    return drops


def as_json(
    before: FoundPeer, after: FoundPeer, sides: tuple[Side, Side], problems: list[str], started: int
) -> dict[str, object]:
    """Times of the epoch in seconds, durations in milliseconds."""
    latest = after.peer.last_handshake
    new = latest != before.peer.last_handshake
    tunnel, outside = sides
    return {
        "interface": before.interface,
        "publicKey": before.key,
        **({"name": before.name} if before.name else {}),
        "address": str(before.address),
        **({"endpoint": uapi.format_endpoint(*after.peer.endpoint)} if after.peer.endpoint else {}),
        "handshake": {
            "latest": latest // 10**9 or None,
            "new": new,
            "afterMs": round(max(0, latest - started) / 1e6, 3) if new else None,
        },
        "tunnel": tunnel.as_json(),
        "outside": outside.as_json(),
        "causes": problems,
    }
