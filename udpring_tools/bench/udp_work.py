"""The work of ``bench udp``: bursts of datagrams to one, 64 or 1000 destinations on loopback.

Every destination is another address of 127.0.0.0/8 on the port of one socket that is bound to all of them. So
the receiver and its datagrams are the same for any number of destinations.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from udpring.errors import HostError
from udpring.udp.address import to_core
from udpring_tools._native import ffi, lib

__all__ = ["LOSS_WAIT", "PATTERNS", "SIZES", "MmsgBursts", "Pair", "Pattern", "Work", "lossless"]

SIZES = (64, 200, 1200, 1400)
"""Bytes of payload."""
ROOM = 4 << 20
"""Of the receiving socket, if the host allows it (net.core.rmem_max, or CAP_NET_ADMIN)."""
LOSS_WAIT = 0.5
"""Seconds until a missing datagram is lost. On loopback it has arrived when the send returns."""
SO_RCVBUFFORCE = 33  # socket(7); the module socket lacks it


@dataclass(frozen=True, slots=True)
class Pattern:
    """``each`` datagrams to each of ``destinations`` per burst, in turn. ``inboxes``: the sockets that
    receive them, one for all or one for each destination."""

    name: str
    title: str
    destinations: int
    each: int
    inboxes: int = 1

    def hosts(self) -> list[str]:
        """The destination of each datagram of a burst."""
        one_each = [f"127.{1 + n // 250}.{n % 250}.1" for n in range(self.destinations)]
        return one_each * self.each


PATTERNS = {
    pattern.name: pattern
    for pattern in (
        Pattern("to-1", "one destination", 1, 256),
        Pattern("to-64", "64 destinations interleaved, 4 datagrams each", 64, 4),
        Pattern("to-1000", "1000 destinations, one datagram each", 1000, 1),
        Pattern("sockets-64", "64 receiving sockets, 4 datagrams each", 64, 4, inboxes=64),
    )
}


@dataclass(frozen=True, slots=True)
class Work:
    """Datagrams of ``size`` bytes. ``bursts``: the hosts of each burst, used in turn. All have equal length.
    There is more than one only if the receiving socket has no room for the whole pattern."""

    pattern: Pattern
    size: int
    bursts: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, pattern: Pattern, size: int, burst: int) -> Work:
        """The pattern in bursts of ``burst``, which divides its length."""
        hosts = pattern.hosts()
        return cls(pattern, size, tuple(tuple(hosts[at : at + burst]) for at in range(0, len(hosts), burst)))

    @property
    def burst(self) -> int:
        """Datagrams per burst."""
        return len(self.bursts[0])

    def payload(self) -> bytes:
        """The payload of each datagram."""
        return bytes(byte & 0xFF for byte in range(self.size))


class Pair:
    """The sockets of a contender: ``inbox`` on a port of all addresses, ``outbox`` unconnected. ``inboxes``
    is ``inbox`` alone, or has a socket on the same port for each destination."""

    def __init__(self, pattern: Pattern | None = None) -> None:
        many = pattern is not None and pattern.inboxes > 1
        hosts = pattern.hosts()[: pattern.inboxes] if many and pattern is not None else ["0.0.0.0"]
        with contextlib.ExitStack() as undo:
            self.outbox = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self.inboxes: list[socket.socket] = []
            port = 0
            for host in hosts:
                inbox = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                inbox.bind((host, port))
                port = inbox.getsockname()[1]
                self.inboxes.append(inbox)
            self.inbox = self.inboxes[0]
            for sock, force, plain in (
                *((inbox, SO_RCVBUFFORCE, socket.SO_RCVBUF) for inbox in self.inboxes),
                (self.outbox, None, socket.SO_SNDBUF),
            ):
                sock.setsockopt(socket.SOL_SOCKET, plain, ROOM)
                if force is not None:
                    with contextlib.suppress(PermissionError):
                        sock.setsockopt(socket.SOL_SOCKET, force, ROOM)
            self.port: int = self.inbox.getsockname()[1]
            undo.pop_all()

    def addresses(self, hosts: Sequence[str]) -> list[tuple[str, int]]:
        """The destinations of a burst."""
        return [(host, self.port) for host in hosts]

    def close(self) -> None:
        """All sockets."""
        for sock in (*self.inboxes, self.outbox):
            sock.close()


class MmsgBursts:
    """The work's bursts, prepared once for sendmmsg(2) and recvmmsg(2): baseline.c of udpring_tools/native.
    Raises HostError, also in ``run``."""

    def __init__(self, work: Work, pair: Pair) -> None:
        self._pair = pair
        self._block = ffi.from_buffer("uint8_t[]", work.payload() * work.burst)
        self._bursts: list[Any] = []
        for hosts in work.bursts:
            packed = b"".join(to_core(address, socket.AF_INET) for address in pair.addresses(hosts))
            opened = ffi.new("struct udpring_baseline **")
            code = lib.udpring_baseline_open(opened, self._block, work.size, packed, work.burst)
            if code < 0:
                raise HostError("no memory for a burst", errno=-code)
            self._bursts.append(ffi.gc(opened[0], lib.udpring_baseline_close))

    def run(self, turn: int, *, send: bool = True, receive: bool = True) -> int:
        """Sends the next burst, or receives as many datagrams, or both. Returns their number."""
        code: int = lib.udpring_baseline_run(
            self._bursts[turn % len(self._bursts)],
            self._pair.outbox.fileno() if send else -1,
            self._pair.inbox.fileno() if receive else -1,
            int(LOSS_WAIT * 1000),
        )
        if code < 0:
            raise HostError("sendmmsg or recvmmsg failed", errno=-code)
        return code


def lossless(pattern: Pattern, size: int) -> Work:
    """The pattern in the longest bursts that fit into a socket here, found by sending them. Raises HostError
    if not even short ones arrive."""
    burst = len(pattern.hosts())
    if pattern.inboxes > 1:
        return Work.of(pattern, size, burst)  # few for each socket
    while True:
        work = Work.of(pattern, size, burst)
        pair = Pair()
        try:
            bursts = MmsgBursts(work, pair)
            if all(bursts.run(turn) == burst for turn in range(10)):
                return work
        finally:
            pair.close()
        if burst % 2 or burst <= 8:
            raise HostError(
                f"{burst} datagrams of {size} bytes to 127.0.0.0/8 do not all arrive",
                cure="raise net.core.rmem_max, or see whether a firewall drops them",
            )
        burst //= 2
