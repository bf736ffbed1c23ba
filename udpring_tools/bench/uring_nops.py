"""Row ``nops`` of ``bench uring``: the cost of the library itself. A nop does nothing in the kernel.

Every contender queues 32 nops, submits them, and looks at the result of each.
"""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Callable
from typing import Any

from udpring.errors import UdpringError
from udpring.uring import Ring
from udpring_tools.bench.uring_row import Contender, Place, Row, Sample, package, timed

__all__ = ["nops_row"]

BATCH = 32
ENTRIES = 64
REPEATS = 16


def nops_row(place: Place) -> Row:
    """Nops in batches of 32, on one thread."""
    liburing = package("liburing")
    return Row(
        "nops",
        f"nops in batches of {BATCH}, one thread",
        {"nops_cpu_s": "nops per CPU-s"},
        {
            "udpring prepared": Contender(_prepared),
            "udpring queue_many": Contender(_queue_many),
            "udpring nop()": Contender(_single),
            "liburing": Contender(_liburing, liburing),
            "liburing put_sqe": Contender(_liburing_prepared, liburing),
        },
    )


def _sample(work: Callable[[], int], seconds: float) -> Sample:
    done, _, used = timed(work, seconds, REPEATS)
    return {"nops_cpu_s": done / used}


def _zeros() -> array[int]:
    return array("i", bytes(4 * BATCH))


def _failed() -> UdpringError:
    return UdpringError("a nop failed")


def _prepared(seconds: float) -> Sample:
    """The same columns and the same batch each time."""
    with Ring(ENTRIES) as ring:
        batch, done = ring.prepare("nop", -1, count=BATCH), ring.columns(BATCH)
        queue, turn, results, zeros = batch.queue, done.turn, done.results, _zeros()

        def work() -> int:
            queue()
            count = turn(BATCH)
            if results != zeros:
                raise _failed()
            return count

        return _sample(work, seconds)


def _queue_many(seconds: float) -> Sample:
    with Ring(ENTRIES) as ring:
        done = ring.columns(BATCH)
        queue_many, turn, results, zeros = ring.queue_many, done.turn, done.results, _zeros()

        def work() -> int:
            queue_many("nop", -1, count=BATCH)
            count = turn(BATCH)
            if results != zeros:
                raise _failed()
            return count

        return _sample(work, seconds)


def _single(seconds: float) -> Sample:
    """A call for each nop, and an object for each completion."""
    with Ring(ENTRIES) as ring:

        def work() -> int:
            for _ in range(BATCH):
                ring.nop()
            count = 0
            for completion in ring.reap(BATCH):
                if completion.result:
                    raise _failed()
                count += 1
            return count

        return _sample(work, seconds)


def _with_liburing(queue: Callable[[Any, Any], Callable[[], None]], seconds: float) -> Sample:
    """Takes completions as the package documents it: all that are ready, and one call that advances."""
    uring = importlib.import_module("liburing")
    ring, cqe = uring.Ring(), uring.Cqe()
    uring.io_uring_queue_init(ENTRIES, ring)
    try:
        fill = queue(uring, ring)

        def work() -> int:
            fill()
            uring.io_uring_submit_and_wait(ring, BATCH)
            uring.io_uring_wait_cqe(ring, cqe)
            count: int = uring.io_uring_cq_ready(ring)
            for i in range(count):
                one = cqe[i]
                if one.res or not one.user_data:
                    raise _failed()
            uring.io_uring_cq_advance(ring, count)
            return count

        return _sample(work, seconds)
    finally:
        uring.io_uring_queue_exit(ring)


def _liburing(seconds: float) -> Sample:
    """An entry for each nop by io_uring_get_sqe."""

    def queue(uring: Any, ring: Any) -> Callable[[], None]:
        def fill() -> None:
            for ticket in range(1, BATCH + 1):
                sqe = uring.io_uring_get_sqe(ring)
                uring.io_uring_prep_nop(sqe)
                sqe.user_data = ticket

        return fill

    return _with_liburing(queue, seconds)


def _liburing_prepared(seconds: float) -> Sample:
    """Entries that are prepared once, and copied into the ring by put_sqe each time."""

    def queue(uring: Any, ring: Any) -> Callable[[], None]:
        entries = uring.Sqe(BATCH)
        for i in range(BATCH):
            uring.io_uring_prep_nop(entries[i])
            entries[i].user_data = i + 1
        return lambda: uring.put_sqe(ring, entries)

    return _with_liburing(queue, seconds)
