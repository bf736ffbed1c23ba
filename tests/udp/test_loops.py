"""Receiving in event loops by descriptor, await and iteration, on each tier and each loop."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
import uvloop

from udpring.errors import ClosedError, RingError, WrongThreadError
from udpring.udp import Batch, RecvRing
from udpring.udp.loops import BATCHES_A_TURN

from .conftest import BOUND, Pair, take

LOOPS: dict[str, Callable[[Callable[[], Awaitable[None]]], None]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "uvloop": lambda main: uvloop.run(main()),
    "trio": trio.run,
    "anyio on asyncio": lambda main: anyio.run(main, backend="asyncio"),
    "anyio on trio": lambda main: anyio.run(main, backend="trio"),
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function in one of the loops, within the bound."""
    start = LOOPS[request.param]

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(BOUND):
                await main()

        start(bounded)

    return run


def readable(ring: RecvRing | int, bound: float = 0) -> bool:
    """The common answer of select, poll and epoll for the ring's descriptor."""
    poll, epoll = select.poll(), select.epoll()
    poll.register(ring, select.POLLIN)
    epoll.register(ring, select.EPOLLIN)
    try:
        first = bool(epoll.poll(bound))
        assert bool(poll.poll(0)) == first
        assert bool(select.select([ring], [], [], 0)[0]) == first
        return first
    finally:
        epoll.close()


async def until_waiting(ring: RecvRing) -> None:
    while ring._watch is None or not ring._watch.waiting:
        await anyio.sleep(0)


def drain(ring: RecvRing, max_packets: int = 64) -> list[bytes]:
    """Receives as an event loop does: while the descriptor is readable."""
    payloads: list[bytes] = []
    while readable(ring):
        payloads += ring.recv_batch(max_packets, timeout=0).payloads()
    return payloads


# The descriptor.


def test_descriptor_is_readable_for_datagrams(tier: str, pair: Pair) -> None:
    with RecvRing(pair.sink, tier=tier) as ring:
        assert ring.fileno() == ring.fileno()
        assert ring.fileno() != pair.sink.fileno()
        assert not readable(ring)
        for number in range(20):
            pair.source.sendto(b"%d" % number, pair.to)
            assert readable(ring, BOUND)
            assert drain(ring) == [b"%d" % number]
        assert not readable(ring)


