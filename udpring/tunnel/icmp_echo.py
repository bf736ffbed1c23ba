"""ICMP echo to one address, as ping(8) does it, for ``udpring ping`` and ``udpring path``.

Packets leave with Don't Fragment and are not limited by a path MTU that the kernel has learned
(IP_PMTUDISC_PROBE), so that an answer shows what the path takes. A connected raw socket also gets the ICMP
errors that belong to its packets.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from udpring.errors import HostError

__all__ = ["Answer", "EchoSocket", "EchoTarget", "IPAddress", "smallest", "wait_for_answers"]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

SOL_RAW = 255
ICMP_FILTER = 1
ICMP6_FILTER = 1
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
IPV6_DONTFRAG = 62
IP_MTU, IPV6_MTU = 14, 24
SO_MARK = 36
ECHO, ECHO_REPLY = 8, 0
ECHO6, ECHO6_REPLY = 128, 129
HEADER = struct.Struct("!BBHHH")
TOKEN_BYTES = 8
IN_FLIGHT = 4096
"""Echoes whose answer is awaited. The oldest is forgotten first."""
READS = 256
"""Datagrams read at a time."""


@dataclass(frozen=True, slots=True)
class EchoTarget:
    """Where to send. ``interface``: leave by this one (SO_BINDTODEVICE). ``mark``: SO_MARK. ``scope``: the
    interface of a link-local address."""

    address: IPAddress
    interface: str = ""
    mark: int = 0
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to the echo ``sequence`` of ``size`` bytes after ``seconds``."""

    sequence: int
    size: int
    seconds: float


def smallest(address: IPAddress) -> int:
    """The size in bytes of the smallest echo: IP header, ICMP header, token."""
    return (20 if address.version == 4 else 40) + HEADER.size + TOKEN_BYTES


class EchoSocket:
    """Sends echoes and takes their answers. All sizes are those of IP packets. Raises HostError where this
    host refuses such sockets."""

    def __init__(self, target: EchoTarget) -> None:
        self.target = target
        self.error: OSError | None = None
        """The latest one that came for a packet: ICMP unreachable, or the packet is too big for the path."""
        self._v4 = target.address.version == 4
        self._header = 20 if self._v4 else 40
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._identifier = secrets.randbelow(0x10000)
        self._next = 1
        self._pending: dict[int, tuple[float, int]] = {}
        try:
            self._socket = self._open()
        except PermissionError as refused:
            raise HostError(
                "no right to send ICMP echo", errno=refused.errno or errno.EPERM, cure="run this as root"
            ) from None
        try:
            self._socket.connect(self._sockaddr())
        except OSError as refused:
            self._socket.close()
            raise HostError(
                f"{target.address} cannot be reached: {refused.strerror}",
                errno=refused.errno or 0,
                cure=f"look at: ip route get {target.address}",
            ) from None

    def _open(self) -> socket.socket:
        if self._v4:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        else:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        try:
            sock.setblocking(False)
            if self._v4:
                sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF))
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
            else:
                blocked = bytearray(b"\xff" * 32)
                struct.pack_into("=I", blocked, ECHO6_REPLY // 32 * 4, ~(1 << ECHO6_REPLY % 32) & 0xFFFFFFFF)
                sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(blocked))
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
            if self.target.interface:
                sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(self.target.interface) + b"\0"
                )
            if self.target.mark:
                sock.setsockopt(socket.SOL_SOCKET, SO_MARK, self.target.mark)
        except BaseException:
            sock.close()
            raise
        return sock

    def _sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        if self._v4:
            return str(self.target.address), 0
        scope = self.target.scope
        return str(self.target.address), 0, 0, socket.if_nametoindex(scope) if scope else 0

    def fileno(self) -> int:
        """For poll(2)."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> EchoSocket:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def source(self) -> IPAddress:
        """This host's address, as the kernel chose it."""
        host: str = self._socket.getsockname()[0]
        return ipaddress.ip_address(host.partition("%")[0])

    def route_mtu(self) -> int:
        """The MTU of the route, as the kernel knows it. Raises OSError."""
        if self._v4:
            return self._socket.getsockopt(socket.IPPROTO_IP, IP_MTU)
        return self._socket.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)

    def send(self, size: int) -> int:
        """Sends an echo of ``size`` bytes and returns its sequence number. Raises OSError as sendto(2):
        EMSGSIZE for one that is larger than the interface's MTU. A full queue of the interface (ENOBUFS,
        EAGAIN) counts as a lost packet."""
        sequence = self._next
        self._next = self._next % 0xFFFF + 1
        rest = size - self._header - HEADER.size - TOKEN_BYTES
        payload = self._token + bytes(max(rest, 0))
        kind = ECHO if self._v4 else ECHO6
        head = HEADER.pack(kind, 0, 0, self._identifier, sequence)
        if self._v4:  # the kernel adds that of ICMPv6
            head = HEADER.pack(kind, 0, _checksum(head + payload), self._identifier, sequence)
        if len(self._pending) >= IN_FLIGHT:
            del self._pending[next(iter(self._pending))]
        for last in (False, True):  # the first call may return the error of an earlier packet
            self._pending[sequence] = time.monotonic(), size
            try:
                self._socket.send(head + payload)
                break
            except OSError as failed:
                if failed.errno in (errno.ENOBUFS, errno.EAGAIN):
                    break
                del self._pending[sequence]
                self.error = failed
                if last:
                    raise
        return sequence

    def forget(self) -> None:
        """Answers to all echoes so far are no longer awaited."""
        self._pending.clear()

    def answers(self) -> list[Answer]:
        """The answers that have come, without waiting."""
        found = []
        for _ in range(READS):
            try:
                data = self._socket.recv(0x10000)
            except BlockingIOError:
                break
            except OSError as failed:
                self.error = failed
                continue
            answer = self._answer(data, time.monotonic())
            if answer is not None:
                found.append(answer)
        return found

    def _answer(self, data: bytes, now: float) -> Answer | None:
        if self._v4:  # with the IP header
            data = data[(data[0] & 15) * 4 :] if data else b""
        if len(data) < HEADER.size + TOKEN_BYTES:
            return None
        kind, _, _, identifier, sequence = HEADER.unpack_from(data)
        if kind != (ECHO_REPLY if self._v4 else ECHO6_REPLY) or identifier != self._identifier:
            return None
        if data[HEADER.size : HEADER.size + TOKEN_BYTES] != self._token:
            return None
        sent = self._pending.pop(sequence, None)
        if sent is None or len(data) + self._header != sent[1]:
            return None  # too late, or not whole
        return Answer(sequence, sent[1], now - sent[0])


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def wait_for_answers(sockets: Sequence[EchoSocket], until: float) -> dict[EchoSocket, list[Answer]]:
    """Waits until a socket has answers or an error, at most until this time (time.monotonic)."""
    poll = select.poll()
    for each in sockets:
        poll.register(each, select.POLLIN)
    poll.poll(max(0.0, until - time.monotonic()) * 1000)
    return {each: each.answers() for each in sockets}
