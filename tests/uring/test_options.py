"""Options of a ring: polling threads, shared threads, limits of workers, big entries and completions."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core_internals import lib as internals
from seccomp import run_python

from udpring import RingError, WrongThreadError
from udpring._native import lib
from udpring.uring import OPERATIONS, Completion, CompletionFlag, Flag, Ring, probe_uring

from .raw import NOP

NOP_CQE32 = 1 << 5  # Linux 6.18: the entry's off and addr become the second half of the completion


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def reap(ring: Ring, count: int) -> list[Completion]:
    found: list[Completion] = []
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        found += ring.reap(1, 1)
    assert len(found) == count
    return found


def pollers() -> int:
    """Polling threads of this process."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text())
        except OSError:
            continue  # it has just ended
    return sum(name.startswith("iou-sqp") for name in names)


# -- sq_poll --


def test_poll_thread_takes_submissions() -> None:
    with Ring(8, sq_poll=5) as ring:
        assert ring.info.setup_flags & lib.UDPRING_SETUP_SQPOLL
        assert not ring.info.setup_flags & lib.UDPRING_SETUP_DEFER_TASKRUN
        tickets = [ring.nop() for _ in range(5)]
        assert (ring.pending, ring.info.in_flight) == (5, 0)
        assert ring.submit() == 5
        assert (ring.pending, ring.info.in_flight) == (0, 5)
        until(lambda: ring.info.ready == 5)  # no call entered the kernel meanwhile
        assert [done.ticket for done in ring.completions()] == tickets
        assert ring.info.in_flight == 0


def test_sleeping_poll_thread_is_woken() -> None:
    """By each call that submits."""
    with Ring(8, sq_poll=0.001) as ring:
        for call in (lambda: ring.submit(), lambda: ring.wait(1, 30), lambda: ring.wait(0, 0)):
            until(lambda: ring.sq_needs_wakeup)
            assert ring.info.needs_wakeup
            ring.nop()
            call()
            assert len(reap(ring, 1)) == 1


def test_poll_thread_makes_room_in_a_full_queue() -> None:
    with Ring(8, slots=4096, cq_entries=4096, sq_poll=0.001) as ring:
        tickets = [ring.nop() for _ in range(3000)]
        assert [done.ticket for done in reap(ring, 3000)] == tickets
        assert (ring.info.stale, ring.info.lost) == (0, 0)


def test_poll_thread_keeps_chains_whole(pipe: tuple[int, int]) -> None:
    """The tail is stored by submit only, so a link and its successor are seen together."""
    with Ring(8, sq_poll=1) as ring:
        for _ in range(50):
            ring.reserve(3)
            first = ring.nop(result=-5, flags=Flag.LINK)
            ring.nop(flags=Flag.LINK)
            ring.nop()
            done = {each.ticket: each.result for each in reap(ring, 3)}
            assert done.pop(first) == -5
            assert set(done.values()) == {-errno.ECANCELED}


def test_retract_takes_back_what_was_not_submitted() -> None:
    with Ring(8, sq_poll=1) as ring:
        kept = ring.nop()
        ring.submit()
        ring.nop()
        ring.nop()
        assert ring.retract() == 2
        assert [done.ticket for done in reap(ring, 1)] == [kept]
        assert (ring.info.busy_slots, ring.info.in_flight) == (0, 0)


def test_close_ends_what_a_poll_thread_began(pipe: tuple[int, int]) -> None:
    until(lambda: pollers() == 0)  # those of earlier tests end in their time
    for _ in range(5):
        ring = Ring(8, sq_poll=0.001)
        for _ in range(6):
            ring.read(pipe[0], 10)
        ring.submit()
        ring.nop()
        ring.close()
        assert ring.leaked == 0
    until(lambda: pollers() == 0)


def test_poll_thread_signals_event_loops(pipe: tuple[int, int]) -> None:
    with Ring(8, sq_poll=0.001) as ring:
        signal = ring.fileno()
        ring.read(pipe[0], 5)
        ring.submit()
        os.write(pipe[1], b"hello")
        with select.epoll() as poller:
            poller.register(signal, select.EPOLLIN)
            assert poller.poll(30)
        assert [done.data for done in ring.completions()] == [b"hello"]


# -- attach, create_many --


