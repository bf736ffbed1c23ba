"""Reactor: one code for asyncio, uvloop and trio (through anyio), on io_uring and on readiness."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import socket
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import anyio
import pytest
from seccomp import Rule, run_python

from udpring.errors import ClosedError, RingError, WrongThreadError
from udpring.uring import Completion, CompletionFlag, Reactor, ReactorThread
from udpring.uring.call import Call

from .reactors import EACH_BACKEND, PATIENCE, Host, chosen, descriptors, until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_operation_returns_its_completion(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def main(reactor: Reactor) -> Completion:
        far.send(b"hello")
        return await reactor.do("read", near, 100)

    completion = host.run(main)
    assert (completion.check(), completion.data) == (5, b"hello")


def test_operation_waits_for_its_peer(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    found: list[bytes] = []

    async def main(reactor: Reactor) -> None:
        async def read() -> None:
            found.append((await reactor.do("read", near, 100)).data)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: reactor.in_flight)
            assert not found
            far.send(b"late")

    host.run(main)
    assert found == [b"late"]


def test_error_is_in_the_completion(host: Host) -> None:
    reading, writing = os.pipe()
    os.close(writing)

    async def main(reactor: Reactor) -> int:
        completion = await reactor.do("write", reading, b"x")
        return completion.result

    try:
        assert host.run(main) == -errno.EBADF
    finally:
        os.close(reading)


def test_files_and_sockets_in_one_turn(host: Host, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 16)

    async def main(reactor: Reactor) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with path.open("rb", buffering=0) as file:

            async def read(at: int) -> None:
                found[at] = (await reactor.do("read", file, 16, offset=at)).data

            async with anyio.create_task_group() as group:
                for at in range(0, 4096, 16):
                    group.start_soon(read, at)
        return found

    found = host.run(main)
    assert b"".join(found[at] for at in sorted(found)) == path.read_bytes()


def test_one_submit_for_the_operations_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    async def main(reactor: Reactor) -> None:
        wait = reactor._ring.wait

        def counting(count: int, timeout: float) -> Any:
            queued = reactor._ring.info.queued
            if queued:
                entered.append(queued)
            return wait(count, timeout)

        monkeypatch.setattr(reactor._ring, "wait", counting)
        await asyncio.gather(*(reactor.do("nop") for _ in range(100)))

    Host("asyncio", "io_uring").run(main)
    assert entered == [100]


def test_turn_handles_a_bounded_number(on_asyncio: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udpring.uring.reactor.TURN_LIMIT", 10)
    handled: list[int] = []
    turns: list[int] = []

    async def main(reactor: Reactor) -> None:
        for _ in range(95):
            reactor.start("nop", then=lambda completion: handled.append(completion.result))
        while len(handled) < 95:
            before = len(handled)
            await asyncio.sleep(0)
            turns.append(len(handled) - before)

    on_asyncio.run(main)
    assert max(turns) <= 40  # a wake-up and a flush can meet in one turn
    assert sum(turns) == 95


def test_deadline_raises_timeout_error(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def main(reactor: Reactor) -> bytes:
        with pytest.raises(TimeoutError, match="deadline"):
            await reactor.do("read", near, 10, timeout=0.01)
        assert not reactor.in_flight
        far.send(b"later")
        completion = await reactor.do("read", near, 10, timeout=PATIENCE)
        return completion.data

    assert host.run(main) == b"later"


def test_deadline_of_zero(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        with pytest.raises(TimeoutError):
            await reactor.do("read", pair[0], 10, timeout=0)

    host.run(main)


def test_many_deadlines_end_in_order(on_asyncio: Host) -> None:
    ended: list[int] = []

    async def main(reactor: Reactor) -> None:
        async def one(index: int, near: socket.socket) -> None:
            with pytest.raises(TimeoutError):
                await reactor.do("read", near, 1, timeout=0.03 * (index + 1))
            ended.append(index)

        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(5)]
            for each in pairs:
                stack.enter_context(each[0])
                stack.enter_context(each[1])
            await asyncio.gather(*(one(4 - i, pairs[i][0]) for i in range(5)))

    on_asyncio.run(main)
    assert sorted(ended) == [0, 1, 2, 3, 4]


def test_cancelled_task_waits_for_its_operation(
    host: Host, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair

    async def main(reactor: Reactor) -> bytes:
        with anyio.move_on_after(0.01) as scope:
            await reactor.do("read", near, 10)
        assert scope.cancelled_caught
        assert not reactor.in_flight
        far.send(b"kept")
        return (await reactor.do("read", near, 10)).data

    assert host.run(main) == b"kept"


def test_cancel_before_submit(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await reactor.do("read", pair[0], 10)
        assert scope.cancelled_caught
        assert not reactor.in_flight

    host.run(main)


def test_cancel_after_completion_discards_the_result(on_asyncio: Host) -> None:
    """The operation ends and its task is cancelled in one turn of the loop."""
    discarded: list[Completion] = []

    async def main(reactor: Reactor) -> None:
        task = asyncio.ensure_future(reactor.do("nop", discard=discarded.append))
        while not reactor.in_flight:
            await asyncio.sleep(0)
        while reactor.in_flight:
            reactor._flush()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_asyncio.run(main)
    assert [completion.result for completion in discarded] == [0]


def test_second_cancel_keeps_waiting(on_asyncio: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        task = asyncio.ensure_future(reactor.do("read", pair[0], 10))
        await until(lambda: reactor.in_flight)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not reactor.in_flight

    on_asyncio.run(main)


def test_error_thrown_into_a_wait_abandons_the_operation(
    on_asyncio: Host, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main(reactor: Reactor) -> None:
        coroutine = reactor.do("read", pair[0], 10)
        coroutine.send(None)
        assert reactor.in_flight == 1
        with pytest.raises(KeyboardInterrupt):
            coroutine.throw(KeyboardInterrupt())
        await until(lambda: not reactor.in_flight)

    on_asyncio.run(main)


def test_collected_coroutine_cancels_its_operation(
    on_asyncio: Host, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main(reactor: Reactor) -> None:
        coroutine = reactor.do("read", pair[0], 10)
        coroutine.send(None)
        del coroutine
        gc.collect()
        await until(lambda: not reactor.in_flight)

    on_asyncio.run(main)


def test_coroutine_collected_in_another_thread(
    on_asyncio: Host, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main(reactor: Reactor) -> None:
        coroutine = reactor.do("read", pair[0], 10)
        coroutine.send(None)
        thread = threading.Thread(target=coroutine.close)
        thread.start()
        thread.join()
        await until(lambda: not reactor.in_flight)

    on_asyncio.run(main)


def test_never_awaited_operation_is_not_queued(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        coroutine = reactor.do("nop")
        coroutine.close()
        assert not reactor.in_flight

    on_asyncio.run(main)


def test_callback_gets_the_completion(host: Host) -> None:
    found: list[int] = []

    async def main(reactor: Reactor) -> None:
        call = reactor.start("nop", then=lambda completion: found.append(completion.result))
        await until(lambda: found)
        assert call.done

    host.run(main)
    assert found == [0]


def test_failing_callback_is_reported(on_asyncio: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)

    def fail(completion: Completion) -> None:
        raise ValueError("the program's mistake")

    async def main(reactor: Reactor) -> None:
        reactor.start("nop", then=fail)
        await reactor.do("nop")

    on_asyncio.run(main)
    assert [str(each.exc_value) for each in reported] == ["the program's mistake"]


def test_close_ends_waits_with_closed_error(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        async def read() -> None:
            with pytest.raises(ClosedError, match="before the operation ended"):
                await reactor.do("read", pair[0], 10)

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(read)
            await until(lambda: reactor.in_flight == 10)
            reactor.close()
        with pytest.raises(ClosedError, match="make a new one"):
            await reactor.do("nop")
        reactor.close()

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_close_in_a_callback(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        results: list[int] = []
        reactor.start("nop", then=lambda completion: reactor.close())
        for _ in range(3):
            reactor.start("nop", then=lambda completion: results.append(completion.result))
        await until(lambda: reactor.closed)
        assert results == [0, 0, 0]

    on_asyncio.run(main)


def test_cancel_that_meets_close(on_asyncio: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        task = asyncio.ensure_future(reactor.do("read", pair[0], 10))
        await until(lambda: reactor.in_flight)
        reactor.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_asyncio.run(main)


def test_other_threads_are_refused(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        raised: list[BaseException] = []

        def use(call: Callable[[], object]) -> None:
            try:
                call()
            except WrongThreadError as error:
                raised.append(error)

        for call in (lambda: reactor.start("nop"), reactor.close):
            thread = threading.Thread(target=use, args=(call,))
            thread.start()
            thread.join()
        assert len(raised) == 2
        await reactor.do("nop")

    on_asyncio.run(main)


def test_forked_child_is_refused(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks with threads
            child = os.fork()
        if not child:
            status = 1
            try:
                reactor.start("nop")
            except WrongThreadError:
                status = 0
            finally:
                os._exit(status)
        await reactor.do("nop")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert on_asyncio.run(main) == 0


def test_reactor_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="no event loop"):
        Reactor().open()


def test_reactor_opens_once(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        with pytest.raises(RuntimeError, match="open already"):
            reactor.open()

    on_asyncio.run(main)


def test_unopened_reactor_says_so() -> None:
    with pytest.raises(ClosedError, match="not open yet"):
        Reactor().start("nop")


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="io_uring or readiness"):
        Reactor(backend="kqueue")


def test_current_reactor_is_that_of_the_task(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        assert Reactor.current() is reactor
        found: list[Reactor] = []

        async def child() -> None:
            found.append(Reactor.current())

        async with anyio.create_task_group() as group:
            group.start_soon(child)
        assert found == [reactor]

    host.run(main)
    with pytest.raises(RuntimeError, match="no reactor here"):
        Reactor.current()


def test_full_slots_are_reported(on_asyncio: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        for _ in range(16):
            reactor.start("read", pair[0], 1)
        with pytest.raises(RingError, match="slots") as error:
            reactor.start("read", pair[0], 1)
        assert error.value.errno == errno.ENOBUFS

    on_asyncio.run(main, slots=16)


def test_ended_calls_are_not_kept(on_asyncio: Host) -> None:
    class Large:
        pass

    async def main(reactor: Reactor) -> None:
        large = Large()
        seen = weakref.ref(large)
        call: Call | None = reactor.start("nop", then=lambda completion, kept=large: None)
        await reactor.do("nop")
        del large, call
        gc.collect()
        assert seen() is None

    on_asyncio.run(main)


def test_shots_iterate(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    """Of an operation that ends with each shot: it is armed again."""
    near, far = pair

    async def main(reactor: Reactor) -> list[bytes]:
        found = []
        shots = reactor.shots("read", near, 1)
        far.send(b"abc")
        async for completion in shots:
            found.append(completion.data)
            if len(found) == 3:
                break
        assert not reactor.in_flight
        shots.close()
        return found

    assert host.run(main) == [b"a", b"b", b"c"]


def test_multishot_stays_armed(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def main(reactor: Reactor) -> None:
        shots = reactor.shots("poll_add", near, select.POLLIN, multishot=True)
        for _ in range(3):
            far.send(b"x")
            completion = await anext(shots)
            assert completion.result & select.POLLIN
            assert shots.armed
            near.recv(10)
        shots.close()
        await until(lambda: not reactor.in_flight)

    for loop in ("asyncio", "trio"):
        Host(loop, "io_uring").run(main)


def test_shots_are_bounded(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def main(reactor: Reactor) -> None:
        shots = reactor.shots("poll_add", near, select.POLLIN, multishot=True, bound=2)
        shots.arm()
        sent = 0
        while shots.armed:
            far.send(b"x")
            sent += 1
            await reactor.do("nop")
        assert sent < 50
        await anext(shots)
        await anext(shots)
        far.send(b"x")
        await anext(shots)
        assert shots.armed
        shots.close()

    Host("asyncio", "io_uring").run(main)


def test_shots_raise_the_error_once(on_asyncio: Host) -> None:
    reading, writing = os.pipe()

    async def main(reactor: Reactor) -> None:
        shots = reactor.shots("read", writing, 10)
        for _ in range(2):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await anext(shots)
        shots.close()
        with pytest.raises(StopAsyncIteration):
            await anext(shots)

    try:
        on_asyncio.run(main)
    finally:
        os.close(reading)
        os.close(writing)


def test_closed_reactor_ends_shots(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main(reactor: Reactor) -> None:
        shots = reactor.shots("read", pair[0], 10)

        async def iterate() -> None:
            with pytest.raises(ClosedError):
                await anext(shots)

        async with anyio.create_task_group() as group:
            group.start_soon(iterate)
            await until(lambda: reactor.in_flight)
            reactor.close()

    host.run(main)


def test_cancelled_iteration_loses_no_shot(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def main(reactor: Reactor) -> bytes:
        shots = reactor.shots("read", near, 10)
        with anyio.move_on_after(0.01):
            await anext(shots)
        far.send(b"kept")
        completion = await anext(shots)
        shots.close()
        return completion.data

    assert host.run(main) == b"kept"


@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_thread_runs_operations_for_others(backend: str) -> None:
    near, far = socket.socketpair()
    with near, far, ReactorThread(backend=chosen(backend)) as thread:
        future = thread.call("read", near, 10)
        far.send(b"x")
        assert future.result(PATIENCE).data == b"x"

        async def main() -> str:
            return Reactor.current().backend

        assert thread.run(main).result(PATIENCE) == backend
        thread.stop()
        with pytest.raises(ClosedError, match="stopped"):
            thread.call("nop")


@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_stopped_thread_ends_calls(backend: str) -> None:
    near, far = socket.socketpair()
    with near, far, ReactorThread(backend=chosen(backend)) as thread:
        future = thread.call("read", near, 10)

        async def started() -> None:
            await until(lambda: thread.reactor.in_flight)

        thread.run(started).result(PATIENCE)
        thread.stop()
        with pytest.raises((ClosedError, CancelledError)):
            future.result(PATIENCE)


DENIED = """
import asyncio, os, socket
from udpring.errors import HostError
from udpring.uring import Reactor

