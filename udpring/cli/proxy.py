"""``udpring proxy``: lets programs of this host use a tunnel by SOCKS 5 or forwarded ports. Needs no root."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import sys
from typing import TYPE_CHECKING, Any

from udpring.cli import Subparsers
from udpring.errors import ConfigError, HostError
from udpring.tunnel.decimal_text import parse_decimal

if TYPE_CHECKING:
    from udpring.tunnel.broker import Broker

SOCKS_PORT = 1080
CONNECTIONS_MAX = 1024
CONNECTION_DESCRIPTORS = 6
"""Two sockets, and a pipe for each direction that holds bytes."""
LOOPBACK = "127.0.0.1"


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    from udpring.cli._rootless import add_arguments  # noqa: PLC0415

    parser = subparsers.add_parser(
        "proxy",
        help="let programs of this host use a tunnel, without root: SOCKS 5, forwarded ports",
        description="Serves SOCKS 5 (CONNECT, without authentication), and forwards ports, into the tunnel "
        "of FILE. Names are looked up by its DNS servers. Needs no root. Listens on loopback unless an "
        f"address is given. Without an option: --socks {SOCKS_PORT}. Raises its limit of open files to the "
        f"hard limit. Serves {CONNECTIONS_MAX} connections at once, or fewer if open files allow fewer.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--socks", metavar="[ADDR:]PORT", action="append", default=[], help="serve SOCKS 5 there"
    )
    parser.add_argument(
        "--forward",
        metavar="[ADDR:]PORT=HOST:PORT",
        action="append",
        default=[],
        help="connect whoever connects to PORT here to HOST through the tunnel",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from udpring.tunnel.refusals import (  # noqa: PLC0415
        ROOTLESS_DESCRIPTORS,
        raise_descriptor_limit,
        run_loop,
    )

    wanted = args.socks if args.socks or args.forward else [str(SOCKS_PORT)]
    listeners = [local(each, "--socks") for each in wanted]
    forwards = [forward(each) for each in args.forward]
    limit = raise_descriptor_limit()
    listening = len(listeners) + len(forwards)
    needed = ROOTLESS_DESCRIPTORS + listening + CONNECTION_DESCRIPTORS
    connections = max(1, min(CONNECTIONS_MAX, (limit - needed) // CONNECTION_DESCRIPTORS))
    from udpring.cli._rootless import helper  # noqa: PLC0415

    with helper() as broker:
        return run_loop(lambda: _run(args, broker, listeners, forwards, connections), needed)


def local(text: str, option: str) -> tuple[str, int]:
    """The address and port to listen at. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    number = parse_decimal(port, 65535)
    if number is None or (colon and not _is_address(host)):
        raise ConfigError(
            "no port, or no numeric address and port",
            file=option,
            text=text,
            cure="write PORT, 127.0.0.1:PORT or [::1]:PORT",
        )
    return (host.strip("[]") or LOOPBACK, number)


def _is_address(host: str) -> bool:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return (ipaddress.ip_address(bare).version == 6) == (bare != host)
    except ValueError:
        return False


def forward(text: str) -> tuple[str, int, str, int]:
    """The address and port to listen at, and those to connect to. Raises ConfigError."""
    here, equals, there = text.partition("=")
    host, _, port = there.rpartition(":")
    number = parse_decimal(port, 65535, 1)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not equals or not bare or number is None or (":" in bare and bare == host):
        raise ConfigError(
            "no forwarding", file="--forward", text=text, cure="write PORT=HOST:PORT, such as 8080=intra:80"
        )
    return (*local(here, "--forward"), bare, number)


async def _run(
    args: argparse.Namespace,
    broker: Broker | None,
    listeners: list[tuple[str, int]],
    forwards: list[tuple[str, int, str, int]],
    connections: int,
) -> int:
    from udpring.cli._rootless import confine, node_of  # noqa: PLC0415
    from udpring.tunnel.daemon import stop_signal  # noqa: PLC0415
    from udpring.tunnel.proxy import Proxy  # noqa: PLC0415

    stop = stop_signal(asyncio.get_running_loop())
    async with node_of(args, broker) as node:
        proxy = Proxy(node, connections=connections)
        try:
            for host, port in listeners:
                _say("SOCKS 5", *proxy.socks(host, port))
            for host, port, to_host, to_port in forwards:
                _say(f"{to_host} port {to_port}", *proxy.forward(host, port, to_host, to_port))
            confine(broker)
            _say_bound(connections)
            lost = asyncio.ensure_future(node.wait())
            ends: list[asyncio.Future[Any]] = [stop, lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await proxy.close()
        if not stop.done():
            raise HostError(f"the tunnel ended: {lost.result().reason}")
        lost.cancel()
    return 0


def _say_bound(connections: int) -> None:
    print(f"connections at once: {connections}", flush=True)
    if connections < CONNECTIONS_MAX:
        print(
            f"udpring: open files allow {connections} of {CONNECTIONS_MAX} connections at once "
            f"(raise the hard limit: ulimit -Hn, or LimitNOFILE= of the unit)",
            file=sys.stderr,
        )


def _say(what: str, host: str, port: int) -> None:
    print(f"{what} at {host} port {port}", flush=True)
    if not ipaddress.ip_address(host).is_loopback:
        print(f"udpring: whoever reaches {host} port {port} may use the tunnel", file=sys.stderr)