def test_attached_rings_share_a_poll_thread() -> None:
    until(lambda: pollers() == 0)  # those of earlier tests end in their time
    with Ring(8, sq_poll=1) as first, Ring(8, sq_poll=1, attach=first) as second:
        assert second.info.setup_flags & lib.UDPRING_SETUP_ATTACH_WQ
        for ring in (first, second):
            ring.nop()
            assert len(reap(ring, 1)) == 1
        assert pollers() == 1
        first.close()
        second.nop()
        assert len(reap(second, 1)) == 1


def test_many_rings_share_workers() -> None:
    until(lambda: pollers() == 0)  # those of earlier tests end in their time
    rings = Ring.create_many(5, 8, workers=2, sq_poll=1)
    try:
        for ring in rings:
            ring.nop()
            assert len(reap(ring, 1)) == 1
        assert pollers() == 2
    finally:
        for ring in rings:
            ring.close()


def test_many_rings_or_none() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(RingError):
        Ring.create_many(3, 8, cq_entries=4)
    for count, workers in ((0, 0), (2, 3), (2, -1)):
        with pytest.raises(ValueError, match="workers"):
            Ring.create_many(count, workers=workers)
    with pytest.raises(ValueError, match="attach"):
        Ring.create_many(2, attach=0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


# -- refusals --


@pytest.mark.parametrize(
    ("options", "word", "number"),
    [
        ({"sq_poll": 1, "sq_poll_cpu": 100000}, "SQ_AFF", errno.EINVAL),
        ({"attach": 0}, "ATTACH_WQ", errno.EINVAL),
        ({"attach": 10**6}, "ATTACH_WQ", 0),
    ],
)
def test_refused_option_is_named(options: dict[str, int], word: str, number: int) -> None:
    with pytest.raises(RingError, match=word) as caught:
        Ring(8, **options)  # type: ignore[arg-type]
    assert not number or caught.value.errno == number


def test_impossible_options() -> None:
    with pytest.raises(ValueError, match="needs sq_poll"):
        Ring(8, sq_poll_cpu=0)
    for seconds in (-1, 4000):
        with pytest.raises(ValueError, match="0 to 3600"):
            Ring(8, sq_poll=seconds)
    for workers in ((0, 1), (1, 65536)):
        with pytest.raises(ValueError, match="worker threads"):
            Ring(8, iowq_workers=workers)


# -- workers --


def test_limits_of_workers() -> None:
    with Ring(8) as ring:
        assert ring.iowq_workers == (4, 4)
        ring.iowq_workers = (2, 7)
        assert ring.iowq_workers == (2, 7)
        with pytest.raises(ValueError, match="worker threads"):
            ring.iowq_workers = (0, 7)
        assert ring.iowq_workers == (2, 7)
    with Ring(8, iowq_workers=(3, 5)) as ring:
        assert ring.iowq_workers == (3, 5)


# -- big entries and completions --


@pytest.mark.parametrize(("big_sqe", "big_cqe"), [(True, False), (False, True), (True, True)])
def test_big_rings_keep_order_across_wraps(big_sqe: bool, big_cqe: bool, pipe: tuple[int, int]) -> None:
    with Ring(8, cq_entries=8, big_sqe=big_sqe, big_cqe=big_cqe) as ring:
        flags = ring.info.setup_flags
        assert bool(flags & lib.UDPRING_SETUP_SQE128) == big_sqe
        assert bool(flags & lib.UDPRING_SETUP_CQE32) == big_cqe
        for number in range(50):
            tickets = [ring.nop(result=number * 10 + each) for each in range(5)]
            done = reap(ring, 5)
            assert [each.ticket for each in done] == tickets
            assert [each.result for each in done] == [number * 10 + each for each in range(5)]
        os.write(pipe[1], b"payload")
        ring.read(pipe[0], 20)
        assert [each.data for each in reap(ring, 1)] == [b"payload"]
        ring.nop()
        ring.nop()
        assert ring.retract(1) == 1
        assert len(reap(ring, 1)) == 1


def test_second_half_of_a_completion() -> None:
    message = lib.UDPRING_KIND_MESSAGE << 56 | 9
    entry = struct.pack("=BBHiQQIIQ24x", NOP, 0, 0, -1, 2**64 - 2, 77, 0, NOP_CQE32, message)
    with Ring(8, big_cqe=True) as ring:
        assert internals.udpring_ring_raw(ring._native, entry) == 0
        (done,) = reap(ring, 1)
        if done.result == -errno.EINVAL:
            pytest.skip("no NOP with a second half: Linux 6.18")
        assert (done.message, done.extra) == (9, (2**64 - 2, 77))


# -- completions of two sizes --

needs_mixed = pytest.mark.skipif(not probe_uring().mixed_cqe, reason="no mixed completions: Linux 6.18")


def wide_nop(ring: Ring, result: int) -> int:
    """A NOP whose completion has 32 bytes."""
    nop = OPERATIONS["nop"].number
    return ring._put(nop, 0, length=result, bits=NOP_CQE32 | lib.UDPRING_NOP_INJECT_RESULT)


@needs_mixed
def test_narrow_and_wide_completions_share_a_queue() -> None:
    """The queue of 16 wraps at each place, so some wide ones need a filler before them."""
    with Ring(8, cq_entries=16, mixed_cqe=True) as ring:
        assert ring.info.setup_flags & lib.UDPRING_SETUP_CQE_MIXED
        for number in range(200):
            wide = [(number >> bit) % 2 == 1 for bit in range(5)]
            tickets = [
                wide_nop(ring, number + each) if wide[each] else ring.nop(result=number + each)
                for each in range(5)
            ]
            assert ring.wait(5, 30)
            assert ring.info.ready == 5
            peeked = ring.peek(10)
            done = ring.completions(limit=2) + ring.completions()
            assert peeked == done
            assert [each.ticket for each in done] == tickets
            assert [each.result for each in done] == [number + each for each in range(5)]
            assert [bool(each.flags & CompletionFlag.WIDE) for each in done] == wide
        assert (ring.info.in_flight, ring.info.stale, ring.info.busy_slots) == (0, 0, 0)


@needs_mixed
def test_wide_completions_carry_their_second_half() -> None:
    message = lib.UDPRING_KIND_MESSAGE << 56 | 9
    entry = struct.pack("=BBHiQQIIQ24x", NOP, 0, 0, -1, 2**64 - 2, 77, 0, NOP_CQE32, message)
    with Ring(8, mixed_cqe=True) as ring:
        ring.nop()
        assert internals.udpring_ring_raw(ring._native, entry) == 0
        ring.nop()
        assert [done.extra for done in reap(ring, 3)] == [(0, 0), (2**64 - 2, 77), (0, 0)]


@needs_mixed
def test_waits_count_wide_completions_once() -> None:
    with Ring(8, mixed_cqe=True) as ring:
        wide_nop(ring, 1)
        assert not ring.wait(2, 0)
        assert not ring.wait(2, 0.01)
        timer = ring.timeout(0.02)
        assert ring.wait(2, 30)
        assert [done.result for done in ring.completions() if done.ticket != timer] == [1]


@needs_mixed
def test_columns_and_closes_know_wide_completions(pipe: tuple[int, int]) -> None:
    with Ring(8, mixed_cqe=True) as ring:
        tickets = [wide_nop(ring, 1), ring.nop(), wide_nop(ring, 2)]
        ring.wait(3, 30)
        columns = array("Q", [0, 0]), array("i", [0, 0]), array("I", [0, 0])
        assert ring.completions_into(*columns) == 2
        assert (list(columns[0]), list(columns[1])) == (tickets[:2], [1, 0])
        assert ring.completions_into(*columns) == 1
        assert (columns[0][0], columns[1][0]) == (tickets[2], 2)
        ring.read(pipe[0], 5)
        wide_nop(ring, 3)
        ring.submit()
    assert ring.leaked == 0


def test_mixed_and_big_completions_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        Ring(8, big_cqe=True, mixed_cqe=True)


# -- peek, set_data --


def test_peek_takes_nothing(pipe: tuple[int, int]) -> None:
    with Ring(8) as ring:
        assert ring.peek() == []
        os.write(pipe[1], b"bytes")
        tickets = [ring.read(pipe[0], 10), ring.nop(result=3)]
        ring.wait(2, 30)
        for _ in range(3):
            assert [done.ticket for done in ring.peek(10)] == tickets
            (first,) = ring.peek()
            assert first.data == b"bytes"
        assert ring.info.ready == 2
        assert [done.ticket for done in ring.completions()] == tickets
        assert ring.peek() == []
        for limit in (0, 257):
            with pytest.raises(ValueError, match="1 to 256"):
                ring.peek(limit)


def test_peek_leaves_provided_buffers(pipe: tuple[int, int]) -> None:
    with Ring(8) as ring:
        ring.provide_buffers(1, 2, 16)
        ring.read_multishot(pipe[0], 1)
        for number in range(20):
            ring.submit()
            os.write(pipe[1], b"%d" % number)
            assert ring.wait(1, 30)
            assert [done.data for done in ring.peek()] == [b"%d" % number]
            assert [done.data for done in ring.completions()] == [b"%d" % number]


class Owned:
    """An object whose death shows."""

    def __init__(self, deaths: list[str], name: str) -> None:
        self.deaths, self.name = deaths, name

    def __del__(self) -> None:
        self.deaths.append(self.name)


def test_user_data_lives_until_the_last_completion(pipe: tuple[int, int]) -> None:
    deaths: list[str] = []
    with Ring(8) as ring:
        ring.provide_buffers(1, 8, 16)
        shots = ring.set_data(ring.read_multishot(pipe[0], 1), Owned(deaths, "multishot"))
        ring.set_data(ring.nop(), Owned(deaths, "single"))
        plain = ring.nop()
        done = {each.ticket: each.user_data for each in reap(ring, 2)}
        assert done.pop(plain) is None
        assert [each.name for each in done.values() if isinstance(each, Owned)] == ["single"]
        done.clear()
        assert deaths == ["single"]
        for word in (b"one", b"two"):
            os.write(pipe[1], word)
            ring.wait(1, 30)
            assert isinstance(ring.peek()[0].user_data, Owned)
            (each,) = ring.completions()
            assert (each.more, isinstance(each.user_data, Owned)) == (True, True)
            del each
        assert deaths == ["single"]
        ring.cancel(shots, flags=Flag.SKIP_SUCCESS)
        (last,) = reap(ring, 1)
        assert not last.more
        del last
        assert deaths == ["single", "multishot"]


def test_user_data_ends_with_retract_and_close(pipe: tuple[int, int]) -> None:
    deaths: list[str] = []
    ring = Ring(8)
    ring.set_data(ring.read(pipe[0], 1), Owned(deaths, "read"))
    ring.submit()
    ring.set_data(ring.nop(), Owned(deaths, "retracted"))
    ring.retract()
    assert deaths == ["retracted"]
    ring.close()
    assert deaths == ["retracted", "read"]


def test_user_data_needs_an_operation() -> None:
    with Ring(8) as ring:
        ended = ring.nop()
        reap(ring, 1)
        silent = ring.nop(flags=Flag.SKIP_SUCCESS)
        for ticket in (ended, silent, 0, 2**64 - 1):
            with pytest.raises(ValueError, match="no operation"):
                ring.set_data(ticket, object())


# -- resize, busy polling --


@pytest.mark.skipif(not probe_uring().resize, reason="the kernel cannot resize: Linux 6.13")
def test_resized_queues_keep_what_is_in_them(pipe: tuple[int, int]) -> None:
    with Ring(8, slots=512) as ring:
        reading = ring.read(pipe[0], 10)
        ready = [ring.nop(result=each) for each in range(5)]
        ring.submit()
        queued = ring.nop()
        ring.resize(64)
        assert (ring.info.sq_entries, ring.info.cq_entries) == (64, 256)
        assert [done.ticket for done in reap(ring, 6)] == [*ready, queued]
        for number in range(300):
            ring.nop(result=number)
            if number % 60 == 59:
                assert [done.result for done in reap(ring, 60)] == list(range(number - 59, number + 1))
        ring.resize(8, cq_entries=16)
        assert (ring.info.sq_entries, ring.info.cq_entries) == (8, 16)
        os.write(pipe[1], b"data")
        assert [(done.ticket, done.data) for done in reap(ring, 1)] == [(reading, b"data")]
        tickets = [ring.nop() for _ in range(30)]
        assert [done.ticket for done in reap(ring, 30)] == tickets
        assert (ring.info.in_flight, ring.info.stale, ring.info.lost) == (0, 0, 0)


def test_resize_leaves_the_ring_where_it_is_refused() -> None:
    with Ring(8, deny=lib.UDPRING_SETUP_DEFER_TASKRUN) as ring:
        with pytest.raises(RingError, match="DEFER_TASKRUN") as caught:
            ring.resize(64)
        assert caught.value.errno == errno.EINVAL
        ring.nop()
        assert len(reap(ring, 1)) == 1
    with Ring(8, cq_entries=64, slots=64) as ring:
        for entries, cq_entries in ((0, 0), (65536, 65536), (64, 8)):
            with pytest.raises(RingError):
                ring.resize(entries, cq_entries=cq_entries)
        for _ in range(40):
            ring.nop()
        ring.wait(40, 30)
        with pytest.raises(RingError):
            ring.resize(8, cq_entries=16)  # 40 completions wait
        assert len(reap(ring, 40)) == 40


@pytest.mark.skipif(not probe_uring().napi, reason="the kernel has no NAPI polling for rings: Linux 6.9")
def test_busy_polling_is_switched_on_and_off() -> None:
    with Ring(8) as ring:
        ring.busy_poll(0.00005, prefer=True)
        ring.timeout(0.001)
        assert [done.expired for done in reap(ring, 1)] == [True]
        ring.busy_poll(None)
        for seconds in (-1, 2):
            with pytest.raises(ValueError, match="0 to 1"):
                ring.busy_poll(seconds)


# -- overflow, fork, exit, exceptions --

OPTIONS = {
    "sq_poll": {"sq_poll": 0.001},
    "big": {"big_sqe": True, "big_cqe": True},
    "attached": {"sq_poll": 0.001, "attach": True},
}


@pytest.fixture(params=OPTIONS)
def optional(request: pytest.FixtureRequest) -> Iterator[Ring]:
    options: dict[str, Any] = dict(OPTIONS[request.param])
    with contextlib.ExitStack() as stack:
        if "attach" in options:
            options["attach"] = stack.enter_context(Ring(8, sq_poll=0.001))
        yield stack.enter_context(Ring(8, cq_entries=8, slots=128, **options))


def test_overflowed_completions_keep_their_order(optional: Ring) -> None:
    """The queue holds 8. The kernel keeps the others until the ring is entered."""
    tickets = []
    for number in range(100):
        tickets.append(optional.nop(result=number))
        optional.submit()
    done = reap(optional, 100)
    assert [each.ticket for each in done] == tickets
    assert [each.result for each in done] == list(range(100))
    assert (optional.info.lost, optional.info.stale, optional.info.in_flight) == (0, 0, 0)


def test_forked_child_leaves_the_ring_alone(optional: Ring) -> None:
    ticket = optional.nop()
    child = os.fork()
    if not child:
        refused = 0
        for call in (optional.submit, optional.completions, optional.peek, lambda: optional.resize(16)):
            try:
                call()
            except WrongThreadError:
                refused += 1
        optional.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert [done.ticket for done in reap(optional, 1)] == [ticket]


def test_exception_in_a_batch_retracts_it(optional: Ring) -> None:
    kept = optional.nop()
    with contextlib.suppress(KeyError), optional.batch():
        optional.set_data(optional.nop(), "lost")
        optional.nop()
        raise KeyError
    assert optional.pending == 1
    (done,) = reap(optional, 1)
    assert (done.ticket, done.user_data) == (kept, None)


def test_exit_with_operations_in_flight() -> None:
    code = (
        "import os\n"
        "from udpring.uring import Ring\n"
        "ends = os.pipe()\n"
        "rings = Ring.create_many(4, 8, workers=2, sq_poll=0.001)\n"
        "for ring in rings:\n"
        "    ring.provide_buffers(1, 4, 64, views=True)\n"
        "    ring.register_buffers([bytearray(100)])\n"
        "    ring.read_multishot(ends[0], 1)\n"
        "    ring.read_fixed(ends[0], 0, 100)\n"
        "    ring.submit()\n"
        "    ring.read(ends[0], 5)\n"
        "print('end', flush=True)\n"
    )
    child = run_python(code)
    assert (child.returncode, child.stdout) == (0, "end\n"), child.stderr
