"""Garbage collection in any order: rings, batches, packets, views, and cycles of all of them."""

from __future__ import annotations

import gc
import random
import socket
import threading
import warnings
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpring.udp import TIERS, RecvRing, SendRing

from .conftest import BOUND, Pair, take


@pytest.fixture(autouse=True)
def _rings_may_be_forgotten() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@pytest.fixture(autouse=True, scope="module")
def _only_ours_is_collected() -> Iterator[None]:
    """Freezes the objects of pytest and earlier tests. Scanning them each time could take a minute."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Node:
    """An object to build a cycle with."""

    def __init__(self, *held: object) -> None:
        self.held: list[object] = [*held, self]


@settings(max_examples=60, deadline=None)
@given(
    tier=st.sampled_from(TIERS),
    order=st.permutations(["rx", "tx", "batch", "packet", "view", "slice", "addresses", "sockets", "batch2"]),
    collect=st.sets(st.integers(0, 8)),
    close_first=st.booleans(),
    cyclic=st.sets(st.integers(0, 8)),
)
def test_any_order_of_dying_leaves_the_living_whole(
    tier: str, order: list[str], collect: set[int], close_first: bool, cyclic: set[int]
) -> None:
    source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    sink.bind(("127.0.0.1", 0))
    alive: dict[str, object] = {}
    rx, tx = RecvRing(sink, buffers=4, buffer_size=2048, tier=tier), SendRing(source, tier=tier)
    to = sink.getsockname()
    assert tx.send_batch([b"0123456789"] * 2, to).accepted == 2
    batch = rx.recv_batch(max_packets=1, timeout=BOUND)
    second = rx.recv_batch(max_packets=1, timeout=BOUND)
    packet = batch[0]
    alive |= {"rx": rx, "tx": tx, "batch": batch, "packet": packet, "view": packet.data}
    alive |= {"slice": packet.data[3:7], "addresses": batch.addresses, "batch2": second}
    alive["sockets"] = [source, sink]
    if close_first:
        rx.close()
    del rx, tx, batch, second, packet, source, sink
    for step, name in enumerate(order):
        dying = alive.pop(name)
        if name == "sockets":
            for sock in dying:  # type: ignore[attr-defined]
                sock.close()
        if step in cyclic:
            Node(dying)
        del dying
        if step in collect:
            gc.collect()
        if "view" in alive:
            assert bytes(alive["view"]) == b"0123456789"  # type: ignore[call-overload]
        if "slice" in alive:
            assert bytes(alive["slice"]) == b"3456"  # type: ignore[call-overload]
        if "packet" in alive:
            assert bytes(alive["packet"].data) == b"0123456789"  # type: ignore[attr-defined]
        if "addresses" in alive:
            assert len(alive["addresses"]) == 1  # type: ignore[arg-type]
        if "batch2" in alive:
            assert alive["batch2"].payloads() == [b"0123456789"]  # type: ignore[attr-defined]
    gc.collect()


def test_a_cycle_through_a_ring_is_collected(tier: str, pair4: Pair) -> None:
    rx, tx = RecvRing(pair4.sink, buffers=4, tier=tier), SendRing(pair4.source, tier=tier)
    tx.send_batch([b"x"], pair4.to)
    node = Node(rx, tx, rx.recv_batch(timeout=BOUND), rx.recv_batch)
    gone = [weakref.ref(node), weakref.ref(rx), weakref.ref(tx)]
    del rx, tx, node
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def test_views_collected_in_a_cycle_give_their_buffers_back(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, buffers=8, tier=tier, lease_limit=8) as ring:
        for _ in range(5):
            for number in range(4):
                pair4.source.sendto(b"%d" % number, pair4.to)
            packets = take(ring, 4)
            Node(packets, [packet.data for packet in packets], ring)
            del packets
            assert gc.collect() > 0
            assert not ring.recv_batch(timeout=0)
            assert ring.leased == 0


def test_collector_may_run_in_any_thread(tier: str, pair4: Pair) -> None:
    """The collector runs a destructor in any thread. The destructor only pushes the buffers onto a list."""
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            gc.collect()

    threads = [threading.Thread(target=collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    chooser = random.Random(4)
    try:
        with RecvRing(pair4.sink, buffers=16, tier=tier, lease_limit=8) as ring:
            for round_ in range(150):
                payloads = [b"%d.%d" % (round_, number) * 9 for number in range(chooser.randint(1, 6))]
                for payload in payloads:
                    pair4.source.sendto(payload, pair4.to)
                packets = take(ring, len(payloads))
                assert [bytes(packet) for packet in packets] == payloads
                Node([packet.data for packet in packets], packets)
                del packets
            stop.set()
            for thread in threads:
                thread.join()
            gc.collect()
            assert not ring.recv_batch(timeout=0)
            assert ring.leased == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
