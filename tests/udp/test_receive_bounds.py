"""The bounds of a ring (leases, copies, the completion queue) and their errors."""

from __future__ import annotations

import errno
import gc
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from udpring.errors import RingError
from udpring.udp import Batch, RecvRing

from .conftest import BOUND, Pair, send_train, take
from .test_lifetime_machine import datagram, number_of


def test_keeping_all_packets_is_refused_without_loss(tier: str, pair4: Pair) -> None:
    limit = 200_000
    with RecvRing(pair4.sink, buffers=4, tier=tier, copy_limit=limit) as ring:
        kept: list[Batch] = []
        sent = 0

        def keep_all() -> None:
            nonlocal sent
            while sent < 10_000:
                pair4.source.sendto(datagram(sent, 1000), pair4.to)
                sent += 1
                kept.append(ring.recv_batch(timeout=BOUND))

        with pytest.raises(RingError, match="Release batches") as caught:
            keep_all()
        assert caught.value.errno == errno.ENOBUFS
        stats = ring.stats
        assert stats["leased"] == stats["lease_limit"] == 2
        assert limit <= stats["copies"] < limit + 2000
        assert stats["copied"] == sent - 1 - 2
        with pytest.raises(RingError, match="Release batches"):
            ring.recv_batch(timeout=0)
        assert [number_of(batch[0].data) for batch in kept] == list(range(sent - 1))
        kept.clear()
        assert [number_of(packet.data) for packet in take(ring, 1)] == [sent - 1]
        assert ring.stats["copies"] == 0


def test_copy_limit_leaves_leases_usable(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=8, tier=tier, copy_limit=1) as ring:
        payload = b"".join(datagram(number, 100) for number in range(30))
        for _ in range(6):
            send_train(pair4.source, pair4.to, payload, 100)
        kept = [
            ring.recv_batch(120, timeout=BOUND) for _ in range(2)
        ]  # four trains and two; the second batch is copied
        assert [len(batch) for batch in kept] == [120, 60]
        assert ring.stats["copied"] == 60
        kept[0].release()
        for _ in range(6):
            send_train(pair4.source, pair4.to, payload, 100)
        kept.append(ring.recv_batch(timeout=BOUND))
        assert len(kept[2]) == 120
        with pytest.raises(RingError, match="Release batches"):
            ring.recv_batch(timeout=0)
        kept.clear()
        assert [number_of(packet.data) for packet in take(ring, 60)] == list(range(30)) * 2


def test_what_is_starved_is_counted(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=2, tier=tier, lease_limit=2) as ring:
        for number in range(4):
            pair4.source.sendto(datagram(number, 8), pair4.to)
        kept = take(ring, 2)
        assert not ring.recv_batch(timeout=0.02)
        assert ring.stats["starved"] > 0
        assert (ring.leased, ring.stats["lease_limit"]) == (2, 2)
        del kept
        assert [number_of(packet.data) for packet in take(ring, 2)] == [2, 3]


@pytest.mark.parametrize("entries", [1, 8, 100, 65536])
def test_a_completion_queue_of_any_size_loses_nothing(tier: str, pair4: Pair, entries: int) -> None:
    pair4.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with RecvRing(pair4.sink, buffers=16, tier=tier, cq_entries=entries) as ring:
        sent = 0
        numbers: list[int] = []
        for burst in (1, 8, 9, 40, 200, 3):
            for _ in range(burst):
                pair4.source.sendto(datagram(sent, 20 + sent % 50), pair4.to)
                sent += 1
            send_train(pair4.source, pair4.to, b"".join(datagram(sent + i, 60) for i in range(20)), 60)
            sent += 20
            while len(numbers) < sent:
                batch = ring.recv_batch(7, timeout=BOUND)
                assert batch, "lost"
                numbers += [number_of(view) for view in batch.views()]
        assert numbers == list(range(sent))


