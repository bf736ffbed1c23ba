"""Capabilities of this process: keeps some and gives up the others (capabilities(7)).

Capabilities belong to threads, so this is for a process that has one thread. Later threads inherit them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

__all__ = [
    "DAC_OVERRIDE",
    "KILL",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETUID",
    "SYS_NICE",
    "held",
    "keep_only",
]

DAC_OVERRIDE, KILL, SETGID, SETUID, NET_BIND_SERVICE, NET_ADMIN = 1, 5, 6, 7, 10, 12
SYS_NICE, SETFCAP = 23, 31
"""CAP_* of linux/capability.h."""

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4


def held() -> int:
    """The permitted capabilities of the calling thread, a bit each."""
    with open("/proc/thread-self/status", encoding="utf-8") as status:  # noqa: PTH123 - without pathlib
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def keep_only(wanted: Iterable[int]) -> None:
    """Keeps those of ``wanted`` that the process has, permitted and effective. Nothing is inheritable, and
    the bounding set shrinks where the process may shrink it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = held() & sum(1 << each for each in wanted)
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    for number in range(64):
        if not kept >> number & 1:  # fails for numbers that no capability has, and without CAP_SETPCAP
            libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    head = struct.pack("=Ii", _VERSION_3, 0)
    sets = struct.pack("=6I", low, low, 0, high, high, 0)
    if libc.capset(head, sets):
        refused = ctypes.get_errno()
        raise OSError(refused, f"capset: {os.strerror(refused)}")
