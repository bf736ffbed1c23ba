"""The end of a ring: operations in flight, wrong thread, forked child, no close at all (R5)."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from core_internals import lib as internals
from seccomp import run_python

from udpring import ClosedError, WrongThreadError
from udpring._native import lib
from udpring.uring import Flag, Ring, graveyard

from . import raw

CALLS: dict[str, Callable[[Ring], object]] = {
    "nop": lambda ring: ring.nop(),
    "read": lambda ring: ring.read(0, 1),
    "submit": lambda ring: ring.submit(),
    "wait": lambda ring: ring.wait(1, 1),
    "completions": lambda ring: ring.completions(),
    "reap": lambda ring: ring.reap(1, 1),
    "info": lambda ring: ring.info,
    "reserve": lambda ring: ring.reserve(1),
    "retract": lambda ring: ring.retract(),
    "enable": lambda ring: ring.enable(),
    "provide_buffers": lambda ring: ring.provide_buffers(1, 8, 16),
    "register_files": lambda ring: ring.register_files(4),
    "update_files": lambda ring: ring.update_files(0, [None]),
    "register_eventfd": lambda ring: ring.register_eventfd(0),
    "register_buffers": lambda ring: ring.register_buffers([4096]),
    "enter": lambda ring: ring.__enter__(),
}


def descriptors() -> int:
    gc.collect()  # garbage of an earlier test may hold descriptors
    return len(list(Path("/proc/self/fd").iterdir()))


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("io_uring")


@pytest.mark.parametrize("call", CALLS)
def test_after_close_every_call_says_so(call: str) -> None:
    """B7: an earlier implementation touched unmapped memory here."""
    ring = Ring(8)
    ring.close()
    with pytest.raises(ClosedError):
        CALLS[call](ring)
    with pytest.raises(ClosedError):
        ring.fileno()
    with pytest.raises(ClosedError):
        _ = ring.ring_fd


def test_a_second_close_does_nothing() -> None:
    """B6: a second close once unmapped memory that had a new owner."""
    before = descriptors(), mappings()
    ring = Ring(8)
    assert not ring.closed
    for _ in range(3):
        ring.close()
        assert ring.closed
    with Ring(8) as other:
        other.close()
    assert (descriptors(), mappings()) == before


@pytest.mark.parametrize("call", CALLS)
def test_another_thread_is_refused(call: str) -> None:
    """The ring has a single issuer."""
    caught: list[BaseException] = []

    def misuse(ring: Ring) -> None:
        try:
            CALLS[call](ring)
        except BaseException as error:
            caught.append(error)

    with Ring(8) as ring:
        thread = threading.Thread(target=misuse, args=(ring,))
        thread.start()
        thread.join()
        assert [type(error) for error in caught] == [WrongThreadError]
        assert "thread" in str(caught[0])
        ring.nop()
        assert len(ring.reap(1, 30)) == 1


def test_another_thread_cannot_close_while_the_owner_lives() -> None:
    caught: list[BaseException] = []

    def misuse(ring: Ring) -> None:
        try:
            ring.close()
        except WrongThreadError as error:
            caught.append(error)

    with Ring(8) as ring:
        thread = threading.Thread(target=misuse, args=(ring,))
        thread.start()
        thread.join()
        assert len(caught) == 1
        assert not ring.closed
        ring.nop()
        assert len(ring.reap(1, 30)) == 1


def busy(ring: Ring, ends: tuple[int, int], sock: socket.socket, count: int) -> None:
    """Operations of every kind that do not end without a cancel."""
    ring.provide_buffers(1, 8, 64)
    for number in range(count):
        match number % 7:
            case 0:
                ring.read(ends[0], 100)
            case 1:
                ring.recvmsg(sock, 100, control_length=100)
            case 2:
                ring.poll_add(ends[0])
            case 3:
                ring.timeout(3600)
            case 4:
                ring.read_multishot(ends[0], 1)
            case 5:
                ring.read(ends[0], 100, flags=Flag.ASYNC)
            case 6:
                ring.read(ends[0], 100, flags=Flag.LINK)
                ring.link_timeout(3600)
    ring.submit()


@pytest.mark.parametrize("count", [1, 7, 100, 2000])
@pytest.mark.parametrize("deny", [0, lib.UDPRING_SETUP_DEFER_TASKRUN, lib.UDPRING_SETUP_CLAMP])
def test_a_close_ends_everything_in_flight(count: int, deny: int) -> None:
    """B1: nothing is freed before the kernel is done with it, and that takes little time."""
    ends, graves = os.pipe(), graveyard()
    before = descriptors(), mappings()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        ring = Ring(64, cq_entries=128 if not deny & lib.UDPRING_SETUP_CLAMP else 0, slots=4096, deny=deny)
        busy(ring, ends, sock, count)
        assert ring.info.in_flight >= count
        ring.close()
        # Data that arrives now must reach no buffer.
        os.write(ends[1], b"late" * 1000)
        sock.sendto(b"late", sock.getsockname())
    assert ring.leaked == 0
    assert graveyard() == graves
    assert (descriptors(), mappings()) == before
    for end in ends:
        os.close(end)


def test_close_cancels_operations_one_by_one() -> None:
    """Kernels before 5.19 need a cancel with the user_data of each operation."""
    deny = lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN
    deny |= internals.UDPRING_DENY_CANCEL_ANY
    reader, writer = os.pipe()
    ring = Ring(16, slots=500, deny=deny)
    for _ in range(300):
        ring.read(reader, 10)
        ring.submit()
    ring.timeout(3600)
    ring.submit()
    ring.write(writer, b"never")
    ring.close()
    assert ring.leaked == 0
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 10)
    os.close(reader)
    os.close(writer)


def test_close_cancels_in_front_of_a_drain() -> None:
    """Operations with DRAIN, and all behind them, wait for those before: cancels too."""
    reader, writer = os.pipe()
    graves = graveyard()
    with Ring(8) as ring:
        ring.read(reader, 10)
        ring.nop(flags=Flag.DRAIN)
        ring.nop()
        ring.submit()
        assert ring.info.in_flight == 3
    assert (ring.leaked, graveyard()) == (0, graves)
    os.close(reader)
    os.close(writer)


def test_a_close_drops_what_was_never_submitted() -> None:
    """B2: an abandoned entry is never submitted later."""
    reader, writer = os.pipe()
    ring = Ring(8)
    ring.write(writer, b"never")
    ring.close()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 10)
    os.close(reader)
    os.close(writer)


def test_a_close_with_completions_waiting_and_overflowed() -> None:
    ring = Ring(8, cq_entries=8, slots=500)
    for _ in range(400):
        ring.nop()
    ring.submit()
    ring.close()
    assert ring.leaked == 0


def test_a_close_with_completions_shown_but_not_settled() -> None:
    ring = Ring(8)
    reader, writer = os.pipe()
    ring.provide_buffers(1, 2, 64)
    ring.read_multishot(reader, 1)
    ring.submit()
    os.write(writer, b"x")
    assert ring.wait(1, 30)
    assert lib.udpring_ring_harvest(ring._native, ring._harvest.native, 8) == 1
    ring.close()
    assert ring.leaked == 0
    os.close(reader)
    os.close(writer)


def test_what_will_not_end_is_leaked_and_counted() -> None:
    """When the bound of a close has passed, memory is leaked and counted, not freed under the kernel.

    A NOP that posts no completion stands for an operation that hangs in the kernel.
    """
    blocks, size = graveyard()
    ring = Ring(8)
    held = ring.register_buffers([4096])
    (reader, writer), used = os.pipe(), bytearray(10)
    ring.readinto(reader, used)
    raw.queue(ring, raw.sqe(raw.NOP, flags=raw.CQE_SKIP_SUCCESS, user_data=2 << 56))
    ring.submit()
    assert ring.info.in_flight == 2
    begin = time.monotonic()
    with pytest.warns(ResourceWarning, match="1 operations did not end within 2 s"):
        ring.close()
    assert 1.9 <= time.monotonic() - begin < 20
    assert (ring.leaked, ring.closed) == (1, True)
    assert graveyard()[0] > blocks
    assert graveyard()[1] > size
    held[0][:4] = b"safe"
    with pytest.raises(BufferError):
        used.append(0)  # which of the operations hangs is not known
    os.close(reader)
    os.close(writer)


def test_many_rings_leave_nothing_behind() -> None:
    ends = os.pipe()
    before = descriptors(), mappings()
    threads = threading.enumerate()  # those of other tests may end meanwhile
    for _ in range(200):
        with Ring(8) as ring:
            ring.provide_buffers(1, 8, 64)
            ring.register_files(4)
            ring.register_buffers([4096])
            for _ in range(3):
                ring.read(ends[0], 10)
            ring.submit()
    assert (descriptors(), mappings()) == before
    assert not set(threading.enumerate()).difference(threads)
    for end in ends:
        os.close(end)


def test_a_forgotten_ring_is_closed_with_a_warning() -> None:
    before = descriptors(), mappings()
    rings = [Ring(8)]
    rings[0].timeout(3600)
    rings[0].submit()
    with pytest.warns(ResourceWarning, match="unclosed"):
        rings.clear()
    gc.collect()
    assert (descriptors(), mappings()) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_forgotten_ring_is_closed_where_warnings_are_errors() -> None:
    before, graves = (descriptors(), mappings()), graveyard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rings = [Ring(8)]
        rings[0].timeout(3600)
        rings[0].submit()
        rings.clear()
    assert ((descriptors(), mappings()), graveyard()) == (before, graves)


def test_ring_of_ended_thread_can_be_closed() -> None:
    """No thread can cancel any more, so operations in flight are leaked, not freed."""
    made: list[Ring] = []
    reader, writer = os.pipe()

    def open_one() -> None:
        ring = Ring(8)
        ring.read(reader, 10)
        ring.submit()
        made.append(ring)

    thread = threading.Thread(target=open_one)
    thread.start()
    thread.join()
    ring = made.pop()
    with pytest.raises(WrongThreadError):
        ring.nop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        end = time.monotonic() + 10
        while not ring.closed and time.monotonic() < end:
            try:
                ring.close()
            except WrongThreadError:
                time.sleep(0.001)  # join returns shortly before the kernel's thread ends
    assert ring.closed
    assert ring.leaked == 1
    os.close(reader)
    os.close(writer)


def test_an_idle_ring_whose_thread_ended_leaks_nothing() -> None:
    made: list[Ring] = []
    thread = threading.Thread(target=lambda: made.append(Ring(8)))
    thread.start()
    thread.join()
    ring, graves, end = made.pop(), graveyard(), time.monotonic() + 10
    while not ring.closed and time.monotonic() < end:
        try:
            ring.close()
        except WrongThreadError:
            time.sleep(0.001)
    assert (ring.leaked, graveyard()) == (0, graves)


FORK = """
import os, sys
from udpring import WrongThreadError, ClosedError
from udpring.uring import Ring
ring = Ring(8)
reader, writer = os.pipe()
ring.provide_buffers(9, 256, 4096)
ring.read(reader, 10)
ring.submit()
child = os.fork()
if child == 0:
    said = [open("/proc/self/maps").read().count("io_uring") == 0]
    for call in (ring.nop, ring.submit, lambda: ring.wait(1, 1), ring.completions, lambda: ring.info,
                 lambda: ring.register_files(4), lambda: ring.provide_buffers(1, 8, 8)):
        try: call()
        except WrongThreadError as error: said.append("forked child" in str(error))
    if {close}: ring.close()
    del ring
    with Ring(8) as own:
        own.nop()
        said.append(len(own.reap(1, 30)) == 1)
    print(all(said), len(said), flush=True)
    os._exit(0)
