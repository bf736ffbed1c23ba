"""The end of a process: Ctrl-C during a wait, and exit of the interpreter with operations in flight."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

BOUND = 60.0  # seconds for such a program

# The program prints when it waits. The signal is sent after that.
INTERRUPTED = """
import signal, socket, sys, threading, time
from udpring import RecvRing, SendRing

tier = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where we were started with it ignored
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
with RecvRing(sock, tier=tier) as rx, SendRing(sock, tier=tier) as tx:
    for round_ in range(3):
        try:
            print("waiting", flush=True)
            rx.recv_batch(timeout=None if round_ else 50)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    tx.send_batch([b"still here"], sock.getsockname())
    print(rx.recv_batch(timeout=10).payloads(), flush=True)
    print("waiting", flush=True)
    rx.recv_batch()
"""


@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_ctrl_c_ends_a_wait(tier: str) -> None:
    """The ring continues to work."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED, tier],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        for _ in range(3):
            assert child.stdout.readline() == "waiting\n"
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"
        assert child.stdout.readline() == "[b'still here']\n"
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=BOUND)
    finally:
        child.kill()
        child.wait()
    # Python kills itself with the signal if the KeyboardInterrupt is not caught.
    assert child.returncode == -signal.SIGINT, errors
    assert errors.strip().endswith("KeyboardInterrupt")
    assert "Warning" not in errors


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-X", "dev", "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout + done.stderr


SETTING = """
import atexit, gc, os, socket, sys, threading, warnings
from udpring import RecvRing, SendRing
warnings.simplefilter("ignore", ResourceWarning)
tier = sys.argv[1]
def make(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock
sink, source = make(), make()
"""

AT_EXIT = {
    "receives armed, batches and views alive, nothing closed": """
        rx, tx = RecvRing(sink, buffers=512, tier=tier), SendRing(source, tier=tier)
        tx.send_batch([b"kept"] * 20, sink.getsockname())
        batch = rx.recv_batch(timeout=10)
        views = [packet.data for packet in batch]
        bound = rx.recv_batch, tx.send_batch
        print(bytes(views[0]))
    """,
    "in a cycle with its own ring": """
        class Holder: pass
        holder = Holder()
        holder.rx, holder.tx, holder.self = RecvRing(sink, tier=tier), SendRing(source, tier=tier), holder
        holder.tx.send_batch([b"kept"], sink.getsockname())
        holder.batch = holder.rx.recv_batch(timeout=10)
        holder.packet = holder.batch[0]
        print(bytes(holder.packet))
    """,
    "a daemon thread waits for ever": """
        ready = threading.Event()
        def wait():
            rx = RecvRing(sink, tier=tier)
            ready.set()
            while True:
                rx.recv_batch()
        threading.Thread(target=wait, daemon=True).start()
        ready.wait(10)
        print(b"kept")
    """,
    "daemon threads receive and send as fast as they can": """
        ready = threading.Barrier(3)
        def receive():
            rx = RecvRing(sink, tier=tier)
            kept = []
            ready.wait()
            while True:
                kept = [packet.data for packet in rx.recv_batch(timeout=1)]
        def send():
            tx = SendRing(source, tier=tier)
            ready.wait()
            while True:
                tx.send_batch([b"x" * 100] * 50, sink.getsockname())
        for work in (receive, send):
            threading.Thread(target=work, daemon=True).start()
        ready.wait()
        print(b"kept")
    """,
    "used in atexit": """
        rx, tx = RecvRing(sink, tier=tier), SendRing(source, tier=tier)
        def last():
            tx.send_batch([b"kept"], sink.getsockname())
            print(rx.recv_batch(timeout=10).payloads()[0])
        atexit.register(last)
    """,
    "the sockets are gone first": """
        rx, tx = RecvRing(sink, tier=tier), SendRing(source, tier=tier)
        tx.send_batch([b"kept"], sink.getsockname())
        batch = rx.recv_batch(timeout=10)
        sink.close(); source.close()
        print(batch.payloads()[0])
    """,
    "sys.exit inside with": """
        with RecvRing(sink, buffers=2048, tier=tier) as rx, SendRing(source, tier=tier) as tx:
            tx.send_batch([b"kept"], sink.getsockname())
            print(rx.recv_batch(timeout=10).payloads()[0])
            sys.exit(0)
    """,
    "a forked child ends as a whole program": """
        rx, tx = RecvRing(sink, tier=tier), SendRing(source, tier=tier)
        tx.send_batch([b"kept"], sink.getsockname())
        batch = rx.recv_batch(timeout=10)
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            tx.send_batch([b"again"], sink.getsockname())
            assert rx.recv_batch(timeout=10).payloads() == [b"again"]
            print(batch.payloads()[0])
        else:
            del rx, tx, batch
            gc.collect()
            sys.exit(0)
    """,
}


@pytest.mark.parametrize("what", AT_EXIT)
@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_the_interpreter_ends_with_everything_in_flight(tier: str, what: str) -> None:
    said = run(SETTING + textwrap.dedent(AT_EXIT[what]), tier)
    assert said == "b'kept'\n"
