"""Groups of buffers to send from, and groups for kernels without buffer rings."""

from __future__ import annotations

import errno
from itertools import groupby
from typing import Any

from udpring._native import ffi, lib, reason
from udpring.errors import RingError
from udpring.uring.queueing import Flag, Payload, lent

__all__ = ["LegacyGroup", "SendGroup"]


class _Group:
    """A group whose memory is the ring's."""

    def __init__(self, ring: Any, number: int, count: int, size: int, kind: int) -> None:
        self.number = number
        """The group's number, which operations take."""
        self.count = count
        self.size = size
        self._ring = ring
        why = reason()
        code = lib.udpring_ring_provide(ring._handle(), number, count, size, kind, ffi.NULL, why)
        ring._check(code, f"buffer group {number}", why)

    def unregister(self) -> None:
        """Takes the group from the ring, so that its number is free.

        Raises RingError: EBUSY while an operation uses it, or the kernel has buffers of a ``LegacyGroup``
        (``remove`` them first); ENOENT if it was unregistered before.
        """
        self._ring._unregister_group(self.number)


class SendGroup(_Group):
    """Data that wait to be sent, in order, in ``count`` buffers of ``size`` bytes (Linux 6.10).

    ``Ring.provide_send_buffers`` makes one. ``append`` fills the next buffer, also while an operation sends.
    ``Ring.send_group`` sends what is there. One operation at a time may send a group, which keeps the order.
    When it has ended, the buffers that it sent are free.
    """

    def __init__(self, ring: Any, number: int, count: int, size: int) -> None:
        super().__init__(ring, number, count, size, lib.UDPRING_GROUP_SENDS)

    def __repr__(self) -> str:
        return f"<SendGroup {self.number}: {self.count} x {self.size} bytes>"

    @property
    def unsent(self) -> int:
        """Buffers that are not free. Those of an operation count until it has ended."""
        found = lib.udpring_ring_unsent(self._ring._handle(), self.number)
        return int(self._ring._check(found, f"buffer group {self.number}"))

    def append(self, payload: Payload) -> None:
        """Copies ``payload`` into the next free buffer.

        Raises RingError: ENOBUFS if none is free (send, and take the completion), EMSGSIZE if it is empty or
        longer than a buffer, ENOENT after ``unregister``.
        """
        memory = lent(payload)
        code = lib.udpring_ring_fill(self._ring._handle(), self.number, memory, len(memory))
        if code == -errno.ENOBUFS:
            raise RingError(
                f"buffer group {self.number}: all {self.count} buffers wait to be sent: send them, and take "
                "the completion",
                errno=errno.ENOBUFS,
            )
        if code == -errno.EMSGSIZE:
            raise RingError(
                f"buffer group {self.number}: {len(memory)} bytes, and a buffer takes 1 to {self.size}",
                errno=errno.EMSGSIZE,
            )
        self._ring._check(code, f"buffer group {self.number}")


class LegacyGroup(_Group):
    """Buffers for ``read_group`` and ``recv_group`` on Linux 5.7 to 5.18, which have no buffer rings. Newer
    kernels have them too, but ``Ring.provide_buffers`` needs no operation to return a buffer.

    ``Ring.legacy_buffers`` makes one. The program has all buffers at first. ``give`` queues operations that
    give them to the kernel. A completion copies its data and returns the buffer to the program.
    """

    def __init__(self, ring: Any, number: int, count: int, size: int) -> None:
        super().__init__(ring, number, count, size, lib.UDPRING_GROUP_LEGACY)
        self._given = ffi.new("uint8_t[]", count)

    def __repr__(self) -> str:
        return f"<LegacyGroup {self.number}: {self.count} x {self.size} bytes>"

    def _state(self) -> bytes:
        """For each buffer 1 if the kernel has it, or an operation that gives it is queued."""
        code = lib.udpring_ring_given(self._ring._handle(), self.number, self._given, self.count)
        self._ring._check(code, f"buffer group {self.number}")
        return bytes(self._given)

    @property
    def available(self) -> int:
        """Buffers that the kernel has, or will have when ``give`` is submitted."""
        return sum(self._state())

    def give(self, *, flags: Flag = Flag.NONE) -> list[int]:
        """Queues operations that give the program's buffers to the kernel, one for each run of neighbours.
        Returns their tickets. Their results are 0.

        Raises RingError as ``Ring.give_buffers`` does.
        """
        tickets, first = [], 0
        for value, run in groupby(self._state()):
            length = len(list(run))
            if not value:
                tickets.append(self._ring.give_buffers(self.number, first, length, flags=flags))
            first += length
        return tickets

    def remove(self, *, flags: Flag = Flag.NONE) -> int:
        """Queues an operation that takes all buffers back from the kernel. See ``Ring.remove_buffers``."""
        return int(self._ring.remove_buffers(self.number, self.count, flags=flags))
