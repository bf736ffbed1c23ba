"""Registrations that a task's waits leave in asyncio and uvloop, and how a wait resumes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from udpring.errors import ClosedError, WrongThreadError
from udpring.udp import RecvRing, SendRing, reader

from .conftest import BOUND, Pair

NEVER = 1e6  # seconds


class Counts:
    """Counts how often a loop registered and removed the descriptor, and how often it called the reader."""

    def __init__(self) -> None:
        self.added = self.removed = self.called = 0

    def counted(self, callback: Callable[..., object], arguments: tuple[object, ...]) -> Callable[[], None]:
        self.added += 1

        def call() -> None:
            self.called += 1
            callback(*arguments)

        return call


class Selecting(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.counts = Counts()
        super().__init__()

    def add_reader(self, fd: Any, callback: Callable[..., object], *arguments: Any) -> None:
        super().add_reader(fd, self.counts.counted(callback, arguments))

    def remove_reader(self, fd: Any) -> bool:
        self.counts.removed += 1
        return super().remove_reader(fd)


class Uv(uvloop.Loop):
    def __init__(self) -> None:
        self.counts = Counts()

    def add_reader(self, fd: Any, callback: Callable[..., object], *arguments: Any) -> None:
        super().add_reader(fd, self.counts.counted(callback, arguments))

    def remove_reader(self, fd: Any) -> bool:
        self.counts.removed += 1
        return super().remove_reader(fd)


@pytest.fixture(params=[Selecting, Uv])
def make_loop(request: pytest.FixtureRequest) -> Callable[[], Any]:
    made: Callable[[], Any] = request.param
    return made


@pytest.fixture
def run(make_loop: Callable[[], Any]) -> Callable[[Callable[[], Awaitable[None]]], Counts]:
    """Runs a coroutine function in a new loop, within the bound. Returns the loop's counts."""

    def run(main: Callable[[], Awaitable[None]]) -> Counts:
        failed: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
            await asyncio.wait_for(main(), BOUND)

        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(bounded())
            counts: Counts = runner.get_loop().counts  # type: ignore[attr-defined]
        assert not failed
        return counts

    return run


Run = Callable[[Callable[[], Awaitable[None]]], Counts]


def counts_here() -> Counts:
    counts: Counts = asyncio.get_running_loop().counts  # type: ignore[attr-defined]
    return counts


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def waiting(ring: RecvRing) -> None:
    await until(lambda: ring._watch is not None and ring._watch.waiting)


