"""``udpring reload``: applies the changed configuration of a running interface."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from udpring.cli import Subparsers
from udpring.errors import ConfigError, HostError

if TYPE_CHECKING:
    from udpring.tunnel.up_record import UpRecord

WAIT_SECONDS = 120.0
"""For look-ups of names and a large configuration."""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "reload",
        help="apply the changed configuration of a running interface",
        description="Read the file of an interface again and apply the differences: peers, keys, endpoints, "
        "allowed IPs, port, mark, addresses, MTU, DNS and routes. Sessions of peers that stay continue. "
        "Print what has changed, and what needs udpring down and udpring up. A file with an error changes "
        "nothing.",
    )
    parser.add_argument("name", metavar="IFACE", help="an interface of udpring up, or its configuration file")


def run(args: argparse.Namespace) -> int:
    """Prints the changes. HostError: the interface is not one of ``udpring up``, or the host refused."""
    from udpring.tunnel import config, uapi  # noqa: PLC0415
    from udpring.tunnel.uapi_client import UapiClient, UapiError  # noqa: PLC0415

    name, path = config.locate(args.name)
    record = record_of(name)
    if args.name != name and path.resolve() != record.file:
        raise ConfigError(
            f"the interface {name} has another file: {record.file}",
            file=args.name,
            cure=f"change that file, or: udpring down {name}, udpring up {args.name}",
        )
    try:
        report = UapiClient(name, uapi.SOCKET_DIRECTORY, timeout=WAIT_SECONDS).report("reload")
    except UapiError as refused:
        if not refused.misused:
            raise
        print(f"udpring: {refused}", file=sys.stderr)
        return 2
    print(f"{name}: {report.get('changes') or 'nothing has changed'}")
    notes = report.get("notes")
    for note in notes.values() if isinstance(notes, dict) else ():
        print(f"udpring: warning: {note}", file=sys.stderr)
    return 0


def record_of(name: str) -> UpRecord:
    """The record of the interface. Raises HostError where ``udpring up`` does not run it."""
    from udpring.tunnel import uapi, up_record  # noqa: PLC0415
    from udpring.tunnel.uapi_client import UapiClient  # noqa: PLC0415

    record = up_record.find(name)
    if record is None:
        UapiClient(name, uapi.SOCKET_DIRECTORY).get()  # nothing serves it, or it cannot be read: that error
        raise HostError(
            f"{name} was not started by udpring up, so its file is not known",
            cure=f"apply a file to it: wg syncconf {name} FILE",
        )
    return record
