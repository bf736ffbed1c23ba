"""Notifies a service manager of the state of a process in the foreground: sd_notify(3), without its library.

``READY=1`` when the interface is up, ``RELOADING=1`` and ``READY=1`` around a reload, ``STOPPING=1`` at the
end, and ``WATCHDOG=1`` at half the interval of WATCHDOG_USEC, so that the manager notices a hanging event
loop.

Nothing here blocks. When the socket is full, a change of state is sent again later. A watchdog message is
not, because the next one follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Mapping

from udpring.tunnel.decimal_text import parse_decimal

__all__ = ["ServiceManager"]

WATCHDOG_USEC_MAX = 2**63 - 1

RETRY_SECONDS = 0.1
UNSENT_MAX = 8


class ServiceManager:
    """By NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID of ``environment``; else silent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ is the abstract namespace (unix(7)).
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._timer: asyncio.TimerHandle | None = None
        self._interval = 0.0
        self._unsent: deque[bytes] = deque(maxlen=UNSENT_MAX)
        self._again: asyncio.TimerHandle | None = None
        microseconds = parse_decimal(environment.get("WATCHDOG_USEC", ""), WATCHDOG_USEC_MAX)
        if microseconds and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._interval = microseconds / 2e6

    def tell(self, *assignments: str) -> None:
        """Sends them in one message. A missing listener is no error."""
        if self._address:
            self._unsent.append("\n".join(assignments).encode())
            self._send()

    def _send(self) -> None:
        """Sends unsent messages in order, while the socket has room."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while self._unsent:
            try:
                self._try(self._unsent[0])
            except BlockingIOError:
                self._again = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._send)
                return
            except OSError:
                pass  # nobody listens
            self._unsent.popleft()

    def _try(self, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message, self._address)

    def ready(self) -> None:
        """Reports that the node is up. Watchdog messages begin."""
        self.tell("READY=1")
        if self._address and self._interval and self._timer is None:
            self._alive(asyncio.get_running_loop())

    def reloading(self) -> None:
        """Reports the begin of a reload. ``ready`` reports its end."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Reports that the node is stopping."""
        self.tell("STOPPING=1")
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        self._timer = self._again = None

    def _alive(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._unsent:
            with contextlib.suppress(OSError):
                self._try(b"WATCHDOG=1")
        self._timer = loop.call_later(self._interval, self._alive, loop)
