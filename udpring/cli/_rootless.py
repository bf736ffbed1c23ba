"""Shared by ``udpring run`` and ``udpring proxy``: their file, and a rootless node from it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from udpring.errors import ConfigError
from udpring.tunnel import config
from udpring.tunnel.hooks import has_hooks
from udpring.tunnel.node import Node
from udpring.tunnel.rootless import Rootless

__all__ = ["add_arguments", "node_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and the options of the node."""
    parser.add_argument("file", metavar="FILE", help="wg-quick file, or the name of one in /etc/wireguard")
    parser.add_argument(
        "--device",
        choices=("auto", "tun", "packet"),
        default="auto",
        help="interface inside: a TUN device, a veth pair with packet sockets, or the first that works",
    )


def node_of(args: argparse.Namespace) -> Node:
    """The node, not started. Prints the settings of the file that do not apply. Raises ConfigError."""
    path = args.file
    if config.INTERFACE_NAME.fullmatch(path) and not Path(path).exists():
        path = str(config.locate(path)[1])
    loaded = config.Config.load(path)
    settings = loaded.interface
    if not settings.addresses:
        raise ConfigError("[Interface] has no Address", file=path, cure="give the tunnel's end an address")
    if has_hooks(settings):
        print(f"udpring: {path}: PreUp, PostUp, PreDown and PostDown are not run", file=sys.stderr)
    return Node(loaded, attachment=Rootless(args.device))
