"""``udpring``: finds the command's module, runs it, turns exceptions into one line and an exit code.

1. The modules of ``udpring.cli`` are listed without importing them.
2. If the first word names a module, only that one is imported, so ``udpring genkey`` is quick. Otherwise all
   are, for the help.
3. ``run`` does the work.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import udpring
from udpring import cli
from udpring.errors import ConfigError, HostError, UdpringError
from udpring.tunnel.refusals import SHORTAGES, explained

__all__ = ["DONE", "FAILED", "HOST_CANNOT", "INTERRUPTED", "MISUSED", "command_names", "full_parser", "main"]

DONE = 0
FAILED = 1
MISUSED = 2
"""Bad usage or configuration; argparse uses the same code."""
HOST_CANNOT = 3
INTERRUPTED = 130


def command_names() -> list[str]:
    """The names of modules that may be commands. A module without ``register`` is none."""
    names = (module.name for module in pkgutil.iter_modules(cli.__path__))
    return sorted(name for name in names if name != "main" and not name.startswith("_"))


def _modules(arguments: Sequence[str]) -> dict[str, ModuleType]:
    names = command_names()
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    modules = {
        name: importlib.import_module(f"udpring.cli.{name}")
        for name in ([wanted] if wanted in names else names)
    }
    return {name: module for name, module in modules.items() if hasattr(module, "register")}


def _parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="udpring",
        description="A WireGuard node for Linux, on io_uring.",
        epilog="exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 refused by this host",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"udpring {udpring.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in modules.values():
        module.register(subparsers)
    return parser


def full_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    return _parser(_modules([]))


def _say(error: object) -> None:
    """Prints an error as one line."""
    text = " ".join(str(error).split("\n"))
    print(f"udpring: {text}", file=sys.stderr)


def _stop_writing() -> None:
    """After a broken pipe: sends buffered output to /dev/null, so that the interpreter's flush does not
    fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        nowhere = os.memfd_create("nowhere")
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _flush() -> None:
    """Writes buffered output. Raises UdpringError where that fails, so that no output is lost silently."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as failed:
        _stop_writing()
        raise UdpringError(f"standard output cannot be written: {failed.strerror}") from None


def _failed(error: Exception) -> int:
    """Prints a refusal by the host. Raises errors of the program again."""
    shortage = isinstance(error, MemoryError | ImportError | RuntimeError) or (
        isinstance(error, OSError) and error.errno in SHORTAGES
    )
    if isinstance(error, UdpringError) or (isinstance(error, OSError) and not shortage):
        _say(error)
        return FAILED
    refusal = explained(error)
    if refusal is None:
        raise error
    _say(refusal)
    return HOST_CANNOT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Usage errors and ``--help`` raise SystemExit, as argparse
    does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        cli.open_standard_streams()
        modules = _modules(arguments)
        args = _parser(modules).parse_args(arguments)
        args.words = arguments  # for a command that starts itself again
        code = modules[args.command].run(args)
        _flush()
    except ConfigError as error:
        _say(error)
        return MISUSED
    except HostError as error:
        _say(error)
        return HOST_CANNOT
    except BrokenPipeError:
        _stop_writing()
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _failed(error)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