def test_what_is_left_over_keeps_it_readable(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        ring.fileno()
        sent = [b"%d" % number for number in range(50)]
        for payload in sent:
            pair4.source.sendto(payload, pair4.to)
        assert drain(ring, 3) == sent
        assert not ring.recv_batch(timeout=0)


def test_it_can_be_asked_for_with_datagrams_waiting(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        for number in range(5):
            pair4.source.sendto(b"%d" % number, pair4.to)
        assert ring.recv_batch(1, timeout=BOUND).payloads() == [b"0"]
        assert drain(ring) == [b"1", b"2", b"3", b"4"]


def test_blocking_calls_work_with_a_descriptor(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        ring.fileno()
        pair4.source.sendto(b"a", pair4.to)
        assert take(ring, 1)[0].data == b"a"
        assert not ring.recv_batch(timeout=0.01)
        assert not readable(ring)
        pair4.source.sendto(b"b", pair4.to)
        assert drain(ring) == [b"b"]


def test_datagrams_of_length_zero_do_not_silence_it(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        ring.fileno()
        for _ in range(10):
            for payload in (b"", b"x"):
                pair4.source.sendto(payload, pair4.to)
            assert drain(ring) == [b"", b"x"]


def test_more_than_the_pool_holds(tier: str, pair4: Pair) -> None:
    pair4.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with RecvRing(pair4.sink, buffers=4, tier=tier) as ring:
        ring.fileno()
        for round_ in range(20):
            sent = [b"%d.%d" % (round_, number) for number in range(30)]
            for payload in sent:
                pair4.source.sendto(payload, pair4.to)
            assert drain(ring) == sent


@pytest.mark.parametrize("where", ["here", "another thread"])
def test_buffers_that_come_back_wake_the_loop(tier: str, pair4: Pair, where: str) -> None:
    """With every buffer held nothing can be received. The descriptor becomes readable when they return."""
    with RecvRing(pair4.sink, buffers=4, tier=tier, lease_limit=4) as ring:
        ring.fileno()
        for round_ in range(10):
            for number in range(6):
                pair4.source.sendto(b"%d.%d" % (round_, number), pair4.to)
            kept: list[Batch] = []
            while sum(map(len, kept)) < 4:
                kept.append(ring.recv_batch(timeout=BOUND))
            assert not ring.recv_batch(timeout=0)
            assert not readable(ring), "there is no buffer: asking would be in vain"
            if where == "here":
                kept.clear()
            else:
                thread = threading.Thread(target=kept.clear)
                thread.start()
                thread.join()
            assert readable(ring, BOUND)
            assert drain(ring) == [b"%d.4" % round_, b"%d.5" % round_]


def test_errors_from_icmp_do_not_keep_it_readable(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    gone, sock = make_socket(), make_socket()
    sock.connect(gone.getsockname())
    gone.close()
    with RecvRing(sock, tier=tier) as ring:
        ring.fileno()
        sock.send(b"is anybody there?")
        assert readable(ring, BOUND)
        assert drain(ring) == []
        assert ring.stats["icmp_errors"] == 1


def test_closing_in_another_thread_wakes_it(tier: str, pair4: Pair) -> None:
    ring = RecvRing(pair4.sink, tier=tier)
    descriptor = ring.fileno()
    thread = threading.Thread(target=ring.close)
    thread.start()
    assert readable(descriptor, BOUND)
    thread.join()
    with pytest.raises(ClosedError):
        ring.recv_batch(timeout=0)
    with pytest.raises(ClosedError):
        ring.fileno()


def test_the_first_call_is_the_owners(tier: str, pair4: Pair) -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            ring.fileno()
        except Exception as error:
            caught.append(error)

    with RecvRing(pair4.sink, tier=tier) as ring:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert [type(error) for error in caught] == [WrongThreadError]


def test_no_descriptor_is_left_behind(tier: str, pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            assert not await ring.recv_batch_async(timeout=0.001)

    asyncio.run(main())
    gc.collect()  # garbage of an earlier test may hold descriptors
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    for _ in range(10):
        asyncio.run(main())
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


# Awaiting.


def test_awaiting(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:

            async def send() -> None:
                for number in range(30):
                    pair4.source.sendto(b"%d" % number, pair4.to)
                    await anyio.sleep(0)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                got: list[bytes] = []
                while len(got) < 30:
                    batch = await ring.recv_batch_async(7)
                    assert 1 <= len(batch) <= 7
                    got += batch.payloads()
            assert got == [b"%d" % number for number in range(30)]

    run(main)


def test_a_time_out_gives_an_empty_batch(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for timeout in (0, -1, 0.01):
                assert not await ring.recv_batch_async(timeout=timeout)
            pair4.source.sendto(b"x", pair4.to)
            assert (await ring.recv_batch_async(timeout=BOUND)).payloads() == [b"x"]

    run(main)


def test_iterating_ends_when_the_owner_closes(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        ring = RecvRing(pair4.sink, tier=tier)
        got: list[bytes] = []

        async def receive() -> None:
            async for batch in ring:
                got.extend(batch.payloads())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            for number in range(100):
                pair4.source.sendto(b"%d" % number, pair4.to)
                if number % 10 == 0:
                    await anyio.sleep(0.001)
            while len(got) < 100:
                await anyio.sleep(0.001)
            ring.close()
        assert got == [b"%d" % number for number in range(100)]
        with pytest.raises(ClosedError):
            async for _ in ring:
                pass

    run(main)


@pytest.mark.parametrize("where", ["the loop", "another thread"])
def test_closing_ends_a_wait(tier: str, run: Callable[..., None], pair4: Pair, where: str) -> None:
    async def main() -> None:
        ring = RecvRing(pair4.sink, tier=tier)
        ended: list[bool] = []

        async def receive() -> None:
            with pytest.raises(ClosedError):
                await ring.recv_batch_async()
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until_waiting(ring)
            if where == "the loop":
                ring.close()
            else:
                thread = threading.Thread(target=ring.close)
                thread.start()
        assert ended
        assert ring.closed

    run(main)


def test_socket_closed_under_a_wait_is_reported(tier: str) -> None:
    async def main() -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        with RecvRing(sock, tier=tier) as ring:
            async with anyio.create_task_group() as tasks:

                async def receive() -> None:
                    with pytest.raises(RingError):
                        await ring.recv_batch_async()

                tasks.start_soon(receive)
                await until_waiting(ring)
                sock.close()

    asyncio.run(main())


def test_cancelling_loses_nothing(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            got: list[bytes] = []
            for number in range(50):
                with anyio.move_on_after(0):
                    got += (await ring.recv_batch_async()).payloads()
                pair4.source.sendto(b"%d" % number, pair4.to)
                with anyio.move_on_after(0.0005 if number % 2 else 0):
                    got += (await ring.recv_batch_async()).payloads()
            while batch := await ring.recv_batch_async(timeout=0.05):
                got += batch.payloads()
            assert got == [b"%d" % number for number in range(50)]

    run(main)


def test_a_task_cancelled_as_it_is_woken_loses_nothing(tier: str, pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for number in range(20):
                task = asyncio.create_task(ring.recv_batch_async())
                await asyncio.sleep(0)  # the task waits now
                pair4.source.sendto(b"%d" % number, pair4.to)
                assert readable(ring, BOUND)
                # One of these turns of the loop wakes the task, and the next one runs it.
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    batch = await task
                except asyncio.CancelledError:
                    batch = await ring.recv_batch_async(timeout=BOUND)
                assert batch.payloads() == [b"%d" % number]

    asyncio.run(main())


def test_second_waiting_task_is_refused(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ring.recv_batch_async)
                await until_waiting(ring)
                with pytest.raises(RuntimeError, match="another task"):
                    await ring.recv_batch_async()
                pair4.source.sendto(b"for the first", pair4.to)
            assert not await ring.recv_batch_async(timeout=0)

    run(main)


def test_the_program_may_poll_ring_and_socket_too(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    """udpring waits on its own descriptor, so it replaces no handler of the program."""

    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:

            async def other(descriptor: int) -> None:
                await anyio.wait_writable(pair4.sink)
                with anyio.move_on_after(BOUND):
                    await anyio.wait_readable(descriptor)
                reported.append(descriptor)

            reported: list[int] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(other, ring.fileno())
                for _ in range(5):
                    await anyio.sleep(0)
                pair4.source.sendto(b"x", pair4.to)
                assert (await ring.recv_batch_async()).payloads() == [b"x"]
                while not reported:
                    pair4.source.sendto(b"y", pair4.to)
                    await anyio.sleep(0.001)
            assert reported == [ring.fileno()]

    run(main)


def test_a_flood_lets_others_run(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    """The test counts instead of timing: batches between two turns of another task."""

    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0)

        with RecvRing(pair4.sink, tier=tier) as ring:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                await anyio.sleep(0)
                seen, most, batches = turns, 0, 0
                for _ in range(200):
                    for _ in range(4):
                        pair4.source.sendto(b"x", pair4.to)  # the socket is never empty
                    await ring.recv_batch_async(1)
                    batches = batches + 1 if turns == seen else 1
                    seen, most = turns, max(most, batches)
                # trio runs tasks in any order: last in one turn, first in the next
                assert most <= 2 * BATCHES_A_TURN
                tasks.cancel_scope.cancel()

    run(main)


def test_a_loop_of_polls_lets_others_run(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        stop = False

        async def later() -> None:
            nonlocal stop
            for _ in range(100):
                await anyio.sleep(0)
            stop = True

        with RecvRing(pair4.sink, tier=tier) as ring:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(later)
                while not stop:
                    assert not await ring.recv_batch_async(timeout=0)

    run(main)


def test_one_ring_in_several_loops_one_after_the_other(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:

        async def main() -> None:
            assert not await ring.recv_batch_async(timeout=0.001)
            pair4.source.sendto(b"x", pair4.to)
            assert (await ring.recv_batch_async()).payloads() == [b"x"]

        for start in LOOPS.values():
            start(main)
        asyncio.run(main())


def test_a_loop_that_ends_with_a_task_waiting(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        loop = asyncio.new_event_loop()
        task = loop.create_task(ring.recv_batch_async())
        loop.run_until_complete(until_waiting(ring))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
        pair4.source.sendto(b"x", pair4.to)
        assert [bytes(packet) for packet in take(ring, 1)] == [b"x"]


def test_debug_mode_has_nothing_to_say(tier: str, pair4: Pair, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for _ in range(10):
                pair4.source.sendto(b"x", pair4.to)
                assert await ring.recv_batch_async()
                await asyncio.sleep(0)
            give_up = time.monotonic() + 0.01
            while time.monotonic() < give_up:
                await ring.recv_batch_async(timeout=0.001)

    asyncio.run(main(), debug=True)
    assert not [record for record in caplog.records if "never" in record.message]
