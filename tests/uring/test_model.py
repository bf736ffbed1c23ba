"""Any sequence of calls against a model: each operation ends exactly once, and every slot is accounted
for."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from udpring import RingError
from udpring._native import lib
from udpring.uring import Completion, Ring

SLOTS = 64
DENIED = [0, lib.UDPRING_SETUP_NO_SQARRAY, lib.UDPRING_SETUP_DEFER_TASKRUN, lib.UDPRING_SETUP_SUBMIT_ALL]


class RingMachine(RuleBasedStateMachine):
    """A ring of 8 entries, so that a sequence of moderate length reaches its limits."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(8)
        self.queued: list[int] = []  # tickets, oldest first; some may be submitted already
        self.reads: set[int] = set()
        self.stoppable: list[int] = []
        self.ended: set[int] = set()
        self.written = b""
        self.read = b""
        self.reader, self.writer = os.pipe()

    @initialize(denied=st.sampled_from(DENIED), cq_entries=st.sampled_from([8, 16, 64]))
    def open(self, denied: int, cq_entries: int) -> None:
        self.ring.close()
        self.ring = Ring(8, cq_entries=cq_entries, slots=SLOTS, deny=denied)

    def room(self) -> bool:
        return len(self.queued) < SLOTS - 2

    def put(self, ticket: int) -> int:
        assert ticket not in self.queued
        self.queued.append(ticket)
        return ticket

    @precondition(room)
    @rule()
    def nop(self) -> None:
        self.put(self.ring.nop())

    @precondition(room)
    @rule(length=st.integers(1, 5))
    def read_pipe(self, length: int) -> None:
        ticket = self.put(self.ring.read(self.reader, length))
        self.reads.add(ticket)
        self.stoppable.append(ticket)

    @precondition(room)
    @rule()
    def wait_long(self) -> None:
        self.stoppable.append(self.put(self.ring.timeout(3600)))

    @rule(data=st.binary(min_size=1, max_size=8))
    def write(self, data: bytes) -> None:
        os.write(self.writer, data)
        self.written += data

    @precondition(lambda self: self.room() and self.stoppable)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.put(self.ring.cancel(data.draw(st.sampled_from(self.stoppable))))

    @precondition(lambda self: not self.room())
    @rule()
    def overfill(self) -> None:
        while len(self.queued) < SLOTS:
            self.put(self.ring.nop())
        with pytest.raises(RingError) as caught:
            self.ring.nop()
        assert caught.value.errno == errno.ENOBUFS

    @rule()
    def submit(self) -> None:
        before = self.ring.info.queued
        assert self.ring.submit() == before
        assert self.ring.info.queued == 0

    @rule(count=st.integers(0, 8))
    def retract(self, count: int) -> None:
        taken = self.ring.retract(count)
        assert taken <= count
        for _ in range(taken):
            ticket = self.queued.pop()
            self.reads.discard(ticket)
            if ticket in self.stoppable:
                self.stoppable.remove(ticket)

    @rule(count=st.integers(0, 3))
    def reap(self, count: int) -> None:
        self.ring.wait(count, 0)
        for done in self.ring.completions():
            self.take(done)

    def take(self, done: Completion) -> None:
        assert done.ticket in self.queued, "ended twice, or never queued"
        assert not done.more
        self.queued.remove(done.ticket)
        if done.ticket in self.reads and done.result > 0:
            assert len(done.data) == done.result
            self.read += done.data

    @invariant()
    def counts_agree(self) -> None:
        info = self.ring.info
        assert (info.stale, info.lost) == (0, 0)
        assert info.busy_slots == len(self.queued)
        assert info.in_flight + info.queued == len(self.queued)

    def teardown(self) -> None:
        self.ring.close()
        assert self.ring.leaked == 0
        # Each read that ran took a prefix of the bytes, not necessarily in the order of queueing.
        assert sorted(self.read) == sorted(self.written[: len(self.read)])
        os.close(self.reader)
        os.close(self.writer)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
