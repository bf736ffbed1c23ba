"""PreUp, PostUp, PreDown and PostDown, run as wg-quick(8) runs them.

Each hook is a text for bash. A shell of its own evaluates it under ``set -e -o pipefail`` with
``extglob``, so a hook fails as soon as one of its commands does. ``%i`` is the interface's name. The shell
variables that a hook finds in wg-quick (``$INTERFACE``, ``$CONFIG_FILE``, ``$MTU``, ...) are set, but not
exported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from udpring.errors import HostError
from udpring.tunnel.config import InterfaceConfig
from udpring.tunnel.patience import ready_first

__all__ = ["HookScope", "has_hooks", "run_hooks"]

_log = logging.getLogger(__name__)

_SHOWN = 2000
"""Characters of a failed hook's standard error that go into the log."""


def has_hooks(settings: InterfaceConfig) -> bool:
    """Whether the configuration has a command to run."""
    return bool(settings.pre_up or settings.post_up or settings.pre_down or settings.post_down)


@dataclass(frozen=True, slots=True)
class HookScope:
    """The variables of a hook: the interface, the file, and the settings of its ``[Interface]``."""

    interface: str
    file: Path
    settings: InterfaceConfig

    def argv(self, hook: str) -> tuple[str, ...]:
        """The command line of the shell that evaluates ``hook``."""
        return ("bash", "-c", f'{self._prelude()}eval "$1"', "udpring", self.text(hook))

    def text(self, hook: str) -> str:
        """The hook with the interface's name in place of ``%i``."""
        return hook.replace("%i", self.interface)

    def _prelude(self) -> str:
        settings = self.settings
        one = {
            "INTERFACE": self.interface,
            "CONFIG_FILE": str(self.file),
            "PROGRAM": "udpring",
            "MTU": "" if settings.mtu is None else str(settings.mtu),
            "TABLE": "" if settings.table == "auto" else settings.table,
            "SAVE_CONFIG": "1" if settings.save_config else "0",
        }
        many = {
            "ADDRESSES": map(str, settings.addresses),
            "DNS": map(str, settings.dns),
            "DNS_SEARCH": settings.dns_search,
        }
        lines = ["set -e -o pipefail", "shopt -s extglob", "export LC_ALL=C"]
        lines += [f"{name}={shlex.quote(value)}" for name, value in one.items()]
        lines += [f"{name}=({' '.join(map(shlex.quote, values))})" for name, values in many.items()]
        return "".join(f"{line}\n" for line in lines)


def run_hooks(
    scope: HookScope, key: str, hooks: Iterable[str], *, attached: bool = True, patience: int | None = None
) -> None:
    """Runs the hooks of ``key`` (PreUp, ...) one after another. They print to the standard streams.

    There is no time limit, but the hook is killed when the descriptor ``patience`` is ready. Raises HostError
    for the first that fails. ``attached=False``, for a process without a terminal, puts the failed hook's
    standard error into the exception.
    """
    for hook in hooks:
        _log.info("[#] %s", scope.text(hook))
        with os.fdopen(os.memfd_create("udpring-hook", os.MFD_CLOEXEC), "w+b") as written:
            try:
                status = _run(scope.argv(hook), None if attached else written, patience)
            except FileNotFoundError:
                raise HostError("bash is not installed", cure="install it: apt-get install bash") from None
            if status:
                written.seek(0)
                said = " ".join(written.read().decode("utf-8", "replace").split())[-_SHOWN:]
                raise HostError(
                    f"{key} ended with {status}: {scope.text(hook)}{': ' if said else ''}{said}",
                    cure="correct the command. The hook fails if any part of it fails",
                )


def _run(argv: tuple[str, ...], errors: IO[bytes] | None, patience: int | None) -> int:
    """The exit code."""
    with subprocess.Popen(argv, stderr=errors) as process:
        try:
            if patience is not None:
                handle = os.pidfd_open(process.pid)
                try:
                    if not ready_first(handle, patience):
                        _kill(process.pid)
                finally:
                    os.close(handle)
            return process.wait()
        except BaseException:
            process.kill()
            raise


def _kill(process: int) -> None:
    """Ends a process and its descendants. A daemon that has left its parent is none of them."""
    children = []
    with contextlib.suppress(OSError):  # it has ended, or the kernel does not list children
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    for child in children:
        _kill(int(child))
