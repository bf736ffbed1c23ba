"""Net: what must end a wait of ``turn``, or make ``fileno`` readable."""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from udpring.uring import Net, Turn

from .nets import BACKENDS, PATIENCE, pair, take_until


@pytest.fixture(params=BACKENDS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def turns_of_a_loop(net: Net) -> Iterator[Turn]:
    """As an event loop: turns until one is empty, when the descriptor is readable."""
    fd = net.fileno()
    while select.select([fd], [], [], PATIENCE)[0]:
        while (turn := net.turn(0)).count or turn.opened or turn.closed or turn.ended:
            yield turn
        yield turn
    raise AssertionError("nothing woke it")


class Starved:
    """A net with two buffers, both held by views, and a peer that has sent more."""

    def __init__(self, options: dict[str, Any], stack: ExitStack) -> None:
        self.views: list[memoryview] = []
        self.net = stack.enter_context(Net(**options, buffers=2, buffer_bytes=64))
        _number, peer = stack.enter_context(pair(self.net))
        for count in (1, 2):
            peer.sendall(bytes([count]) * 64)
            self.views.append(take_until(self.net, lambda turn: turn.count).view(0))
        peer.sendall(b"third")
        while not self.net._turn._native.starving:
            assert not self.net.turn(0.01).count

    def release(self) -> None:
        self.views.clear()
        gc.collect()


def test_view_dropped_by_another_thread_ends_the_wait(options: dict[str, Any]) -> None:
    with ExitStack() as stack:
        starved = Starved(options, stack)
        thread = threading.Timer(0.05, starved.release)
        thread.start()
        turn = next(turn for turn in iter(starved.net.turn, None) if turn.count)
        assert turn.data(0) == b"third"
        thread.join()


def test_view_dropped_between_turns_makes_the_descriptor_readable(options: dict[str, Any]) -> None:
    with ExitStack() as stack:
        starved = Starved(options, stack)
        starved.net.fileno()
        starved.net.turn(0)  # a new descriptor may be readable
        starved.release()
        turn = next(turn for turn in turns_of_a_loop(starved.net) if turn.count)
        assert turn.data(0) == b"third"


def test_net_sleeps_while_views_hold_all_buffers(options: dict[str, Any]) -> None:
    with ExitStack() as stack:
        starved = Starved(options, stack)
        before = starved.net.info.waits
        for _ in range(3):
            assert starved.net.turn(0.05).count == 0
        assert starved.net.info.waits - before < 30


def test_descriptor_is_readable_when_a_shortage_may_be_over(options: dict[str, Any]) -> None:
    with Net(**options) as net, socket.socket() as sock:
        address: Any = net.listen("127.0.0.1", 0)
        turns = turns_of_a_loop(net)
        net.fileno()
        free = os.dup(sock.fileno())
        os.close(free)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            net.turn(0)  # starts to accept. io_uring takes the limit of this moment
            sock.connect(address)
            while net.info.shortages < 2:
                assert not next(turns).opened
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert next(turn for turn in turns if turn.opened)
