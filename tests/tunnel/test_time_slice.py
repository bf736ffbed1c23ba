"""The time slice of a worker (tunnel/worker/time_slice.c), as the kernel has it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

import pytest
from core_internals import lib
from packet_nodes import pair, run
from time_slices import SHORT_NS, attributes, kernel_has_slices, worker_threads

pytestmark = pytest.mark.skipif(not kernel_has_slices(), reason="Linux 6.12 has time slices of threads")


def in_thread(body: Callable[[], None]) -> None:
    """In a thread of its own, which takes its attributes along when it ends."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            body()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_slice_is_short_and_then_the_kernels_again() -> None:
    def body() -> None:
        before = attributes()
        assert before[2] > SHORT_NS
        assert lib.udpring_time_slice_shorten(False, True) == 1
        assert attributes() == (*before[:2], SHORT_NS)
        assert lib.udpring_time_slice_shorten(True, False) == 0
        assert attributes() == before

    in_thread(body)


def test_nice_value_and_policy_stay() -> None:
    def body() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        before = attributes()
        assert lib.udpring_time_slice_shorten(False, True) == 1
        assert attributes() == (*before[:2], SHORT_NS)

    in_thread(body)


def test_each_waiting_worker_has_a_short_slice() -> None:
    async def body() -> None:
        others = worker_threads()
        async with pair("127.0.0.1", workers=2):
            workers = worker_threads() - others
            assert len(workers) == 4
            while any(attributes(worker)[2] != SHORT_NS for worker in workers):
                await asyncio.sleep(0.001)

    run(body)
