"""SendRing with helpers when not everything can be sent at once: a full buffer, and trains that a route
refuses.

Each program runs in a network namespace of its own, which ends with it.
"""

from __future__ import annotations

import pytest
from lab.isolated import run_isolated

PRELUDE = """
import os, random, socket, struct, subprocess, sys, time
from udpring.udp import SendRing

use_one_cpu()
tier = sys.argv[1]

sinks = [udp(host="127.0.0.1") for _ in range(20)]
source = udp()

def batch(count, sizes):
    # Where each goes, and what: it begins with its number.
    chosen = random.Random(7)
    where = [chosen.randrange(20) for _ in range(count)]
    run = [chosen.choice(sizes) for _ in range(20)]
    payloads = []
    for number, n in enumerate(where):
        if chosen.random() < 0.1:
            run[n] = chosen.choice(sizes)
        payloads.append(struct.pack("!I", number).ljust(run[n], b"."))
    return where, payloads

def arrived(where, payloads, refused=()):
    for n, sink in enumerate(sinks):
        right = [each for at, each in enumerate(payloads) if where[at] == n and at not in refused]
        assert [sink.recv(65536) for _ in right] == right, n
"""

TIERS = pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])


def run(program: str, tier: str) -> None:
    run_isolated(PRELUDE + program, tier)


FULL = """
limit_loopback("200mbit", burst=6000)
where, payloads = batch(1000, [100, 600, 600, 1200])
to = [sinks[n].getsockname() for n in where]
give_up = time.monotonic() + 40
for buffer in (2304, 20000, 100000):
    source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with SendRing(source, entries=64, tier=tier, helpers=2) as ring:
        while not (ring.stats["requeued"] and ring.stats["helped"]):
            assert time.monotonic() < give_up, ring.stats
            report = ring.send_batch(payloads, to)
            assert (report.accepted, report.errors) == (1000, [])
            arrived(where, payloads)
        # What does not go in time is said, and the rest goes on.
        report = ring.send_batch(payloads, to, timeout=0)
        assert report.errors and {error.errno for _, error in report.errors} == {11}  # EAGAIN
        arrived(where, payloads, dict(report.errors))
        assert ring.send_batch(payloads, to).accepted == 1000
        arrived(where, payloads)
"""


BEHIND = """
import select
limit_loopback("200mbit", burst=6000)
where, payloads = batch(1000, [600, 1200])
to = [sinks[n].getsockname() for n in where]
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
waited = 0
with SendRing(source, entries=4096, tier=tier, gso=False, helpers=2) as ring:
    for _ in range(5):
        tickets = [ring.submit(payloads, to)]
        waited += ring.pending
        assert select.select([], [source], [], 20)[1]
        tickets.append(ring.submit(payloads, to))
        assert ring.drain(timeout=20) == tickets
        assert [ticket.report.accepted for ticket in tickets] == [1000, 1000]
        arrived(where * 2, payloads * 2)
assert waited
"""


@TIERS
def test_helpers_do_not_overtake_what_waits_for_room(tier: str) -> None:
    run(BEHIND, tier)


@TIERS
def test_order_holds_when_the_buffer_is_full(tier: str) -> None:
    run(FULL, tier)


# With IP_RECVERR each datagram without room in the bucket is an error: ENOBUFS.
REPORT = """
limit_loopback("60mbit", limit=20000)
source.setsockopt(socket.IPPROTO_IP, 11, 1)
where, payloads = batch(1000, [1200])
to = [sinks[n].getsockname() for n in where]
give_up = time.monotonic() + 40
with SendRing(source, tier=tier, gso=False, helpers=2) as ring:
    while not (ring.stats["requeued"] and ring.stats["helped"]):
        assert time.monotonic() < give_up, ring.stats
        report = ring.send_batch(payloads, to)
        refused = dict(report.errors)
        assert {error.errno for error in refused.values()} <= {105}
        arrived(where, payloads, refused)
        assert ring.stats["no_buffers"] == 0 or ring.stats["requeued"] >= 8
"""


@TIERS
def test_refused_datagrams_are_resent_in_order(tier: str) -> None:
    """A queueing discipline behind the socket refuses some (ENOBUFS)."""
    run(REPORT, tier)


STUCK = """
limit_loopback("8kbit", burst=1600)
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2304)
to = [(f"127.0.1.{n + 1}", 9) for n in range(200)]
with SendRing(source, tier=tier, helpers=2) as ring:
    report = ring.send_batch([bytes(200)] * 200, to, timeout=0)
    assert 0 < report.accepted < 100
    assert {error.errno for _, error in report.errors} == {11}  # EAGAIN
    stats = ring.stats
    assert stats["packets"] == report.accepted
    # One of each thread, and a few of the owner after them, but not all 200.
    assert stats["submits"] - stats["packets"] < 20, stats
"""


@TIERS
def test_a_full_buffer_is_not_tried_for_every_destination(tier: str) -> None:
    run(STUCK, tier)


THREADS = """
import re, resource
from udpring import RingError
os.setuid(1 << 20 | os.getpid())   # nobody else's: root is not held to the limit
resource.setrlimit(resource.RLIMIT_NPROC, (4, 4))
try:
    SendRing(source, tier=tier, helpers=15)
    raise AssertionError("16 threads where 4 may be")
except RingError as error:
    assert re.match("opening a send ring: starting helper [2-4] of 15", str(error)), error
give_up = time.monotonic() + 20
while len(os.listdir("/proc/self/task")) > 1:   # one that ended is there for a moment more
    assert time.monotonic() < give_up
"""


def test_those_that_were_started_end_when_one_cannot_be() -> None:
    run(THREADS, "mmsg")


REFUSED = """
command("ip link set lo mtu 1400")
where, payloads = batch(1000, [1000, 1000, 1300, 2000, 3000])
to = [sinks[n].getsockname() for n in where]
give_up = time.monotonic() + 40
with SendRing(source, entries=32, tier=tier, helpers=2) as ring:
    while not (ring.stats["split"] and ring.stats["helped"]):
        assert time.monotonic() < give_up, ring.stats
        report = ring.send_batch(payloads, to)
        assert (report.accepted, report.errors) == (1000, [])
        arrived(where, payloads)
    assert ring.stats["trains"] and not ring.stats["too_big"]
# What may not be fragmented is an error of each datagram that is too long, and of no other.
source.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER
with SendRing(source, tier=tier, helpers=2) as ring:
    report = ring.send_batch(payloads, to)
    wrong = [at for at, each in enumerate(payloads) if len(each) > 1400 - 28]
    assert [at for at, _ in report.errors] == wrong
    assert {error.errno for _, error in report.errors} == {90}  # EMSGSIZE
    assert ring.stats["too_big"] == len(wrong)
    arrived(where, payloads, wrong)
"""


@TIERS
def test_refused_trains_are_sent_singly_in_order(tier: str) -> None:
    """The route refuses UDP_SEGMENT. Each datagram is sent by itself."""
    run(REFUSED, tier)
