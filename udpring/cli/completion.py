"""``udpring completion SHELL``: completions of commands, options and interfaces, made from the parser."""

from __future__ import annotations

import argparse
import sys

from udpring.cli import Subparsers


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print completions for a shell",
        description="Print completions of commands, options and running interfaces. bash: write them to "
        "/usr/local/share/bash-completion/completions/udpring, or `eval` them in .bashrc. zsh: to a file "
        "_udpring in a folder of fpath. fish: to ~/.config/fish/completions/udpring.fish.",
    )
    parser.add_argument("shell", choices=("bash", "fish", "zsh"), help="bash, fish or zsh")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from udpring.cli._command_tree import all_commands  # noqa: PLC0415
    from udpring.cli._completion import SHELLS  # noqa: PLC0415

    sys.stdout.write(SHELLS[args.shell](all_commands()))
    return 0
