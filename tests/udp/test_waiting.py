"""Python handles a signal during an unbounded wait, even if the signal did not interrupt it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import signal, socket, sys, threading, time
import udpring

call, tier = sys.argv[1:]
waiting = threading.Event()

def stop(*_):
    raise KeyboardInterrupt

def other():  # takes the signal, so that the wait of the main thread is not interrupted
    waiting.wait(60)
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    time.sleep(60)

signal.signal(signal.SIGUSR1, stop)
thread = threading.Thread(target=other, daemon=True)
thread.start()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    began = time.monotonic()
    with udpring.RecvRing(sock, tier=tier) as ring:
        waiting.set()
        try:
            ring.recv_batch(timeout=None if call == "for ever" else 30)
        except KeyboardInterrupt:
            print("handled", time.monotonic() - began < 25)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.sendto(b"after", sock.getsockname())
        sender.close()
        with ring.recv_batch(timeout=10) as batch:
            print([bytes(packet.data) for packet in batch])
"""


@pytest.mark.parametrize("call", ["for ever", "with a time-out"])
@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_signal_without_interrupt_is_handled(tier: str, call: str) -> None:
    """Another thread takes the signal, so the wait is not interrupted."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, call, tier],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["handled True", "[b'after']"]
