"""Leaves the memory of this process out of core dumps, whoever makes them (MADV_DONTDUMP).

The core's own keys are left out in every process (``native/secret.h``). This is for copies elsewhere: in
Python's objects and in OpenSSL. A mark belongs to a mapping, so later ones are marked too: Python's arenas
when they are made, the heap when the core has made a key there.
"""

from __future__ import annotations

import ctypes
import os

from udpring._native import ffi, lib

__all__ = ["hide_memory"]


class _Arenas(ctypes.Structure):
    """PyObjectArenaAllocator."""

    _fields_ = (("context", ctypes.c_void_p), ("new", ctypes.c_void_p), ("free", ctypes.c_void_p))


def hide_memory() -> None:
    """All that there is, and what comes. May be called again. Raises OSError."""
    functions = (ffi.addressof(lib, name) for name in ("udpring_arena_new", "udpring_arena_free"))
    arenas = _Arenas(None, *(int(ffi.cast("uintptr_t", each)) for each in functions))
    ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(arenas))
    if code := lib.udpring_memory_hide():
        raise OSError(-code, os.strerror(-code))
