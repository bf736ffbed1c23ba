"""In any order of keeping, slicing and dropping, a held datagram has its original bytes.

Each datagram carries its number and a checksum, which detect a buffer that was returned too early.
"""

from __future__ import annotations

import socket
import struct
import zlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from udpring.udp import TIERS, Batch, RecvRing

from .conftest import BOUND, send_train

BUFFERS = 6
HEADER = struct.Struct("!II")


def datagram(number: int, size: int) -> bytes:
    body = struct.pack("!I", number) + bytes((number + i) & 0xFF for i in range(size - HEADER.size))
    return struct.pack("!I", zlib.crc32(body)) + body


def number_of(data: memoryview | bytes) -> int:
    """The number in a datagram. Fails if a byte of it changed."""
    checksum, number = HEADER.unpack_from(data)
    assert zlib.crc32(data[4:]) == checksum, f"datagram {number} changed while it was held"
    return int(number)


class Leasing(RuleBasedStateMachine):
    """A ring of few buffers, a sender, and a program that keeps packets at random."""

    tier = TIERS[0]
    whole_trains = False
    lease_limit = 0

    def __init__(self) -> None:
        super().__init__()
        self.source = socket.socket(type=socket.SOCK_DGRAM)
        self.sink = socket.socket(type=socket.SOCK_DGRAM)
        self.sink.bind(("127.0.0.1", 0))
        self.ring = RecvRing(self.sink, BUFFERS, tier=self.tier, lease_limit=self.lease_limit)
        self.sent = self.received = 0
        self.batches: list[Batch] = []
        self.views: list[tuple[int, memoryview]] = []

    def teardown(self) -> None:
        self.ring.close()
        self.all_that_is_held_is_whole()
        for batch in self.batches[::2]:
            batch.release()
        self.batches = self.batches[1::2]
        self.views = self.views[1::2]
        self.all_that_is_held_is_whole()
        self.source.close()
        self.sink.close()

    @precondition(lambda self: self.sent - self.received < 60)
    @rule(count=st.integers(1, 40), size=st.integers(8, 200), short=st.integers(0, 50))
    def send(self, count: int, size: int, short: int) -> None:
        pieces = [datagram(self.sent + i, size) for i in range(count)]
        pieces[-1] = datagram(self.sent + count - 1, max(8, size - short))
        if count > 1:
            send_train(self.source, self.sink.getsockname(), b"".join(pieces), size)
        else:
            self.source.sendto(pieces[0], self.sink.getsockname())
        self.sent += count

    @precondition(lambda self: self.received < self.sent)
    @rule(most=st.integers(1, 50))
    def receive(self, most: int) -> None:
        batch = self.ring.recv_batch(most, timeout=BOUND)
        assert 0 < len(batch) <= most
        for data in batch.payloads():
            assert number_of(data) == self.received, "lost, doubled or out of order"
            self.received += 1
        self.batches.append(batch)

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 99), at=st.integers(0, 99))
    def keep_a_view(self, which: int, at: int) -> None:
        batch = self.batches[which % len(self.batches)]
        data = batch[at % len(batch)].data
        self.views.append((number_of(data), data))

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 99), where=st.slices(20))
    def keep_a_slice(self, which: int, where: slice) -> None:
        part = self.batches[which % len(self.batches)][where]
        if part:
            self.batches.append(part)

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 99), release=st.booleans())
    def drop_a_batch(self, which: int, release: bool) -> None:
        batch = self.batches.pop(which % len(self.batches))
        if release:
            batch.release()

    @precondition(lambda self: self.views)
    @rule(which=st.integers(0, 99))
    def drop_a_view(self, which: int) -> None:
        self.views.pop(which % len(self.views))

    @precondition(lambda self: self.received == self.sent)
    @rule()
    def let_go_of_all(self) -> None:
        self.batches.clear()
        self.views.clear()
        assert not self.ring.recv_batch(timeout=0)
        stats = self.ring.stats
        assert (stats["leased"], stats["copies"]) == (0, 0)

    @invariant()
    def all_that_is_held_is_whole(self) -> None:
        for number, view in self.views:
            assert number_of(view) == number
        for batch in self.batches:
            numbers = [number_of(view) for view in batch.views()]
            assert numbers == sorted(numbers) or numbers == sorted(numbers, reverse=True)

    @invariant()
    def no_more_is_leased_than_may_be(self) -> None:
        stats = self.ring.stats
        assert stats["leased"] <= stats["lease_limit"]
        assert stats["stale"] == 0


@pytest.mark.parametrize("lease_limit", [0, 1, 4])
def test_any_order_of_keeping_and_dropping(tier: str, lease_limit: int) -> None:
    machine = type("Machine", (Leasing,), {"tier": tier, "lease_limit": lease_limit})
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
    machine.TestCase("runTest").runTest()
