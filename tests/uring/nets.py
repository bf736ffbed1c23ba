"""Nets of the tests, on each backend, and a thread that serves one."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from udpring.uring import Net, Turn

PATIENCE = 30.0
"""Seconds within which everything here must happen."""

SOCKET_BYTES = 1 << 18

BACKENDS = [
    pytest.param({"backend": "io_uring"}, id="io_uring"),
    # As on kernels before 6.10.
    pytest.param({"backend": "io_uring", "bundles": False, "known_ends": False}, id="io_uring-6.1"),
    pytest.param({"backend": "epoll"}, id="epoll"),
]

# The same, with epoll because seccomp denies io_uring to the test function.
FOUND = [*BACKENDS[:2], pytest.param({}, id="epoll", marks=pytest.mark.io_uring_denied)]


def connected(address: Any) -> socket.socket:
    sock = socket.create_connection(address, PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def received(sock: socket.socket, length: int) -> bytes:
    """Exactly ``length`` bytes, or fewer at the end of the stream."""
    found = bytearray()
    while len(found) < length and (data := sock.recv(min(1 << 20, length - len(found)))):
        found += data
    return bytes(found)


def take_until(net: Net, condition: Callable[[Turn], object]) -> Turn:
    """Takes turns until the condition holds for one."""
    for _ in range(10000):
        turn = net.turn(PATIENCE)
        if condition(turn):
            return turn
    raise AssertionError("it never held")


def accepted(net: Net) -> int:
    """The id of the next connection."""
    return take_until(net, lambda turn: turn.opened).opened[0][0]


@contextlib.contextmanager
def pair(net: Net) -> Iterator[tuple[int, socket.socket]]:
    """The id of a connection of the net, and its peer. Their sockets hold little on any host."""
    with small_listener() as listener, connected(listener.getsockname()) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        yield net.add(listener.accept()[0]), peer


def small_listener() -> socket.socket:
    """Its connections have small buffers."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    return listener


@contextlib.contextmanager
def serving(net: Net, serve: Callable[[Net], None]) -> Iterator[None]:
    """Opens and serves a net in a thread until the block ends."""
    failures: list[BaseException] = []

    def main() -> None:
        try:
            with net:
                ready.set()
                serve(net)
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    ready = threading.Event()
    thread = threading.Thread(target=main)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield
    finally:
        net.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not failures, failures


def echo(net: Net) -> None:
    for turn in net.turns():
        net.send_rows(turn)


def noise(length: int) -> bytes:
    return os.urandom(min(length, 1 << 16)) * (length // (1 << 16) + 1)
