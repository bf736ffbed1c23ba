"""The steps of confinement that a process takes before it has loaded much: whether to confine it, and who may
read its memory. A broker process takes no others.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Callable, Mapping

from udpring.errors import ConfigError

__all__ = ["VARIABLE", "attempt", "hide", "prctl", "protect_memory", "restore_dumps", "wanted"]

VARIABLE = "UDPRING_CONFINEMENT"
_PR_SET_DUMPABLE = 4
_DUMP_FILTER = "/proc/self/coredump_filter"
"""Read and written without ``pathlib``, which a broker process does not load."""

_dumps_before: tuple[tuple[int, int], str] | None = None
"""RLIMIT_CORE and the filter before ``protect_memory``."""


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether processes are confined: unless UDPRING_CONFINEMENT is ``off``. Raises ConfigError."""
    value = environment.get(VARIABLE, "") or "on"
    if value not in ("on", "off"):
        raise ConfigError(
            f"{VARIABLE} is neither on nor off", file="<environment>", text=value, cure="use on or off"
        )
    return value == "on"


def protect_memory(*, children: bool = False) -> None:
    """No core dumps, no memory in one that is made all the same, and no reading or tracing of this process by
    others of its user (PR_SET_DUMPABLE). ``children``: a child may undo it by ``restore_dumps``."""
    global _dumps_before
    _, most = limit = resource.getrlimit(resource.RLIMIT_CORE)
    with contextlib.suppress(OSError), open(_DUMP_FILTER, encoding="utf-8") as kept:
        _dumps_before = limit, kept.read()
    attempt("core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, most if children else 0)))
    attempt("core dumps", lambda: _set_dump_filter("0"))
    hide()


def restore_dumps() -> None:
    """Gives the programs that this process starts the core dumps that it had before ``protect_memory``."""
    if _dumps_before is None:
        return
    limit, text = _dumps_before
    attempt("PR_SET_DUMPABLE", lambda: prctl(_PR_SET_DUMPABLE, 1))  # else /proc/self is root's
    attempt("core dumps", lambda: _set_dump_filter(f"0x{text}"))
    hide()
    attempt("core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, limit))


def hide() -> None:
    """No reading or tracing of this process by others of its user. A change of the user undoes this."""
    attempt("PR_SET_DUMPABLE", lambda: prctl(_PR_SET_DUMPABLE, 0))


def _set_dump_filter(text: str) -> None:
    no_proc = contextlib.suppress(FileNotFoundError)  # no /proc is mounted: the limit has to suffice
    with no_proc, open(_DUMP_FILTER, "w", encoding="utf-8") as chosen:
        chosen.write(text)


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def attempt(what: str, step: Callable[[], object]) -> None:
    """Takes a step, or logs that the host refuses it."""
    try:
        step()
    except (OSError, ValueError) as refused:
        import logging  # noqa: PLC0415 - a broker process does not load it

        logging.getLogger("udpring.node").warning("not confined by %s: %s", what, refused)
