"""The time slice of a worker (tunnel/worker/time_slice.c), as the kernel has it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from core_internals import lib
from packet_nodes import between, carry, pair, run
from time_slices import SHORT_NS, attributes, kernel_has_slices, worker_threads

KERNELS, IS_SHORT, IS_BATCH = 0, 1, 2
SO_MEMINFO = 55
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


def test_slice_is_short_or_the_thread_is_patient() -> None:
    """A thread of SCHED_BATCH does not take the CPU from others when it wakes up."""

    def body() -> None:
        policy, nice, slice_ns = attributes()
        assert policy == os.SCHED_OTHER
        assert slice_ns > SHORT_NS
        state = KERNELS
        for _ in range(2):
            state = lib.udpring_time_slice_set(state, True, False)
            assert state == IS_SHORT
            assert attributes() == (os.SCHED_OTHER, nice, SHORT_NS)
            state = lib.udpring_time_slice_set(state, False, True)
            assert state == IS_BATCH
            assert attributes() == (os.SCHED_BATCH, nice, slice_ns)
            state = lib.udpring_time_slice_set(state, False, False)
            assert state == KERNELS
            assert attributes() == (os.SCHED_OTHER, nice, slice_ns)

    in_thread(body)


def test_own_policy_of_the_user_stays() -> None:
    """Also where the user gave it while the thread was patient."""

    def body() -> None:
        state = lib.udpring_time_slice_set(KERNELS, True, False)
        state = lib.udpring_time_slice_set(state, False, True)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        for is_short in (True, False, True):
            state = lib.udpring_time_slice_set(state, is_short, not is_short)
            assert state == (IS_SHORT if is_short else KERNELS)
            assert attributes()[0] == os.SCHED_IDLE

    in_thread(body)


def test_datagrams_make_a_worker_patient() -> None:
    """The sender's worker, until they end."""

    async def body() -> None:
        others = worker_threads()
        async with pair("127.0.0.1") as (sender, receiver):
            workers = worker_threads() - others
            assert {attributes(worker)[0] for worker in workers} == {os.SCHED_OTHER}
            some = [between(0, 1, b"data")] * 40
            while all(attributes(worker)[0] == os.SCHED_OTHER for worker in workers):
                assert await carry(sender, receiver, some) == some
                await asyncio.sleep(0.001)
            while any(attributes(worker)[0] != os.SCHED_OTHER for worker in workers):
                await asyncio.sleep(0.001)

    run(body)


def test_datagrams_that_sockets_cannot_hold_end_patience() -> None:
    """At the highest rate that this machine reaches. Those of 1300 bytes need 90 000 a second."""

    async def body() -> None:
        others = worker_threads()
        async with pair("127.0.0.1") as (sender, receiver):
            workers = worker_threads() - others
            some = [between(0, 1, bytes(1300))] * 200
            sent, began = 0, time.monotonic()
            while not any(
                policy == os.SCHED_OTHER and slice_ns != SHORT_NS
                for policy, _, slice_ns in map(attributes, workers)
            ):
                assert await carry(sender, receiver, some) == some
                sent, passed = sent + len(some), time.monotonic() - began
                if passed > 20 and sent / passed < 120_000:
                    pytest.skip(f"this machine carries only {sent / passed:.0f} such datagrams a second")

    run(body)


def test_sockets_hold_what_comes_within_three_quarters_of_a_slice() -> None:
    def body() -> None:
        held = lib.udpring_time_slice_socket_rate() * attributes()[2] // 10**9 * 3 // 4
        assert held == pytest.approx(212_992, rel=0.001)

    in_thread(body)


@pytest.mark.parametrize("payload", [1, 64, 500, 1300])
def test_charge_is_that_of_a_socket(payload: int) -> None:
    """SO_MEMINFO begins with the bytes that the receive queue takes."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reader,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        reader.bind(("127.0.0.1", 0))
        source.sendto(bytes(payload), reader.getsockname())
        (charged,) = struct.unpack_from("I", reader.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4))
    assert lib.udpring_time_slice_charge(28 + payload) == pytest.approx(charged, rel=0.25)


def test_nice_value_and_policy_stay() -> None:
    def body() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        before = attributes()
        state = lib.udpring_time_slice_set(KERNELS, True, False)
        assert attributes() == (*before[:2], SHORT_NS)
        assert lib.udpring_time_slice_set(state, False, True) == KERNELS
        assert attributes() == before

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
