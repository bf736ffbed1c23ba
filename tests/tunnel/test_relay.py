"""The relay between two TCP connections: content, ends of streams, slow readers, many connections."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from udpring.tunnel.relay import KEPT, Pipes, relay

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    def on_loop(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.sleep(0))  # uvloop keeps some descriptors for ever
        before = descriptors()
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(body(), 60))
        assert descriptors() == before

    return on_loop


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def pair() -> tuple[socket.socket, socket.socket]:
    """A TCP connection: both of its ends, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    for each in (one, other):
        each.setblocking(False)
    return one, other


async def read_all(sock: socket.socket, pause: float = 0) -> bytes:
    loop, parts = asyncio.get_running_loop(), []
    while data := await loop.sock_recv(sock, 1 << 16):
        parts.append(data)
        await asyncio.sleep(pause)
    return b"".join(parts)


@pytest.mark.parametrize("pause", [0, 0.001])
def test_both_ways_arrive_whole(run: Any, pause: float) -> None:
    """Also when the reader is slower than the writer, and when one way ends before the other."""

    async def body() -> None:
        loop, pipes = asyncio.get_running_loop(), Pipes()
        client, inner = pair()
        outer, server = pair()
        there, back = os.urandom(5 << 20), os.urandom(3 << 20)

        async def write(sock: socket.socket, data: bytes) -> None:
            await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)

        with client, inner, outer, server:
            relaying = asyncio.ensure_future(relay(inner, outer, pipes))
            await write(client, b"first")
            assert await read_all(server) == b"first"
            writing = asyncio.ensure_future(write(server, back))
            assert hashlib.sha256(await read_all(client, pause)).digest() == hashlib.sha256(back).digest()
            await asyncio.gather(relaying, writing)
        client, inner = pair()
        outer, server = pair()
        with client, inner, outer, server:
            relaying = asyncio.ensure_future(relay(inner, outer, pipes))
            writing = asyncio.gather(write(client, there), write(server, back))
            got = await asyncio.gather(read_all(server, pause), read_all(client, pause))
            assert got == [there, back]
            await asyncio.gather(relaying, writing)
        pipes.close()

    run(body)


def test_reset_of_one_side_ends_the_other(run: Any) -> None:
    async def body() -> None:
        pipes = Pipes()
        client, inner = pair()
        outer, server = pair()
        with inner, outer, server:
            relaying = asyncio.ensure_future(relay(inner, outer, pipes))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            await relaying
        pipes.close()

    run(body)


def test_cancelled_relay_frees_its_pipes(run: Any) -> None:
    async def body() -> None:
        loop, pipes = asyncio.get_running_loop(), Pipes()
        client, inner = pair()
        outer, server = pair()
        with client, inner, outer, server:
            relaying = asyncio.ensure_future(relay(inner, outer, pipes))
            with pytest.raises(TimeoutError):  # nobody reads at the other end
                await asyncio.wait_for(loop.sock_sendall(client, bytes(64 << 20)), 0.5)
            relaying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await relaying
        pipes.close()

    run(body)


def test_kept_pipes_are_bounded() -> None:
    pipes = Pipes()
    taken = [pipes.take() for _ in range(KEPT + 5)]
    for each in taken:
        pipes.give(each)
    assert len(pipes._free) == KEPT
    pipes.close()
