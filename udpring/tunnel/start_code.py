"""Gives back the memory of code that only the start ran.

A page of code that a process has run once stays mapped and counts as its memory, even if it never runs
again. Examples are the loader, the interpreter's compiler, and the self-test of ipsec-mb. They are a fifth of
the memory of a node without peers. The pages stay in the kernel's page cache. A page that runs again is
mapped again, by a fault that takes about a microsecond.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import TypeAlias

__all__ = ["code_of_process", "give_back"]

Mappings: TypeAlias = list[tuple[int, int]]
_MADV_DONTNEED = 4


def code_of_process() -> Mappings:
    """Addresses and sizes of the mapped code of files. Call it before the confinement, which forbids files.

    Constants are left out: relocation may have changed their pages, so the file does not have them.
    """
    found = []
    with contextlib.suppress(FileNotFoundError), open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            place, rights, _, _, inode = line.split()[:5]
            if rights == "r-xp" and inode != "0":
                begin, end = (int(number, 16) for number in place.split("-"))
                found.append((begin, end - begin))
    return found


def give_back(code: Mappings) -> None:
    """Unmaps its pages until they run again."""
    libc = ctypes.CDLL(None)
    for begin, size in code:
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _MADV_DONTNEED)
