"""The features of UDP on this host, tried on loopback: the tiers, UDP_SEGMENT, UDP_GRO."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

from udpring._native import lib, reason, reason_text
from udpring.udp.tiers import TIERS, tier_number
from udpring.udp.train_kernels import train_fault
from udpring.uring.probe import Feature

__all__ = ["UdpProbe", "probe_udp"]

UDP_SEGMENT, UDP_GRO = 103, 104
"""linux/udp.h; the socket module has neither."""
SEGMENT, SEGMENTS = 200, 3
WAIT = 0.5
"""Bound in seconds. Loopback takes microseconds."""


@dataclass(frozen=True, slots=True)
class UdpProbe:
    """``tiers``: best first. ``segment``: one send can be a train. ``gro``: one receive can be a train."""

    tiers: tuple[Feature, ...]
    segment: Feature
    gro: Feature

    @property
    def tier(self) -> str:
        """The best tier that works, which is the default. Empty: none works."""
        return next((tier.name for tier in self.tiers if tier), "")

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        found: dict[str, object] = {"tier": self.tier}
        for each in (*self.tiers, self.segment, self.gro):
            found[each.name] = each.as_dict()
        return found


def probe_udp() -> UdpProbe:
    """Tries each tier and both offloads on its own sockets. The results for tiers are kept for the process.
    Raises nothing."""
    return UdpProbe(tuple(map(_tier, TIERS)), _tried("UDP_SEGMENT", _segment), _tried("UDP_GRO", _gro))


def _tier(name: str) -> Feature:
    why = reason()
    code = lib.udpring_tier_probe(tier_number(name), why)
    return Feature(name, code == 0, reason_text(why) or "works, found by opening and using it", max(0, -code))


def _tried(name: str, attempt: Callable[[], str]) -> Feature:
    try:
        return Feature(name, True, attempt(), 0)
    except OSError as failed:
        number = failed.errno or errno.EIO
        return Feature(name, False, _words(failed), number)


def _pair() -> tuple[socket.socket, socket.socket]:
    """A sender connected to a receiver, over IPv4 or, without it, IPv6. Raises OSError if no datagram gets
    through."""
    last = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.ExitStack() as stack:
            try:
                receiver = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                receiver.bind((host, 0))
                receiver.settimeout(WAIT)
                sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                sender.connect(receiver.getsockname())
                sender.send(b"?")
                receiver.recv(1)
            except OSError as none:
                last = none if last.errno == errno.EAFNOSUPPORT else last
                continue
            stack.pop_all()
            return sender, receiver
    raise last


def _known(option: int) -> None:
    """Raises OSError (ENOPROTOOPT) if the kernel does not know the option."""
    with socket.socket(_family(), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_UDP, option, 0)


def _family() -> socket.AddressFamily:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as none:
        if none.errno != errno.EAFNOSUPPORT:
            raise
        return socket.AF_INET6
    return socket.AF_INET


def _send_train(sender: socket.socket) -> None:
    sender.sendmsg([bytes(SEGMENT * SEGMENTS)], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", SEGMENT))])


def _segment() -> str:
    _known(UDP_SEGMENT)  # an older kernel would send the train as one datagram
    if fault := train_fault():
        raise OSError(errno.EIO, fault.words)
    try:
        sender, receiver = _pair()
    except OSError as no_way:
        return f"the kernel has it. Not tried, because no datagram crosses loopback: {_words(no_way)}"
    with sender, receiver:
        _send_train(sender)
        sizes = [len(receiver.recv(65536)) for _ in range(SEGMENTS)]
        if sizes != [SEGMENT] * SEGMENTS:
            raise OSError(errno.EIO, f"a train of {SEGMENTS} x {SEGMENT} bytes arrived as {sizes}")
    return f"one send arrived as {SEGMENTS} datagrams"


def _gro() -> str:
    _known(UDP_GRO)
    try:
        _known(UDP_SEGMENT)
        sender, receiver = _pair()
    except OSError as no_way:
        return f"the kernel has it. Not tried, because no train crosses loopback: {_words(no_way)}"
    with sender, receiver:
        receiver.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        _send_train(sender)
        data, control, _, _ = receiver.recvmsg(65536, 128)
        sizes_found = [
            int.from_bytes(value[:2], sys.byteorder)
            for level, kind, value in control
            if (level, kind) == (socket.SOL_UDP, UDP_GRO)
        ]
        if len(data) != SEGMENT * SEGMENTS or sizes_found != [SEGMENT]:
            raise OSError(
                errno.EIO,
                f"of a train of {SEGMENTS} x {SEGMENT} bytes {len(data)} bytes arrived: {sizes_found}",
            )
    return f"one receive took {SEGMENTS} datagrams"


def _words(failed: OSError) -> str:
    return failed.strerror or str(failed)
