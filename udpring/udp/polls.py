"""How a datagram transport has its event loop poll for it.

1. A selector loop of asyncio polls the socket itself, as it does for its own transports, and refuses the
   program's readers for it (``SocketPolls``).
2. Other loops (uvloop) cannot: libuv takes an ICMP error for the end of the socket. The sockets are in epoll
   instances, and the loop polls these (``EpollPolls``, ``EpollSet``). The first endpoints of a loop have one
   each, which saves a system call for each wake-up. All others share one.
3. A transport with a receive ring of its own has the ring's descriptor polled for reading, and a duplicate of
   the socket's for writing (``RingPolls``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import select
import socket
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

__all__ = ["EpollPolls", "EpollSet", "EpollSets", "Polls", "RingPolls", "SocketPolls", "polls_sockets"]

Callback = Callable[[], None]

#: Endpoints of a loop that have an epoll instance of their own.
LONE_ENDPOINTS = 16
#: Sockets that one epoll_wait(2) reports. The others follow in the loop's next turn.
REPORTS_A_TURN = 64

_READS, _WRITES = select.EPOLLIN, select.EPOLLOUT

_known: dict[type, bool] = {}  # classes of loops


def polls_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop polls the socket of an endpoint itself: a selector loop of CPython."""
    loops: type = type(loop)
    known = _known.get(loops)
    if known is None:
        methods = ("_add_reader", "_remove_reader", "_add_writer", "_remove_writer")
        known = issubclass(loops, asyncio.SelectorEventLoop) and all(hasattr(loops, name) for name in methods)
        _known[loops] = known
    if not known:
        return False
    transports: object = getattr(loop, "_transports", None)
    return type(transports) is WeakValueDictionary or isinstance(transports, MutableMapping)


class Polls(Protocol):
    """The polls of one transport. Used in the loop's thread."""

    def read(self, callback: Callback) -> None:
        """From now on. Raises OSError."""

    def stop_reading(self) -> None:
        """Not polled: no effect."""

    def write(self, callback: Callback) -> None:
        """From now on, while the socket has room. Raises OSError."""

    def stop_writing(self) -> None:
        """Not polled: no effect."""

    def close(self) -> None:
        """Call when both have stopped."""


class SocketPolls:
    """The loop polls the socket, where ``polls_sockets``."""

    __slots__ = ("_descriptor", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, transport: object) -> None:
        self._loop: Any = loop
        self._descriptor = sock.fileno()
        own: Any = loop
        own._transports[self._descriptor] = transport  # the loop refuses other readers of it

    def read(self, callback: Callback) -> None:
        """See Polls."""
        self._loop._add_reader(self._descriptor, callback)

    def stop_reading(self) -> None:
        """See Polls."""
        self._loop._remove_reader(self._descriptor)

    def write(self, callback: Callback) -> None:
        """See Polls."""
        self._loop._add_writer(self._descriptor, callback)

    def stop_writing(self) -> None:
        """See Polls."""
        self._loop._remove_writer(self._descriptor)

    def close(self) -> None:
        """See Polls."""


