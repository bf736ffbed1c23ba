"""``RecvRing``: a pool of receive buffers in flight on one socket."""

from __future__ import annotations

import errno
import socket
import time
import warnings
from typing import Any

from udpring._native import check, ffi, lib, reason
from udpring.errors import ClosedError
from udpring.udp.batch import Batch
from udpring.udp.tiers import counters, tier_name, tier_number
from udpring.udp.waiting import WAIT_SLICE_NS, wait_slice

__all__ = ["RecvRing"]


class RecvRing:
    """Receives datagrams in batches from ``sock``, a UDP socket of AF_INET or AF_INET6.

    The ring belongs to the thread that made it: ``recv_batch`` elsewhere, or in a forked child, raises
    WrongThreadError. The socket stays the caller's and must live as long as the ring; pktinfo, TOS and the
    drop counter are switched on for it (ip(7), ipv6(7)).

    buffers: in flight, 1 to 2048; 0 = 64.
    buffer_size: bytes of payload that a buffer holds, up to 65536 (memory is used only as far as datagrams
        touch it).
    tier: "uring-multishot", "uring-pool" or "mmsg"; None: UDPRING_TIER, or the best that works here.
    gro: let the kernel join datagrams of one flow (UDP_GRO, udp(7)); see ``Packet.segment_size``.
    lease_limit: buffers that batches may hold; what comes beyond is copied, so that the kernel is never
        without a buffer because packets are kept. 0 = half of ``buffers``.

    Raises RingError (the kernel refused, with the reason), ValueError (no such tier).
    """

    def __init__(
        self,
        sock: socket.socket,
        buffers: int = 64,
        buffer_size: int = 65536,
        tier: str | None = None,
        *,
        gro: bool = False,
        lease_limit: int = 0,
    ) -> None:
        # The core's handle lives as long as anybody holds it: a call in one thread that meets a close in
        # another finds it closed, never freed. So no lock is needed here.
        self._handle: Any = None
        self._closing = False
        self._sock = sock
        self._ipv6 = sock.family == socket.AF_INET6
        for name, value in (("buffers", buffers), ("buffer_size", buffer_size), ("lease_limit", lease_limit)):
            if not 0 <= value < 1 << 31:
                raise ValueError(f"{name} must not be negative: {value}")
        options = ffi.new("struct udpring_recv_options *")
        options.fd = sock.fileno()
        options.tier = tier_number(tier)
        options.slots = buffers
        options.slot_bytes = buffer_size
        options.lease_limit = lease_limit
        options.gro = gro
        opened = ffi.new("struct udpring_recv **")
        why = reason()
        check(lib.udpring_recv_open(opened, options, why), "opening a receive ring", why)
        self._handle = ffi.gc(opened[0], lib.udpring_recv_free)
        self._tier = tier_name(lib.udpring_recv_tier(self._handle))
        self._tier_reason: str = ffi.string(lib.udpring_recv_reason(self._handle)).decode("utf-8", "replace")

    def recv_batch(self, max_packets: int = 64, timeout: float | None = None) -> Batch:
        """Waits for the first datagram and takes what is there, up to ``max_packets``.

        timeout: seconds; None waits for ever, 0 polls. An empty batch when the time is up. Signals are
        handled while waiting (Ctrl-C raises KeyboardInterrupt).
        Raises ClosedError (also when another thread closes the ring meanwhile), WrongThreadError, RingError
        when the socket is gone.
        """
        if max_packets < 1:
            raise ValueError(f"max_packets must be at least 1: {max_packets}")
        deadline = None if timeout is None else time.monotonic_ns() + max(0, int(timeout * 1e9))
        left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
        taken = ffi.new("struct udpring_batch **")
        while True:
            handle = self._usable()
            try:
                code = lib.udpring_recv_batch(handle, min(max_packets, 1 << 30), wait_slice(left), taken)
                if code == 0 or (code == -errno.ETIME and 0 <= left <= WAIT_SLICE_NS):
                    return Batch(taken, self._ipv6)
            except BaseException:  # of a signal handler: the buffers must not be lost with it
                if taken[0] != ffi.NULL:
                    lib.udpring_batch_release(taken[0])
                raise
            if code not in (-errno.EINTR, -errno.ECANCELED, -errno.ETIME):
                check(code, "receiving")
            if deadline is not None:
                left = max(0, deadline - time.monotonic_ns())

    def _usable(self) -> Any:
        if self._closing:
            self.close()
        if self._handle is None:
            raise ClosedError("this receive ring was closed")
        return self._handle

    @property
    def tier(self) -> str:
        """The tier that runs."""
        return self._tier

    @property
    def tier_reason(self) -> str:
        """Why no better tier was taken; empty when the best one runs or one was asked for by name."""
        return self._tier_reason

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the ring was opened (``struct udpring_rx_stats``); each only grows. Any thread."""
        handle = self._handle
        if handle is None:
            raise ClosedError("this receive ring was closed")
        stats = ffi.new("struct udpring_rx_stats *")
        lib.udpring_recv_stats(handle, stats)
        return counters(stats)

    @property
    def leased(self) -> int:
        """Buffers that batches hold, as of the last ``recv_batch``. Any thread."""
        handle = self._handle
        return 0 if handle is None else int(lib.udpring_recv_leased(handle))

    @property
    def closed(self) -> bool:
        """Whether receiving is over."""
        return self._closing or self._handle is None

    def close(self) -> None:
        """Cancels what is in flight, waits for it, and lets go; packets that are still looked at stay valid.

        Called from another thread it only wakes the owner, whose ``recv_batch`` then closes and raises
        ClosedError. Closing twice is fine.
        """
        handle = self._handle
        if handle is None:
            return
        self._closing = True
        code = lib.udpring_recv_close(handle)
        if code == -errno.EXDEV:
            lib.udpring_recv_wake(handle)
            return
        self._handle = None
        check(code, "closing a receive ring")

    def __enter__(self) -> RecvRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and not self._closing:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<RecvRing {'closed' if self.closed else self._tier}>"
