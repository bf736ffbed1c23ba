"""Zero copy where the kernel does not copy, and where its notifications do not come.

Loopback and veth always copy. A device that discards packets, such as dummy and ifb, need not. A queue that
hardly ever sends keeps the pages of a packet, and so delays the notification. Each program has its own
network namespace, which ends with it.
"""

from __future__ import annotations

import pytest
from lab.isolated import run_isolated

TIERS = pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool"])

PRELUDE = """
import os, select, socket, subprocess, sys
from udpring.udp import SendRing
from udpring.uring import probe_uring

tier = sys.argv[1]

def run(text):
    return subprocess.run(text.split(), capture_output=True, text=True).returncode == 0

def ip(text):
    command(f"ip {text}")
"""

# The neighbour entry is static, because nobody answers there.
SINK = """
if not probe_uring().sendmsg_zc:
    sys.exit(SKIP)
if not any(run(f"ip link add sink type {kind}") for kind in ("dummy", "ifb")):
    sys.exit(SKIP)
ip("link set sink mtu 65535 up")
ip("address add 192.0.2.1/24 dev sink")
ip("address add 2001:db8::1/64 dev sink nodad")
ip("neighbour replace 192.0.2.9 lladdr 02:00:00:00:00:09 dev sink")
ip("neighbour replace 2001:db8::9 lladdr 02:00:00:00:00:09 dev sink")
TO = ("192.0.2.9", 9)
"""


def run(program: str, tier: str) -> None:
    skip = "this kernel has no zero copy, or neither dummy nor ifb devices"
    run_isolated(PRELUDE + program, tier, skip=skip)


TRUE = (
    SINK
    + """
for family, to in ((socket.AF_INET, TO), (socket.AF_INET6, ("2001:db8::9", 9))):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    with SendRing(sock, tier=tier, zero_copy=True) as ring:
        assert ring.zero_copy == "untried"
        for _ in range(20):
            # What is short is copied; the others alone, and as a train.
            report = ring.send_batch([os.urandom(n) for n in (100, 4096, 30000)], to)
            assert (report.accepted, report.errors) == (3, []), report
            assert ring.send_batch(os.urandom(12000), to, lengths=1200).accepted == 10
        stats = ring.stats
        assert (stats["zero_copy"], stats["zero_copied"], stats["zero_copy_refused"]) == (60, 0, 0), stats
        assert stats["trains"] == 20 and stats["packets"] == 260, stats
        assert ring.zero_copy == "true", ring.zero_copy_reason
        assert "in place" in ring.zero_copy_reason
        assert ring.pending == 0
"""
)


@TIERS
def test_zero_copy_works_on_a_gathering_device(tier: str) -> None:
    run(TRUE, tier)


HELD = (
    SINK
    + """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(TO)
with SendRing(sock, tier=tier, zero_copy=True) as ring:
    for _ in range(20):
        sock.setsockopt(17, 1, 1)  # UDP_CORK: the kernel keeps the pages
        payload = bytearray(os.urandom(8192))
        ticket = ring.submit(payload, lengths=1024)
        assert ring.reap() == [] and ring.pending == 8
        assert not select.select([ring], [], [], 0)[0]
        try:
            payload.append(0)
        except BufferError:
            pass
        else:
            raise AssertionError("the payload is the kernel's")
        sock.setsockopt(17, 1, 0)
        assert select.select([ring], [], [], 20)[0]
        assert ring.reap(wait=1, timeout=20) == [ticket]
        payload.append(0)
    assert ring.stats["zero_copy"] == 20, ring.stats
    assert ring.zero_copy == "true"
"""
)


@TIERS
def test_the_payload_is_held_until_the_device_is_done(tier: str) -> None:
    run(HELD, tier)


ROUTES = (
    SINK
    + """
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
receiver.settimeout(20)
near = receiver.getsockname()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
payload = os.urandom(5000)
with SendRing(sock, tier=tier, zero_copy=True, gso=False) as ring:
    assert ring.send_batch([payload], TO).accepted == 1
    assert ring.zero_copy == "true"
    for n in range(40):  # here it copies, and is left alone after 16 in a row
        assert ring.zero_copy == ("true" if n < 16 else "copies")
        assert ring.send_batch([payload], near).accepted == 1
        assert receiver.recv(65536) == payload
    assert (ring.stats["zero_copy"], ring.stats["zero_copied"]) == (1, 16), ring.stats
    for _ in range(64):  # one in 4096 is tried: that finds the other route
        assert ring.send_batch([payload] * 64, TO).accepted == 64
    assert ring.zero_copy == "true", ring.stats
    assert ring.send_batch([payload] * 64, TO).accepted == 64
    assert ring.stats["zero_copy"] >= 65, ring.stats
    # Fragments are copies.
    ip("link set sink mtu 1500")
    for _ in range(16):
        assert ring.send_batch([payload], TO).accepted == 1
    assert ring.zero_copy == "copies", ring.stats
    assert ring.zero_copy_reason
"""
)


@TIERS
def test_it_follows_the_route(tier: str) -> None:
    run(ROUTES, tier)


BROKEN = """
# A byte a second, once 3000 are gone: a greeting of the probe passes, a datagram of 4096 is thrown away,
# half of a train of as much stays in the queue.
def hold():
    return run("tc qdisc add dev lo root tbf rate 8bit burst 3000 limit 1000000")

if not probe_uring().sendmsg_zc or not hold():
    sys.exit(SKIP)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
receiver.settimeout(20)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with SendRing(sock, tier=tier, zero_copy=True) as ring:
    assert ring.zero_copy == "broken", (ring.zero_copy, ring.zero_copy_reason)
    assert "did not come" in ring.zero_copy_reason
    assert run("tc qdisc delete dev lo root") and hold()
    found = probe_uring()
    assert found.zero_copy == "broken", found
    assert not found.send_zc and "received bytes" in found.send_zc.reason, found.send_zc
    assert not found.sendmsg_zc and "did not come" in found.sendmsg_zc.reason, found.sendmsg_zc
    assert run("tc qdisc delete dev lo root")
    payload = os.urandom(9000)
    assert ring.send_batch([payload] * 3, receiver.getsockname()).accepted == 3
    assert [receiver.recv(65536) for _ in range(3)] == [payload] * 3
    assert ring.stats["zero_copy"] == ring.stats["zero_copied"] == 0
    assert ring.zero_copy == "broken"
"""


@TIERS
def test_where_no_notification_comes_it_is_not_used(tier: str) -> None:
    run(BROKEN, tier)
