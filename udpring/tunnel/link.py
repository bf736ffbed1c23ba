"""Whether the TUN interface is administratively up, and a call when that changes.

A TUN descriptor polls writable exactly while its interface is up (drivers/net/tun.c ``tun_chr_poll``), also
after the interface was moved to another network namespace. Polling it needs no right, and wakes when the
interface comes up. When it goes down, rtnetlink reports it in our own namespace. Elsewhere ``look`` notices,
which the user of this module calls before it sends anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import Protocol, TypeAlias

__all__ = ["Link", "LinkFactory", "LinkWatch"]

RTMGRP_LINK = 1
MESSAGES_A_TURN = 64
_MESSAGE_ROOM = 65536


class LinkWatch(Protocol):
    """Watches whether a node's end is up, from ``start`` to ``stop``."""

    up: bool
    """As it was when it was looked at last."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to watch."""

    def stop(self) -> None:
        """Ends the watch. May be called again."""

    def look(self) -> bool:
        """Whether the end is up now. Calls ``changed`` first if that has changed."""


LinkFactory: TypeAlias = Callable[[Callable[[], None]], LinkWatch]
"""Makes a watch that calls its argument when the state has changed."""


class Link:
    """Watches the interface of a TUN descriptor, from ``start`` to ``stop``, and calls ``changed``."""

    def __init__(self, tun: int, changed: Callable[[], None]) -> None:
        self._tun = tun
        self._changed = changed
        self._poll = select.poll()
        self._poll.register(tun, select.POLLOUT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: int | None = None
        self._gone = False
        self._events: socket.socket | None = None
        self.up = self._is_up()
        """As it was when it was looked at last."""

    def _is_up(self) -> bool:
        events = sum(event for _, event in self._poll.poll(0))
        if events & (select.POLLERR | select.POLLNVAL):
            self._gone = True  # the interface was deleted
        return bool(events & select.POLLOUT)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to watch. Without a netlink socket only ``look`` notices changes."""
        self._loop = loop
        with contextlib.suppress(OSError):
            self._events = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            self._events.bind((0, RTMGRP_LINK))
            loop.add_reader(self._events, self._readable)
        self.up = self._is_up()
        self._wait_while_down()

    def stop(self) -> None:
        """Ends the watch. May be called again."""
        loop, self._loop = self._loop, None
        events, self._events = self._events, None
        if loop is None:
            return
        if events is not None:
            loop.remove_reader(events)
            events.close()
        self._wait_no_longer(loop)

    def look(self) -> bool:
        """Whether the interface is up now. Calls ``changed`` first if that has changed."""
        up = self._is_up()
        if self._gone:
            self._wait_while_down()
        elif up != self.up:
            self.up = up
            self._wait_while_down()
            self._changed()
        return self.up

    def _readable(self) -> None:
        """Some interface changed. Looking at ours is cheap, so it does not matter which."""
        assert self._events is not None
        # An overflow (ENOBUFS) lost messages, no state: we look anyway.
        with contextlib.suppress(OSError):
            for _ in range(MESSAGES_A_TURN):
                self._events.recv(_MESSAGE_ROOM)
        self.look()

    def _wait_while_down(self) -> None:
        loop = self._loop
        if loop is None:
            return
        if self.up or self._gone:
            self._wait_no_longer(loop)
        elif self._waiting is None:
            # A duplicate: the descriptor itself may be watched elsewhere.
            self._waiting = os.dup(self._tun)
            loop.add_writer(self._waiting, self.look)

    def _wait_no_longer(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop.remove_writer(waiting)
            os.close(waiting)
