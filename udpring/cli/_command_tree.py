"""The commands with their options and arguments, read from the parsers. Manual pages, completions and the
reference on the documentation's site are made from it."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

__all__ = ["Argument", "Command", "Option", "all_commands"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option."""

    flags: tuple[str, ...]
    value: str
    """The name of its value. Empty: it has none."""
    choices: tuple[str, ...]
    summary: str
    required: bool


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional argument."""

    name: str
    shape: str
    """As in a synopsis: ``[IFACE ...]``."""
    choices: tuple[str, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command or the subject of one."""

    words: tuple[str, ...]
    """As typed: ``("udpring", "bench", "udp")``."""
    summary: str
    description: str
    notes: str
    """Lines that stand behind the options in the help."""
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    children: tuple[Command, ...]


def all_commands() -> tuple[Command, Command]:
    """``udpring`` with its sub-commands, and ``udpring-wg``."""
    from udpring.cli import main, wg  # noqa: PLC0415 - a command of main calls this

    return (
        _command(("udpring",), "a WireGuard node for Linux, on io_uring", main.full_parser()),
        _command(("udpring-wg",), "run one WireGuard interface, as wireguard-go does", wg.parser()),
    )


def _command(words: tuple[str, ...], summary: str, parser: argparse.ArgumentParser) -> Command:
    options: list[Option] = []
    arguments: list[Argument] = []
    children: list[Command] = []
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            children += _children(words, action)
            continue
        text = _joined(formatter._expand_help(action)) if action.help else ""
        choices = tuple(str(choice) for choice in action.choices or ())
        if action.option_strings:
            value = "" if action.nargs == 0 else formatter._format_args(action, _dest(action))
            required = action.required
            options.append(Option(tuple(action.option_strings), value, choices, text, required))
        else:
            shape = re.sub(r"\s+", " ", formatter._format_args(action, _dest(action)))
            name = action.metavar if isinstance(action.metavar, str) else _dest(action)
            arguments.append(Argument(name, shape, choices, text))
    return Command(
        words,
        summary,
        _joined(parser.description or ""),
        parser.epilog or "",
        tuple(options),
        tuple(arguments),
        tuple(children),
    )


def _children(
    words: tuple[str, ...], action: argparse._SubParsersAction[argparse.ArgumentParser]
) -> list[Command]:
    summaries = {listed.dest: listed.help or "" for listed in action._choices_actions}
    return [
        _command((*words, name), summaries.get(name, ""), parser) for name, parser in action.choices.items()
    ]


def _dest(action: argparse.Action) -> str:
    return action.dest.upper() if action.option_strings else action.dest


def _joined(text: str) -> str:
    return " ".join(text.split())
