"""A signal handler comes between any two bytecodes of a call: it closes the ring, or raises an exception."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import types
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from udpring import ClosedError
from udpring._native import lib
from udpring.uring import Ring, graveyard

from .reactors import SANITIZED

# Every step takes a ring of its own, and several bytecodes make one call into C.
STRIDE = 11 if SANITIZED else 3
FOLDER = f"{Path('udpring', 'uring')}{os.sep}"


class Interruption(BaseException):
    """What a signal handler raises."""


class Life:
    """A ring, the files and the memory that its calls use."""

    def __init__(self) -> None:
        self.ring = Ring(8, slots=32)
        self.reader, self.writer = os.pipe()
        self.buffers = [bytearray(100) for _ in range(4)]

    def run(self) -> None:
        ring, reader = self.ring, self.reader
        one, two, three, four = self.buffers
        group = ring.provide_buffers(1, 4, 64, views=True)
        ring.provide_buffers(2, 4, 64)
        ring.register_buffers([bytearray(4096)])
        ring.update_buffers(0, [bytearray(4096)])
        ring.set_data(ring.read(reader, 8), object())
        ring.readinto(reader, one)
        ring.readv(reader, [two, bytearray(8)])
        ring.recvmsg_into(reader, three)
        ring.queue_many("read", reader, lengths=8, count=2, buffer=four)
        ring.prepare("read", reader, lengths=8, count=2, buffer=four).queue()
        with ring.batch():
            ring.read_multishot(reader, 1)
            ring.read_group(reader, 2)
        ring.submit()
        os.write(self.writer, b"x" * 300)
        ring.wait(1, 1)
        ring.peek()
        found = ring.completions(3)
        del found
        ring.completions()
        ring.readinto(reader, one)
        ring.retract()
        columns = array("Q", bytes(64)), array("i", bytes(32)), array("I", bytes(32))
        ring.completions_into(*columns)
        ring.columns(8).turn(0, 0)
        group.publish()

    def end(self) -> None:
        self.ring.close()
        for end in (self.reader, self.writer):
            os.close(end)


def interrupted(life: Life, step: int, handler: Callable[[], None]) -> int:
    """Runs the calls, and the handler before bytecode ``step`` of the ring's modules. Returns the number of
    bytecodes."""
    seen = 0

    def trace(frame: types.FrameType, event: str, _argument: Any) -> Any:
        nonlocal seen
        if FOLDER not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == step:
                sys.settrace(None)
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        life.run()
    finally:
        sys.settrace(before)
    return seen


def steps() -> range:
    life = Life()
    count = interrupted(life, -1, lambda: None)
    life.end()
    assert count > 500
    return range(1, count, STRIDE)


def left() -> tuple[int, object]:
    return len(list(Path("/proc/self/fd").iterdir())), graveyard()


def test_ring_may_be_closed_within_any_call() -> None:
    """The call raises ClosedError, or returns what it had. No memory of the ring is used after its end."""
    gc.collect()
    before, refused = left(), 0
    for step in steps():
        life = Life()
        try:
            interrupted(life, step, life.ring.close)
        except ClosedError:
            refused += 1
        assert life.ring.closed, step
        for buffer in life.buffers:
            buffer.append(0)  # nobody holds it
        life.end()
    assert refused > 50
    assert left() == before


def test_exception_within_any_call_frees_no_memory_in_use() -> None:
    """Memory stays with operations that were queued, and only with them. The ring goes on."""
    gc.collect()
    before, raised = left(), 0

    def handler() -> None:
        raise Interruption

    for step in steps():
        life = Life()
        ring = life.ring
        with contextlib.suppress(Interruption):
            interrupted(life, step, handler)
            raised -= 1
        raised += 1
        for pin in range(1, 20):
            assert pin in ring._pins or not lib.udpring_ring_pinned(ring._native, pin), step
        ring.cancel_all()
        while ring.info.in_flight or ring.info.queued:
            ring.reap(1, 1)
        ring.nop()
        assert ring.reap(1, 30)[-1].result == 0
        life.end()
        for buffer in life.buffers:
            buffer.append(0)
    assert raised > 50
    assert left() == before


OUT_OF_RANGE: dict[str, Callable[[Ring, bytearray], object]] = {
    "readinto": lambda ring, buffer: ring.readinto(0, buffer, offset=2**64),
    "write": lambda ring, buffer: ring.write(2**40, buffer, copy=False),
    "recvmsg_into": lambda ring, buffer: ring.recvmsg_into(2**40, buffer),
    "readv": lambda ring, buffer: ring.readv(0, [bytearray(3), buffer], offset=2**64),
    "queue_many": lambda ring, buffer: ring.queue_many(
        "read", 0, count=2, lengths=5, buffer=buffer, group=2**50
    ),
    "futex_wait": lambda ring, buffer: ring.futex_wait(buffer, 2**64),
    "uring_cmd": lambda ring, buffer: ring.uring_cmd(0, 2**64, bytes(16), buffer=buffer),
    "update_buffers": lambda ring, buffer: ring.update_buffers(2**40, [buffer]),
}


@pytest.mark.parametrize("call", OUT_OF_RANGE)
def test_number_out_of_range_holds_no_memory(call: str) -> None:
    """The call raises before C sees it, so no completion would ever let the memory go."""
    buffer = bytearray(16)
    with Ring(8) as ring:
        with pytest.raises(OverflowError) as kept:
            OUT_OF_RANGE[call](ring, buffer)
        assert not ring._pins
        assert kept.tb  # which has the frames of the call
        buffer.append(0)
        assert (ring.info.queued, ring.info.busy_slots) == (0, 0)


def test_group_out_of_range_holds_no_memory() -> None:
    with Ring(8) as ring:
        for arguments in ((2**40, 4, 64), (1, -4, 64), (1, 4, -64)):
            with pytest.raises(OverflowError):
                ring.provide_buffers(*arguments, views=True)
        assert not ring._pins
