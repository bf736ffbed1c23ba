"""Keeps this process from making entries in the file system that are no files: sockets, devices, links.

The filter (``seccomp``) cannot do it: bind(2) has the path of a socket in memory, where a filter cannot look.
A Landlock domain binds the calling thread and what it starts. So this is for a process with one thread.

Sources: landlock(7), linux/landlock.h. The calls have one number on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

__all__ = ["forbid_special_files"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_MAKE_CHAR, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM, _REFER = (
    1 << bit for bit in (6, 9, 10, 11, 12, 13)
)
_REFER_SINCE = 2
"""The version that has _REFER, without which hard links between folders always fail."""


def forbid_special_files(sockets: Iterable[str | os.PathLike[str]]) -> None:
    """Sockets may still be made in the folders ``sockets``, or above one that is missing. Raises OSError,
    such as ENOSYS from a kernel without Landlock."""
    if _call(_CREATE_RULESET, None, 0, _VERSION) < _REFER_SINCE:
        return
    handled = _MAKE_CHAR | _MAKE_SOCK | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM | _REFER
    rules = _call(_CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
    try:
        for folder in sockets:
            _allow(rules, os.path.abspath(folder))
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, folder: str) -> None:
    try:
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        if folder != "/":
            _allow(rules, os.path.dirname(folder))
        return
    try:
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", _MAKE_SOCK | _REFER, opened), 0)
    finally:
        os.close(opened)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    words = (each if isinstance(each, bytes) else ctypes.c_long(each or 0) for each in arguments)
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        refused = ctypes.get_errno()
        raise OSError(refused, f"Landlock: {os.strerror(refused)}")
    return result
