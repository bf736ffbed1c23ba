"""``SendRing``: a batched sendmsg ring on one socket."""

from __future__ import annotations

import errno
import os
import socket
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from udpring._native import check, ffi, lib, reason
from udpring.errors import ClosedError
from udpring.udp.address import Address, to_core
from udpring.udp.tiers import counters, tier_name, tier_number
from udpring.udp.waiting import wait_slice

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SendReport", "SendRing"]


@dataclass(frozen=True, slots=True)
class SendReport:
    """What became of a batch: how many the kernel took; for each other its place in the batch and why."""

    accepted: int
    errors: list[tuple[int, OSError]] = field(default_factory=list)


class SendRing:
    """Sends datagrams in batches on ``sock``, a UDP socket of AF_INET or AF_INET6, connected or not.

    Packets leave in the order given, also when the socket buffer is full. The ring belongs to the thread that
    made it. The socket stays the caller's and must live as long as the ring.

    entries: packets pending at once, 1 to 4096; 0 = 256. A batch may be longer.
    tier: "uring-multishot" or "uring-pool" (for sending the same), "mmsg"; None: UDPRING_TIER, or the best
        that works.

    Raises RingError (the kernel refused, with the reason), ValueError (no such tier).
    """

    def __init__(self, sock: socket.socket, entries: int = 256, tier: str | None = None) -> None:
        # The core's handle lives as long as anybody holds it: a call in one thread that meets a close in
        # another finds it closed, never freed. So no lock is needed here.
        self._handle: Any = None
        self._closing = False
        self._sock = sock
        self._busy = False
        if not 0 <= entries < 1 << 31:
            raise ValueError(f"entries must not be negative: {entries}")
        opened = ffi.new("struct udpring_send **")
        why = reason()
        code = lib.udpring_send_open(opened, sock.fileno(), tier_number(tier), entries, why)
        check(code, "opening a send ring", why)
        self._handle = ffi.gc(opened[0], lib.udpring_send_free)
        self._tier = tier_name(lib.udpring_send_tier(self._handle))
        self._tier_reason: str = ffi.string(lib.udpring_send_reason(self._handle)).decode("utf-8", "replace")

    def send_batch(
        self,
        payloads: Iterable[Buffer],
        address: Address | Sequence[Address] | None = None,
        timeout: float | None = None,
    ) -> SendReport:
        """Sends every payload and returns when each has its result; one that fails holds up no other.

        address: one for all, a sequence with one each, or None on a connected socket.
        timeout: seconds to wait for room in the socket buffer; None for ever. What did not go by then is
            reported with BlockingIOError.
        The payloads are copied before this returns and may be changed afterwards.
        Raises ClosedError (also when another thread closes the ring meanwhile), WrongThreadError, TypeError,
        ValueError (as many addresses as payloads are needed).
        """
        handle = self._usable()
        data, lengths = _join(payloads)
        count = len(lengths)
        if not count:
            return SendReport(0)
        addresses = self._addresses(address, count)
        results = ffi.new("int32_t[]", count)
        c_lengths = ffi.new("uint32_t[]", lengths)
        held = ffi.from_buffer("uint8_t[]", data)
        job = ffi.new("struct udpring_send_job *")
        job.data = held
        job.lengths = c_lengths
        job.results = results
        job.count = count
        if addresses:
            held_addresses = ffi.from_buffer(addresses)
            job.addresses = ffi.cast("struct udpring_address *", held_addresses)
            job.address_count = len(addresses) // ffi.sizeof("struct udpring_address")
        self._run(handle, job, timeout)
        outcome = ffi.unpack(results, count)
        if min(outcome) >= 0:
            return SendReport(count)
        errors = [(i, OSError(-code, os.strerror(-code))) for i, code in enumerate(outcome) if code < 0]
        return SendReport(count - len(errors), errors)

    def _run(self, handle: Any, job: Any, timeout: float | None) -> None:
        if self._busy:
            raise RuntimeError("send_batch was called from a signal handler while it runs on the same ring")
        deadline = None if timeout is None else time.monotonic_ns() + max(0, int(timeout * 1e9))
        left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
        self._busy = True
        code = -errno.EINTR
        try:
            while code == -errno.EINTR or (code == -errno.ETIME and left != 0):
                code = lib.udpring_send_run(handle, job, wait_slice(left))
                if deadline is not None:
                    left = max(0, deadline - time.monotonic_ns())
        finally:
            # Also for a KeyboardInterrupt: what is parked still points into this batch's memory. A ring that
            # was closed (by a signal handler) has let go of it.
            if job.ended != job.count and lib.udpring_send_check(handle) == 0:
                check(lib.udpring_send_abandon(handle, job), "abandoning a send")
            self._busy = False
        if code == -errno.ECANCELED:
            self._usable()
        if code != -errno.ETIME:
            check(code, "sending")

    def _addresses(self, address: Address | Sequence[Address] | None, count: int) -> bytes:
        family = self._sock.family
        if address is None:
            return b""
        if isinstance(address, tuple) and address and isinstance(address[0], str):
            return to_core(cast(Address, address), family)
        several = cast(Sequence[Address], address)
        if len(several) != count:
            raise ValueError(f"{len(several)} addresses for {count} payloads: give one for all, or one each")
        return b"".join([to_core(one, family) for one in several])

    def _usable(self) -> Any:
        """The handle, for the thread that may send. Closes where another thread asked for it."""
        if self._closing:
            self.close()
        handle = self._handle
        if handle is None:
            raise ClosedError("this send ring was closed")
        check(lib.udpring_send_check(handle), "sending")
        return handle

    @property
    def pending(self) -> int:
        """Packets that have no result yet, as of the owner's last call. Any thread."""
        handle = self._handle
        return 0 if handle is None else int(lib.udpring_send_pending(handle))

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
        """Counters since the ring was opened (``struct udpring_tx_stats``); each only grows. Any thread."""
        handle = self._handle
        if handle is None:
            raise ClosedError("this send ring was closed")
        stats = ffi.new("struct udpring_tx_stats *")
        lib.udpring_send_stats(handle, stats)
        return counters(stats)

    @property
    def closed(self) -> bool:
        """Whether sending is over."""
        return self._closing or self._handle is None

    def close(self) -> None:
        """Lets go of the ring; twice is fine.

        Called from another thread it only wakes the owner, whose ``send_batch`` then closes and raises
        ClosedError; what the kernel had not taken by then is not sent.
        """
        handle = self._handle
        if handle is None:
            return
        self._closing = True
        code = lib.udpring_send_close(handle)
        if code == -errno.EXDEV:
            lib.udpring_send_wake(handle)
            return
        self._handle = None
        check(code, "closing a send ring")

    def __enter__(self) -> SendRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and not self._closing:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<SendRing {'closed' if self.closed else self._tier}>"


def _join(payloads: Iterable[Buffer]) -> tuple[bytes, list[int]]:
    """All payloads in one block, and their lengths in bytes."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"payloads is a sequence of payloads, not one {type(payloads).__name__}")
    several = cast("Sequence[bytes]", payloads if isinstance(payloads, (list, tuple)) else list(payloads))
    data = b"".join(several)
    lengths = [len(payload) for payload in several]
    if sum(lengths) != len(data):  # views of wider items count items, not bytes
        lengths = [memoryview(payload).nbytes for payload in several]
    return data, lengths
