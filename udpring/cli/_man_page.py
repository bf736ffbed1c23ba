"""Manual pages in the language of man(7), from the command tree."""

from __future__ import annotations

import re
from collections.abc import Iterator

from udpring import __version__
from udpring.cli._command_tree import Command, Option

__all__ = ["man_page", "page_name"]


def page_name(command: Command) -> str:
    """``udpring-up``."""
    return "-".join(command.words)


def man_page(command: Command, exit_codes: str) -> str:
    """One page. A command's subjects are sections of its page. ``exit_codes``: as in the help of
    ``udpring``."""
    lines = [
        f'.TH "{page_name(command).upper()}" "8" "" "udpring {__version__}" "udpring"',
        ".SH NAME",
        f"{_escaped(page_name(command))} \\- {_escaped(command.summary)}",
        ".SH SYNOPSIS",
    ]
    for each in command.children or (command,):
        lines += _synopsis(each)
        lines.append(".br")
    lines.pop()
    lines += [".SH DESCRIPTION", *_text(command.description)]
    lines += _arguments_and_options(command, ".SH")
    if command.children:
        lines.append(".SH COMMANDS")
        for child in command.children:
            lines += [f'.SS "{_escaped(" ".join(child.words[1:]))}"', *_text(child.description)]
            if len(command.words) > 1:
                lines += _arguments_and_options(child, ".PP\n.I")
    if "\n" in command.notes:
        lines += [".SH NOTES", ".nf", *(_text_line(line) for line in command.notes.splitlines()), ".fi"]
    else:
        lines += [".SH EXIT STATUS", *_text(exit_codes)]
    lines += [".SH SEE ALSO", "\\fBudpring\\fR(8), \\fBwg\\fR(8), \\fBwg\\-quick\\fR(8)"]
    return "\n".join(lines) + "\n"


def _synopsis(command: Command) -> Iterator[str]:
    yield f".B {_escaped(' '.join(command.words))}"
    words = []
    for option in command.options:
        flag = f"\\fB{_escaped(option.flags[0])}\\fR"
        word = f"{flag} \\fI{_escaped(option.value)}\\fR" if option.value else flag
        words.append(word if option.required else f"[{word}]")
    words += [f"\\fI{_escaped(argument.shape)}\\fR" for argument in command.arguments]
    if words:
        yield " ".join(words)


def _arguments_and_options(command: Command, heading: str) -> Iterator[str]:
    if command.arguments:
        yield f"{heading} ARGUMENTS"
        for argument in command.arguments:
            yield from (
                ".TP",
                f"\\fI{_escaped(argument.name)}\\fR",
                *_text(argument.summary or argument.name),
            )
    if command.options:
        yield f"{heading} OPTIONS"
        for option in command.options:
            yield from (".TP", _flags(option), *_text(option.summary or option.flags[-1]))


def _flags(option: Option) -> str:
    value = f" \\fI{_escaped(option.value)}\\fR" if option.value else ""
    return ", ".join(f"\\fB{_escaped(flag)}\\fR{value}" for flag in option.flags)


def _text(text: str) -> Iterator[str]:
    """Running text, one sentence a line. What stands in backticks is bold."""
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z`])", text):
        bold = re.split(r"`([^`]*)`", sentence)
        line = "".join(
            f"\\fB{_escaped(part)}\\fR" if number % 2 else _escaped(part) for number, part in enumerate(bold)
        )
        yield _guarded(line)


def _text_line(line: str) -> str:
    return _guarded(_escaped(line))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _guarded(line: str) -> str:
    """A line of text, not of a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
