"""Tier uring-pool keeps datagrams in order of arrival, even if its operations are often woken in vain.

One datagram wakes every waiting operation. When an operation was woken 128 times in vain, the kernel hands it
to a thread. That thread receives concurrently, so its datagrams come out of order.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import threading

import pytest

from udpring.udp import RecvRing

from .conftest import Pair

BOUND = 30.0

ALONE = """
import socket
from pathlib import Path
import udpring

sink, source = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
sink.bind(("127.0.0.1", 0))
source.connect(sink.getsockname())
{prepare}
with udpring.RecvRing(sink, buffers={buffers}, tier="uring-pool", gro=False) as ring:
    for number in range(600):
        {meanwhile}
        source.send(b"%d" % number)
        with ring.recv_batch(timeout=10) as batch:
            assert batch.payloads() == [b"%d" % number]
    assert not ring.recv_batch(timeout=0.02)
    tasks = [each.read_text().strip() for each in Path("/proc/self/task").glob("*/comm")]
    assert not [task for task in tasks if task.startswith("iou-wrk")], tasks
"""


# An entry in the socket's error queue makes each receive retry at once, so no cancel finds one then.
TIMESTAMPS = """
SO_TIMESTAMPING, SOFTWARE = 37, 1 << 1 | 1 << 4
sink.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOFTWARE)

def meanwhile(number):
    if number % 100 == 40:
        sink.sendto(b"", source.getsockname())
"""
ERRORS = """
IP_RECVERR = 11
sink.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
with socket.socket(type=socket.SOCK_DGRAM) as gone:
    gone.bind(("127.0.0.1", 0))
    nobody = gone.getsockname()

def meanwhile(number):
    if number % 100 == 40:
        sink.sendto(b"", nobody)
"""
# The program's next call on the socket gets the error, so no receive does. The entry stays.
CALLED = (
    ERRORS
    + """        while not sink.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            pass
"""
)
BEFORE = CALLED + "meanwhile(40)\n"


def run_alone(buffers: int, prepare: str = "", meanwhile: str = "") -> None:
    script = ALONE.format(buffers=buffers, prepare=prepare, meanwhile=meanwhile)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("buffers", [2, 16, 256])
def test_receives_never_use_io_wq(buffers: int) -> None:
    run_alone(buffers)


@pytest.mark.parametrize("buffers", [2, 256])
@pytest.mark.parametrize(
    "cause",
    [TIMESTAMPS, ERRORS, CALLED, BEFORE],
    ids=["timestamps", "errors", "reported", "before"],
)
def test_nor_because_of_errors_on_the_socket(cause: str, buffers: int) -> None:
    run_alone(buffers, cause, "meanwhile(number)")


@pytest.mark.parametrize("buffers", [16, 64])
def test_a_fast_stream_comes_in_order(pair4: Pair, buffers: int) -> None:
    def send() -> None:
        for number in range(20_000):
            pair4.source.sendto(struct.pack("!I", number), pair4.to)

    sender = threading.Thread(target=send)
    seen: list[int] = []
    with RecvRing(pair4.sink, buffers=buffers, tier="uring-pool") as ring:
        sender.start()
        while not seen or seen[-1] < 19_999:  # the last datagram that fitted the socket buffer
            batch = ring.recv_batch(timeout=BOUND if sender.is_alive() else 0)
            if not batch:
                break
            seen += [struct.unpack("!I", payload)[0] for payload in batch.payloads()]
        sender.join()
    assert len(seen) > 1000
    assert seen == sorted(seen)
