"""Random programs of operations against a model.

Whatever a program queues, links, cancels, takes back, drops or leaves behind: each operation ends exactly
once, the ring's counts are right, memory has what the model says, lent memory lives as long as its operation
and no longer, and nothing stays behind. ``UDPRING_PROGRAMS`` is the number of programs.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import tempfile
import time
import warnings
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udpring import RingError, WrongThreadError
from udpring._native import lib
from udpring.uring import Completion, Flag, Ring, graveyard

from .program_parts import WORD, Holder, Lent, Memory, Operation, Regions, Words
from .reactors import SANITIZED

SLOTS = 64
# What a program may have in flight. The rest of the slots is for the cancels at its end.
MOST = SLOTS - 12
PROGRAMS = int(os.environ.get("UDPRING_PROGRAMS", "60" if SANITIZED else "150"))
STEPS = 60
PATIENCE = 30.0
pytestmark = pytest.mark.timeout(120 + PROGRAMS)

RINGS: list[dict[str, Any]] = [
    {},
    {"cq_entries": 8},
    {"cq_entries": 16},
    {"deny": lib.UDPRING_SETUP_NO_SQARRAY},
    {"deny": lib.UDPRING_SETUP_DEFER_TASKRUN, "cq_entries": 8},
    {"deny": lib.UDPRING_SETUP_SUBMIT_ALL},
    {"big_sqe": True, "big_cqe": True},
    {"sq_poll": 0.001},
]
GROUPS, GROUP_COUNT, GROUP_SIZE = 3, 4, 256
TABLE, TABLE_SIZE = 4, 4096
STOPPED = (-errno.ECANCELED, -errno.EINTR)
PICK = st.integers(0, 255)

# One way to queue each other kind of memory. They fail or succeed at once.
ROWS: list[Callable[[Ring, int], int]] = [
    lambda ring, fd: ring.statx("/nowhere" * 20),
    lambda ring, fd: ring.statx(file=fd),
    lambda ring, fd: ring.openat2("/nowhere/file"),
    lambda ring, fd: ring.renameat("/nowhere/one", "/nowhere/two"),
    lambda ring, fd: ring.unlinkat("/nowhere/file"),
    lambda ring, fd: ring.linkat("/nowhere/one", "/nowhere/two"),
    lambda ring, fd: ring.fgetxattr(fd, "user.none", 100),
    lambda ring, fd: ring.fsetxattr(fd, "user.none", b"value" * 100),
    lambda ring, fd: ring.setxattr("/nowhere", "user.none", b"value"),
    lambda ring, fd: ring.connect(fd, ("127.0.0.1", 9)),
    lambda ring, fd: ring.accept(fd),
    lambda ring, fd: ring.sendmsg(fd, bytes(100), control=[(1, 1, bytes(16))]),
    lambda ring, fd: ring.recvmsg(fd, 100, control_length=64),
    lambda ring, fd: ring.send(fd, bytes(20000)),
    lambda ring, fd: ring.getsockopt(fd, 1, 1),
    lambda ring, fd: ring.setsockopt(fd, 1, 9, 1),
    lambda ring, fd: ring.epoll_wait(fd, 100),
    lambda ring, fd: ring.futex_wait(memoryview(bytearray(4)), 7),
    lambda ring, fd: ring.files_update(900, [fd]),
    lambda ring, fd: ring.fsync(fd),
    lambda ring, fd: ring.poll_remove(1),
    lambda ring, fd: ring.timeout_update(1, 1),
    lambda ring, fd: ring.send_zc(fd, bytearray(5000)),
]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class ProgramMachine(RuleBasedStateMachine):
    """Rules take numbers alone and do nothing where they do not apply: what the kernel does first may differ
    from run to run, and hypothesis must draw the same values each time."""

    def __init__(self) -> None:
        super().__init__()
        self.before = descriptors(), graveyard()
        self.live: dict[int, Operation] = {}  # by ticket, oldest first
        self.messages: set[int] = set()
        self.memory = Memory()
        self.channels = [Words("pipe", 1), Words("stream", 2), Words("datagram", 3)]
        self.pipe, self.stream, self.datagram = self.channels
        self.file = Regions(Path(tempfile.gettempdir()) / f"regions-{os.getpid()}")
        self.groups: dict[int, Any] = {}
        self.views: list[tuple[memoryview, bytes]] = []
        self.table: list[Holder | None] = []
        self.table_busy: dict[tuple[int, int], bool] = {}  # (number of a buffer, part)
        self.registered = False
        self.unsettled = 0
        self.forked = False
        self.ring: Ring
        self.options: dict[str, Any] = {}

    @initialize(pick=PICK)
    def open(self, pick: int) -> None:
        self.options = RINGS[pick % len(RINGS)]
        self.ring = Ring(8, slots=SLOTS, **self.options)

    # -- queueing --

    @property
    def full(self) -> bool:
        return len(self.live) >= MOST

    def put(self, ticket: int, operation: Operation) -> None:
        assert ticket not in self.live, "two operations with one ticket"
        self.live[ticket] = operation

    def lend(self, content: bytes, pick: int) -> tuple[Lent, Holder]:
        buffer = self.memory.lend(content)
        return buffer, Holder.of(buffer, drops=bool(pick & 1))

    @rule(pick=PICK)
    def nop(self, pick: int) -> None:
        if self.full:
            return
        flags = (Flag.NONE, Flag.ASYNC, Flag.SKIP_SUCCESS)[pick % 3]
        ticket = self.ring.nop(flags=flags)
        if flags != Flag.SKIP_SUCCESS:
            self.put(ticket, Operation("nop"))

    @rule(pick=PICK)
    def other_row(self, pick: int) -> None:
        if not self.full:
            ticket = ROWS[pick % len(ROWS)](self.ring, self.pipe.reader)
            self.put(ticket, Operation("other", plain=False, shot=lambda done: None))

    @rule(pick=PICK)
    def waits(self, pick: int) -> None:
        """Ends when it is cancelled."""
        if self.full:
            return
        if pick % 2:
            self.put(self.ring.timeout(3600), Operation("timeout"))
        else:
            self.put(self.ring.poll_add(self.datagram.writer, 2), Operation("poll"))

    @rule(way=PICK, count=st.integers(1, 8), pick=PICK)
    def receive(self, way: int, count: int, pick: int) -> None:
        """Takes words from a channel, into memory of the ring or of the program."""
        if self.full:
            return
        channel, size = self.channels[pick % 3], WORD * count
        if channel is self.datagram:
            size = 128  # longer than any datagram, which would be cut
        held: list[Holder] = []
        flags = Flag.ASYNC if pick & 32 else Flag.NONE

        def end(done: Completion) -> None:
            if done.result > 0:
                data = b"".join(each.content() for each in held) if held else done.data
                channel.take(data[: done.result])
                assert not held or set(data[done.result :]) <= {0}, "bytes beyond the result"

        ring, fd = self.ring, channel.reader
        stops = Operation("receive", end, cut=lambda: self.lose(channel, size // WORD), held=held)
        stops.plain = way % 3 != 0
        if way % 3 == 0:
            if channel is self.datagram:
                ticket = ring.recvmsg(fd, size, flags=flags)
            else:
                ticket = ring.read(fd, size, flags=flags)
        elif way % 3 == 1:
            buffer, holder = self.lend(bytes(size), pick >> 3)
            held.append(holder)
            if channel is self.datagram:
                stops.plain = False  # it has an address
                ticket = ring.recvmsg_into(fd, buffer, flags=flags)
            elif channel is self.stream:
                ticket = ring.recv_into(fd, buffer, flags=flags)
            else:
                ticket = ring.readinto(fd, buffer, flags=flags)
        else:
            parts = [WORD, size - WORD] if size > WORD else [size]
            pairs = [self.lend(bytes(part), pick >> 3) for part in parts]
            held.extend(pair[1] for pair in pairs)
            ticket = ring.readv(fd, [pair[0] for pair in pairs], flags=flags)
            pairs.clear()
        self.put(ticket, stops)
        self.memory.reuse(size)

    def lose(self, channel: Words, words: int) -> None:
        channel.lost += words

    @rule(way=PICK, count=st.integers(1, 8), pick=PICK)
    def send(self, way: int, count: int, pick: int) -> None:
        if self.full:
            return
        channel = self.channels[pick % 3]
        if channel.full + WORD * count > 16384:
            return
        data = channel.make(count)
        buffer, holder = self.lend(data, pick >> 3)
        ring, fd = self.ring, channel.writer
        held = [holder]
        shots: list[int] = []

        def end(done: Completion) -> None:
            assert holder.content() == data, "the memory of a send was changed"
            channel.ended(data, shots[0] if shots else done.result)

        operation = Operation(
            "send", end, lambda done: shots.append(done.result), held=held,
            undone=lambda: channel.ended(data, 0),
        )  # fmt: skip
        if way % 4 == 0:
            held.clear()
            ticket = (ring.write if channel is self.pipe else ring.send)(fd, buffer)
        elif way % 4 == 1:
            ticket = (ring.write if channel is self.pipe else ring.send)(fd, buffer, copy=False)
        elif way % 4 == 2 and channel is not self.pipe:
            ticket = ring.sendmsg(fd, buffer, copy=False)
        else:
            ticket = ring.writev(fd, [buffer])
        channel.began(data)
        self.put(ticket, operation)
        del buffer
        self.memory.reuse(len(data))

    @rule(pick=PICK, count=st.integers(1, 8))
    def write(self, pick: int, count: int) -> None:
        self.channels[pick % 3].put(count)

    # -- a file --

    def write_region(self, number: int, way: int, flags: Flag = Flag.NONE) -> tuple[int, bytes]:
        content, offset = self.file.fresh(), number * Regions.SIZE
        held: list[Holder] = []
        if way % 3 == 0:
            ticket = self.ring.write(self.file.fd, content, offset=offset, flags=flags)
        else:
            buffer, holder = self.lend(content, way >> 2)
            held.append(holder)
            if way % 3 == 1:
                ticket = self.ring.write(self.file.fd, buffer, offset=offset, copy=False, flags=flags)
            else:
                ticket = self.ring.writev(self.file.fd, [buffer], offset=offset, flags=flags)
        self.put(ticket, self.writing(number, content, held))
        return ticket, content

    def writing(self, number: int, content: bytes, held: list[Holder]) -> Operation:
        def cut() -> None:
            self.file.content[number] = None
            self.file.busy[number] = False

        return Operation(
            "write", lambda done: self.file.wrote(number, content, done.result), cut=cut, held=held,
            undone=lambda: self.file.wrote(number, content, -1),
        )  # fmt: skip

    def read_region(self, number: int, way: int, flags: Flag = Flag.NONE) -> int:
        held: list[Holder] = []
        if way % 3 == 0:
            ticket = self.ring.read(self.file.fd, Regions.SIZE, offset=number * Regions.SIZE, flags=flags)
        else:
            buffer, holder = self.lend(bytes(Regions.SIZE), way >> 2)
            held.append(holder)
            offset = number * Regions.SIZE
            if way % 3 == 1:
                ticket = self.ring.readinto(self.file.fd, buffer, offset=offset, flags=flags)
            else:
                ticket = self.ring.readv(self.file.fd, [buffer], offset=offset, flags=flags)
        self.put(ticket, self.reading(number, held))
        return ticket

    def reading(self, number: int, held: list[Holder]) -> Operation:
        def end(done: Completion) -> None:
            self.file.read(number, held[0].content() if held else done.data, done.result)

        def undone() -> None:
            self.file.busy[number] = False

        return Operation("read", end, cut=undone, undone=undone, held=held, plain=bool(held))

    @rule(pick=PICK, way=PICK, writes=st.booleans())
    def use_file(self, pick: int, way: int, writes: bool) -> None:
        number = None if self.full else self.file.take(pick)
        if number is None:
            return
        flags = Flag.ASYNC if pick & 32 else Flag.NONE
        if writes:
            self.write_region(number, way, flags)
        else:
            self.read_region(number, way, flags)
        self.memory.reuse(Regions.SIZE)

    @rule(pick=PICK, way=PICK, fails=st.booleans())
    def chain(self, pick: int, way: int, fails: bool) -> None:
        """A write, and a read of the same place that starts when the write has ended."""
        number = None if self.full else self.file.take(pick)
        if number is None:
            return
        self.ring.reserve(3)
        head = self.ring.nop(result=-5 if fails else None, flags=Flag.LINK)
        self.put(head, Operation("head"))
        wrote, content = self.write_region(number, way, Flag.LINK)
        read = self.read_region(number, way >> 4)
        writing, reading = self.live[wrote], self.live[read]

        def after_write(done: Completion) -> None:
            assert not fails or done.result == -errno.ECANCELED
            self.file.wrote(number, content, done.result)
            self.file.busy[number] = True  # until the read ends

        def cut_write() -> None:
            self.file.content[number] = None

        def after_read(done: Completion) -> None:
            assert not fails or done.result == -errno.ECANCELED
            self.file.read(number, reading.held[0].content() if reading.held else done.data, done.result)

        writing.end, writing.cut, writing.undone = after_write, cut_write, lambda: None
        reading.end = after_read

    @rule(pick=PICK, count=st.integers(2, 6))
    def batch_of_reads(self, pick: int, count: int) -> None:
        """Several parts of the file into parts of one buffer, by one call."""
        if len(self.live) + count > MOST:
            return
        numbers = [
            number for number in (self.file.take(pick + i) for i in range(count)) if number is not None
        ]
        if not numbers:
            return
        buffer, holder = self.lend(bytes(Regions.SIZE * len(numbers)), pick)
        offsets = array("Q", [number * Regions.SIZE for number in numbers])
        if pick & 2:
            batch = self.ring.prepare(
                "read", self.file.fd, offsets=offsets, lengths=Regions.SIZE, buffer=buffer
            )
            tickets = batch.tickets[: batch.queue()]
            del batch
        else:
            tickets = self.ring.queue_many(
                "read", self.file.fd, offsets=offsets, lengths=Regions.SIZE, buffer=buffer
            )
        del buffer
        self.memory.reuse(Regions.SIZE * len(numbers))
        for number in numbers[len(tickets) :]:
            self.file.busy[number] = False
        for place, (number, ticket) in enumerate(zip(numbers, tickets, strict=False)):
            operation = self.reading(number, [holder])
            operation.end = self.part_of(holder, place, number)
            self.put(ticket, operation)

    def part_of(self, holder: Holder, place: int, number: int) -> Callable[[Completion], None]:
        def end(done: Completion) -> None:
            at = place * Regions.SIZE
            self.file.read(number, holder.content()[at : at + Regions.SIZE], done.result)

        return end

    @rule(pick=PICK, count=st.integers(1, 20))
    def batch_of_nops(self, pick: int, count: int) -> None:
        if len(self.live) + count <= MOST:
            for ticket in self.ring.queue_many("nop", -1, count=count):
                self.put(ticket, Operation("nop"))

    @rule(pick=PICK)
    def failing_batch(self, pick: int) -> None:
        """A block that raises leaves none of its operations that are not submitted."""
        number = None if len(self.live) > MOST - 3 else self.file.take(pick)
        if number is None:
            return
        before = self.ring.info.queued
        known = set(self.live)
        with contextlib.suppress(ZeroDivisionError), self.ring.batch():
            self.put(self.ring.nop(), Operation("nop"))
            self.write_region(number, pick)
            raise ZeroDivisionError
        fresh = [ticket for ticket in self.live if ticket not in known]
        # Entries that a full queue had to submit stay.
        left = max(0, self.ring.info.queued - before)
        assert left == 0
        self.forget_unsubmitted(fresh)

    def forget_unsubmitted(self, tickets: Iterable[int]) -> None:
        for ticket in tickets:
            if not lib.udpring_ring_holds(self.ring._native, ticket):
                self.live.pop(ticket).undone()

    # -- registered memory --

    @rule(pick=PICK)
    def register(self, pick: int) -> None:
        if self.registered:
            self.ring.unregister_buffers()
            self.table, self.registered = [], False
            return
        buffers = [self.memory.lend(bytes(TABLE_SIZE)) for _ in range(TABLE)]
        self.ring.register_buffers(buffers)
        self.table = [Holder.of(buffer, drops=True) for buffer in buffers]
        self.registered = True

    @rule(pick=PICK, empty=st.booleans())
    def replace(self, pick: int, empty: bool) -> None:
        if not self.registered:
            return
        buffer = None if empty else self.memory.lend(bytes(TABLE_SIZE))
        self.ring.update_buffers(pick % TABLE, [buffer])
        self.table[pick % TABLE] = None if buffer is None else Holder.of(buffer, drops=True)

    @rule(pick=PICK, writes=st.booleans())
    def use_registered(self, pick: int, writes: bool) -> None:
        holder = self.table[pick % TABLE] if self.registered else None
        part = pick >> 2 & 7
        if self.full or holder is None or self.table_busy.get((holder.number, part)):
            return
        number = self.file.take(pick >> 5)
        if number is None:
            return
        key, start = (holder.number, part), part * Regions.SIZE
        buffer = holder.look()
        assert buffer is not None, "a registered buffer died"
        self.table_busy[key] = True
        if writes:
            content = self.file.fresh()
            memoryview(buffer)[start : start + Regions.SIZE] = content
            operation = self.writing(number, content, [holder])
        else:
            operation = self.reading(number, [holder])

            def read(done: Completion) -> None:
                self.file.read(number, holder.content()[start : start + Regions.SIZE], done.result)

            operation.end = read
        del buffer
        queue = self.ring.write_fixed if writes else self.ring.read_fixed
        ticket = queue(self.file.fd, pick % TABLE, Regions.SIZE, start=start, offset=number * Regions.SIZE)
        end, undone = operation.end, operation.undone

        def ended(done: Completion) -> None:
            self.table_busy[key] = False
            end(done)

        def taken_back() -> None:
            self.table_busy[key] = False
            undone()

        operation.end, operation.undone = ended, taken_back
        self.put(ticket, operation)

    # -- groups of buffers --

    @rule(pick=PICK, views=st.booleans())
    def provide(self, pick: int, views: bool) -> None:
        number = pick % GROUPS
        if number not in self.groups:
            self.groups[number] = self.ring.provide_buffers(number, GROUP_COUNT, GROUP_SIZE, views=views)
            return
        if any(operation.group == number for operation in self.live.values()):
            with pytest.raises(RingError) as caught:
                self.groups[number].unregister()
            assert caught.value.errno == errno.EBUSY
            del caught  # its traceback and this frame would keep the ring of a dropped program
            return
        self.groups.pop(number).unregister()
        self.unsettled = 0

    @rule(pick=PICK, way=PICK)
    def draw(self, pick: int, way: int) -> None:
        """Receives into the buffers of a group."""
        number, channel = pick % GROUPS, self.channels[way % 3]
        if self.full or number not in self.groups:
            return
        ring, fd = self.ring, channel.reader

        def shot(done: Completion) -> None:
            data = bytes(done.view) if done.view is not None else done.data
            if done.result > 0:
                if channel is not self.datagram or not many:
                    assert len(data) == done.result
                channel.take(data)
            else:
                assert not data
            if done.view is not None:
                self.views.append((done.view, data))

        many = bool(way & 8)
        if channel is self.pipe:
            ticket = (ring.read_multishot if many else ring.read_group)(fd, number)
        elif channel is self.datagram and many:
            ticket = ring.recvmsg_multishot(fd, number)
        else:
            receive = ring.recv_multishot if many else ring.recv_group
            ticket = receive(fd, number, bundle=channel is self.stream and bool(way & 16))
        most = GROUP_COUNT * GROUP_SIZE // WORD
        self.put(
            ticket,
            Operation(
                "draw", shot, shot, cut=lambda: self.lose(channel, most), group=number, plain=False
            ),
        )  # fmt: skip

    @rule(pick=PICK)
    def drop_view(self, pick: int) -> None:
        if self.views:
            view, _data = self.views.pop(pick % len(self.views))
            if pick & 1:
                view.release()

    @rule()
    def publish(self) -> None:
        for group in self.groups.values():
            group.publish()

    # -- other calls --

    @rule(pick=PICK)
    def message(self, pick: int) -> None:
        if not self.full and pick not in self.messages:
            self.put(self.ring.msg_ring(self.ring, pick), Operation("message"))
            self.messages.add(pick)

    @rule(pick=PICK)
    def attach(self, pick: int) -> None:
        if self.live:
            ticket = list(self.live)[pick % len(self.live)]
            self.live[ticket].data = thing = object()
            assert self.ring.set_data(ticket, thing) == ticket

    @rule(pick=PICK, which=PICK)
    def cancel(self, pick: int, which: int) -> None:
        if self.full:
            return
        if which % 4 == 0:
            ticket = self.ring.cancel_all()
        elif which % 4 == 1:
            ticket = self.ring.cancel_file(self.channels[pick % 3].reader)
        elif self.live:
            ticket = self.ring.cancel(list(self.live)[pick % len(self.live)])
        else:
            return
        self.put(ticket, Operation("cancel"))

    @rule(pick=PICK)
    def resize(self, pick: int) -> None:
        if self.options in ({}, {"cq_entries": 16}):
            with contextlib.suppress(RingError):  # more completions wait than the new queue holds
                self.ring.resize(8 << pick % 3)

    @rule(pick=PICK)
    def fork(self, pick: int) -> None:
        """A child that tries the ring, or does nothing, and ends."""
        if self.forked:
            return
        self.forked = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test's runner
            child = os.fork()
        if not child:
            status = 1
            try:
                if pick & 1:
                    self.ring.nop()
            except WrongThreadError:
                status = 0
            finally:
                os._exit(status if pick & 1 else 0)
        assert os.waitpid(child, 0)[1] == 0

    # -- submitting and taking --

    @rule()
    def submit(self) -> None:
        before = self.ring.info.queued
        assert self.ring.submit() == before
        assert self.ring.info.queued == 0

    @rule(count=st.integers(0, 8))
    def retract(self, count: int) -> None:
        queued = self.ring.info.queued
        taken = self.ring.retract(count)
        assert taken <= min(count, queued)
        self.forget_unsubmitted(list(self.live)[::-1])
        # A chain that lost its end goes on with the next operation.
        if taken and not self.full:
            self.put(self.ring.nop(), Operation("nop"))

    @rule(count=st.integers(0, 3), limit=st.integers(0, 40))
    def reap(self, count: int, limit: int) -> None:
        self.ring.wait(min(count, len(self.live)), 0)
        for done in self.ring.peek(5):
            assert done.ticket in self.live or done.message in self.messages or done.ticket >> 56 != 2
        self.take_all(self.ring.completions(limit if limit < 10 else None), limit)

    def take_all(self, found: list[Completion], limit: int) -> None:
        if limit:  # completions(0) looks at none
            self.unsettled = len(found) if limit < 10 else 0
        for done in found:
            self.take(done)

    @rule(turns=st.booleans())
    def reap_columns(self, turns: bool) -> None:
        if not all(operation.plain and operation.shot is None for operation in self.live.values()):
            return
        columns = self.ring.columns(9)
        if turns:
            count = columns.turn(0, 0)
        else:
            self.ring.wait(0, 0)
            count = self.ring.completions_into(columns.tickets, columns.results, columns.flags)
        self.unsettled = 0
        for i in range(count):
            ticket = columns.tickets[i]
            if ticket >> 56 == lib.UDPRING_KIND_MESSAGE:
                self.messages.discard(ticket & 0xFF)
                continue
            done = Completion(ticket, columns.results[i], columns.flags[i])
            done.user_data = self.live[ticket].data
            self.take(done)

    def take(self, done: Completion) -> None:
        if done.message is not None:
            self.messages.discard(done.message)
            return
        if done.ticket >> 56 == lib.UDPRING_KIND_SILENT:
            assert done.result < 0, "success is silent"
            return
        operation = self.live.get(done.ticket)
        assert operation is not None, "ended twice, or never queued"
        assert done.user_data is operation.data
        if done.more:
            assert operation.shot is not None, operation.name
            operation.shot(done)
            return
        del self.live[done.ticket]
        operation.end(done)

    # -- the end of a ring --

    @rule(pick=PICK)
    def close_and_reopen(self, pick: int) -> None:
        self.shut(pick)
        self.options = RINGS[pick % len(RINGS)]
        self.ring = Ring(8, slots=SLOTS, **self.options)

    def shut(self, pick: int) -> None:
        """Closes the ring, or drops it, with whatever is in flight."""
        if pick & 64:
            self.ring.close()
            assert self.ring.leaked == 0
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                cycle = any(group.views for group in self.groups.values())
                self.groups.clear()
                del self.ring
                if cycle:
                    gc.collect()  # a group with views and its ring hold each other
        for operation in self.live.values():
            operation.cut()
        self.live.clear()
        self.messages.clear()
        self.groups.clear()
        self.table, self.table_busy, self.registered, self.unsettled = [], {}, False, 0

    def finish(self) -> None:
        """Cancels everything and takes every completion."""
        deadline = time.monotonic() + PATIENCE
        self.ring.wait(0, 0)  # submits operations that have no completion
        self.take_all(self.ring.completions(), 99)
        while self.live:
            assert time.monotonic() < deadline, f"never ended: {self.live}, {self.ring.info}, {self.options}"
            self.put(self.ring.cancel_all(), Operation("cancel"))
            self.ring.wait(1, 0.01)
            self.take_all(self.ring.completions(), 99)
        info = self.ring.info
        assert (info.in_flight, info.busy_slots, info.queued) == (0, 0, 0), (info, self.options)
        assert not self.ring._data

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "ring"):
            return
        info = self.ring.info
        assert (info.stale, info.lost) == (0, 0)
        assert info.in_flight + info.queued == len(self.live) + self.silent_left(info)
        assert len(self.live) <= info.busy_slots <= len(self.live) + self.unsettled

    def silent_left(self, info: Any) -> int:
        """Operations without a completion are not in flight, but may be queued."""
        return int(info.in_flight + info.queued - len(self.live)) if info.queued else 0

    @invariant()
    def memory_agrees(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.memory.check()
        for operation in self.live.values():
            for holder in operation.held:
                assert not holder.died, f"memory of {operation.name} died before its end"
        for entry in self.table:
            assert entry is None or not entry.died, "a registered buffer died"
        for view, data in self.views:
            assert view == data, "a view shows other bytes"

    def teardown(self) -> None:
        try:
            if hasattr(self, "ring"):
                self.finish()
                self.shut(64)
            self.views.clear()
            gc.collect(0)
            for channel in self.channels:
                channel.settle()
            self.file.settle()
            self.memory.check()
        finally:
            for channel in self.channels:
                channel.close()
            self.file.close()
        assert (descriptors(), graveyard()) == self.before


TestPrograms = ProgramMachine.TestCase
TestPrograms.settings = settings(
    max_examples=PROGRAMS,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
