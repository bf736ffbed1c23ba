"""The queues of the interface's packets (tunnel/tun/flow_queue.c): turns of flows, CoDel, ECN."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st
from reference.flow_queue import INTERVAL, TARGET, FlowQueue, Queued

MS = 10**6
MOST = 64
ECT_0, CE = 2, 3
TCP, UDP, ICMP = 6, 17, 1
BULK = 60_000


def ones_complement(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packet(
    port: int, length: int = 100, name: int = 0, *, ecn: int = 0, protocol: int = TCP, v6: bool = False
) -> bytes:
    """An IP packet of the flow `port`, with a valid header checksum."""
    transport = struct.pack("!HHI", port, 80, name)
    if v6:
        header = struct.pack("!IHBB", 6 << 28 | ecn << 20, length - 40, protocol, 64) + bytes(16) + b"\1" * 16
        return (header + transport).ljust(length, b"\0")
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, ecn, length, 7, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
    )
    header = header[:10] + struct.pack("!H", 0xFFFF ^ ones_complement(header)) + header[12:]
    return (header + transport).ljust(length, b"\0")


class Queue:
    """The code under test."""

    def __init__(self) -> None:
        self.queue = ffi.gc(lib.udpring_flow_queue_new(), lib.flow_queue_close)
        self.out = ffi.new("uint8_t[65536]")

    def put(self, data: bytes, now: int = 0, *, way: int = 0) -> int:
        return int(lib.udpring_flow_put(self.queue, way, data, len(data), now))

    def take(self, now: int = 0, *, ways: int = 3) -> bytes | None:
        length = lib.udpring_flow_take(self.queue, ways, now, self.out)
        assert length >= 0
        return bytes(ffi.buffer(self.out, length)) if length else None

    def rest(self, now: int = 0) -> Iterator[bytes]:
        while (data := self.take(now)) is not None:
            yield data

    @property
    def state(self) -> tuple[int, int, int, int]:
        found = lib.udpring_flow_state(self.queue)
        return found.packets, found.bytes, found.dropped, found.marked


def port_of(data: bytes) -> int:
    return int.from_bytes(data[20:22], "big")


def name_of(data: bytes) -> int:
    return int.from_bytes(data[24:28], "big")


@pytest.fixture
def queue() -> Queue:
    return Queue()


def two_ports(queue: Queue) -> tuple[int, int]:
    """Of flows that do not share a queue."""
    numbers = {queue.put(packet(port)): port for port in range(1, 30)}
    assert len(list(queue.rest())) == 29
    assert len(numbers) > 1
    first, second, *_ = numbers.values()
    return first, second


def test_lone_packet_passes_a_bulk_transfer(queue: Queue) -> None:
    bulk, lone = two_ports(queue)
    for _ in range(10):
        queue.put(packet(bulk, BULK))
    assert port_of(queue.take() or b"") == bulk
    queue.put(packet(lone))
    assert port_of(queue.take() or b"") == lone


def test_packets_of_a_flow_stay_in_order(queue: Queue) -> None:
    sizes = [BULK, 100, 1400, BULK, 40] * 8
    for name, size in enumerate(sizes):
        queue.put(packet(name % 3, size, name))
    taken = [(port_of(data), name_of(data)) for data in queue.rest()]
    for port in range(3):
        assert [name for of, name in taken if of == port] == [n for n in range(len(sizes)) if n % 3 == port]


def test_bulk_transfers_share_by_bytes(queue: Queue) -> None:
    large, small = two_ports(queue)
    for _ in range(16):
        queue.put(packet(large, 48_000))
        queue.put(packet(small, 16_000))
    sent = {large: 0, small: 0}
    for _ in range(16):
        data = queue.take()
        assert data
        sent[port_of(data)] += len(data)
    assert abs(sent[large] - sent[small]) <= 64_000


def test_flow_that_stops_and_starts_is_not_always_first(queue: Queue) -> None:
    """An empty new flow becomes an old one first (RFC 8290 4.2)."""
    bulk, restless = two_ports(queue)
    for _ in range(20):
        queue.put(packet(bulk, BULK))
    assert port_of(queue.take() or b"") == bulk
    seen = []
    for _ in range(20):
        queue.put(packet(restless, 12_000))
        seen.append(port_of(queue.take() or b""))
    assert seen.count(bulk) >= 3


def test_empty_queue_forgets_turns(queue: Queue) -> None:
    bulk, other = two_ports(queue)
    queue.put(packet(bulk, BULK))
    assert len(list(queue.rest())) == 1  # more than its turn
    queue.put(packet(bulk))
    queue.put(packet(other))
    assert [port_of(data) for data in queue.rest()] == [bulk, other]


def test_blocked_way_holds_up_no_other(queue: Queue) -> None:
    for name in range(10):
        queue.put(packet(1, BULK, name), way=0)
        queue.put(packet(1, BULK, 100 + name), way=1)
    assert [name_of(queue.take(ways=2) or b"") for _ in range(10)] == list(range(100, 110))
    assert queue.take(ways=2) is None
    assert [name_of(data) for data in queue.rest()] == list(range(10))


def test_ways_take_turns(queue: Queue) -> None:
    for name in range(10):
        queue.put(packet(1, BULK, name), way=name % 2)
    seen = [name_of(queue.take() or b"") % 2 for _ in range(6)]
    assert seen.count(0) == seen.count(1) == 3


def test_full_queue_takes_no_more_and_loses_nothing(queue: Queue) -> None:
    for name in range(MOST):
        assert queue.put(packet(1, 1400, name)) >= 0
    assert queue.put(packet(2)) < 0
    assert queue.state == (MOST, MOST * 1400, 0, 0)
    assert [name_of(data) for data in queue.rest()] == list(range(MOST))
    assert queue.state == (0, 0, 0, 0)


def test_burst_is_neither_dropped_nor_marked(queue: Queue) -> None:
    """A wait above the target for less than an interval."""
    for name in range(MOST):
        queue.put(packet(1, 1400, name, ecn=name % 4))
    now = TARGET
    while queue.take(now):
        now += (INTERVAL - MS) // MOST
    assert queue.state == (0, 0, 0, 0)


def standing(queue: Queue, ecn: int) -> tuple[int, int]:
    """Keeps a queue of 30 packets, each of which waits for 30 ms. Returns how many were dropped and how
    many marked."""
    for step in range(1000):
        now = step * MS
        queue.put(packet(1, 1400, step, ecn=ecn), now)
        if step >= 30:
            data = queue.take(now)
            if data:
                assert ones_complement(data[:20]) == 0xFFFF
                assert data[1] in (ecn, CE if ecn else 0)
    return queue.state[2:]


def test_standing_queue_is_dropped_from(queue: Queue) -> None:
    dropped, marked = standing(queue, 0)
    assert dropped > 3
    assert marked == 0


@pytest.mark.parametrize("ecn", [1, ECT_0, CE])
def test_sender_with_ecn_is_marked_instead(queue: Queue, ecn: int) -> None:
    dropped, marked = standing(queue, ecn)
    assert dropped == 0
    assert marked > 3


@pytest.mark.parametrize("v6", [False, True])
def test_ports_tell_flows_apart(queue: Queue, v6: bool) -> None:
    numbers = [queue.put(packet(port, v6=v6, protocol=UDP)) for port in range(40)]
    assert len(set(numbers)) > 20
    list(queue.rest())
    assert [queue.put(packet(port, v6=v6, protocol=UDP, name=9)) for port in range(40)] == numbers


def test_fragments_of_a_datagram_share_a_queue(queue: Queue) -> None:
    first, later = bytearray(packet(5, protocol=UDP)), bytearray(packet(777, protocol=UDP))
    first[6:8], later[6:8] = b"\x20\x00", b"\x00\xb9"
    assert queue.put(bytes(first)) == queue.put(bytes(later))


@given(st.binary(min_size=1, max_size=100), st.integers(0, 255))
def test_any_bytes_are_queued(data: bytes, first: int) -> None:
    queue = Queue()
    data = bytes([first]) + data
    assert queue.put(data) >= 0
    assert queue.take() == data


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "take"]),
        st.integers(0, 4),
        st.sampled_from([60, 1400, 20_000, BULK]),
        st.booleans(),
        st.sampled_from([0, MS // 10, MS, 7 * MS, 40 * MS]),
    ),
    max_size=300,
)


@given(STEPS, st.integers(0, 60))
def test_it_agrees_with_the_pseudocode_of_the_rfcs(
    steps: list[tuple[str, int, int, bool, int]], backlog: int
) -> None:
    queue, reference = Queue(), FlowQueue()
    now = INTERVAL
    steps = [("put", i % 3, 1400, i % 3 == 1, 0) for i in range(backlog)] + steps
    for name, (what, port, size, ecn, after) in enumerate(steps):
        now += after
        if what == "put":
            number = queue.put(packet(port, size, name, ecn=ECT_0 if ecn else 0), now)
            if number >= 0:
                reference.put(number, Queued(name, size, now, ecn))
            continue
        taken, expected = queue.take(now), reference.take(now)
        if taken is None:
            assert expected is None
        else:
            assert expected
            assert (name_of(taken), taken[1] == CE) == (expected.name, expected.marked)
        assert queue.state[2] == len(reference.dropped)
