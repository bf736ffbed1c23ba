"""A timer as a descriptor (timerfd_create(2)). The ``os`` module has it from Python 3.13 on."""

from __future__ import annotations

import ctypes
import os
import struct
import time

__all__ = ["Timer"]

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_SPEC = struct.Struct("@qqqq")  # struct itimerspec: interval, value


class Timer:
    """Readable at one time of ``time.monotonic``. Raises OSError if the kernel refuses it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def set(self, when: float | None) -> None:
        """Makes it readable at ``when`` and not before. None: never."""
        total = 0 if when is None else max(1, round(when * 1e9))
        packed = _SPEC.pack(0, 0, total // 10**9, total % 10**9)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, packed, None)

    def close(self) -> None:
        """Closes the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
