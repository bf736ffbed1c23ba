"""Who owns the memory of a packet, and for how long. Threads, forks and closing."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpring.errors import ClosedError, WrongThreadError
from udpring.udp import TIERS, Packet, RecvRing, SendRing

from .conftest import BOUND, Pair, take


def test_a_view_outlives_its_batch_and_its_ring(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=8, tier=tier) as ring:
        pair4.source.sendto(b"keep me", pair4.to)
        with ring.recv_batch(timeout=BOUND) as batch:
            view = batch[0].data[0:4]
            packet = batch[0]
        with pytest.raises(ClosedError):
            batch.payloads()
        with pytest.raises(ClosedError):
            batch[0]
        for number in range(100):  # all other buffers are reused many times
            pair4.source.sendto(b"%d" % number * 10, pair4.to)
            assert [bytes(p) for p in take(ring, 1)] == [b"%d" % number * 10]
        assert (bytes(view), bytes(packet)) == (b"keep", b"keep me")
    assert (bytes(view), bytes(packet)) == (b"keep", b"keep me")
    assert packet.address == pair4.seen_source


def test_buffers_come_back_when_the_last_view_dies(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=8, tier=tier, lease_limit=8) as ring:
        pair4.source.sendto(b"abc", pair4.to)
        batch = ring.recv_batch(timeout=BOUND)
        first = batch[0]
        view = first.data[1:]
        assert ring.leased == 1
        batch.release()
        del batch, first
        assert not ring.recv_batch(timeout=0)
        assert ring.leased == 1
        del view
        assert not ring.recv_batch(timeout=0)
        assert ring.leased == 0


def test_views_are_read_only(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        pair4.source.sendto(b"abc", pair4.to)
        (packet,) = take(ring, 1)
        with pytest.raises(TypeError):
            packet.data[0] = 1


def test_keeping_everything_starves_nobody(tier: str, pair4: Pair) -> None:
    """When half of the buffers are kept, packets are copied: the kernel always has the other half."""
    with RecvRing(pair4.sink, buffers=8, tier=tier) as ring:
        kept: list[Packet] = []
        for number in range(200):
            pair4.source.sendto(b"%d" % number, pair4.to)
            kept += take(ring, 1)
            assert ring.leased <= 4
        assert [bytes(packet) for packet in kept] == [b"%d" % number for number in range(200)]
        assert ring.stats["starved"] == 0


def test_a_starved_pool_recovers(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=4, tier=tier, lease_limit=4) as ring:
        for round_ in range(5):
            for number in range(6):
                pair4.source.sendto(b"%d.%d" % (round_, number), pair4.to)
            kept = take(ring, 4)
            assert ring.leased == 4
            assert not ring.recv_batch(timeout=0.02), "no buffer is left to receive into"
            assert ring.stats["starved"] > round_
            assert [bytes(packet) for packet in kept] == [b"%d.%d" % (round_, n) for n in range(4)]
            del kept
            assert [bytes(packet) for packet in take(ring, 2)] == [b"%d.4" % round_, b"%d.5" % round_]


def test_the_last_view_may_die_in_any_thread(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=16, tier=tier, lease_limit=16) as ring:
        for _ in range(30):
            for number in range(8):
                pair4.source.sendto(b"%d" % number, pair4.to)
            packets = take(ring, 8)
            views = [[packet.data] for packet in packets]
            del packets
            threads = [threading.Thread(target=view.clear) for view in views]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        gc.collect()
        assert not ring.recv_batch(timeout=0)
        assert ring.leased == 0


@settings(max_examples=30, deadline=None)
@given(
    tier=st.sampled_from(TIERS),
    steps=st.lists(st.tuples(st.integers(1, 6), st.sets(st.integers(0, 5))), max_size=25),
)
def test_kept_packets_never_change(tier: str, steps: list[tuple[int, set[int]]]) -> None:
    """Kept packets hold their original bytes, in any order of keeping and dropping."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        sink.bind(("127.0.0.1", 0))
        held: dict[bytes, memoryview] = {}
        sent = 0
        with RecvRing(sink, buffers=6, buffer_size=256, tier=tier) as ring:
            for count, drop in steps:
                payloads = [b"%d" % (sent + i) * 20 for i in range(count)]
                sent += count
                for payload in payloads:
                    source.sendto(payload, sink.getsockname())
                packets = take(ring, count)
                assert [bytes(packet) for packet in packets] == payloads
                held |= {payload: packet.data for payload, packet in zip(payloads, packets, strict=True)}
                for place, key in enumerate(list(held)):
                    if place % 6 in drop:
                        del held[key]
                assert all(view == key for key, view in held.items())
        assert all(view == key for key, view in held.items())


