"""Listener and Connection, on io_uring and on readiness."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from udpring.errors import ClosedError
from udpring.uring import Connection, Listener, Reactor, connect, connect_unix

from .reactors import PATIENCE, SANITIZED, Host, descriptors, until

LARGE = os.urandom(1 << 20) * 4


def port(listener: Listener) -> int:
    address = listener.address
    assert isinstance(address, tuple)
    return address[1]


async def pair(**options: Any) -> tuple[Connection, Connection]:
    """Two ends of one TCP connection."""
    async with Listener.bind("127.0.0.1", 0, **options) as listener:
        near = await connect("127.0.0.1", port(listener), timeout=PATIENCE)
        return near, await listener.accept(timeout=PATIENCE)


async def echo(connection: Connection) -> None:
    async with connection:
        while data := await connection.recv():
            await connection.send_all(data)


def test_bytes_arrive_in_both_directions(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with near, far:
            await near.send_all(b"ping")
            assert await far.recv(timeout=PATIENCE) == b"ping"
            await far.send_all(b"pong")
            assert await near.recv(2) == b"po"
            assert await near.recv() == b"ng"
            assert near.peer_address == far.local_address

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_half_close_ends_one_direction(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with near, far:
            await near.send_all(b"last")
            await near.shutdown()
            assert await far.recv_exactly(4) == b"last"
            assert await far.recv() == b""
            await far.send_all(b"answer")
            assert await near.recv() == b"answer"
            with pytest.raises(BrokenPipeError):
                await near.send_all(b"x")

    host.run(main)


@pytest.mark.parametrize("armed", [False, True])
def test_slow_reader_holds_the_sender(host: Host, armed: bool) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair(receive_armed=armed)
        done = []

        async def send() -> None:
            await near.send_all(LARGE * 4)
            done.append(True)
            await near.shutdown()

        async with near, far, anyio.create_task_group() as group:
            group.start_soon(send)
            pieces = [await far.recv()]
            assert not done
            while data := await far.recv():
                pieces.append(data)
        assert b"".join(pieces) == LARGE * 4

    host.run(main)


def test_recv_into_fills_the_buffer(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with near, far:
            await near.send_all(b"0123456789")
            buffer = bytearray(6)
            assert await far.recv_into(buffer) == 6
            assert buffer == b"012345"
            assert await far.recv_into(memoryview(buffer)[2:]) == 4
            assert buffer == b"016789"

    host.run(main)


def test_early_end_of_stream(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with near, far:
            await near.send_all(b"abc")
            await near.shutdown()
            with pytest.raises(EOFError, match="2 bytes early"):
                await far.recv_exactly(5)

    on_asyncio.run(main)


def test_deadlines(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        async with Listener.bind("127.0.0.1", 0) as listener:
            with pytest.raises(TimeoutError):
                await listener.accept(timeout=0.01)
            near = await connect("127.0.0.1", port(listener))
            far = await listener.accept()
        async with near, far:
            with pytest.raises(TimeoutError):
                await near.recv(timeout=0.01)
            with pytest.raises(TimeoutError):
                await near.send_all(LARGE * 8, timeout=0.1)

    host.run(main)


@pytest.mark.parametrize("armed", [False, True])
def test_cancelled_receive_loses_nothing(host: Host, armed: bool) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair(receive_armed=armed)
        async with near, far:
            for index in range(20):
                with anyio.move_on_after(0.0005 * (index % 4)):
                    await far.recv()
                    raise AssertionError("nothing was sent")
                await near.send_all(bytes([index]))
                assert await far.recv() == bytes([index])

    host.run(main)


def test_cancel_that_races_arrival_loses_nothing(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        received = b""
        async with near, far:
            for index in range(200):
                task = asyncio.ensure_future(far.recv())
                for _ in range(index % 7):
                    await asyncio.sleep(0)
                await near.send_all(bytes([index]))
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    received += task.result()
            await near.shutdown()
            while data := await far.recv():
                received += data
        assert received == bytes(range(200))

    on_asyncio.run(main)


def test_close_ends_waiting_tasks(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        ended = []

        async def wait(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
            with pytest.raises(ClosedError):
                await call(*arguments)
            ended.append(call)

        async with far, anyio.create_task_group() as group:
            group.start_soon(wait, near.recv)
            group.start_soon(wait, near.send_all, LARGE * 8)
            await until(lambda: reactor.in_flight >= 2)
            await near.close()
        assert len(ended) == 2
        with pytest.raises(ClosedError):
            await near.recv()
        await near.close()

    host.run(main)


def test_second_sender_is_refused(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with near, far:
            first = asyncio.ensure_future(near.send_all(LARGE * 8))
            await until(lambda: near._sending)
            with pytest.raises(RuntimeError, match="another task sends"):
                await near.send_all(b"x")
            first.cancel()
            await asyncio.wait([first])

    on_asyncio.run(main)


@pytest.mark.parametrize(("offset", "length"), [(0, None), (1000, None), (10, 100), (0, 3_000_000)])
def test_sent_file_arrives(host: Host, tmp_path: Path, offset: int, length: int | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    expected = LARGE[offset:] if length is None else LARGE[offset : offset + length]

    async def main(reactor: Reactor) -> bytes:
        near, far = await pair()
        pieces = []

        async def send() -> None:
            with path.open("rb") as file:
                assert await near.send_file(file, offset, length) == len(expected)
            await near.shutdown()

        async with near, far, anyio.create_task_group() as group:
            group.start_soon(send)
            while data := await far.recv():
                pieces.append(data)
        return b"".join(pieces)

    before = descriptors()
    assert host.run(main) == expected
    assert not descriptors() - before


def test_cancelled_send_file_leaves_no_descriptor(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE * 4)

    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with near, far:
            with path.open("rb") as file, anyio.move_on_after(0.1) as scope:
                await near.send_file(file)
            assert scope.cancelled_caught
        assert not reactor.in_flight

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_refused_connection_names_the_address(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            number = unused.getsockname()[1]
            with pytest.raises(ConnectionRefusedError, match=str(number)):
                await connect("127.0.0.1", number)

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_names_are_looked_up(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        async with Listener.bind("127.0.0.1", 0) as listener:
            near = await connect("localhost", port(listener), timeout=PATIENCE)
            far = await listener.accept()
            await near.close()
            await far.close()
        for _ in range(5):
            with pytest.raises(UnicodeError):
                await connect("x" * 64, 1, timeout=PATIENCE)

    host.run(main)


def test_unix_sockets(on_asyncio: Host, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def main(reactor: Reactor) -> None:
        async with Listener.unix(path) as listener, await connect_unix(path) as near:
            await near.send_all(b"x")
            async with await listener.accept() as far:
                assert await far.recv() == b"x"

    on_asyncio.run(main)


def test_connect_from_a_local_address(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        async with Listener.bind("127.0.0.1", 0) as listener:
            near = await connect("127.0.0.1", port(listener), local=("127.0.0.2", 0))
            far = await listener.accept()
        async with near, far:
            address = far.peer_address
            assert isinstance(address, tuple)
            assert address[0] == "127.0.0.2"

    on_asyncio.run(main)


@pytest.mark.parametrize("armed", [False, True])
def test_closed_listener_ends_the_iteration(host: Host, armed: bool) -> None:
    async def main(reactor: Reactor) -> None:
        listener = Listener.bind("127.0.0.1", 0, armed=armed)
        accepted = []

        async def serve() -> None:
            async for connection in listener:
                accepted.append(connection)
                await connection.close()

        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            async with await connect("127.0.0.1", port(listener)) as near:
                assert await near.recv() == b""
            listener.close()
        listener.close()
        assert len(accepted) == 1
        with pytest.raises(ClosedError):
            await listener.accept()

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_connections_that_nobody_accepts_are_closed(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        async with Listener.bind("127.0.0.1", 0, armed=True) as listener:
            nears = [await connect("127.0.0.1", port(listener)) for _ in range(10)]
            far = await listener.accept()
            await far.close()
        for near in nears:
            async with near:
                assert await near.recv(timeout=PATIENCE) == b""

    before = descriptors()
    on_asyncio.run(main)
    assert not descriptors() - before


def test_lack_of_descriptors_is_reported(on_asyncio: Host) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main(reactor: Reactor) -> None:
        listener = Listener.bind("127.0.0.1", 0)
        async with listener, await connect("127.0.0.1", port(listener)):
            highest = max(int(each.split()[0]) for each in descriptors())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            held = []
            try:
                with contextlib.suppress(OSError):
                    while True:
                        held.append(os.dup(0))
                with pytest.raises(OSError, match="Too many open files"):
                    await listener.accept()
            finally:
                for each in held:
                    os.close(each)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            far = await listener.accept()
            await far.close()

    on_asyncio.run(main)


def test_echo_of_many_connections(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        listener = Listener.bind("127.0.0.1", 0, armed=True, receive_armed=True)

        async def client(number: int) -> None:
            async with await connect("127.0.0.1", port(listener)) as near:
                for size in (1, 100, 20_000):
                    payload = bytes([number]) * size
                    await near.send_all(payload)
                    assert await near.recv_exactly(size) == payload

        async def serve(group: Any) -> None:
            async for connection in listener:
                group.start_soon(echo, connection)

        async with anyio.create_task_group() as servers:
            servers.start_soon(serve, servers)
            async with anyio.create_task_group() as clients:
                for number in range(50):
                    clients.start_soon(client, number)
            listener.close()

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_ten_thousand_connections_leave_no_descriptor(on_asyncio: Host) -> None:
    """20 clients, one after the other 500 connections each."""
    each = 50 if SANITIZED else 500

    async def main(reactor: Reactor) -> None:
        listener = Listener.bind("127.0.0.1", 0, armed=True, receive_armed=True)
        count = 0

        async def client() -> None:
            nonlocal count
            for _ in range(each):
                near = await connect("127.0.0.1", port(listener))
                near.set_option(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT
                far = await listener_queue.get()
                await near.close()
                await far.close()
                count += 1

        listener_queue: asyncio.Queue[Connection] = asyncio.Queue()

        async def serve() -> None:
            async for connection in listener:
                listener_queue.put_nowait(connection)

        serving = asyncio.ensure_future(serve())
        await asyncio.gather(*(client() for _ in range(20)))
        listener.close()
        await serving
        assert count == 20 * each
        await until(lambda: not reactor.in_flight)

    before = descriptors()
    on_asyncio.run(main)
    assert not descriptors() - before


def test_dropped_connection_warns_and_closes(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        async with far:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del near
                gc.collect()
            assert "unclosed" in str(caught[0].message)
            assert await far.recv(timeout=PATIENCE) == b""

    before = descriptors()
    on_asyncio.run(main)
    assert not descriptors() - before


def test_reactor_closed_first_leaves_no_descriptor(host: Host) -> None:
    async def main(reactor: Reactor) -> None:
        near, far = await pair()
        listener = Listener.bind("127.0.0.1", 0)
        reactor.close()
        await near.close()
        far.close_soon()
        listener.close()

    before = descriptors()
    host.run(main)
    assert not descriptors() - before


def test_cancel_at_any_turn_leaves_no_descriptor(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        async with Listener.bind("127.0.0.1", 0) as listener:

            async def use() -> None:
                near = await connect("127.0.0.1", port(listener))
                async with near, await listener.accept() as far:
                    await near.send_all(b"x")
                    await far.recv()
                    await near.shutdown()
                    await far.recv()

            for turns in range(120):
                task = asyncio.ensure_future(use())
                for _ in range(turns % 40):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()
        await until(lambda: not reactor.in_flight)

    before = descriptors()
    on_asyncio.run(main)
    gc.collect()
    assert not descriptors() - before