async def main():
    near, far = socket.socketpair()
    with near, far:
        async with Reactor() as reactor:
            far.send(b"x")
            print(reactor.backend, (await reactor.do("read", near, 9)).data, bool(reactor.reason))
        try:
            Reactor(fallback=False).open()
        except HostError:
            print("refused")

asyncio.run(main())
"""


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_denied_io_uring_falls_back(error: int) -> None:
    done = run_python(DENIED, [Rule("io_uring_setup", error)])
    assert (done.stdout, done.stderr) == ("readiness b'x' True\nrefused\n", "")


IMPORTS = """
import sys
import udpring.uring
print([name for name in ("asyncio", "trio", "uvloop", "anyio", "concurrent.futures") if name in sys.modules])
"""


def test_import_loads_no_event_loop() -> None:
    done = run_python(IMPORTS)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("time_out_first", [True, False])
def test_zero_copy_send_ends_with_its_notification(time_out_first: bool) -> None:
    """Its linked time-out ends before, when the kernel may still read the memory."""
    call = Call(None, None, None, False)  # type: ignore[arg-type]
    call.ticket, call.deadline = 1, 2
    if time_out_first:
        call.expire(-errno.ECANCELED)
    call.take(Completion(1, 100, CompletionFlag.MORE))
    if not time_out_first:
        call.expire(-errno.ECANCELED)
    assert not call.done
    call.take(Completion(1, 0, CompletionFlag.NOTIF))
    assert call.completion is not None
    assert call.completion.result == 100
