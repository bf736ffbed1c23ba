"""SendRing on paths other than loopback: small MTUs, scopes, and buffers that fill.

Each program runs in a network namespace of its own, which ends with it.
"""

from __future__ import annotations

import pytest
from lab.isolated import run_isolated

PRELUDE = """
import errno, os, signal, socket, struct, subprocess, sys, threading, time
from array import array
import udpring
from udpring.udp import AddressList, SendRing

use_one_cpu()
tier = sys.argv[1]

def take(sock, count):
    return [sock.recv(65536) for _ in range(count)]

"""

TIERS = pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])


def run(program: str, tier: str) -> None:
    run_isolated(PRELUDE + program, tier)


SMALL_MTU = """
command("ip link set lo mtu 1400")
chosen = __import__("random").Random(2)
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    sink, other, source = udp(family, host), udp(family, host), udp(family)
    to, second = sink.getsockname(), other.getsockname()
    with SendRing(source, entries=32, tier=tier) as ring:
        # Segments that fit go as trains; larger ones are refused and go as fragments, all in order.
        lengths = [2000] * 50 + [1000] * 50 + [2000] * 3 + [10] + [1300] * 20 + [700, 0, 700] + [1500] * 9
        data = os.urandom(sum(lengths))
        pieces, at = [], 0
        for length in lengths:
            pieces.append(data[at : at + length])
            at += length
        for round_ in range(3):
            split, trains = ring.stats["split"], ring.stats["trains"]
            report = ring.send_batch(data, to, lengths=lengths)
            assert (report.accepted, report.errors) == (len(lengths), [])
            assert take(sink, len(lengths)) == pieces
            assert (ring.stats["split"] > split) == (round_ == 0), ring.stats
            assert ring.stats["trains"] > trains
        # A destination of its own is learned of its own; interleaved and ordered.
        for ordered in (True, False):
            where = [chosen.randrange(2) for _ in pieces]
            addresses = AddressList([(to, second)[n] for n in where], family)
            assert ring.send_batch(data, addresses, lengths=lengths, ordered=ordered).accepted == len(lengths)
            for n, sock in enumerate((sink, other)):
                right = [piece for piece, place in zip(pieces, where) if place == n]
                assert take(sock, len(right)) == right
        assert ring.stats["too_big"] == ring.stats["other_errors"] == 0
    # What may not be fragmented is an error of each datagram that is too long, and of no other.
    level, name = (socket.IPPROTO_IP, 10) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 23)
    source.setsockopt(level, name, 2)  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER
    with SendRing(source, tier=tier) as ring:
        report = ring.send_batch(data, to, lengths=lengths)
        wrong = [i for i, length in enumerate(lengths) if length > 1400 - 28]
        if family == socket.AF_INET6:
            wrong = [i for i, length in enumerate(lengths) if length > 1400 - 48]
        assert [i for i, _ in report.errors] == wrong
        assert {error.errno for _, error in report.errors} == {errno.EMSGSIZE}
        assert ring.stats["too_big"] == len(wrong)
        assert take(sink, report.accepted) == [piece for i, piece in enumerate(pieces) if i not in wrong]
"""


@TIERS
def test_refused_trains_are_sent_singly_in_order(tier: str) -> None:
    """The route refuses UDP_SEGMENT. Each datagram is sent by itself."""
    run(SMALL_MTU, tier)


SCOPES = """
command("ip addr add fe80::77/64 dev lo nodad")
with open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as setting:
    setting.write("0")
command("ip link add other type veth peer name far")
command("ip link set far up")
command("ip link set other up")
command("ip addr add fe80::78/64 dev other nodad")
# The kernel makes an address ours a moment after it was added, and looks at it anew when the carrier comes.
give_up = time.monotonic() + 20

def seen(*command):
    return subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout

def ready():
    routes = seen("-6", "route", "show", "table", "local")
    ours = all(f"local fe80::{n} " in routes for n in (77, 78))
    return ours and "state UP" in seen("link", "show", "other")

while not ready():
    assert time.monotonic() < give_up
lo, other = socket.if_nametoindex("lo"), socket.if_nametoindex("other")
sink, source = udp(socket.AF_INET6), udp(socket.AF_INET6)
sink.setsockopt(socket.IPPROTO_IPV6, 49, 1)  # IPV6_RECVPKTINFO
port = sink.getsockname()[1]
with SendRing(source, tier=tier) as ring:
    for host, scope, name in (("fe80::77", lo, "lo"), ("fe80::78", other, "other")):
        several = AddressList([(host, port, 0, scope)] * 3, socket.AF_INET6)
        assert list(several) == [(host, port, 0, scope)] * 3
        for address in ((host, port, 0, scope), several, (f"{host}%{name}", port)):
            for source_host in (None, f"{host}%{name}"):
                report = ring.send_batch([b"a", b"b", b"c"], address, source=source_host)
                assert (report.accepted, report.errors) == (3, []), (host, address, source_host, report)
                for _ in range(3):
                    data, control, _, sender = sink.recvmsg(100, 100)
                    assert sender[0] == host and sender[3] in (scope, lo), sender
    # The same address on the wrong link is nobody's.
    report = ring.send_batch([b"nobody"], ("fe80::77", port, 0, other), source="fe80::78%other")
    assert report.accepted + len(report.errors) == 1
    # By interface, without a source.
    assert ring.send_batch([b"by interface"], ("::1", port), interface_index=lo).accepted == 1
    data, control, _, sender = sink.recvmsg(100, 100)
    assert data == b"by interface"
"""


