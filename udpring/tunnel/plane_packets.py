"""``node.packets``: the program sends and receives the IP packets of a node that has no TUN device.

The flow:
1. ``send`` copies a batch into the queues of the workers, in one call of the core. A worker that sleeps is
   woken; one that works finds the packets by itself.
2. A full queue holds ``send`` until half of it is free.
3. A worker puts decrypted packets into its own queue. Where that is full, the packet is dropped and
   counted (``program_full``).
4. ``recv`` takes the contents of all queues in one call of the core. If they are empty, it waits for the
   eventfd.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from threading import get_ident
from typing import Any, Self

from udpring._native import check, ffi, lib
from udpring.errors import ClosedError, WrongThreadError
from udpring.tunnel.doorbell import Doorbell
from udpring.tunnel.packet_batch import PacketBatch
from udpring.tunnel.plane import Plane
from udpring.udp.batch import Batch
from udpring.udp.jobs import Lengths, Payloads, fill_payloads

__all__ = ["PacketPort", "set_mtu"]

CALLS_A_TURN = 4
"""Calls that need not wait, until the event loop gets a turn for its timers and other tasks."""
_MOST = 1 << 20
_forks = 0
"""How often this process was forked off: a child's ports are those of its parent."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


def set_mtu(plane: Plane, mtu: int) -> None:
    """Longer packets of the program are dropped from now on. For a plane without a TUN device."""
    check(lib.udpring_plane_packets_mtu(plane._handle(), mtu), f"MTU {mtu}")


class PacketPort:
    """Sends IP packets into the tunnel, and receives those that come out of it.

    The destination address of a packet selects the peer, by its AllowedIPs. Packets of one flow stay in
    order. Packets that cannot be sent are dropped and counted in ``node.stats.plane.drops``: ``bad_outer``
    (no IP packet, or not as long as its header says), ``too_big`` (longer than ``mtu``), ``no_peer``,
    ``no_endpoint``, ...

    All methods belong to the thread of the node's event loop. They raise WrongThreadError in another one and
    in a forked child, and ClosedError when the node has ended.
    """

    def __init__(
        self,
        plane: Plane,
        loop: asyncio.AbstractEventLoop,
        key_of: Callable[[int], str | None],
        mtu: Callable[[], int],
    ) -> None:
        handle = plane._handle()
        self._plane = plane
        self._key_of = key_of
        self._mtu = mtu
        self._owner = get_ident(), _forks
        self._arrived = Doorbell(check(lib.udpring_plane_packets_fd(handle), "the node's packets"), loop)
        self._room = Doorbell(check(lib.udpring_plane_packets_room_fd(handle), "the node's packets"), loop)
        self._batch = ffi.new("struct udpring_packets **")
        self._sending = asyncio.Lock()
        self._receiving = False
        self._closed = False
        self._calls = 0

    # ---- out ----

    def try_send(self, packets: Payloads | PacketBatch, *, lengths: Lengths | None = None) -> int:
        """Sends as many packets, from the first on, as there is room for now. Returns their number.

        Arguments and errors are those of ``send``.
        """
        return self._push(*self._job(packets, lengths), wait=False)

    async def send(self, packets: Payloads | PacketBatch, *, lengths: Lengths | None = None) -> None:
        """Sends all packets. Waits for room as long as a queue is full.

        packets: buffers, one IP packet each; or a PacketBatch; or one buffer with ``lengths``.
        lengths: cuts one buffer into packets. An int: that many bytes each, the last may be shorter. A
            sequence or a uint32 buffer: the bytes of each.

        The packets are copied, so the buffers may be changed afterwards. Concurrent calls take turns. A
        cancelled call has sent its first packets, or none, or all.

        Raises TypeError and ValueError (lengths that do not fit the buffer, more than 65535 bytes).
        """
        job, held = self._job(packets, lengths)
        async with self._sending:
            while self._push(job, held, wait=True) < job.count:
                self._calls = 0
                await self._room.wait()
        await self._give_way()

    def _job(self, packets: Payloads | PacketBatch, lengths: Lengths | None) -> tuple[Any, Any]:
        """The batch in the core's form, and the objects that must live as long."""
        job = ffi.new("struct udpring_packets_out *")
        if isinstance(packets, PacketBatch):
            if lengths is not None:
                raise TypeError("a PacketBatch has lengths of its own")
            columns = [ffi.from_buffer("uint32_t[]", each) for each in (packets.offsets, packets.lengths)]
            data = ffi.from_buffer("uint8_t[]", packets.data)
            job.data, job.bytes, job.count = data, len(data), len(packets)
            job.offsets, job.lengths = columns
            return job, (data, columns)
        if isinstance(packets, Batch):
            packets = packets.views()
        return job, fill_payloads(job, packets, lengths)

    def _push(self, job: Any, held: Any, *, wait: bool) -> int:
        code = lib.udpring_plane_packets_send(self._handle(), job, wait)
        if code == -errno.EINVAL:
            number = job.taken
            job.taken = 0
            size = job.lengths[number] if job.lengths != ffi.NULL else job.length
            raise ValueError(
                f"packet {number} of {size} bytes: an IP packet has at most 65535, "
                "and all lengths lie within the buffer"
            )
        check(code, "sending packets")
        return int(job.taken)

    # ---- in ----

    def try_recv(self, max_packets: int = 256) -> PacketBatch:
        """The packets that have arrived, up to ``max_packets``. An empty batch where there are none."""
        return self._take(max_packets, wait=False)

    async def recv(self, max_packets: int = 256) -> PacketBatch:
        """Waits for the first packet, then returns all that have arrived, up to ``max_packets``.

        A cancelled call loses no packet. Raises RuntimeError when another task waits already.
        """
        if self._receiving:
            raise RuntimeError("another task waits for packets. Let one task receive and distribute")
        self._receiving = True
        try:
            await self._give_way()
            while not (batch := self._take(max_packets, wait=True)):
                self._calls = 0
                await self._arrived.wait()
            return batch
        finally:
            self._receiving = False

    def _take(self, max_packets: int, *, wait: bool) -> PacketBatch:
        if max_packets < 1:
            raise ValueError(f"max_packets must be at least 1: {max_packets}")
        batch = self._batch
        code = lib.udpring_plane_packets_receive(self._handle(), min(max_packets, _MOST), wait, batch)
        check(code, "receiving packets")
        return PacketBatch(batch[0], self._key_of)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PacketBatch:
        """The next batch. The iteration ends when the node does."""
        try:
            return await self.recv()
        except ClosedError:
            raise StopAsyncIteration from None

    # ---- both ----

    async def _give_way(self) -> None:
        self._calls += 1
        if self._calls > CALLS_A_TURN:
            self._calls = 0
            await asyncio.sleep(0)

    def _handle(self) -> Any:
        if (get_ident(), _forks) != self._owner:
            raise WrongThreadError("a node's packets belong to the thread of its event loop, in its process")
        if self._closed:
            raise ClosedError("the node has ended")
        return self._plane._handle()

    @property
    def mtu(self) -> int:
        """Bytes of the longest packet that may be sent: MTU of the configuration, or 1420."""
        return self._mtu()

    def close(self) -> None:
        """Ends every wait with ClosedError. May be called again."""
        self._closed = True
        self._arrived.close()
        self._room.close()
