"""Sending in event loops over loopback, where no buffer ever fills.

integration/test_send_async.py covers tasks that wait for room.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest

from udpring.errors import ClosedError, WrongThreadError
from udpring.udp import AddressList, RecvRing, SendReport, SendRing
from udpring.udp.loops import BATCHES_A_TURN

from .conftest import BOUND, Pair
from .test_loops import LOOPS


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function in one of the loops, within the bound."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(BOUND):
                await main()

        LOOPS[request.param](bounded)

    return run


def test_everything_that_send_batch_takes(tier: str, run: Callable[..., None], pair: Pair) -> None:
    async def main() -> None:
        with SendRing(pair.source, tier=tier) as tx, RecvRing(pair.sink, tier=tier) as rx:
            to = AddressList([pair.to] * 2, pair.source.family)
            assert await tx.send_batch_async([b"a", bytearray(b"b")], pair.to) == SendReport(2)
            assert await tx.send_batch_async(
                [b"c", memoryview(b"d")], to, ordered=True, ttl=9, tos=2
            ) == SendReport(2)
            assert await tx.send_batch_async(b"eefff", pair.to, lengths=[2, 3]) == SendReport(2)
            assert await tx.send_batch_async([]) == SendReport(0)
            too_long = await tx.send_batch_async([b"g", bytes(70000), b"h"], pair.to)
            assert (too_long.accepted, [index for index, _ in too_long.errors]) == (2, [1])
            got: list[bytes] = []
            async for batch in rx:
                got += batch.payloads()
                if len(got) >= 8:
                    break
            assert got == [b"a", b"b", b"c", b"d", b"ee", b"fff", b"g", b"h"]
            with pytest.raises(ValueError, match="addresses"):
                await tx.send_batch_async([b"x"], to)
            assert tx.reap() == []
            ticket = tx.submit([b"x"], pair.to)
            assert tx.reap(1) == [ticket], "tickets are not mixed up with awaited batches"

    run(main)


def test_sending_for_ever_lets_others_run(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0)

        with SendRing(pair4.source, tier=tier) as ring:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                seen, most, batches = turns, 0, 0
                for _ in range(100):
                    await ring.send_batch_async([b"x"], pair4.to)
                    batches = batches + 1 if turns == seen else 1
                    seen, most = turns, max(most, batches)
                # trio runs tasks in any order: last in one turn, first in the next
                assert most <= 2 * BATCHES_A_TURN
                tasks.cancel_scope.cancel()

    run(main)


def test_echo_between_two_tasks(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    """Batches are sent back as received, without a copy."""

    async def main() -> None:
        with (
            SendRing(pair4.source, tier=tier) as asks,
            RecvRing(pair4.source, tier=tier) as hears,
            SendRing(pair4.sink, tier=tier) as answers,
            RecvRing(pair4.sink, tier=tier) as receives,
        ):

            async def serve() -> None:
                async for batch in receives:
                    await answers.send_batch_async(batch, batch.addresses)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve)
                for round_ in range(20):
                    sent = [b"%d.%d" % (round_, number) for number in range(10)]
                    assert (await asks.send_batch_async(sent, pair4.to)).accepted == 10
                    got: list[bytes] = []
                    while len(got) < 10:
                        got += (await hears.recv_batch_async()).payloads()
                    assert got == sent
                receives.close()

    run(main)


def test_descriptor_is_quiet_when_nothing_is_pending(tier: str, pair4: Pair) -> None:
    ring = SendRing(pair4.source, tier=tier)
    descriptor = ring.fileno()
    assert descriptor == ring.fileno() != pair4.source.fileno()
    for _ in range(3):
        ring.send_batch([b"x"], pair4.to)
        assert ring.submit([b"y"], pair4.to).done
        assert not select.select([ring], [], [], 0)[0]
    thread = threading.Thread(target=ring.close)
    thread.start()
    thread.join()
    assert select.select([descriptor], [], [], BOUND)[0]
    with pytest.raises(ClosedError):
        ring.send_batch([b"x"], pair4.to)
    with pytest.raises(ClosedError):
        ring.fileno()


def test_after_closing(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    async def main() -> None:
        ring = SendRing(pair4.source, tier=tier)
        ring.close()
        with pytest.raises(ClosedError):
            await ring.send_batch_async([b"x"], pair4.to)

    run(main)


def test_another_thread_is_turned_away(tier: str, run: Callable[..., None], pair4: Pair) -> None:
    caught: list[type[BaseException]] = []

    async def main() -> None:
        for call in (lambda: ring.send_batch_async([b"x"], pair4.to), receiver.recv_batch_async):
            try:
                await call()
            except Exception as error:
                caught.append(type(error))

    with SendRing(pair4.source, tier=tier) as ring, RecvRing(pair4.sink, tier=tier) as receiver:
        thread = threading.Thread(target=run, args=(main,))
        thread.start()
        thread.join()
    assert caught == [WrongThreadError] * 2
