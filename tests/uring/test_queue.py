"""Submission and completion queue: room, order, overflow, waiting, back pressure, chains."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from seccomp import Rule, run_python

from udpring import RingError
from udpring._native import lib
from udpring.uring import Completion, Flag, Ring

from . import raw

SETS = {
    "defer": 0,
    "coop": lib.UDPRING_SETUP_DEFER_TASKRUN,
    "submit all": lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN,
    "plain": lib.UDPRING_SETUP_CLAMP,
}


@pytest.fixture(params=SETS)
def ring(request: pytest.FixtureRequest) -> Iterator[Ring]:
    with Ring(16, slots=256, deny=SETS[request.param]) as ring:
        yield ring
        assert ring.info.lost == 0


def reap(ring: Ring, count: int) -> list[Completion]:
    """Takes exactly that many completions within 10 s."""
    found: list[Completion] = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        found += ring.reap(1, 1)
    assert len(found) == count
    return found


def test_nop_brings_its_ticket_back(ring: Ring) -> None:
    tickets = [ring.nop(flags=flags) for flags in (Flag.NONE, Flag.ASYNC, Flag.NONE)]
    done = reap(ring, 3)
    assert sorted(completion.ticket for completion in done) == sorted(tickets)
    assert {completion.result for completion in done} == {0}
    assert ring.info.in_flight == ring.info.busy_slots == 0


def test_tickets_differ_and_are_never_zero(ring: Ring) -> None:
    seen = set()
    for _ in range(100):
        tickets = [ring.nop() for _ in range(10)]
        assert {completion.ticket for completion in reap(ring, 10)} == set(tickets)
        seen.update(tickets)
    assert len(seen) == 1000
    assert 0 not in seen


@pytest.mark.parametrize("entries", [2**power for power in range(3, 16)])
def test_queue_of_any_size_fills_and_drains(entries: int) -> None:
    """Completions come in order."""
    with Ring(entries, cq_entries=entries) as ring:
        for _ in range(3 if entries < 4096 else 1):
            tickets = [ring.nop() for _ in range(entries)]
            assert ring.info.queued == entries
            assert ring.submit() == entries
            assert ring.info.queued == 0
            assert [completion.ticket for completion in reap(ring, entries)] == tickets


def test_a_full_submission_queue_submits_and_loses_nothing(ring: Ring) -> None:
    """B10: an earlier implementation hung or spun. 60 operations on 16 entries: none is refused."""
    tickets = [ring.nop() for _ in range(60)]
    assert ring.info.queued <= 16
    assert [completion.ticket for completion in reap(ring, 60)] == tickets


def test_room_is_counted_across_the_wrap(ring: Ring) -> None:
    for step in (1, 5, 16, 7, 11, 16, 3):
        for queued in range(step):
            assert ring.info.queued == queued
            ring.nop()
        assert ring.submit() == step
        assert len(reap(ring, step)) == step


def test_completions_beyond_the_queue_are_kept_in_order() -> None:
    """A wait flushes the kernel's backlog."""
    with Ring(8, cq_entries=8, slots=500) as ring:
        tickets = [ring.nop() for _ in range(500)]
        ring.submit()
        assert ring.info.ready == 8
        assert [completion.ticket for completion in reap(ring, 500)] == tickets
        assert ring.info.lost == 0


def test_everything_submitted_is_counted_once(ring: Ring) -> None:
    """B11, B16: the number to submit is always tail - head, whoever submitted in between."""
    ring.nop()
    assert ring.submit() == 1
    ring.nop()
    ring.nop()
    assert ring.wait(0, 0)
    assert ring.submit() == 0
    ring.nop()
    assert len(reap(ring, 4)) == 4
    assert ring.info.in_flight == 0


def test_a_wait_ends_on_time(ring: Ring) -> None:
    begin = time.monotonic()
    assert ring.wait(1, 0.05) is False
    assert 0.05 <= time.monotonic() - begin < 5
    ring.nop()
    begin = time.monotonic()
    assert ring.wait(2, 0.05) is False
    assert time.monotonic() - begin >= 0.05
    assert len(ring.completions()) == 1


def test_a_wait_for_what_is_there_returns_at_once(ring: Ring) -> None:
    for _ in range(4):
        ring.nop()
    assert ring.wait(4, 30)
    assert ring.wait(4)  # not taken yet, so it still counts
    assert len(ring.completions()) == 4
    assert ring.wait(0)


def test_a_look_does_not_wait(ring: Ring) -> None:
    begin = time.monotonic()
    assert ring.wait(1, 0) is False
    ring.nop()
    assert ring.wait(1, 0) is True
    assert time.monotonic() - begin < 5


