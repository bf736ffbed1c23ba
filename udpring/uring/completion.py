"""Completions of a ring as Python values, and the addresses and control messages in them."""

from __future__ import annotations

import enum
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from udpring._native import ffi, lib
from udpring.socket_address import Address, scope_number
from udpring.uring.results import (
    ChildState,
    Stat,
    decode_events,
    decode_files,
    decode_siginfo,
    decode_statx,
)

__all__ = ["Completion", "CompletionFlag", "ControlMessage", "MessageAddress"]

MessageAddress = Address | str | bytes | None
"""An address of any family that sendmsg(2) supports: a UDP endpoint, a Unix path, or None."""
ControlMessage = tuple[int, int, bytes]
"""(level, type, data), as ``socket.recvmsg`` returns it."""

# struct cmsghdr: size_t cmsg_len, int cmsg_level, int cmsg_type. Data and the next header are aligned to
# size_t (cmsg(3)).
_HEADER = struct.Struct("@Nii")
_ALIGN = struct.calcsize("N")
# sun_path of unix(7).
_UNIX_PATH = 108
_DATA, _FULL = lib.UDPRING_SHAPE_DATA, lib.UDPRING_SHAPE_FULL


class CompletionFlag(enum.IntFlag):
    """``cqe.flags`` of io_uring_enter(2)."""

    BUFFER = lib.UDPRING_CQE_BUFFER
    """A provided buffer was used. The upper 16 bits are its number."""
    MORE = lib.UDPRING_CQE_MORE
    """The operation continues: further completions will follow."""
    NOTIF = lib.UDPRING_CQE_NOTIF
    """The notification of a zero-copy send."""
    WIDE = lib.UDPRING_CQE_32
    """It has 32 bytes, on a ring with ``mixed_cqe``. ``extra`` has the second half."""


# Operators of IntFlag are slow.
_MORE, _NOTIF = int(CompletionFlag.MORE), int(CompletionFlag.NOTIF)


@dataclass
class Completion:
    """The result of an operation, or of one shot of a multishot operation."""

    # Without slots, so that fields with a default cost nothing: most completions have three fields.

    ticket: int
    """The ticket from queueing the operation. 0 for a message of another ring."""
    result: int
    """Bytes, or another result of the operation. -errno when it failed."""
    flags: int
    """``CompletionFlag`` bits, and the buffer number above bit 16."""
    data: bytes = b""
    """The bytes read or received."""
    address: MessageAddress = None
    """recvmsg: the source address. accept: the peer's address."""
    control: tuple[ControlMessage, ...] = ()
    """recvmsg: ancillary data."""
    message_flags: int = 0
    """recvmsg: ``socket.MSG_TRUNC``, ``socket.MSG_CTRUNC``, ..."""
    message: int | None = None
    """The 56-bit value that another ring sent by ``msg_ring``. None for all other completions."""
    expired: bool = False
    """Whether this is a timer that ran out. Its result is -ETIME, which is no failure."""
    view: memoryview | None = None
    """The bytes received, in a provided buffer of a group with views (``Ring.provide_buffers``)."""
    user_data: object = None
    """The object of ``Ring.set_data`` for this operation."""
    extra: tuple[int, int] = (0, 0)
    """The second half of a completion of 32 bytes, with ``big_cqe`` or ``mixed_cqe`` (io_uring_setup(2))."""

    @property
    def more(self) -> bool:
        """Whether the operation continues. False: this was its last completion."""
        return self.flags & _MORE != 0

    @property
    def copied(self) -> bool:
        """Of the notification of a zero-copy send: whether the kernel copied the data after all."""
        return self.flags & _NOTIF != 0 and self.result < 0

    @property
    def stat(self) -> Stat:
        """statx: the state of the file. Raises OSError if the operation failed."""
        self.check()
        return decode_statx(self.data)

    @property
    def child(self) -> ChildState:
        """waitid: the state of the child. Raises OSError if the operation failed."""
        self.check()
        return decode_siginfo(self.data)

    @property
    def events(self) -> list[tuple[int, int]]:
        """epoll_wait: (descriptor, events), as ``select.epoll.poll`` returns them. Raises OSError if the
        operation failed."""
        self.check()
        return decode_events(self.data)

    @property
    def files(self) -> tuple[int, ...]:
        """pipe and files_update: descriptors, or indices of registered files. Raises OSError if the operation
        failed."""
        self.check()
        return decode_files(self.data)

    def check(self) -> int:
        """The result. 0 for a timer that ran out, and for a notification. Raises OSError with its errno if
        the operation failed.
        """
        if self.expired or self.flags & _NOTIF:
            return 0
        if self.result < 0:
            raise OSError(-self.result, os.strerror(-self.result))
        return self.result


def decode_address(raw: bytes) -> MessageAddress:
    """A ``struct sockaddr`` in the form of the ``socket`` module. None: there is none, or it is unknown."""
    if len(raw) < 2:
        return None
    family = int.from_bytes(raw[:2], sys.byteorder)
    if family == socket.AF_INET and len(raw) >= 8:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET6 and len(raw) >= 28:
        return (
            socket.inet_ntop(socket.AF_INET6, raw[8:24]),
            int.from_bytes(raw[2:4], "big"),
            int.from_bytes(raw[4:8], "big"),
            int.from_bytes(raw[24:28], sys.byteorder),
        )
    if family == socket.AF_UNIX:
        path = raw[2:]
        return path if path[:1] == b"\0" else os.fsdecode(path.split(b"\0", 1)[0])
    return None


