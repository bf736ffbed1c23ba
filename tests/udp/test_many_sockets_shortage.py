"""``RecvRing`` over many sockets while the kernel has no memory for its operations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from faults import Faults, build_library

# More sockets than the submission queue has entries.
PROGRAM = """
import errno, socket, sys, time
sys.path.insert(0, sys.argv[1])
from faults import FOR_EVER, Faults
from udpring.udp import RecvRing

HERE = "127.61.7.3"  # where no other test binds
faults = Faults.inherited()
stays, *leave = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(400))
for sock in (stays, *leave):
    sock.bind((HERE, 0))
ports = [sock.getsockname()[1] for sock in leave]

def taken():
    found = []
    for port in ports:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((HERE, port))
            except OSError:
                found.append(port)
    return found

with RecvRing([stays, *leave], tier=sys.argv[2]) as ring:
    faults.set("io_uring_enter", errno.EAGAIN, times=FOR_EVER)
    for sock in leave:
        ring.remove(sock)
        sock.close()
    faults.clear()
    end = time.monotonic() + 30
    while (ports := taken()) and time.monotonic() < end:
        assert not ring.recv_batch(timeout=0.01)
print(len(ports))
"""


def test_a_socket_that_left_in_a_shortage_is_closed(tier: str, tmp_path: Path) -> None:
    faults = Faults.make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(Path(__file__).resolve().parents[1]), tier],
        env=os.environ | faults.environment(build_library(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
