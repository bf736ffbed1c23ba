"""A sender waits for room in a full socket buffer: a close from another thread, or Ctrl-C, ends the wait.

Behind a token bucket (tc-tbf(8)) that lets almost nothing through, in its own namespace.
"""

from __future__ import annotations

import pytest
from lab.isolated import run_isolated

PROGRAM = """
import signal, socket, subprocess, sys, threading, time
from udpring import ClosedError, SendRing

tier, call, end = sys.argv[1:]
limit_loopback("8kbit")
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
    assert run_isolated(PROGRAM, tier, call, end) == (
        "ClosedError\n" if end == "close" else "KeyboardInterrupt\n"
    )