async def rounds(ring: RecvRing, pair: Pair, count: int = 3) -> None:
    """Datagrams come one at a time, each to a waiting task."""
    for number in range(count):
        task = asyncio.ensure_future(ring.recv_batch_async())
        await waiting(ring)
        pair.source.sendto(b"%d" % number, pair.to)
        assert (await task).payloads() == [b"%d" % number]


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait ends by a check before it: only the loop ends it."""
    monkeypatch.setattr(reader, "LOOK_SECONDS", NEVER)


# Registrations with the loop, and how long they stay.


@pytest.mark.usefixtures("no_look")
def test_loop_registers_the_descriptor_once(tier: str, run: Run, pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            got: list[bytes] = []

            async def receive() -> None:
                async for batch in ring:
                    got.extend(batch.payloads())

            task = asyncio.ensure_future(receive())
            for number in range(30):
                await waiting(ring)
                pair4.source.sendto(b"%d" % number, pair4.to)
                await until(lambda number=number: len(got) > number)  # type: ignore[misc]
            assert (counts_here().added, counts_here().removed) == (1, 0)
            ring.close()
            await task

    counts = run(main)
    assert (counts.added, counts.removed) == (1, 1)


def test_unread_ring_does_not_spin_the_loop(tier: str, run: Run, pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            await rounds(ring, pair4)
            counts = counts_here()
            called = counts.called
            for number in range(3):
                pair4.source.sendto(b"later %d" % number, pair4.to)
            await until(lambda: counts.added == counts.removed)
            assert counts.called - called <= 1
            called = counts.called
            for _ in range(200):
                await asyncio.sleep(0)
            assert counts.called == called
            got: list[bytes] = []
            while len(got) < 3:
                got += (await ring.recv_batch_async()).payloads()
            assert got == [b"later %d" % number for number in range(3)]
            await rounds(ring, pair4)  # the descriptor is watched again

    run(main)


def test_a_task_that_is_busy_elsewhere_is_no_spin(tier: str, run: Run, pair4: Pair) -> None:
    """Each datagram that arrives while no task waits costs the loop at most one call."""

    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for number in range(10):
                pair4.source.sendto(b"%d" % number, pair4.to)
                assert (await ring.recv_batch_async()).payloads() == [b"%d" % number]
                pair4.source.sendto(b"meanwhile", pair4.to)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert (await ring.recv_batch_async()).payloads() == [b"meanwhile"]
            assert counts_here().called <= 4 * 10

    run(main)


def test_an_idle_ring_leaves_the_loop(
    tier: str, run: Run, pair4: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LOOK_SECONDS", 0.01)

    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            await rounds(ring, pair4)
            counts = counts_here()
            await until(lambda: counts.added == counts.removed)
            await rounds(ring, pair4)

    run(main)


def test_a_ring_that_is_dropped_takes_its_reader_along(tier: str, run: Run, pair4: Pair) -> None:
    async def main() -> None:
        ring = RecvRing(pair4.sink, tier=tier)
        await rounds(ring, pair4)
        gone = weakref.ref(ring)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del ring
            gc.collect()
        assert gone() is None
        assert counts_here().added == counts_here().removed

    run(main)


def test_a_ring_keeps_no_loop_alive(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        with asyncio.Runner(loop_factory=Selecting) as runner:
            runner.run(rounds(ring, pair4))
            loop = weakref.ref(runner.get_loop())
        del runner
        gc.collect()
        assert loop() is None


def test_loops_in_turns(tier: str, make_loop: Callable[[], Any], pair4: Pair) -> None:
    """The ring moves to whichever loop runs. It does not touch a closed loop again."""
    loops = [make_loop() for _ in range(3)]
    try:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for _ in range(3):
                for loop in loops:
                    loop.run_until_complete(asyncio.wait_for(rounds(ring, pair4), BOUND))
            loops.pop().close()
            for loop in loops:
                loop.run_until_complete(asyncio.wait_for(rounds(ring, pair4), BOUND))
            assert loops[0].counts.added == loops[0].counts.removed
            loops.pop().close()
        assert [loop.counts.added - loop.counts.removed for loop in loops] == [0]
    finally:
        for loop in loops:
            loop.close()


def test_task_context_ends_with_the_task(tier: str, run: Run, pair4: Pair) -> None:
    class Something:
        pass

    variable: contextvars.ContextVar[Something] = contextvars.ContextVar("variable")

    async def main() -> None:
        count = 0
        with RecvRing(pair4.sink, tier=tier) as ring:

            async def receive() -> weakref.ref[Something]:
                nonlocal count
                mine = Something()
                variable.set(mine)
                for _ in range(3):
                    assert await ring.recv_batch_async()
                    assert variable.get() is mine
                    count += 1
                return weakref.ref(mine)

            task = asyncio.ensure_future(receive())
            for number in range(3):
                await waiting(ring)
                pair4.source.sendto(b"%d" % number, pair4.to)
                await until(lambda number=number: count > number)  # type: ignore[misc]
            gone = await task
            del task
            gc.collect()
            assert gone() is None
            assert variable.get(None) is None

    run(main)


# How a wait ends.


@pytest.mark.usefixtures("no_look")
def test_a_cancellation_says_why_and_loses_nothing(tier: str, run: Run, pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            await rounds(ring, pair4)
            for number in range(20):
                task = asyncio.ensure_future(ring.recv_batch_async())
                await waiting(ring)
                if number % 4 == 1:
                    pair4.source.sendto(b"%d" % number, pair4.to)
                elif number % 4 == 2:
                    assert ring._watch is not None
                    ring._watch.wake()
                assert task.cancel("enough")
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert caught.value.args == ("enough",)
                if number % 4 != 1:
                    pair4.source.sendto(b"%d" % number, pair4.to)
                assert (await ring.recv_batch_async()).payloads() == [b"%d" % number]

    run(main)


def test_a_time_out_of_asyncio(tier: str, run: Run, pair4: Pair) -> None:
    async def receive(ring: RecvRing) -> None:
        async with asyncio.timeout(0.001):
            async for _ in ring:
                pass

    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    await receive(ring)
                await rounds(ring, pair4)

    run(main)


@pytest.mark.usefixtures("no_look")
def test_woken_twice_at_once_it_runs_once(tier: str, run: Run, pair4: Pair) -> None:
    async def main() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            for number in range(20):
                task = asyncio.ensure_future(ring.recv_batch_async())
                await waiting(ring)
                assert ring._watch is not None
                ring._watch.wake()
                if number % 2:
                    await asyncio.sleep(0)  # the task waits again
                pair4.source.sendto(b"%d" % number, pair4.to)
                ring._watch.wake()
                assert (await task).payloads() == [b"%d" % number]

    run(main)


@pytest.mark.usefixtures("no_look")
@pytest.mark.parametrize("where", ["the loop", "another thread", "the task that was resumed"])
def test_closing_while_watched(tier: str, run: Run, pair4: Pair, where: str) -> None:
    async def main() -> None:
        ring = RecvRing(pair4.sink, tier=tier)
        await rounds(ring, pair4)

        async def receive() -> None:
            async for _ in ring:
                if where == "the task that was resumed":
                    ring.close()

        task = asyncio.ensure_future(receive())
        await waiting(ring)
        if where == "the loop":
            ring.close()
        elif where == "another thread":
            thread = threading.Thread(target=ring.close)
            thread.start()
        else:
            pair4.source.sendto(b"x", pair4.to)
        await task
        assert ring.closed
        with pytest.raises(ClosedError):
            await ring.recv_batch_async()

    counts = run(main)
    assert counts.added == counts.removed


@pytest.mark.usefixtures("no_look")
def test_another_thread_is_turned_away_at_once(tier: str, run: Run, pair4: Pair) -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            asyncio.run(asyncio.wait_for(ring.recv_batch_async(), BOUND))
        except Exception as error:
            caught.append(error)

    with RecvRing(pair4.sink, tier=tier) as ring:

        async def main() -> None:
            await rounds(ring, pair4)  # without this, the next call would not check before it waits
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            await rounds(ring, pair4)

        run(main)
    assert [type(error) for error in caught] == [WrongThreadError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_resumed_task_can_end_the_loop(
    tier: str, make_loop: Callable[[], Any], pair4: Pair, error: type[BaseException]
) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(ring.recv_batch_async())
        await waiting(ring)
        pair4.source.sendto(b"x", pair4.to)
        await task
        await rounds(ring, pair4)

    async def ending() -> None:
        asyncio.get_running_loop().call_soon(pair4.source.sendto, b"x", pair4.to)
        await ring.recv_batch_async()
        raise error

    with RecvRing(pair4.sink, tier=tier) as ring, asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())
        with pytest.raises(error):
            runner.run(ending())
        runner.run(main())


@pytest.mark.usefixtures("no_look")
def test_an_echo_lets_others_run(tier: str, run: Run, pair4: Pair) -> None:
    """The test counts instead of timing: tasks resumed by their readers let other tasks run."""

    async def main() -> None:
        turns = done = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        with (
            RecvRing(pair4.sink, tier=tier) as here,
            SendRing(pair4.sink, tier=tier) as back,
            RecvRing(pair4.source, tier=tier) as there,
            SendRing(pair4.source, tier=tier) as forth,
        ):

            async def serve() -> None:
                async for batch in here:
                    await back.send_batch_async(batch, batch.addresses)

            tasks = [asyncio.ensure_future(serve()), asyncio.ensure_future(count())]
            for number in range(100):
                assert (await forth.send_batch_async([b"%d" % number], pair4.to)).accepted == 1
                assert (await there.recv_batch_async()).payloads() == [b"%d" % number]
                done += 1
            assert turns >= done // 2
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main)


# Processes.

FORKED = """
import asyncio, os, socket, sys
from udpring.udp import RecvRing, reader