def _unix_address(path: bytes) -> bytes:
    """``struct sockaddr_un`` (unix(7)). An abstract name is exactly the bytes given, and "" has no name."""
    if b"\0" in path[1:] and path[:1] != b"\0":
        raise ValueError(f"the path {path!r} contains a NUL byte: only abstract names may")
    named = path if path[:1] in (b"", b"\0") else path + b"\0"
    if len(named) > _UNIX_PATH:
        raise ValueError(f"a Unix address of {len(named)} bytes: at most {_UNIX_PATH}")
    return socket.AF_UNIX.to_bytes(2, sys.byteorder) + named


def encode_address(address: MessageAddress) -> bytes:
    """The ``struct sockaddr`` of an address. Hosts must be numeric. An IPv6 host may have a zone
    (``fe80::1%eth0``). A scope_id other than 0 in the tuple overrides it.

    Raises ValueError if the host is no IP address, its zone no interface, the port out of range, or a Unix
    path too long.
    """
    if address is None:
        return b""
    if isinstance(address, str | bytes):
        return _unix_address(os.fsencode(address))
    host, port = ipaddress.ip_address(address[0]), address[1]
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port}: 0 to 65535")
    if isinstance(host, ipaddress.IPv4Address):
        return socket.AF_INET.to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") + host.packed + bytes(8)
    flowinfo, scope = (address[2], address[3]) if len(address) == 4 else (0, 0)
    if not scope and host.scope_id:
        scope = scope_number(host.scope_id)
    return (
        socket.AF_INET6.to_bytes(2, sys.byteorder)
        + port.to_bytes(2, "big")
        + flowinfo.to_bytes(4, "big")
        + host.packed
        + scope.to_bytes(4, sys.byteorder)
    )


def _aligned(length: int) -> int:
    return (length + _ALIGN - 1) // _ALIGN * _ALIGN


def decode_control(raw: bytes) -> tuple[ControlMessage, ...]:
    """The control messages in ``raw``. A message cut short by the kernel (MSG_CTRUNC) is the last one, with
    its remaining bytes.
    """
    found: list[ControlMessage] = []
    at = 0
    while at + _HEADER.size <= len(raw):
        length, level, kind = _HEADER.unpack_from(raw, at)
        if length < _HEADER.size:
            break
        found.append((level, kind, raw[at + _HEADER.size : at + length]))
        at += _aligned(length)
    return tuple(found)


def encode_control(messages: Iterable[ControlMessage]) -> bytes:
    """Control messages in the kernel's format (cmsg(3))."""
    raw = bytearray()
    for level, kind, data in messages:
        raw += _HEADER.pack(_HEADER.size + len(data), level, kind) + bytes(data)
        raw += bytes(_aligned(len(raw)) - len(raw))
    return bytes(raw)


def _copied(pointer: Any, length: int) -> bytes:
    data: bytes = ffi.buffer(pointer, length)[:]
    return data


def _full(native: Any) -> Completion:
    """A Completion with its own copy of the bytes, from a ``struct udpring_completion``."""
    user_data = native.user_data
    if user_data >> 56 == lib.UDPRING_KIND_MESSAGE:
        return Completion(0, native.result, native.flags, message=user_data & 0xFFFFFFFFFFFFFF)
    return Completion(
        user_data,
        native.result,
        native.flags,
        data=_copied(native.data, native.length) if native.length and not native.lent else b"",
        address=decode_address(_copied(native.name, native.name_length)) if native.name else None,
        control=decode_control(_copied(native.control, native.control_length))
        if native.control_length
        else (),
        message_flags=native.message_flags,
        expired=bool(native.expired),
    )


class Harvest:
    """Memory for the completions that one call takes, and their way to Python."""

    def __init__(self, *, extra: bool = False) -> None:
        most = lib.UDPRING_HARVEST_MAX
        self.native = ffi.new(f"struct udpring_completion[{most}]")
        self._columns = tuple(ffi.new(f"{kind}[{most}]") for kind in ("uint64_t", "int32_t", "uint32_t"))
        self._shapes = ffi.new(f"uint8_t[{most}]")
        self._extra = extra  # the ring may have completions of 32 bytes

    def take(self, count: int) -> list[Completion]:
        """The first ``count`` completions in ``native``, with their own copies of the bytes."""
        native, shapes, unpack = self.native, self._shapes, ffi.unpack
        lib.udpring_completions_split(native, count, *self._columns, shapes)
        found = []
        new = Completion.__new__
        columns = [unpack(column, count) for column in self._columns]
        for i, (shape, ticket, result, flags) in enumerate(zip(unpack(shapes, count), *columns, strict=True)):
            if shape == _FULL:
                found.append(_full(native[i]))
                continue
            one = new(Completion)
            one.ticket, one.result, one.flags = ticket, result, flags
            if shape == _DATA:
                one.data = _copied(native[i].data, native[i].length)
            found.append(one)
        if self._extra:
            for i, one in enumerate(found):
                one.extra = (native[i].extra[0], native[i].extra[1])
        return found
