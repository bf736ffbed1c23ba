"""``udpring exporter``: metrics of running interfaces for Prometheus, in the format of OpenMetrics."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from pathlib import Path

from udpring.cli import Subparsers

_ENDS = (signal.SIGINT, signal.SIGTERM)


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "exporter",
        help="serve metrics of running interfaces to Prometheus",
        description="Serve metrics of running interfaces by HTTP, in the format of OpenMetrics, until "
        "Ctrl-C. The names of wireguard_* are those of prometheus_wireguard_exporter, of any userspace "
        "WireGuard. udpring_* are counters and states of udpring's nodes, as udpring stats prints them. "
        "Needs prometheus-client: pip install 'udpring[metrics]'. After the start the process can only read "
        "and answer (UDPRING_CONFINEMENT=off: docs/least-privilege.md).",
    )
    parser.add_argument(
        "interfaces", nargs="*", metavar="IFACE", help="only these interfaces (default: all that run)"
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:9586",
        metavar="ADDR:PORT|PATH",
        help="an address and a port, or the path of a UNIX socket (default: 127.0.0.1:9586)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print the metrics once, for a textfile collector, and end"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until a signal. Raises HostError: no prometheus-client, or the address is taken."""
    from udpring.cli._metrics_server import (  # noqa: PLC0415
        MetricsAddress,
        MetricsServer,
        metrics_text,
        require_client,
    )
    from udpring.tunnel import confinement  # noqa: PLC0415

    require_client()
    if args.once:
        print(metrics_text(args.interfaces), end="")
        return 0
    confined = confinement.wanted(os.environ)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # of all threads; sigwait takes them
    try:
        server = MetricsServer(MetricsAddress.parse(args.listen), args.interfaces)
        remover = _Remover(server.address.path) if confined and server.address.path else None
        try:
            if confined:
                confinement.confine_server()
            server.serve()
            print(f"metrics at {server.address}", flush=True)
            signal.sigwait(_ENDS)
        finally:
            server.close()
            if remover is not None:
                remover.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


class _Remover:
    """A process that removes the socket file of a confined exporter, which may not. It ends with it."""

    def __init__(self, path: str) -> None:
        """Raises HostError. Call it while there is one thread."""
        from udpring.tunnel.broker import Broker, serve  # noqa: PLC0415

        found = Path(path).lstat()

        def wait(control: socket.socket) -> None:
            serve(control, {})
            with contextlib.suppress(OSError):
                there = Path(path).lstat()
                if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                    Path(path).unlink()

        self._broker = Broker.start(wait)

    def close(self) -> None:
        """Waits until it is removed."""
        self._broker.close()