def test_closing_twice_is_fine_and_afterwards_nothing_works(tier: str, pair4: Pair) -> None:
    receiver, sender = RecvRing(pair4.sink, tier=tier), SendRing(pair4.source, tier=tier)
    for ring in (receiver, sender):
        assert not ring.closed
        ring.close()
        ring.close()
        assert ring.closed
        assert "closed" in repr(ring)
        with pytest.raises(ClosedError):
            _ = ring.stats
    with pytest.raises(ClosedError):
        receiver.recv_batch(timeout=0)
    with pytest.raises(ClosedError):
        sender.send_batch([b""], pair4.to)
    assert pair4.sink.fileno() >= 0, "the socket is the caller's"


def held_by_the_process() -> tuple[int, int]:
    # The listing opens one descriptor itself, each time the same.
    return len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_text().splitlines())  # noqa: PTH208


def test_opening_and_closing_leaves_nothing(tier: str, pair4: Pair) -> None:
    def round_() -> None:
        with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
            sender.send_batch([b"x"] * 3, pair4.to)
            take(receiver, 3)

    for _ in range(5):
        round_()
    gc.collect()
    descriptors, mappings = held_by_the_process()
    for _ in range(50):
        round_()
    gc.collect()
    after = held_by_the_process()
    assert after[0] == descriptors
    assert after[1] <= mappings + 5  # made by the allocator


def test_closing_with_a_full_pool_in_flight_under_traffic(tier: str, pair4: Pair) -> None:
    stop = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                pair4.source.sendto(b"z" * 500, pair4.to)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(15):
            ring = RecvRing(pair4.sink, buffers=2048, buffer_size=2048, tier=tier)
            batch = ring.recv_batch(timeout=BOUND)
            ring.close()
            assert set(batch.payloads()) == {b"z" * 500}
    finally:
        stop.set()
        thread.join()


def test_another_thread_is_turned_away(tier: str, pair4: Pair) -> None:
    caught: list[BaseException] = []
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:

        def trespass() -> None:
            for call in (
                lambda: receiver.recv_batch(timeout=0),
                lambda: sender.send_batch([b"x"], pair4.to),
            ):
                try:
                    call()
                except Exception as error:
                    caught.append(error)

        thread = threading.Thread(target=trespass)
        thread.start()
        thread.join()
        assert [type(error) for error in caught] == [WrongThreadError] * 2
        sender.send_batch([b"still fine"], pair4.to)
        assert [bytes(packet) for packet in take(receiver, 1)] == [b"still fine"]


def test_closing_from_another_thread_ends_the_wait(tier: str, pair4: Pair) -> None:
    ended: list[bool] = []
    ready = threading.Event()
    rings: list[RecvRing] = []

    def wait() -> None:
        rings.append(RecvRing(pair4.sink, tier=tier))
        ready.set()
        with pytest.raises(ClosedError):
            rings[0].recv_batch()
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    assert ready.wait(BOUND)
    rings[0].close()
    thread.join(BOUND)
    assert ended, "still waiting"
    assert rings[0].closed


def test_a_ring_whose_thread_has_ended_can_be_closed(tier: str, pair4: Pair) -> None:
    rings: list[RecvRing | SendRing] = []

    def make() -> None:
        ring = RecvRing(pair4.sink, buffers=4, tier=tier)
        ring.recv_batch(timeout=0)
        rings.extend([ring, SendRing(pair4.source, tier=tier)])

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    # join() returns shortly before the kernel ends the thread.
    give_up = time.monotonic() + BOUND
    for ring in rings:
        while time.monotonic() < give_up:
            with contextlib.suppress(WrongThreadError):
                ring.close()
                break
        assert ring.closed


def test_a_forgotten_ring_warns_and_is_closed(tier: str, pair4: Pair) -> None:
    for make in (lambda: RecvRing(pair4.sink, tier=tier), lambda: SendRing(pair4.source, tier=tier)):
        ring = make()
        gone = weakref.ref(ring)
        with pytest.warns(ResourceWarning, match="unclosed"):
            del ring
        assert gone() is None


def in_child(work: Callable[[], bool]) -> bool:
    """Whether ``work`` returned true in a forked child. A child killed by a signal returns false."""
    child = os.fork()
    if not child:
        answer = False
        with contextlib.suppress(BaseException):
            answer = work()
        os._exit(0 if answer else 1)
    return os.waitpid(child, 0)[1] == 0


def test_forked_child_cannot_use_the_ring(tier: str, pair4: Pair) -> None:
    """The parent continues."""
    with RecvRing(pair4.sink, buffers=16, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        sender.send_batch([b"before"], pair4.to)
        (packet,) = take(receiver, 1)

        def child() -> bool:
            for call in (
                lambda: receiver.recv_batch(timeout=0),
                lambda: sender.send_batch([b"from the child"], pair4.to),
            ):
                try:
                    call()
                except WrongThreadError:
                    continue
                return False
            fine = bytes(packet) == b"before"
            receiver.close()
            sender.close()
            return fine and receiver.closed and sender.closed

        assert in_child(child)
        assert bytes(packet) == b"before"
        for number in range(50):
            sender.send_batch([b"%d" % number], pair4.to)
            assert [bytes(p) for p in take(receiver, 1)] == [b"%d" % number]
