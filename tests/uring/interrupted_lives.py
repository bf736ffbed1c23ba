"""A program that ends in the middle: lives of a ring, a reactor and a server, interrupted at each step.

Usage: interrupted_lives.py SUBJECT WAY. Each step of the life is interrupted in a life of its own. Prints the
number of steps, and what went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from udpring import ClosedError, WrongThreadError
from udpring.uring import Flag, Reactor, Ring, graveyard
from udpring.uring.server import Server
from udpring.uring.streams import Connection

PATIENCE = 30.0
EXIT = 7


class Planned(Exception):
    """What a callback, a handler or the program raises."""


class Pipes:
    """Pipes and sockets of one life."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.one, self.two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)
        self.one.close()
        self.two.close()


# -- a ring --


def ring_life(ring: Ring, pipes: Pipes, buffers: list[bytearray]) -> Iterator[None]:
    yield
    ring.fileno()
    group = ring.provide_buffers(1, 4, 256, views=True)
    ring.register_files([pipes.reader, pipes.writer])
    ring.register_buffers([bytearray(4096)])
    yield
    ring.read(pipes.reader, 10)
    ring.readinto(pipes.reader, buffers[0])
    ring.recvmsg(pipes.one, 100, control_length=64)
    ring.timeout(3600)
    yield
    ring.reserve(3)
    ring.nop(flags=Flag.LINK)
    ring.read_fixed(0, 0, 8, flags=Flag.LINK | Flag.FIXED_FILE)
    ring.link_timeout(3600)
    yield
    ring.submit()
    yield
    os.write(pipes.writer, b"words" * 20)
    pipes.two.send(b"message")
    yield
    ring.wait(2, PATIENCE)
    yield
    ring.completions(1)
    yield
    ring.recv_multishot(pipes.one, 1)
    ring.read(pipes.reader, 10, flags=Flag.ASYNC)
    ring.queue_many("nop", -1, count=40)
    ring.submit()
    yield
    pipes.two.send(b"more")
    ring.wait(1, PATIENCE)
    held = [done.view for done in ring.completions()]
    yield
    held.clear()
    group.publish()
    ring.retract()
    yield


def drain(ring: Ring) -> None:
    deadline = time.monotonic() + PATIENCE
    while ring.info.in_flight or ring.info.queued:
        assert time.monotonic() < deadline, "operations do not end"
        ring.cancel_all()
        ring.reap(1, 0.01)


def use_in_child(ring: Ring) -> int:
    for call in (ring.nop, ring.submit, ring.completions, ring.cancel_all, lambda: ring.info):
        try:
            call()
        except WrongThreadError:
            continue
        return 1
    with Ring(8) as own:
        own.nop()
        return int(len(own.reap(1, PATIENCE)) != 1)


def in_child(act: Callable[[], int]) -> None:
    child = os.fork()
    if not child:
        status = 99
        try:
            status = act()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"


def interrupt_ring(way: str, step: int) -> bool:
    """Returns whether the life has that step."""
    pipes, buffers = Pipes(), [bytearray(100)]
    ring = Ring(8, slots=64)
    life = ring_life(ring, pipes, buffers)
    there = False
    for number, _ in enumerate(life):
        if number != step:
            continue
        there = True
        if way == "cancel":
            drain(ring)
            ring.nop()
            assert ring.reap(1, PATIENCE)[-1].result == 0
        elif way == "close":
            ring.close()
            assert ring.leaked == 0
            for call in (ring.nop, ring.submit, ring.completions, ring.fileno):
                try:
                    call()
                except ClosedError:
                    continue
                raise AssertionError("a closed ring works")
        elif way == "fork":
            in_child(lambda: 0)
            continue
        elif way == "fork and use":
            in_child(lambda: use_in_child(ring))
            continue
        elif way == "exit":
            sys.exit(EXIT)
        elif way == "_exit":
            os._exit(EXIT)
        elif way == "exception":
            with contextlib.suppress(Planned), ring:
                raise Planned
            assert ring.closed
        break
    life.close()
    if way == "drop":
        del ring, life
        gc.collect()
    else:
        ring.close()
    buffers[0].append(0)  # nobody holds it
    pipes.close()
    return there


# -- a reactor --


async def reactor_life(reactor: Reactor, pipes: Pipes, tasks: list[asyncio.Task[Any]]) -> AsyncIterator[None]:
    def task(*arguments: Any, **options: Any) -> None:
        tasks.append(asyncio.ensure_future(reactor.do(*arguments, **options)))

    yield
    await reactor.do("nop")
    yield
    task("read", pipes.reader, 10)
    task("readinto", pipes.reader, bytearray(10), timeout=3600.0)
    yield
    await asyncio.sleep(0)
    yield
    shots = reactor.shots("poll_add", pipes.one, multishot=True)
    tasks.append(asyncio.ensure_future(anext(shots)))
    await asyncio.sleep(0)
    yield
    reactor.start("timeout", 0.0, then=lambda done: None)
    yield
    os.write(pipes.writer, b"word")
    pipes.two.send(b"message")
    yield
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    yield
    tasks[0].cancel()
    yield
    task("recvmsg", pipes.one, 100, control_length=64)
    task("timeout", 3600.0)
    await asyncio.sleep(0)
    yield
    shots.close()
    yield


