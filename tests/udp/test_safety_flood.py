"""More datagrams than a receiver can take: none is corrupted, and each missing one was counted as dropped."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable

import pytest

from udpring.udp import Batch, RecvRing, SendRing
from udpring.uring import graveyard

from .conftest import BOUND

LEAST_CQ = 8
HEAD = struct.Struct("!II")  # number, checksum of the number and of the rest
SIZES = [0, 8, 9, 64, 200, 1200, 1400, 1472, 1473, 4000, 9000, 32768, 65506, 65507]
FILLER = random.Random(2).randbytes(65507)


def datagram(number: int, size: int) -> bytes:
    """``size`` bytes with a checksum. Shorter than the head, the datagram is empty and checks nothing."""
    if size < HEAD.size:
        return b""
    rest = FILLER[number % 100 : number % 100 + size - HEAD.size].ljust(size - HEAD.size, b"-")
    return HEAD.pack(number, zlib.crc32(rest, number)) + rest


class Ledger:
    """Received datagrams: each at most once, each intact."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.numbers: set[int] = set()
        self.empty = 0

    def enter(self, batch: Batch) -> None:
        for view in batch.views():
            if not len(view):
                self.empty += 1
                continue
            number, checksum = HEAD.unpack_from(view)
            assert zlib.crc32(view[HEAD.size :], number) == checksum, "a datagram was corrupted"
            assert len(view) == self.sizes[number], "a datagram was cut or joined to another"
            assert number not in self.numbers, "a datagram came twice"
            self.numbers.add(number)

    @property
    def received(self) -> int:
        return len(self.numbers) + self.empty


def settle(ring: RecvRing, ledger: Ledger, send: Callable[[int], None]) -> int:
    """Receives until all sent datagrams are accounted for. Returns the number of counted drops.

    The kernel reports its count of drops with the next datagram that it queues. So one more is sent, again if
    that one is dropped too.
    """
    give_up = time.monotonic() + BOUND
    while time.monotonic() < give_up:
        while batch := ring.recv_batch(timeout=0.02):
            ledger.enter(batch)
        drops = ring.stats["kernel_drops"]
        if ledger.received + drops == len(ledger.sizes):
            return drops
        ledger.sizes.append(HEAD.size)
        send(len(ledger.sizes) - 1)
    raise AssertionError(
        f"{ledger.received} received and {ring.stats['kernel_drops']} dropped of {len(ledger.sizes)} sent"
    )


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("gro", [False, True], ids=["single", "gro"])
def test_received_and_counted_drops_are_all_that_was_sent(
    tier: str, make_socket: Callable[..., socket.socket], family: int, gro: bool
) -> None:
    """A completion queue of the minimum size, 16 buffers, a slow reader, sizes 0 to 65507."""
    source, sink = make_socket(family), make_socket(family)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 150_000)
    chooser = random.Random(family)
    sizes = [chooser.choice(SIZES) for _ in range(1500)]
    ledger = Ledger(sizes)
    to = sink.getsockname()

    def send(number: int) -> None:
        source.sendto(datagram(number, sizes[number]), to)

    with RecvRing(sink, buffers=16, tier=tier, gro=gro, cq_entries=LEAST_CQ) as ring:
        held: list[Batch] = []
        for number in range(len(sizes)):
            send(number)
            if chooser.random() < 0.15:
                batch = ring.recv_batch(max_packets=chooser.randint(1, 20), timeout=0)
                ledger.enter(batch)
                held = [*held[-2:], batch]  # kept for a while, like a slow reader
        del held, batch
        drops = settle(ring, ledger, send)
        stats = ring.stats
        assert drops > 0, "it was no flood"
        assert stats["truncated"] == stats["control_truncated"] == stats["stale"] == 0


def test_trains_segmented_by_kernel_count_singly(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    """A sender that makes trains, a receiver without UDP_GRO: each datagram is counted."""
    source, sink = make_socket(), make_socket()
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    sizes = [1200] * 3000
    ledger = Ledger(sizes)
    payloads = [datagram(number, 1200) for number in range(3000)]
    with (
        RecvRing(sink, buffers=16, buffer_size=2048, tier=tier, gro=False, cq_entries=LEAST_CQ) as ring,
        SendRing(source, tier=tier) as sender,
    ):
        for first in range(0, 3000, 100):
            report = sender.send_batch(payloads[first : first + 100], sink.getsockname())
            assert report.accepted == 100
            ledger.enter(ring.recv_batch(max_packets=5, timeout=0))

        def send(number: int) -> None:
            sender.send_batch([datagram(number, sizes[number])], sink.getsockname())

        assert settle(ring, ledger, send) > 0, "it was no flood"


def test_a_flood_from_several_threads(tier: str, make_socket: Callable[..., socket.socket]) -> None:
    sink = make_socket()
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 60_000)
    sizes = [random.Random(number).choice([0, 8, 500, 1400]) for number in range(4000)]
    ledger = Ledger(sizes)
    to = sink.getsockname()

    def flood(part: int, source: socket.socket) -> None:
        for number in range(part, 4000, 2):
            source.sendto(datagram(number, sizes[number]), to)

    threads = [threading.Thread(target=flood, args=(part, make_socket())) for part in range(2)]
    last = make_socket()
    with RecvRing(sink, buffers=16, buffer_size=2048, tier=tier, cq_entries=LEAST_CQ) as ring:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            ledger.enter(ring.recv_batch(max_packets=3, timeout=0.01))
        for thread in threads:
            thread.join()
        settle(ring, ledger, lambda number: last.sendto(datagram(number, sizes[number]), to) and None)


@pytest.mark.slow
@pytest.mark.timeout(300)  # ten seconds on an idle machine
def test_a_thousand_closes_with_all_receives_armed(
    tier: str, make_socket: Callable[..., socket.socket]
) -> None:
    """Also while datagrams come in. Memory that the kernel did not release would be in the graveyard."""
    before = graveyard()
    failures: list[BaseException] = []
    senders: list[socket.socket] = [make_socket(), make_socket()]
    sinks = [make_socket(), make_socket()]

    def work(sender: socket.socket, sink: socket.socket) -> None:
        try:
            for round_ in range(500):
                with RecvRing(sink, buffers=2048, buffer_size=64, tier=tier) as ring:
                    ring.recv_batch(timeout=0)  # arms the receives
                    if round_ % 10 == 0:
                        for _ in range(20):
                            sender.sendto(b"in the midst", sink.getsockname())
                if round_ % 10 == 0:
                    sink.setblocking(False)
                    while True:
                        try:
                            sink.recv(100)
                        except BlockingIOError:
                            break
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(senders, sinks, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert graveyard() == before