@TIERS
def test_addresses_with_scopes(tier: str) -> None:
    run(SCOPES, tier)


PENDING = """
limit_loopback("1mbit")
sink, other, source = udp(host="127.0.0.1"), udp(host="127.0.0.1"), udp()
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8000)
to, second = sink.getsockname(), other.getsockname()
number = 0

def some(count, length=1200):
    global number
    payloads = [struct.pack("!I", number + n) + bytes(length - 4) for n in range(count)]
    number += count
    return payloads

def numbers(payloads):
    return [struct.unpack("!I", payload[:4])[0] for payload in payloads]

ring = SendRing(source, entries=8, tier=tier)
changed = [bytearray(payload) for payload in some(40)]
tickets = [ring.submit(changed, to)]
for payload in changed:
    payload[:] = b"changed"
held = bytearray(b"".join(some(40)))
tickets.append(ring.submit(held, to, lengths=1200))
try:
    held.extend(b"more")
    raise AssertionError("a buffer on its way was resized")
except BufferError:
    pass
tickets += [ring.submit(some(10, 100), to, ordered=True) for _ in range(4)]
assert ring.pending > 60, ring.pending
assert not tickets[1].done
assert "pending" in repr(tickets[1])
try:
    tickets[-1].report
    raise AssertionError("a report of what is under way")
except RuntimeError:
    pass
done = ring.reap()  # the first is one train, which the empty buffer takes
assert done in ([], tickets[:1]) and ring.reap(wait=1, timeout=0) == []

# A call that runs out of time takes back its own, and leaves the tickets theirs.
assert [i for i, _ in ring.send_batch([b"x" * 100] * 5, to, timeout=0.02).errors] == list(range(5))
# So does one that is interrupted.
signal.signal(signal.SIGALRM, signal.default_int_handler)
for call in (lambda: ring.send_batch([b"y" * 100] * 5, to), lambda: ring.reap(wait=6)):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        call()
        raise AssertionError("not interrupted")
    except KeyboardInterrupt:
        pass
more = ring.reap(wait=1, timeout=20)
done += more
assert more and done == tickets[: len(done)]
assert ring.send_batch(some(3), to).accepted == 3  # behind all that was submitted
done += ring.reap()
assert done == tickets
assert ring.pending == 0
held.extend(b"more")
assert [ticket.report.accepted for ticket in tickets] == [40, 40, 10, 10, 10, 10]
assert numbers(take(sink, number)) == list(range(number))
assert ring.stats["trains"] > 0 and ring.stats["requeued"] > 0, ring.stats

# Two destinations, interleaved: each in order.
where = [n % 2 for n in range(60)]
payloads = [b"%d" % n + bytes(n // 20) for n in range(60)]
tickets = [ring.submit(payloads, [(to, second)[n] for n in where]) for _ in range(3)]
assert ring.drain(timeout=20) == tickets
for place, sock in enumerate((sink, other)):
    right = [b"%d" % n + bytes(n // 20) for n in range(60) if n % 2 == place]
    assert take(sock, 90) == right * 3

# Closing ends what is pending.
ticket, last = ring.submit(bytes(120000), to, lengths=1200), ring.submit([b"last"], to)
ring.close()
report = ticket.report
assert 0 < report.accepted < 100 and {error.errno for _, error in report.errors} == {errno.ECANCELED}, report
assert [i for i, _ in report.errors] == list(range(report.accepted, 100))
assert last.report.accepted == 0
take(sink, report.accepted)

# A drain that another thread's close ends.
ring = SendRing(source, tier=tier)
ticket = ring.submit(bytes(1200000), to, lengths=1200)
threading.Timer(0.1, ring.close).start()
try:
    ring.drain()
    raise AssertionError("drained a closed ring")
except udpring.ClosedError:
    pass
assert ticket.done and ticket.report.errors
"""


@TIERS
def test_tickets_that_have_to_wait(tier: str) -> None:
    run(PENDING, tier)
