"""Sending in event loops when the socket buffer is full: nothing blocks, overtakes, or is lost unreported.

A host's loopback accepts everything at once. Behind a token bucket (tc-tbf(8)) the buffer fills, so the test
runs in its own namespace.
"""

from __future__ import annotations

import json

import pytest
from lab.isolated import run_isolated

SETUP = """
import asyncio, json, os, select, socket, struct, subprocess, sys, threading
import anyio, trio, uvloop
import udpring
from udpring.udp import SendRing

use_one_cpu()
tier, loop, rate = json.loads(sys.argv[1])
limit_loopback(rate)
source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
sink.bind(("127.0.0.1", 0))
sink.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
source.bind(("127.0.0.1", 0))
source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
to = sink.getsockname()
LOOPS = {
    "asyncio": lambda main: asyncio.run(main()),
    "uvloop": lambda main: uvloop.run(main()),
    "trio": trio.run,
}

def payloads(start, count):
    return [struct.pack("!I", number) + bytes(500) for number in range(start, start + count)]

def received(last):
    sink.settimeout(20)
    got = []
    while not got or got[-1] != last:
        got.append(struct.unpack("!I", sink.recv(65536)[:4])[0])
    return got

def check(got, count):
    assert got == list(range(count)), (got, os.sched_getaffinity(0))

async def until(condition):
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.001)

def readable(ring, seconds=0):
    return bool(select.select([ring], [], [], seconds)[0])

def run(main):
    LOOPS[loop](main)
"""

SEVERAL = """
async def main():
    reports, turns = {}, 0

    async def send(start):
        reports[start] = await ring.send_batch_async(payloads(start, 50), to)

    async def count():
        nonlocal turns
        while len(reports) < 4:
            turns += 1
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        for start in range(0, 200, 50):
            tasks.start_soon(send, start)
            await until(lambda: len(ring._awaited) > start // 50 or start in reports)
    assert [reports[start].accepted for start in range(0, 200, 50)] == [50] * 4
    assert turns > 4, "the loop was held up"
    check(received(199), 200)
    assert ring.stats["requeued"], "the buffer was never full: the test tests nothing"
    assert not ring.pending and not ring._awaited and not ring.reap()

with SendRing(source, tier=tier, gso=False) as ring:
    run(main)
"""

CANCELLED = """
async def main():
    with anyio.move_on_after(0.05):
        try:
            await ring.send_batch_async(payloads(0, 1000), to)
        except BaseException as cancelled:
            notes.append(cancelled.__notes__[-1])
            raise
    assert ring.pending == 0 and not ring._awaited
    report = await ring.send_batch_async(payloads(1000, 1), to)
    assert report.accepted == 1
    got = received(1000)
    assert got[:-1] == list(range(len(got) - 1))
    assert notes == [f"{1000 - (len(got) - 1)} of 1000 datagrams were not sent"]

notes = []
with SendRing(source, tier=tier, gso=False) as ring:
    run(main)
"""

CLOSED = """
async def main():
    ended = []

    async def send(start):
        try:
            await ring.send_batch_async(payloads(start, 500), to)
        except udpring.ClosedError:
            ended.append(start)

    for how in (ring.close, lambda: threading.Thread(target=other.close).start()):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, 0)
            await until(lambda: ring._awaited)
            tasks.start_soon(send, 500)
            await until(lambda: len(ring._awaited) == 2)
            how()
        assert sorted(ended) == [0, 500], ended
        assert ring.closed
        ended.clear()
        globals()["ring"] = other

ring, other = (SendRing(source, tier=tier, gso=False) for _ in range(2))
run(main)
"""

MIXED = """
async def main():
    ticket = ring.submit(payloads(0, 200), to)
    done = []

    async def send():
        done.append(await ring.send_batch_async(payloads(200, 60), to))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await until(lambda: ring._awaited)
        assert not ticket.done
        # Blocking calls go behind what waits, and move it on; the task is woken for it.
        assert ring.send_batch(payloads(260, 1), to).accepted == 1
        assert ring.send_batch(payloads(261, 9), to).accepted == 9
        assert ticket.done
        await until(lambda: done)
        # A single datagram does not pass those that wait.
        ticket2 = ring.submit(payloads(270, 100), to)
        assert not ticket2.done
        assert (await ring.send_batch_async(payloads(370, 1), to)).accepted == 1
    assert ring.reap() == [ticket, ticket2]
    assert done[0].accepted == 60
    check(received(370), 371)

with SendRing(source, tier=tier, gso=False) as ring:
    run(main)
"""

DESCRIPTOR = """
with SendRing(source, tier=tier, gso=False) as ring:
    descriptor = ring.fileno()
    assert descriptor == ring.fileno() != source.fileno()
    assert not readable(ring)
    ring.send_batch(payloads(0, 1), to)
    assert not readable(ring), "nothing is pending"
    ticket = ring.submit(payloads(1, 100), to)
    assert not ticket.done and not readable(ring)
    while not ticket.done:
        assert readable(ring, 20)
        ring.reap()
    assert not readable(ring)
    check(received(100), 101)
    abandoned = ring.send_batch(payloads(101, 100), to, timeout=0)
    assert abandoned.errors and not readable(ring)
    thread = threading.Thread(target=ring.close)
    thread.start()
    assert select.select([descriptor], [], [], 20)[0]
    thread.join()
"""

ENDPOINT = """
class Protocol(asyncio.DatagramProtocol):
    def __init__(self):
        self.calls = []
    def pause_writing(self):
        self.calls.append("pause")
    def resume_writing(self):
        self.calls.append("resume")
    def connection_lost(self, error):
        self.calls.append("lost")

async def main():
    transport, protocol = await udpring.open_datagram_endpoint(Protocol, sock=source, tier=tier)
    transport.set_write_buffer_limits(high=20000)
    sent = 0
    while "pause" not in protocol.calls:
        transport.sendto(payloads(sent, 1)[0], to)
        sent += 1
        await asyncio.sleep(0)
    assert transport.get_write_buffer_size() > 20000
    await until(lambda: "resume" in protocol.calls)
    for number in range(sent, sent + 100):
        transport.sendto(payloads(number, 1)[0], to)
    transport.close()
    assert transport.get_write_buffer_size()
    await until(lambda: "lost" in protocol.calls)
    check(received(sent + 99), sent + 100)

run(main)
"""


def go(program: str, *arguments: object) -> None:
    run_isolated(SETUP + program, json.dumps(arguments))


tiers = pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])


@tiers
@loops
def test_several_tasks_wait_for_room(tier: str, loop: str) -> None:
    go(SEVERAL, tier, loop, "1mbit")


@tiers
@loops
def test_what_a_cancelled_task_did_not_send_is_said(tier: str, loop: str) -> None:
    go(CANCELLED, tier, loop, "2mbit")


@tiers
@loops
def test_closing_ends_the_waits(tier: str, loop: str) -> None:
    go(CLOSED, tier, loop, "100kbit")


@tiers
@loops
def test_tickets_and_blocking_sends_while_tasks_wait(tier: str, loop: str) -> None:
    go(MIXED, tier, loop, "1mbit")


@tiers
def test_the_descriptor(tier: str) -> None:
    go(DESCRIPTOR, tier, "", "400kbit")


@tiers
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_endpoint_pauses_its_protocol(tier: str, loop: str) -> None:
    go(ENDPOINT, tier, loop, "1mbit")
