"""A full socket buffer: nothing overtakes, nothing is lost, and a time-out reports the unsent datagrams.

On a host's loopback a packet leaves the socket's account at once. Behind a token bucket (tc-tbf(8)) it stays
there until its turn, as on a real interface, and the buffer fills. So the test runs in its own namespace.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, errno, json, os, signal, socket, struct, subprocess, sys
from udpring.udp import SendReport, SendRing

# Loopback hands packets over by processor: on two of them it reorders all by itself.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
tier, rate, count, size, buffer, timeout, interrupt, limit, reported = json.loads(sys.argv[1])
bucket = f"tc qdisc replace dev lo root tbf rate {rate} burst 3000 limit {limit}"
for command in ("ip link set lo up", bucket):
    subprocess.run(command.split(), check=True)
# What is left in the bucket at the end would come out for a minute, as ICMP errors for a closed port, on the
# account of a socket that all namespaces share: nobody's ping would be answered.
atexit.register(subprocess.run, "tc qdisc del dev lo root".split(), check=True)
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
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-P", "-c", PROGRAM, json.dumps([*arguments, limit, reported])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
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
