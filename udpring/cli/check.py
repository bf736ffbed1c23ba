"""``udpring check FILE...``: whether a node could start with this configuration. Lists each error with its
place."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from udpring.cli import Subparsers
from udpring.errors import ConfigError
from udpring.tunnel import config, config_parser, endpoint_routes
from udpring.tunnel.keys import key_label

_CURE = (
    "the peer would get no packets. Write 0.0.0.0/0 or ::/0, which keep a route to endpoints, "
    "or add a route to the endpoint in PostUp"
)

_CROSSED_CURE = (
    "each would be reached through the other and get no packet; take one down first, "
    "or add a route to the endpoint in PostUp"
)


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "check",
        help="check configuration files",
        description="Read wg-quick configurations and print every error as FILE:LINE:COLUMN. Start nothing. "
        "The exit code is 2 if a file cannot be used.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, or the name of an interface in /etc/wireguard"
    )
    parser.add_argument(
        "--fragment",
        action="store_true",
        help="accept a file without PrivateKey, as for wg addconf and wg setconf",
    )


def run(args: argparse.Namespace) -> int:
    """Prints errors and warnings to standard error, a line for each good file to standard output."""
    code = 0
    for file in args.files:
        path = _path(file)
        try:
            checked, warnings, errors = _check(path, args.fragment)
        except ConfigError as wrong:
            checked, warnings, errors = None, (), (wrong,)
        for warning in warnings:
            print(f"udpring: warning: {warning}", file=sys.stderr)
        for error in errors:
            print(f"udpring: {error}", file=sys.stderr)
        if errors or checked is None:
            code = 2
        else:
            peers = len(checked.peers)
            print(f"{path}: good, {peers} {'peer' if peers == 1 else 'peers'}")
    return code


def _path(name: str) -> str:
    """The file that ``wg-quick`` would read, unless there is a file of that name here."""
    if config.INTERFACE_NAME.fullmatch(name) and not Path(name).exists():
        return str(config.locate(name)[1])
    return name


def _check(
    path: str, fragment: bool
) -> tuple[config.Config | None, tuple[str, ...], tuple[ConfigError, ...]]:
    text, file_warnings = config.read(path)
    checked, errors = config_parser.parse(text, path)
    if checked is None:
        return None, file_warnings, errors
    if not fragment:
        checked.require_private_key_or_hook()
        file_warnings += _hooks_refused(checked, path)
        if checked.interface.private_key is None:
            file_warnings += (f"{path}: [Interface] has no PrivateKey: PostUp has to set it",)
    loops = tuple(
        f"{path}: {key_label(loop.public_key)}: {loop}: {_CURE}"
        for loop in endpoint_routes.loops_of_config(checked)
    )
    if not fragment:
        loops += tuple(
            f"{path}: {key_label(loop.public_key)}: {loop}: {_CROSSED_CURE}"
            for loop in endpoint_routes.crossings_of_config(checked)
        )
    return checked, file_warnings + checked.warnings + loops, ()


def _hooks_refused(checked: config.Config, path: str) -> tuple[str, ...]:
    """A warning where `udpring up` would not run the commands of this file."""
    from udpring.tunnel.hooks import has_hooks  # noqa: PLC0415
    from udpring.tunnel.trusted_file import require_trusted  # noqa: PLC0415

    if not has_hooks(checked.interface):
        return ()
    try:
        require_trusted(Path(path).resolve())
    except ConfigError as wrong:
        return (str(wrong),)
    return ()
