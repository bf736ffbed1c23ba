"""The scheduling attributes of a thread, by sched_getattr(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from pathlib import Path

__all__ = ["SHORT_NS", "attributes", "kernel_has_slices", "worker_threads"]

SHORT_NS = 500_000
_GETATTR = {"x86_64": 315, "aarch64": 275}


def attributes(thread: int = 0) -> tuple[int, int, int]:
    """Policy, nice value and time slice in ns."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(48)
    if libc.syscall(_GETATTR[platform.machine()], thread, buffer, len(buffer), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _, policy, _, nice, _, slice_ns, _, _ = struct.unpack("IIQiIQQQ", buffer.raw)
    return policy, nice, slice_ns


def kernel_has_slices() -> bool:
    major, minor = map(int, os.uname().release.split(".")[:2])
    return (major, minor) >= (6, 12)


def worker_threads() -> set[int]:
    """Of this process. A thread may end meanwhile."""
    found = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() == "udpring-worker":
                found.add(int(task.name))
    return found
