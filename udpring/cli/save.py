"""``udpring save``: writes the running configuration of an interface to its file, as ``wg-quick save``."""

from __future__ import annotations

import argparse

from udpring.cli import Subparsers


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "save",
        help="write the running configuration of an interface to its file",
        description="Write the present keys, port, mark, peers, addresses and MTU to the file of a running "
        "interface, as wg-quick save does. The DNS, Table, SaveConfig and commands of the file stay, and the "
        "names of peers. Other comments are lost. The file is replaced in one step, with mode 0600.",
    )
    parser.add_argument(
        "name", metavar="IFACE", help="the name of a running interface, or its configuration file"
    )


def run(args: argparse.Namespace) -> int:
    """Raises HostError where nothing serves the interface, ConfigError where its file cannot be read. The
    file is unchanged then."""
    from udpring.tunnel import config, up_record  # noqa: PLC0415
    from udpring.tunnel.saved_config import save  # noqa: PLC0415

    name, path = config.locate(args.name)
    record = up_record.find(name) if args.name == name else None
    file = path.resolve() if record is None else record.file
    save(name, file, config.Config.load(file))
    return 0