def test_wait_beyond_queue_size_waits_for_all() -> None:
    with Ring(8, cq_entries=8) as ring:
        for _ in range(8):
            ring.nop()
        assert ring.wait(1000, 30)


def test_bad_times_are_refused(ring: Ring) -> None:
    for seconds in (-1, -0.5, 1e12):
        with pytest.raises(ValueError, match="time"):
            ring.wait(1, seconds)
    ring.nop()
    assert ring.wait(1, 2**33)  # 272 years do not overflow


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("queued", [0, 1])
def test_a_signal_handler_runs_while_waiting(ring: Ring, queued: int) -> None:
    """Also if the kernel returns the number of submissions instead of EINTR."""

    def handler(number: int, frame: object) -> None:
        raise Interrupted

    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(queued):
            ring.nop()
        with pytest.raises(Interrupted):  # noqa: PT012 - the signal may come at once
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            ring.wait(2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(ring.reap(queued, 30)) == queued


def test_a_handler_that_returns_does_not_end_the_wait(ring: Ring) -> None:
    calls = []
    old = signal.signal(signal.SIGALRM, lambda number, frame: calls.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        begin = time.monotonic()
        assert ring.wait(1, 0.2) is False
        assert time.monotonic() - begin >= 0.2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert calls


def test_completions_appear_only_when_asked_for() -> None:
    """With DEFER_TASKRUN, completions of sockets and pipes appear only in an enter. A look does enter."""
    with Ring(16) as ring:
        reader, writer = os.pipe()
        ring.read(reader, 10)
        ring.submit()
        os.write(writer, b"x")
        assert ring.info.ready == 0
        assert ring.wait(1, 0)
        assert ring.completions()[0].data == b"x"
        ring.read(reader, 10)
        ring.submit()
        os.write(writer, b"y")
        assert ring.wait(0, 0)  # no wait, nothing queued: it enters anyway
        assert ring.completions()[0].data == b"y"
        os.close(reader)
        os.close(writer)


def test_an_empty_batch_is_fine(ring: Ring) -> None:
    assert ring.submit() == 0
    assert ring.completions() == []
    assert ring.reap(0, 0) == []


def test_an_error_hides_no_other(ring: Ring) -> None:
    """Entries after a wrong one are submitted too, each with its own result."""
    tickets = [ring.nop()]
    raw.queue(ring, raw.sqe(raw.UNKNOWN_OPCODE, user_data=77))
    tickets += [ring.read(-1, 10), ring.nop()]
    done = {completion.ticket: completion.result for completion in reap(ring, 3)}
    assert [done[ticket] for ticket in tickets] == [0, -errno.EBADF, 0]
    assert ring.info.stale == 1  # the completion of the wrong entry, which has no ticket
    assert ring.info.in_flight == 0


def test_completions_of_nobody_are_counted_and_skipped() -> None:
    with Ring(8) as ring:
        for user_data in (0, 1, 2**63, 2 << 56 | 5, 2 << 56 | 2**31):
            raw.queue(ring, raw.sqe(raw.NOP, user_data=user_data))
        ticket = ring.nop()
        ring.wait(6, 30)
        assert [completion.ticket for completion in ring.completions()] == [ticket]
        assert ring.info.stale == 5


def results(ring: Ring, tickets: list[int]) -> list[int]:
    done = {completion.ticket: completion.result for completion in reap(ring, len(tickets))}
    return [done[ticket] for ticket in tickets]


def test_a_chain_runs_in_order(ring: Ring) -> None:
    reader, writer = os.pipe()
    tickets = [
        ring.write(writer, b"first ", flags=Flag.LINK),
        ring.write(writer, b"second", flags=Flag.LINK),
        ring.read(reader, 100),
    ]
    done = reap(ring, 3)
    assert [completion.ticket for completion in done] == tickets
    assert done[2].data == b"first second"
    os.close(reader)
    os.close(writer)


def test_failed_link_cancels_rest_hard_link_holds(ring: Ring) -> None:
    soft = [ring.read(-1, 1, flags=Flag.LINK), ring.nop(flags=Flag.LINK), ring.nop()]
    assert results(ring, soft) == [-errno.EBADF, -errno.ECANCELED, -errno.ECANCELED]
    hard = [ring.read(-1, 1, flags=Flag.HARDLINK), ring.nop(flags=Flag.HARDLINK), ring.nop()]
    assert results(ring, hard) == [-errno.EBADF, 0, 0]


def test_a_linked_time_out_ends_a_read(ring: Ring) -> None:
    reader, writer = os.pipe()
    tickets = [ring.read(reader, 1, flags=Flag.LINK), ring.link_timeout(0.02)]
    assert results(ring, tickets) == [-errno.ECANCELED, -errno.ETIME]
    os.write(writer, b"x")
    tickets = [ring.read(reader, 1, flags=Flag.LINK), ring.link_timeout(60)]
    assert results(ring, tickets) == [1, -errno.ECANCELED]
    os.close(reader)
    os.close(writer)


def test_a_chain_is_never_cut_by_a_full_queue(ring: Ring) -> None:
    for _ in range(15):
        ring.nop()
    ring.nop(flags=Flag.LINK)
    with pytest.raises(RingError, match="reserve") as caught:
        ring.nop()
    assert caught.value.errno == errno.E2BIG
    assert (ring.info.queued, ring.info.busy_slots) == (16, 16)
    ring.retract(1)
    ring.reserve(3)
    assert ring.info.queued == 0
    chain = [ring.nop(flags=Flag.LINK), ring.nop(flags=Flag.LINK), ring.nop()]
    assert [completion.ticket for completion in reap(ring, 18)][-3:] == chain
    with pytest.raises(RingError, match="holds 16 entries: open the ring with entries=17") as caught:
        ring.reserve(17)
    assert caught.value.errno == errno.E2BIG


def test_drain_waits_for_all_before(ring: Ring) -> None:
    slow = ring.timeout(0.03)
    drained = ring.nop(flags=Flag.DRAIN)
    after = ring.nop()
    done = [completion.ticket for completion in reap(ring, 3)]
    assert done.index(slow) < done.index(drained)
    assert after in done


def test_skip_success_is_silent_unless_it_fails(ring: Ring) -> None:
    ring.nop(flags=Flag.SKIP_SUCCESS)
    failing = ring.cancel(12345, flags=Flag.SKIP_SUCCESS)
    last = ring.nop()
    ring.wait(2, 30)
    done = {completion.ticket: completion.result for completion in ring.completions()}
    assert done == {failing: -errno.ENOENT, last: 0}
    assert ring.info.in_flight == 0
    reader, writer = os.pipe()
    with pytest.raises(RingError, match="owns memory") as caught:
        ring.read(reader, 1, flags=Flag.SKIP_SUCCESS)
    assert caught.value.errno == errno.EINVAL
    os.close(reader)
    os.close(writer)


def test_a_failing_batch_leaves_nothing(ring: Ring) -> None:
    """B3: a preparation that fails leaves neither a partial entry nor a slot."""
    kept = ring.nop()

    def half_done() -> None:
        with ring.batch():
            ring.nop()
            ring.write(1, b"payload")
            ring.read(0, 2**31)  # more than one operation can read

    with pytest.raises(RingError, match="at most") as caught:
        half_done()
    assert caught.value.errno == errno.ERANGE
    assert (ring.info.queued, ring.info.busy_slots) == (1, 1)
    assert [completion.ticket for completion in reap(ring, 1)] == [kept]
    assert ring.info.stale == 0


def test_what_is_retracted_never_happens(ring: Ring) -> None:
    reader, writer = os.pipe()
    first = ring.nop()
    ring.write(writer, b"no")
    ring.write(writer, b"no")
    assert ring.retract(2) == 2
    second = ring.nop()
    assert [completion.ticket for completion in reap(ring, 2)] == [first, second]
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 10)
    ring.nop()
    assert ring.retract() == 1
    assert ring.retract() == 0
    os.close(reader)
    os.close(writer)


def test_polling_thread_takes_nothing_at_a_retract() -> None:
    """It looks at the tail of the queue, which must not move before a submit."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with Ring(8, sq_poll=1) as ring:
        for _ in range(50):
            ring.nop()
            assert len(ring.reap(1, 30)) == 1  # the thread is awake now
            for text in (b"one", b"two", b"three"):
                ring.write(writer, text)
            assert ring.retract(1) == 1
            assert ring.retract() == 2
            last = ring.nop()
            assert [done.ticket for done in ring.reap(1, 30)] == [last]
            with pytest.raises(BlockingIOError):
                os.read(reader, 10)
        info = ring.info
        assert (info.stale, info.in_flight) == (0, 0)
    os.close(reader)
    os.close(writer)


def test_results_can_be_injected() -> None:
    """NOP_INJECT_RESULT makes an operation fail as wanted."""
    with Ring(8) as ring:
        for result in (0, 1, 4096, -errno.EAGAIN, -errno.ENOBUFS, -(2**31), 2**31 - 1):
            ring.nop(result=result)
            assert ring.reap(1, 30)[0].result == result
        ring.nop(result=-errno.ENOBUFS)
        with pytest.raises(OSError, match="buffer space") as caught:
            ring.reap(1, 30)[0].check()
        assert caught.value.errno == errno.ENOBUFS


PRESSURE = """
import errno, os
from udpring import RingError
from udpring.uring import Ring
with Ring(8) as ring:
    reader, writer = os.pipe()
    early = ring.read(reader, 10)
    assert ring.submit() == 1
    tickets = [ring.nop() for _ in range(4)]     # from 4 entries on the kernel takes none
    assert ring.submit() == 0, "submitted"
    assert ring.info.queued == 4
    try:
        ring.wait(1, 0.05)
        print("no error")
    except RingError as error:
        print(error.errno == EXPECTED)
    os.write(writer, b"x")
    for _ in range(100):
        try: ring.wait(1, 0.05)
        except RingError: pass
        done = ring.completions()
        if done: break
    print(done[0].ticket == early, ring.info.queued)
    assert ring.retract(2) == 2
    print([completion.ticket for completion in ring.reap(2, 30)] == tickets[:2], ring.info.queued)
"""


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EBUSY])
def test_submissions_refused_for_want_of_memory_stay_queued(error: int) -> None:
    """B11, B12: back pressure is no failure. Completions are still reaped, and the entries are submitted
    later."""
    child = run_python(
        PRESSURE.replace("EXPECTED", str(error)), [Rule("io_uring_enter", error, ((1, ">=", 4),))]
    )
    assert child.stdout.split() == ["True", "True", "4", "True", "0"], child.stderr


def test_an_enter_refused_altogether_is_an_error() -> None:
    code = """
from udpring import RingError
from udpring.uring import Ring
ring = Ring(8)
ring.nop()
for call in (ring.submit, lambda: ring.wait(1, 1)):
    try: call()
    except RingError as error: print(error.errno)
"""
    child = run_python(code, [Rule("io_uring_enter", errno.EIO, ((1, ">=", 1),))])
    assert child.stdout.split()[:2] == [str(errno.EIO)] * 2, child.stderr


def test_all_slots_busy_is_said_and_nothing_is_queued() -> None:
    with Ring(8, slots=4) as ring:
        for _ in range(4):
            ring.nop()
        with pytest.raises(RingError, match="all 4 operation slots are busy") as caught:
            ring.nop()
        assert caught.value.errno == errno.ENOBUFS
        assert ring.info.queued == 4
        assert len(ring.reap(4, 30)) == 4
        ring.nop()
        assert len(ring.reap(1, 30)) == 1


def test_many_rounds_at_the_edge_lose_nothing() -> None:
    """A small ring and far more operations than its queues hold, in batches of uneven size."""
    with Ring(8, cq_entries=16, slots=64) as ring:
        sent: list[int] = []
        got: list[int] = []
        for turn in range(400):
            for _ in range(turn % 23):
                sent.append(ring.nop(flags=Flag.ASYNC if turn % 7 == 0 else Flag.NONE))
            ring.wait(0, 0)
            got += [completion.ticket for completion in ring.completions()]
            while len(sent) - len(got) > 32:
                got += [completion.ticket for completion in ring.reap(1, 30)]
        while len(got) < len(sent):
            found = ring.reap(1, 30)
            assert found
            got += [completion.ticket for completion in found]
        assert sorted(got) == sorted(sent)


REFUSED: dict[str, tuple[Callable[[Ring], object], int]] = {
    "unknown flags": (lambda ring: ring.nop(flags=Flag(128)), errno.EINVAL),
    "buffer select": (lambda ring: ring.nop(flags=Flag(32)), errno.EINVAL),
    "group": (lambda ring: ring.read_multishot(0, 9), errno.ENOENT),
    "registered buffer": (lambda ring: ring.read_fixed(0, 0, 10), errno.ERANGE),
    "message": (lambda ring: ring.msg_ring(ring, 2**56), errno.ERANGE),
    "control": (lambda ring: ring.recvmsg(0, 10, control_length=70000), errno.ERANGE),
    "eventfd": (lambda ring: ring.register_eventfd(None), errno.ENXIO),
    "no files": (lambda ring: ring.unregister_files(), errno.ENXIO),
    "no buffers": (lambda ring: ring.unregister_buffers(), errno.ENXIO),
    "no sizes": (lambda ring: ring.register_buffers([]), errno.EINVAL),
    "no table": (lambda ring: ring.update_files(0, [None]), errno.ENXIO),
    "empty table": (lambda ring: ring.register_files(0), errno.EINVAL),
    "bad file": (lambda ring: ring.register_files([99999]), errno.EBADF),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_arguments_are_refused_and_queue_nothing(ring: Ring, what: str) -> None:
    call, number = REFUSED[what]
    with pytest.raises(RingError) as caught:
        call(ring)
    assert caught.value.errno == number
    assert (ring.info.queued, ring.info.busy_slots) == (0, 0)
