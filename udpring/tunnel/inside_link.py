"""Whether an interface of another network namespace is up, by sockets of that namespace."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
from collections.abc import Callable

__all__ = ["InsideLink"]

SIOCGIFFLAGS = 0x8913
IFF_UP = 1
MESSAGES_A_TURN = 64
_MESSAGE_ROOM = 65536
_REQUEST = struct.Struct("16sH22x")


class InsideLink:
    """A ``link.LinkWatch``. ``query``: any socket of the namespace. ``notices``: an rtnetlink socket of it
    that hears of links, non-blocking. Both stay the caller's. ``removed`` is called once, when the interface
    is gone."""

    def __init__(
        self,
        name: str,
        query: socket.socket,
        notices: socket.socket,
        changed: Callable[[], None],
        removed: Callable[[], None],
    ) -> None:
        self._name = name
        self._query = query
        self._notices = notices
        self._changed = changed
        self._removed = removed
        self._gone = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.up = self._is_up()

    def _is_up(self) -> bool:
        try:
            answer = fcntl.ioctl(self._query, SIOCGIFFLAGS, _REQUEST.pack(self._name.encode(), 0))
        except OSError:
            if not self._gone:
                self._gone = True
                self._removed()
            return False
        return bool(_REQUEST.unpack(answer)[1] & IFF_UP)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to watch."""
        self._loop = loop
        loop.add_reader(self._notices, self._readable)
        self.look()

    def stop(self) -> None:
        """Ends the watch. May be called again."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.remove_reader(self._notices)

    def look(self) -> bool:
        """Whether the interface is up now. Calls ``changed`` first if that has changed."""
        up = self._is_up()
        if up != self.up and not self._gone:
            self.up = up
            self._changed()
        return self.up

    def _readable(self) -> None:
        # An overflow (ENOBUFS) lost messages, no state: we look anyway.
        with contextlib.suppress(OSError):
            for _ in range(MESSAGES_A_TURN):
                self._notices.recv(_MESSAGE_ROOM)
        self.look()