print("status", os.waitpid(child, 0)[1], flush=True)
os.write(writer, b"parent")
print(ring.reap(1, 30)[0].data, flush=True)
ring.close()
print(ring.leaked)
"""


@pytest.mark.parametrize("close", [True, False])
def test_forked_child_is_refused(close: bool) -> None:
    """The queues are not even mapped in the child."""
    child = run_python(FORK.replace("{close}", str(close)))
    assert child.stdout.splitlines() == ["True 9", "status 0", "b'parent'", "0"], child.stderr


def test_a_program_may_end_with_operations_in_flight() -> None:
    """The program ends without a cleanup."""
    code = """
import os, warnings
warnings.simplefilter("ignore")
from udpring.uring import Ring
ring = Ring(64, slots=400)
reader, writer = os.pipe()
for _ in range(200):
    ring.read(reader, 10)
    ring.timeout(3600)
ring.submit()
print("ends")
"""
    child = run_python(code + "os._exit(3)")
    assert child.returncode == 3, child.stderr
    child = run_python(code)
    assert (child.returncode, child.stdout.strip()) == (0, "ends"), child.stderr


def test_close_during_foreign_wait_is_refused() -> None:
    """B17: a wait holds no lock. A message ends the wait of another thread."""
    opened, ended = threading.Event(), threading.Event()
    held: list[Ring] = []

    def wait() -> None:
        with Ring(8) as ring:
            held.append(ring)
            opened.set()
            ring.wait(1)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert opened.wait(10)
    with pytest.raises(WrongThreadError):
        held[0].close()
    with Ring(8) as ring:
        ring.msg_ring(held[0], 1)
        assert ring.reap(1, 30)[0].result == 0
        assert ended.wait(30)
    thread.join(10)
    with pytest.raises(ClosedError):
        held[0].fileno()


def test_wrong_thread_is_not_reported_as_eexist() -> None:
    with Ring(8) as ring:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(lib.udpring_ring_submit(ring._native)))
        thread.start()
        thread.join()
        assert found == [-errno.EXDEV]