def test_flood_into_tiny_cq_is_received_or_counted(tier: str, pair4: Pair) -> None:
    pair4.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    with RecvRing(pair4.sink, buffers=16, tier=tier, cq_entries=1) as ring:
        sent, numbers = 0, []
        for _ in range(60):
            for _ in range(30):
                pair4.source.sendto(datagram(sent, 300), pair4.to)
                sent += 1
            numbers += [number_of(view) for view in ring.recv_batch(5, timeout=0).views()]
        while batch := ring.recv_batch(timeout=0.05):
            numbers += [number_of(view) for view in batch.views()]
        pair4.source.sendto(datagram(sent, 300), pair4.to)  # carries the count of drops
        numbers += [number_of(packet.data) for packet in take(ring, 1)]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + ring.stats["kernel_drops"] == sent + 1


@pytest.mark.parametrize("name", ["copy_limit", "cq_entries", "lease_limit"])
def test_bounds_out_of_range_are_refused(tier: str, pair4: Pair, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RecvRing(pair4.sink, tier=tier, **{name: -1})
    with pytest.raises(RingError, match="completion queue"):
        RecvRing(pair4.sink, tier=tier, cq_entries=65537)


def test_a_handler_that_raises_leaves_no_buffer_behind(tier: str, pair4: Pair) -> None:
    """A signal may come at any moment. It costs at most the batch that is being returned."""

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with RecvRing(pair4.sink, buffers=8, tier=tier) as ring:
            for round_ in range(300):
                give_up = time.monotonic() + BOUND
                pair4.source.sendto(datagram(round_, 100), pair4.to)
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + round_ % 60))
                    while time.monotonic() < give_up:
                        ring.recv_batch(timeout=0.001)
                except Interrupted:
                    continue
                pytest.fail("no signal came")
            gc.collect()
            while ring.recv_batch(timeout=0):
                pass
            assert not ring.recv_batch(timeout=0)
            assert ring.leased == 0
            pair4.source.sendto(datagram(7, 100), pair4.to)
            assert [number_of(packet.data) for packet in take(ring, 1)] == [7]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_handler_may_not_receive_recursively(tier: str, pair4: Pair) -> None:
    caught: list[BaseException] = []
    with RecvRing(pair4.sink, tier=tier) as ring:

        def handler(*_: object) -> None:
            try:
                ring.recv_batch(timeout=0)
            except RuntimeError as error:
                caught.append(error)
            else:  # the signal came before the call that it should interrupt
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                return
            pair4.source.sendto(datagram(1, 10), pair4.to)

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert [number_of(packet.data) for packet in take(ring, 1)] == [1]
        finally:
            signal.signal(signal.SIGALRM, before)
    assert "signal handler" in str(caught[0])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connected_socket_receives_only_from_its_peer(
    tier: str, make_socket: Callable[..., socket.socket], family: int
) -> None:
    peer, stranger, sink = make_socket(family), make_socket(family), make_socket(family)
    sink.connect(peer.getsockname())
    with RecvRing(sink, tier=tier) as ring:
        for number in range(0, 20, 2):
            stranger.sendto(datagram(99, 20), sink.getsockname())
            peer.sendto(datagram(number, 20), sink.getsockname())
            send_train(peer, sink.getsockname(), datagram(number + 1, 20), 20)
        packets = take(ring, 20)
        assert [number_of(packet.data) for packet in packets] == list(range(20))
        assert {packet.address for packet in packets} == {peer.getsockname()}


def test_stats_may_be_read_while_another_thread_receives(tier: str, pair4: Pair) -> None:
    done = threading.Event()
    with RecvRing(pair4.sink, buffers=8, tier=tier) as ring:
        counts: list[int] = []

        def read() -> None:
            while not done.is_set():
                counts.append(ring.stats["packets"])
                assert 0 <= ring.leased <= 4

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for number in range(300):
                pair4.source.sendto(datagram(number, 30), pair4.to)
                assert [number_of(packet.data) for packet in take(ring, 1)] == [number]
        finally:
            done.set()
            thread.join()
        assert counts == sorted(counts)
        assert ring.stats["packets"] == 300