reader.LOOK_SECONDS = 1e6
source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
sink.bind(("127.0.0.1", 0))

async def main():
    ring = RecvRing(sink, tier=sys.argv[1])
    for number in range(3):
        task = asyncio.ensure_future(ring.recv_batch_async())
        while ring._watch is None or not ring._watch.waiting:
            await asyncio.sleep(0)
        if number:
            child = os.fork()
            if not child:
                ring.close()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        source.sendto(b"%d" % number, sink.getsockname())
        print((await asyncio.wait_for(task, 20)).payloads())
    ring.close()

asyncio.run(main())
"""

INTERRUPTED = """
import asyncio, signal, socket, sys
import uvloop
from udpring.udp import RecvRing

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where we were started with it ignored
source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
sink.bind(("127.0.0.1", 0))
make = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[sys.argv[2]]

async def receive(ring):
    async for batch in ring:
        print(batch.payloads(), flush=True)

with RecvRing(sink, tier=sys.argv[1]) as ring:
    for round_ in range(2):
        source.sendto(b"%d" % round_, sink.getsockname())
        try:
            with asyncio.Runner(loop_factory=make) as runner:
                runner.run(receive(ring))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


def test_a_forked_child_does_not_take_the_reader_away(tier: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORKED, tier], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[b'0']", "[b'1']", "[b'2']"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_ctrl_c_in_a_wait(tier: str, loop: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED, tier, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        for round_ in range(2):
            assert child.stdout.readline() == f"[b'{round_}']\n"
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
