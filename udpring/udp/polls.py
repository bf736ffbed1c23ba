"""How a datagram transport has its event loop poll for it.

A selector loop of asyncio polls the socket itself, as it does for its own transports, and refuses the
program's readers for it. So an endpoint needs no descriptor but its socket. In other loops (uvloop) the
receive ring's descriptor is polled for reading, and a duplicate of the socket's for writing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["Polls", "polls_sockets"]

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


class Polls:
    """The polls of one transport."""

    __slots__ = ("_direct", "_loop", "_reading", "_socket", "_writing")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, transport: object, reading: int | None
    ) -> None:
        """``reading``: the descriptor to poll for reading. None: the socket's, where ``polls_sockets``."""
        self._loop: Any = loop
        self._socket = sock
        self._direct = reading is None
        self._reading = sock.fileno() if reading is None else reading
        self._writing = self._reading if self._direct else -1
        if self._direct:
            own: Any = loop
            own._transports[self._reading] = transport  # the loop refuses other readers of it

    def read(self, callback: Callable[[], None]) -> None:
        """From now on."""
        add = self._loop._add_reader if self._direct else self._loop.add_reader
        add(self._reading, callback)

    def stop_reading(self) -> None:
        """Not polled: no effect."""
        remove = self._loop._remove_reader if self._direct else self._loop.remove_reader
        remove(self._reading)

    def write(self, callback: Callable[[], None]) -> None:
        """From now on, while the socket has room."""
        if self._writing < 0:
            self._writing = os.dup(self._socket.fileno())
        add = self._loop._add_writer if self._direct else self._loop.add_writer
        add(self._writing, callback)

    def stop_writing(self) -> None:
        """Not polled: no effect."""
        remove = self._loop._remove_writer if self._direct else self._loop.remove_writer
        remove(self._writing)

    def close(self) -> None:
        """Call when both have stopped."""
        if not self._direct and self._writing >= 0:
            os.close(self._writing)
            self._writing = -1
