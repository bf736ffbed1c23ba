"""Misuse of rings with threads, close and fork. Each has a defined outcome, on each tier."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from udpring.errors import ClosedError, WrongThreadError
from udpring.udp import RecvRing, SendRing

from .conftest import BOUND, Pair, take


def in_thread(work: Callable[[], None]) -> None:
    """Runs it in another thread and waits for its end. Its failure fails the test."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive(), "it hangs"
    if failures:
        raise failures[0]


def calls_of_the_owner(receiver: RecvRing, sender: SendRing, to: object) -> list[Callable[[], object]]:
    """Every call that only the owner's thread may make."""
    return [
        lambda: receiver.recv_batch(timeout=0),
        lambda: sender.send_batch([b"x"], to),  # type: ignore[arg-type]
        lambda: sender.submit([b"x"], to),  # type: ignore[arg-type]
        lambda: sender.reap(),
        lambda: sender.drain(timeout=0),
    ]


def test_owner_calls_are_refused_to_other_threads(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:

        def trespass() -> None:
            for call in calls_of_the_owner(receiver, sender, pair4.to):
                with pytest.raises(WrongThreadError, match="another thread"):
                    call()

        in_thread(trespass)
        sender.send_batch([b"still fine"], pair4.to)
        assert [bytes(packet) for packet in take(receiver, 1)] == [b"still fine"]


def test_looking_is_for_any_thread_while_the_owner_works(tier: str, pair4: Pair) -> None:
    """Counters only grow, for every reader at any time."""
    stop = threading.Event()
    seen: list[tuple[int, int]] = []
    with RecvRing(pair4.sink, buffers=8, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:

        def look() -> None:
            while not stop.is_set():
                received, sent = receiver.stats["packets"], sender.stats["packets"]
                assert 0 <= receiver.leased <= 8
                assert sender.pending >= 0
                assert not receiver.closed
                assert not sender.closed
                assert "closed" not in repr(receiver) + repr(sender)
                assert receiver.tier == sender.tier == tier
                seen.append((received, sent))

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(300):
                sender.send_batch([b"%d" % number] * 3, pair4.to)
                take(receiver, 3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert receiver.stats["packets"] == sender.stats["packets"] == 900
    for column in range(2):
        assert all(0 <= row[column] <= 900 for row in seen)


def test_after_close_every_call_says_so(tier: str, pair4: Pair) -> None:
    receiver, sender = RecvRing(pair4.sink, tier=tier), SendRing(pair4.source, tier=tier)
    for _ in range(3):
        receiver.close()
        sender.close()
    assert receiver.closed
    assert sender.closed
    for call in calls_of_the_owner(receiver, sender, pair4.to):
        with pytest.raises(ClosedError, match="was closed"):
            call()
    for ring in (receiver, sender):
        with pytest.raises(ClosedError):
            _ = ring.stats
        assert ring.tier == tier
        assert ring.tier_reason == ""
        assert "closed" in repr(ring)
    assert receiver.leased == sender.pending == 0
    in_thread(receiver.close)
    in_thread(sender.close)


def test_calls_racing_a_close_find_it_closed(tier: str, pair4: Pair) -> None:
    """A handle closed by one thread is not freed while another is about to use it."""
    for _ in range(40):
        receiver, sender = RecvRing(pair4.sink, buffers=2, tier=tier), SendRing(pair4.source, tier=tier)
        ready, stop = threading.Barrier(4), threading.Event()
        unexpected: list[BaseException] = []

        def trespass(
            receiver: RecvRing = receiver,
            sender: SendRing = sender,
            ready: threading.Barrier = ready,
            stop: threading.Event = stop,
            unexpected: list[BaseException] = unexpected,
        ) -> None:
            looks: list[Callable[[], object]] = [lambda: receiver.stats, lambda: sender.stats]
            looks += [lambda: receiver.leased, lambda: sender.pending]
            ready.wait()
            while not stop.is_set():
                for call in calls_of_the_owner(receiver, sender, pair4.to) + looks:
                    try:
                        call()
                    except (ClosedError, WrongThreadError):
                        pass
                    except BaseException as error:
                        unexpected.append(error)

        threads = [threading.Thread(target=trespass) for _ in range(3)]
        for thread in threads:
            thread.start()
        ready.wait()
        receiver.recv_batch(timeout=0)
        sender.send_batch([b"x"], pair4.to)
        receiver.close()
        sender.close()
        stop.set()
        for thread in threads:
            thread.join()
        assert not unexpected


@pytest.mark.parametrize("patience", [None, 60])
def test_close_from_another_thread_ends_wait(tier: str, pair4: Pair, patience: float | None) -> None:
    for _ in range(5):
        ring: list[RecvRing] = []
        waiting, ended = threading.Event(), threading.Event()

        def wait(
            ring: list[RecvRing] = ring, waiting: threading.Event = waiting, ended: threading.Event = ended
        ) -> None:
            ring.append(RecvRing(pair4.sink, tier=tier))
            waiting.set()
            with pytest.raises(ClosedError):
                ring[0].recv_batch(timeout=patience)
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(BOUND)
        ring[0].close()
        assert ended.wait(BOUND), "still waiting"
        thread.join(BOUND)
        assert ring[0].closed
        ring[0].close()


@pytest.mark.parametrize("which", ["receive", "send"])
def test_a_signal_handler_may_close_the_ring_it_interrupts(tier: str, pair4: Pair, which: str) -> None:
    """The handler runs in the owner's thread between two steps of the call. The call must notice."""
    receiver, sender = RecvRing(pair4.sink, tier=tier), SendRing(pair4.source, tier=tier)
    ring = receiver if which == "receive" else sender

    def work() -> None:
        while True:  # a send on loopback ends at once: the signal hits one, or a send finds the ring closed
            receiver.recv_batch() if which == "receive" else sender.send_batch([b"x"] * 50, pair4.to)

    before = signal.signal(signal.SIGALRM, lambda *_: ring.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(ClosedError):
            work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    receiver.close()
    sender.close()


def test_releasing_twice_or_never_is_the_same(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=8, tier=tier, lease_limit=8) as ring:
        for number in range(40):
            pair4.source.sendto(b"%d" % number, pair4.to)
            batch = ring.recv_batch(timeout=BOUND)
            assert batch.payloads() == [b"%d" % number]
            with batch:
                batch.release()
                batch.release()
            batch.release()
            del batch
        for number in range(40):  # bounded; normally the close comes first
            pair4.source.sendto(b"%d" % number, pair4.to)
            assert ring.recv_batch(timeout=BOUND).payloads() == [b"%d" % number]
        gc.collect()
        assert not ring.recv_batch(timeout=0)
        assert ring.leased == 0
        assert ring.stats["stale"] == 0


def test_views_outlive_released_batch_and_closed_ring(tier: str, pair4: Pair) -> None:
    ring = RecvRing(pair4.sink, buffers=8, tier=tier, lease_limit=8)
    pair4.source.sendto(b"payload", pair4.to)
    batch = ring.recv_batch(timeout=BOUND)
    views = [batch[0].data[start:] for start in range(7)]
    batch.release()
    ring.close()
    batch.release()
    del ring, batch
    gc.collect()
    assert [bytes(view) for view in views] == [b"payload"[start:] for start in range(7)]


def test_ring_collected_elsewhere_warns(tier: str, pair4: Pair) -> None:
    """Only its own thread could close it, so it lives until the process ends. Close rings."""
    box: list[RecvRing | SendRing] = [RecvRing(pair4.sink, buffers=4, tier=tier)]
    box.append(SendRing(pair4.source, tier=tier))
    pair4.source.sendto(b"view", pair4.to)
    receiver = box[0]
    assert isinstance(receiver, RecvRing)
    (packet,) = take(receiver, 1)
    del receiver
    caught: list[str] = []

    def drop() -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            box.clear()
            gc.collect()
        caught.extend(str(warning.message) for warning in seen)

    in_thread(drop)
    assert sum("unclosed" in text for text in caught) == 2
    assert bytes(packet) == b"view"
    with RecvRing(pair4.sink, tier=tier) as ring, contextlib.suppress(OSError):
        ring.recv_batch(timeout=0)


def child_status(work: Callable[[], bool]) -> int:
    """How a forked child ended: 0 if ``work`` returned true."""
    child = os.fork()
    if not child:
        answer = False
        with contextlib.suppress(BaseException):
            answer = work()
        os._exit(0 if answer else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_child_is_refused_and_makes_its_own_ring(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=8, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:

        def refused() -> bool:
            for call in calls_of_the_owner(receiver, sender, pair4.to):
                with pytest.raises(WrongThreadError, match="forked"):
                    call()
            receiver.close()
            receiver.close()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
                mine.bind(("127.0.0.1", 0))
                with RecvRing(mine, tier=tier) as own, SendRing(mine, tier=tier) as out:
                    out.send_batch([b"child"], mine.getsockname())
                    return [bytes(packet) for packet in take(own, 1)] == [b"child"]

        assert child_status(refused) == 0
        for number in range(20):
            sender.send_batch([b"%d" % number], pair4.to)
            assert [bytes(packet) for packet in take(receiver, 1)] == [b"%d" % number]


def test_a_child_forked_while_another_thread_waits(tier: str, pair4: Pair) -> None:
    got: list[bytes] = []
    rings: list[RecvRing] = []
    waiting = threading.Event()

    def wait() -> None:
        with RecvRing(pair4.sink, tier=tier) as ring:
            rings.append(ring)
            waiting.set()
            with ring.recv_batch(timeout=BOUND) as batch:
                got.extend(batch.payloads())

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(BOUND)

    def child() -> bool:
        with pytest.raises(WrongThreadError):
            rings[0].recv_batch(timeout=0)
        rings[0].close()
        rings.clear()
        gc.collect()
        return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the test
        assert child_status(child) == 0
    pair4.source.sendto(b"for the parent", pair4.to)
    thread.join(BOUND)
    assert got == [b"for the parent"]


def is_gone(ring: RecvRing | SendRing) -> bool:
    """Whether the core has ended it, not only requested the end."""
    try:
        _ = ring.stats
    except ClosedError:
        return True
    return False


def test_ring_of_ended_thread_may_be_closed(tier: str, pair4: Pair) -> None:
    """The owner has ended, so any thread may close. Two closes at once close it once."""
    for _ in range(5):
        rings: list[RecvRing | SendRing] = []
        in_thread(
            lambda rings=rings: rings.extend(  # type: ignore[misc]
                [RecvRing(pair4.sink, buffers=4, tier=tier), SendRing(pair4.source, tier=tier)]
            )
        )
        # join() returns shortly before the kernel ends the thread. Until then a close is only a request.
        give_up = time.monotonic() + BOUND
        while time.monotonic() < give_up and not all(is_gone(ring) for ring in rings):
            threads = [threading.Thread(target=ring.close) for ring in rings for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert all(is_gone(ring) for ring in rings)