async def ended(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def fail_in_a_callback(reactor: Reactor) -> None:
    seen: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, seen.append

    def fail(_done: Any) -> None:
        raise Planned

    try:
        reactor.start("nop", then=fail)
        while not seen:
            await reactor.do("nop")  # others go on
    finally:
        sys.unraisablehook = hook
    assert seen[0].exc_type is Planned


async def interrupt_reactor(way: str, step: int) -> bool:
    pipes, tasks, there = Pipes(), [], False
    reactor = Reactor().open()
    number = -1
    life = reactor_life(reactor, pipes, tasks)
    async for _ in life:
        number += 1
        if number != step:
            continue
        there = True
        if way == "cancel":
            for task in tasks:
                task.cancel()
        elif way == "close":
            reactor.close()
            results = await ended(tasks)
            kinds = (ClosedError, asyncio.CancelledError, OSError)
            assert all(not isinstance(one, BaseException) or isinstance(one, kinds) for one in results)
            try:
                reactor.start("nop")
            except ClosedError:
                break
            raise AssertionError("a closed reactor works")
        elif way == "fork":
            in_child(lambda: 0)
            continue
        elif way == "fork and use":
            in_child(lambda: refuses(lambda: reactor.start("nop")))
            continue
        elif way == "exit":
            sys.exit(EXIT)
        elif way == "_exit":
            os._exit(EXIT)
        elif way == "exception":
            await fail_in_a_callback(reactor)
            continue
        break
    await life.aclose()
    if way == "drop":
        del reactor, life
    else:
        for task in tasks:
            task.cancel()
        await ended(tasks)
        reactor.close()
    pipes.close()
    return there


def refuses(call: Callable[[], object]) -> int:
    try:
        call()
    except WrongThreadError:
        return 0
    return 1


# -- a server --


async def echo(connection: Connection) -> None:
    while data := await connection.recv(65536):
        if data == b"fail":
            raise Planned
        await connection.send_all(data)


def received(client: socket.socket, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        part = client.recv(length - len(got))
        assert part, "the server closed the connection"
        got += part
    return bytes(got)


def server_life(server: Server, clients: list[socket.socket]) -> Iterator[None]:
    def client() -> socket.socket:
        made = socket.create_connection(server.address, PATIENCE)
        clients.append(made)
        return made

    yield
    one = client()
    yield
    one.sendall(b"word")
    yield
    assert received(one, 4) == b"word"
    yield
    two = client()
    two.sendall(bytes(200_000))
    yield
    assert received(two, 200_000) == bytes(200_000)
    yield
    server.pause_accept()
    yield
    one.sendall(b"still")
    assert received(one, 5) == b"still"
    yield
    server.resume_accept()
    yield
    one.shutdown(socket.SHUT_WR)
    assert one.recv(5) == b""
    yield
    two.close()
    yield


def closes(client: socket.socket) -> None:
    """The server has closed the connection, or resets it."""
    if client.fileno() >= 0:
        with contextlib.suppress(ConnectionError):
            while client.recv(65536):
                pass


def interrupt_server(way: str, step: int) -> bool:
    clients: list[socket.socket] = []
    server = Server(echo, workers=1)
    there = False
    for number, _ in enumerate(server_life(server, clients)):
        if number != step:
            continue
        there = True
        if way == "cancel":
            server.shutdown(0.0)
            for each in clients:
                closes(each)
        elif way == "close":
            for each in clients:
                each.close()
            assert server.shutdown(PATIENCE) == 0
            for call in (server.pause_accept, server.resume_accept):
                try:
                    call()
                except ClosedError:
                    continue
                raise AssertionError("a server that was shut down works")
        elif way == "fork":
            in_child(lambda: 0)
            continue
        elif way == "exit":
            sys.exit(EXIT)
        elif way == "_exit":
            os._exit(EXIT)
        elif way == "exception":
            failed = server.metrics.failed
            if number not in (6, 7):  # paused
                with socket.create_connection(server.address, PATIENCE) as client:
                    client.sendall(b"fail")
                    closes(client)
                assert server.metrics.failed == failed + 1
            continue
        break
    if way == "drop":
        del server
        gc.collect()
        for each in clients:
            closes(each)
        deadline = time.monotonic() + PATIENCE
        while threading.active_count() > 1:  # its thread ends by itself
            assert time.monotonic() < deadline, "the thread of a dropped server does not end"
            time.sleep(0.001)
    else:
        server.shutdown(0.0)
    for each in clients:
        each.close()
    return there


# -- all steps --


def left() -> tuple[list[str], int, object]:
    gc.collect()
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            targets.append(str(entry.readlink()).split(":")[0])
    return sorted(targets), threading.active_count(), graveyard()


def interrupt(subject: str, way: str, step: int) -> bool:
    if subject == "ring":
        return interrupt_ring(way, step)
    if subject == "reactor":
        return asyncio.run(interrupt_reactor(way, step))
    return interrupt_server(way, step)


def ends_a_process(subject: str, way: str, step: int) -> bool:
    """The program ends in a child: it must have the exit status that it asked for."""
    child = os.fork()
    if not child:
        interrupt(subject, way, step)
        os._exit(0)  # no such step
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, EXIT), f"step {step} ended with {status}"
    return status == EXIT


def main() -> None:
    subject, way = sys.argv[1:]
    warnings.simplefilter("ignore", ResourceWarning)
    for _ in range(2):
        interrupt(subject, "none", 99)  # opens what the interpreter keeps
    before, steps, wrong = left(), 0, []
    act = ends_a_process if way in ("exit", "_exit") else interrupt
    while act(subject, way, steps):
        if left() != before:
            wrong.append((steps, "left behind", left(), before))
        steps += 1
    print(steps, wrong, flush=True)


if __name__ == "__main__":
    main()
