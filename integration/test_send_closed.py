"""A sender waits for room in a full socket buffer: a close from another thread, or Ctrl-C, ends the wait.

Behind a token bucket (tc-tbf(8)) that lets almost nothing through, in its own namespace.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, signal, socket, subprocess, sys, threading, time
from udpring import ClosedError, SendRing

tier, call, end = sys.argv[1:]
bucket = "tc qdisc replace dev lo root tbf rate 8kbit burst 3000 limit 100000000"
for command in ("ip link set lo up", bucket):
    subprocess.run(command.split(), check=True)
# What is left in the bucket at the end would come out for a minute, as ICMP errors for a closed port, on the
# account of a socket that all namespaces share: nobody's ping would be answered.
atexit.register(subprocess.run, "tc qdisc del dev lo root".split(), check=True)
source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
sink.bind(("127.0.0.1", 0))
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
payloads = [bytes(1200)] * 200
ended = []

def work(ready):
    ring = SendRing(source, tier=tier)
    ticket = ring.submit(payloads, sink.getsockname()) if call != "send_batch" else None
    try:
        ready(ring)
        if call == "send_batch":
            ring.send_batch(payloads, sink.getsockname())
        elif call == "drain":
            ring.drain()
        else:
            ring.reap(wait=1)
    except (ClosedError, KeyboardInterrupt) as error:
        ended.append(type(error).__name__)
    if end == "interrupt" and ticket:
        assert not ticket.done
        assert ring.pending > 0
    ring.close()
    if ticket:
        assert ticket.report.accepted + len(ticket.report.errors) == 200
        assert ticket.report.errors

if end == "close":
    rings = []
    there = threading.Event()
    thread = threading.Thread(target=work, args=(lambda ring: (rings.append(ring), there.set()),))
    thread.start()
    assert there.wait(20)
    rings[0].close()
    thread.join(20)
    assert not thread.is_alive(), "still waiting"
else:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    work(lambda ring: signal.setitimer(signal.ITIMER_REAL, 0.3))
print(*ended)
"""


@pytest.mark.parametrize("end", ["close", "interrupt"])
@pytest.mark.parametrize("call", ["send_batch", "drain", "reap"])
@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_a_sender_that_is_held_up_can_be_ended(tier: str, call: str, end: str) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-P", "-c", PROGRAM, tier, call, end],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("ClosedError\n" if end == "close" else "KeyboardInterrupt\n")
