"""Completions for bash, zsh and fish, from the command tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from udpring.cli._command_tree import Argument, Command, Option

__all__ = ["SHELLS"]

_INTERFACES: Final = "IFACE"
_FILES: Final = re.compile(r"FILE|PATH|DIR|FOLDER|PROGRAM")


def _walk(command: Command) -> Iterator[Command]:
    yield command
    for child in command.children:
        yield from _walk(child)


def _kind(value: str) -> str:
    """What completes a value of this name: ``interfaces``, ``files`` or nothing."""
    if _INTERFACES in value or value == "NAME":
        return "interfaces"
    return "files" if _FILES.search(value) else ""


_BASH_TAIL = """
_udpring_interfaces() {
    local path
    for path in /var/run/wireguard/*.sock; do
        [[ -e $path ]] && path=${path##*/} && printf '%s\\n' "${path%.sock}"
    done
}

_udpring() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local key=${COMP_WORDS[0]##*/} word kind found
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ -n ${_udpring_words["$key $word"]+known} ]] && key="$key $word"
    done
    kind=${_udpring_values["$key $previous"]-}
    [[ -n $kind ]] || kind="${_udpring_words[$key]} ${_udpring_arguments[$key]}"
    COMPREPLY=()
    for word in $kind; do
        case $word in
            @files) mapfile -t found < <(compgen -f -- "$current") ;;
            @interfaces) mapfile -t found < <(compgen -W "$(_udpring_interfaces)" -- "$current") ;;
            *) mapfile -t found < <(compgen -W "$word" -- "$current") ;;
        esac
        COMPREPLY+=("${found[@]}")
    done
}
complete -o filenames -F _udpring udpring udpring-wg
"""


def _bash_value(value: str, choices: tuple[str, ...]) -> str:
    kind = _kind(value)
    return " ".join(choices) if choices else f"@{kind}" if kind else ""


def _bash(trees: tuple[Command, ...]) -> str:
    lines = [
        "# bash completion for udpring, made from its parser",
        "declare -A _udpring_words _udpring_values",
    ]
    lines.append("declare -A _udpring_arguments")
    for command in (each for tree in trees for each in _walk(tree)):
        key = " ".join(command.words)
        words = [flag for option in command.options for flag in option.flags]
        words = [child.words[-1] for child in command.children] + words
        arguments = [_bash_value(each.name, each.choices) for each in command.arguments]
        lines.append(f"_udpring_words[{_quoted(key)}]={_quoted(' '.join(words))}")
        lines.append(f"_udpring_arguments[{_quoted(key)}]={_quoted(' '.join(filter(None, arguments)))}")
        for option in command.options:
            completed = _bash_value(option.value, option.choices)
            if option.value and completed:
                for flag in option.flags:
                    lines.append(f"_udpring_values[{_quoted(f'{key} {flag}')}]={_quoted(completed)}")
    return "\n".join(lines) + _BASH_TAIL


def _zsh_action(value: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f"({' '.join(choices)})"
    return {"interfaces": "_udpring_interfaces", "files": "_files"}.get(_kind(value), " ")


def _zsh_option(option: Option) -> Iterator[str]:
    summary = re.sub(r"([\[\]\\:])", r"\\\1", option.summary)
    value = re.sub(r"([\[\]\\:])", r"\\\1", option.value)
    for flag in option.flags:
        spec = f"{flag}[{summary}]"
        if option.value:
            spec += f":{value}:{_zsh_action(option.value, option.choices)}"
        yield _quoted(spec)


def _zsh_argument(argument: Argument) -> str:
    many = "*" if "..." in argument.shape else ":" if argument.shape.startswith("[") else ""
    return _quoted(f"{many}:{argument.name}:{_zsh_action(argument.name, argument.choices)}")


def _zsh_function(command: Command) -> str:
    return "_" + "_".join(command.words).replace("-", "_")


def _zsh(trees: tuple[Command, ...]) -> str:
    lines = [
        "#compdef udpring udpring-wg",
        "# zsh completion for udpring, made from its parser",
        "_udpring_interfaces() {",
        "    local -a names=(/var/run/wireguard/*.sock(N:t:r))",
        "    compadd -a names",
        "}",
    ]
    for command in (each for tree in trees for each in _walk(tree)):
        specs = [spec for option in command.options for spec in _zsh_option(option)]
        lines.append(f"{_zsh_function(command)}() {{")
        if command.children:
            listed = [f"{child.words[-1]}:{child.summary}" for child in command.children]
            lines += [
                "    local -a commands=(" + " ".join(_quoted(each) for each in listed) + ")",
                "    local state line",
                "    _arguments -C " + " ".join([*specs, "'1: :->command'", "'*:: :->rest'"]),
                "    case $state in",
                "        command) _describe command commands ;;",
                "        rest) case $line[1] in",
            ]
            lines += [
                f"            {child.words[-1]}) {_zsh_function(child)} ;;" for child in command.children
            ]
            lines += ["        esac ;;", "    esac"]
        else:
            specs += [_zsh_argument(argument) for argument in command.arguments]
            lines.append("    _arguments " + " ".join(specs))
        lines.append("}")
    lines.append('case $service in udpring-wg) _udpring_wg "$@" ;; *) _udpring "$@" ;; esac')
    return "\n".join(lines) + "\n"


def _fish_value(value: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f" -xa {_quoted(' '.join(choices))}"
    return {"interfaces": " -xa '(__udpring_interfaces)'", "files": " -rF"}.get(_kind(value), " -x")


def _fish(trees: tuple[Command, ...]) -> str:
    lines = [
        "# fish completion for udpring, made from its parser",
        "function __udpring_interfaces",
        "    for path in /var/run/wireguard/*.sock",
        "        string replace -r '\\.sock$' '' (basename $path)",
        "    end",
        "end",
    ]
    for command in (each for tree in trees for each in _walk(tree)):
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.words[1:]]
        if command.children:
            names = " ".join(child.words[-1] for child in command.children)
            seen.append(f"not __fish_seen_subcommand_from {names}")
        prefix = f"complete -c {command.words[0]}" + (f" -n {_quoted('; and '.join(seen))}" if seen else "")
        for child in command.children:
            lines.append(f"{prefix} -f -a {child.words[-1]} -d {_quoted(child.summary)}")
        for option in command.options:
            names = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags)
            value = _fish_value(option.value, option.choices) if option.value else ""
            lines.append(f"{prefix} {names}{value} -d {_quoted(option.summary)}")
        for argument in command.arguments:
            completed = " ".join(argument.choices)
            if _kind(argument.name) == "interfaces":
                completed = "(__udpring_interfaces)"
            if completed:
                lines.append(f"{prefix} -f -a {_quoted(completed)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SHELLS: Final[dict[str, Callable[[tuple[Command, ...]], str]]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
"""Makes the completions of one shell from the trees of all programs."""
