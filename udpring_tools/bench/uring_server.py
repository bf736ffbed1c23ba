"""A server of ``bench uring``, as a process: ``python -P -m udpring_tools.bench.uring_server WORK WAY``.

It prints its port, and serves on loopback until its standard input ends. ``WORK`` is a key of ``PROTOCOLS``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from udpring.uring import Connection, Listener, Net, ProtocolNet, Reactor, Ring
from udpring_tools._native import lib
from udpring_tools.bench.uring_protocols import PROTOCOLS

__all__ = ["SERVERS", "main"]

BACKLOG = 1024
BUFFERS, BUFFER_BYTES = 256, 16384
EPOLL_BYTES = 1 << 18
NET_OPTIONS: dict[str, dict[str, Any]] = {"echo": {}, "sink": {"buffers": 64, "buffer_bytes": 65536}}

Server = Callable[[str, socket.socket], None]
"""Serves this work on a listening socket, for ever."""


def _on_loop(work: str, sock: socket.socket, loop: Any) -> None:
    factory = PROTOCOLS[work]()

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(factory, sock=sock)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve())


def _asyncio(work: str, sock: socket.socket) -> None:
    _on_loop(work, sock, asyncio.SelectorEventLoop)


def _asyncio_freed(work: str, sock: socket.socket) -> None:
    """asyncio allocates 256 KiB for each receive, and malloc maps and unmaps that each time. Freeing a large
    block first ends that for good (mallopt(3), M_MMAP_THRESHOLD)."""
    bytearray(16 << 20)
    _asyncio(work, sock)


def _uvloop(work: str, sock: socket.socket) -> None:
    _on_loop(work, sock, importlib.import_module("uvloop").new_event_loop)


async def _echo(connection: Connection) -> None:
    async with connection:
        while data := await connection.recv():
            await connection.send_all(data)


async def _sink(connection: Connection) -> None:
    buffer = bytearray(1 << 18)
    async with connection:
        while await connection.recv_into(buffer):
            pass


def _streams(work: str, sock: socket.socket) -> None:
    """A task for each connection."""
    handler = {"echo": _echo, "sink": _sink}[work]

    async def serve() -> None:
        tasks = set()
        async with Reactor():
            listener = Listener(sock, armed=True, receive_armed=work == "echo")
            async for connection in listener:
                task = asyncio.create_task(handler(connection))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    asyncio.run(serve())


def _ring(work: str, sock: socket.socket) -> None:
    """A loop over the completions of one ring."""
    with Ring(512, slots=4096) as ring:
        ring.provide_buffers(0, BUFFERS, BUFFER_BYTES)
        accepting = ring.accept_multishot(sock)
        receiving: dict[int, int] = {}
        while True:
            for completion in ring.reap():
                if completion.ticket == accepting:
                    receiving[ring.recv_multishot(completion.result, 0)] = completion.result
                    continue
                fd = receiving.get(completion.ticket)
                if fd is None:
                    continue  # a send
                if completion.result > 0 and work == "echo":
                    ring.send(fd, completion.data)
                if not completion.more:
                    del receiving[completion.ticket]
                    if completion.result == -105:  # ENOBUFS: all buffers were full at once
                        receiving[ring.recv_multishot(fd, 0)] = fd
                    else:
                        ring.close_file(fd)


def _net(work: str, sock: socket.socket) -> None:
    """A turn for all connections, and no Python for each message."""
    with Net(half_open=True, **NET_OPTIONS[work]) as net:
        net.listen_on(sock)
        for turn in net.turns():
            if work == "echo":
                net.send_rows(turn)
            for connection in turn.ended:
                net.close_connection(connection)


def _protocols(work: str, sock: socket.socket) -> None:
    """The protocol of asyncio, on a net."""
    net = ProtocolNet(PROTOCOLS[work](), views=work == "sink", **NET_OPTIONS.get(work, {}))
    with net:
        net.listen_on(sock)
        net.run()


def _epoll(work: str, sock: socket.socket) -> None:
    """No Python at all."""
    code = lib.udpring_bench_epoll(sock.fileno(), EPOLL_BYTES, work == "echo")
    raise OSError(-code, os.strerror(-code))


SERVERS: dict[str, Server] = {
    "net": _net,
    "protocols": _protocols,
    "asyncio": _asyncio,
    "asyncio-freed": _asyncio_freed,
    "uvloop": _uvloop,
    "streams": _streams,
    "ring": _ring,
    "epoll": _epoll,
}
"""By the way in which they serve."""


def main() -> None:
    """See above."""
    work, way = sys.argv[1:]
    serve = SERVERS[way]
    sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    print(sock.getsockname()[1], flush=True)
    threading.Thread(target=_end_with_input, daemon=True).start()
    serve(work, sock)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