class RingPolls:
    """The loop polls the descriptor of a receive ring, and a duplicate of the socket."""

    __slots__ = ("_loop", "_reading", "_socket", "_writing")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, reading: int) -> None:
        """``reading``: the descriptor of the ring."""
        self._loop = loop
        self._socket = sock
        self._reading = reading
        self._writing = -1

    def read(self, callback: Callback) -> None:
        """See Polls."""
        self._loop.add_reader(self._reading, callback)

    def stop_reading(self) -> None:
        """See Polls."""
        self._loop.remove_reader(self._reading)

    def write(self, callback: Callback) -> None:
        """See Polls."""
        if self._writing < 0:
            self._writing = os.dup(self._socket.fileno())
        self._loop.add_writer(self._writing, callback)

    def stop_writing(self) -> None:
        """See Polls."""
        self._loop.remove_writer(self._writing)

    def close(self) -> None:
        """See Polls."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1


class EpollSet:
    """An epoll instance with sockets of endpoints, polled by their event loop. Used in the loop's thread."""

    __slots__ = ("_callback", "_epoll", "_members", "_pid", "_stale")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pid = os.getpid()
        self._members: dict[int, EpollPolls] = {}  # polled now, by descriptor
        self._callback: Callback | None = None  # the reader that the loop has
        self._stale = False  # it may have a socket that is no member's

    def update(self, member: EpollPolls) -> None:
        """Polls the member's socket for ``member.wanted`` from now on. Raises OSError: the socket was closed,
        or the kernel has no memory."""
        if os.getpid() != self._pid:
            return  # a forked child shares the instance with its parent
        number, members = member.descriptor, self._members
        wanted = member.wanted
        if members.get(number) is member:
            try:
                if wanted:
                    self._epoll.modify(number, wanted)
                else:
                    del members[number]
                    self._epoll.unregister(number)
            except OSError:  # the program closed the socket, of which a duplicate may be open
                members.pop(number, None)
                self._stale = True
                self._have_called(member.loop)
                raise
        elif wanted:
            # Likewise, if this socket has the number of another member.
            if members.pop(number, None) or (self._stale and not members):
                self._renew(member.loop)
            self._epoll.register(number, wanted)
            members[number] = member
        self._have_called(member.loop)

    def _have_called(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes the loop call the only reader directly, or ``_look`` if there are several."""
        callback: Callback | None = self._look if self._members else None
        context = None
        if len(self._members) == 1:
            (only,) = self._members.values()
            if not only.writer and not self._stale:
                callback, context = only.reader, only.context.copy()  # the context may be entered now
        if callback == self._callback:
            return
        self._callback = callback
        if callback is None:
            loop.remove_reader(self._epoll.fileno())
        else:
            (context or contextvars.Context()).run(loop.add_reader, self._epoll.fileno(), callback)

    def _look(self) -> None:
        members = self._members
        for number, events in self._epoll.poll(0, REPORTS_A_TURN):
            member = members.get(number)
            if member is None:
                if self._stale and members:
                    self._renew(next(iter(members.values())).loop)
                continue
            if member.reader and events & ~_WRITES:
                member.context.run(member.reader)
            if member.writer and events & ~_READS:
                member.context.run(member.writer)

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes a new instance with the members' sockets alone. No call removes a closed socket from the old
        one while a duplicate of it is open."""
        if self._callback is not None:
            loop.remove_reader(self._epoll.fileno())
            self._callback = None
        self._epoll.close()
        self._epoll = select.epoll()
        self._stale = False
        for number, member in self._members.items():
            with contextlib.suppress(OSError):  # closed too, and not yet noticed
                self._epoll.register(number, member.wanted)
        self._have_called(loop)

    def close(self) -> None:
        """When no socket is in it."""
        self._epoll.close()


class EpollSets:
    """The epoll instances of an event loop. Owner: its seats."""

    __slots__ = ("_lone", "_shared")

    def __init__(self) -> None:
        self._lone = 0  # instances with one endpoint
        self._shared: EpollSet | None = None

    def polls(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> EpollPolls:
        """For the socket of an endpoint. Raises OSError (no descriptor for an instance)."""
        if self._lone < LONE_ENDPOINTS:
            alone = EpollPolls(loop, sock, EpollSet(), self)
            self._lone += 1
            return alone
        if self._shared is None:
            self._shared = EpollSet()
        return EpollPolls(loop, sock, self._shared, None)

    def end(self, alone: EpollSet) -> None:
        """Closes an instance whose only endpoint is closed."""
        alone.close()
        self._lone -= 1

    def close(self) -> None:
        """When no endpoint is left."""
        if self._shared is not None:
            self._shared.close()


class EpollPolls:
    """The loop polls the socket by an ``EpollSet``."""

    __slots__ = ("_set", "_sets", "context", "descriptor", "loop", "reader", "writer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, several: EpollSet, sets: EpollSets | None
    ) -> None:
        """``sets``: it closes ``several`` with this endpoint. None: other endpoints share ``several``."""
        self.loop = loop
        self.descriptor = sock.fileno()
        self.reader: Callback | None = None
        self.writer: Callback | None = None
        self.context = contextvars.copy_context()  # of the endpoint's opener
        self._set = several
        self._sets = sets

    @property
    def wanted(self) -> int:
        """The events to poll for."""
        return (_READS if self.reader else 0) | (_WRITES if self.writer else 0)

    def read(self, callback: Callback) -> None:
        """See Polls."""
        self.reader = callback
        try:
            self._set.update(self)
        except OSError:
            self.reader = None
            raise

    def stop_reading(self) -> None:
        """See Polls."""
        if self.reader:
            self.reader = None
            with contextlib.suppress(OSError):
                self._set.update(self)

    def write(self, callback: Callback) -> None:
        """See Polls."""
        self.writer = callback
        try:
            self._set.update(self)
        except OSError:
            self.writer = None
            raise

    def stop_writing(self) -> None:
        """See Polls."""
        if self.writer:
            self.writer = None
            with contextlib.suppress(OSError):
                self._set.update(self)

    def close(self) -> None:
        """See Polls."""
        sets, self._sets = self._sets, None
        if sets is not None:
            sets.end(self._set)
