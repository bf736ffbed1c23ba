"""A full socket buffer: nothing overtakes, nothing is lost, and a time-out reports the unsent datagrams.

On a host's loopback a packet leaves the socket's account at once. Behind a token bucket (tc-tbf(8)) it stays
there until its turn, as on a real interface, and the buffer fills. So the test runs in its own namespace.
"""

from __future__ import annotations

import json

import pytest
from lab.isolated import run_isolated

PROGRAM = """
import errno, json, os, signal, socket, struct, subprocess, sys
from udpring.udp import SendReport, SendRing

use_one_cpu()
tier, rate, count, size, buffer, timeout, interrupt, limit, reported = json.loads(sys.argv[1])
limit_loopback(rate, limit)
source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
sink.bind(("127.0.0.1", 0))
sink.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
source.setsockopt(socket.IPPROTO_IP, 11, reported)  # IP_RECVERR
payloads = [struct.pack("!I", number) + bytes(number % size) for number in range(count)]
with SendRing(source, tier=tier) as ring:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, interrupt)
        report = ring.send_batch(payloads, sink.getsockname(), timeout=timeout)
    except KeyboardInterrupt:
        assert ring.pending == 0
        report = SendReport(-1)
    again = SendReport(0)
    while not again.accepted:  # the bucket may be full
        again = ring.send_batch([struct.pack("!I", count)], sink.getsockname(), timeout=20)
    stats = ring.stats
sink.settimeout(20)
got = []
while not got or got[-1] != count:
    got.append(struct.unpack("!I", sink.recv(65536)[:4])[0])
print(json.dumps({
    "accepted": report.accepted, "errors": [(i, errno.errorcode[e.errno]) for i, e in report.errors],
    "got": got, "again": again.accepted, "requeued": stats["requeued"],
}))
"""


def run(*arguments: object, limit: int = 100_000_000, reported: bool = False) -> dict[str, object]:
    said = run_isolated(PROGRAM, json.dumps([*arguments, limit, reported]))
    answer: dict[str, object] = json.loads(said)
    return answer


@pytest.mark.parametrize("buffer", [2304, 20000, 200000])
@pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
def test_order_holds_when_the_buffer_is_full(tier: str, buffer: int) -> None:
    answer = run(tier, "60mbit", 1500, 1200, buffer, None, 0)
    assert answer["accepted"] == 1500
    assert answer["errors"] == []
    assert answer["got"] == list(range(1501))
    assert answer["requeued"], "the buffer was never full: the test tests nothing"


@pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
def test_order_survives_refusals_of_a_qdisc(tier: str) -> None:
    """With IP_RECVERR each datagram without room in the bucket is an error: ENOBUFS."""
    answer = run(tier, "60mbit", 3000, 1200, 4_000_000, 20, 0, limit=20_000, reported=True)
    errors = answer["errors"]
    assert isinstance(errors, list)
    assert {code for _, code in errors} <= {"ENOBUFS"}
    refused = {index for index, _ in errors}
    assert answer["got"] == [number for number in range(3001) if number not in refused]
    assert answer["requeued"], "the bucket was never full: the test tests nothing"


@pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
def test_timeout_reports_unsent_datagrams(tier: str) -> None:
    """The ring works afterwards."""
    answer = run(tier, "2mbit", 1000, 1200, 20000, 1, 0)
    accepted = answer["accepted"]
    assert isinstance(accepted, int)
    assert 0 < accepted < 1000
    assert answer["errors"] == [[index, "EAGAIN"] for index in range(accepted, 1000)]
    assert answer["got"] == [*range(accepted), 1000]
    assert answer["again"] == 1


@pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
def test_interrupt_abandons_waiting_datagrams(tier: str) -> None:
    """A parked send points into the batch's memory. It must not outlive the call."""
    answer = run(tier, "2mbit", 1000, 1200, 20000, None, 1)
    assert answer["accepted"] == -1
    got = answer["got"]
    assert isinstance(got, list)
    assert got == [*range(len(got) - 1), 1000]
    assert 1 < len(got) < 1000
