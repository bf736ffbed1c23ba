"""Any sequence of calls against a model: each operation ends exactly once, and every slot is accounted
for."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from udpring import RingError
from udpring._native import lib
from udpring.uring import Completion, Ring

SLOTS = 64
DENIED = [0, lib.UDPRING_SETUP_NO_SQARRAY, lib.UDPRING_SETUP_DEFER_TASKRUN, lib.UDPRING_SETUP_SUBMIT_ALL]


# One way to queue each kind of memory. They fail or succeed at once, and each ends once.
ROWS: dict[str, Callable[[Ring, int], int]] = {
    "statx": lambda ring, fd: ring.statx("/nowhere" * 20),
    "statx file": lambda ring, fd: ring.statx(file=fd),
    "openat2": lambda ring, fd: ring.openat2("/nowhere/file"),
    "renameat": lambda ring, fd: ring.renameat("/nowhere/one", "/nowhere/two"),
    "unlinkat": lambda ring, fd: ring.unlinkat("/nowhere/file"),
    "fgetxattr": lambda ring, fd: ring.fgetxattr(fd, "user.none", 100),
    "fsetxattr": lambda ring, fd: ring.fsetxattr(fd, "user.none", b"value" * 100),
    "setxattr": lambda ring, fd: ring.setxattr("/nowhere", "user.none", b"value"),
    "connect": lambda ring, fd: ring.connect(fd, ("127.0.0.1", 9)),
    "accept": lambda ring, fd: ring.accept(fd),
    "sendmsg": lambda ring, fd: ring.sendmsg(fd, bytes(100), control=[(1, 1, bytes(16))]),
    "recvmsg": lambda ring, fd: ring.recvmsg(fd, 100, control_length=64),
    "recv": lambda ring, fd: ring.recv(fd, 5000),
    "send": lambda ring, fd: ring.send(fd, bytes(20000)),
    "send_zc": lambda ring, fd: ring.send_zc(fd, bytearray(5000)),
    "getsockopt": lambda ring, fd: ring.getsockopt(fd, 1, 1),
    "epoll_wait": lambda ring, fd: ring.epoll_wait(fd, 100),
    "files_update": lambda ring, fd: ring.files_update(0, [fd]),
    "futex_wait": lambda ring, fd: ring.futex_wait(memoryview(bytearray(4)), 7),
    "writev": lambda ring, fd: ring.writev(fd, [bytearray(10)] * 3),
    "fsync": lambda ring, fd: ring.fsync(fd),
    "poll_remove": lambda ring, fd: ring.poll_remove(1),
    "timeout_update": lambda ring, fd: ring.timeout_update(1, 1),
    "linkat": lambda ring, fd: ring.linkat("/nowhere/one", "/nowhere/two"),
}
PINNED = {"send_zc", "futex_wait", "writev", "send"}


class RingMachine(RuleBasedStateMachine):
    """A ring of 8 entries, so that a sequence of moderate length reaches its limits."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(8)
        self.queued: list[int] = []  # tickets, oldest first; some may be submitted already
        self.reads: set[int] = set()
        self.stoppable: list[int] = []
        self.ended: set[int] = set()
        self.pinned: dict[int, bytearray | None] = {}
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
    @rule(length=st.integers(1, 5), drops=st.booleans())
    def read_into(self, length: int, drops: bool) -> None:
        buffer = bytearray(b"\xa5" * length)
        ticket = self.put(self.ring.readinto(self.reader, buffer))
        self.pinned[ticket] = None if drops else buffer
        self.stoppable.append(ticket)

    @precondition(room)
    @rule(name=st.sampled_from(sorted(ROWS)))
    def any_row(self, name: str) -> None:
        ticket = self.put(ROWS[name](self.ring, self.reader))
        if name in PINNED:
            self.pinned[ticket] = None

    @precondition(room)
    @rule(count=st.integers(1, 20))
    def batch(self, count: int) -> None:
        for ticket in self.ring.queue_many("nop", -1, count=min(count, SLOTS - len(self.queued))):
            self.put(ticket)

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
            self.pinned.pop(ticket, None)
            if ticket in self.stoppable:
                self.stoppable.remove(ticket)

    @rule(count=st.integers(0, 3))
    def reap(self, count: int) -> None:
        self.ring.wait(count, 0)
        for done in self.ring.completions():
            self.take(done)

    def take(self, done: Completion) -> None:
        assert done.ticket in self.queued, "ended twice, or never queued"
        if done.more:
            return  # of send_zc: its notification follows, even if it failed
        self.queued.remove(done.ticket)
        if done.ticket in self.reads and done.result > 0:
            assert len(done.data) == done.result
            self.read += done.data
        buffer = self.pinned.pop(done.ticket, None)
        if buffer is not None and done.result > 0:
            self.read += buffer[: done.result]
            assert buffer[done.result :] == b"\xa5" * (len(buffer) - done.result)

    @invariant()
    def counts_agree(self) -> None:
        info = self.ring.info
        assert (info.stale, info.lost) == (0, 0)
        assert info.busy_slots == len(self.queued)
        assert info.in_flight + info.queued == len(self.queued)
        assert len(self.ring._pins) == len(self.pinned)

    def teardown(self) -> None:
        self.ring.close()
        assert self.ring.leaked == 0
        # Each read took bytes that were written, each byte once, not necessarily in the order of queueing.
        assert not Counter(self.read) - Counter(self.written)
        os.close(self.reader)
        os.close(self.writer)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
