"""Operations on sockets."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from socket import AF_INET, SHUT_RDWR, SOCK_CLOEXEC, SOCK_STREAM
from typing import Any

from udpring._native import lib
from udpring.uring.completion import ControlMessage, MessageAddress, encode_address, encode_control
from udpring.uring.file_operations import ANY_PLACE
from udpring.uring.queueing import File, Flag, Payload, Queueing, descriptor, lent, place

_ACCEPT, _ACCEPT_MULTISHOT = lib.UDPRING_OP_ACCEPT, lib.UDPRING_OP_ACCEPT_MULTISHOT
_RECV, _SEND = lib.UDPRING_OP_RECV, lib.UDPRING_OP_SEND
_POLL_FIRST, _BUNDLE = lib.UDPRING_RECVSEND_POLL_FIRST, lib.UDPRING_RECVSEND_BUNDLE
# Bytes that cannot change are used in place from this size on. Below it a copy is cheaper than holding them.
_LARGE = 16384


class SocketOperations(Queueing):
    """See ``Operations``."""

    def socket(
        self,
        family: int = AF_INET,
        kind: int = SOCK_STREAM,
        protocol: int = 0,
        *,
        direct: int | None = None,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Makes a socket (socket(2), Linux 5.19). The result is its descriptor, which is not inherited.

        ``direct``: no descriptor but a place among the registered files, by its index or ``ANY_PLACE``.
        """
        inherited = 0 if direct is not None else SOCK_CLOEXEC
        return self._put(
            lib.UDPRING_OP_SOCKET, flags, family, kind | inherited, 0, protocol, 0, place(direct)
        )

    def bind(self, file: File, address: MessageAddress, *, flags: Flag = Flag.NONE) -> int:
        """Gives a socket its address (bind(2), Linux 6.11)."""
        return self._put_bytes(lib.UDPRING_OP_BIND, flags, encode_address(address), descriptor(file))

    def listen(self, file: File, backlog: int = 128, *, flags: Flag = Flag.NONE) -> int:
        """Makes a socket accept connections (listen(2), Linux 6.11)."""
        return self._put(lib.UDPRING_OP_LISTEN, flags, descriptor(file), length=backlog)

    def accept(self, file: File, *, direct: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Accepts one connection (accept4(2)). The result is its descriptor, which is not inherited.
        ``address`` of the completion is the peer's.

        ``direct``: no descriptor but a place among the registered files, by its index or ``ANY_PLACE``
        (5.15).
        """
        inherited = 0 if direct is not None else SOCK_CLOEXEC
        return self._put(_ACCEPT, flags, descriptor(file), 0, 0, 0, inherited, place(direct))

    def accept_multishot(self, file: File, *, direct: bool = False, flags: Flag = Flag.NONE) -> int:
        """Accepts connections until an error (Linux 5.19), with a completion for each. Only the last one
        lacks ``more``.

        The kernel does not tell addresses here: use getpeername(2). ``direct``: free places of the registered
        files.
        """
        inherited = 0 if direct else SOCK_CLOEXEC
        extra = place(ANY_PLACE) if direct else 0
        return self._put(_ACCEPT_MULTISHOT, flags, descriptor(file), 0, 0, 0, inherited, extra)

    def connect(self, file: File, address: MessageAddress, *, flags: Flag = Flag.NONE) -> int:
        """Connects a socket (connect(2)). Ends when the connection stands: 0, or -ECONNREFUSED, ..."""
        return self._put_bytes(lib.UDPRING_OP_CONNECT, flags, encode_address(address), descriptor(file))

    def shutdown(self, file: File, how: int = SHUT_RDWR, *, flags: Flag = Flag.NONE) -> int:
        """Shuts down a connection, or one direction of it (shutdown(2), Linux 5.11)."""
        return self._put(lib.UDPRING_OP_SHUTDOWN, flags, descriptor(file), length=how)

    def recv(
        self,
        file: File,
        length: int,
        *,
        message_flags: int = 0,
        poll_first: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Receives up to ``length`` bytes (recv(2)). ``data`` of the completion has them. 0: the peer closed.

        ``poll_first``: waits for data before the first attempt, for a socket that is probably empty.
        """
        extra = _POLL_FIRST if poll_first else 0
        return self._put(_RECV, flags, descriptor(file), 0, 0, length, message_flags, extra)

    def recv_into(
        self,
        file: File,
        buffer: Any,
        *,
        message_flags: int = 0,
        poll_first: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Receives into ``buffer``, a writable buffer, at most its length.

        The ring holds the buffer until the operation has ended. A ``bytearray`` cannot be resized meanwhile.
        See recv(2).
        """
        extra = _POLL_FIRST if poll_first else 0
        return self._put_pinned(_RECV, flags, buffer, True, descriptor(file), bits=message_flags, extra=extra)

    def recv_group(
        self, file: File, group: int, *, message_flags: int = 0, bundle: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Receives once into a buffer of ``group``, which the kernel picks when there is data. -ENOBUFS: none
        is free.

        ``bundle`` (6.10): into several buffers at once if there is more. ``data`` has all of it. See recv(2).
        """
        extra = group << 16 | (_BUNDLE if bundle else 0)
        return self._put(lib.UDPRING_OP_RECV_GROUP, flags, descriptor(file), bits=message_flags, extra=extra)

    def recv_multishot(
        self, file: File, group: int, *, message_flags: int = 0, bundle: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Receives repeatedly (Linux 6.0) into the buffers of ``group``. The last completion lacks ``more``.

        A result of 0 is the end of a stream. -ENOBUFS: all buffers were full at once; queue it again. An
        empty datagram ends it too. ``bundle`` (6.10): a completion may have the data of several buffers.
        """
        extra = group << 16 | (_BUNDLE if bundle else 0)
        return self._put(
            lib.UDPRING_OP_RECV_MULTISHOT, flags, descriptor(file), bits=message_flags, extra=extra
        )

    def send(
        self,
        file: File,
        payload: Payload,
        *,
        message_flags: int = 0,
        copy: bool = True,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Sends ``payload`` on a connected socket (send(2)). The result is the number of bytes sent.

        A stream may take less than all. With ``socket.MSG_WAITALL`` the kernel goes on until all is sent.
        ``copy`` False: the kernel reads the caller's memory itself. The ring holds it until the operation has
        ended, and the caller must not change it before. Long ``bytes`` are never copied.
        """
        if not copy or (type(payload) is bytes and len(payload) >= _LARGE):
            return self._put_pinned(_SEND, flags, payload, False, descriptor(file), bits=message_flags)
        memory = lent(payload)
        return self._put(_SEND, flags, descriptor(file), 0, 0, 0, message_flags, 0, memory, len(memory))

    def send_group(
        self, file: File, group: int, *, message_flags: int = 0, bundle: bool = True, flags: Flag = Flag.NONE
    ) -> int:
        """Sends the data of a group on a connected socket (Linux 6.10), in order. See
        ``Ring.provide_send_buffers`` and send(2).

        ``bundle``: all buffers that are filled, and those filled meanwhile. Each completion has the number of
        bytes sent, and the last one lacks ``more``. Otherwise one buffer. -ENOBUFS: no buffer is filled.
        The kernel goes on after short sends (``MSG_WAITALL``). After a failure it may have dropped the rest
        of a buffer. Raises RingError: EBUSY while another operation sends the group, EINVAL for a bundle with
        ASYNC or DRAIN, which the kernel would cancel.
        """
        extra = group << 16 | (_BUNDLE if bundle else 0)
        return self._put(lib.UDPRING_OP_SEND_GROUP, flags, descriptor(file), bits=message_flags, extra=extra)

    def give_buffers(self, group: int, first: int, count: int, *, flags: Flag = Flag.NONE) -> int:
        """Gives ``count`` buffers of a ``LegacyGroup`` to the kernel, from number ``first`` on (Linux 5.7,
        IORING_OP_PROVIDE_BUFFERS). ``LegacyGroup.give`` gives all that are free.

        Raises RingError: EBUSY if the kernel has one of them, ERANGE beyond the group.
        """
        return self._put(lib.UDPRING_OP_GIVE_BUFFERS, flags, count, first, extra=group << 16)

    def remove_buffers(self, group: int, count: int, *, flags: Flag = Flag.NONE) -> int:
        """Takes all ``count`` buffers of a ``LegacyGroup`` back from the kernel (Linux 5.7). The result is
        how many were not used. Queue it when no operation draws from the group."""
        return self._put(lib.UDPRING_OP_REMOVE_BUFFERS, flags, count, extra=group << 16)

    def send_zc(self, file: File, payload: Any, *, message_flags: int = 0, flags: Flag = Flag.NONE) -> int:
        """Sends ``payload`` without the kernel copying it (Linux 6.0). Two completions: the result, with
        ``more``, and then a notification that the memory is free (``CompletionFlag.NOTIF``).

        The ring holds the buffer until the notification. The caller must not change it before. ``copied`` of
        the notification says whether the kernel copied after all, as it does on loopback. Worth it from about
        4 KiB on.
        """
        return self._put_pinned(
            lib.UDPRING_OP_SEND_ZC,
            flags,
            payload,
            False,
            descriptor(file),
            bits=message_flags,
            extra=lib.UDPRING_SEND_ZC_REPORT_USAGE,
        )

    def send_zc_fixed(
        self,
        file: File,
        buffer: int,
        length: int,
        *,
        start: int = 0,
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Like ``send_zc``, from registered buffer ``buffer``. Its bytes must not change until the
        notification. See io_uring_enter(2)."""
        return self._put(
            lib.UDPRING_OP_SEND_ZC_FIXED,
            flags,
            descriptor(file),
            0,
            start,
            length,
            message_flags,
            buffer << 16 | lib.UDPRING_SEND_ZC_REPORT_USAGE,
        )

    # -- messages --

    def sendmsg(
        self,
        file: File,
        payload: Payload,
        address: MessageAddress = None,
        *,
        control: Iterable[ControlMessage] = (),
        message_flags: int = 0,
        copy: bool = True,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Sends ``payload`` (sendmsg(2)). ``address`` None: the socket is connected.

        Operations without a link may overtake each other when one waits for room in the socket. ``copy``
        False: as in ``send``.
        """
        return self._put_message(
            lib.UDPRING_OP_SENDMSG,
            flags,
            descriptor(file),
            bits=message_flags,
            payload=payload,
            pinned=not copy,
            name=encode_address(address),
            control=encode_control(control),
        )

    def sendmsg_zc(
        self,
        file: File,
        payload: Any,
        address: MessageAddress = None,
        *,
        control: Iterable[ControlMessage] = (),
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Like ``sendmsg``, without the kernel copying the payload (Linux 6.1). See ``send_zc``."""
        return self._put_message(
            lib.UDPRING_OP_SENDMSG_ZC,
            flags,
            descriptor(file),
            bits=message_flags,
            extra=lib.UDPRING_SEND_ZC_REPORT_USAGE,
            payload=payload,
            pinned=True,
            name=encode_address(address),
            control=encode_control(control),
        )

    def recvmsg(
        self,
        file: File,
        length: int,
        *,
        control_length: int = 0,
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Receives one message of up to ``length`` bytes, with its address and up to ``control_length`` bytes
        of control data. See recvmsg(2)."""
        return self._put_message(
            lib.UDPRING_OP_RECVMSG,
            flags,
            descriptor(file),
            length=length,
            bits=message_flags,
            control_room=control_length,
        )

    def recvmsg_into(
        self,
        file: File,
        buffer: Any,
        *,
        control_length: int = 0,
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Like ``recvmsg``, into ``buffer``, which the ring holds until the operation has ended.
        See recvmsg(2)."""
        return self._put_message(
            lib.UDPRING_OP_RECVMSG,
            flags,
            descriptor(file),
            bits=message_flags,
            payload=buffer,
            pinned=True,
            writable=True,
            control_room=control_length,
        )

    def recvmsg_multishot(
        self,
        file: File,
        group: int,
        *,
        control_length: int = 0,
        message_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Receives messages repeatedly (Linux 6.0), each into a buffer of ``group``, with its address and
        control data.

        A buffer needs 144 + ``control_length`` bytes beside the payload. A message that is longer is cut, and
        ``message_flags`` of the completion has MSG_TRUNC. An empty datagram ends the operation.
        """
        return self._put_message(
            lib.UDPRING_OP_RECVMSG_MULTISHOT,
            flags,
            descriptor(file),
            bits=message_flags,
            extra=group << 16,
            control_room=control_length,
        )

    # -- polls --

    def poll_add(
        self, file: File, events: int = select.POLLIN, *, multishot: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Ends with the events that are ready (``select.POLLIN``, ...). ``multishot``: reports them
        repeatedly. See poll(2)."""
        return self._put(lib.UDPRING_OP_POLL_ADD, flags, descriptor(file), 0, 0, int(multishot), events)

    def poll_update(
        self, ticket: int, events: int, *, multishot: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Changes the events of a poll that waits (Linux 5.13). -ENOENT if there is none."""
        length = lib.UDPRING_POLL_UPDATE_EVENTS | int(multishot)
        return self._put(lib.UDPRING_OP_POLL_UPDATE, flags, addr=ticket, length=length, bits=events)

    def poll_remove(self, ticket: int, *, flags: Flag = Flag.NONE) -> int:
        """Removes a poll, which ends with -ECANCELED. -ENOENT if there is none. See io_uring_enter(2)."""
        return self._put(lib.UDPRING_OP_POLL_REMOVE, flags, addr=ticket)

    def epoll_wait(self, file: File, events: int = 64, *, flags: Flag = Flag.NONE) -> int:
        """Waits for events of an epoll descriptor (epoll_wait(2), Linux 6.15). ``completion.events`` has
        them."""
        return self._put(lib.UDPRING_OP_EPOLL_WAIT, flags, descriptor(file), length=events)

    # -- socket options --

    def getsockopt(
        self, file: File, level: int, option: int, length: int = 4, *, flags: Flag = Flag.NONE
    ) -> int:
        """A socket option, in ``completion.data`` (getsockopt(2), Linux 6.7). Only SOL_SOCKET."""
        return self._put(
            lib.UDPRING_OP_GETSOCKOPT,
            flags,
            descriptor(file),
            lib.UDPRING_SOCKET_GETSOCKOPT,
            level | option << 32,
            length,
        )

    def setsockopt(
        self, file: File, level: int, option: int, value: int | bytes, *, flags: Flag = Flag.NONE
    ) -> int:
        """Sets a socket option (setsockopt(2), Linux 6.7)."""
        raw = value.to_bytes(4, sys.byteorder, signed=True) if isinstance(value, int) else value
        return self._put_bytes(
            lib.UDPRING_OP_SETSOCKOPT,
            flags,
            raw,
            descriptor(file),
            lib.UDPRING_SOCKET_SETSOCKOPT,
            level | option << 32,
        )

    def unread(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """The number of bytes that wait to be received (SIOCINQ of tcp(7), Linux 6.7)."""
        return self._put(lib.UDPRING_OP_SOCKET_COMMAND, flags, descriptor(file), lib.UDPRING_SOCKET_SIOCINQ)

    def unsent(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """The number of bytes that wait to be sent or acknowledged (SIOCOUTQ of tcp(7), Linux 6.7)."""
        return self._put(lib.UDPRING_OP_SOCKET_COMMAND, flags, descriptor(file), lib.UDPRING_SOCKET_SIOCOUTQ)
