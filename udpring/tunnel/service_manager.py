"""What a service manager is told of a process in the foreground: sd_notify(3), without its library.

``READY=1`` when the interface is up, ``RELOADING=1`` and ``READY=1`` around a reload, ``STOPPING=1`` at the
end, and ``WATCHDOG=1`` at half the interval that WATCHDOG_USEC gives: an event loop that hangs is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["ServiceManager"]


class ServiceManager:
    """By NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID of ``environment``; else silent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ is the abstract namespace (unix(7)).
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._timer: asyncio.TimerHandle | None = None
        self._interval = 0.0
        microseconds = environment.get("WATCHDOG_USEC", "")
        if microseconds.isdecimal() and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._interval = int(microseconds) / 2e6

    def tell(self, *assignments: str) -> None:
        """Sends them in one message; that nobody listens is no error."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode(), self._address)

    def ready(self) -> None:
        """All is up; from now on the watchdog hears of the event loop that is running."""
        self.tell("READY=1")
        if self._address and self._interval and self._timer is None:
            self._alive(asyncio.get_running_loop())

    def reloading(self) -> None:
        """A reload begins; ``ready`` says that it is over."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self.tell("STOPPING=1")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _alive(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tell("WATCHDOG=1")
        self._timer = loop.call_later(self._interval, self._alive, loop)
