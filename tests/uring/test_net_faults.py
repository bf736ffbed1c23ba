"""Nets that run out of memory, or that a signal handler closes: nothing crashes, and nothing stays behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Faults, build_library

from udpring.errors import ClosedError
from udpring.uring import Net, graveyard

from .nets import connected
from .reactors import descriptors

PROGRAM = """
import contextlib, gc, json, os, socket, sys
sys.path.insert(0, sys.argv[1])
from faults import ALLOCATIONS, Faults
from udpring import HostError, RingError
from udpring.uring import Net, graveyard

CALLS = [*ALLOCATIONS, "io_uring_setup", "io_uring_register", "eventfd"]

def life():
    near, far = socket.socketpair()
    with near, far, Net(connections=4, buffers=4, buffer_bytes=4096, backend=sys.argv[2]) as net:
        address = net.listen("127.0.0.1", 0)
        net.fileno()
        number = net.add(far)
        near.sendall(b"x" * 3000)
        with socket.create_connection(address, 30) as sock:
            for _ in range(50):
                turn = net.turn(0.02)
                net.send_rows(turn)
                if turn.count:
                    net.turn(0)
                    net.send(number, bytes(100_000))
                    break
        net.drain(0)

def left():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("io_uring"), graveyard()

faults = Faults.inherited()
life()
before, failures, wrong = left(), 0, []
for turn in range(300):
    faults.set(CALLS, int(sys.argv[3]), skip=turn)
    try:
        life()
    except (RingError, HostError, MemoryError, OSError):
        failures += 1
    except Exception as error:
        wrong.append((turn, repr(error)))
    failed = faults.failed(*CALLS)
    faults.clear()
    if left() != before:
        wrong.append((turn, "left", left(), before))
    if not failed:
        break
print(json.dumps({"turns": turn, "failures": failures, "wrong": wrong}))
"""


@pytest.mark.parametrize("backend", ["io_uring", "epoll"])
def test_net_survives_enomem_at_every_call(tmp_path: Path, backend: str) -> None:
    faults = Faults.make(tmp_path)
    words = [str(Path(__file__).resolve().parents[1]), backend, str(errno.ENOMEM)]
    child = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        env=os.environ | faults.environment(build_library(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["wrong"] == []
    assert found["failures"] > 5
    assert found["turns"] < 299, "the last turn has no failure"


def use_for_ever(net: Net, number: int) -> None:
    while True:
        net.send(number, b"x")
        turn = net.turn(0)
        net.send_rows(turn)
        list(turn.items())


@pytest.mark.parametrize("backend", ["io_uring", "epoll"])
def test_signal_handler_closes_the_net(backend: str) -> None:
    """The handler runs between any two bytecodes of a call."""
    before, graves = descriptors(), graveyard()
    former = signal.getsignal(signal.SIGALRM)
    try:
        for microseconds in range(100, 20_000, 400):
            net = Net(backend=backend, buffers=4).open()
            signal.signal(signal.SIGALRM, lambda number, frame, each=net: each.close())
            near, far = socket.socketpair()
            with near, connected(net.listen("127.0.0.1", 0)):
                number = net.add(far)
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                with pytest.raises(ClosedError):
                    use_for_ever(net, number)
            assert net.closed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert not descriptors() - before
    assert graveyard() == graves
