"""Which socket a datagram arrived at, for rings with one socket and with many.

A ring of many gives each socket a number, which another socket may get after its removal. A batch must name
the sockets of its own time, also when it is read later. So each removal ends an *era* and notes what it
removed. A batch keeps the era in which it was made. A number means the socket that left first since then, or
else the present one. Eras that no batch refers to are gone.
"""

from __future__ import annotations

from socket import socket as Socket
from typing import Protocol

__all__ = ["Members", "MembersOrigin", "Origin", "SocketOrigin"]


class Origin(Protocol):
    """Where the datagrams of a batch come from."""

    @property
    def ipv6(self) -> bool:
        """Whether addresses have the form of an AF_INET6 socket."""
        ...

    def socket(self, number: int) -> Socket:
        """The socket with this number."""
        ...


class SocketOrigin:
    """One socket."""

    __slots__ = ("_sock", "ipv6")

    def __init__(self, sock: Socket, ipv6: bool) -> None:
        self._sock = sock
        self.ipv6 = ipv6

    def socket(self, number: int) -> Socket:
        """See Origin."""
        return self._sock


class _Era:
    """The time between two removals."""

    __slots__ = ("next", "number", "sock")

    def __init__(self) -> None:
        self.number = -1
        self.sock: Socket | None = None
        self.next: _Era | None = None  # with the next two set when it has ended


class Members:
    """The sockets of a ring, which come and go."""

    __slots__ = ("_adding", "_era", "_numbers", "_sockets")

    def __init__(self) -> None:
        self._sockets: dict[int, Socket] = {}
        self._numbers: dict[Socket, int] = {}
        self._era = _Era()
        self._adding: Socket | None = None  # a signal handler may raise before its number is known here

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, sock: object) -> bool:
        return sock in self._numbers

    def sockets(self) -> tuple[Socket, ...]:
        """All of them, in the order of their coming."""
        return tuple(self._numbers)

    def expect(self, sock: Socket | None) -> None:
        """Call before the core gets a socket. None: the core refused it."""
        self._adding = sock

    def add(self, number: int, sock: Socket) -> None:
        """The core gave it this number."""
        self._sockets[number] = sock
        self._numbers[sock] = number
        self._adding = None

    def number(self, sock: Socket) -> int:
        """Its number. Raises ValueError if it is not there."""
        try:
            return self._numbers[sock]
        except KeyError:
            raise ValueError(f"the ring does not receive from {sock!r}") from None

    def remove(self, number: int) -> Socket | None:
        """The socket that had this number."""
        sock = self._sockets.pop(number, self._adding)
        self._adding = None
        if sock is not None:
            self._numbers.pop(sock, None)
        ended, self._era = self._era, _Era()
        ended.number, ended.sock, ended.next = number, sock, self._era
        return sock

    def origin(self, ipv6: bool) -> MembersOrigin:
        """For a batch that is made now."""
        return MembersOrigin(self, self._era, ipv6)

    def socket(self, number: int, era: _Era) -> Socket:
        """The socket that had this number at that time."""
        while era.next is not None:
            if era.number == number and era.sock is not None:
                return era.sock
            era = era.next
        sock = self._sockets.get(number, self._adding)
        if sock is None:
            raise LookupError(f"the ring has no socket with the number {number}")
        return sock


class MembersOrigin:
    """The sockets of a ring at the time of a batch."""

    __slots__ = ("_era", "_members", "ipv6")

    def __init__(self, members: Members, era: _Era, ipv6: bool) -> None:
        self._members = members
        self._era = era
        self.ipv6 = ipv6

    def socket(self, number: int) -> Socket:
        """See Origin."""
        return self._members.socket(number, self._era)
