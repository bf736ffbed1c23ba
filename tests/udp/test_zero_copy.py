"""Zero-copy sends: the kernel uses the payload until its notification. Otherwise the send copies."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from seccomp import Rule, run_python

from udpring.udp import SendRing
from udpring.uring import probe_uring

from .conftest import BOUND, Pair

UDP_CORK = 1
SOL_UDP = 17


def receive(sock: socket.socket, count: int) -> list[bytes]:
    sock.settimeout(BOUND)
    return [sock.recv(65536) for _ in range(count)]


def can(tier: str) -> bool:
    return tier != "mmsg" and bool(probe_uring().sendmsg_zc)


def test_it_is_off_unless_asked_for(tier: str, pair4: Pair) -> None:
    with SendRing(pair4.source, tier=tier) as ring:
        assert ring.zero_copy == "off"
        assert ring.send_batch([b"x" * 9000] * 3, pair4.to).accepted == 3
        assert ring.stats["zero_copy"] == ring.stats["zero_copied"] == 0
        assert ring.zero_copy_reason


def test_everything_arrives_and_outcome_is_reported(tier: str, pair: Pair) -> None:
    pair.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    with SendRing(pair.source, tier=tier, zero_copy=True) as ring:
        assert ring.zero_copy == ("untried" if can(tier) else "unsupported")
        for _ in range(4):
            payloads = [
                os.urandom(size) for size in (10, 4095, 4096, 9000, 65507, 0, 1200, 1200, 1200, 1200, 700)
            ]
            report = ring.send_batch(payloads, pair.to)
            assert (report.accepted, report.errors) == (len(payloads), [])
            assert sorted(receive(pair.sink, len(payloads))) == sorted(payloads)
        stats = ring.stats
        if can(tier):
            assert stats["zero_copied"] + stats["zero_copy"] + stats["zero_copy_refused"] > 0
            assert ring.zero_copy == "copies", "loopback"
        else:
            assert stats["zero_copied"] == stats["zero_copy"] == 0
            assert "mmsg" in ring.zero_copy_reason or tier != "mmsg"
        assert ring.zero_copy_reason
        assert ring.pending == 0


def test_where_all_is_copied_it_stops_being_tried(tier: str, pair4: Pair) -> None:
    if not can(tier):
        return
    with SendRing(pair4.source, tier=tier, zero_copy=True, gso=False) as ring:
        for _ in range(40):
            assert ring.send_batch([b"x" * 5000], pair4.to).accepted == 1
            receive(pair4.sink, 1)
        assert ring.stats["zero_copied"] == 16
        assert ring.zero_copy == "copies"
        assert "copies" in ring.zero_copy_reason


def test_helpers_leave_zero_copy_to_the_ring(tier: str, pair4: Pair) -> None:
    if not can(tier):
        return
    to = [(f"127.0.0.{n + 1}", pair4.to[1]) for n in range(150)]
    with SendRing(pair4.source, tier=tier, zero_copy=True, helpers=2) as ring:
        assert ring.send_batch([b"x" * 5000 if n % 15 == 7 else b"x" for n in range(150)], to).accepted == 150
        assert ring.stats["zero_copied"] == 10
        assert ring.stats["packets"] == 150


# On one CPU: loopback queues packets per CPU, so with two it may reorder them itself.
ORDER = """
    import os, socket, sys
    from udpring import SendRing
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sinks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for sink in sinks:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(20)
    source = socket.socket(type=socket.SOCK_DGRAM)
    sizes = [300] * 60 + [60] * 10
    payloads = [(b"%d" % at).ljust(sizes[at // 2], b".") for at in range(140)]
    to = [sink.getsockname() for sink in sinks] * 70
    with SendRing(source, tier=sys.argv[1], zero_copy=True) as ring:
        for _ in range(3):
            assert ring.send_batch(payloads, to).accepted == 140
            for n, sink in enumerate(sinks):
                assert [sink.recv(1000) for _ in range(70)] == payloads[n::2]
        assert ring.stats["trains"]
        assert ring.stats["zero_copy_refused"] or ring.zero_copy in ("unsupported", "broken")
"""


def test_what_is_refused_without_a_copy_keeps_its_place(tier: str) -> None:
    """When destinations are interleaved, the datagrams of one train lie in more pieces than a zero-copy
    packet may have."""
    subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(ORDER), tier], check=True, timeout=60)


def test_the_payload_is_held_until_the_notification(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    """A corked socket keeps the pages of a train until it is uncorked (UDP_CORK, udp(7))."""
    if not can(tier):
        return
    source, sink = make_socket(), make_socket()
    source.connect(sink.getsockname())
    with SendRing(source, tier=tier, zero_copy=True) as ring:
        source.setsockopt(SOL_UDP, UDP_CORK, 1)
        payload = bytearray(os.urandom(8192))
        ticket = ring.submit(payload, lengths=1024)
        for _ in range(3):
            assert ring.reap(wait=1, timeout=0.02) == []
        assert not ticket.done
        assert ring.pending == 8
        with pytest.raises(BufferError):
            payload.append(0)
        source.setsockopt(SOL_UDP, UDP_CORK, 0)
        assert ring.drain(timeout=BOUND) == [ticket]
        assert ticket.report.accepted == 8
        payload.append(0)  # the payload is free again
        assert b"".join(receive(sink, 8)) == bytes(payload[:-1])


def test_descriptor_is_quiet_until_notification(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    """A loop has nothing to do until the notification makes the descriptor readable."""
    if not can(tier):
        return
    source, sink = make_socket(), make_socket()
    source.connect(sink.getsockname())
    with SendRing(source, tier=tier, zero_copy=True) as ring:
        for round_ in range(3):
            source.setsockopt(SOL_UDP, UDP_CORK, 1)
            if round_:
                ring.fileno()  # requested before or during the send
            ticket = ring.submit(os.urandom(8192), lengths=1024)
            assert not select.select([ring], [], [], 0.02)[0]
            assert ring.reap() == []
            assert not select.select([ring], [], [], 0)[0]
            assert not ticket.done
            source.setsockopt(SOL_UDP, UDP_CORK, 0)
            assert select.select([ring], [], [], BOUND)[0]
            assert ring.drain(timeout=BOUND) == [ticket]
            assert not select.select([ring], [], [], 0)[0]
            assert ring.send_batch([b"copied"] * 3).accepted == 3
            assert not select.select([ring], [], [], 0)[0]
            receive(sink, 11)


def test_timeout_waits_for_zero_copy_notification(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    if not can(tier):
        return
    source, sink = make_socket(), make_socket()
    source.connect(sink.getsockname())
    with SendRing(source, tier=tier, zero_copy=True) as ring:
        for _ in range(3):
            report = ring.send_batch([os.urandom(8192)] * 4, timeout=0)
            assert report.accepted + len(report.errors) == 4
            assert {error.errno for _, error in report.errors} <= {errno.EAGAIN}
            receive(sink, report.accepted)
        assert ring.pending == 0


def test_closing_with_a_notification_outstanding_loses_no_memory(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    if not can(tier):
        return
    source, sink = make_socket(), make_socket()
    source.connect(sink.getsockname())
    ring = SendRing(source, tier=tier, zero_copy=True)
    source.setsockopt(SOL_UDP, UDP_CORK, 1)
    payload = bytearray(8192)
    ticket = ring.submit(payload, lengths=1024)
    ring.close()  # waits two seconds, then leaks the memory to the kernel
    assert not ring.pending
    with pytest.raises(BufferError):
        payload.append(0)
    assert ticket.done
    source.setsockopt(SOL_UDP, UDP_CORK, 0)


PROGRAM = """
import socket
from udpring.udp import SendRing
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("127.0.0.1", 0))
with a, b, SendRing(b, zero_copy=True) as tx:
    assert tx.send_batch([b"x" * 9000], a.getsockname()).accepted == 1
    assert a.recv(65536) == b"x" * 9000
    print(tx.tier, "|", tx.zero_copy, "|", tx.zero_copy_reason)
"""


def test_zero_copy_without_io_uring_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring reports the reason."""
    monkeypatch.delenv("UDPRING_TIER", raising=False)
    done = run_python(PROGRAM, [Rule("io_uring_setup", errno.EPERM)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "mmsg | unsupported | tier mmsg copies; an io_uring tier is needed\n"
