"""Single datagrams of a transport, without a batch: one call of the core receives one, another answers it."""

from __future__ import annotations

from typing import Any

from udpring._native import ffi, lib
from udpring.udp.address import LAYOUT

__all__ = ["ONE_MORE", "ONE_OTHER", "Alone"]

#: Added by ``udpring_recv_one`` to the length of the payload.
ONE_MORE = int(lib.UDPRING_ONE_MORE)
ONE_OTHER = int(lib.UDPRING_ONE_OTHER)


class Alone:
    """The memory for the single datagrams of one socket."""

    __slots__ = ("_handle", "memory", "payload", "source")

    def __init__(self, handle: Any, number: int, ipv6: bool, connected: bool) -> None:
        """``handle``: of the ring. ``number``: of the socket in a ring of many, else 0."""
        #: ``struct udpring_alone``, for the calls.
        self.memory: Any = ffi.new("struct udpring_alone *")
        self.memory.recv = self._handle = handle
        self.memory.number = number
        self.memory.ipv6 = ipv6
        self.memory.connected = connected
        #: The payload of the last datagram, and after it what earlier ones left.
        self.payload: Any = ffi.buffer(self.memory.payload)
        #: Its packed source.
        self.source: Any = ffi.buffer(ffi.addressof(self.memory, "source"), LAYOUT.size)

    def close(self) -> None:
        """Before the ring is closed."""
        self.memory.recv = ffi.NULL
        self._handle = None
