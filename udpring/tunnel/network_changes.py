"""Tells when an address of this host comes or goes, by rtnetlink: the host may be in another network.

Routes of single endpoints are watched by the plane (native/tunnel/worker/paths.c), for the peers that have
one. This watch is for those that have none yet because their name could not be looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

__all__ = ["NetworkChanges"]

RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100
SETTLE_SECONDS = 0.5
"""Several changes within this time are reported as one."""
_MESSAGES_A_TURN = 64
_MESSAGE_ROOM = 65536


class NetworkChanges:
    """Calls ``changed`` after changes, from ``start`` to ``stop``. In the thread of the event loop."""

    def __init__(self, changed: Callable[[], None], *, loop: asyncio.AbstractEventLoop) -> None:
        self._changed = changed
        self._loop = loop
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to watch the network namespace of the caller. Where netlink sockets are denied, nothing is
        reported."""
        with contextlib.suppress(OSError):
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            self._loop.add_reader(self._socket, self._readable)

    def stop(self) -> None:
        """Ends the watch. May be called again."""
        watched, self._socket = self._socket, None
        if watched is not None:
            self._loop.remove_reader(watched)
            watched.close()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _readable(self) -> None:
        assert self._socket is not None
        # An overflow (ENOBUFS) lost messages: there were changes all the same.
        with contextlib.suppress(OSError):
            for _ in range(_MESSAGES_A_TURN):
                self._socket.recv(_MESSAGE_ROOM)
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_SECONDS, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._changed()
