"""Shared by ``udpring run`` and ``udpring proxy``: their file, a rootless node from it, and its confinement.

1. ``helper`` forks a broker, which has no keys.
2. ``node_of`` reads the file. Then it gives up capabilities of root, while the process has one thread.
3. The node starts, with the process that holds its namespaces. ``run`` starts its program.
4. ``confine`` confines the process. It comes last, because programs inherit the filter.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from udpring.errors import ConfigError
from udpring.tunnel import config, confinement
from udpring.tunnel.broker import Broker, serve
from udpring.tunnel.broker_services import drop_rights, look_ups
from udpring.tunnel.hooks import has_hooks
from udpring.tunnel.node import Node
from udpring.tunnel.outside import Outside, of_broker
from udpring.tunnel.rootless import Rootless

__all__ = ["add_arguments", "confine", "helper", "node_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and the options of the node."""
    parser.add_argument("file", metavar="FILE", help="wg-quick file, or the name of one in /etc/wireguard")
    parser.add_argument(
        "--device",
        choices=("auto", "tun", "packet"),
        default="auto",
        help="interface inside: a TUN device, a veth pair with packet sockets, or the first that works",
    )


@contextlib.contextmanager
def helper() -> Iterator[Broker | None]:
    """A broker for the node. None: it is not to be confined. Raises ConfigError and HostError."""
    if not confinement.wanted(os.environ):
        yield None
        return
    with contextlib.closing(Broker.start(_help)) as broker:
        yield broker


def _help(control: socket.socket) -> None:
    """The broker process. It was forked before the file was read, so it has no keys."""
    drop_rights()
    serve(control, look_ups())


def confine(broker: Broker | None) -> None:
    """Confines this process, if it has a broker."""
    if broker is not None:
        confinement.complete_rootless()
        broker.watch(asyncio.get_running_loop())


def node_of(args: argparse.Namespace, broker: Broker | None) -> Node:
    """The node, not started. Prints the settings of the file that do not apply. Raises ConfigError. For a
    process with one thread."""
    path = args.file
    if config.INTERFACE_NAME.fullmatch(path) and not Path(path).exists():
        path = str(config.locate(path)[1])
    loaded = config.Config.load(path)
    settings = loaded.interface
    if not settings.addresses:
        raise ConfigError("[Interface] has no Address", file=path, cure="give the tunnel's end an address")
    if has_hooks(settings):
        print(f"udpring: {path}: PreUp, PostUp, PreDown and PostDown are not run", file=sys.stderr)
    if broker is not None:
        confinement.begin_rootless()
    outside = Outside() if broker is None else of_broker(broker)
    return Node(loaded, attachment=Rootless(args.device, confined=broker is not None), outside=outside)
